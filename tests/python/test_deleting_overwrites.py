"""Overwriting loses nothing that was acknowledged: against `compact`, against other processes, and against itself.

This file is also the script that the library is preloaded into, which stops `compact` between any two of its calls.
"""

import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deleting
import ostraca
from deleting import Child, holds, keyframe_and_delta, names, orphans, process, state, stopping

SAVERS, ROUNDS = 4, 12
BLOCKED_SECONDS = 0.3  # by when an overwrite that nobody hinders is done
NEW = 77


def test_compact_never_replaces_what_was_saved_meanwhile(shim: Path, tmp_path: Path) -> None:
    """The process stopped before each of its calls; the overwrite is acknowledged, or waits for it."""
    deleting.run_script(__file__, shim, tmp_path)


SAVER = """
rng = np.random.default_rng(int(sys.argv[2]))
print('ready', flush=True)
sys.stdin.readline()
for i in range(int(sys.argv[3])):
    ostraca.save(sys.argv[1], {'x': rng.standard_normal(20000)}, overwrite=True)
"""


def test_savers_in_several_processes_leave_one_checkpoint_and_nothing_else(tmp_path: Path) -> None:
    left = []
    for round_number in range(ROUNDS):
        path = tmp_path / f"run{round_number}" / "latest"
        command = [sys.executable, "-c", "import sys, numpy as np, ostraca\n" + SAVER, path]
        savers = [
            subprocess.Popen([*command, str(seed), "2"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for seed in range(SAVERS)
        ]
        try:
            for saver in savers:
                assert saver.stdout is not None and saver.stdout.readline() == "ready\n"
            for saver in savers:
                assert saver.stdin is not None
                saver.stdin.write("go\n")
                saver.stdin.flush()
            assert [saver.wait(60) for saver in savers] == [0] * SAVERS
        finally:
            for saver in savers:
                saver.kill()
                saver.communicate()
        assert ostraca.verify(path, deep=True).ok
        left += [(round_number, name) for name in orphans(path)]
    assert not left, f"files of acknowledged saves that no checkpoint names, by round: {left}"


@pytest.mark.parametrize("last", ["save_async", "save"])
def test_overlapping_saves_of_a_process_commit_in_the_order_of_their_calls(tmp_path: Path, last: str) -> None:
    """The earlier ones are larger, so that they are written later."""
    path = tmp_path / "latest"
    rng = np.random.default_rng(0)
    trees: list[dict[str, Any]] = [{"x": rng.standard_normal(n)} for n in (4_000_000, 2_000_000, 500_000, 1000)]
    handles = [ostraca.save_async(path, tree, step=i, overwrite=True) for i, tree in enumerate(trees)]
    if last == "save":
        ostraca.save(path, state(9), step=9, overwrite=True)
    else:
        handles.append(ostraca.save_async(path, state(9), step=9, overwrite=True))
    for handle in handles:
        handle.result(120)
    assert ostraca.open(path).step == 9, "an earlier call was committed over the last one"
    assert holds(path, 9) and orphans(path) == []


def test_an_overlapping_save_that_fails_does_not_hold_up_the_next(tmp_path: Path) -> None:
    path = tmp_path / "latest"
    first = ostraca.save_async(path, {"x": np.zeros(4_000_000)}, overwrite=True)
    first.cancel()
    ostraca.save(path, state(2), overwrite=True)
    assert first.exception(60) is not None or first.done()
    assert holds(path, 2)


def test_an_open_reader_never_hinders_an_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "latest"
    ostraca.save(path, state(1))
    code = "c = ostraca.open(sys.argv[1]); print('ready', flush=True); sys.stdin.readline(); print(c['x'][0])\n"
    with process(code, path) as reader:
        done = threading.Thread(target=lambda: ostraca.save(path, state(2), overwrite=True))
        done.start()
        done.join(30)
        assert not done.is_alive(), "the overwrite waits for a reader"
        assert holds(path, 2)
        assert reader.stdin is not None and reader.stdout is not None
        reader.stdin.write("\n")
        reader.stdin.flush()
        assert float(reader.stdout.readline()) == 1.0


# --- In the script ---------------------------------------------------------------------------------------------------


def main() -> int:
    library, scratch = sys.argv[1], Path(sys.argv[2])
    original = scratch / "original"
    keyframe_and_delta(original)
    outcomes: dict[str, int] = {}
    wrong = []
    for call in range(1, 1000):
        run = scratch / "run"
        shutil.copytree(original, run)
        delta = run / "delta"
        compactor = Child(scratch, lambda d=delta: ostraca.compact(d), stopping(library, run, call))
        if not compactor.stopped():
            print(f"{call - 1} points: {outcomes}")
            break
        saver = Child(scratch, lambda d=delta: ostraca.save(d, state(NEW), overwrite=True))
        waited = not saver.ends_within(BLOCKED_SECONDS)
        compactor.go_on()
        compacted, saved = compactor.said(), saver.said()
        if not saved.startswith("ok"):
            wrong.append(f"call {call}: the overwrite was refused: {saved}")
        elif not holds(delta, NEW):
            wrong.append(f"call {call}: compact replaced the save that was acknowledged; it said: {compacted}")
        elif not compacted.startswith(("ok", "ExistsError", "NotFoundError")):
            wrong.append(f"call {call}: compact said: {compacted}")
        elif orphans(delta):
            wrong.append(f"call {call}: left over: {orphans(delta)}")
        outcome = f"{compacted.split()[0].rstrip(':')}{', the overwrite waited' if waited else ''}"
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        shutil.rmtree(run)
    print("\n".join([*wrong[:3], f"{len(wrong)} points are wrong"]))
    return 1 if wrong or names(scratch / "original") != ["base", "delta"] else 0


if __name__ == "__main__":
    sys.exit(main())
