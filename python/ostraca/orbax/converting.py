"""From Orbax's checkpoints to Ostraca's and back: one tree, or a manager's step with all its items."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from .. import dtypes, loading, saving
from .._core import MANIFEST
from ..errors import FormatError
from ..foreign import ORBAX_TREE_FILE
from ..lowlevel import ArrayInfo, Reader
from ..matching import below, named_from
from ..reports import SaveInfo
from ..tree import Kind, flatten
from .metadata import Notes

_STEP_FILE: Final = "_CHECKPOINT_METADATA"
_JSON_FILE: Final = "metadata"  # in Orbax's directory of a JSON item
_METRICS: Final = "metrics"  # the manager's item, and its file
_INT64: Final = range(-(1 << 63), 1 << 63)
# Orbax's own backend has no type for these, nor for text, dates and raw bytes.
_UNSUPPORTED: Final = {"float8_e4m3", "float6_e2m3fn", "float6_e3m2fn", "uint2", "uint4", "int1", "uint1"}


class Refused(NamedTuple):
    """A leaf that Orbax cannot hold."""

    name: str
    what: str


def to_ostraca(source: Path, destination: Path, **options: Any) -> SaveInfo:
    """Saves what stock Orbax wrote as one checkpoint.

    A step's trees become the first level of one tree, unless there is only Orbax's unnamed one; JSON items, metrics and
    custom metadata go into the metadata. All of it is on the host at once; the devices that it was sharded over are not
    needed. Raises `FormatError` where Orbax cannot read it.
    """
    try:
        if (source / ORBAX_TREE_FILE).exists():
            tree, document = _read(source)
        else:
            tree, document = _read_step(source)
    except (ValueError, KeyError, OSError) as error:
        raise FormatError(f"{str(source)!r}: Orbax cannot read it: {error}") from error
    return saving.save(destination, tree, metadata=document, **options)


def to_orbax(
    source: Path,
    destination: Path,
    *,
    overwrite: bool,
    root: str | None = None,
    on_refused: Callable[[list[Refused]], object],
) -> tuple[int, int]:
    """Writes an Ostraca checkpoint, or a manager's step of such, as stock Orbax would have. Returns arrays and bytes.

    `on_refused` is told of leaves that Orbax cannot hold, which are left out unless it raises. int keys become text in
    Orbax; jax.Arrays become numpy arrays, which restore to any sharding.
    """
    destination = destination.absolute()
    if (source / MANIFEST).exists():
        save, *figures = _converted(source, "", on_refused, root)
        _write(destination, ocp.PyTreeCheckpointHandler(), save, None, overwrite)
        return figures[0], figures[1]
    if root is not None:
        raise FormatError(f"root={root!r}: {str(source)!r} is no checkpoint, but a step; convert one of its items")
    trees = {item.name: _converted(item, item.name + "/", on_refused) for item in items(source, MANIFEST)}
    args: dict[str, Any] = {name: save for name, (save, _, _) in trees.items()}
    args |= {item.name: ocp.args.JsonSave(_read_json(item, _JSON_FILE)) for item in items(source, _JSON_FILE)}
    registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
    if (source / _METRICS / _METRICS).exists():
        args[_METRICS] = ocp.args.JsonSave(_read_json(source / _METRICS, _METRICS))
        registry.add(_METRICS, ocp.args.JsonSave, ocp.JsonCheckpointHandler(filename=_METRICS))
    handler = ocp.CompositeCheckpointHandler(handler_registry=registry)
    _write(destination, handler, ocp.args.Composite(**args), _custom_metadata(source), overwrite)
    for entry in source.iterdir():
        if entry.is_dir() and entry.name not in args:  # of other handlers
            shutil.copytree(entry, destination / entry.name)
    return sum(arrays for _, arrays, _ in trees.values()), sum(nbytes for _, _, nbytes in trees.values())


def items(step: Path, file: str) -> list[Path]:
    """A step's items that hold a file."""
    entries = sorted(step.iterdir()) if step.is_dir() else []
    return [entry for entry in entries if (entry / file).is_file()]


# --- From Orbax -----------------------------------------------------------------------------------------------------


