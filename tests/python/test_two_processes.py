"""Processes that save, prune and read the same run at once: nothing that was committed and is kept is lost, or dangles.

This file is also the script that each of them runs. The saver is killed every second or so, and started again.
`OSTRACA_STRESS=1` (make stress) goes on for minutes.
"""

import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import ostraca

STRESS = os.environ.get("OSTRACA_STRESS", "") not in ("", "0")
SECONDS = 300.0 if STRESS else 8.0
KEEP = 2
GRACE_SECONDS = 0.2
KEYFRAME_EVERY, COMPACT_EVERY = 6, 9  # steps
WAIT_SECONDS = 60.0  # for the others, when they were told to end


@pytest.mark.timeout(SECONDS + 2 * WAIT_SECONDS)
def test_nothing_is_lost(tmp_path: Path) -> None:
    run, stop = tmp_path / "run", tmp_path / "stop"
    run.mkdir()
    rng = random.Random(1)
    others = [Role(role, run, stop) for role in ("prune", "prune", "read", "read")]
    committed: list[int] = []
    saves = kills = 0
    end = time.monotonic() + SECONDS
    try:
        while time.monotonic() < end:
            saver = Role("save", run, stop)
            saver.wait(rng.uniform(1, 2))
            saver.process.kill()
            said = saver.finished()
            kills += 1
            assert not saver.process.returncode > 0, said
            committed += [int(line.split()[1]) for line in said.splitlines() if line.startswith("committed ")]
            saves = len(committed)
            assert all(other.process.poll() is None for other in others), [o.finished() for o in others if not o.alive]
    finally:
        stop.touch()
        ended = [other.finished() for other in others]
    assert all(other.process.returncode == 0 for other in others), "\n".join(ended)
    newest = check_rest(run, max(committed))
    reads = sum(int(words.split()[-1]) for words in ended if words.startswith("reads"))
    print(f"{saves} saves, the last of step {newest}; {kills} kills; {reads} reads")
    assert saves > SECONDS and reads > SECONDS


def check_rest(run: Path, last_committed: int) -> int:
    """Every checkpoint that is left loads, and after the last prune there is nothing else. Returns the newest step."""
    import incremental_model as model

    steps = sorted(int(manifest.parent.name) for manifest in run.glob("*/manifest.json"))
    assert steps[-1] >= last_committed, f"step {last_committed} was committed, and the newest is {steps[-1]}"
    assert len(steps) >= KEEP
    for step in steps:
        check(step, ostraca.load(path_of(run, step)))
    report = ostraca.prune(run, keep=KEEP, grace_seconds=0)
    assert report.ok, report.errors
    left = [f"{step:06}" for step in steps[-KEEP:]]
    for step in steps[-KEEP:]:
        assert ostraca.verify(path_of(run, step), deep=True).ok
        check(step, ostraca.load(path_of(run, step)))
    assert model.unnamed(run, left) == []
    return steps[-1]


class Role:
    """One of the processes, and what it prints."""

    def __init__(self, role: str, run: Path, stop: Path) -> None:
        command = [sys.executable, __file__, role, str(run), str(stop)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self._said: list[str] = []
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def wait(self, seconds: float) -> None:
        """At most that long; it may fail before."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return

    def finished(self) -> str:
        """What it said, when it has ended."""
        try:
            self.process.wait(WAIT_SECONDS)
        finally:
            self.process.kill()
        self._listener.join()
        return "".join(self._said)

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            self._said.extend(lines)


# --- In the processes -------------------------------------------------------------------------------------------------


def path_of(run: Path, step: int) -> Path:
    return run / f"{step:06}"


def state(step: int) -> dict[str, np.ndarray]:
    """Anybody can tell what a step's checkpoint holds."""
    frozen = np.random.default_rng(0).normal(0, 0.02, (300, 64)).astype(np.float32)
    noise = np.random.default_rng(step).normal(0, 1e-4, frozen.shape).astype(np.float32)
    return {"frozen": frozen, "weights": frozen + noise, "step": np.array(step)}


def check(step: int, found: dict[str, np.ndarray]) -> None:
    expected = state(step)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].tobytes() == array.tobytes(), f"{name} of step {step}"


def steps_of(run: Path) -> list[int]:
    return sorted(int(manifest.parent.name) for manifest in run.glob("*/manifest.json"))


def save(run: Path, stop: Path) -> None:
    """Deltas on the newest checkpoint, which nobody prunes; where its keyframe was pruned, a new keyframe."""
    refused = 0
    known = steps_of(run)
    newest = known[-1] if known else None
    while not stop.exists():
        # A killed save may have left its files: its step is taken again, like a training run would.
        step = 1 if newest is None else newest + 1
        path = path_of(run, step)
        if newest is None or step % KEYFRAME_EVERY == 0:
            ostraca.save(path, state(step), step=step)
        else:
            try:
                ostraca.save(path, state(step), step=step, base=path_of(run, newest))
            except ostraca.OstracaError as error:
                assert not (path / "manifest.json").exists(), f"refused, and published: {error}"
                refused += 1
                ostraca.save(path, state(step), step=step)
        print(f"committed {step}", flush=True)
        check(step, ostraca.load(path))
        if step % COMPACT_EVERY == 0:
            ostraca.compact(path)
            check(step, ostraca.load(path))
        newest = step


def prune(run: Path, stop: Path) -> None:
    while not stop.exists():
        report = ostraca.prune(run, keep=KEEP, grace_seconds=GRACE_SECONDS)
        others = ("it vanished while it was looked at", "the directory did not hold still while it was read")
        assert all(message in others for _, message in report.errors), report.errors  # saves and prunes beside this one
        kept = [record.step for record in report.kept if record.reason.startswith("one of the newest")]
        assert len(kept) <= KEEP
        time.sleep(0.01)


def read(run: Path, stop: Path) -> None:
    """What could be opened can be read to its end, whatever was pruned meanwhile."""
    rng = random.Random(os.getpid())
    reads = 0
    while not stop.exists():
        steps = steps_of(run)
        if not steps:
            continue
        step = rng.choice(steps)
        path = path_of(run, step)
        try:
            if rng.random() < 0.5:
                found = ostraca.load(path)
            else:
                with ostraca.open(path) as checkpoint:
                    time.sleep(rng.uniform(0, 3 * GRACE_SECONDS))
                    found = {name: checkpoint[name][...] for name in checkpoint}
        except ostraca.NotFoundError:
            assert not (path / "manifest.json").exists() or step not in steps_of(run)[-KEEP:], "a kept one is not found"
            continue
        check(step, found)
        reads += 1
    print("reads", reads)


if __name__ == "__main__":
    {"save": save, "prune": prune, "read": read}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
