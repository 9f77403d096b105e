"""Checkpoints in the way of MaxText, through Orbax on Ostraca: a tree and a data iterator in each step.

    python examples/orbax_maxtext.py DIRECTORY 4      trains to step 4
    python examples/orbax_maxtext.py DIRECTORY 8      goes on from the newest step, to step 8

What differs from stock Orbax is `managed`: the manager gets a registry where it got `item_names` and `item_handlers`.
The state is replicated over one axis of the mesh and sharded over the other. Eight devices are simulated on the CPU.
"""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax.training.train_state import TrainState
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import ostraca.orbax

ROWS, COLUMNS, BATCH = 64, 32, 16
FILE_BYTES = 2 << 30  # for Orbax's own format; Ostraca takes it and has no use for it

# --- The data iterator, which knows its place: as Grain's iterators and Grain's handler of them -----------------------


class Batches:
    """Endless batches; one process's share of them."""

    def __init__(self) -> None:
        self._next = jax.process_index()

    def __next__(self) -> np.ndarray:
        batch = np.random.default_rng(self._next).standard_normal((BATCH, ROWS), np.float32)
        self._next += jax.process_count()
        return batch

    def get_state(self) -> dict[str, int]:
        return {"next": self._next}

    def set_state(self, state: dict[str, int]) -> None:
        self._next = state["next"]


class BatchesHandler(ocp.CheckpointHandler):
    """Each process's place, in a file of its own."""

    def save(self, directory: Path, args: "BatchesSave") -> None:
        self._file(directory).write_text(json.dumps(args.item.get_state()))

    def restore(self, directory: Path, args: "BatchesRestore") -> Batches:
        args.item.set_state(json.loads(self._file(directory).read_text()))
        return args.item

    def metadata(self, directory: Path) -> None:
        return None

    def _file(self, directory: Path) -> Path:
        return directory / f"process_{jax.process_index()}-of-{jax.process_count()}.json"


@ocp.args.register_with_handler(BatchesHandler, for_save=True)
@dataclass
class BatchesSave(ocp.args.CheckpointArgs):
    item: Batches


@ocp.args.register_with_handler(BatchesHandler, for_restore=True)
@dataclass
class BatchesRestore(ocp.args.CheckpointArgs):
    item: Batches


# --- Checkpoints ------------------------------------------------------------------------------------------------------


def managed(directory: Path, **handlers: Any) -> ocp.CheckpointManager:
    """A manager with the item "items" on Ostraca; "iter" has the handler that its arguments name."""
    return ocp.CheckpointManager(
        directory,
        options=ocp.CheckpointManagerOptions(max_to_keep=3, save_interval_steps=2, create=True),
        **(handlers or {"handler_registry": ostraca.orbax.registry("items")}),
    )


def save(manager: ocp.CheckpointManager, step: int, state: TrainState, iterator: BatchesSave) -> bool:
    """Saves where a step is due; returns when the state may change."""
    items = ocp.args.PyTreeSave(
        item=state,
        save_args=jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=FILE_BYTES), state),
        ocdbt_target_data_file_size=FILE_BYTES,
    )
    return bool(manager.save(step, args=ocp.args.Composite(items=items, iter=iterator)))


def restore(
    manager: ocp.CheckpointManager, abstract: TrainState, iterator: BatchesRestore, *, one_replica: bool = False
) -> TrainState:
    """The newest step, in the shardings of `abstract`; the iterator moves to its place.

    one_replica: with the arguments of Orbax's single-replica restore, which reads in the hosts of one replica and
    broadcasts. Ostraca takes them, and reads in each process what its devices need.
    """

    def args(leaf: jax.ShapeDtypeStruct) -> ocp.ArrayRestoreArgs:
        if not one_replica:
            return ocp.ArrayRestoreArgs(sharding=leaf.sharding)
        return ocp.type_handlers.SingleReplicaArrayRestoreArgs(
            sharding=leaf.sharding, global_shape=leaf.shape, dtype=leaf.dtype
        )

    items = ocp.args.PyTreeRestore(item=abstract, restore_args=jax.tree.map(args, abstract), partial_restore=True)
    return manager.restore(manager.latest_step(), args=ocp.args.Composite(items=items, iter=iterator))["items"]


def restore_parameters(path: Path, abstract: Any, handler: ocp.CheckpointHandler | None = None) -> Any:
    """The parameters alone, of the item at `path`: no moments are read."""
    args = ocp.args.PyTreeRestore(
        item={"params": abstract},
        restore_args={"params": ocp.checkpoint_utils.construct_restore_args(abstract)},
        partial_restore=True,
    )
    with ocp.Checkpointer(handler or ostraca.orbax.Handler()) as checkpointer:
        return checkpointer.restore(path, args=args)["params"]


# --- Training ---------------------------------------------------------------------------------------------------------


def created() -> TrainState:
    params = {
        "dense": {"kernel": 0.1 * jax.random.normal(jax.random.key(0), (ROWS, COLUMNS)), "bias": jnp.zeros(COLUMNS)}
    }
    return TrainState.create(apply_fn=None, params={"params": params}, tx=optax.adamw(1e-2))


def abstract_state(mesh: jax.sharding.Mesh) -> TrainState:
    """Shapes, dtypes and shardings on a mesh of replicas x fsdp: nothing is allocated."""

    def placed(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        spec = P("fsdp", None) if leaf.ndim == 2 else P()
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree.map(placed, jax.eval_shape(created))


def initial(mesh: jax.sharding.Mesh) -> TrainState:
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(mesh))
    return jax.jit(created, out_shardings=shardings)()


@jax.jit
def trained(state: TrainState, batch: jax.Array) -> tuple[TrainState, jax.Array]:
    def loss_of(params: Any) -> jax.Array:
        dense = params["params"]["dense"]
        return jnp.mean((batch @ dense["kernel"] + dense["bias"] - batch[:, :COLUMNS]) ** 2)

    loss, gradients = jax.value_and_grad(loss_of)(state.params)
    return state.apply_gradients(grads=gradients), loss


def main() -> None:
    directory, until = Path(sys.argv[1]).absolute(), int(sys.argv[2])
    mesh = jax.make_mesh((2, 4), ("replica", "fsdp"))
    batches = Batches()
    with managed(directory) as manager:
        if manager.latest_step() is None:
            state = initial(mesh)
        else:
            state = restore(manager, abstract_state(mesh), BatchesRestore(batches))
            print(f"goes on from step {int(state.step)}")
        for step in range(int(state.step) + 1, until + 1):
            state, loss = trained(state, next(batches))
            save(manager, step, state, BatchesSave(batches))
            print(f"step {step}: loss {loss:.6f}")
        manager.wait_until_finished()


if __name__ == "__main__":
    main()
