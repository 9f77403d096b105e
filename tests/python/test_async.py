"""save_async: its two completion points, and all the ways a save can end."""

import asyncio
import contextlib
import gc
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ostraca
from ostraca import leaves, saving
from ostraca.tree import flatten

WEIGHTS = np.random.default_rng(0).standard_normal(1 << 20).astype(np.float32)


class Gate:
    """A progress callback that holds a save back, before its commit, until it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._open = threading.Event()

    def __call__(self, done: int, total: int) -> None:
        self.reached.set()
        assert self._open.wait(60)

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    seen: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: seen.append(args.exc_value.__cause__ or args.exc_value))
    return seen


def wait_for(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def fail(done: int, total: int) -> None:
    raise ZeroDivisionError("a progress callback's own")


def test_two_completion_points(path: Path, gate: Gate) -> None:
    weights = WEIGHTS.copy()
    handle = ostraca.save_async(path, {"w": weights}, step=3, progress=gate)
    assert handle.copied() and not handle.done() and not (path / "manifest.json").exists()
    handle.wait_copied()
    weights[:] = 0  # the caller goes on
    with pytest.raises(TimeoutError, match="still running"):
        handle.result(timeout=0.01)
    with pytest.raises(TimeoutError):
        handle.exception(timeout=0)
    assert "running" in repr(handle)
    gate.open()
    info = handle.result(timeout=60)
    assert handle.done() and handle.exception() is None and info.step == 3
    assert handle.progress() == (WEIGHTS.nbytes, WEIGHTS.nbytes)
    assert (ostraca.load(path)["w"] == WEIGHTS).all()
    assert info.stall_seconds < info.seconds
    handle.wait_copied(timeout=0)
    assert not handle.cancel() and "committed" in repr(handle)


@pytest.mark.parametrize("round", range(5))
def test_mutation_after_copied(path: Path, round: int) -> None:
    tree = [np.full(1 << 18, i, np.float32) for i in range(20)] + [np.full(5, i) for i in range(500)]
    handle = ostraca.save_async(path, tree, return_early=True)
    handle.wait_copied()
    for array in tree:
        array[:] = -1
    handle.result()
    for loaded, i in zip(ostraca.load(path), [*range(20), *range(500)], strict=True):
        assert (loaded == i).all()


def test_return_early(path: Path) -> None:
    handle = ostraca.save_async(path, WEIGHTS, return_early=True, progress=None)
    handle.wait_copied(timeout=60)
    assert handle.copied()
    assert handle.result().stall_seconds <= handle.result().seconds


def test_donation_after_the_call(path: Path, gate: Gate) -> None:
    step = jax.jit(lambda x: x * 2 + 1, donate_argnums=0)
    x = step(jnp.arange(1 << 20, dtype=jnp.float32))
    expected = np.array(x)
    handle = ostraca.save_async(path, {"x": x}, progress=gate, return_early=True)
    for _ in range(5):
        x = step(x)
    x.block_until_ready()
    gate.open()
    handle.result()
    assert (ostraca.load(path)["x"] == expected).all()


def test_small_staging_budget_warns_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "_warned_of_staging", False)
    tree = [WEIGHTS + i for i in range(8)]
    with pytest.warns(RuntimeWarning, match="staging_bytes") as caught:
        info = ostraca.save_async(path, tree, staging_bytes=1 << 20).result()
    assert caught[0].filename == __file__ and info.stall_seconds > 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ostraca.save_async(path, tree, staging_bytes=1 << 20, overwrite=True).result()
    for i, loaded in enumerate(ostraca.load(path)):
        assert (loaded == WEIGHTS + i).all()


class FedBytes:
    """Stands for arrays on accelerators, which the test machine has not: only its size is asked for."""

    nbytes = 256 << 20

    def __call__(self, writer: Any, step: Any, *, limit: int) -> None:
        pytest.fail("nothing is saved here")


@pytest.mark.parametrize("short", [0, 1])
@pytest.mark.parametrize("feed", [None, FedBytes()])
def test_a_staging_budget_that_holds_everything_is_enough(feed: FedBytes | None, short: int) -> None:
    specs = leaves.specs(flatten({"w": WEIGHTS}))
    budget = WEIGHTS.nbytes + (feed.nbytes if feed else 0) - short
    arguments = dict.fromkeys(("base", "progress", "chunk_shape", "threads", "coding_bytes", "step", "metadata"))
    arguments |= {"path": "c", "tree": {}, "codec": "auto", "io": "auto", "overwrite": False, "staging_bytes": budget}
    request = saving.Request(arguments, asynchronous=True)
    request.stage(saving.Content(specs, feed))
    assert (request.unstaged is not None) == (short > 0)
    assert request.writer["staging_bytes"] <= budget


@pytest.mark.parametrize("when", ["before", "after"])
def test_cancel(path: Path, gate: Gate, when: str) -> None:
    handle = ostraca.save_async(path, {"w": WEIGHTS}, progress=gate, return_early=True)
    if when == "after":
        gate.reached.wait(60)
    assert handle.cancel()
    gate.open()
    for ask in (handle.result, handle.wait_copied):
        with pytest.raises(ostraca.CancelledError, match="cancelled"):
            ask(timeout=60)
    assert isinstance(handle.exception(), ostraca.CancelledError) and handle.done() and not handle.cancel()
    assert not path.exists()


def test_cancel_leaves_the_old_checkpoint(path: Path, gate: Gate) -> None:
    ostraca.save(path, {"old": 1})
    before = sorted(path.iterdir())
    handle = ostraca.save_async(path, {"new": WEIGHTS}, overwrite=True, progress=gate)
    handle.cancel()
    gate.open()
    assert isinstance(handle.exception(60), ostraca.CancelledError)
    assert sorted(path.iterdir()) == before and ostraca.load(path) == {"old": 1}


def test_failure_surfaces_everywhere(path: Path) -> None:
    handle = ostraca.save_async(path, {"w": WEIGHTS}, progress=fail)
    for ask in (handle.result, handle.wait_copied):
        with pytest.raises(ZeroDivisionError, match="own"):
            for _ in range(2000):  # wait_copied: until the error is known
                ask()
                time.sleep(0.001)
    assert isinstance(handle.exception(), ZeroDivisionError) and "failed" in repr(handle)
    assert handle.copied() and not path.exists()


def test_failure_while_the_caller_waits(path: Path) -> None:
    """The data file cannot be written, and the caller is still inside save_async."""
    for _ in range(20):
        with contextlib.suppress(ZeroDivisionError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            handle = ostraca.save_async(path, [WEIGHTS + i for i in range(8)], progress=fail, staging_bytes=1 << 20)
            handle.result()
        assert not path.exists()


def test_unlooked_at_failure_is_reported(path: Path, unraisable: list[Any], gate: Gate) -> None:
    handle = ostraca.save_async(path, 1, progress=fail)
    wait_for(handle.done)
    assert not unraisable
    del handle  # after the failure
    gc.collect()
    assert [type(error) for error in unraisable] == [ZeroDivisionError]

    def late(done: int, total: int) -> None:
        gate(done, total)
        raise KeyError("late")

    del unraisable[:]
    ostraca.save_async(path, 1, progress=late)  # dropped before the failure
    gate.open()
    wait_for(lambda: unraisable)
    assert type(unraisable[0]) is KeyError


def test_seen_and_cancelled_failures_are_not_reported(path: Path, unraisable: list[Any], gate: Gate) -> None:
    handle = ostraca.save_async(path, 1, progress=fail)
    handle.exception()
    del handle
    handle = ostraca.save_async(path, 1, progress=gate)
    handle.cancel()
    gate.open()
    wait_for(handle.done)
    del handle
    gc.collect()
    assert not unraisable


def test_dropped_handle_finishes_its_save(path: Path) -> None:
    ostraca.save_async(path, {"w": WEIGHTS})
    wait_for(lambda: (path / "manifest.json").exists())
    assert (ostraca.load(path)["w"] == WEIGHTS).all()


def test_awaiting(path: Path, gate: Gate) -> None:
    async def main() -> None:
        first = ostraca.save_async(path, 1)
        second = ostraca.save_async(path.with_name("other"), 2, progress=gate)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(_awaited(second), 0.01)
        assert not second.done()  # the save goes on
        gate.open()
        infos = await asyncio.gather(_awaited(first), _awaited(second))
        assert infos[0].path == str(path) and await second is infos[1]
        with pytest.raises(ostraca.ExistsError):
            await ostraca.save_async(path, 1)
        with pytest.raises(ZeroDivisionError):
            await ostraca.save_async(path.with_name("third"), 3, progress=fail)

    asyncio.run(main())


async def _awaited(handle: ostraca.SaveHandle) -> ostraca.SaveInfo:
    return await handle


def test_many_at_once(tmp_path: Path) -> None:
    handles = [ostraca.save_async(tmp_path / str(i), {"w": WEIGHTS[: 1000 * i], "i": i}) for i in range(12)]
    for i, handle in enumerate(handles):
        assert handle.result().arrays == 2
        assert ostraca.load(tmp_path / str(i))["i"] == i


def test_handles_from_other_threads(path: Path, gate: Gate) -> None:
    handle = ostraca.save_async(path, WEIGHTS, progress=gate)
    results: list[ostraca.SaveInfo] = []
    threads = [threading.Thread(target=lambda: results.append(handle.result())) for _ in range(5)]
    for thread in threads:
        thread.start()
    gate.open()
    for thread in threads:
        thread.join()
    assert len(results) == 5 and len({id(result) for result in results}) == 1


def test_nothing_is_written_when_a_leaf_is_refused(path: Path) -> None:
    with pytest.raises(ostraca.UnsupportedError, match="'b'"):
        ostraca.save_async(path, {"a": WEIGHTS, "b": object()})
    assert not path.exists()


def run(code: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=120, **options
    )


def test_exit_waits_for_saves(path: Path) -> None:
    code = """
