"""A restore through Orbax: targets against what is stored, one load of all leaves, the tree."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import jax
import numpy as np
import orbax.checkpoint as ocp

from ..errors import MismatchError
from ..jax import load
from ..lowlevel import ArrayInfo, Reader
from ..tree import Kind, flatten, quoted, unflatten
from .metadata import Notes
from .targets import Target, args_by_name, is_empty, mapped, matched, names, python_value

if TYPE_CHECKING:
    from .arguments import Restore

_ARRAYS: Final = (Kind.ARRAY, Kind.PRNG_KEY)
_VALUES: Final[dict[Kind, Any]] = {Kind.INT: 0, Kind.FLOAT: 0.0, Kind.BOOL: False, Kind.STR: "", Kind.BYTES: b""}
_EMPTY: Final[dict[Kind, Any]] = {Kind.NONE: None, Kind.EMPTY_DICT: {}, Kind.EMPTY_LIST: [], Kind.EMPTY_TUPLE: ()}


def restore(path: Path, args: Restore) -> Any:
    """The tree that `args` ask for. Nothing is read before all names, shapes and dtypes were compared."""
    with Reader(path) as reader:
        given = {info.name: None for info in reader.arrays()} if args.target is None else names(args.target)
        restore_args = _restore_args(args, given, reader.arrays())
        if args.target is None:
            infos = {info.name: info for info in reader.arrays()}
        else:
            matching = matched(given, reader.arrays(), partial=args.partial_restore)
            infos = {name: info for name, info in matching.items() if not is_empty(given[name])}
        notes = Notes(reader)
        targets = {
            name: _resolved(_target(name, given[name], restore_args, args), info, notes, args.fallback_sharding)
            for name, info in infos.items()
            if info.has_data
        }
    loaded = _load(path, {name: _how(target, infos[name]) for name, target in targets.items()})
    values = {name: _finished(loaded.pop(name), target, infos[name]) for name, target in targets.items()}
    values |= {info.name: _EMPTY[info.kind] for info in infos.values() if not info.has_data}
    values |= dict.fromkeys(values.keys() & notes.empty_tuples)  # which Orbax does not tell from None
    if args.target is None:
        return unflatten([(info.path, info.name, values[info.name]) for info in infos.values()])
    return mapped(args.target, values.get)


def _restore_args(args: Restore, given: dict[str, Any], stored: list[ArrayInfo]) -> dict[str, Any] | None:
    """By name; None: the target's leaves say what comes back."""
    if args.restore_args is None:
        return None
    if not args.restore_args:
        return {}
    leaves = given if args.target is not None else {info.name: info if info.has_data else None for info in stored}
    return args_by_name("restore_args", args.restore_args, leaves, partial=args.partial_restore)


def _target(name: str, value: Any, restore_args: dict[str, Any] | None, args: Restore) -> Target:
    if restore_args is not None:
        return Target.from_args(restore_args.get(name), value)
    return Target.like(value, strict=args.strict, layout=args.support_layout)


def _resolved(target: Target, info: ArrayInfo, notes: Notes, fallback: Any) -> Target:
    """With what was saved in place of what is not said; MismatchError for shapes that differ."""
    if info.kind not in _ARRAYS:
        return target
    kind, sharding, shape = target.type, target.sharding, target.shape
    if isinstance(sharding, ocp.metadata.ShardingMetadata):
        sharding = sharding.to_jax_sharding()
    was_jax = notes.was_jax(info.name)
    if kind is None:
        kind = jax.Array if was_jax or sharding is not None else np.ndarray
    if kind is jax.Array and sharding is None:
        sharding = notes.sharding(info.name) or fallback
        if sharding is None and target.type is None:
            kind = np.ndarray  # saved on other devices, and nobody says where it should go
    if info.kind is Kind.ARRAY and shape is not None and shape != info.shape and target.strict and not _is_key(target):
        raise MismatchError(f"{quoted(info.name)}: expected shape {shape}, found {info.shape}")
    return Target(kind, target.dtype, sharding, shape, target.strict)


def _how(target: Target, info: ArrayInfo) -> tuple[ArrayInfo, Any, Any]:
    """What is loaded at once; the rest is `_finished`'s."""
    if info.kind not in _ARRAYS or _is_reshaped(target, info):
        return info, None, None
    return info, None if _is_key(target) else target.dtype, target.sharding if target.type is jax.Array else None


def _finished(value: Any, target: Target, info: ArrayInfo) -> Any:
    """A loaded leaf as it was asked for."""
    if info.kind in _ARRAYS and target.type in (np.ndarray, jax.Array):
        if not _is_reshaped(target, info):
            is_placed = target.type is np.ndarray or isinstance(value, jax.Array)
            return value if is_placed else _placed(value, target.sharding)
        assert target.shape is not None
        value = _cut_or_padded(value, target.shape, info.name)
        value = value if target.dtype is None else value.astype(target.dtype)
    else:
        value = python_value(value, target, info.name)
    return _placed(value, target.sharding) if target.type is jax.Array else value


def _placed(value: Any, sharding: Any) -> jax.Array:
    """On devices, of which other processes may hold some."""
    if not isinstance(sharding, jax.sharding.Sharding):
        return jax.device_put(value, sharding)
    return jax.make_array_from_callback(np.shape(value), sharding, lambda index: np.asarray(value)[index])


def _is_reshaped(target: Target, info: ArrayInfo) -> bool:
    return info.kind is Kind.ARRAY and target.shape not in (None, info.shape)


def _cut_or_padded(value: np.ndarray[Any, Any], shape: tuple[int, ...], name: str) -> np.ndarray[Any, Any]:
    if len(shape) != value.ndim:
        raise MismatchError(f"{quoted(name)}: expected shape {shape}, found {value.shape}, of other dimensions")
    result = np.zeros(shape, value.dtype)
    common = tuple(slice(min(sizes)) for sizes in zip(shape, value.shape, strict=True))
    result[common] = value[common]
    return result


def _is_key(target: Target) -> bool:
    return target.dtype is not None and jax.dtypes.issubdtype(target.dtype, jax.dtypes.prng_key)


def _load(path: Path, wanted: Mapping[str, tuple[ArrayInfo, Any, Any]]) -> dict[str, Any]:
    """Leaves by name: (stored, dtype or None, sharding or Format) of each. Without a sharding arrays are numpy's."""
    if not wanted:
        return {}
    like = unflatten([(info.path, info.name, _like(info, *how)) for info, *how in wanted.values()])
    loaded = load(path, like=like, select=lambda name: name in wanted, cast="unsafe")
    return {name: value for _, name, value in flatten(loaded)}


def _like(info: ArrayInfo, dtype: Any, sharding: Any) -> Any:
    if info.kind in _VALUES:
        return _VALUES[info.kind]
    if sharding is not None and (dtype is None or info.kind is Kind.PRNG_KEY):
        return sharding
    dtype = info.dtype if dtype is None else np.dtype(dtype)
    if sharding is not None:
        return jax.ShapeDtypeStruct(info.shape, dtype, sharding=sharding)
    return np.broadcast_to(np.empty((), dtype), info.shape)
