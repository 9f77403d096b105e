"""Operations in forked children, one of which is stopped before a chosen system call, so that others act in between.

For scripts that tests/faults/interpose.c is preloaded into. Every process is waited for and ended by its own id.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from ostraca import OstracaError

STOP_ANYWHERE = 5  # of interpose.c
HANGS_SECONDS = 60.0  # what takes longer will never end; the machine may be a busy one
BLOCKED_SECONDS = 0.3  # an operation that takes longer beside a stopped process waits for it


class Child:
    """One operation in a forked process. `said` is "ok", or the documented error it raised, once it has ended."""

    def __init__(self, operation: Callable[[], object], result: Path, arm: Callable[[], None] = lambda: None) -> None:
        self._result, self.said = result, ""
        result.unlink(missing_ok=True)
        self._pid = os.fork()
        if self._pid == 0:
            signal.alarm(int(2 * HANGS_SECONDS))  # nobody is left to end it where the script itself is killed
            with contextlib.suppress(BaseException):
                arm()
                result.write_text(outcome(operation))
            os._exit(0)

    def wait_stopped(self) -> bool:
        """Waits until it stops (True) or ends."""
        return self._wait(HANGS_SECONDS, os.WUNTRACED) == "stopped"

    def ends_within(self, seconds: float) -> bool:
        return self._wait(seconds, 0) == "ended"

    def resume(self) -> None:
        os.kill(self._pid, signal.SIGCONT)

    def wait(self, seconds: float = HANGS_SECONDS) -> None:
        """Waits until it has ended; raises AssertionError when it hangs."""
        if not self.ends_within(seconds):
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self.said = "unexpected: it hangs"
            raise AssertionError(f"it hangs for {seconds:.0f} seconds")

    def _wait(self, seconds: float, options: int) -> str:
        if self.said:
            return "ended"
        end = time.monotonic() + seconds
        pause = 0.0005
        while True:
            found, status = os.waitpid(self._pid, options | os.WNOHANG)
            if found and os.WIFSTOPPED(status):
                return "stopped"
            if found:
                self.said = self._result.read_text() if self._result.exists() else f"unexpected: it ended with {status}"
                return "ended"
            if time.monotonic() > end:
                return "runs"
            time.sleep(pause)
            pause = min(2 * pause, 0.01)


def outcome(operation: Callable[[], object]) -> str:
    """What an operation came to: "ok", the text that it returned, or the documented error that it raised."""
    try:
        returned = operation()
    except (OstracaError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    except BaseException:
        return "unexpected: " + traceback.format_exc()
    return returned if isinstance(returned, str) else "ok"


def armed(shim: ctypes.CDLL, under: Path, call: int, log: Path) -> Callable[[], None]:
    """For `Child`: stop it before its `call`-th system call below a directory; 0 only counts. All are logged."""

    def arm() -> None:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        shim.interpose_arm(str(under).encode(), ctypes.c_long(call), STOP_ANYWHERE, 0, file)

    return arm
