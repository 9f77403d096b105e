"""A save does not wait for the directory that Orbax makes beside it. Where two are named, with stock Orbax and ours."""

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from orbax.checkpoint._src.multihost import multihost

import ostraca
import ostraca.jax
import ostraca.orbax
from orbax_plugs import Composite, JsonSave, Plug, StandardSave, assert_same, sharded, state
from ostraca import exiting

MIB = 1 << 20
PATIENCE_SECONDS = 60.0
ORBAXS_PATIENCE_SECONDS = 10  # in place of 300: its threads, which wait so long for a directory, hold up the exit


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multihost, "_DEFAULT_BARRIER_TIMEOUT", ORBAXS_PATIENCE_SECONDS)


Making = Callable[[str], object]


@pytest.fixture
def making(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Making], None]]:
    """Says what happens before a temporary directory is made."""
    before: list[Making] = [lambda _: None]
    makedirs = os.makedirs

    def patched(name: Any, *values: Any, **named: Any) -> None:
        if ocp.utils.TMP_DIR_SUFFIX in str(name):
            before[0](str(name))
        makedirs(name, *values, **named)

    monkeypatch.setattr(os, "makedirs", patched)
    yield lambda what: before.__setitem__(0, what)
    before[0] = lambda _: None


class Gate:
    """Closed until it is opened."""

    def __init__(self) -> None:
        self._opened = threading.Event()

    def __call__(self, _: str) -> None:
        assert self._opened.wait(PATIENCE_SECONDS)

    def open(self) -> None:
        self._opened.set()


def waiting() -> set[threading.Thread]:
    """The threads of Orbax's in which saves of ours wait for a directory."""
    return {thread for thread in threading.enumerate() if thread.name == "ostraca_directory"}


def no_save_runs() -> bool:
    end = time.monotonic() + PATIENCE_SECONDS
    while exiting.running() and time.monotonic() < end:
        time.sleep(0.01)
    return not exiting.running()


