"""The checkpoint handler, its arguments, and the registry that gives it to a stock manager."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orbax.checkpoint as ocp

from ..errors import CoordinationError, NotFoundError, OstracaError, UnsupportedError
from ..handles import SaveHandle
from ..jax import save, save_async
from ..jax.nodes import REGISTERED
from ..lowlevel import Reader
from ..options import checked_path
from ..tree import flatten
from . import metadata, restoring
from .targets import mapped, names

MANIFEST: Final = "manifest.json"
MARKER: Final = "_METADATA"  # by which Orbax's v1, and flax, know trees from other items
DIRECTORY_SECONDS: Final = 10  # within which Orbax makes the directory: it begins before it calls the handler
_SAVE_OPTIONS: Final = ("codec", "io", "threads", "coding_bytes", "staging_bytes", "timeout", "pinned_host")


@dataclass
class Save(ocp.args.CheckpointArgs):  # type: ignore[misc]
    """What to save: as Orbax's `PyTreeSave`, of which `save_args` are read for `dtype` alone."""

    item: Any
    save_args: Any = None
    custom_metadata: Any = None


@dataclass
class Restore(ocp.args.CheckpointArgs):  # type: ignore[misc]
    """What to restore: `item` alone as in Orbax's `StandardRestore`, with `restore_args` as in `PyTreeRestore`.

    partial_restore: `item` has a part of what is stored. strict: False truncates and pads arrays to `item`'s shapes.
    support_layout: device layouts of `item` are honoured. fallback_sharding: where `item` has none, and the one that
    was saved needs other devices. Arrays become the dtypes asked for as Orbax casts them: values that do not fit become
    what numpy makes of them (`cast="unsafe"` of `ostraca.load`).
    """

    item: Any = None
    restore_args: Any = None
    partial_restore: bool = False
    strict: bool = True
    support_layout: bool = False
    fallback_sharding: Any = None

    def __post_init__(self) -> None:
        if isinstance(self.item, metadata.TreeMetadata):
            self.item = self.item.tree


class Handler(ocp.AsyncCheckpointHandler):  # type: ignore[misc]
    """Saves a tree as an Ostraca checkpoint in the directory that Orbax gives it, and restores it.

    Takes `Save`, `Restore` and Orbax's `StandardSave`, `StandardRestore`, `PyTreeSave` and `PyTreeRestore`. Restores
    also what Orbax's own handlers wrote. Options are those of `ostraca.jax.save_async`: codec, io, threads,
    coding_bytes, staging_bytes, timeout, pinned_host. There is no `base`: Orbax deletes steps without asking which
    others need them.
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

    async def async_save(self, directory: Any, *values: Any, args: Any = None, **named: Any) -> list[Any]:
        """Returns when the arrays may change; the future when the checkpoint is durable."""
        wanted = args if args is not None else Save(*values, **named)
        path = local_path(directory)
        # Orbax makes the directory in another thread. To wait for it costs milliseconds, and lets the save begin
        # right here: it stages what is on devices within its budget, and refuses what it cannot store.
        ready = ocp.future.CommitFutureAwaitingContractedSignals(
            _nothing(), name="ostraca_directory", timeout_secs=DIRECTORY_SECONDS
        )
        try:
            ready.result()
        except Exception as error:
            return [_Failed(error)]  # Orbax's own future, which comes before this one, says why
        tree, notes = _to_save(wanted)
        return [_Running(save_async(path, tree, metadata=notes, **self._options))]

    def save(self, directory: Any, *values: Any, args: Any = None, **named: Any) -> None:
        """Returns when the checkpoint is durable."""
        tree, notes = _to_save(args if args is not None else Save(*values, **named))
        options = {name: value for name, value in self._options.items() if name != "staging_bytes"}
        save(local_path(directory), tree, metadata=notes, **options)

    def restore(self, directory: Any, *values: Any, args: Any = None, **named: Any) -> Any:
        """The tree, or what `args` say of it."""
        wanted = args if args is not None else Restore(*values, **named)
        path = local_path(directory)
        if not (path / MANIFEST).exists():
            return _stock_handler(wanted, path).restore(directory, args=_stock_args(wanted))
        return restoring.restore(path, _unified(wanted))

    def metadata(self, directory: Any) -> Any:
        """Shapes, dtypes, shardings as Orbax's metadata; reads no array and needs no device."""
        path = local_path(directory)
        if not (path / MANIFEST).exists():
            return _stock_handler(None, path).metadata(directory)
        with Reader(path) as reader:
            return metadata.tree_metadata(reader, directory)

    def finalize(self, directory: Any) -> None:
        """Called in one process, before Orbax renames the directory: whether there is a checkpoint in it."""
        path = local_path(directory)
        if not (path / MANIFEST).exists():
            raise OstracaError(f"nothing was committed in {str(directory)!r}")
        (path / MARKER).write_text("{}")

    def close(self) -> None:
        """Nothing stays open between calls."""

    @classmethod
    def typestr(cls) -> str:
        """What Orbax writes beside a checkpoint to find its handler again."""
        return "ostraca.orbax.Handler"


