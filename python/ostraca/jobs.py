"""Running saves: the job behind each.

A job runs in a thread of its own, or in its caller's: a synchronous save of one process needs no other, and there is no
other where none can be started, or the interpreter's exit has begun. It feeds its writer what was not added before,
finishes its data file, waits until its caller went on, and commits, together with other processes where there are some.
It outlives its handle: a dropped handle finishes its save. Where nobody can look at a failure any more,
`sys.unraisablehook` gets it.
"""

import _thread
import contextlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, Protocol

from . import _core, exiting, history
from .base import BaseSnapshot
from .errors import CancelledError, CommitUncertainError, NotFoundError, OstracaError
from .progress import Progress, reporting
from .reports import Manifest, SaveInfo

TURN_SECONDS: Final = 0.05  # between looks whether a save that waits for something was cancelled
BIRTH_SECONDS: Final = 5.0  # a thread that has not taken its job by then died at birth, for want of memory

Step = Callable[[], object]
# When the writer has let go of all memory: before and after all who wait for the save are told.
Cleanups = tuple[Callable[[], object], Callable[[], object]]


class Coordination(Protocol):
    """The processes of a save, as one of them sees them."""

    def publish(self, report: _core.FileReport, commit: Callable[[list[_core.FileReport]], str]) -> str:
        """Hands in what this process wrote; what `commit` returned, in the process that calls it with all reports."""

    def fail(self, error: BaseException) -> bool:
        """Ends the save for all. Returns whether what this process wrote may be removed."""

    def cause(self, error: BaseException) -> BaseException:
        """After `fail`: what made the save fail, of which `error` may be a consequence."""


class _Alone:
    """A single process."""

    def publish(self, report: _core.FileReport, commit: Callable[[list[_core.FileReport]], str]) -> str:
        return commit([report])

    def fail(self, error: BaseException) -> bool:
        return not isinstance(error, CommitUncertainError)

    def cause(self, error: BaseException) -> BaseException:
        return error


ALONE: Final = _Alone()
NO_CLEANUPS: Final[Cleanups] = (lambda: None, lambda: None)


