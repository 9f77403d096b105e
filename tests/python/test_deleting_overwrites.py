"""Overwriting loses nothing that was acknowledged: against `compact`, against other processes, and against itself.

This file is also the script that the library is preloaded into, which stops processes between any two of their calls.
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
from deleting import Child, holds, keyframe_and_delta, orphans, process, state, stopping

SAVERS, ROUNDS, SAVES = 4, 4, 5
BLOCKED_SECONDS = 0.3  # by when an overwrite that nobody hinders is done
NEW, OTHER = 77, 88  # seeds


@pytest.mark.parametrize("operation", ["compact", "save"])
def test_what_was_saved_meanwhile_is_not_lost_and_leaves_nothing(shim: Path, tmp_path: Path, operation: str) -> None:
    """The process that compacts or overwrites is stopped before each of its calls; another overwrite is acknowledged
    meanwhile, or waits. `compact` never replaces it; and files are those of one checkpoint."""
    deleting.run_script(__file__, shim, tmp_path, operation)


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
            subprocess.Popen(
                [*command, str(seed), str(SAVES)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
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
    trees: list[dict[str, Any]] = [{"x": rng.standard_normal(n)} for n in (8_000_000, 4_000_000, 500_000, 1000)]
    handles = [
        ostraca.save_async(path, tree, step=i, overwrite=True, codec="zstd", return_early=True)
        for i, tree in enumerate(trees)
    ]
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


def compact(path: Path) -> object:
    return ostraca.compact(path)


def save(path: Path) -> object:
    return ostraca.save(path, state(OTHER), overwrite=True)


def what_is_wrong(path: Path, operation: str, said: str, saved: str) -> str:
    """With what the operation said, and what the save that came meanwhile did."""
    if not saved.startswith("ok"):
        return f"the overwrite was refused: {saved}"
    if not holds(path, NEW) and (operation == "compact" or not holds(path, OTHER)):
        return f"{operation} replaced the save that was acknowledged; it said: {said}"
    if not said.startswith("ok") and (operation == "save" or not said.startswith(("ExistsError", "NotFoundError"))):
        return f"{operation} said: {said}"
    return f"files that no checkpoint names: {orphans(path)}" if orphans(path) else ""


def main() -> int:
    library, scratch, operation = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    action = {"compact": compact, "save": save}[operation]
    original = scratch / "original"
    keyframe_and_delta(original)
    outcomes: dict[str, int] = {}
    wrong = []
    for call in range(1, 1000):
        run = scratch / "run"
        shutil.copytree(original, run)
        delta = run / "delta"
        first = Child(scratch, lambda d=delta: action(d), stopping(library, run, call))
        if not first.stopped():
            break
        saver = Child(scratch, lambda d=delta: ostraca.save(d, state(NEW), overwrite=True))
        waited = not saver.ends_within(BLOCKED_SECONDS)
        first.go_on()
        said, saved = first.said(), saver.said()
        if trouble := what_is_wrong(delta, operation, said, saved):
            wrong.append(f"call {call}: {trouble}")
        outcome = f"{said.split()[0].rstrip(':')}{', the overwrite waited' if waited else ''}"
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        shutil.rmtree(run)
    print(f"{len(wrong)} of {sum(outcomes.values())} points are wrong; {operation} said: {outcomes}")
    print("\n".join(wrong[:3]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
