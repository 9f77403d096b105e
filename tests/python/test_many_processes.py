"""Processes of a jax program on loopback that are killed, stopped or fail at each phase of a save.

Real processes, signals, files and jax.distributed. This file is also their script. Each run saves step 1, and strikes
during the save of step 2. `OSTRACA_STRESS=1` (make stress) strikes at all phases in all settings.
"""

import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ostraca  # before jax: see test_the_interpreters_exit_waits_for_a_save
from ostraca.sharded.calls import Call

pytest.importorskip("jax")

from processes import Processes, join, leave

STRESS = os.environ.get("OSTRACA_STRESS", "") not in ("", "0")
TIMEOUT = 2.0
SLACK = 4.0  # seconds that a busy machine may take longer
ROWS, COLUMNS = 64, 50_000  # 12.8 MB for each process: several blocks
BEFORE = [
    "begun",
    "writing",
    "unreported",
]  # phases before the report of the process, in which its death fails the save
AFTER = ["reported", "waiting", "told"]
PHASES_OF_0 = ["begun", "announced", "writing", "collected", "published", "told"]
RECOVERABLE = {"JAX_ENABLE_RECOVERABILITY": "1"}


def settings(phases: list[str]) -> list[Any]:
    """All phases, with and without recoverability by turns; the stress test has both of each."""
    by_turns = [(phase, RECOVERABLE if number % 2 else {}) for number, phase in enumerate(phases)]
    return [(phase, setting) for phase in phases for setting in ({}, RECOVERABLE)] if STRESS else by_turns


