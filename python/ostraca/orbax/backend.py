"""Where arrays are saved and loaded for Orbax."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np

from ..jax.loading import load as load_jax
from ..lowlevel import ArrayInfo
from ..saving import save_async
from ..tree import Kind, flatten, unflatten

__all__ = ["load", "save_async"]

_VALUES: Final = {Kind.INT: 0, Kind.FLOAT: 0.0, Kind.BOOL: False, Kind.STR: "", Kind.BYTES: b""}


def load(path: Path, wanted: Mapping[str, tuple[ArrayInfo, Any, Any]]) -> dict[str, Any]:
    """Leaves by name: (stored, dtype or None, sharding or Format) of each. Without a sharding arrays are numpy's."""
    if not wanted:
        return {}
    like = unflatten([(info.path, info.name, _like(info, *how)) for info, *how in wanted.values()])
    loaded = load_jax(path, like=like, select=lambda name: name in wanted, cast=True)
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
