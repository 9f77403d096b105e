"""A training state on a mesh of fully sharded data parallelism x tensor parallelism, restored to another mesh.

    python examples/jax_fsdp_tp.py

Weights and Adam's moments are sharded over both axes, as in MaxText. The eight devices are simulated on the CPU.
"""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import ostraca.jax

VOCABULARY, WIDTH, HIDDEN, LAYERS = 256, 128, 512, 2
SPECS = {
    "embedding": P("tensor", "fsdp"),
    "up": P("fsdp", "tensor"),
    "down": P("tensor", "fsdp"),
    "scale": P(None),
}
SHAPES = {"embedding": (VOCABULARY, WIDTH), "up": (WIDTH, HIDDEN), "down": (HIDDEN, WIDTH), "scale": (WIDTH,)}
optimizer = optax.adamw(1e-3)


def init() -> Any:
    def weights(index: int, names: list[str]) -> dict[str, jax.Array]:
        keys = jax.random.split(jax.random.key(index), len(names))
        return {name: 0.02 * jax.random.normal(key, SHAPES[name]) for name, key in zip(names, keys, strict=True)}

    layers = [weights(i, ["up", "down", "scale"]) for i in range(LAYERS)]
    params = {"layers": layers, **weights(LAYERS, ["embedding"])}
    return {"params": params, "opt": optimizer.init(params), "step": jnp.int32(0), "rng": jax.random.key(0)}


def abstract_state(mesh: Mesh) -> Any:
    """Shapes, dtypes and shardings of the state on a mesh: nothing is allocated."""

    def place(path: Any, leaf: Any) -> jax.ShapeDtypeStruct:
        name = str(getattr(path[-1], "key", ""))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, SPECS.get(name, P())))

    return jax.tree.map_with_path(place, jax.eval_shape(init))


def loss_of(params: Any, tokens: jax.Array) -> jax.Array:
    x = params["embedding"][tokens[:, :-1]]
    for layer in params["layers"]:
        x = x + jax.nn.relu(x * (1 + layer["scale"]) @ layer["up"]) @ layer["down"]
    logits = x @ params["embedding"].T
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()


def train_step(state: Any) -> Any:
    rng, draw = jax.random.split(state["rng"])
    tokens = jax.random.randint(draw, (16, 32), 0, VOCABULARY)
    gradients = jax.grad(loss_of)(state["params"], tokens)
    updates, opt = optimizer.update(gradients, state["opt"], state["params"])
    return {"params": optax.apply_updates(state["params"], updates), "opt": opt, "step": state["step"] + 1, "rng": rng}


def mesh_of(fsdp: int, tensor: int) -> Mesh:
    return Mesh(np.array(jax.devices()[: fsdp * tensor]).reshape(fsdp, tensor), ("fsdp", "tensor"))


def shardings(abstract: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.sharding, abstract)


def main() -> None:
    first = abstract_state(mesh_of(4, 2))
    state = jax.jit(init, out_shardings=shardings(first))()
    step = jax.jit(train_step, donate_argnums=0, out_shardings=shardings(first))
    for _ in range(3):
        state = step(state)
    with tempfile.TemporaryDirectory() as directory:
        checkpoint = Path(directory) / "00000003"
        info = ostraca.jax.save(checkpoint, state, step=3)
        print(f"saved {info.logical_bytes / 1e6:.1f} MB from a mesh of 4 x 2 as {info.stored_bytes / 1e6:.1f} MB")
        for fsdp, tensor in ((2, 4), (8, 1), (1, 1)):
            other = abstract_state(mesh_of(fsdp, tensor))
            restored = ostraca.jax.load(checkpoint, like=other)
            assert shardings(restored) == shardings(other)
            assert jax.tree.all(jax.tree.map(same, restored, state))
            again = jax.jit(train_step, donate_argnums=0, out_shardings=shardings(other))(restored)
            print(f"restored to a mesh of {fsdp} x {tensor}, and trained on to step {int(again['step'])}")


def same(a: jax.Array, b: jax.Array) -> bool:
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
        a, b = jax.random.key_data(a), jax.random.key_data(b)
    return bool((np.asarray(a) == np.asarray(b)).all())


if __name__ == "__main__":
    main()
