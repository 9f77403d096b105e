"""The registry that gives trees to Ostraca, and all else to Orbax's own handlers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import orbax.checkpoint as ocp

from ..errors import MismatchError
from . import stock
from .arguments import TREES, asks_nothing
from .handler import Handler


def registry(*items: str, **options: Any) -> ocp.handlers.DefaultCheckpointHandlerRegistry:
    """For `ocp.CheckpointManager(handler_registry=...)`: trees go to Ostraca, all else (JSON, metrics) where it went.

    An item may be anything that Orbax has a handler for; from its first save on it keeps its kind (`MismatchError`).
    Arguments of your own have to be registered with their handler before. One registry may serve several managers, and
    take further entries: those of an item go before these.

    items: names of items that `metadata(step)` is to know before one of them was saved or restored; with several items
    Orbax needs that of any handler. options: as of `Handler`.
    """
    Handler(**options)  # raises for what is no option
    served = _Items()
    trees = served.stand_in(Handler, partial(Handler, **options))
    result = ocp.handlers.DefaultCheckpointHandlerRegistry()
    for item in (None, "default", *items):
        for args in TREES:
            result.add(item, args, trees)
    others: dict[type[Any], Any] = {Handler: trees}
    for args in stock.registered():
        if args not in TREES:
            kind = stock.handler_class(args)
            others.setdefault(kind, served.stand_in(kind, kind))
            result.add(None, args, others[kind])
    return result


class _Items:
    """Which handler serves each item of each run.

    Orbax's composite handler lists all handlers of an item, finalizes with the first of them, and writes the name of
    the last one beside the item. Here the first save decides, and the handler that saved finalizes.
    """

    def __init__(self) -> None:
        self._served: dict[tuple[str, str], tuple[Any, Any]] = {}  # (run, item) -> stand-in, handler

    def stand_in(self, kind: type[Any], make: Callable[[], Any]) -> Any:
        """A handler as far as Orbax can see: its class tells the arguments, and the name to write beside an item.

        Handlers may keep state from a save to its end, so that there is one for each item, made when it is used.
        """
        shown = object.__new__(kind)
        method = "async_save" if issubclass(kind, ocp.AsyncCheckpointHandler) else "save"

        def save(directory: Any, *values: Any, **named: Any) -> Any:
            handler = self._handler(directory, shown, make, claim=True)
            return getattr(handler, method)(directory, *values, **named)

        def restore(directory: Any, *values: Any, **named: Any) -> Any:
            if asks_nothing(named.get("args")):  # Orbax asks the first handler that it knows for the item
                _, saved_by = self._served.get(_place(directory), (shown, None))
                return stock.as_saved(saved_by or make(), directory)
            handler = self._handler(directory, shown, make, claim=kind is not Handler)
            return handler.restore(directory, *values, **named)

        def metadata(directory: Any) -> Any:
            return self._handler(directory, shown, make, claim=False).metadata(directory)

        def close() -> None:
            for each, handler in self._served.values():
                if each is shown:
                    handler.close()

        setattr(shown, method, save)
        shown.restore, shown.metadata, shown.finalize, shown.close = restore, metadata, self._finalize, close
        return shown

    def _handler(self, directory: Any, shown: Any, make: Callable[[], Any], *, claim: bool) -> Any:
        run, item = place = _place(directory)
        if place not in self._served:
            handler = make()
            if claim:
                self._served[place] = shown, handler
            return handler
        first, handler = self._served[place]
        if first is not shown:
            raise MismatchError(
                f"item {item!r} of {run!r}: expected something for {first.typestr()}, as before, found something for"
                f" {shown.typestr()}; an item keeps its kind: save this one under another name"
            )
        return handler

    def _finalize(self, directory: Any) -> None:
        _, handler = self._served[_place(directory)]
        handler.finalize(directory)


def _place(directory: Any) -> tuple[str, str]:
    """The run and the item of an item's directory, temporary or not."""
    return str(directory.parent.parent), directory.name.partition(ocp.utils.TMP_DIR_SUFFIX)[0]
