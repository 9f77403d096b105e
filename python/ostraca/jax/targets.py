"""What the leaves of `like` ask for: which stored arrays become jax.Arrays, on which devices, and how."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

import jax
import numpy as np
from jax.experimental.layout import Format

from ..casting import Cast, converted, refusal
from ..errors import UnsupportedError
from ..fitting import stored_keys
from ..lowlevel import ArrayInfo
from ..matching import Match, check_differences
from ..tree import Kind, quoted
from .placing import Box, Placement, Shape, boxes
from .versions import get_mesh

_MESHES: Final = jax.sharding.Mesh | jax.sharding.AbstractMesh
_NO_ARRAY: Final = SimpleNamespace(shape=(0,), dtype=np.dtype(np.uint8))  # fits no stored value that is not an array


class Asked(NamedTuple):
    """Where an array shall be."""

    sharding: Any  # None: uncommitted on the default device
    layout: Any  # None: the default
    dtype: np.dtype[Any] | None  # None: as stored; of keys too
    weak_type: bool = False


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
    mesh = get_mesh()
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
    sharding = leaf.sharding if getattr(leaf, "committed", True) else None
    return Asked(sharding, layout, dtype, bool(getattr(leaf, "weak_type", False)))


def fitting_sharding(sharding: Any, shape: Shape) -> tuple[Any, str]:
    """A sharding over devices, and why it cannot be that of an array of this shape, if so.

    One over an abstract mesh, which `jax.eval_shape` gives under `jax.set_mesh`, is put on the mesh that is set.
    """
    if isinstance(sharding, jax.sharding.NamedSharding) and isinstance(sharding.mesh, jax.sharding.AbstractMesh):
        mesh = get_mesh()
        if dict(mesh.shape) != dict(sharding.mesh.shape):
            found = f"the mesh that is set has {dict(mesh.shape)}" if mesh.shape else "no mesh is set"
            axes = dict(sharding.mesh.shape)
            return (
                sharding,
                f"its sharding is over an abstract mesh of {axes}, and {found}; load under jax.set_mesh(mesh)",
            )
        sharding = jax.sharding.NamedSharding(mesh, sharding.spec, memory_kind=sharding.memory_kind)
    if sharding is not None:
        try:
            sharding.shard_shape(shape)
        except (ValueError, IndexError) as error:
            return sharding, f"{sharding} does not fit shape {shape}: {error}"
    return sharding, ""


class Targets:
    """For one load: remembers shardings, and gathers what cannot be had, so that one error lists it all."""

    def __init__(self, cast: Cast) -> None:
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
        sharding, misfit = fitting_sharding(want.sharding, shape)
        if misfit:
            self._refused.append(f"{quoted(info.name)}: {misfit}")
            return None
        key = (sharding, shape, inner)
        if key not in self._boxes:
            self._boxes[key] = boxes(*key)
        return Placement(
            info,
            shape,
            self._boxes[key],
            stored,
            dtype,
            self._cast,
            sharding,
            want.layout,
            key_impl,
            want.weak_type,
        )

    def fitted(self, value: Any, match: Match, leaf: Any) -> Any:
        """A number that was stored as Python's, as the array that a leaf is."""
        want = asked(leaf)
        if want is None:
            return value
        info = match.info
        array = converted(value, self._dtype(info.name, value.dtype, value.dtype), info.name, self._cast)
        sharding, misfit = fitting_sharding(want.sharding, ())
        if misfit:
            self._refused.append(f"{quoted(info.name)}: {misfit}")
            return value
        found, dtype = boxes(sharding, ()), array.dtype
        placement = Placement(info, (), found, dtype, dtype, self._cast, sharding, want.layout, None, want.weak_type)
        placement.put({(): array})
        return placement.array

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
        why = refusal(stored, held, self._cast) if self._cast else None
        if why:
            self._refused.append(f"{quoted(name)}: {why}")
        return held


@cache
def _is_known(dtype: np.dtype[Any]) -> bool:
    """Whether JAX has arrays of a dtype."""
    try:
        jax.device_put(np.empty(0, dtype))
    except Exception:  # TypeError, or what its runtime raises
        return False
    return True
