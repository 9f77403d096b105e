"""The end of the process: it waits for the saves that run, and what begins too late is refused."""

import atexit
import os
import sys
import threading
import time
from typing import Final, Protocol

from .errors import OstracaError

EXIT_WAIT_SECONDS: Final = 300.0  # how long the interpreter's exit waits for running saves, together
CANCEL_WAIT_SECONDS: Final = 10.0  # and then for their cancellation


class Running(Protocol):
    """A save."""

    path: str

    def join(self, seconds: float) -> None:
        """Waits until nothing of it runs any more."""

    def cancel(self) -> bool:
        """False when it is too late."""

    def report_unseen(self) -> None:
        """Reports its error, where it failed and nobody has looked at that."""


_running: dict[Running, None] = {}  # in the order of their calls
_exiting_thread: int | None = None  # the one that runs the exit's handlers, once the exit has begun to wait for saves
_waiting_child: int | None = None  # the process, one of multiprocessing's, whose end waits for saves


def begin(save: Running) -> bool:
    """Makes the exit wait for a save until `end`. Returns whether a thread may run it: later nobody waits for that.

    Raises `OstracaError` where the exit has begun, and this thread may be ended in the middle of the save.
    """
    _running[save] = None  # first: either the exit waits for it, or it finds that the exit has begun
    if _exiting_thread is None:
        _wait_in_a_child()
        return True
    if _exiting_thread == threading.get_ident():
        return False
    raise OstracaError(
        f"the save to {save.path!r} was not begun: the interpreter is exiting, and would end this thread in the middle"
        " of it. Join threads that save before the program ends"
    )


def end(save: Running) -> None:
    _running.pop(save, None)


def running() -> list[Running]:
    """The saves that were begun and have not ended, in the order of their calls."""
    return list(_running)


def wait_at_exit() -> None:
    """Ends all saves. A framework that shuts down at exit what saves need registers it again, to run before that."""
    global _exiting_thread
    _exiting_thread = threading.get_ident()  # first: see `begin`
    _end_all()


def report(error: BaseException) -> None:
    """Hands an error that nobody can look at any more to `sys.unraisablehook`."""
    _Unraisable(error)


class _Unraisable:
    """Raises from its destructor, which is how Python code gets to `sys.unraisablehook`."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __del__(self) -> None:
        raise self._error


def _end_all() -> None:
    saves = running()
    deadline = time.monotonic() + EXIT_WAIT_SECONDS
    try:
        for save in saves:
            save.join(max(0.0, deadline - time.monotonic()))
    finally:  # also on Ctrl-C
        for save in saves:
            if save.cancel():
                save.join(CANCEL_WAIT_SECONDS)
                report(OstracaError(f"the interpreter's exit cancelled the save to {save.path!r}"))
            save.report_unseen()


def _wait_in_a_child() -> None:
    """Processes that multiprocessing forks run no exit handlers, but its finalizers."""
    global _waiting_child
    process = sys.modules.get("multiprocessing.process")
    if process is None or process.parent_process() is None or _waiting_child == os.getpid():
        return
    _waiting_child = os.getpid()
    from multiprocessing import util

    util.Finalize(None, _end_all, exitpriority=0)


atexit.register(wait_at_exit)
os.register_at_fork(after_in_child=_running.clear)  # the parent waits for them
