"""What Orbax tells of a checkpoint, and what of it Ostraca's manifest has to keep: shardings and custom metadata."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax import tree_util

from ..foreign import ORBAX_TREE_FILE
from ..lowlevel import ArrayInfo, Reader
from ..tree import Kind, unflatten

# Orbax's own handlers look into this file first, and its version 1 knows trees by it. The advice stands where they
# expect a number, so that their error shows it.
MARKER: Final = ORBAX_TREE_FILE
_ADVICE: Final = (
    "this item was saved by Ostraca: import ostraca.orbax, and pass handler_registry=ostraca.orbax.registry() to the"
    " CheckpointManager, or ostraca.orbax.Handler() to a Checkpointer"
)
MARKER_TEXT: Final = json.dumps(
    {"tree_metadata": {"ostraca": {"key_metadata": [{"key": "ostraca", "key_type": _ADVICE}], "value_metadata": {}}}}
)
_KEY: Final = "orbax"  # in the manifest's metadata
_NOT_JAX: Final = -1
_SHARDINGS: Final = {
    jax.sharding.NamedSharding: ocp.metadata.NamedShardingMetadata,
    jax.sharding.SingleDeviceSharding: ocp.metadata.SingleDeviceShardingMetadata,
}
_SCALARS: Final = {Kind.INT: np.dtype("int64"), Kind.FLOAT: np.dtype("float64"), Kind.BOOL: np.dtype("bool")}


def manifest_entry(leaves: Sequence[tuple[str, Any]], custom_metadata: Any) -> dict[str, Any]:
    """What is kept of a tree's leaves (name, value), for `Notes`.

    A sharding is written once; each leaf has its number there, in the order of the names. Empty namedtuples are named.
    """
    numbers: dict[str | None, int] = {}
    by_sharding: dict[Any, int] = {}
    kept = []
    for _, leaf in sorted(leaves, key=lambda pair: pair[0]):
        if not isinstance(leaf, jax.Array):
            kept.append(_NOT_JAX)
            continue
        number = by_sharding.get(leaf.sharding)
        if number is None:
            number = by_sharding[leaf.sharding] = numbers.setdefault(_serialized(leaf.sharding), len(numbers))
        kept.append(number)
    entry = {"shardings": list(numbers), "sharding_of": kept, "custom_metadata": custom_metadata}
    if empty_tuples := [name for name, leaf in leaves if is_empty_tuple(type(leaf))]:
        entry["empty_tuples"] = empty_tuples
    return {_KEY: entry}


def is_empty_tuple(kind: type) -> bool:
    """Whether a class is a namedtuple without fields, as optax has some."""
    return issubclass(kind, tuple) and getattr(kind, "_fields", None) == ()


class Notes:
    """What the manifest of an open checkpoint keeps for Orbax. Empty when it was not saved through Orbax."""

    def __init__(self, reader: Reader) -> None:
        entry = reader.manifest().metadata
        entry = entry.get(_KEY, {}) if isinstance(entry, dict) else {}
        self.custom_metadata = entry.get("custom_metadata")
        self.empty_tuples = frozenset(entry.get("empty_tuples", ()))
        self._shardings: list[str | None] = entry.get("shardings", [])
        names = sorted(info.name for info in reader.leaves())
        numbers = entry.get("sharding_of", [])
        self._numbers = dict(zip(names, numbers, strict=True)) if len(names) == len(numbers) else {}

    def was_jax(self, name: str) -> bool:
        """Whether a leaf was a jax.Array."""
        return bool(self._numbers.get(name, _NOT_JAX) != _NOT_JAX)

    def sharding_metadata(self, name: str) -> ocp.metadata.ShardingMetadata | None:
        """How a jax.Array was sharded, as Orbax describes it."""
        number = self._numbers.get(name, _NOT_JAX)
        text = None if number == _NOT_JAX else self._shardings[number]
        return None if text is None else _described(text)

    def sharding(self, name: str) -> jax.sharding.Sharding | None:
        """How a jax.Array was sharded; None where this machine's devices do not allow that."""
        number = self._numbers.get(name, _NOT_JAX)
        text = None if number == _NOT_JAX else self._shardings[number]
        return None if text is None else _rebuilt(text)


