"""What users ask of Orbax and do not get, each named after the issue it was asked in."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from orbax.checkpoint._src.multihost import multihost

import ostraca
import ostraca.orbax
from orbax_plugs import (
    Plug,
    PyTreeRestore,
    PyTreeSave,
    StandardRestore,
    StandardSave,
    abstract,
    assert_same,
    state,
)

MIB = 1 << 20


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A manager's directory with one step, 1."""
    with manager(tmp_path / "run") as saving:
        saving.save(1, args=StandardSave(state(1)))
        saving.wait_until_finished()
    return tmp_path / "run"


def manager(directory: Path, **options: Any) -> ocp.CheckpointManager:
    return Plug(True).manager(directory, **options)


def run(code: str, *arguments: object, devices: int = 1) -> str:
    """What a program of its own prints."""
    code = "import jax, numpy as np, orbax.checkpoint as ocp, ostraca.orbax, sys\n" + textwrap.dedent(code)
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=200).stdout


def test_damage_is_detected(saved: Path) -> None:
    """Checksums over all that is stored."""
    (file,) = (saved / "1" / "default").glob("p00000-*.ostraca")
    data = bytearray(file.read_bytes())
    chunk = ostraca.Reader(saved / "1" / "default").chunks("params/kernel")[0]
    data[chunk.offset + chunk.stored_bytes // 2] ^= 4
    file.write_bytes(data)
    with manager(saved) as restoring, pytest.raises(ostraca.CorruptionError, match="params/kernel"):
        restoring.restore(1)
    damaged = ostraca.verify(saved / "1" / "default").damaged
    assert damaged
    assert all("params" in damage.array for damage in damaged)


def test_648_683_2473_restores_without_the_topology_it_was_saved_on(saved: Path) -> None:
    """On one device what was sharded over eight, by somebody who knows nothing of it."""
    assert jax.device_count() == 8
    code = """
        manager = ocp.CheckpointManager(sys.argv[1], handler_registry=ostraca.orbax.registry())
        state = manager.restore(1)
        assert type(state["params"]["kernel"]) is np.ndarray, type(state["params"]["kernel"])
        np.save(sys.argv[2], state["params"]["kernel"])
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state["params"])
        one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        args = ocp.args.StandardRestore({**state, "params": shapes}, fallback_sharding=one)
        kernel = manager.restore(1, args=args)["params"]["kernel"]
        assert kernel.sharding == one
        np.testing.assert_array_equal(kernel, state["params"]["kernel"])
        print(jax.device_count())
    """
    assert run(code, saved, saved.parent / "kernel.npy").split() == ["1"]
    assert_same(np.load(saved.parent / "kernel.npy"), np.asarray(state(1)["params"]["kernel"]))


@pytest.mark.parametrize("leaf", [jax.ShapeDtypeStruct((3,), jnp.float32), np.zeros(3), 5])
def test_331_487_a_partial_restore_keeps_what_is_not_stored_and_says_so(
    saved: Path, leaf: Any, caplog: pytest.LogCaptureFixture
) -> None:
    item = {"params": {"bias": 0, "scale": leaf}}
    with manager(saved) as restoring, caplog.at_level("WARNING", "ostraca"):
        restored = restoring.restore(1, args=PyTreeRestore(item=item, partial_restore=True))
        assert restored["params"]["scale"] is leaf
        assert "keep the target's values: 'params/scale'" in caplog.text
        with pytest.raises(ValueError, match="'params/scale': in the target, not stored"):
            restoring.restore(1, args=PyTreeRestore(item=item))


def test_331_487_a_partial_restore_keeps_what_is_said_to_be_new(saved: Path) -> None:
    item = {"params": {"bias": 0, "scale": ocp.PLACEHOLDER}}
    with manager(saved) as restoring:
        restored = restoring.restore(1, args=PyTreeRestore(item=item, partial_restore=True))
    assert restored["params"]["scale"] is ...
    assert_same(restored["params"]["bias"], state(1)["params"]["bias"])


@pytest.mark.parametrize("partial", [False, True])
def test_2972_another_shape_fails_whatever_is_asked_for(saved: Path, partial: bool) -> None:
    for leaf in (np.zeros((3, 4)), jax.ShapeDtypeStruct((3, 4), np.float64), jnp.zeros((3, 4))):
        item = state(1)
        item["moments"][0] = leaf
        args = ostraca.orbax.Restore(item, partial_restore=partial)
        with manager(saved) as restoring, pytest.raises(ValueError, match=r"moments/0.*\(3, 4\).*\(3, 5\)"):
            restoring.restore(1, args=args)


def test_a_partial_restore_reads_a_part(tmp_path: Path) -> None:
    tree = {"small": np.arange(5), "large": np.random.default_rng(0).bytes(16 * MIB)}
    handler = ostraca.orbax.Handler()
    handler.save(tmp_path / "x", tree)
    (file,) = (tmp_path / "x").glob("p00000-*.ostraca")
    with ostraca.Reader(tmp_path / "x") as reader:
        chunk = reader.chunks("large")[2]
    with file.open("r+b") as data:
        data.seek(chunk.offset)
        data.write(bytes(4096))
    args = PyTreeRestore(item={"small": 0}, partial_restore=True)
    assert_same(handler.restore(tmp_path / "x", args=args), {"small": tree["small"]})
    with pytest.raises(ostraca.CorruptionError):
        handler.restore(tmp_path / "x")


def test_1640_2090_memory_is_bounded(tmp_path: Path) -> None:
    """Beyond the state itself: 256 MiB for a save, as much for a restore of the whole."""
    code = """
        import jax.numpy as jnp, resource
        def peak():
            return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) // 1024
        def resident():
            return int(next(l for l in open("/proc/self/status") if l.startswith("VmRSS")).split()[1]) // 1024
        def state():
            return {f"w{i}": jax.random.normal(jax.random.key(i), (16, 1 << 20)) for i in range(8)}
        manager = ocp.CheckpointManager(sys.argv[1], handler_registry=ostraca.orbax.registry())
        if sys.argv[2] == "save":
            tree = jax.block_until_ready(state())
            open("/proc/self/clear_refs", "w").write("5")
            before = resident()
            for step in range(3):
                manager.save(step, args=ocp.args.StandardSave(tree))
            manager.wait_until_finished()
            print(peak() - before)
        else:
            like = jax.eval_shape(state)
            one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
            like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), like)
            before = resident()
            tree = manager.restore(2, args=ocp.args.StandardRestore(like))
            print(peak() - before - 512)
        """
    assert int(run(code, tmp_path / "run", "save").split()[-1]) <= 256
    assert int(run(code, tmp_path / "run", "restore").split()[-1]) <= 256


def test_605_errors_of_asynchronous_saves_surface(tmp_path: Path) -> None:
    """A disk that is full in the middle of a save: the next call raises, and the steps before it stay."""
    code = """
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        manager = ocp.CheckpointManager(sys.argv[1], handler_registry=ostraca.orbax.registry())
        tree = {"x": np.random.default_rng(0).standard_normal(1 << 20)}
        manager.save(0, args=ocp.args.StandardSave(tree))
        manager.wait_until_finished()
        for ask in (manager.wait_until_finished, lambda: manager.save(2, args=ocp.args.StandardSave(tree))):
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, -1))
            manager.save(1, args=ocp.args.StandardSave(tree))
            while manager.is_saving_in_progress():
                pass
            try:
                ask()
            except OSError as error:
                print(error.errno)
            resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
            manager.reload()
            print(manager.latest_step())
        manager.save(3, args=ocp.args.StandardSave(tree))
        manager.wait_until_finished()
        np.testing.assert_array_equal(manager.restore(3)["x"], tree["x"])
        print(manager.all_steps())
    """
    assert run(code, tmp_path / "run").splitlines() == ["27", "0", "27", "0", "[0, 3]"]


def test_605_a_directory_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multihost, "_DEFAULT_BARRIER_TIMEOUT", 5)  # Orbax's threads hold up the exit so long
    with manager(tmp_path / "run") as saving:
        shutil.rmtree(tmp_path / "run")
        (tmp_path / "run").write_text("in the way")
        saving.save(1, args=StandardSave(state(1)))
        with pytest.raises(NotADirectoryError):
            saving.wait_until_finished()