import sys, time, numpy as np, ostraca
def slow(done, total): time.sleep(0.5)
handle = ostraca.save_async(sys.argv[1], np.arange(1 << 20), progress=slow)
"""
    done = run(code, path)
    assert done.returncode == 0 and not done.stderr
    assert (ostraca.load(path) == np.arange(1 << 20)).all()


@pytest.mark.parametrize("drop", ["", "del handle"])
def test_exit_reports_failures(path: Path, drop: str) -> None:
    code = f"""
import sys, time, numpy as np, ostraca
def slow(done, total):
    time.sleep(0.3)
    raise KeyError("lost")
handle = ostraca.save_async(sys.argv[1], 1, progress=slow)
{drop}
"""
    done = run(code, path)
    assert (
        done.returncode == 0
        and f"{str(path)!r} failed, and nobody asked for its result: KeyError('lost')" in done.stderr
    )


def test_exit_gives_up_in_the_end(path: Path) -> None:
    code = """
import sys, time, ostraca.exiting
ostraca.exiting.EXIT_WAIT_SECONDS = 0.1
def slow(done, total): time.sleep(1)
handle = ostraca.save_async(sys.argv[1], 1, progress=slow)
"""
    done = run(code, path)
    assert "exit cancelled the save" in done.stderr
    assert not path.exists()


def test_forked_child(path: Path) -> None:
    code = """
