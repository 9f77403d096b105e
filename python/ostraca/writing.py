"""`Writer` and `commit`: named arrays out, without trees. For embedding in other checkpointers.

writer = Writer(path)
writer.add("a/b", buffer, dtype="float32", shape=(2, 3))
commit(path, [writer.finish()])
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from . import _core, dtypes, history, metadata, options
from .base import Base, for_save
from .errors import MismatchError
from .options import StrPath
from .progress import ProgressCallback
from .reports import Manifest, SaveInfo
from .tree import Kind, encode_path
from .uncopied import Uncopied

if TYPE_CHECKING:  # numpy.typing costs more than all of this module
    from numpy.typing import DTypeLike, NDArray

FileReport = _core.FileReport


class Writer(Uncopied):
    """Writes one process's data file of a checkpoint, which `commit` makes visible.

    `attempt` is the save's id (32 hexadecimal digits), which all processes share; None draws one. `staging_bytes=None`
    reads memory in place, when its turn comes; otherwise mutable memory is copied first, as far as that goes. The
    other options are those of `ostraca.save`; all processes have the same base, if any. Raises `ExistsError` where
    there is a checkpoint already, and what `save` raises for its `base`.
    """

    _instead = "each process has a Writer of its own, with the same attempt"

    def __init__(
        self,
        path: StrPath,
        *,
        process_index: SupportsIndex = 0,
        process_count: SupportsIndex = 1,
        attempt: str | None = None,
        base: Base = None,
        codec: str = "auto",
        chunk_shape: Sequence[SupportsIndex] | None = None,
        io: str = "auto",
        threads: SupportsIndex | None = None,
        coding_bytes: SupportsIndex | None = None,
        staging_bytes: SupportsIndex | None = None,
        overwrite: bool = False,
    ) -> None:
        where = options.checked_path(path)
        self._writer = _core.Writer(
            where,
            process_index=options.checked_int("process_index", process_index, 0),
            process_count=options.checked_int("process_count", process_count, 1),
            attempt=attempt,
            **options.writer_options(
                codec=codec,
                chunk_shape=chunk_shape,
                io=io,
                threads=threads,
                coding_bytes=coding_bytes,
                staging_bytes=staging_bytes,
                overwrite=overwrite,
            ),
            base=for_save(base, where),
        )

    @property
    def attempt(self) -> str:
        """The save's id."""
        return self._writer.attempt

    def add(
        self,
        name: str,
        buffer: Any,
        *,
        dtype: DTypeLike,
        shape: Sequence[int],
        global_shape: Sequence[int] | None = None,
        offset: Sequence[int] | None = None,
        on_copied: Callable[[], object] | None = None,
    ) -> None:
        """Adds an array, or this process's shard of one: `global_shape` and the shard's `offset` in it.

        `name` is a path of string keys joined by "/"; "~1" in a key means "/", "~0" means "~". `buffer` is an array of
        `shape` (any strides) or contiguous bytes in C order. `dtype` may be a name such as "bfloat16", which then needs
        no ml_dtypes. The memory is held, and must not change until it was read: then `on_copied` is called, from a
        thread of the engine, or from `add` where there is nothing to read. It must not call the Writer.
        """
        coded = dtypes.named(dtype) if isinstance(dtype, str) else dtypes.encode(np.dtype(dtype))
        if isinstance(buffer, np.ndarray) and buffer.dtype.kind != "V":
            coded = coded._replace(big_endian=buffer.dtype.byteorder == ">")
        memory = _memory(buffer, coded, tuple(shape))
        box = [None if sizes is None else tuple(sizes) for sizes in (global_shape, offset)]
        spec = (_path_of(name), (int(Kind.ARRAY), *coded, False), memory, box[0], box[1], None)
        self._writer.add([spec], on_copied)

    def wait_copied(self, timeout: float | None = None) -> bool:
        """Seals the file and waits until all memory was read; False after `timeout` seconds."""
        self._writer.seal()
        return self._writer.wait_copied(timeout)

    def finish(self, progress: ProgressCallback | None = None) -> FileReport:
        """Completes the file; it is durable on return. After an error call `abort`."""
        return self._writer.finish(progress)

    def cancel(self) -> None:
        """From any thread: makes `finish` and `wait_copied` raise `CancelledError`."""
        self._writer.cancel()

    def abort(self) -> None:
        """Removes what was written. Also after `finish`, when the save is not committed; what is committed stays."""
        self._writer.abort()

    def progress(self) -> tuple[int, int]:
        """Bytes done and to do."""
        return self._writer.progress()


def commit(
    path: StrPath,
    reports: Iterable[FileReport],
    *,
    step: SupportsIndex | None = None,
    metadata: Any = None,
    overwrite: bool = False,
    parent: str | None = None,
) -> SaveInfo:
    """Makes a checkpoint of the files of all processes, durably. parent: as in `ostraca.save`.

    Raises `CommitUncertainError` when it was published, but may not survive a crash: then delete nothing.
    """
    where = options.checked_path(path)
    arguments: dict[str, Any] = {
        "step": options.checked_step(step),
        "metadata": _json(metadata),
        "overwrite": bool(overwrite),
        "parent": options.checked_parent(parent),
    }
    found = list(reports)
    attempt = found[0].attempt if found else ""
    place = _core.real_path(where)
    before = history.saving(place, attempt)
    try:
        arguments["parent"] = arguments["parent"] or before
        text = _core.commit(where, found, **arguments, created_after_ns=history.created_last(place))
    except BaseException:
        history.failed(place, attempt, before)
        raise
    return Manifest.parse(where, text).info


_json = metadata.encode  # `commit` has a parameter of the module's name


def _memory(buffer: Any, coded: dtypes.Coded, shape: tuple[int, ...]) -> NDArray[Any]:
    item_bytes = dtypes.item_bytes(coded.code, coded.detail)
    if isinstance(buffer, np.ndarray):
        if buffer.shape == shape and buffer.dtype.itemsize == item_bytes:
            return buffer
        raise MismatchError(
            f"expected shape {shape} and {item_bytes} bytes an item, found {buffer.shape} and {buffer.dtype.itemsize}"
        )
    view = memoryview(buffer)
    expected = math.prod(shape) * item_bytes
    if view.nbytes != expected or not view.c_contiguous:
        raise MismatchError(
            f"expected an array of shape {shape}, or {expected} contiguous bytes; found {view.nbytes} bytes"
            f" of shape {view.shape}{'' if view.c_contiguous else ', not contiguous'}"
        )
    return np.ndarray(shape, f"V{item_bytes}", view.cast("B") if expected else None)


def _path_of(name: str) -> bytes:
    keys = name.split("/") if name else []
    return encode_path((1, key.replace("~1", "/").replace("~0", "~")) for key in keys)
