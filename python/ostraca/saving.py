"""`save` and `save_async`, and what those of the frameworks share with them."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, SupportsIndex

from . import _core, leaves, metadata, options
from .base import Base, for_save
from .handles import SaveHandle
from .jobs import ALONE, NO_CLEANUPS, Cleanups, Coordination, Job, Step
from .options import StrPath
from .progress import Progress, check_progress
from .reports import SaveInfo
from .tree import flatten

if TYPE_CHECKING:
    from ._core import LeafSpec

STAGING_SHARE = 0.5  # of the memory available: the default's upper bound
BLOCK_BYTES = 8 << 20  # what the engine stages at a time; a block may be half empty, so the default counts twice
FEED_BYTES = 1 << 30  # of arrays on accelerators that a synchronous save keeps in host memory
FEED_BYTES_MIN = 64 << 20  # below, a copy would wait for the one before it

_warned_of_staging = False


def save(
    path: StrPath,
    tree: Any,
    *,
    step: SupportsIndex | None = None,
    metadata: Any = None,
    base: Base = None,
    codec: str = "auto",
    chunk_shape: Sequence[SupportsIndex] | None = None,
    io: str = "auto",
    threads: SupportsIndex | None = None,
    coding_bytes: SupportsIndex | None = None,
    overwrite: bool = False,
    parent: str | None = None,
    progress: Progress = None,
) -> SaveInfo:
    """Saves a tree as the checkpoint `path`, a directory. It is durable on return.

    Here and everywhere a path is a str, bytes or os.PathLike; `~` and file URLs are what they are elsewhere, and any
    other scheme ("gs://") is an `UnsupportedError`: there are no object stores yet.

    The tree's containers are dicts and other Mappings (str and int keys), lists, tuples, namedtuples and dataclass
    instances; its leaves arrays (numpy, CPU arrays of JAX, PyTorch and TensorFlow, whatever has the buffer protocol,
    `__array_interface__` or DLPack), Python numbers, str, bytes and None. bytearray and memoryview come back as arrays.
    Arrays are read in place: do not change them meanwhile.

    step: the training step, recorded. metadata: what JSON can hold (see `ostraca.metadata.encode`). base: an
    earlier checkpoint in the same directory (a path, or a `BaseSnapshot`, which does not have to be read again), or
    None to store everything. What is as it was there is not stored again but referred to, and where it pays the rest is
    stored as the difference, losslessly. This checkpoint then needs that one, which `prune` knows. A base that has a
    base stands for that: a restore reads two checkpoints at most. codec: "auto", "raw" or "zstd". chunk_shape: of
    arrays with that many dimensions; a chunk holds at most 4 MiB; with a base best the same. io: "auto", "direct" or
    "buffered". threads: that code chunks; None means all usable cores. coding_bytes: the budget for output buffers.
    overwrite: replace a checkpoint that is there, unless it is another's base. parent: the id of the checkpoint that
    the state comes from, recorded; None means what this process last loaded or saved in the directory. progress: True
    for a bar on standard error, or a callable of (bytes done, bytes total), called where the save runs: here,
    or in a thread of its own.

    Before anything is written, raises `UnsupportedError`, `ExistsError`, and for the base `NotFoundError` and
    `MismatchError` (it lies elsewhere, or is what would be overwritten); otherwise OSError, `CommitUncertainError`,
    `CorruptionError` (of the base).
    A save that fails, or is interrupted (Ctrl-C) before its checkpoint is published, leaves nothing behind.
    """
    return result_of(_start(Request(locals())))


def save_async(
    path: StrPath,
    tree: Any,
    *,
    step: SupportsIndex | None = None,
    metadata: Any = None,
    base: Base = None,
    codec: str = "auto",
    chunk_shape: Sequence[SupportsIndex] | None = None,
    io: str = "auto",
    threads: SupportsIndex | None = None,
    coding_bytes: SupportsIndex | None = None,
    overwrite: bool = False,
    parent: str | None = None,
    progress: Progress = None,
    staging_bytes: SupportsIndex | None = None,
    keep_bytes: SupportsIndex = 0,
    return_early: bool = False,
) -> SaveHandle:
    """Like `save`, but returns once the arrays were copied, or at once with `return_early=True`.

    Until then (`SaveHandle.wait_copied`) the arrays must not change; JAX arrays may be donated at any time. Memory that
    can change is copied first, as far as `staging_bytes` goes (default: all of it, but at most half of the memory
    available); what is beyond waits for the disk, with a RuntimeWarning once, and `SaveInfo.stall_seconds` says so.
    keep_bytes: memory, in blocks of 8 MiB and beside `staging_bytes`, in which what was saved stays for incremental
    saves to come: `SaveHandle.snapshot`. Copies that were made anyway are not copied again. Without `base` only.
    """
    request = Request(locals(), asynchronous=True)
    return handle_of(_start(request), request, return_early)


def _start(request: Request) -> Job:
    return start(request, Content(leaves.specs(flatten(request.tree))))


class Feed(Protocol):
    """Adds leaves to a writer, in their order, those that need memory on the way when there is some."""

    @property
    def nbytes(self) -> int:
        """That all of them need."""

    def __call__(self, writer: _core.Writer, step: Step, *, limit: int) -> None:
        """At most `limit` bytes at a time, or what one leaf needs. Calls `step` now and then, which may raise."""


class Content(NamedTuple):
    """What a save stores."""

    specs: Sequence[LeafSpec]  # what lies in host memory
    feed: Feed | None = None  # adds that, and the rest


class Request:
    """What a save is asked for, checked."""

    def __init__(self, arguments: Mapping[str, Any], *, asynchronous: bool = False) -> None:
        """`arguments`: of the function that was called, by name."""
        self.started = time.monotonic()
        self.asynchronous = asynchronous
        self.path = options.checked_path(arguments["path"])
        self.tree = arguments["tree"]
        self.base: Base = arguments["base"]
        self.progress: Progress = arguments["progress"]
        check_progress(self.progress)
        choices = ("codec", "chunk_shape", "io", "threads", "coding_bytes", "overwrite")
        self.writer = options.writer_options(
            staging_bytes=arguments.get("staging_bytes"),
            keep_bytes=arguments.get("keep_bytes", 0),
            **{name: arguments[name] for name in choices},
        )
        if self.writer["keep_bytes"] and self.base is not None:
            raise ValueError("keep_bytes is for saves without a base: a checkpoint with one is no base itself")
        self.commit = {
            "step": options.checked_step(arguments["step"]),
            "metadata": metadata.encode(arguments["metadata"]),
            "parent": options.checked_parent(arguments.get("parent")),
            "overwrite": self.writer["overwrite"],
        }
        self.feed_limit = FEED_BYTES
        self.unstaged: tuple[int, int] | None = None  # bytes that did not fit the staging budget, and that

    def stage(self, content: Content) -> None:
        """Decides on memory for copies, where the caller waits for them: the engine's, and those of a feed."""
        if not self.asynchronous:
            return
        mutable_bytes = leaves.mutable_bytes(content.specs)
        fed_bytes = content.feed.nbytes if content.feed else 0
        wanted = 2 * mutable_bytes + BLOCK_BYTES + fed_bytes
        budget = self.writer["staging_bytes"]
        if budget is None:
            available = _core.available_memory_bytes() - self.writer["keep_bytes"]
            budget = min(wanted, max(1, int(available * STAGING_SHARE)))
        fed_share = budget * fed_bytes // wanted
        if mutable_bytes + fed_bytes <= budget:
            fed_share = max(fed_share, fed_bytes)
        self.feed_limit = max(fed_share, FEED_BYTES_MIN)
        self.writer["staging_bytes"] = budget - fed_share
        if mutable_bytes > self.writer["staging_bytes"] + self.writer["keep_bytes"] or fed_bytes > self.feed_limit:
            self.unstaged = mutable_bytes + fed_bytes, budget

    def open(self, attempt: str | None = None, process_index: int = 0, process_count: int = 1) -> _core.Writer:
        return _core.Writer(
            self.path,
            attempt=attempt,
            process_index=process_index,
            process_count=process_count,
            base=for_save(self.base, self.path),
            **self.writer,
        )


