"""What Orbax's own handlers wrote, and which these are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from ..errors import FormatError, NotFoundError
from .arguments import TREES, Restore, asks_nothing


def registered() -> Iterator[type[Any]]:
    """The classes of arguments for which Orbax, or the program, has registered a handler."""
    classes = [ocp.args.CheckpointArgs]
    while classes:
        below = classes.pop().__subclasses__()
        classes += below
        yield from (args for args in below if _handler_class(args) is not None)


def handler_class(args: type[Any]) -> type[Any]:
    """That of registered arguments."""
    found = _handler_class(args)
    assert found is not None
    return found


def restore(path: Path, directory: Any, args: Any) -> Any:
    """What was saved without Ostraca, by the handler that saved it."""
    if not path.exists():
        raise NotFoundError(f"{str(path)!r} does not exist")
    if isinstance(args, ocp.args.StandardRestore):
        return ocp.StandardCheckpointHandler().restore(directory, args=args)
    if isinstance(args, Restore):
        if asks_nothing(args):
            return _whatever_it_is(path, directory)
        args = _pytree_restore(args)
    return ocp.PyTreeCheckpointHandler().restore(directory, args=args)


def as_saved(handler: Any, directory: Any) -> Any:
    """What a handler restores when it is asked for nothing in particular."""
    _, restore_args = ocp.args.get_registered_args_cls(handler)
    return handler.restore(directory, args=restore_args())


def metadata(path: Path, directory: Any) -> Any:
    """What is known of it without reading it."""
    if not path.exists():
        raise NotFoundError(f"{str(path)!r} does not exist")
    return (_saved_by(path) or ocp.PyTreeCheckpointHandler)().metadata(directory)


def _whatever_it_is(path: Path, directory: Any) -> Any:
    if (saved_by := _saved_by(path)) is not None:
        return as_saved(saved_by(), directory)
    try:
        return as_saved(ocp.PyTreeCheckpointHandler(), directory)
    except FileNotFoundError as error:
        raise FormatError(
            f"{str(path)!r}: expected a tree that Ostraca or Orbax saved, found none, and nothing beside it says which"
            " handler saved it; restore it with that handler's arguments (ocp.args.JsonRestore, ...)"
        ) from error


def _handler_class(args: type[Any]) -> type[Any] | None:
    try:
        found: type[Any] = ocp.args.get_registered_handler_cls(args)
    except ValueError:
        return None
    return found


def _saved_by(path: Path) -> type[Any] | None:
    """The class of the handler that saved an item, where the step's metadata say so and it was no tree."""
    try:
        typestr = ocp.CompositeCheckpointHandler().metadata(path.parent).item_handlers[path.name]
    except (OSError, ValueError, KeyError):
        return None
    handlers = (handler_class(args) for args in registered() if args not in TREES)
    return next((each for each in handlers if each.typestr() == typestr), None)


def _pytree_restore(args: Restore) -> Any:
    restore_args = args.restore_args
    if restore_args is None and args.target is not None:
        restore_args = ocp.checkpoint_utils.construct_restore_args(args.target, strict=args.strict)
    return ocp.args.PyTreeRestore(
        args.target,
        restore_args,
        args.transforms,
        args.transforms_default_to_original,
        args.legacy_transform_fn,
        args.partial_restore,
    )
