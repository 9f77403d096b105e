"""`save` and `save_async`."""

import time
import warnings
from collections.abc import Sequence
from typing import Any, SupportsIndex

from . import _core, leaves, metadata, options, tree
from .base import Base, for_save
from .handles import Job, SaveHandle
from .options import StrPath
from .progress import Progress, check_progress
from .reports import SaveInfo

STAGING_SHARE = 0.5  # of the memory available: the default's upper bound
BLOCK_BYTES = 8 << 20  # what the engine stages at a time; a block may be half empty, so the default counts twice

_json = metadata.encode  # the functions below have a parameter of the module's name
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
    progress: Progress = None,
) -> SaveInfo:
    """Saves a tree as the checkpoint `path`, a directory. It is durable on return.

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
    overwrite: replace a checkpoint that is there, unless it is another's base. progress: True for a bar on standard
    error, or a callable of (bytes done, bytes total), called in the save's thread.

    Before anything is written, raises `UnsupportedError`, `ExistsError`, and for the base `NotFoundError` and
    `MismatchError` (it lies elsewhere, or is what would be overwritten); otherwise OSError, `CommitUncertainError`,
    `CorruptionError` (of the base).
    A save that fails, or is interrupted (Ctrl-C) before its checkpoint is published, leaves nothing behind.
    """
    job = _start(
        path,
        tree,
        step,
        metadata,
        progress,
        base=base,
        codec=codec,
        chunk_shape=chunk_shape,
        io=io,
        threads=threads,
        coding_bytes=coding_bytes,
        overwrite=overwrite,
    )[0]
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
    progress: Progress = None,
    staging_bytes: SupportsIndex | None = None,
    return_early: bool = False,
) -> SaveHandle:
    """Like `save`, but returns once the arrays were copied, or at once with `return_early=True`.

    Until then (`SaveHandle.wait_copied`) the arrays must not change; JAX arrays may be donated at any time. Memory that
    can change is copied first, as far as `staging_bytes` goes (default: all of it, but at most half of the memory
    available); what is beyond waits for the disk, with a RuntimeWarning once, and `SaveInfo.stall_seconds` says so.
    """
    job, mutable_bytes, staging = _start(
        path,
        tree,
        step,
        metadata,
        progress,
        asynchronous=True,
        staging_bytes=staging_bytes,
        base=base,
        codec=codec,
        chunk_shape=chunk_shape,
        io=io,
        threads=threads,
        coding_bytes=coding_bytes,
        overwrite=overwrite,
    )
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
    if mutable_bytes > staging and not return_early:
        _warn_of_staging(mutable_bytes, staging)
    return handle


def _start(
    path: StrPath,
    state: Any,
    step: SupportsIndex | None,
    notes: Any,
    progress: Progress,
    *,
    base: Base,
    asynchronous: bool = False,
    staging_bytes: SupportsIndex | None = None,
    **choices: Any,
) -> tuple[Job, int, int]:
    """Starts a save. Returns it, the bytes that can change under an asynchronous one, and the staging budget.

    Everything is checked and converted before the Writer makes the directory.
    """
    started = time.monotonic()
    where = options.checked_path(path)
    check_progress(progress)
    writer_options = options.writer_options(staging_bytes=staging_bytes, **choices)
    commit_options = {
        "step": options.checked_step(step),
        "metadata": _json(notes),
        "overwrite": writer_options["overwrite"],
    }
    specs = leaves.specs(tree.flatten(state))
    mutable_bytes = leaves.mutable_bytes(specs) if asynchronous else 0
    if asynchronous and staging_bytes is None:
        available = int(_core.available_memory_bytes() * STAGING_SHARE)
        writer_options["staging_bytes"] = min(2 * mutable_bytes + BLOCK_BYTES, available)
    writer = _core.Writer(where, **writer_options, base=for_save(base, where))
    try:
        writer.add(specs)
        writer.seal()
        job = Job(writer, where, commit_options, progress, started)
    except BaseException:
        writer.abort()
        raise
    return job, mutable_bytes, writer_options["staging_bytes"] or 0


def _warn_of_staging(mutable_bytes: int, staging: int) -> None:
    global _warned_of_staging
    if not _warned_of_staging:
        _warned_of_staging = True
        warnings.warn(
            f"save_async had to wait for the disk: of {mutable_bytes} bytes of arrays that can change, {staging} could"
            " be copied first; raise staging_bytes=, or pass return_early=True and call wait_copied() later",
            RuntimeWarning,
            stacklevel=3,
        )
