"""Which releases of JAX this release of Ostraca works with, and the names that some of them lack."""

from __future__ import annotations

from typing import Any, Final

import jax
from jax import tree_util

OLDEST: Final = (0, 8)
SUPPORTED: Final = "0.8 to 0.12"  # what `make test-versions` tries

if jax.__version_info__[:2] < OLDEST:
    raise ImportError(
        f"ostraca.jax works with jax {SUPPORTED}, and this is {jax.__version__}: pip install --upgrade jax", name="jax"
    )


def _is_registered(kind: type) -> bool:
    from jax._src.tree_util import _registry  # which no public function shows before 0.10

    return kind in _registry


def _concrete_mesh() -> Any:
    from jax._src.mesh import get_concrete_mesh  # the same under another name before 0.9

    return get_concrete_mesh()


is_tree_node: Final[Any] = getattr(tree_util, "is_tree_node", _is_registered)
get_mesh: Final[Any] = getattr(jax.sharding, "get_mesh", _concrete_mesh)  # of `jax.set_mesh`; without one an empty mesh
