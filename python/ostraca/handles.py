"""The handle of an asynchronous save, which its caller holds. A save outlives it: dropped, it lets the save finish."""

import os
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from .base import BaseSnapshot
from .errors import OstracaError
from .jobs import Job
from .reports import SaveInfo
from .uncopied import Uncopied

if TYPE_CHECKING:
    import asyncio


class SaveHandle(Uncopied):
    """An asynchronous save: *copied* (the arrays may change again), then *committed* (durable).

    Thread-safe. Awaiting it gives the `SaveInfo`; cancelling the awaiting task does not cancel the save. Dropping it
    lets the save finish. A forked child cannot use it. The interpreter's exit waits for it, up to 300 seconds.
    """

    __slots__ = ("__weakref__", "_job_")
    _instead = "give others its path, and its result"

    def __init__(self, job: Job) -> None:
        self._job_ = job

    @property
    def path(self) -> str:
        """The checkpoint's directory."""
        return self._job_.path

    def wait_copied(self, timeout: float | None = None) -> None:
        """Returns when the arrays may be changed. Raises TimeoutError after `timeout` seconds, or the save's error."""
        if not self._job.wait_copied(timeout):
            raise TimeoutError(f"the arrays of the save to {self.path!r} are not all copied yet")

    def copied(self) -> bool:
        """Whether the arrays may be changed."""
        return self._job.copied()

    def done(self) -> bool:
        """Whether the save was committed, failed, or was cancelled."""
        return self._job.done.is_set()

    def result(self, timeout: float | None = None) -> SaveInfo:
        """Waits until the checkpoint is durable. Raises TimeoutError, `CancelledError` or the save's error."""
        job = self._finished(timeout)
        job.raise_error()
        assert job.info is not None
        return job.info

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Waits, and returns the save's error or None."""
        return self._finished(timeout).seen_error()

    def snapshot(self) -> BaseSnapshot:
        """Waits as `result` does, and returns the checkpoint as a base: `save(..., base=snapshot)`.

        What `keep_bytes` kept of it is in memory and is not read again; it stays until the snapshot is closed, or until
        the handle is dropped if nobody asks. A second call keeps nothing in memory at first. Of a save with a base, it
        is of that base. Raises the save's error, or what `BaseSnapshot` raises (`NotFoundError`: the checkpoint was
        deleted or overwritten meanwhile).
        """
        self.result()
        return self._job.snapshot()

    def cancel(self) -> bool:
        """Stops the save and removes what it wrote. False when it is too late: done, or being published."""
        return self._job.cancel()

    def progress(self) -> tuple[int, int]:
        """Bytes done and in total, of decoded data."""
        return self._job.progress()

    def __await__(self) -> Generator[Any, None, SaveInfo]:
        import asyncio

        job = self._job
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            try:
                loop.call_soon_threadsafe(_settle, future)
            except RuntimeError:  # the loop was closed meanwhile: nobody waits any more
                return

        job.when_done(wake)
        yield from future
        return self.result()

    def __repr__(self) -> str:
        job = self._job_
        state = "running" if not job.done.is_set() else "failed" if job.error else "committed"
        return f"<ostraca.SaveHandle {state}: {job.path!r}>"

    def __del__(self, getpid: Callable[[], int] = os.getpid) -> None:  # the module may be gone before the handle
        job = getattr(self, "_job_", None)
        if job is not None and job.pid == getpid():
            job.abandoned = True
            if job.done.is_set():
                job.report_unseen()

    @property
    def _job(self) -> Job:
        if self._job_.pid != os.getpid():
            raise OstracaError(
                f"the save to {self.path!r} runs in process {self._job_.pid}; a forked child cannot use its handle"
            )
        return self._job_

    def _finished(self, timeout: float | None) -> Job:
        if not self._job.done.wait(timeout):
            raise TimeoutError(f"the save to {self.path!r} is still running")
        return self._job_


def _settle(future: "asyncio.Future[None]") -> None:
    if not future.done():  # the awaiting task may have been cancelled
        future.set_result(None)
