"""What a restore asks for: Orbax's target trees and RestoreArgs, against what is stored."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import jax
import numpy as np
import orbax.checkpoint as ocp

from ..containers import Role
from ..errors import MismatchError, UnsupportedError
from ..jax.nodes import Registered
from ..lowlevel import ArrayInfo
from ..matching import MAX_LISTED
from ..printing import some
from ..tree import Flattener, Kind, flatten, quoted

ORBAX: Final = "orbax."  # what the modules' names of its classes begin with
_TYPE_NAMES: Final = {"np.ndarray": np.ndarray, "jax.Array": jax.Array, "string": str}
_LOGGER: Final = logging.getLogger("ostraca")
_VALUE_TYPES: Final = (int, float, str, bytes, np.generic)  # bool is an int


@dataclass(frozen=True)
class Target:
    """What one leaf becomes."""

    type: Any = None  # jax.Array, numpy.ndarray, or a function that makes a Python value; None: as it was saved
    dtype: Any = None  # None: as stored
    sharding: Any = None  # or jax's Format, which has a layout too
    shape: tuple[int, ...] | None = None  # None: as stored
    strict: bool = True  # no array is truncated or padded

    @classmethod
    def like(cls, value: Any, *, strict: bool = True, layout: bool = False) -> Target:
        """What a leaf of a target tree describes: an array, a ShapeDtypeStruct, Orbax's metadata, a value, a class."""
        if isinstance(value, type):
            return cls(_wanted(value))
        if isinstance(value, ocp.metadata.StringMetadata):
            return cls(str)
        if isinstance(value, ocp.metadata.ScalarMetadata):
            return cls()
        if hasattr(value, "shape") and hasattr(value, "dtype"):
            sharding = getattr(value, "format", None) if layout else None
            sharding = sharding or getattr(value, "sharding", None)
            kind = np.ndarray if not hasattr(value, "sharding") else jax.Array if sharding is not None else None
            return cls(kind, value.dtype, sharding, tuple(value.shape), strict)
        if isinstance(value, bool | int | float | str):
            return cls(type(value))
        return cls()

    @classmethod
    def from_args(cls, args: Any, value: Any) -> Target:
        """What RestoreArgs say, or None, and a target tree's leaf beside them."""
        if not isinstance(args, ocp.RestoreArgs):
            return cls()
        kind = _wanted(args.restore_type)
        if not isinstance(args, ocp.ArrayRestoreArgs):
            return cls(kind, args.dtype)
        sharding = args.sharding
        if args.mesh is not None and args.mesh_axes is not None:
            sharding = jax.sharding.NamedSharding(args.mesh, args.mesh_axes)
        shape, dtype = args.global_shape, args.dtype
        if args.strict and not isinstance(value, type) and not _is_key(value):
            shape = getattr(value, "shape", None) if shape is None else shape
            dtype = getattr(value, "dtype", None) if dtype is None else dtype
        return cls(kind, dtype, sharding, None if shape is None else tuple(shape), args.strict)


def _wanted(kind: Any) -> Any:
    """A `Target`'s type from a class, of which subclasses will do, or from Orbax's name for one."""
    if isinstance(kind, str):
        return _TYPE_NAMES.get(kind)
    if not isinstance(kind, type):
        return kind
    if issubclass(kind, jax.Array | jax.ShapeDtypeStruct):
        return jax.Array
    if issubclass(kind, np.ndarray):
        return np.ndarray
    return kind if issubclass(kind, _VALUE_TYPES) else None


class _Nodes(Registered):
    """JAX's containers; Orbax's dataclasses describe leaves."""

    def is_leaf(self, kind: type) -> bool:
        is_described = kind.__module__.startswith(ORBAX) and hasattr(kind, "__dataclass_fields__")
        return is_described and kind not in self


_NODES: Final = _Nodes()


