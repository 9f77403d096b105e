"""The checkpoint handler."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import orbax.checkpoint as ocp

from .._core import MANIFEST
from ..errors import CancelledError, CoordinationError, OstracaError, UnsupportedError
from ..handles import SaveHandle
from ..jax import save, save_async
from ..lowlevel import Reader
from ..options import checked_path
from . import metadata, restoring, stock
from .arguments import Restore as Restore
from .arguments import Save, to_restore
from .directory import Directory
from .saving import to_save

_SAVE_OPTIONS: Final = ("codec", "io", "threads", "coding_bytes", "staging_bytes", "timeout", "pinned_host")


class Handler(ocp.AsyncCheckpointHandler):  # type: ignore[misc]
    """Saves a tree as an Ostraca checkpoint in the directory that Orbax gives it, and restores it.

    Takes `Save`, `Restore` and Orbax's `StandardSave`, `StandardRestore`, `PyTreeSave` and `PyTreeRestore`; under a
    manager or a composite handler Orbax lets these four pass by a `registry` alone. Restores also what Orbax's own
    handlers wrote. Options are those of `ostraca.jax.save_async`: codec, io, threads, coding_bytes, staging_bytes,
    timeout, pinned_host. There is no `base`: Orbax deletes steps without asking which others need them.
    """

    def __init__(self, **options: Any) -> None:
        if options.get("base") is not None:
            raise UnsupportedError(
                "base= under Orbax: its retention deletes steps without knowing which others need them; use"
                " ostraca.save(..., base=) and ostraca.prune instead"
            )
        unknown = sorted(options.keys() - set(_SAVE_OPTIONS))
        if unknown:
            raise TypeError(f"unknown option {unknown[0]!r}; there are {', '.join(_SAVE_OPTIONS)}")
        self._options = options

    def __repr__(self) -> str:  # Orbax shows it when it has no handler for an item's arguments
        return (
            "<ostraca.orbax.Handler: takes ostraca.orbax.Save and Restore here; Orbax's own arguments with"
            " handler_registry=ostraca.orbax.registry()>"
        )

    async def async_save(self, directory: Any, *values: Any, args: Any = None, **named: Any) -> list[Any]:
        """Returns when the arrays may change; the future when the checkpoint is durable."""
        path = local_path(directory)
        try:
            return [Running(self.start(path, args if args is not None else Save(*values, **named), Directory(path)))]
        except CancelledError:  # there will be no directory; why is for Orbax's own future to say, which comes first
            return []

    def start(self, path: Path, args: Any, ready: Callable[[float], bool], **options: Any) -> SaveHandle:
        """Starts a save into a directory that is made meanwhile. `ready`, `options`: as of `ostraca.jax.save_async`."""
        tree, notes = to_save(args)
        return save_async(path, tree, metadata=notes, ready=ready, **self._options, **options)

    def save(self, directory: Any, *values: Any, args: Any = None, **named: Any) -> None:
        """Returns when the checkpoint is durable."""
        tree, notes = to_save(args if args is not None else Save(*values, **named))
        options = {name: value for name, value in self._options.items() if name != "staging_bytes"}
        save(local_path(directory), tree, metadata=notes, **options)

    def restore(self, directory: Any, *values: Any, args: Any = None, **named: Any) -> Any:
        """The tree, or what `args` say of it."""
        wanted = args if args is not None else Restore(*values, **named)
        path = local_path(directory)
        if not (path / MANIFEST).exists():
            return stock.restore(path, directory, wanted)
        return restoring.restore(path, to_restore(wanted))

    def metadata(self, directory: Any) -> Any:
        """Shapes, dtypes, shardings as Orbax's metadata; reads no array and needs no device."""
        path = local_path(directory)
        if not (path / MANIFEST).exists():
            return stock.metadata(path, directory)
        with Reader(path) as reader:
            return metadata.tree_metadata(reader, directory)

    def finalize(self, directory: Any) -> None:
        """Called in one process, before Orbax renames the directory: whether there is a checkpoint in it."""
        path = local_path(directory)
        if not (path / MANIFEST).exists():
            raise OstracaError(f"nothing was committed in {str(directory)!r}")
        (path / metadata.MARKER).write_text(metadata.MARKER_TEXT)

    def close(self) -> None:
        """Nothing stays open between calls."""

    @classmethod
    def typestr(cls) -> str:
        """What Orbax writes beside a checkpoint to find its handler again."""
        return "ostraca.orbax.Handler"


ocp.args.register_with_handler(Handler, for_save=True)(Save)
ocp.args.register_with_handler(Handler, for_restore=True)(Restore)


class Running:
    """A save as Orbax's Future."""

    def __init__(self, handle: SaveHandle) -> None:
        self._handle = handle

    def result(self, timeout: float | None = None) -> None:
        try:
            self._handle.result(timeout)
        except CoordinationError as error:  # Orbax takes any TimeoutError for one of its own, and drops what it says
            raise OstracaError(str(error)) from error

    def cancel(self) -> bool:
        return self._handle.cancel()


def local_path(directory: Any) -> Path:
    """The directory; UnsupportedError where Ostraca cannot write."""
    return Path(checked_path(directory))
