"""The one place that saves and loads arrays for Orbax."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .. import loading, saving
from ..lowlevel import Reader
from ..tree import flatten

save_async = saving.save_async


def load(reader: Reader, path: Path, leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves by name: with a sharding as jax.Array, with None as numpy array or Python value."""
    if not leaves:
        return {}
    tree = loading.load(path, select=lambda name: name in leaves)
    loaded = {name: value for _, name, value in flatten(tree)}
    return {
        name: loaded[name] if sharding is None else jax.device_put(loaded[name], sharding)
        for name, sharding in leaves.items()
    }
