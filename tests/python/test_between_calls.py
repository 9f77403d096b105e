"""`prune`, `compact` and overwriting saves, stopped between any two of their system calls while others rename, move,
copy and overwrite: nothing that was acknowledged and is to be kept is lost, and the next prune finishes the work.

Real processes on the real file system; this file is also the script that tests/faults/interpose.c is preloaded into.
By default a fixed stride of the points; `OSTRACA_STRESS=1` (make stress) stops at every one.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

STRESS = os.environ.get("OSTRACA_STRESS", "") not in ("", "0")
POINTS = 60  # about as many a test, unless all of them
THOROUGH_EVERY = 8  # so many points, both readers and deep verification look at everything
TOLD = 3  # so many wrong points of an interference are told in full
TIMEOUT_SECONDS = 3600 if STRESS else 280
KINDS = ("rename", "away", "move", "copy", "manifest", "link", "arrive", "overwrite", "save", "compact", "prune")
OPERATIONS = ("prune", "compact", "overwrite", "overwrite-delta")


@pytest.mark.timeout(TIMEOUT_SECONDS + 20)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_others_act_between_any_two_calls(shim: Path, tmp_path: Path, operation: str, kind: str) -> None:
    environment = {**os.environ, "LD_PRELOAD": str(shim), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", __file__, str(shim), str(tmp_path), operation, kind]
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT_SECONDS
    )
    assert done.returncode == 0, done.stdout
    print(done.stdout)


# --- In the script ---------------------------------------------------------------------------------------------------


class Points:
    """Runs one operation against one interference, at one call after another."""

    def __init__(self, shim: ctypes.CDLL, scratch: Path, operation: Any, interference: Any) -> None:
        import small_run

        self._shim, self._scratch, self._operation, self._interference = shim, scratch, operation, interference
        self._run, self._log = scratch / "run", scratch / "log"
        self._check, self._committed, self._unnamed = small_run.check, small_run.committed, small_run.unnamed
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []

    def calls(self) -> int:
        """How many calls the operation makes when nobody disturbs it."""
        self._at(0, thorough=True)
        return len(self._log.read_text().splitlines())

    def at(self, call: int, thorough: bool) -> bool:
        """Whether the operation came to that call; what was wrong then is told."""
        try:
            stopped, outcome = self._at(call, thorough)
        except Exception as error:
            calls = self._log.read_text().splitlines()
            place = calls[call - 1] if call <= len(calls) else "after the end"
            how = f"{error}" if isinstance(error, AssertionError) else traceback.format_exc()
            self.wrong.append(f"    WRONG before call {call} ({place}): {how}".replace(f"{self._run}/", ""))
            return True
        if stopped:
            self.outcomes[outcome] += 1
        return stopped

    def _at(self, call: int, thorough: bool) -> tuple[bool, str]:
        import stopped as processes
        from interference import Story

        run, what = self._run, self._interference
        shutil.rmtree(run, ignore_errors=True)
        shutil.rmtree(self._scratch / "away", ignore_errors=True)
        shutil.copytree(self._scratch / "original", run, symlinks=True)
        what.prepare(run)
        arm = processes.armed(self._shim, run, call, self._log)
        story = Story(self._operation, beside=what.process)
        child = processes.Child(lambda: self._operation.do(run), self._scratch / "armed", arm)
        if is_stopped := child.wait_stopped():
            story.published = self._operation.writes in self._committed(run).values()
            what.act(run)
            story.brought = what.brings
            if what.process is not None:
                do = what.process.do
                beside = processes.Child(lambda: do(run), self._scratch / "beside")
                story.beside_waited = not beside.ends_within(processes.BLOCKED_SECONDS)
            child.resume()
            child.wait()
            if what.process is not None:
                beside.wait()
                story.beside_said = beside.said
        what.undo(run)
        story.armed_said = child.said
        said = [story.armed_said, *([story.beside_said] if story.beside_said else [])]
        try:
            self._judge(story.required(), said, thorough)
        except AssertionError as error:
            raise AssertionError(f"{error}\n      the processes said: {said}") from None
        return is_stopped, ", ".join(text.split(":")[0] for text in said)

    def _judge(self, required: list[frozenset[int]], said: list[str], thorough: bool) -> None:
        import ostraca

        assert not [text for text in said if text.startswith("unexpected")], "an undocumented error"
        self._check(self._run, required, thorough)
        keep = frozenset[int]().union(*required)
        report = ostraca.prune(self._run, keep=lambda record: record.step in keep, grace_seconds=0)
        assert report.ok, f"the next prune says {report.errors}"
        self._check(self._run, required)
        left = self._unnamed(self._run)
        assert not left, f"the next prune leaves {left}, which no manifest names"


def run_all(shim: ctypes.CDLL, scratch: Path, operation: str, kind: str) -> bool:
    """Prints a line for each interference; whether all was well."""
    import interference
    import small_run

    small_run.make(scratch / "original")
    small_run.save_plain(scratch / "arriving", interference.ARRIVING)
    shutil.copytree(scratch / "original" / small_run.PLAIN, scratch / "outside")
    outside = {file.name: file.read_bytes() for file in (scratch / "outside").iterdir()}
    cases = interference.KINDS[kind]
    well = True
    for number, case in enumerate(cases):
        armed = interference.OPERATIONS[operation]
        if armed.keeps is not None and case.needs_grace:
            armed = interference.prune(armed.keeps, grace=3600)
        points = Points(shim, scratch, armed, case)
        calls = points.calls()
        stride = 1 if STRESS else max(1, calls * len(cases) // POINTS)
        call, tried = 1 + number * 3 % stride, 0
        while points.at(call, thorough=tried % THOROUGH_EVERY == 0):
            call, tried = call + stride, tried + 1
        which = "every point" if stride == 1 else f"every {stride}th point"
        print(f"{operation} x {case.name}: {calls} calls undisturbed, {which}: {tried}; {dict(points.outcomes)}")
        if points.wrong:
            print(f"  {len(points.wrong)} of {tried} points are WRONG", *points.wrong[:TOLD], sep="\n", flush=True)
        well = well and not points.wrong and tried > 0
        assert outside == {file.name: file.read_bytes() for file in (scratch / "outside").iterdir()}
    return well


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    shim, scratch, operation, kind = sys.argv[1:]
    sys.exit(0 if run_all(ctypes.CDLL(shim), Path(scratch), operation, kind) else 1)


if __name__ == "__main__":
    main()
