"""Training a flax NNX model that goes on where it stopped.

python examples/jax_nnx.py run 10      trains to step 10
python examples/jax_nnx.py run 20      goes on from the newest checkpoint, to step 20
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import ostraca
import ostraca.jax

SAVE_EVERY = 5


class Model(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(8, 64, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.second = nnx.Linear(64, 1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.second(self.dropout(nnx.relu(self.first(x))))


@nnx.jit
def train_step(model: Model, optimizer: nnx.Optimizer, step: jax.Array) -> jax.Array:
    x = jax.random.normal(jax.random.key(step), (32, 8))  # the data of a step depend on its number alone

    def loss_of(model: Model) -> jax.Array:
        return jnp.mean((model(x)[:, 0] - x.sum(axis=1)) ** 2)

    loss, gradients = nnx.value_and_grad(loss_of)(model)
    optimizer.update(model, gradients)
    return loss


def train(run: Path, until: int) -> float:
    """Trains to a step; returns the last loss."""
    model = Model(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
    state = nnx.state((model, optimizer))  # weights, moments, and the state of the dropout's random numbers
    found = sorted(run.glob("[0-9]*/manifest.json"))
    start = 0
    if found:
        checkpoint = found[-1].parent
        start = int(checkpoint.name)
        nnx.update((model, optimizer), ostraca.jax.load(checkpoint, like=state))
        print(f"goes on from step {start}")
    loss = jnp.nan
    for step in range(start, until):
        loss = train_step(model, optimizer, jnp.uint32(step))
        if (step + 1) % SAVE_EVERY == 0:
            ostraca.jax.save(run / f"{step + 1:08}", nnx.state((model, optimizer)), step=step + 1)
    print(f"step {until}: loss {float(loss):.6f}")
    return float(loss)


if __name__ == "__main__":
    train(Path(sys.argv[1]), int(sys.argv[2]))