Opener = Callable[..., _core.Writer]  # Request.open
Opening = Callable[["_core.Writer", Step], object]  # waits for the directory, and opens the writer's files


def start(
    request: Request,
    content: Content,
    *,
    begin: Callable[[Opener], _core.Writer] = lambda opener: opener(),
    coordination: Coordination = ALONE,
    cleanups: Cleanups = NO_CLEANUPS,
    opening: Opening | None = None,
) -> Job:
    """Starts a save. Everything is checked and converted by now: it begins with making the directory.

    opening: for a directory that somebody else makes. Called where the save runs, when everything that may change was
    copied; what does not fit the staging budget waits for it. cleanups: called where the save runs when it is over and
    has let go of all memory; the second one after all who wait for the save have been told.
    """
    request.stage(content)
    feed: Callable[[_core.Writer, Step], object] | None = None
    expected_bytes = 0
    if content.feed is not None:
        feed, expected_bytes = partial(content.feed, limit=request.feed_limit), content.feed.nbytes
    if opening is not None:
        request.writer["opens_later"] = True
        feed = _opened(opening, feed, first=request.unstaged is not None)

    def fill(writer: _core.Writer) -> None:
        if content.feed is None:
            writer.add(content.specs)
            writer.seal()

    asked = (request.path, request.commit, request.progress, request.started)
    keep_bytes = request.writer["keep_bytes"]
    job = Job(*asked, feed, expected_bytes, coordination, cleanups, keep_bytes=keep_bytes)
    # With other processes a signal's exception must not come into the middle of what they are told.
    job.start(partial(begin, request.open), fill, in_thread=request.asynchronous or coordination is not ALONE)
    return job


