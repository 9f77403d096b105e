"""A process of a program that trains and checkpoints as MaxText does (test_orbax_v1_processes.py)."""

import sys
from pathlib import Path

from processes import join, leave


def main() -> None:
    index, count, port = map(int, sys.argv[1:4])
    directory, plug, task = Path(sys.argv[4]), sys.argv[5], sys.argv[6]
    join(index, count, port)
    sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
    import jax
    import numpy as np
    import orbax.checkpoint as ocp
    import orbax_maxtext as example

    def assert_same(found: object, expected: object) -> None:
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            shards = {shard.device: shard for shard in other.addressable_shards}
            assert (one.dtype, one.shape) == (other.dtype, other.shape)
            for shard in one.addressable_shards:
                np.testing.assert_array_equal(np.asarray(shard.data), np.asarray(shards[shard.device].data))

    assert jax.device_count() == 8
    handlers = {"items": ocp.PyTreeCheckpointHandler(), "iter": example.BatchesHandler()}
    stock = {"item_names": ("items", "iter"), "item_handlers": handlers} if plug == "stock" else {}
    mesh = jax.make_mesh((2, 4), ("replica", "fsdp"))
    state, batches = example.initial(mesh), example.Batches()
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("replica"))
    shape = (2 * example.BATCH, example.ROWS)
    if task == "save":
        with example.managed(directory, **stock) as manager:
            for step in range(3):
                example.save(manager, step, state, example.BatchesSave(batches))
                local = np.tile(next(batches), (2 // count, 1))
                batch = jax.make_array_from_process_local_data(sharding, local, shape)
                if step < 2:
                    state, _ = example.trained(state, batch)
            manager.wait_until_finished()
            assert manager.latest_step() == 2
            resumed = example.Batches()
            for one_replica in (False, True) if plug == "ours" else (False,):
                restored = example.BatchesRestore(resumed)
                found = example.restore(manager, example.abstract_state(mesh), restored, one_replica=one_replica)
                assert_same(found, state)
                assert resumed.get_state() == {"next": index + 2 * count}
        np.save(directory / f"kernel-{index}.npy", state.params["params"]["dense"]["kernel"].addressable_data(0))
    abstract = example.abstract_state(mesh).params
    handler = ocp.PyTreeCheckpointHandler() if plug == "stock" else None
    found = example.restore_parameters(directory / "2" / "items", abstract, handler)
    kernel = found["params"]["dense"]["kernel"]
    assert kernel.sharding == abstract["params"]["dense"]["kernel"].sharding
    np.testing.assert_array_equal(kernel.addressable_data(0), np.load(directory / f"kernel-{index}.npy"))
    print("done", flush=True)
    leave()


main()
