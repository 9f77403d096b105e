"""`Reader`: named arrays in, without trees; see writing.py for the way out. For embedding in other checkpointers.

with Reader(path) as reader:
    reader.read_into([("a/b", None, array)])
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, SupportsIndex

import numpy as np

from . import _core, dtypes, leaves, options, strings
from .casting import Cast, checked_cast, converted, refusal
from .errors import FormatError, MismatchError
from .instead import explained
from .options import StrPath
from .overlap import check_targets
from .progress import ProgressCallback
from .reports import Manifest
from .tree import Kind, Path, quoted
from .uncopied import Uncopied

if TYPE_CHECKING:  # numpy.typing costs more than all of this module
    from numpy.typing import NDArray

_decode: Final = lru_cache(maxsize=256)(dtypes.decode)
_encode: Final = lru_cache(maxsize=256)(dtypes.encode)

PROBED_BYTES: Final = 64 << 20  # from here on reading them takes longer than to ask how much memory there is


class ArrayInfo(NamedTuple):
    """A stored leaf."""

    number: int  # its place in the checkpoint
    path: Path
    name: str
    kind: Kind
    dtype_code: int
    detail: str
    big_endian: bool  # in the memory it came from
    shape: tuple[int, ...]
    nbytes: int  # decoded

    @property
    def dtype(self) -> np.dtype[Any]:
        """Raises `UnsupportedError` when it is one of ml_dtypes' and that is not installed."""
        return _decode(self.dtype_code, self.detail, self.big_endian)

    @property
    def dtype_name(self) -> str:
        """For people; needs no ml_dtypes."""
        return dtypes.describe(self.dtype_code, self.detail)

    @property
    def has_data(self) -> bool:
        """Whether there is an array; None and empty containers have none."""
        return self.kind.has_data

    @property
    def parts(self) -> tuple[ArrayInfo, ...]:
        """The stored arrays of the leaf."""
        return (self,) if self.has_data else ()

    def requests(self) -> list[tuple[int, None, np.dtype[Any]]]:
        """What `Reader.fill` has to read for its value."""
        return [(self.number, None, self.dtype)] if self.nbytes else []

    def value(self, read: Iterator[NDArray[Any]]) -> Any:
        """As `load` returns it, from what `requests` asked for. Raises `FormatError`."""
        data = next(read) if self.nbytes else self.allocate() if self.has_data else np.empty(0)
        return leaves.restored(self.kind, self.detail, data)

    @contextmanager
    def named(self) -> Iterator[None]:
        """Errors of the format in the block are about this leaf, and say so."""
        try:
            yield
        except FormatError as error:
            raise FormatError(f"{quoted(self.name)}: {error}") from None

    def allocate(self) -> NDArray[Any]:
        """An uninitialized array to read it into; 64-byte aligned and on huge pages when it is large."""
        return allocate(self.shape, self.dtype, self.nbytes)


class StringsInfo(ArrayInfo):
    """Strings: one leaf of two stored arrays, whose bytes together are its `nbytes`."""

    __slots__ = ()

    @property
    def dtype(self) -> np.dtype[Any]:
        """Raises `UnsupportedError` when numpy is older than 2 and has none."""
        return strings.dtype_of(self.kind, self.detail)

    @property
    def dtype_name(self) -> str:
        """For people."""
        return strings.describe(self.kind, self.detail)

    @property
    def parts(self) -> tuple[ArrayInfo, ...]:
        """Where each element ends (uint64), and the data."""
        ends_bytes = 8 * math.prod(self.shape)
        ends = ArrayInfo(*self)._replace(kind=Kind.ARRAY, detail="", nbytes=ends_bytes)
        path, name = (*self.path, strings.DATA_KEY), f"{self.name}/data" if self.path else "data"
        size = self.nbytes - ends_bytes
        return ends, ArrayInfo(self.number + 1, path, name, Kind.ARRAY, dtypes.UINT8, "", False, (size,), size)

    def requests(self) -> list[tuple[int, None, np.dtype[Any]]]:
        """What `Reader.fill` has to read for its value."""
        return [request for part in self.parts for request in part.requests()]

    def value(self, read: Iterator[NDArray[Any]]) -> Any:
        """As `load` returns it, from what `requests` asked for. Raises `FormatError`, naming the leaf."""
        ends, data = (part.value(read) for part in self.parts)
        with self.named():
            return strings.put_together(self.kind, self.detail, ends, data)

    def allocate(self) -> NDArray[Any]:
        """An array without strings."""
        return np.empty(self.shape, self.dtype)