class Job:
    """One save, from its writer to its outcome. Its members are for any thread."""

    def __init__(
        self,
        path: str,
        commit: dict[str, Any],
        progress: Progress,
        started: float,
        feed: Callable[[_core.Writer, Step], object] | None = None,  # adds the rest; else the writer is sealed
        expected_bytes: int = 0,  # that the writer will have when it was fed
        coordination: Coordination = ALONE,
        cleanups: Cleanups = NO_CLEANUPS,
        *,
        keep_bytes: int = 0,  # of the engine's copies, for `snapshot`
    ) -> None:
        self.path = path
        # The process may change its directory before the commit. (pathlib would cost more to import than all of this.)
        self._directory = os.path.abspath(path)  # noqa: PTH100
        self.pid = os.getpid()
        self.keep_bytes = keep_bytes
        self.info: SaveInfo | None = None
        self.error: BaseException | None = None
        self.done = threading.Event()
        self.abandoned = False  # no handle is left that could be asked
        self._writer: _core.Writer | None = None  # before the job has started, and when the save is done
        self._commit = commit
        self._place = _core.real_path(self._directory)
        self._attempt = ""  # the writer's
        self._parent: str | None = None  # of the checkpoint to be, unless the caller named one
        self._before: Job | None = None  # an earlier save to the same path: it commits first
        self._progress = progress
        self._started = started
        self._feed = feed
        self._expected_bytes = expected_bytes
        self._coordination = coordination
        self._cleanup, self._late_cleanup = cleanups
        self._stall_seconds: float | None = None
        self._is_committer = False
        self._filled, self._caller_went_on = threading.Event(), threading.Event()
        self._dropped = False  # `start` failed
        self._taken, self._right_to_run = threading.Event(), threading.Lock()  # by a thread; whoever gets it runs it
        self._ended = threading.Event()  # nothing of it runs any more
        self._lock = threading.Lock()
        self._cancelled = self._publishing = False
        self._callbacks: list[Callable[[], object]] = []
        self._unseen: list[BaseException] = []  # at most one: the error nobody has looked at
        self._final_progress = (0, 0)
        self._keyframe_id = ""  # when the save is done: its own, or its base's
        self._kept: _core.BaseSnapshot | None = None  # from when the save is done until it is asked for

    def start(
        self, open_writer: Callable[[], _core.Writer], fill: Callable[[_core.Writer], object], *, in_thread: bool
    ) -> None:
        """Calls `fill` to add to the writer what can be added now, and runs the rest: here, or in a thread.

        Raises what `open_writer` and `fill` raise; what fails later is `error`.
        """
        threaded = False
        try:
            earlier = (job for job in reversed(exiting.running()) if isinstance(job, Job))
            self._before = next((job for job in earlier if job._place == self._place), None)
            in_thread &= exiting.begin(self)  # before anything is opened
            self._writer = open_writer()
            self._attempt = self._writer.attempt
            self._parent = history.saving(self._place, self._attempt)
            self._raise_if_cancelled()  # the exit did not wait so long
            threaded = in_thread and self._start_thread()  # before the engine's threads keep it waiting for a core
            fill(self._writer)
        except BaseException:
            self._dropped = True
            history.failed(self._place, self._attempt, self._parent)
            writer, self._writer = self._writer, None
            if writer is not None:
                writer.abort()
            self._end()
            raise
        finally:
            self._filled.set()
        if not threaded:
            self._caller_went_on.set()
            self._run()

    def let_caller_go(self, stalled: bool) -> None:
        """Called once, when the caller goes on; `stalled`: it waited so long, and for nothing else."""
        if stalled:
            self._stall_seconds = time.monotonic() - self._started
        self._caller_went_on.set()

    def wait_copied(self, timeout: float | None) -> bool:
        """False after the timeout. Raises the save's error."""
        writer = self._writer
        if writer is not None:
            try:
                return writer.wait_copied(timeout)
            except Exception:
                if not _has_failed(writer):
                    raise  # a signal's handler raised it; the save goes on
                del writer
        if not self.done.wait(timeout):  # a failed save removes what it wrote; `error` is then what made it fail
            return False
        self.raise_error()
        return True

    def copied(self) -> bool:
        writer = self._writer
        return writer is None or writer.copied()

    def cancel(self) -> bool:
        with self._lock:
            if self.done.is_set() or self._publishing:
                return False
            self._cancelled = True
            writer = self._writer
        if writer is not None:
            writer.cancel()
        self._caller_went_on.set()  # it may have been interrupted before it could say so
        return True

    def progress(self) -> tuple[int, int]:
        writer = self._writer
        if writer is None:
            return self._final_progress
        done, total = writer.progress()
        return done, max(total, self._expected_bytes)

    def snapshot(self) -> BaseSnapshot:
        """REQUIRES: the save was committed."""
        with self._lock:
            kept, self._kept = self._kept, None
        if kept is not None:
            return BaseSnapshot.of(kept)
        snapshot = BaseSnapshot(self._directory, budget_bytes=self.keep_bytes)
        if snapshot.id != self._keyframe_id:
            raise NotFoundError(f"the checkpoint that was saved to {self.path!r} is gone: it was overwritten")
        return snapshot

    def join(self, seconds: float) -> None:
        """Waits until nothing of it runs any more, a little longer than for `done`."""
        self._ended.wait(seconds)

    def raise_error(self) -> None:
        if self.error is not None:
            self._unseen.clear()
            raise self.error

    def seen_error(self) -> BaseException | None:
        self._unseen.clear()
        return self.error

    def when_done(self, callback: Callable[[], object]) -> None:
        with self._lock:
            if not self.done.is_set():
                self._callbacks.append(callback)
                return
        callback()

    def report_unseen(self) -> None:
        """Hands an error that nobody has looked at to `sys.unraisablehook`, once."""
        try:
            error = self._unseen.pop()
        except IndexError:
            return
        report = OstracaError(f"the save to {self.path!r} failed, and nobody asked for its result: {error!r}")
        report.__cause__ = error
        exiting.report(report)

    def _start_thread(self) -> bool:
        """Whether a thread has taken the job. `threading.Thread.start` would wait for one that died at birth."""
        try:
            _thread.start_new_thread(self._take_and_run, ())
        except (RuntimeError, MemoryError):  # at a limit; from CPython 3.12 on also at exit
            return False
        return self._taken.wait(BIRTH_SECONDS) or not self._right_to_run.acquire(blocking=False)

    def _take_and_run(self) -> None:
        if self._right_to_run.acquire(blocking=False):
            self._taken.set()
            self._run()

    def _run(self) -> None:
        self._filled.wait()
        if self._dropped:
            return
        try:
            self.info = self._save()
        except BaseException as error:
            self.error = error
            history.failed(self._place, self._attempt, self._parent)
            if not isinstance(error, CancelledError):
                self._unseen.append(error)
        try:
            with self._lock:
                writer, self._writer = self._writer, None  # its memory is free before anyone is told
                self._final_progress = writer.progress() if writer is not None else (0, 0)
                del writer
            self._cleanup()
        finally:
            with self._lock:
                self.done.set()
            self._tell()

    def _tell(self) -> None:
        try:
            for callback in self._callbacks:
                callback()
            if self.abandoned:
                self.report_unseen()
            self._late_cleanup()
        finally:
            self._end()

    def _end(self) -> None:
        self._before = None
        self.done.set()
        self._ended.set()
        exiting.end(self)

    def _save(self) -> SaveInfo:
        writer = self._writer
        assert writer is not None
        try:
            with reporting(self._progress, f"saving {self.path}") as callback:

                def step() -> None:
                    self._raise_if_cancelled()
                    if callback is not None:
                        callback(*self.progress())

                if (feed := self._feed) is not None:
                    self._feed = None  # it holds arrays
                    feed(writer, step)
                    del feed
                    self._expected_bytes = 0  # the writer knows better
                    writer.seal()
                report = writer.finish(callback)
            self._caller_went_on.wait()
            while self._before is not None and not self._cancelled:
                if self._before.done.wait(TURN_SECONDS):
                    break
            with self._lock:
                self._raise_if_cancelled()
                self._publishing = True
            text = self._coordination.publish(report, self._publish)
        except BaseException as error:
            if self._coordination.fail(error):
                writer.abort()
            cause = self._coordination.cause(error)
            if cause is error:
                raise
            raise cause from error
        else:
            if self.keep_bytes:
                with contextlib.suppress(Exception):  # whoever asks for it later hears why
                    self._kept = writer.snapshot()
        finally:
            del writer  # an error's traceback keeps this frame
        manifest = Manifest.parse(self.path, text)
        self._keyframe_id = manifest.base[1] if manifest.base else manifest.id
        if self._is_committer:
            return manifest.info
        return replace(manifest.info, stall_seconds=self._stall(time.monotonic() - self._started))

    def _stall(self, seconds: float) -> float:
        """Of this process's caller, which waits for all of a synchronous save."""
        return seconds if self._stall_seconds is None else self._stall_seconds

    def _raise_if_cancelled(self) -> None:
        if self._cancelled:
            raise CancelledError(f"the save to {self.path!r} was cancelled")

    def _publish(self, reports: list[_core.FileReport]) -> str:
        self._is_committer = True  # the manifest says what this process's caller waited
        seconds = time.monotonic() - self._started
        return _core.commit(
            self._directory,
            reports,
            **{**self._commit, "parent": self._commit["parent"] or self._parent},
            seconds=seconds,
            stall_seconds=self._stall(seconds),
            created_after_ns=history.created_last(self._place),
        )


def _has_failed(writer: _core.Writer) -> bool:
    try:
        writer.wait_copied(0)
    except Exception:
        return True
    return False
