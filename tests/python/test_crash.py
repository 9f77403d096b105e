"""Saves that are killed, or whose disk fails, at every I/O call they make: the old checkpoint or the new one is left.

Real processes on the real file system. The saves run in children forked by this file as a script, which has
tests/faults/interpose.c preloaded: it counts the calls of all threads and strikes at one of them.
"""

import contextlib
import ctypes
import errno
import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import ostraca

KILL_BEFORE, KILL_AFTER, FAIL = 1, 2, 3
CALLS_MAX = 300  # a save that makes more is not the small one meant here


@pytest.mark.parametrize("before", ["fresh", "overwrite"])
@pytest.mark.parametrize("what", ["kill_before", "kill_after", "fail_EIO", "fail_ENOSPC"])
def test_strike_at_every_call(shim: Path, tmp_path: Path, what: str, before: str) -> None:
    environment = {**os.environ, "LD_PRELOAD": str(shim), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", __file__, str(shim), str(tmp_path), what, before]
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=250
    )
    assert done.returncode == 0, done.stdout
    print(done.stdout)


# --- In the script ---------------------------------------------------------------------------------------------------


def state(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"w": rng.normal(size=(50, 30)).astype(np.float32), "step": np.array(seed), "ids": rng.integers(0, 9, 500)}


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


def root(path: Path) -> Path:
    return next(p for p in path.parents if p.name == "struck")


def content(directory: Path) -> dict[str, bytes]:
    return {str(f): f.read_bytes() if f.is_file() else b"directory" for f in directory.rglob("*")}


class Outcome:
    """What became of one struck save."""

    def __init__(self, killed: bool, error: str, calls: list[tuple[str, str]]) -> None:
        self.killed, self.error, self.calls = killed, error, calls


def strike(shim: ctypes.CDLL, scratch: Path, path: Path, call: int, mode: int, error: int, overwrite: bool) -> Outcome:
    """Saves in a forked child; `error` is the exception's class and errno, empty when the save returned."""
    log, result = scratch / "log", scratch / "result"
    for file in (log, result):
        file.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            log_fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            shim.interpose_arm(str(scratch / "struck").encode(), ctypes.c_long(call), mode, error, log_fd)
            try:
                ostraca.save(path, state(2), overwrite=overwrite)
                text = ""
            except OSError as raised:
                text = f"{type(raised).__name__} {raised.errno} {raised.filename or ''}"
            except BaseException:
                text = "unexpected: " + traceback.format_exc()
            result.write_text(text)
            status = 0
        os._exit(status)
    _, status = os.waitpid(child, 0)
    calls = [tuple(line.split(" ", 1)) for line in log.read_text().splitlines()]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL, f"the save died of signal {os.WTERMSIG(status)}"
        return Outcome(True, "", calls)
    assert os.WEXITSTATUS(status) == 0
    return Outcome(False, result.read_text(), calls)


def check_killed(path: Path, fresh: bool, old: dict[str, np.ndarray], new: dict[str, np.ndarray]) -> str:
    """Which checkpoint a killed save left."""
    try:
        loaded = ostraca.load(path)
    except ostraca.NotFoundError:
        assert fresh, "the old checkpoint is gone"
        return "none"
    assert ostraca.verify(path, deep=True).ok
    found = "new" if same(loaded, new) else "old"
    assert found == "new" or (not fresh and same(loaded, old)), "neither the old nor the new checkpoint"
    return found


def looks(calls: list[tuple[str, str]], path: Path) -> set[int]:
    """Of a save that nothing strikes the calls, from 1, that list the run for claims and dates, and what lies in the
    save's own directory, which claims nothing of itself."""
    found = set()
    for i, (function, file) in enumerate(calls):
        opens_to_list = function in ("open", "openat") and calls[i + 1 : i + 2] == [("openat", f"{file}/.")]
        lists = function == "openat" and file.endswith("/.")
        reads_own = function in ("openat", "pread") and file.startswith(f"{path}/intent-")
        if opens_to_list or lists or reads_own:
            found.add(i + 1)
    return found


