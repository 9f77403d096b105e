"""A process of a program that saves and loads through Orbax's v1 API (test_orbax_v1_processes.py)."""

import sys
from pathlib import Path
from typing import Any

from processes import join, leave


def main() -> None:
    index, count, port = map(int, sys.argv[1:4])
    directory, plug, task = Path(sys.argv[4]), sys.argv[5], sys.argv[6]
    join(index, count, port)
    import jax
    import numpy as np
    import orbax.checkpoint.experimental.v1 as ocp
    from jax.sharding import NamedSharding, PartitionSpec

    import ostraca.orbax.v1

    devices = np.array(jax.devices())
    assert len(devices) == 8
    values = np.random.default_rng(0).standard_normal((64, 1024), np.float32)

    def spread(numbers: np.ndarray, shape: tuple[int, int], *spec: str | None) -> jax.Array:
        sharding = NamedSharding(jax.sharding.Mesh(devices.reshape(shape), ("a", "b")), PartitionSpec(*spec))
        return jax.make_array_from_callback(numbers.shape, sharding, lambda where: numbers[where])

    def state(step: int) -> dict[str, Any]:
        return {"w": spread(values + step, (8, 1), "a"), "step": step, "n": np.arange(3) + step, "name": "run"}

    def assert_shards(found: jax.Array, sharding: Any, step: int) -> None:
        assert found.sharding == sharding
        for shard in found.addressable_shards:
            np.testing.assert_array_equal(np.asarray(shard.data), values[shard.index] + step)

    def assert_loaded(load: Any, step: int) -> None:
        other = spread(values, (2, 4), "b", "a")
        target = jax.ShapeDtypeStruct(other.shape, other.dtype, sharding=other.sharding)
        found = load({"w": target, "step": int, "n": np.ndarray, "name": str})
        assert_shards(found["w"], other.sharding, step)
        assert (found["step"], found["name"]) == (step, "run")
        np.testing.assert_array_equal(found["n"], np.arange(3) + step)
        if count == 1:
            return  # the devices that it was sharded over are not these
        found = load({"w": jax.Array, "step": float, "n": ..., "name": str})  # as it was sharded
        assert_shards(found["w"], state(0)["w"].sharding, step)
        assert (found["step"], found["n"]) == (float(step), ...)

    context = ocp.Context() if plug == "stock" else ostraca.orbax.v1.context()
    kept = ocp.training.preservation_policies.LatestN(2)
    with ocp.training.Checkpointer(directory, context=context, preservation_policy=kept) as checkpointer:
        if task == "save":
            for step in range(3):
                checkpointer.save(step, state(step))
        assert [checkpoint.step for checkpoint in checkpointer.checkpoints] == [1, 2]
        assert_loaded(lambda target: checkpointer.load(2, target), 2)
    with context:
        assert_loaded(lambda target: ocp.load(directory / "1", target), 1)
    print("done", flush=True)
    leave()


main()
