"""v1's abstract leaves: what a load asks for with them, and what `metadata` describes with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import jax
import numpy as np
import orbax.checkpoint as v0

from ..lowlevel import ArrayInfo, Reader
from ..tree import Kind, unflatten
from .metadata import Notes

# As Orbax has them: of a leaf that is a value, the type counts.
_VALUES: Final[dict[Kind, Any]] = {Kind.INT: 0, Kind.FLOAT: 0.0, Kind.BOOL: False, Kind.STR: "string", Kind.BYTES: b""}
_EMPTIES: Final[dict[Kind, Any]] = {Kind.EMPTY_LIST: [], Kind.EMPTY_TUPLE: (), Kind.EMPTY_DICT: {}}


@dataclass(frozen=True)
class NumpyMetadata:
    """A stored numpy array; as an abstract leaf it makes one again."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class Place:
    """What stands for an abstract leaf in the item of a restore, where its `restore_args` say the rest.

    No walk opens it, whatever the leaf is: a dataclass, say.
    """

    def __init__(self, leaf: Any) -> None:
        self.leaf = leaf

    @classmethod
    def of(cls, leaf: Any) -> Any:
        return leaf if leaf is v0.PLACEHOLDER else cls(leaf)


def leaf_of(restored: Any) -> Any:
    """A restored leaf, or the abstract one where a partial restore found none."""
    return restored.leaf if isinstance(restored, Place) else restored


def restore_args(leaf: Any, *, strict: bool) -> Any:
    """v0's RestoreArgs of an abstract leaf. strict: no array is truncated or padded to the leaf's shape.

    A class asks for a kind of leaf, an instance also for its dtype, shape and sharding. What has a sharding becomes a
    jax.Array, what has none a numpy array. None means the leaf as it was saved.
    """
    if leaf is None or leaf is v0.PLACEHOLDER:
        return v0.RestoreArgs()
    is_class = isinstance(leaf, type)
    if not _has(leaf, "shape", "dtype"):
        return v0.RestoreArgs(restore_type=leaf if is_class else type(leaf))
    if not _has(leaf, "sharding"):  # as in Orbax, of an array of numpy's its dtype alone counts
        return v0.RestoreArgs(restore_type=np.ndarray, dtype=None if is_class else leaf.dtype)
    if is_class:
        return v0.RestoreArgs(restore_type=jax.Array)
    return v0.ArrayRestoreArgs(
        restore_type=jax.Array, dtype=leaf.dtype, sharding=leaf.sharding, global_shape=leaf.shape, strict=strict
    )


def metadata(reader: Reader) -> Any:
    """The stored tree: ShapeDtypeStructs, `NumpyMetadata`, and for Python's values one of their type."""
    notes = Notes(reader)
    return unflatten([(info.path, info.name, _abstract(info, notes)) for info in reader.leaves()])


def _has(leaf: Any, *names: str) -> bool:
    """Whether a leaf, or the instances of a class, have these attributes. None is read: a property may fail."""
    kind = leaf if isinstance(leaf, type) else type(leaf)
    assigned = {*getattr(kind, "__dataclass_fields__", ()), *getattr(leaf, "__dict__", ())}
    return all(name in assigned or hasattr(kind, name) for name in names)


def _abstract(info: ArrayInfo, notes: Notes) -> Any:
    if not info.has_data:
        return _EMPTIES.get(info.kind)
    if info.kind in _VALUES:
        return _VALUES[info.kind]
    if not notes.was_jax(info.name):
        return NumpyMetadata(info.shape, info.dtype)
    return jax.ShapeDtypeStruct(info.shape, info.dtype, sharding=notes.sharding(info.name))
