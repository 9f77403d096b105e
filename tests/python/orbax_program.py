"""A process of a program that saves and restores through Orbax's manager (test_orbax_processes.py)."""

import errno
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from processes import join, leave


def before_directories(what: Callable[[str], object]) -> None:
    """Called before Orbax makes a temporary one."""
    makedirs = os.makedirs

    def patched(name: Any, *values: Any, **named: Any) -> None:
        if ".orbax-checkpoint-tmp" in str(name):
            what(str(name))
        makedirs(name, *values, **named)

    os.makedirs = patched


def save_before_there_is_a_directory(manager: Any, index: int, state: Callable[[int], dict[str, Any]]) -> None:
    """Process 0's waits until both processes have gone on, and donated what they saved."""
    import jax
    import orbax.checkpoint as ocp
    from jax.experimental import multihost_utils

    go_on = threading.Event()
    if index == 0:
        before_directories(lambda _: go_on.wait(60))
    tree = state(3)
    manager.save(3, args=ocp.args.Composite(state=ocp.args.StandardSave(tree)))
    assert not [path for path in manager.directory.iterdir() if path.name.startswith("3")]
    tree["n"][:] = -1
    jax.block_until_ready(jax.jit(lambda x: x + 1, donate_argnums=0)(tree["w"]))
    multihost_utils.sync_global_devices("both went on")
    go_on.set()
    manager.wait_until_finished()


def save_without_a_directory(manager: Any, index: int, state: Callable[[int], dict[str, Any]]) -> None:
    """All processes hear of it at once, not when Orbax's barriers give up."""
    import orbax.checkpoint as ocp

    refuses = [True]

    def refuse(name: str) -> None:
        if refuses[0]:
            raise OSError(errno.EDQUOT, "no more for you", name)

    before_directories(refuse)
    try:
        manager.save(3, args=ocp.args.Composite(state=ocp.args.StandardSave(state(3))))
        manager.wait_until_finished()
    except Exception as error:
        print("raised", type(error).__name__, str(error).replace("\n", " "))
    refuses[0] = False
    waiting = [thread.name for thread in threading.enumerate() if thread.name == "ostraca_directory"]
    print("Orbax still waits" if waiting else "Orbax gave up")


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
    if task == "late":
        save_before_there_is_a_directory(manager, index, state)
        assert_restored(manager, 3)
    if task == "nowhere":
        save_without_a_directory(manager, index, state)
        manager.save(4, args=ocp.args.Composite(state=ocp.args.StandardSave(state(4))))
        manager.wait_until_finished()
        assert list(manager.all_steps()) == [2, 4]
        assert_restored(manager, 4)
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