def test_flax_5030_int_keys_stay_int(tmp_path: Path) -> None:
    tree = {1: np.arange(3), 2: {10: jnp.ones(2), -5: None}, 3: {"1": 3}}
    checkpointer = Plug(True).checkpointer()
    checkpointer.save(tmp_path / "x", args=PyTreeSave(tree))
    assert_same(checkpointer.restore(tmp_path / "x"), tree)
    assert_same(checkpointer.restore(tmp_path / "x", args=StandardRestore(abstract(tree))), tree)
    assert set(checkpointer.metadata(tmp_path / "x").item_metadata.tree) == {1, 2, 3}


def test_2587_arrays_without_elements(tmp_path: Path) -> None:
    tree = {"numpy": np.zeros((0, 4)), "jax": jnp.zeros((3, 0), jnp.bfloat16), "other": np.ones(1)}
    checkpointer = Plug(True).checkpointer()
    checkpointer.save(tmp_path / "x", tree)
    assert_same(checkpointer.restore(tmp_path / "x"), tree)
    assert_same(checkpointer.restore(tmp_path / "x", abstract(tree)), tree)


def test_803_object_arrays_are_refused_by_name(tmp_path: Path) -> None:
    with manager(tmp_path / "run") as saving:
        with pytest.raises(ostraca.UnsupportedError, match="params/names"):
            saving.save(1, args=PyTreeSave({"params": {"names": np.array(["a", None], object)}}))
        saving.save(2, args=StandardSave(state(2)))
        saving.wait_until_finished()
        assert list(saving.all_steps()) == [2]
        assert_same(saving.restore(2), state(2))


@pytest.mark.parametrize("what", ["run", "step", "item"])
def test_394_copies_are_whole(saved: Path, tmp_path: Path, what: str) -> None:
    """Nothing in a checkpoint knows its place: cp of a run, of a step, of an item."""
    source, target = {
        "run": (saved, tmp_path / "copy"),
        "step": (saved / "1", tmp_path / "copy" / "7"),
        "item": (saved / "1" / "default", tmp_path / "copy" / "7" / "default"),
    }[what]
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-r", source, target], check=True)
    shutil.rmtree(saved)
    step = 1 if what == "run" else 7
    assert ostraca.verify(tmp_path / "copy" / str(step) / "default", deep=True).ok
    if what == "item":
        assert_same(ostraca.orbax.Handler().restore(target), state(1))
        return
    with manager(tmp_path / "copy") as restoring:
        assert_same(restoring.restore(step), state(1))


def test_626_donation_does_not_reach_what_is_being_saved(tmp_path: Path) -> None:
    """Each step donates the state whose save it has just begun."""
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    tree = {"w": jnp.zeros((8, MIB // 4)), "n": jnp.zeros(3, jnp.int32)}
    with manager(tmp_path / "run") as saving:
        for number in range(12):
            saving.save(number, args=StandardSave(tree))
            tree = step(tree)
        saving.wait_until_finished()
        for number in range(12):
            restored = saving.restore(number)
            assert (np.asarray(restored["w"]) == number).all()
            assert (np.asarray(restored["n"]) == number).all()
