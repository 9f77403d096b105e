"""`save` and `save_async` for JAX."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, SupportsIndex

import jax

from .. import _core
from ..base import Base
from ..handles import SaveHandle
from ..jobs import TURN_SECONDS, Cleanups, Job, Step
from ..options import StrPath
from ..progress import Progress
from ..reports import SaveInfo
from ..saving import Content, Opener, Opening, Request, handle_of, result_of, start
from ..sharded.calls import Call
from . import service
from .collecting import Collector

Ready = Callable[[float], bool]  # waits at most so many seconds: whether there is a directory

WAIT_TRIES: Final = 10
FREEING_SECONDS: Final = 0.05  # XLA frees what a computation held a moment after its results are ready


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
    timeout: float | None = None,
    pinned_host: bool = False,
) -> SaveInfo:
    """Saves a tree as the checkpoint `path`, as `ostraca.save` does; its arrays may be on any devices of any processes.

    Every process of the program calls it, with the same arguments and a tree of the same names, dtypes and shapes, and
    in the same order as its other saves and loads; `path` is a directory that all of them see. Each writes shards that
    it holds; what several hold is written once. Containers that are registered with JAX are opened as JAX does, so
    that their static fields are left out. What is no global array (of numpy, of this process's devices alone, Python's
    values) is stored from process 0, and must be the same everywhere; `ostraca.PerProcess` stores one for each.
    Arrays on accelerators pass through host memory a part at a time.

    Calls are compared before anything is opened: path, step, base, codec, chunk_shape and overwrite are the same in all
    processes. Metadata is process 0's; a difference is logged as a warning. Give a step: without one, saves to the same
    path are told apart by their order alone.

    The arguments are those of `ostraca.save`, and: timeout: seconds after which a process that lives, but does not make
    this call or no progress in it, counts as lost; None is `OSTRACA_TIMEOUT`, or 300. A process that shows no sign of
    life counts as lost after 60, or `timeout` if that is less. pinned_host: copy from accelerators by way of JAX's
    memory of that kind, which is fast for GPUs; its memory may not be returned to the system.

    Raises what `ostraca.save` does; `MismatchError` where calls or trees differ between processes; and
    `CoordinationError` in all processes where one of them fails, is missing, or cannot see the directory. Then nothing
    was committed.
    """
    job, _ = _start(locals())
    return result_of(job)


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
    timeout: float | None = None,
    pinned_host: bool = False,
    ready: Ready | None = None,
) -> SaveHandle:
    """Like `save`, but returns once the arrays were copied, or at once with `return_early=True`.

    Arrays in the memory of CPU devices are not copied: they may be donated at any time, and a donating step then takes
    other memory. Arrays on accelerators and numpy's are copied first, as far as `staging_bytes` goes (default: all, but
    at most half of the memory available); they must not be donated or changed before (`SaveHandle.wait_copied`). What
    is beyond waits for the disk, with a RuntimeWarning once, and `SaveInfo.stall_seconds` says so. keep_bytes: as in
    `ostraca.save_async`; of several processes each keeps what it saved itself.

    ready: for other checkpointers, which make the directory while the arrays are copied. Called in the save's thread,
    of several processes in that of process 0, with a number of seconds: it waits at most so long and returns whether
    the directory is there; what it raises fails the save. Arrays beyond `staging_bytes` wait for that too.
    """
    job, request = _start(locals(), asynchronous=True)
    return handle_of(job, request, return_early)


def _release_after_steps() -> None:
    """A step that ran when the save ended holds what was donated to it until it ends."""
    for _ in range(WAIT_TRIES):
        try:
            jax.block_until_ready([array for array in jax.live_arrays("cpu") if not array.is_ready()])
            break
        except RuntimeError:  # an array was donated after we had looked at it; or there are no CPU devices
            continue
    time.sleep(FREEING_SECONDS)
    _core.release_free_memory()


# What a save held is freed when a step has taken other memory already, and XLA's threads allocate from arenas of their
# own: without this, saves in a donating loop on CPU let the process grow by several times the state.
# No step runs beside a save that its caller waits for.
_CLEANUPS: Final[dict[bool, Cleanups]] = {
    True: (_core.release_free_memory, _release_after_steps),  # asynchronous
    False: (_core.release_free_memory, lambda: None),
}


def _start(arguments: Mapping[str, Any], *, asynchronous: bool = False) -> tuple[Job, Request]:
    if jax.process_count() > 1:
        return _start_together(arguments, asynchronous)
    request = Request(arguments, asynchronous=asynchronous)
    content = _content(request, Collector(), arguments)
    ready: Ready | None = arguments.get("ready")
    opening = None if ready is None else _opening(ready)
    return start(request, content, cleanups=_CLEANUPS[asynchronous], opening=opening), request


def _opening(ready: Ready) -> Opening:
    def opening(writer: _core.Writer, step: Step) -> None:
        while not ready(TURN_SECONDS):
            step()
        writer.open()

    return opening


def _start_together(arguments: Mapping[str, Any], asynchronous: bool) -> tuple[Job, Request]:
    started = time.monotonic()
    index, count = jax.process_index(), jax.process_count()
    collector = Collector(index, count)
    ready: Ready | None = arguments.get("ready")

    def begin(opener: Opener) -> _core.Writer:
        def opened(attempt: str) -> _core.Writer:
            collector.keep(agreement.own)
            return opener(attempt=attempt, process_index=index, process_count=count)

        writer = agreement.begin(request.path, collector.facts, opened, opens_later=ready is not None)
        committing = _core.CommitProgress()
        request.commit["progress"] = committing
        agreement.writing(lambda: (*writer.progress(), committing.files), writer.cancel, writer.renew)
        return writer

    def opening(writer: _core.Writer, step: Step) -> None:
        def is_ready() -> bool:
            step()
            return ready is None or ready(TURN_SECONDS)

        agreement.open(request.path, is_ready, writer.open)

    # First of all, as a process that fails has to tell the others.
    agreement = service.group().meet(Call.of_save(arguments), timeout=arguments["timeout"])
    try:
        request = Request(arguments, asynchronous=asynchronous)
        request.started = started  # to wait for the others is a part of the stall
        content = _content(request, collector, arguments)
        job = start(
            request,
            content,
            begin=begin,
            coordination=agreement,
            cleanups=_CLEANUPS[asynchronous],
            opening=None if ready is None else opening,
        )
        return job, request
    except BaseException as error:
        agreement.fail(error)
        raise


def _content(request: Request, collector: Collector, arguments: Mapping[str, Any]) -> Content:
    cut = request.writer["chunk_shape"]
    return collector.collect(request.tree, cut_rank=None if cut is None else len(cut), pinned=arguments["pinned_host"])
