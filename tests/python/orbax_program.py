"""A process of a program that saves and restores through Orbax's manager (test_orbax_processes.py)."""

import resource
import signal
import sys

from processes import join, leave


def main() -> None:
    index, count, port = map(int, sys.argv[1:4])
    directory, task = sys.argv[4:6]
    join(index, count, port)
    import jax
    import numpy as np
    import orbax.checkpoint as ocp
    from jax.sharding import NamedSharding, PartitionSpec

    import ostraca.orbax

    devices = np.array(jax.devices())
    values = np.random.default_rng(0).standard_normal((64, 32768), np.float32)

    def spread(numbers: np.ndarray, shape: tuple[int, int], *spec: str | None) -> jax.Array:
        mesh = jax.sharding.Mesh(devices.reshape(shape), ("a", "b"))
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.make_array_from_callback(numbers.shape, sharding, lambda where: numbers[where])

    def state(step: int) -> dict[str, object]:
        return {"w": spread(values + step, (len(devices), 1), "a"), "step": step, "n": np.arange(3) + step}

    def assert_restored(manager: ocp.CheckpointManager, step: int) -> None:
        target = {"w": spread(values, (1, len(devices)), None, "b"), "step": 0, "n": np.zeros(3, int)}
        found = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target)))["state"]
        assert found["w"].sharding == target["w"].sharding
        for shard in found["w"].addressable_shards:
            np.testing.assert_array_equal(np.asarray(shard.data), values[shard.index] + step)
        assert found["step"] == step
        np.testing.assert_array_equal(found["n"], np.arange(3) + step)

    registry = ostraca.orbax.registry()
    options = ocp.CheckpointManagerOptions(max_to_keep=2)
    manager = ocp.CheckpointManager(directory, options=options, handler_registry=registry)
    if task == "restore":
        assert_restored(manager, 2)
        leave()
    for step in range(3):
        items = ocp.args.Composite(state=ocp.args.StandardSave(state(step)), notes=ocp.args.JsonSave({"step": step}))
        manager.save(step, args=items)
    manager.wait_until_finished()
    assert list(manager.all_steps()) == [1, 2]
    assert_restored(manager, 2)
    if task == "fail":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        if index == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, -1))
        try:
            manager.save(3, args=ocp.args.Composite(state=ocp.args.StandardSave(state(3))))
            manager.wait_until_finished()
        except Exception as error:
            print("raised", type(error).__name__, str(error).replace("\n", " "))
        resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
        manager.reload()
        assert manager.latest_step() == 2
        assert_restored(manager, 2)
    print("done", flush=True)
    leave()


main()
