"""Programs whose processes do not make the same calls: all raise in time, nothing is mixed, and the next save commits.

One program of 2 and one of 4 real processes makes all the mistakes in turn. This file is also its script.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ostraca
from processes import WAIT_SECONDS, Processes, join, leave

pytest.importorskip("jax")

TIMEOUT = 3.0  # of calls that are waited for in vain
TOGETHER = 60.0
SLACK = 5.0  # that a busy machine may take longer
STEPS = range(1, 5)
DIFFER = ["step", "path", "base", "overwrite", "codec", "load in the last", "load in process 0"]
MISTAKES = ["alone", "extra", "missing", *DIFFER, "threads"]


class Run:
    """What the processes of a program said, and the checkpoints that they left."""

    def __init__(self, path: Path, count: int) -> None:
        self.path, self.count = path, count
        with Processes(__file__, count, "mistakes", path) as processes:
            with contextlib.suppress(AssertionError):  # it did not end: each test says what it misses
                processes.wait(3 * WAIT_SECONDS)
            self._outputs = [process.output for process in processes.all]

    def said(self, what: str) -> list[list[str]]:
        """What each process said of its calls in turn, and after how many seconds."""
        prefix = what + ": "
        return [
            [x.removeprefix(prefix) for x in output.splitlines() if x.startswith(prefix)] for output in self._outputs
        ]

    def texts(self, what: str) -> list[str]:
        """The same of one call each, without the seconds."""
        found = self.said(what)
        assert all(len(lines) == 1 for lines in found), self._outputs
        return [line.rpartition(" after ")[0] for (line,) in found]


@pytest.fixture(scope="module", params=[2, 4])
def run(request: Any, tmp_path_factory: Any) -> Iterator[Run]:
    yield Run(tmp_path_factory.mktemp("run"), request.param)


def check_differs(text: str, *calls: str) -> None:
    assert text.startswith("MismatchError: the processes make different calls: process 0 calls "), text
    assert all(call in text for call in calls), text
    assert "Every process has to make the same calls, in the same order" in text


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_next_save_of_all_commits(run: Run, mistake: str) -> None:
    assert run.texts(f"after {mistake}") == ["committed"] * run.count


def test_nothing_is_mixed(run: Run) -> None:
    manifests = list(run.path.rglob("manifest.json"))
    assert len(manifests) >= len(MISTAKES)
    for manifest in manifests:
        with ostraca.open(manifest.parent) as checkpoint:
            assert set(checkpoint["w"][...].ravel()) == {checkpoint.step}, manifest
        assert ostraca.verify(manifest.parent, deep=True).ok


def test_a_save_in_process_0_alone(run: Run) -> None:
    first, *others = run.said("alone")
    assert others == [[]] * (run.count - 1)
    (line,) = first
    text, _, seconds = line.rpartition(" after ")
    assert text.startswith("CoordinationError: the save to"), text
    for process in range(1, run.count):
        assert f"process {process} (it has not come to this call" in text
    assert "every process has to make it" in text and "Nothing was committed" in text
    assert float(seconds) < TIMEOUT + SLACK


def test_a_loop_after_a_save_too_many(tmp_path: Path) -> None:
    """The first report of this mistake: step 4 of process 0 beside step 5 of process 1, and nobody noticed."""
    with Processes(__file__, 2, "loop", tmp_path) as processes:
        first, other = processes.wait(2 * WAIT_SECONDS)
    with ostraca.open(tmp_path / "latest") as checkpoint:
        assert set(checkpoint["w"][...].ravel()) == {checkpoint.step}
        assert checkpoint.step == STEPS[-1]
    said = [[line.rpartition(" after ")[0] for line in text.splitlines()] for text in (first, other)]
    assert said[0][0].startswith("latest: CoordinationError")
    assert said[0][1:] == said[1] == ["latest: committed"] * len(STEPS)


def test_a_save_too_many(run: Run) -> None:
    first, *others = run.said("extra")
    for line in (first[0], *(lines[0] for lines in others)):
        check_differs(line, "step=10)", "step=11)")
    assert first[1].startswith("CoordinationError") and "every process has to make it" in first[1]


def test_a_save_too_few(run: Run) -> None:
    *others, last = run.said("missing")
    for lines in (last, *others):
        check_differs(lines[0], "step=20)", f"process {run.count - 1} calls save(", "step=21)")
    assert all("every process has to make it" in lines[1] for lines in others)


@pytest.mark.parametrize("what", DIFFER)
def test_calls_that_differ(run: Run, what: str) -> None:
    named = {
        "step": "step=31",
        "path": "own-1'",
        "base": "base='after threads'",
        "overwrite": "overwrite=True",
        "codec": "codec='raw'",
    }
    for text in run.texts(what):
        check_differs(text, named.get(what, "load("), "save(", "Nothing was committed" if "0" not in what else "")


def test_two_threads_of_a_process(run: Run) -> None:
    for lines in run.said("threads"):
        assert len(lines) == 2
        for line in lines:
            check_differs(line, "step=60)", "step=61)")


def test_metadata_that_differs_is_a_warning(run: Run) -> None:
    for index, lines in enumerate(run.said("warning")):
        assert len(lines) == (run.count - 1 if index == 0 else 1), lines
        assert all("it differs in 'host', 'seconds'" in line for line in lines), lines
    assert run.texts("metadata") == ["committed"] * run.count
    with ostraca.open(run.path / "metadata") as checkpoint:
        assert checkpoint.metadata == {"host": 0, "seconds": 0.5, "epoch": 3}


# --- In the processes -------------------------------------------------------------------------------------------------


class Program:
    def __init__(self, index: int, count: int, path: Path) -> None:
        self.index, self.count, self.path = index, count, path
        self._meetings = 0

    def meet(self) -> None:
        """By files, as it is the calls that are tried."""
        self._meetings += 1
        (self.path / f"at-{self._meetings}-{self.index}").touch()
        while len(list(self.path.glob(f"at-{self._meetings}-*"))) < self.count:
            time.sleep(0.02)

    def save(self, name: str, step: int, **options: Any) -> None:
        from ostraca.jax import save_async

        save_async(self.path / name, {"w": rows(step)}, step=step, **{"timeout": TOGETHER, **options}).result()

    def load(self, name: str) -> None:
        from ostraca.jax import load

        load(self.path / name, timeout=TOGETHER)

    def make_mistakes(self) -> None:
        is_first, is_last = self.index == 0, self.index == self.count - 1
        self.mistake("threads", lambda: self.in_two_threads(60))
        self.mistake("alone", lambda: is_first and attempt("alone", lambda: self.save("a", 1, timeout=TIMEOUT)))
        self.mistake("extra", lambda: self.saves("extra", [10, 11] if is_first else [11]))
        self.mistake("missing", lambda: self.saves("missing", [21] if is_last else [20, 21]))
        self.differing("step", lambda: self.save("s", 30 + self.index))
        self.differing("path", lambda: self.save(f"own-{self.index}", 40))
        self.differing("base", lambda: self.save("b", 41, base=self.path / "after threads" if is_last else None))
        self.differing("overwrite", lambda: self.save("o", 42, overwrite=is_first))
        self.differing("codec", lambda: self.save("c", 43, codec="raw" if is_last else "auto"))
        for what, loads in ("last", is_last), ("process 0", is_first):
            work = (lambda: self.load("after alone")) if loads else (lambda: self.save("l", 50))
            self.differing(f"load in the {what}" if what == "last" else f"load in {what}", work)
        notes = {"host": self.index, "seconds": 0.5 + self.index, "epoch": 3}
        attempt("metadata", lambda: self.save("metadata", 80, metadata=notes))
        self.meet()

    def mistake(self, what: str, work: Callable[[], object]) -> None:
        self.meet()
        work()
        self.meet()
        attempt(f"after {what}", lambda: self.save(f"after {what}", 100))

    def differing(self, what: str, work: Callable[[], None]) -> None:
        self.mistake(what, lambda: attempt(what, work))

    def saves(self, what: str, steps: list[int]) -> None:
        for step in steps:
            attempt(what, lambda step=step: self.save(f"{what}-{step}", step, timeout=TIMEOUT))  # type: ignore[misc]

    def save_in_a_loop(self) -> None:
        if self.index == 0:
            attempt("latest", lambda: self.save("latest", 0, overwrite=True, timeout=TIMEOUT))
        self.meet()
        for step in STEPS:
            attempt("latest", lambda step=step: self.save("latest", step, overwrite=True, timeout=10.0))  # type: ignore[misc]

    def in_two_threads(self, step: int) -> None:
        """Which are not in the same order in all processes."""
        steps = [step, step + 1] if self.index == 0 else [step + 1, step]
        threads = []
        for each in steps:
            work = lambda each=each: self.save(f"t-{each}", each)  # noqa: E731
            threads.append(threading.Thread(target=attempt, args=("threads", work)))
            threads[-1].start()
            time.sleep(0.3)
        for thread in threads:
            thread.join()


def rows(step: int) -> Any:
    import jax

    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("x",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    return jax.make_array_from_callback((len(jax.devices()), 8), sharding, lambda _: np.full((1, 8), step, np.float32))


def attempt(what: str, work: Callable[[], object]) -> None:
    started = time.monotonic()
    try:
        work()
        text = "committed"
    except ostraca.OstracaError as error:
        text = f"{type(error).__name__}: {error}"
    sys.stdout.write(f"{what}: {text} after {time.monotonic() - started:.3f}\n")  # whole, of whichever thread


def main() -> None:
    import logging

    index, count, port = map(int, sys.argv[1:4])
    join(index, count, port)
    rows(0)  # jax's devices are there when all processes have asked for them
    logging.basicConfig(format="warning: %(message)s", stream=sys.stdout)
    logging.getLogger("jax").setLevel(logging.ERROR)
    program = Program(index, count, Path(sys.argv[5]))
    {"mistakes": program.make_mistakes, "loop": program.save_in_a_loop}[sys.argv[4]]()
    if index == 0:  # with it the service ends, and what the others are about to say
        time.sleep(1)
    leave()


if __name__ == "__main__":
    main()