@tree_util.register_pytree_with_keys_class
class TreeMetadata(Mapping[Any, Any]):
    """A checkpoint's tree of Orbax's metadata: `tree`, and what was saved as `custom_metadata`."""

    use_zarr3 = False

    def __init__(self, tree: Any, custom_metadata: Any = None) -> None:
        self.tree = tree
        self.custom_metadata = custom_metadata

    @classmethod
    def build(cls, tree: Any, *, custom_metadata: Any = None, use_zarr3: bool = False) -> TreeMetadata:
        """Another tree of the same form."""
        return cls(tree, custom_metadata)

    def __getitem__(self, key: Any) -> Any:
        return self.tree[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.tree)

    def __len__(self) -> int:
        return len(self.tree)

    def __repr__(self) -> str:
        return f"TreeMetadata(tree={self.tree!r}, custom_metadata={self.custom_metadata!r})"

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], Any]:
        """For JAX: its one child is the tree."""
        return [(tree_util.GetAttrKey("tree"), self.tree)], json.dumps(self.custom_metadata)

    def tree_flatten(self) -> tuple[list[Any], Any]:
        """For JAX."""
        return [self.tree], json.dumps(self.custom_metadata)

    @classmethod
    def tree_unflatten(cls, custom_metadata: Any, children: Sequence[Any]) -> TreeMetadata:
        """For JAX."""
        return cls(children[0], json.loads(custom_metadata))


def tree_metadata(reader: Reader, directory: Path) -> TreeMetadata:
    """Of an open checkpoint; reads no array, and needs none of the devices that it was saved on."""
    notes = Notes(reader)
    leaves = [(info.path, info.name, _leaf_metadata(info, notes, directory)) for info in reader.leaves()]
    return TreeMetadata(unflatten(leaves), notes.custom_metadata)


def _leaf_metadata(info: ArrayInfo, notes: Notes, directory: Path) -> Any:
    name = ".".join(str(key) for _, key in info.path)
    if info.kind in _SCALARS:
        return ocp.metadata.ScalarMetadata(name=name, directory=directory, dtype=_SCALARS[info.kind])
    if info.kind is Kind.STR:
        return ocp.metadata.StringMetadata(name=name, directory=directory)
    if info.kind is Kind.BYTES:
        return ocp.metadata.Metadata(name=name, directory=directory)
    if info.name in notes.empty_tuples:
        return None
    if not info.has_data:
        return {Kind.NONE: None, Kind.EMPTY_LIST: [], Kind.EMPTY_TUPLE: ()}.get(info.kind, {})
    sharding = notes.sharding_metadata(info.name)
    return ocp.metadata.ArrayMetadata(
        name=name, directory=directory, shape=info.shape, sharding=sharding, dtype=info.dtype
    )


def _serialized(sharding: jax.sharding.Sharding) -> str | None:
    kind = next((kind for known, kind in _SHARDINGS.items() if isinstance(sharding, known)), None)
    return None if kind is None else kind.from_jax_sharding(sharding).to_serialized_string()


@lru_cache(maxsize=1024)
def _described(text: str) -> ocp.metadata.ShardingMetadata:
    members = json.loads(text)
    if "device_str" in members:
        return ocp.metadata.SingleDeviceShardingMetadata.from_deserialized_dict(members)
    spec = members["partition_spec"]
    members["partition_spec"] = [tuple(axes) if isinstance(axes, list) else axes for axes in spec]
    return ocp.metadata.NamedShardingMetadata.from_deserialized_dict(members)


def _rebuilt(text: str) -> jax.sharding.Sharding | None:
    try:
        return _described(text).to_jax_sharding()
    except ValueError:  # another machine
        return None