def check_failed(
    path: Path,
    outcome: Outcome,
    call: int,
    number: int,
    before: dict[str, bytes],
    new: dict[str, np.ndarray],
    looking: set[int],
) -> str:
    function, file = outcome.calls[call - 1]
    if outcome.error == "":
        # What may fail without harm: removing what is left over, closing what was read, looking for a checkpoint or
        # when those beside it were created, and looking, after publication, whether files may go at once.
        harmless = function in ("unlink", "unlinkat", "rmdir", "close", "open64") or file.endswith("manifest.json")
        harmless |= (function, file) in (("openat", str(path.parent)), ("open", str(path))) or call in looking
        before_all = call < [f for f, _ in outcome.calls].index("mkdir") + (2 if before else 1)
        assert harmless or before_all, "the save succeeded all the same"
        found = "succeeded"
    elif outcome.error.startswith("CommitUncertainError"):
        assert function in ("fsync", "open", "openat"), outcome.error
        found = "uncertain"
    else:
        assert outcome.error.split(" ")[1] == str(number), outcome.error
        named = (file.removesuffix("/."), str(path))
        assert outcome.error.split(" ")[2] in named, f"{outcome.error}, not {file}"
        left = content(root(path))
        if function == "flock":  # the lease's file may be somebody's: it stays, for the next to use
            left.pop(file, None)
        assert left == before, f"{outcome.error}: left behind {sorted(left)}"
        if function in ("fsync", "fdatasync"):
            assert (function, file) not in outcome.calls[call:], "a failed sync was repeated"
        return "refused"
    assert same(ostraca.load(path), new) and ostraca.verify(path, deep=True).ok
    return found


def run(shim_path: str, scratch: Path, what: str, fresh: bool) -> Iterator[str]:
    shim = ctypes.CDLL(shim_path)
    mode = {"kill_before": KILL_BEFORE, "kill_after": KILL_AFTER}.get(what, FAIL)
    number = getattr(errno, what.removeprefix("fail_")) if mode == FAIL else 0
    old, new = state(1), state(2)
    ostraca.save(scratch / "old", old)
    looking: set[int] = set()
    for call in [CALLS_MAX, *range(1, CALLS_MAX)]:  # the first is never reached
        directory = scratch / "struck"
        directory.mkdir()
        path = directory / "deep" / "checkpoint" if fresh else directory / "checkpoint"
        if not fresh:
            shutil.copytree(scratch / "old", path)
        before = content(directory)
        outcome = strike(shim, scratch, path, call, mode, number, not fresh)
        struck = call <= len(outcome.calls)
        if call == CALLS_MAX:
            looking = looks(outcome.calls, path)
        where = f"{what} at call {call}: {' '.join(outcome.calls[call - 1]) if struck else 'after the end'}"
        try:
            if mode == FAIL and struck:
                found = check_failed(path, outcome, call, number, before, new, looking)
            else:
                assert outcome.killed == struck, outcome.error
                found = check_killed(path, fresh, old, new)
            ostraca.save(path, new, overwrite=found != "none" and path.exists())
            assert same(ostraca.load(path), new), "the next save did not work"
        except Exception:
            yield f"{where}\n{traceback.format_exc()}"
            return
        yield f"{found:10} {where}"
        shutil.rmtree(directory)
        if not struck and call < CALLS_MAX:
            return


def main() -> None:
    shim, scratch, what, before = sys.argv[1:]
    lines = list(run(shim, Path(scratch), what, before == "fresh"))
    print("\n".join(lines))
    outcomes = {line.split()[0] for line in lines}
    first = "none" if before == "fresh" else "old"
    expected = {first, "new"} if what.startswith("kill") else {"refused", "uncertain", "succeeded", "new"}
    sys.exit(outcomes != expected or len(lines) < 20)


if __name__ == "__main__":
    main()
