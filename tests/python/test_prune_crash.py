"""Prunes that are killed, or whose disk fails, at every system call they make: all that is kept stays whole, and the
next prune finishes the work. (test_every_operation.py strikes at the operations that these calls make up.)

As test_crash.py, with the same library preloaded; this file is also the script that it is preloaded into.
"""

import contextlib
import ctypes
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ostraca
from ostraca import reference

KILL_BEFORE, KILL_AFTER, FAIL = 1, 2, 3
CALLS_MAX = 1000  # a prune that makes more is not the small one meant here
KEPT = ("kept", "delta")
HOURS_AGO = 5 * 3600


@pytest.mark.parametrize("what", ["kill_before", "kill_after", "fail_EIO", "fail_EPERM"])
def test_strike_at_every_call(shim: Path, tmp_path: Path, what: str) -> None:
    environment = {**os.environ, "LD_PRELOAD": str(shim), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", __file__, str(shim), str(tmp_path), what]
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=250
    )
    assert done.returncode == 0, done.stdout
    print(done.stdout)


# --- In the script ---------------------------------------------------------------------------------------------------


def state(seed: int) -> dict[str, Any]:
    return {"x": np.arange(300) + seed}


def make_run(run: Path) -> None:
    """Two checkpoints, two keyframes with a delta each, and a killed save; one of each kind is to be kept."""
    import format_writer

    for seed, name in enumerate(("kept", "goes")):
        ostraca.save(run / name, state(seed), step=seed)
    options = {"x": format_writer.Options(codec="base")}
    for seed, suffix in ((10, ""), (20, "-goes")):
        keyframe = format_writer.write(run / f"base{suffix}", state(seed), seed=seed)
        format_writer.write(run / f"delta{suffix}", state(seed), options, base=keyframe, seed=seed + 1)
    ostraca.save(run / "dead", state(3))
    (run / "dead" / "manifest.json").unlink()
    then = time.time() - HOURS_AGO
    for file in run.glob("*/*"):
        os.utime(file, (then, then))


def content(run: Path, *patterns: str) -> dict[str, bytes]:
    return {str(f.relative_to(run)): f.read_bytes() for p in patterns for f in run.glob(p) if f.is_file()}


def prune(run: Path) -> ostraca.PruneReport:
    return ostraca.prune(run, keep=KEPT, grace_seconds=0)


def strike(
    shim: ctypes.CDLL, scratch: Path, run: Path, call: int, mode: int, error: int
) -> tuple[bool, str, list[str]]:
    """Prunes in a forked child. Whether it was killed, what it reported ("ok", or errors), and its calls."""
    log, result = scratch / "log", scratch / "result"
    for file in (log, result):
        file.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            log_fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            shim.interpose_arm(str(run).encode(), ctypes.c_long(call), mode, error, log_fd)
            try:
                report = prune(run)
                text = "ok" if report.ok else str(report.errors)
            except OSError as raised:
                text = repr(raised)
            except BaseException:
                text = "unexpected: " + traceback.format_exc()
            result.write_text(text)
            status = 0
        os._exit(status)
    _, status = os.waitpid(child, 0)
    calls = log.read_text().splitlines()
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True, "", calls
    assert os.WEXITSTATUS(status) == 0
    return False, result.read_text(), calls


def check(run: Path, before: dict[str, bytes]) -> None:
    """Nothing that anybody can open, or that is kept, misses a byte."""
    base = "base/*.ostraca"
    assert content(run, "kept/*", "delta/*", base) == {
        name: raw for name, raw in before.items() if name.startswith(("kept/", "delta/", "base/p", "base/index"))
    }
    assert ostraca.verify(run / "kept", deep=True).ok
    assert np.array_equal(reference.load(run / "delta")["x"], state(10)["x"])
    assert np.array_equal(ostraca.load(run / "kept")["x"], state(0)["x"])
    if (run / "goes" / "manifest.json").exists():
        assert ostraca.verify(run / "goes", deep=True).ok
    for delta in ("delta", "delta-goes"):
        if (run / delta / "manifest.json").exists():
            needed = (f"{delta}/*.ostraca", f"{delta.replace('delta', 'base')}/*.ostraca")
            found = content(run, *needed)
            assert len(found) == 4 and all(before[name] == raw for name, raw in found.items()), f"{delta} is broken"
    for tombstone in run.glob("*/tombstone-*"):
        assert time.time() - tombstone.stat().st_mtime < HOURS_AGO / 2, f"{tombstone} looks older than it is"


def check_finished(run: Path, before: dict[str, bytes]) -> None:
    check(run, before)
    left = {file.parent.name: 0 for file in run.glob("*/*")}
    assert left.keys() == {"kept", "delta", "base"}, f"bytes that nothing names: {sorted(left)}"
    assert [len(list((run / name).iterdir())) for name in left] == [3, 3, 3]
    assert len(list((run / "base").glob("tombstone-*"))) == 1
    assert not [name for name in run.iterdir() if name.is_file()]


def harmless(call: str) -> bool:
    """What may fail once without a word where everything is finished all the same: closing, leases, and opening and
    reading, since what is read is read again until two scans agree."""
    return call.split(" ", 1)[0] in ("close", "flock", "openat", "openat64", "open", "open64", "pread", "pread64")


def run_all(shim_path: str, scratch: Path, what: str) -> Iterator[str]:
    shim = ctypes.CDLL(shim_path)
    mode = {"kill_before": KILL_BEFORE, "kill_after": KILL_AFTER}.get(what, FAIL)
    number = getattr(errno, what.removeprefix("fail_")) if mode == FAIL else 0
    original = scratch / "original"
    make_run(original)
    before = content(original, "*/*")
    for call in range(1, CALLS_MAX):
        run = scratch / "struck"
        shutil.copytree(original, run)  # copies times too
        killed, said, calls = strike(shim, scratch, run, call, mode, number)
        struck = call <= len(calls)
        where = f"{what} at call {call}: {calls[call - 1] if struck else 'after the end'}"
        try:
            assert killed == (struck and mode != FAIL) and not said.startswith("unexpected"), said
            check(run, before)
            if said == "ok":
                assert not struck or harmless(calls[call - 1]), "it failed, and nobody was told"
                check_finished(run, before)
            again = prune(run)
            assert again.ok, again.errors
            check_finished(run, before)
        except Exception:
            yield f"WRONG {where}: {said}\n{traceback.format_exc()}"
            return
        yield f"{'killed' if killed else 'ok' if said == 'ok' else 'told'} {where}"
        shutil.rmtree(run)
        if not struck:
            return


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    shim, scratch, what = sys.argv[1:]
    lines = list(run_all(shim, Path(scratch), what))
    print("\n".join(lines))
    outcomes = {line.split()[0] for line in lines}
    expected = {"killed", "ok"} if what.startswith("kill") else {"told", "ok"}
    sys.exit(outcomes != expected or len(lines) < 50)


if __name__ == "__main__":
    main()