ocp.args.register_with_handler(Handler, for_save=True)(Save)
ocp.args.register_with_handler(Handler, for_restore=True)(Restore)

_ARGS: Final = (
    Save,
    Restore,
    ocp.args.StandardSave,
    ocp.args.StandardRestore,
    ocp.args.PyTreeSave,
    ocp.args.PyTreeRestore,
)


def registry(*items: str, **options: Any) -> ocp.handlers.DefaultCheckpointHandlerRegistry:
    """For `ocp.CheckpointManager(handler_registry=...)`: trees go to Ostraca, all else (JSON, metrics) where it went.

    items: names of items that `metadata(step)` is to know before one of them was saved or restored; with several items
    Orbax needs that of any handler. options: as of `Handler`.
    """
    handler = Handler(**options)
    result = ocp.handlers.DefaultCheckpointHandlerRegistry()
    for item in (None, "default", *items):
        for args in _ARGS:
            result.add(item, args, handler)
    return result


class _Running:
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


class _Failed:
    """A save that did not begin."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def result(self, timeout: float | None = None) -> None:
        raise OstracaError(f"Orbax did not make the directory within {DIRECTORY_SECONDS} seconds") from self._error

    def cancel(self) -> None: ...


async def _nothing() -> None: ...


def local_path(directory: Any) -> Path:
    """The directory; UnsupportedError where Ostraca cannot write."""
    return Path(checked_path(directory))


def _to_save(args: Any) -> tuple[Any, dict[str, Any]]:
    """The tree, cast where that is asked for, and what the manifest keeps for Orbax."""
    tree = args.item
    if args.save_args is not None:
        wanted = names(args.save_args)
        tree = mapped(tree, lambda name, leaf: _cast(leaf, wanted.get(name)))
    leaves = [(name, leaf) for _, name, leaf in flatten(tree, REGISTERED)]
    return tree, metadata.manifest_entry(leaves, args.custom_metadata)


def _cast(leaf: Any, args: Any) -> Any:
    dtype = getattr(args, "dtype", None)
    return leaf if dtype is None or not hasattr(leaf, "astype") else leaf.astype(dtype)


def _unified(args: Any) -> Restore:
    if isinstance(args, ocp.args.StandardRestore):
        return Restore(
            args.item,
            strict=args.strict,
            support_layout=args.support_layout,
            fallback_sharding=args.fallback_sharding,
        )
    if isinstance(args, ocp.args.PyTreeRestore):
        if args.transforms is not None or args.legacy_transform_fn is not None:
            raise UnsupportedError("transforms: restore without them, and call ocp.apply_transformations on the result")
        # Without restore_args, an item says what there is, and not how it is sharded.
        return Restore(args.item, args.restore_args or {}, args.partial_restore)
    assert isinstance(args, Restore)
    return args


def _stock_handler(args: Any, path: Path) -> Any:
    """Orbax's own, for what it wrote."""
    if not path.exists():
        raise NotFoundError(f"{str(path)!r} does not exist")
    is_standard = isinstance(args, ocp.args.StandardRestore)
    return ocp.StandardCheckpointHandler() if is_standard else ocp.PyTreeCheckpointHandler()


def _stock_args(args: Any) -> Any:
    if not isinstance(args, Restore):
        return args
    restore_args = args.restore_args
    if restore_args is None and args.item is not None:
        restore_args = ocp.checkpoint_utils.construct_restore_args(args.item, strict=args.strict)
    return ocp.args.PyTreeRestore(args.item, restore_args, partial_restore=args.partial_restore)