class ChunkInfo(NamedTuple):
    """A chunk of a stored array, and the extent that holds it (docs/format.md, section 3)."""

    file: str
    offset: int  # of the extent in the file
    stored_bytes: int  # of the extent
    decoded_bytes: int  # of the extent
    codec: int
    content_hash: str
    offset_in_extent: int  # of the chunk's decoded bytes: in packs
    in_base: bool  # a reference: the file is the base's
    base_stored_bytes: int  # of a delta: what else is read, the base's extent
    origin: tuple[int, ...]  # of the chunk in the array
    shape: tuple[int, ...]


class _Request(NamedTuple):
    """A box of a leaf, and the array to fill with it."""

    info: ArrayInfo
    start: Sequence[int] | None
    array: NDArray[Any]

    def is_cast(self, cast: Cast) -> bool:
        """Whether the array has another dtype than the leaf. MismatchError where it cannot be filled."""
        info, array = self.info, self.array
        if not array.flags.writeable:
            raise MismatchError(f"{quoted(info.name)}: the array to read into is read-only")
        code, detail, _ = _encode(array.dtype)
        if code == info.dtype_code and detail == (info.detail if info.kind is Kind.ARRAY else ""):
            return False
        why = (
            f"stored as {dtypes.describe(info.dtype_code, info.detail)}, asked for as {array.dtype}; cast=True converts"
        )
        if cast:
            why = refusal(info.dtype, array.dtype, cast) or ""
        if why:
            raise MismatchError(f"{quoted(info.name)}: {why}")
        return True

    def converted(self, data: NDArray[Any], cast: Cast) -> NDArray[Any]:
        return converted(data, self.array.dtype, self.info.name, cast, self.origin())

    def is_same_box(self, other: _Request) -> bool:
        return self.origin() == other.origin()

    def origin(self) -> tuple[int, ...]:
        return (0,) * len(self.info.shape) if self.start is None else tuple(self.start)