def names(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by display name; of Orbax's own classes and `...` too."""
    return {name: leaf for _, name, leaf in flatten(tree, _NODES)}


def mapped(tree: Any, function: Callable[[str, Any], Any]) -> Any:
    """The tree with other leaves, each made of the name and the leaf."""
    walk = Flattener(_NODES)
    leaves = walk.flatten(tree)
    return walk.rebuild(function(name, leaf) for _, name, leaf in leaves)


def matched(given: Mapping[str, Any], stored: Iterable[ArrayInfo], *, partial: bool) -> dict[str, ArrayInfo]:
    """The stored leaf of each name given. MismatchError, naming them, where there is none, or (unless `partial`) more.

    Placeholders need none. As for Orbax, None and an empty container may stand where there is data, and the other way.
    With `partial`, what could be a new entry of a stored dict or object is left out, and the caller's value stays.
    """
    infos = {info.name: info for info in stored}
    missing = {name: value for name, value in given.items() if name not in infos and value is not ocp.PLACEHOLDER}
    new = _new_entries(missing, infos) if partial else {}
    differences = [f"{quoted(name)}: in the target, not stored" for name in missing if name not in new]
    if not partial:
        differences += [f"{quoted(name)}: stored, not in the target" for name in infos if name not in given]
    advice = "partial_restore=True restores what the target has; ocp.PLACEHOLDER stands for what is left out"
    if partial:
        advice = "partial_restore=True keeps new entries of dicts and objects: not of lists, nor where a leaf is stored"
    _check("the checkpoint and the target", differences, advice)
    kept = [name for name, value in new.items() if not is_empty(value)]
    if kept:
        _LOGGER.warning(
            "partial restore: %d of the target's %d leaves are not stored, and keep the target's values: %s",
            len(kept),
            len(given),
            some([quoted(name) for name in kept]),
        )
    return {name: infos[name] for name, value in given.items() if name in infos and value is not ocp.PLACEHOLDER}


def _new_entries(missing: Mapping[str, Any], infos: Mapping[str, ArrayInfo]) -> dict[str, Any]:
    """Of the leaves that are not stored those that could be: Orbax lengthens no list, and replaces no stored leaf."""
    below = {  # of each stored container, by the parts of its name, the type of its entries' parts
        tuple(info.name.split("/")[:depth]): kind
        for info in (infos.values() if missing else ())
        for depth, (kind, _) in enumerate(info.path)
    }

    def is_new(name: str, value: Any) -> bool:
        parts = tuple(name.split("/"))
        if parts in below:  # a leaf in place of a container
            return is_empty(value)
        for depth in reversed(range(len(parts))):
            if parts[:depth] in below:
                return below[parts[:depth]] not in (Role.LIST, Role.TUPLE)
            if "/".join(parts[:depth]) in infos:
                return False
        return True

    return {name: value for name, value in missing.items() if is_new(name, value)}


def args_by_name(what: str, args: Any, leaves: Mapping[str, Any], *, partial: bool = False) -> dict[str, Any]:
    """SaveArgs or RestoreArgs by the names of `leaves`, which are those of the tree beside them.

    An empty container may have some or not. MismatchError, naming them, for leaves without (None will do), and (unless
    `partial`) for args that no leaf is for: they would have no effect.
    """
    found = names(args)
    differences = [
        f"{quoted(name)}: a leaf of the tree, not in {what}"
        for name, leaf in leaves.items()
        if name not in found and not is_empty(leaf)
    ]
    if not partial:
        differences += [f"{quoted(name)}: in {what}, not a leaf of the tree" for name in found if name not in leaves]
    _check(f"the tree and {what}", differences, f"{what} has the tree's structure, with one for each leaf")
    return found


def _check(what: str, differences: list[str], advice: str) -> None:
    if differences:
        listed = some(differences, "\n  ", most=MAX_LISTED)
        raise MismatchError(f"{what} differ in {len(differences)} places:\n  {listed}\n  ({advice})")


def python_value(value: Any, target: Target, name: str) -> Any:
    """A stored Python value or 0-d array as the target wants it."""
    if target.type in (None, np.ndarray, jax.Array):
        if target.type is None and target.dtype is None:
            return value
        array = np.asarray(value)
        array = array if target.dtype is None else array.astype(target.dtype)
        return array if target.type is np.ndarray else array.item() if target.type is None else array
    if getattr(value, "shape", ()) != ():
        raise MismatchError(f"{quoted(name)}: expected {target.type.__name__}, found an array of {value.shape}")
    value = value.item() if hasattr(value, "item") else value
    return value if type(value) is target.type else _converted(target.type, value, name)


def _converted(kind: Callable[[Any], Any], value: Any, name: str) -> Any:
    try:
        return kind(value)
    except (TypeError, ValueError) as error:
        raise UnsupportedError(f"{quoted(name)} cannot be restored as {kind}: {error}") from None


def is_empty(value: Any) -> bool:
    """Whether a target's leaf asks for nothing: None, and an empty container, stay as they are."""
    return value is None or isinstance(value, Kind)


def _is_key(value: Any) -> bool:
    dtype = getattr(value, "dtype", None)
    return dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)