def _opened(
    opening: Opening, feed: Callable[[_core.Writer, Step], object] | None, *, first: bool
) -> Callable[[_core.Writer, Step], object]:
    """A feed whose writer has no files yet. first: what is fed waits for memory that writing frees."""

    def run(writer: _core.Writer, step: Step) -> None:
        if first:
            opening(writer, step)
        if feed is not None:
            feed(writer, step)
        writer.seal()  # it may say that all was copied
        if not first:
            opening(writer, step)

    return run


def result_of(job: Job) -> SaveInfo:
    """Waits for a synchronous save."""
    try:
        job.let_caller_go(stalled=False)
        job.done.wait()
    except BaseException:  # a signal's handler raised
        job.cancel()
        job.done.wait()
        raise
    job.raise_error()
    assert job.info is not None
    return job.info


def handle_of(job: Job, request: Request, return_early: bool) -> SaveHandle:
    """Waits until the caller of an asynchronous save may go on."""
    try:
        if not return_early:
            job.wait_copied(None)
        job.let_caller_go(stalled=True)
    except BaseException:  # the save failed, or a signal's handler raised
        job.cancel()
        job.let_caller_go(stalled=True)
        job.done.wait()
        raise
    handle = SaveHandle(job)  # first: the warning may be an exception
    if request.unstaged is not None and not return_early:
        _warn_of_staging(*request.unstaged)
    return handle


def _warn_of_staging(nbytes: int, staging: int) -> None:
    global _warned_of_staging
    if not _warned_of_staging:
        _warned_of_staging = True
        warnings.warn(
            f"save_async had to wait for the disk: of {nbytes} bytes of arrays that have to be copied, {staging} could"
            " be copied first; raise staging_bytes=, or pass return_early=True and call wait_copied() later",
            RuntimeWarning,
            stacklevel=4,
        )
