"""What the tests of deleting and rewriting share: runs, sealed documents, and operations stopped between two calls."""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import format_writer
import ostraca

STOP = 4  # interpose.c's mode
PATIENCE_SECONDS = 60.0


def state(seed: int) -> dict[str, Any]:
    return {"x": np.arange(3000, dtype=np.float32) + seed}


def holds(path: Path, seed: int) -> bool:
    """Whether a checkpoint is whole and is the one that was saved with this seed."""
    return ostraca.verify(path, deep=True).ok and np.array_equal(ostraca.load(path)["x"], state(seed)["x"])


def names(directory: Path) -> list[str]:
    return sorted(child.name for child in directory.iterdir())


def members_of(path: Path) -> dict[str, Any]:
    members: dict[str, Any] = json.loads((path / "manifest.json").read_bytes())
    return members


def id_of(path: Path) -> str:
    found = members_of(path)["id"]
    assert isinstance(found, str)
    return found


def reseal(path: Path, **changes: Any) -> None:
    """Changes members of a manifest and closes it with the right checksum."""
    members = members_of(path) | changes
    del members["crc32c"]
    (path / "manifest.json").write_bytes(format_writer.manifest_bytes(members))


def content(directory: Path) -> dict[str, bytes]:
    """The bytes of all plain files below it."""
    return {str(f.relative_to(directory)): f.read_bytes() for f in directory.rglob("*") if f.is_file()}


def keyframe_and_delta(run: Path, keyframe: str = "base", delta: str = "delta", seed: int = 1) -> None:
    """Two checkpoints of the same content: all bytes of the second are the first's."""
    ostraca.save(run / keyframe, state(seed), step=seed)
    ostraca.save(run / delta, state(seed), step=seed + 1, base=run / keyframe)


def why(report: ostraca.PruneReport, name: str) -> str:
    return "; ".join(kept.reason for kept in report.kept if kept.name == name)


def error(report: ostraca.PruneReport, name: str) -> str:
    return "; ".join(message for place, message in report.errors if place == name)


def orphans(path: Path) -> list[str]:
    """Files in a checkpoint's directory that its manifest does not name."""
    members = members_of(path)
    named = {"manifest.json", members["index"]["file"], *(file["file"] for file in members["files"])}
    return [name for name in names(path) if name not in named]


# --- Other processes


@contextlib.contextmanager
def process(code: str, *arguments: object, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process that has printed "ready", and goes on as its code says. It is killed in the end."""
    command = [sys.executable, "-c", "import os, sys, numpy as np, ostraca\n" + code, *map(str, arguments)]
    variables = os.environ | environment
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            yield child
        finally:
            child.kill()


def run_script(file: str, shim: Path, *arguments: object) -> str:
    """Runs a test's file as a script, with the library preloaded that stops processes; its output, if it succeeds."""
    environment = {**os.environ, "LD_PRELOAD": str(shim), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", file, str(shim), *map(str, arguments)]
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout[-4000:]
    print(done.stdout)
    return done.stdout


# --- In such a script


class Child:
    """An operation in a forked process; says "ok", or the name of the documented error that it raised."""

    def __init__(self, scratch: Path, operation: Callable[[], object], before: Callable[[], object] = lambda: None):
        self._said = scratch / f"said-{time.monotonic_ns()}"
        self.pid = os.fork()
        if self.pid == 0:
            text = "unexpected"
            with contextlib.suppress(BaseException):
                before()
                try:
                    text = f"ok {operation()}"
                except (ostraca.OstracaError, OSError) as raised:
                    text = f"{type(raised).__name__}: {raised}"
                except BaseException:
                    text = "unexpected: " + traceback.format_exc()
            self._said.write_text(text)
            os._exit(0)
        self._ended = False

    def stopped(self) -> bool:
        """Waits until it has stopped itself; False: it ended without."""
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        self._ended = not os.WIFSTOPPED(status)
        return not self._ended

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def ends_within(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while not self._ended and time.monotonic() < end:
            pid, _ = os.waitpid(self.pid, os.WNOHANG)
            self._ended = pid == self.pid
            if not self._ended:
                time.sleep(0.002)
        return self._ended

    def said(self) -> str:
        if not self.ends_within(PATIENCE_SECONDS):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self._ended = True
            return "hangs"
        text = self._said.read_text()
        self._said.unlink()
        return text


def stopping(
    library: str, directory: Path, call: int, log: Path | None = None, mode: int = STOP, error: int = 0
) -> Any:
    """What arms the library in a child: at this call on a file below the directory the child stops."""

    def arm() -> None:
        fd = -1 if log is None else os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        ctypes.CDLL(library).interpose_arm(str(directory).encode(), ctypes.c_long(call), mode, error, fd)

    return arm