class Reader(Uncopied):
    """An open checkpoint. Later overwrites do not disturb it. Thread-safe; close it, or use it in a `with` block.

    `max_bytes` bounds what `allow` allows; None means the memory there is.

    Raises `NotFoundError`, `FormatError`, `CorruptionError` or OSError.
    """

    _instead = "open another by its path"

    def __init__(
        self,
        path: StrPath,
        *,
        threads: SupportsIndex | None = None,
        coding_bytes: SupportsIndex | None = None,
        io: str = "auto",
        max_bytes: SupportsIndex | None = None,
    ) -> None:
        self.path = options.checked_path(path)
        self._max_bytes = None if max_bytes is None else options.checked_int("max_bytes", max_bytes, 0)
        with explained(self.path):
            self._reader = _core.Reader(self.path, **options.worker_options(threads, coding_bytes, io))
        self._arrays = self._reader.leaves(ArrayInfo, tuple(Kind))

    def manifest(self) -> Manifest:
        """Id, metadata and sizes."""
        return Manifest.parse(self.path, self._reader.manifest)

    def arrays(self) -> list[ArrayInfo]:
        """All that is stored, in tree order. Strings are two arrays: uint64, where they end, and `<name>/data`."""
        return self._arrays

    def leaves(self) -> list[ArrayInfo]:
        """The leaves of the tree, in its order: as `arrays`, but strings are one."""
        return self._leaves

    def value(self, info: ArrayInfo) -> Any:
        """A leaf as `load` returns it."""
        self.allow(info.nbytes)
        return info.value(iter(self.fill(info.requests())))

    def box(self, info: ArrayInfo, start: Sequence[int], shape: tuple[int, ...]) -> NDArray[Any]:
        """A box of a stored array, in new memory."""
        nbytes = math.prod(shape) * info.dtype.itemsize
        self.allow(nbytes)
        array = allocate(shape, info.dtype, nbytes)
        if nbytes:
            self.fill([(info.number, start, array)])
        return array

    def array(self, name: str) -> ArrayInfo:
        """One array, or leaf without; `KeyError` when there is none of this name."""
        info = self._by_name.get(name)
        if info is None:
            raise KeyError(f"{self.path!r} holds no {quoted(name)}{self._similar(name)}")
        return info

    def chunks(self, name: str) -> list[ChunkInfo]:
        """Where a leaf's chunks are."""
        return [ChunkInfo(*chunk) for chunk in self._reader.chunks(self.array(name).number)]

    def same_content(self, one: ArrayInfo, other: ArrayInfo) -> bool:
        """Whether two leaves hold the same; reads them where their chunks do not tell."""
        if one[3:] != other[3:]:  # kind, dtype, shape
            return False
        return all(map(self._same_array, one.parts, other.parts))

    def _same_array(self, one: ArrayInfo, other: ArrayInfo) -> bool:
        chunks = [[chunk[5:7] + chunk[9:] for chunk in self.chunks(info.name)] for info in (one, other)]
        if chunks[0] == chunks[1]:  # content hash, offset in the extent, origin, shape
            return True
        hashes = [_core.content_hash(self.fill([(info.number, None, info.dtype)])[0]) for info in (one, other)]
        return hashes[0] == hashes[1]

    def stored_bytes(self, name: str) -> int:
        """Bytes a leaf takes in files; where it shares a chunk with others, its share."""
        return self._reader.stored_bytes(self.array(name).number)

    def read_into(
        self,
        requests: Iterable[tuple[str, Sequence[int] | None, NDArray[Any]]],
        *,
        root: str | None = None,
        cast: Cast = False,
        deep: bool = False,
        progress: ProgressCallback | None = None,
        modified: list[str] | None = None,
    ) -> None:
        """Fills arrays: (name, start, array) reads the box of the array's shape at `start` (None: at the origin).

        Names are those below `root`, if there is one. The arrays are writable, of any strides and of the stored dtype,
        in either byte order. `cast`, as of `ostraca.load`, allows other dtypes. Every chunk is read once for all
        requests, and its checksum verified; `deep` also compares content hashes. Raises `CorruptionError`,
        `MismatchError`, OSError; then the list `modified` has got the names of the arrays that were written to. Arrays
        that share memory are a `MismatchError` before anything is written, unless the same whole memory shall hold the
        same stored content.
        """
        cast = checked_cast(cast)
        full = (lambda name: name) if root is None else (lambda name: f"{root}/{name}" if name else root)
        checked = [_Request(self.array(full(name)), start, array) for name, start, array in requests]
        others = {i: request for i, request in enumerate(checked) if request.is_cast(cast)}
        check_targets(
            [(info.name, array) for info, _, array in checked],
            lambda i, j: checked[i].is_same_box(checked[j]) and self.same_content(checked[i].info, checked[j].info),
        )
        # What is cast first: a value that does not fit leaves all arrays as they were.
        read = [(info.number, start, np.empty(array.shape, info.dtype)) for info, start, array in others.values()]
        if read:
            self.fill(read, deep=deep, progress=None if len(others) < len(checked) else progress)
        values = [request.converted(data, cast) for request, (*_, data) in zip(others.values(), read, strict=True)]
        as_stored = [request for i, request in enumerate(checked) if i not in others] if others else checked
        requested = [(info.number, start, array) for info, start, array in as_stored]
        self.fill(requested, deep=deep, progress=progress, modified=modified)
        for request, value in zip(others.values(), values, strict=True):
            request.array[...] = value

    def fill(
        self,
        requests: Sequence[tuple[int, Sequence[int] | None, NDArray[Any] | np.dtype[Any]]],
        *,
        deep: bool = False,
        progress: ProgressCallback | None = None,
        modified: list[str] | None = None,
    ) -> list[NDArray[Any]]:
        """`read_into` for leaves by number, with dtypes that are known to be right. Returns the arrays.

        A dtype instead of an array asks for a new one, of the leaf's whole shape.
        """
        if modified is None:
            return self._reader.read_into(requests, deep, progress)
        written: list[int] = []
        try:
            return self._reader.read_into(requests, deep, progress, written)
        except BaseException:
            modified += [self._arrays[requests[i][0]].name for i in written]
            raise

    def allow(self, nbytes: int) -> None:
        """Raises MemoryError where new arrays of so many bytes are more than `max_bytes`, or else than there is."""
        if self._max_bytes is not None:
            limit, what_then = self._max_bytes, f"more than max_bytes={self._max_bytes:,}: raise it, or"
        elif nbytes < PROBED_BYTES:
            return
        else:
            limit = _core.available_memory_bytes()
            what_then = f"and {limit:,} are available to this process: pass max_bytes= to try it all the same, or"
        if nbytes > limit:
            raise MemoryError(
                f"reading {self.path!r}: new arrays would take {nbytes:,} bytes of memory, {what_then} read less at a"
                " time (select=, slices of ostraca.open), or into= memory that is there"
            )

    def statistics(self) -> dict[str, int]:
        """chunks_read, bytes_read, chunks_decoded, bytes_decoded, since it was opened."""
        return self._reader.statistics()

    def close(self) -> None:
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @cached_property
    def _leaves(self) -> list[ArrayInfo]:
        arrays, of_ends = self._arrays, dtypes.UINT64  # which says most without asking for the kind, in large trees
        data = {info.number + 1 for info in arrays if info.dtype_code == of_ends and info.kind.is_strings}
        if not data:
            return arrays
        found: list[ArrayInfo] = []
        for info in arrays:
            if info.number + 1 in data:
                found.append(StringsInfo(*info)._replace(nbytes=info.nbytes + arrays[info.number + 1].nbytes))
            elif info.number not in data:
                found.append(info)
        return found

    @cached_property
    def _by_name(self) -> dict[str, ArrayInfo]:
        return {info.name: info for info in self._arrays}

    def _similar(self, name: str) -> str:
        import difflib

        close = difflib.get_close_matches(name, list(self._by_name)[:10_000], 3)
        return f"; it holds {', '.join(map(repr, close))}" if close else ""


def requested(infos: Iterable[ArrayInfo], places: Iterable[Any]) -> tuple[list[tuple[int, None, Any]], int]:
    """What `Reader.fill` has to read for leaves, arrays into `places` where there are some; and the bytes of the rest.

    Trees may have 100,000 leaves: nothing is looked up or called for each that can be had once.
    """
    found: list[tuple[int, None, Any]] = []
    fresh_bytes, array = 0, Kind.ARRAY
    for info, place in zip(infos, places, strict=True):
        number, _, _, kind, dtype_code, detail, big_endian, _, nbytes = info
        if place is None:
            fresh_bytes += nbytes
        if kind is not array:
            found += info.requests()
        elif nbytes:
            found.append((number, None, _decode(dtype_code, detail, big_endian) if place is None else place))
    return found, fresh_bytes


def allocate(shape: tuple[int, ...], dtype: np.dtype[Any], nbytes: int) -> NDArray[Any]:
    """An uninitialized array in C order."""
    if nbytes >= _core.HUGE_PAGE_BYTES_MIN:
        return np.ndarray(shape, dtype, _core.allocate(nbytes))
    return np.ndarray(shape, dtype)  # unlike np.empty it leaves S0 and U0 as they are