def _read_step(step: Path) -> tuple[Any, Any]:
    trees, document = {}, {}
    for item in items(step, ORBAX_TREE_FILE):
        trees[item.name], custom = _read(item)
        if custom is not None:
            document[item.name] = custom
    for item in items(step, _JSON_FILE):
        document[item.name] = _read_json(item, _JSON_FILE)
    if (step / _METRICS / _METRICS).exists():
        document[_METRICS] = _read_json(step / _METRICS, _METRICS)
    custom = _custom_metadata(step)
    if custom:
        document["custom_metadata"] = custom
    return trees["default"] if list(trees) == ["default"] else trees, document or None


def _read(item: Path) -> tuple[Any, Any]:
    """A tree that Orbax wrote, on the host, and its custom metadata."""
    handler = ocp.PyTreeCheckpointHandler()
    directory = epath.Path(item.absolute())
    metadata = handler.metadata(directory)
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def how(leaf: Any) -> ocp.RestoreArgs:
        if not isinstance(leaf, ocp.metadata.ArrayMetadata) or isinstance(leaf, ocp.metadata.ScalarMetadata):
            return ocp.RestoreArgs()
        if leaf.sharding is not None and leaf.dtype == np.uint32:  # maybe the data of PRNG keys: a jax.Array says so
            return ocp.ArrayRestoreArgs(sharding=here)
        return ocp.RestoreArgs(restore_type=np.ndarray)

    args = ocp.args.PyTreeRestore(restore_args=jax.tree.map(how, metadata.tree))
    return jax.tree.map(_on_host, handler.restore(directory, args=args)), metadata.custom_metadata


def _on_host(leaf: Any) -> Any:
    is_plain = isinstance(leaf, jax.Array) and not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(leaf) if is_plain else leaf


def _read_json(item: Path, file: str) -> Any:
    return json.loads((item / file).read_text())


def _custom_metadata(step: Path) -> Any:
    file = step / _STEP_FILE
    return json.loads(file.read_text()).get("custom_metadata") if file.exists() else None


# --- To Orbax -------------------------------------------------------------------------------------------------------


def _converted(
    source: Path, prefix: str, on_refused: Callable[[list[Refused]], object], root: str | None = None
) -> tuple[ocp.args.PyTreeSave, int, int]:
    """What Orbax is asked to save; how many arrays that has, and how many bytes."""
    with Reader(source) as reader:
        chosen = below(root, reader.leaves())
        refused = {info.name: what for info in chosen if (what := _refusal(info))}
        custom = Notes(reader).custom_metadata
        document = reader.manifest().metadata
        kept = [info for info in chosen if info.name not in refused]
    names = {info.name for info in kept}
    tree = loading.load(source, root=root, select=lambda name: name in names) if kept else {}
    for _, name, leaf in named_from(root, flatten(tree)):
        if type(leaf) is int and leaf not in _INT64:
            refused[name] = "an int beyond 64 bits"
    if refused:
        on_refused([Refused(prefix + name, what) for name, what in refused.items()])
        if names & refused.keys():
            names -= refused.keys()
            tree = loading.load(source, root=root, select=lambda name: name in names)
    if not names:
        raise FormatError(f"{str(source)!r}: nothing is left that Orbax could hold")
    tree = jax.tree.map(_native, tree)
    custom = custom if custom is not None or (isinstance(document, dict) and "orbax" in document) else document
    arrays = [info for info in kept if info.name in names and info.has_data]
    return ocp.args.PyTreeSave(tree, custom_metadata=custom), len(arrays), sum(info.nbytes for info in arrays)


def _refusal(info: ArrayInfo) -> str | None:
    if info.kind is Kind.BYTES:
        return "bytes"
    if info.kind.is_strings:
        return info.dtype_name
    if info.kind is not Kind.ARRAY:
        return None
    name = dtypes.describe(info.dtype_code, info.detail)
    if name in _UNSUPPORTED or name not in dtypes.CODES:
        return name
    return None if info.nbytes else f"no elements, shape {info.shape}"


def _native(leaf: Any) -> Any:
    is_swapped = isinstance(leaf, np.ndarray) and not leaf.dtype.isnative
    return leaf.astype(leaf.dtype.newbyteorder("=")) if is_swapped else leaf


def _write(destination: Path, handler: Any, args: Any, custom_metadata: Any, overwrite: bool) -> None:
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(destination, args=args, force=overwrite, custom_metadata=custom_metadata)