def committed_steps(run: Path) -> list[int]:
    """All that are listed, and whole."""
    steps = sorted(int(manifest.parent.name) for manifest in run.glob("*/manifest.json"))
    for step in steps:
        assert ostraca.verify(run / str(step), deep=True).ok
        weights = ostraca.load(run / str(step))["w"]
        assert np.array_equal(weights[::ROWS, 0], np.arange(len(weights) // ROWS) + 100 * step)
    return steps


def data_files(run: Path) -> list[int]:
    return sorted(int(file.name[1:6]) for file in (run / "2").glob("p0*.ostraca"))


def said(output: str) -> tuple[str, float]:
    """What became of the save of step 2, and after how many seconds."""
    (line,) = [line for line in output.splitlines() if line.startswith("step 2: ")]
    text, _, seconds = line.removeprefix("step 2: ").rpartition(" after ")
    return text, float(seconds)


@pytest.mark.parametrize(("phase", "environment"), settings(BEFORE + AFTER))
def test_another_process_is_killed(tmp_path: Path, phase: str, environment: dict[str, str]) -> None:
    with Processes(__file__, 3, tmp_path, 1, phase, "kill", environment=environment) as run:
        outputs = run.wait()
    assert run[1].returncode == -signal.SIGKILL, outputs[1]
    for survivor in (0, 2):
        assert run[survivor].returncode == 0, outputs[survivor]
        text, seconds = said(outputs[survivor])
        if phase in BEFORE:
            assert text.startswith("CoordinationError: the save to"), text
            assert re.search(r"process 1 \(it (died or hangs|has not come)", text), text
            assert "Nothing was committed; earlier checkpoints are as they were" in text
            assert seconds < TIMEOUT + SLACK
        else:
            assert text == "committed"
    assert committed_steps(tmp_path) == ([1] if phase in BEFORE else [1, 2])
    if phase in BEFORE:
        assert data_files(tmp_path) == [1], "the others did not remove their files"


@pytest.mark.parametrize(("phase", "environment"), settings(PHASES_OF_0))
def test_process_0_is_killed(tmp_path: Path, phase: str, environment: dict[str, str]) -> None:
    """jax ends the others, perhaps before they can say anything."""
    with Processes(__file__, 2, tmp_path, 0, phase, "kill", environment=environment) as run:
        outputs = run.wait()
    assert run[0].returncode == -signal.SIGKILL, outputs[0]
    assert run[1].returncode in (-signal.SIGABRT, 0), outputs[1]
    if run[1].returncode == 0:
        text, _ = said(outputs[1])
        assert text.startswith("CoordinationError: ") or (phase == "told" and text == "committed"), text
        if phase in ("collected", "published", "told"):
            assert text == "committed" or "Whether it was committed is not known" in text
    assert committed_steps(tmp_path) == ([1, 2] if phase in ("published", "told") else [1])


@pytest.mark.parametrize("phase", ["unreported", "waiting"])
def test_another_process_is_killed_in_jax_save(tmp_path: Path, phase: str) -> None:
    pytest.importorskip("ostraca.jax.saving")
    with Processes(__file__, 3, tmp_path, 1, phase, "kill", "jax") as run:
        outputs = run.wait()
    texts = [said(outputs[survivor])[0] for survivor in (0, 2)]
    if phase == "unreported":
        assert all(text.startswith("CoordinationError: ") and "process 1 (it " in text for text in texts), texts
    else:
        assert texts == ["committed"] * 2
    assert committed_steps(tmp_path) == ([1] if phase == "unreported" else [1, 2])


@pytest.mark.parametrize("phase", ["announced", "collected"])
def test_process_0_is_killed_in_jax_save(tmp_path: Path, phase: str) -> None:
    pytest.importorskip("ostraca.jax.saving")
    with Processes(__file__, 2, tmp_path, 0, phase, "kill", "jax") as run:
        outputs = run.wait()
    assert run[0].returncode == -signal.SIGKILL, outputs[0]
    assert run[1].returncode in (-signal.SIGABRT, 0), outputs[1]
    assert committed_steps(tmp_path) == [1]


def test_the_interpreters_exit_waits_for_a_save(tmp_path: Path) -> None:
    """Though Ostraca was imported before jax, which shuts its service down at exit."""
    pytest.importorskip("ostraca.jax.saving")
    with Processes(__file__, 2, tmp_path, 0, "", "exit", "jax") as run:
        outputs = run.wait()
    assert [process.returncode for process in run.all] == [0, 0], outputs
    assert committed_steps(tmp_path) == [1, 2], outputs


def test_another_process_is_stopped(tmp_path: Path) -> None:
    with Processes(__file__, 3, tmp_path, 1, "writing", "stop") as run:
        for survivor in (0, 2):
            run[survivor].wait_for("step 2: CoordinationError")
        run[1].send(signal.SIGCONT)
        outputs = run.wait()
    for output in outputs:
        text, _ = said(output)
        assert re.search(r"process 1 \(it (died or hangs|has not come)", text), text
    assert all(said(outputs[i])[1] < TIMEOUT + SLACK for i in (0, 2)), outputs
    assert committed_steps(tmp_path) == [1] and data_files(tmp_path) == []


def test_process_0_is_stopped(tmp_path: Path) -> None:
    """With it the service stops, and its calls hang."""
    with Processes(__file__, 2, tmp_path, 0, "collected", "stop") as run:
        run[1].wait_for("step 2: CoordinationError")
        run[0].send(signal.SIGCONT)
        run[0].wait_for("step 2: committed")
        run[1].send(signal.SIGCONT)
        text, seconds = said(run.wait()[1])
    assert "process 0 hangs, or was stopped" in text and "is not known" in text, text
    assert seconds < 2 * TIMEOUT + SLACK
    assert committed_steps(tmp_path) == [1, 2], "process 1 removed its file, or process 0 took it for failed"


def test_the_disk_of_one_process_is_full(tmp_path: Path) -> None:
    with Processes(__file__, 3, tmp_path, 1, "begun", "full") as run:
        outputs = run.wait()
    texts = [said(output)[0] for output in outputs]
    assert texts[1].startswith("OSError: [Errno 27] ") and "p00001-" in texts[1]
    assert all(f"failed in process 1: {texts[1]}" in texts[i] for i in (0, 2)), texts
    assert all(said(output)[1] < TIMEOUT for output in outputs), "they were not told, but timed out"
    assert committed_steps(tmp_path) == [1] and data_files(tmp_path) == []


def test_one_process_does_not_share_the_directory(tmp_path: Path) -> None:
    with Processes(__file__, 3, tmp_path, 1, "start", "elsewhere") as run:
        outputs = run.wait()
    for output in outputs:
        text, _ = said(output)
        assert "failed in process 1: process 0 on " in text, text
        assert "does not see in" in text and "the directory is not shared between them" in text
    assert committed_steps(tmp_path) == [1] and data_files(tmp_path) == []
    assert not (tmp_path / "elsewhere").exists()


# --- In the processes -------------------------------------------------------------------------------------------------


class Strikes:
    """What is done to this process when its save comes to `phase`."""

    def __init__(self, phase: str, how: str) -> None:
        self._phase, self._how = phase, how

    def at(self, phase: str) -> None:
        if phase != self._phase:
            return
        if self._how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self._how == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif self._how == "full":
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))


