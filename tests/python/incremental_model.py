"""What test_incremental_machine.py believes of a directory of checkpoints: trees that change from save to save, the
operations on them, and which files somebody names."""

import contextlib
import ctypes
import os
import shutil
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

import ostraca
from ostraca import reference

Tree = dict[str, np.ndarray]

COUNT, KILL_BEFORE, KILL_AFTER = 0, 1, 2
CHANGES = ("nudge", "one row", "redraw", "reshape", "retype", "small", "pack", "specials", "zero", "tie")


def initial(seed: int) -> Tree:
    """Arrays of more than 64 KiB, which are cut into chunks, and small ones, which share them."""
    rng = np.random.default_rng(seed)
    return {
        "bf16": rng.normal(0, 0.02, (640, 64)).astype(ml_dtypes.bfloat16),
        "fp32": rng.normal(0, 0.02, (320, 64)).astype(np.float32),
        "ids": rng.integers(-(2**40), 2**40, 9000),
        "frozen": rng.normal(0, 0.02, (400, 64)).astype(np.float32),
        "packed/0": rng.normal(0, 1, 500).astype(np.float32),
        "packed/1": rng.normal(0, 1, (20, 30)).astype(np.float32),
        "packed/2": rng.normal(0, 1, 700).astype(ml_dtypes.bfloat16),
        "packed/flags": rng.integers(0, 2, 300).astype(bool),
        "step": np.array(seed),
    }


@np.errstate(all="ignore")
def changed(tree: Tree, changes: list[str], seed: int) -> Tree:
    """What training, and people, do to a state; `frozen` changes with "redraw" and after it alone."""
    rng = np.random.default_rng(seed)
    new = dict(tree)
    for change in changes:
        name = str(rng.choice(sorted(new.keys() & {"bf16", "fp32", "ids", "packed/0", "packed/1"})))
        value = new[name]
        if change == "nudge":  # dense training
            for nudged in ("bf16", "fp32"):
                noise = rng.normal(0, 1e-4, new[nudged].shape).astype(np.float32)
                new[nudged] = (new[nudged].astype(np.float32) + noise).astype(new[nudged].dtype)
            new["ids"] = new["ids"] + rng.integers(0, 3, new["ids"].shape)
        elif change == "one row":
            new[name] = value.copy()
            new[name][rng.integers(len(value))] = value[0]
        elif change == "redraw":
            new |= {"frozen": rng.normal(0, 0.02, (400, 64)).astype(np.float32)}
        elif change == "reshape":
            rows = int(rng.integers(1, 1200))
            new[name] = np.resize(value, (rows, *value.shape[1:]))
        elif change == "retype":
            new[name] = value.view(rng.choice([f"i{value.itemsize}", f"u{value.itemsize}"])).copy()
            if value.dtype.kind == "i":
                new[name] = initial(seed)[name]
        elif change == "small":
            new["packed/1"] = new["packed/1"] + np.ones((), new["packed/1"].dtype)
        elif change == "pack":  # members come and go
            extra = f"packed/extra{rng.integers(3)}"
            if new.pop(extra, None) is None:
                new[extra] = rng.normal(0, 1, 50).astype(np.float32)
        elif change == "specials":  # every bit pattern
            new[name] = rng.integers(0, 256, value.nbytes, np.uint8).view(value.dtype).reshape(value.shape)
        elif change == "zero":
            new[name] = np.zeros_like(value)
        elif change == "tie":
            new["tied"] = new["frozen"]
    new["step"] = new["step"] + 1
    return dict(sorted(new.items()))


class Outcome(NamedTuple):
    """What became of an operation."""

    killed: bool
    error: str  # the exception; empty when it returned, or was killed


class Striker:
    """Runs operations, some of which die at one of the I/O calls they make (tests/faults/interpose.c, preloaded)."""

    def __init__(self, shim: str, scratch: Path) -> None:
        self._shim = ctypes.CDLL(shim)
        self._scratch = scratch
        self.deaths = self.operations = 0

    def operate(self, run: Path, operation: Callable[[Path], Any], strike: int | None) -> Outcome:
        """`operation(run)`; with `strike` in a child that is killed at a call which that number chooses.

        A copy of the directory tells how many calls there are.
        """
        self.operations += 1
        if strike is None:
            try:
                operation(run)
            except (ostraca.OstracaError, ValueError) as error:
                return Outcome(False, repr(error))
            return Outcome(False, "")
        with tempfile.TemporaryDirectory(dir=self._scratch) as directory:
            copy = Path(directory) / run.name
            shutil.copytree(run, copy)
            calls = self._child(copy, operation, 0, COUNT)[1]
        mode = KILL_BEFORE if strike % 2 else KILL_AFTER
        outcome = self._child(run, operation, 1 + strike // 2 % max(calls, 1), mode)[0]
        self.deaths += outcome.killed
        return outcome

    def _child(self, run: Path, operation: Callable[[Path], Any], call: int, mode: int) -> tuple[Outcome, int]:
        """The outcome and the number of calls."""
        log, result = self._scratch / "log", self._scratch / "result"
        log.write_bytes(b"")
        result.write_bytes(b"")
        child = os.fork()
        if child == 0:
            status = 1
            with contextlib.suppress(BaseException):
                log_fd = os.open(log, os.O_WRONLY | os.O_APPEND)
                self._shim.interpose_arm(str(run).encode(), ctypes.c_long(call), mode, 0, log_fd)
                try:
                    operation(run)
                except (ostraca.OstracaError, ValueError) as error:
                    result.write_text(repr(error))
                except BaseException:
                    result.write_text("unexpected: " + traceback.format_exc())
                status = 0
            os._exit(status)
        status = os.waitpid(child, 0)[1]
        killed = os.WIFSIGNALED(status)
        assert not killed or os.WTERMSIG(status) == signal.SIGKILL, f"died of signal {os.WTERMSIG(status)}"
        error = result.read_text()
        assert not error.startswith("unexpected"), error
        assert killed or os.WEXITSTATUS(status) == 0
        return Outcome(killed, error), log.read_bytes().count(b"\n")


def identity(path: Path) -> tuple[str, tuple[str, str] | None]:
    """A checkpoint's id, and its base's directory and id."""
    manifest = reference.manifest(path)
    base = manifest["base"]
    return manifest["id"], (base["directory"], base["id"]) if base else None


def needed(path: Path) -> Iterator[Path]:
    """The files that a committed checkpoint, and through it its base, keeps alive."""
    manifest = reference.manifest(path)
    yield path / "manifest.json"
    yield path / manifest["index"]["file"]
    yield from (path / entry["file"] for entry in manifest["files"])
    if manifest["base"]:
        base = path.parent / manifest["base"]["directory"]
        attempt = manifest["base"]["id"]
        held = [base / f"tombstone-{attempt}.json", *base.glob(f"*-{attempt}.ostraca")]
        live = base / "manifest.json"
        yield from (file for file in held if file.exists())
        if live.exists() and reference.manifest(base)["id"] == attempt:
            yield live


def unnamed(run: Path, names: list[str]) -> list[str]:
    """The files in a directory that no checkpoint of `names` needs. (A save that is killed at the right moment leaves
    an empty directory; whose that is, nobody can tell.)"""
    wanted = {file for name in names for file in needed(run / name)}
    return sorted(str(f.relative_to(run)) for f in run.rglob("*") if f not in wanted and not f.is_dir())