@pytest.mark.parametrize("composite", [False, True])
def test_save_returns_before_there_is_a_directory(plug: Plug, tmp_path: Path, making: Any, composite: bool) -> None:
    """By then everything is copied, or held where donation does not reach it."""
    gate = Gate()
    making(gate)
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    numbers = np.arange(3 * MIB, dtype=np.float32)
    arrays = {"w": sharded(np.ones((8, MIB // 8), np.float32), (8,), "a"), "n": jnp.zeros(3, jnp.int32)}
    expected = {"numbers": numbers.copy(), "arrays": jax.tree.map(jnp.copy, arrays)}
    args: Any = StandardSave({"numbers": numbers, "arrays": arrays})
    with plug.manager(tmp_path) as manager:
        manager.save(0, args=Composite(state=args, notes=JsonSave({"a": 1})) if composite else args)
        assert not list(tmp_path.iterdir())
        numbers[:] = -1
        jax.block_until_ready(step(arrays))
        gate.open()
        manager.wait_until_finished()
        found = manager.restore(0)
        assert_same(found["state"] if composite else found, expected)


def test_saves_and_steps_go_on_while_the_directory_is_late(plug: Plug, tmp_path: Path, making: Any) -> None:
    making(lambda _: time.sleep(0.2))
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = jnp.zeros((8, MIB // 8))
    with plug.manager(tmp_path) as manager:
        for number in range(4):
            manager.save(number, args=StandardSave({"x": x}))
            x = step(x)
        manager.wait_until_finished()
        for number in range(4):
            assert (np.asarray(manager.restore(number)["x"]) == number).all()


@pytest.mark.parametrize("which", ["step", "item"])
def test_a_directory_that_cannot_be_made_ends_the_save_at_once(
    plug: Plug, tmp_path: Path, making: Any, which: str
) -> None:
    def refuse(name: str) -> None:
        if (Path(name).parent == tmp_path) == (which == "step"):
            raise OSError(errno.EDQUOT, "no more for you", name)

    before = waiting()
    with plug.manager(tmp_path) as manager:
        making(refuse)
        manager.save(0, args=StandardSave(state(0)))
        with pytest.raises(OSError, match="no more for you"):
            manager.wait_until_finished()
        assert no_save_runs()
        assert waiting() - before or not plug.ours  # Orbax itself has not given up yet
        making(lambda _: None)
        manager.save(1, args=StandardSave(state(1)))
        manager.wait_until_finished()
        assert list(manager.all_steps()) == [1]
        assert_same(manager.restore(1), state(1))


def test_a_checkpointer_whose_directory_cannot_be_made(plug: Plug, tmp_path: Path, making: Any) -> None:
    def refuse(name: str) -> None:
        raise OSError(errno.EDQUOT, "no more for you", name)

    before = waiting()
    making(refuse)
    with plug.checkpointer(asynchronous=True) as checkpointer:
        checkpointer.save(tmp_path / "x", state())
        with pytest.raises(OSError, match="no more for you"):
            checkpointer.wait_until_finished()
        assert no_save_runs()
        assert waiting() - before or not plug.ours  # Orbax itself has not given up yet
    assert not list(tmp_path.iterdir())


def test_it_waits_as_long_as_orbax_does(tmp_path: Path, making: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multihost, "_DEFAULT_BARRIER_TIMEOUT", 1)
    gate = Gate()
    making(gate)
    handler = ostraca.orbax.Handler()
    with ocp.AsyncCheckpointer(handler) as checkpointer:
        checkpointer.save(tmp_path / "x", {"x": np.ones(3)})
        assert no_save_runs()
        gate.open()
        with pytest.raises(ostraca.OstracaError, match=r"did not make the directory .* in time"):
            checkpointer.wait_until_finished()
    assert not (tmp_path / "x").exists()


def test_what_cannot_be_stored_is_refused_at_once(tmp_path: Path, making: Any) -> None:
    gate = Gate()
    making(gate)
    with Plug(True).manager(tmp_path) as manager:
        with pytest.raises(ostraca.UnsupportedError, match="thing"):
            manager.save(0, args=StandardSave({"thing": object()}))
        gate.open()


def test_beyond_the_staging_budget_save_waits(tmp_path: Path, making: Any) -> None:
    gate = Gate()
    making(gate)
    numbers = np.arange(16 * MIB, dtype=np.float32)
    returned = threading.Event()
    checkpointer = ocp.AsyncCheckpointer(ostraca.orbax.Handler(staging_bytes=8 * MIB))

    def save() -> None:
        checkpointer.save(tmp_path / "x", {"numbers": numbers})
        returned.set()

    thread = threading.Thread(target=save)
    thread.start()
    assert not returned.wait(0.3)
    gate.open()
    thread.join(PATIENCE_SECONDS)
    assert returned.is_set()
    expected = numbers.copy()
    numbers[:] = -1
    checkpointer.wait_until_finished()
    assert_same(checkpointer.restore(tmp_path / "x"), {"numbers": expected})
    checkpointer.close()


# --- ostraca.jax.save_async(ready=...), which does it --------------------------------------------------------------


def test_ready_is_asked_until_it_says_so(tmp_path: Path) -> None:
    path, asked = tmp_path / "a" / "b", threading.Event()
    opened = threading.Event()

    def ready(seconds: float) -> bool:
        asked.set()
        return opened.wait(seconds)

    numbers = np.arange(3 * MIB)
    handle = ostraca.jax.save_async(path, {"x": numbers}, ready=ready)
    assert handle.copied()
    numbers[:] = 0
    assert asked.wait(PATIENCE_SECONDS)
    assert not path.exists()
    assert not handle.done()
    opened.set()
    handle.result(PATIENCE_SECONDS)
    np.testing.assert_array_equal(ostraca.load(path)["x"], np.arange(3 * MIB))


def test_what_ready_raises_fails_the_save(tmp_path: Path) -> None:
    def ready(seconds: float) -> bool:
        raise RuntimeError("there will be none")

    with pytest.raises(RuntimeError, match="there will be none"):
        ostraca.jax.save_async(tmp_path / "x", {"x": np.ones(3)}, ready=ready).result(PATIENCE_SECONDS)
    assert not (tmp_path / "x").exists()


def test_a_save_that_waits_can_be_cancelled(tmp_path: Path) -> None:
    def ready(seconds: float) -> bool:
        time.sleep(seconds)
        return False

    handle = ostraca.jax.save_async(tmp_path / "x", {"x": np.ones(3)}, ready=ready)
    assert handle.cancel()
    with pytest.raises(ostraca.CancelledError):
        handle.result(PATIENCE_SECONDS)
    assert not (tmp_path / "x").exists()
    assert no_save_runs()


def test_a_checkpoint_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    ostraca.save(tmp_path / "x", {"x": np.zeros(3)})
    with pytest.raises(ostraca.ExistsError):
        ostraca.jax.save_async(tmp_path / "x", {"x": np.ones(3)}, ready=lambda _: True).result(PATIENCE_SECONDS)
    np.testing.assert_array_equal(ostraca.load(tmp_path / "x")["x"], np.zeros(3))