class StrikingService:
    """A service around this process's that strikes at what the agreement tells and asks."""

    def __init__(self, service: Any, strikes: Strikes) -> None:
        self._service, self._strikes = service, strikes
        self.process_index, self.process_count = service.process_index, service.process_count
        self._reported = False

    def set(self, key: str, value: bytes, *, overwrite: bool = False) -> bool:
        if key.endswith("/report"):
            self._strikes.at("unreported")
        done: bool = self._service.set(key, value, overwrite=overwrite)
        if key.endswith("/report"):
            self._strikes.at("reported")
            self._reported = True
        if key.endswith("/begin"):
            self._strikes.at("announced")
        return done

    def try_get(self, key: str) -> bytes | None:
        value: bytes | None = self._service.try_get(key)
        if key.endswith("/report") and value is not None:
            self._strikes.at("collected")
        if key.endswith("/outcome") and value is None and self._reported:
            self._strikes.at("waiting")
        return value

    def delete(self, key: str) -> None:
        self._service.delete(key)


def save(group: Any, path: Path, step: int, strikes: Strikes) -> None:
    index, count = group.service.process_index, group.service.process_count
    writer: ostraca.Writer | None = None
    agreed = group.meet(Call(f"save {step}", f"the save to '{path}'", True), timeout=TIMEOUT)

    def open_writer(attempt: str) -> ostraca.Writer:
        made = ostraca.Writer(path, process_index=index, process_count=count, attempt=attempt)
        strikes.at("begun")
        return made

    def commit(reports: list[ostraca.FileReport]) -> str:
        time.sleep(0.2)  # so that the others come to wait
        info = ostraca.commit(path, reports, step=step)
        strikes.at("published")
        return str(info)

    try:
        writer = agreed.begin(str(path), [], open_writer)
        agreed.writing(writer.progress, writer.cancel)
        part = part_of(index, step)
        writer.add(
            "w", part, dtype="float32", shape=part.shape, global_shape=(ROWS * count, COLUMNS), offset=(ROWS * index, 0)
        )
        writer.wait_copied(0)
        strikes.at("writing")
        agreed.publish(writer.finish(), commit)
        strikes.at("told")
    except BaseException as error:
        if agreed.fail(error) and writer is not None:
            writer.abort()
        raise agreed.cause(error) from None


def save_arrays(path: Path, step: int, *, asynchronous: bool = False) -> None:
    """The same by `ostraca.jax.save`."""
    import jax

    from ostraca.jax import saving

    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("x",))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))

    def part(index: tuple[slice, ...]) -> np.ndarray:
        process = index[0].start // ROWS
        return part_of(process, step)

    shape = (ROWS * len(jax.devices()), COLUMNS)
    tree = {"w": jax.make_array_from_callback(shape, rows, part)}
    if asynchronous:
        saving.save_async(path, tree, step=step, return_early=True, progress=lambda *_: time.sleep(0.5))
    else:
        saving.save(path, tree, step=step, timeout=TIMEOUT)


def part_of(process: int, step: int) -> np.ndarray:
    part = np.random.default_rng(process).random((ROWS, COLUMNS), np.float32)
    part[:, 0] = process + 100 * step
    return part


def report(step: int, work: Callable[[], None]) -> None:
    started = time.monotonic()
    try:
        work()
        text = "committed"
    except BaseException as error:
        text = f"{type(error).__name__}: {error}"
    print(f"step {step}: {text} after {time.monotonic() - started:.3f}")


def main() -> None:
    index, count, port, victim = (int(sys.argv[i]) for i in (1, 2, 3, 5))
    run, phase, how = Path(sys.argv[4]), *sys.argv[6:8]
    join(index, count, port)
    from ostraca.jax.service import group

    processes = group()
    save(processes, run / "1", 1, Strikes("", ""))
    if how == "exit":
        save_arrays(run / "2", 2, asynchronous=True)
        return
    strikes = Strikes(phase, how) if index == victim else Strikes("", "")
    processes.service = StrikingService(processes.service, strikes)  # type: ignore[assignment]
    path = run / "elsewhere" / "2" if (how, index) == ("elsewhere", victim) else run / "2"
    report(2, (lambda: save_arrays(path, 2)) if sys.argv[8:] else (lambda: save(processes, path, 2, strikes)))
    if victim == 0 and how == "stop" and index == 1:  # its end would end the others
        os.kill(os.getpid(), signal.SIGSTOP)
    if index == 0:  # with it the service ends, and what the others are about to say
        time.sleep(0.5 if how != "stop" else TIMEOUT)
    leave()


if __name__ == "__main__":
    main()
