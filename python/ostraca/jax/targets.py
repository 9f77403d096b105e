"""What the leaves of `like` ask for: which stored arrays become jax.Arrays, on which devices, and how."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

import jax
import numpy as np
from jax.experimental.layout import Format

from ..errors import UnsupportedError
from ..lowlevel import ArrayInfo
from ..matching import check_differences, stored_keys
from ..tree import Kind, quoted
from .placing import Box, Placement, Shape, boxes

_MESHES: Final = jax.sharding.Mesh | jax.sharding.AbstractMesh
_NO_ARRAY: Final = SimpleNamespace(shape=(), dtype=np.dtype(np.uint8))


class Asked(NamedTuple):
    """Where an array shall be."""

    sharding: Any  # None: uncommitted on the default device
    layout: Any  # None: the default
    dtype: np.dtype[Any] | None  # None: as stored; of keys too


def is_sharding(like: Any) -> bool:
    """Whether it says where arrays shall be, of whatever shape."""
    return isinstance(like, jax.sharding.Sharding | Format | jax.sharding.PartitionSpec | _MESHES)


def on_current_mesh(leaf: Any) -> tuple[Any, str]:
    """A leaf with what it leaves open filled in, and why that cannot be, if so."""
    if isinstance(leaf, _MESHES):
        return leaf, (
            "a mesh says which devices there are, and not how an array lies on them: give"
            " jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(...)), or load under jax.set_mesh(mesh) with"
            " a PartitionSpec; an empty one puts a copy on each device"
        )
    if not isinstance(leaf, jax.sharding.PartitionSpec):
        return leaf, ""
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return (
            leaf,
            "a PartitionSpec is of a mesh, and none is set: load under jax.set_mesh(mesh), or give a NamedSharding",
        )
    return jax.sharding.NamedSharding(mesh, leaf), ""


def asked(leaf: Any) -> Asked | None:
    """What a leaf asks for; None where that is no jax.Array."""
    if isinstance(leaf, jax.sharding.Sharding):
        return Asked(leaf, None, None)
    if isinstance(leaf, Format):
        return Asked(leaf.sharding, leaf.layout, None)
    if not isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        return None
    if isinstance(leaf, jax.core.Tracer):
        raise UnsupportedError("like: a value being traced; load outside of jit, grad and vmap")
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        layout = dtype = None
    else:
        layout = None if isinstance(leaf, jax.Array) and leaf.is_deleted() else leaf.format.layout
        dtype = np.dtype(leaf.dtype)
    return Asked(leaf.sharding if getattr(leaf, "committed", True) else None, layout, dtype)


class Targets:
    """For one load: remembers shardings, and gathers what cannot be had, so that one error lists it all."""

    def __init__(self, cast: bool) -> None:
        self._cast = cast
        self._boxes: dict[tuple[Any, Shape, Shape], list[Box]] = {}
        self._refused: list[str] = []

    def described(self, leaf: Any, info: ArrayInfo | None) -> Any:
        """A leaf as the matcher shall see it: with the stored shape or dtype where it leaves these open."""
        if info is None:
            return leaf
        if is_sharding(leaf):
            if info.kind is Kind.PRNG_KEY:
                return stored_keys(info)
            return info if info.kind is Kind.ARRAY else _NO_ARRAY
        if (
            self._cast
            and info.kind is Kind.ARRAY
            and hasattr(leaf, "shape")
            and _is_plain(getattr(leaf, "dtype", None))
        ):
            return SimpleNamespace(shape=leaf.shape, dtype=info.dtype)
        return leaf

    def placement(self, info: ArrayInfo, leaf: Any) -> Placement | None:
        """How a leaf gets to the devices; None where it stays on the host."""
        leaf, why = on_current_mesh(leaf)
        if why:
            self._refused.append(f"{quoted(info.name)}: {why}")
            return None
        want = asked(leaf) if info.kind in (Kind.ARRAY, Kind.PRNG_KEY) else None
        if want is None:
            return None
        shape: Shape = info.shape
        inner: Shape = ()
        key_impl = None
        if info.kind is Kind.PRNG_KEY:
            shape, key_impl = stored_keys(info).shape, info.detail
            inner = info.shape[len(shape) :]
        stored = info.dtype.newbyteorder("=")
        dtype = self._dtype(info.name, stored, want.dtype)
        key = (want.sharding, shape, inner)
        try:
            if key not in self._boxes:
                self._boxes[key] = boxes(*key)
        except Exception as error:  # of several classes, IndexError among them
            self._refused.append(f"{quoted(info.name)}: {want.sharding} does not fit shape {shape}: {error}")
            return None
        return Placement(info.number, shape, self._boxes[key], stored, dtype, want.sharding, want.layout, key_impl)

    def check(self) -> None:
        """Raises `MismatchError` with all that cannot be had."""
        check_differences("`like` asks for what cannot be had", self._refused)

    def _dtype(self, name: str, stored: np.dtype[Any], want: np.dtype[Any] | None) -> np.dtype[Any]:
        """What an array is cast to."""
        dtype = stored if want is None else want
        if not _is_known(dtype):
            self._refused.append(f"{quoted(name)}: JAX has no dtype {dtype}; ask for a numpy array")
            return stored
        held: np.dtype[Any] = jax.dtypes.canonicalize_dtype(dtype)
        if held != dtype and not self._cast:
            self._refused.append(
                f"{quoted(name)}: JAX holds {dtype} only with jax_enable_x64; turn that on, or ask for a numpy array,"
                f" or pass cast=True for {held}"
            )
        if np.issubdtype(stored, np.complexfloating) and not np.issubdtype(held, np.complexfloating):
            self._refused.append(f"{quoted(name)}: {stored} cannot be cast to {held}")
        return held


@cache
def _is_known(dtype: np.dtype[Any]) -> bool:
    """Whether JAX has arrays of a dtype."""
    try:
        jax.device_put(np.empty(0, dtype))
    except Exception:  # TypeError, or what its runtime raises
        return False
    return True


def _is_plain(dtype: Any) -> bool:
    return dtype is not None and not jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)
