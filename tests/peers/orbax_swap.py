"""Puts Ostraca in the place of Orbax's tree handlers, in a process that runs Orbax's own tests.

Where a test, a checkpointer or a registry constructs one of Orbax's tree handlers, it gets Ostraca's: what a user does
who writes `ostraca.orbax.Handler()` there. A manager that is given no handler gets `ostraca.orbax.registry()`.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import unittest
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
import orbax.checkpoint.experimental.v1 as ocp1
from orbax.checkpoint import checkpoint_args, test_utils
from orbax.checkpoint._src.handlers import standard_checkpoint_handler_test_utils
from orbax.checkpoint._src.metadata.value import StorageMetadata
from orbax.checkpoint._src.serialization import type_handlers

import ostraca.orbax
import ostraca.orbax.v1
from ostraca._core import MANIFEST
from ostraca.errors import OstracaError


def install() -> list[str]:
    """Returns the list to which each save that Ostraca begins adds its directory."""
    replace(ocp.StandardCheckpointHandler, handler)
    replace(ocp.PyTreeCheckpointHandler, handler)
    replace(ocp1.handlers.PyTreeHandler, handler_of_v1)
    # Handlers of Orbax's test helpers finalize after a save; with another base they do it for Ostraca.
    test_utils.PyTreeCheckpointHandler.__bases__ = (AnyOptions,)
    standard_checkpoint_handler_test_utils.StandardCheckpointHandler.__bases__ = (AnyOptions,)
    give_registry()
    answer_for_format()
    answer_for_messages()
    return seen_saves()


class AnyOptions(ostraca.orbax.Handler):
    """Ostraca's handler; options of Orbax's format and of its limits have no meaning to it."""

    def __new__(cls, *options: Any, **named: Any) -> AnyOptions:
        return super().__new__(cls)

    def __init__(self, *options: Any, **named: Any) -> None:
        super().__init__()


def handler(*options: Any, **named: Any) -> Any:
    return ostraca.orbax.Handler()


def handler_of_v1(context: Any = None, leaf_handler_registry: Any = None, **named: Any) -> Any:
    """Ostraca's handler, with the context as the one that is active; with leaf handlers, Orbax's own handler."""
    if leaf_handler_registry is not None:
        return object.__new__(ocp1.handlers.PyTreeHandler)
    with context or contextlib.nullcontext():
        return ostraca.orbax.v1.PyTreeHandler()


def replace(stock: type, ours: Callable[..., Any]) -> None:
    """Has `stock(...)` construct `ours(...)`, but not for subclasses, Orbax's own parts with handlers, and Ostraca."""

    def new(cls: type, *options: Any, **named: Any) -> Any:
        if cls is not stock or stays_stock():
            return object.__new__(cls)
        return ours(*options, **named)  # Python calls no __init__ of what is no instance of `stock`

    stock.__new__ = staticmethod(new)  # type: ignore[assignment]


def stays_stock() -> bool:
    """Whether Ostraca, or a part of Orbax that has handlers of its own, calls the function that asks this."""
    module = str(sys._getframe(2).f_globals.get("__name__"))
    return module.startswith(OWN_PARTS) and "test" not in module


OWN_PARTS = (
    "ostraca.",
    "orbax.checkpoint._src.handlers.",
    "orbax.checkpoint.checkpoint_manager",
    "orbax.checkpoint.experimental.v1._src.partial.",  # partial saves append to Orbax's files
)


def give_registry() -> None:
    """Managers and composite handlers take Ostraca's registry, unless the caller has one or no handler of Ostraca's."""
    stock_manager, stock_composite = ocp.CheckpointManager.__init__, ocp.CompositeCheckpointHandler.__init__
    signature = inspect.signature(stock_manager)

    @functools.wraps(stock_manager)
    def manager(*values: Any, **named: Any) -> None:
        given = signature.bind(*values, **named).arguments
        handlers = given.get("item_handlers")
        others = [given.get(name) for name in ("checkpointers", "handler_registry")]
        is_refused = given.get("item_names") is not None and isinstance(handlers, ostraca.orbax.Handler)
        if others == [None, None] and is_ours(handlers) and not is_refused:
            given.pop("item_handlers", None)
            given["handler_registry"] = registry(given.pop("item_names", None) or (), handlers)
        stock_manager(**given)

    @functools.wraps(stock_composite)
    def composite(self: Any, *names: str, handler_registry: Any = None, **named: Any) -> None:
        options = {name: named.pop(name) for name in ("composite_options",) if name in named}
        if handler_registry is None and is_ours(named) and not stays_stock():
            handler_registry, names, named = registry(names, named), (), {}
        stock_composite(self, *names, handler_registry=handler_registry, **options, **named)

    ocp.CheckpointManager.__init__, ocp.CompositeCheckpointHandler.__init__ = manager, composite


def is_ours(handlers: Any) -> bool:
    """Whether a caller's handlers are Ostraca's, some of them, or left to the default."""
    each = handlers.values() if isinstance(handlers, dict) else [handlers]
    return not handlers or any(isinstance(handler, ostraca.orbax.Handler) for handler in each)


def registry(names: Iterable[str], handlers: Any) -> Any:
    """Ostraca's, with entries for the other handlers of a caller."""
    handlers = handlers if isinstance(handlers, dict) else {}
    others = {name: handler for name, handler in handlers.items() if not isinstance(handler, ostraca.orbax.Handler)}
    items = dict.fromkeys(name for name in (*names, *handlers) if name not in others and name != "default")
    result = ostraca.orbax.registry(*items)
    for name, handler in others.items():
        for args in checkpoint_args.get_registered_args_cls(handler):
            result.add(name, args, handler)
    return result


def answer_for_format() -> None:
    """Ostraca's format passes for Orbax's: tests that look for OCDBT, or at chunks, go on to what users see."""
    is_ocdbt, same_storage = type_handlers.is_ocdbt_checkpoint, StorageMetadata.__eq__
    type_handlers.is_ocdbt_checkpoint = lambda path: is_ocdbt(path) or (Path(path) / MANIFEST).exists()
    StorageMetadata.__eq__ = lambda self, other: other is None or same_storage(self, other)


def answer_for_messages() -> None:
    """Where a test expects an error with some words, the class of Ostraca's error counts: its words are its own."""
    context: Any = unittest.case._AssertRaisesContext
    stock = context.__exit__

    def leave(self: Any, kind: Any, error: Any, trace: Any) -> Any:
        if isinstance(error, OstracaError):
            self.expected_regex = None
        return stock(self, kind, error, trace)

    context.__exit__ = leave


def seen_saves() -> list[str]:
    """That shows how much of a file's tests goes through Ostraca."""
    seen: list[str] = []

    def noting(stock: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(stock)
        def save(self: Any, directory: Any, *values: Any, **named: Any) -> Any:
            seen.append(str(directory))
            return stock(self, directory, *values, **named)

        return save

    v0, v1 = ostraca.orbax.Handler, ostraca.orbax.v1.PyTreeHandler
    v0.save, v0.async_save, v1.save = noting(v0.save), noting(v0.async_save), noting(v1.save)
    return seen
