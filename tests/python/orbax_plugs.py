"""Stock Orbax, and stock Orbax on Ostraca: the same calls for both."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding, PartitionSpec

import ostraca.orbax

StandardSave, StandardRestore = ocp.args.StandardSave, ocp.args.StandardRestore
PyTreeSave, PyTreeRestore = ocp.args.PyTreeSave, ocp.args.PyTreeRestore
Composite, JsonSave, JsonRestore = ocp.args.Composite, ocp.args.JsonSave, ocp.args.JsonRestore


@dataclass
class Plug:
    ours: bool

    def manager(self, directory: Path, *, items: tuple[str, ...] = (), **options: Any) -> ocp.CheckpointManager:
        chosen = ocp.CheckpointManagerOptions(**options)
        if not self.ours:
            return ocp.CheckpointManager(directory, options=chosen)
        return ocp.CheckpointManager(directory, options=chosen, handler_registry=ostraca.orbax.registry(*items))

    def handler(self) -> Any:
        return ostraca.orbax.Handler() if self.ours else ocp.PyTreeCheckpointHandler()

    def checkpointer(self, *, asynchronous: bool = False) -> Any:
        return (ocp.AsyncCheckpointer if asynchronous else ocp.Checkpointer)(self.handler())

    def standard_checkpointer(self) -> Any:
        return ocp.AsyncCheckpointer(ostraca.orbax.Handler()) if self.ours else ocp.StandardCheckpointer()


def mesh(*shape: int) -> jax.sharding.Mesh:
    count = int(np.prod(shape))
    return jax.sharding.Mesh(np.array(jax.devices()[:count]).reshape(shape), ("a", "b", "c")[: len(shape)])


def sharded(values: Any, shape: tuple[int, ...], *spec: Any) -> jax.Array:
    return jax.device_put(values, NamedSharding(mesh(*shape), PartitionSpec(*spec)))


def state(seed: int = 0) -> dict[str, Any]:
    """A training state without what stock Orbax cannot hold."""
    numbers = np.random.default_rng(seed)
    return {
        "params": {
            "kernel": sharded(numbers.standard_normal((16, 8), np.float32), (4, 2), "a", "b"),
            "bias": jnp.asarray(numbers.standard_normal(8, np.float32)).astype(jnp.bfloat16),
        },
        "moments": [numbers.standard_normal((3, 5)), np.arange(7, dtype=np.int32)],
        "step": seed,
        "rate": 0.5,
    }


def abstract(tree: Any) -> Any:
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)


def assert_same(found: Any, expected: Any, *, shardings: bool = True) -> None:
    """The same structure, and of every leaf type, dtype, shape, bits and (of jax.Arrays) sharding."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for (path, one), other in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        where = jax.tree_util.keystr(path)
        if isinstance(other, jax.Array) and jax.dtypes.issubdtype(other.dtype, jax.dtypes.prng_key):
            assert one.dtype == other.dtype, where
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        assert isinstance(one, jax.Array) == isinstance(other, jax.Array), (where, type(one), type(other))
        assert isinstance(one, np.ndarray) == isinstance(other, np.ndarray), (where, type(one), type(other))
        if not hasattr(other, "dtype"):
            assert type(one) is type(other), where
            assert one == other, where
            continue
        assert (one.dtype, one.shape) == (other.dtype, other.shape), where
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes(), where
        if shardings and isinstance(other, jax.Array):
            assert one.sharding.is_equivalent_to(other.sharding, one.ndim), where
