"""The registry that gives trees to Ostraca, and all else to Orbax's own handlers."""

from __future__ import annotations

from typing import Any

import orbax.checkpoint as ocp

from ..errors import MismatchError
from . import stock
from .arguments import TREES
from .handler import Handler


def registry(*items: str, **options: Any) -> ocp.handlers.DefaultCheckpointHandlerRegistry:
    """For `ocp.CheckpointManager(handler_registry=...)`: trees go to Ostraca, all else (JSON, metrics) where it went.

    An item may be anything that Orbax has a handler for; from its first save on it keeps its kind (`MismatchError`).
    Arguments of your own have to be registered with their handler before. One registry may serve several managers, and
    take further entries: those of an item go before these.

    items: names of items that `metadata(step)` is to know before one of them was saved or restored; with several items
    Orbax needs that of any handler. options: as of `Handler`.
    """
    kinds = _Kinds()
    trees = kinds.adopted(Handler(**options))
    result = ocp.handlers.DefaultCheckpointHandlerRegistry()
    for item in (None, "default", *items):
        for args in TREES:
            result.add(item, args, trees)
    others: dict[type[Any], Any] = {}
    for args in stock.registered():
        kind = stock.handler_class(args)
        if args in TREES or kind is Handler:
            continue
        if kind not in others:
            others[kind] = _made(kind)
        if others[kind] is not None:
            result.add(None, args, kinds.adopted(others[kind]))
    return result


def _made(kind: type[Any]) -> Any:
    """A handler; None where Orbax could not make one either."""
    try:
        return kind()
    except TypeError:
        return None


class _Kinds:
    """Which handler serves each item of each run.

    Orbax's composite handler lists all handlers of an item, finalizes with the first of them, and writes the name of
    the last one beside the item. Here the first save decides, and the handler that saved finalizes.
    """

    def __init__(self) -> None:
        self._adopted: dict[Any, Any] = {}  # handler -> its own finalize
        self._of: dict[tuple[str, str], Any] = {}  # (run, item) -> handler

    def adopted(self, handler: Any) -> Any:
        """The handler, which from now on asks before it saves."""
        if handler in self._adopted:
            return handler
        self._adopted[handler] = handler.finalize
        name = "async_save" if isinstance(handler, ocp.AsyncCheckpointHandler) else "save"
        save, restore = getattr(handler, name), handler.restore

        def checked_save(directory: Any, *values: Any, **named: Any) -> Any:
            self._claim(directory, handler)
            return save(directory, *values, **named)

        def noted_restore(directory: Any, *values: Any, **named: Any) -> Any:
            self._of.setdefault(_place(directory), handler)
            return restore(directory, *values, **named)

        setattr(handler, name, checked_save)
        handler.finalize = self._finalize
        if not isinstance(handler, Handler):  # which restores what others saved, too
            handler.restore = noted_restore
        return handler

    def _claim(self, directory: Any, handler: Any) -> None:
        run, item = _place(directory)
        first = self._of.setdefault((run, item), handler)
        if first is not handler:
            raise MismatchError(
                f"item {item!r} of {run!r}: expected something for {first.typestr()}, as before, found something for"
                f" {handler.typestr()}; an item keeps its kind: save this one under another name"
            )

    def _finalize(self, directory: Any) -> None:
        self._adopted[self._of[_place(directory)]](directory)


def _place(directory: Any) -> tuple[str, str]:
    """The run and the item of an item's directory, temporary or not."""
    return str(directory.parent.parent), directory.name.partition(ocp.utils.TMP_DIR_SUFFIX)[0]