import os, sys, numpy as np, threading, ostraca
gate = threading.Event()
path, other, early = sys.argv[1:]
handle = ostraca.save_async(path, {"w": np.arange(1 << 20)}, progress=lambda done, total: gate.wait())
finished = ostraca.save_async(other, 5)
finished.result()
ckpt = ostraca.open(other)
pid = os.fork()
if pid == 0:
    for ask in (handle.result, handle.done, handle.copied, handle.cancel, handle.wait_copied, handle.progress):
        try: ask()
        except ostraca.OstracaError as error: assert "forked child" in str(error), error
        else: raise AssertionError(ask)
    assert path in repr(handle)
    assert ckpt.value("") == 5                          # an open checkpoint still reads
    assert ostraca.load(other) == 5                     # and the child has threads of its own
    ostraca.save(other, {"w": np.ones(1 << 20)}, overwrite=True)
    assert (ostraca.load(other)["w"] == 1).all()
    del handle
    if early == "exit": sys.exit(0)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
gate.set()
handle.result()
assert (ostraca.load(path)["w"] == np.arange(1 << 20)).all()
"""
    for early in ("exit", "_exit"):
        done = run(code, path.with_name(early), path.with_name("other" + early), early)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("early", [False, True])
def test_interrupt_while_waiting_for_the_copy(path: Path, early: bool) -> None:
    code = """
import sys, time, numpy as np, ostraca
tree = np.broadcast_to(np.random.default_rng(0).standard_normal(1 << 13), (1 << 20, 1 << 13))  # 64 GiB to copy
def slow(done, total):
    print("saving", flush=True)
    time.sleep(1)
try: ostraca.save_async(sys.argv[1], tree, staging_bytes=1 << 20, threads=1, progress=slow)
except KeyboardInterrupt: print("interrupted", flush=True)
"""
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "saving\n"
    if not early:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.stdout.read().split()[-1] == "interrupted"
    assert process.wait(60) == 0
    assert not path.exists() or (path / "manifest.json").exists()


def test_sync_saves_in_threads(tmp_path: Path) -> None:
    threads = [
        threading.Thread(target=ostraca.save, args=(tmp_path / str(i), {"w": WEIGHTS, "i": i})) for i in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ostraca.load(saved)["i"] for saved in tmp_path.iterdir()) == list(range(6))


def test_a_relative_path_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    handle = ostraca.save_async("relative", {"w": WEIGHTS})
    monkeypatch.chdir(tmp_path / "other")
    handle.result()
    assert ostraca.verify(tmp_path / "relative").ok


def test_a_signal_handlers_exception_passes_through(tmp_path: Path) -> None:
    script = """
import signal, sys, numpy as np, ostraca
class Preempted(Exception):
    pass
def handler(number, frame):
    raise Preempted
signal.signal(signal.SIGALRM, handler)
state = {f"w{i}": np.random.default_rng(i).standard_normal(2**21) for i in range(24)}
signal.setitimer(signal.ITIMER_REAL, 0.05)
try:
    for i in range(200):
        ostraca.save_async(sys.argv[1], state, staging_bytes=2**23, overwrite=True).result()
except Preempted:
    print("passed through")
"""
    command = [sys.executable, "-c", script, str(tmp_path / "c")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.stdout == "passed through\n", run.stderr
