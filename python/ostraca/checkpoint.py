"""`open`: a checkpoint as a mapping from names to lazy arrays."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Self, SupportsIndex

import numpy as np

from . import strings
from .lowlevel import ArrayInfo, Reader
from .options import StrPath
from .printing import escaped, some
from .reports import Manifest, SaveInfo
from .uncopied import Uncopied

if TYPE_CHECKING:  # numpy.typing costs more than all of this module
    from numpy.typing import DTypeLike, NDArray

_SHOWN_NAMES: Final = 5


class Checkpoint(Uncopied, Mapping[str, "StoredArray"]):
    """An open checkpoint: the names of its leaves that hold data, in tree order, to lazy arrays.

    None and empty containers hold no data; `value` and `names` know them. Use it in a `with` block, or close it.
    """

    _instead = "open another by its path"

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._infos = {info.name: info for info in reader.leaves() if info.nbytes or info.has_data}

    @property
    def path(self) -> str:
        return self._reader.path

    @property
    def id(self) -> str:
        """32 hexadecimal digits, drawn by the save."""
        return self._manifest.id

    @property
    def step(self) -> int | None:
        return self._manifest.info.step

    @property
    def metadata(self) -> Any:
        """As given to the save; tuples are lists."""
        return self._manifest.metadata

    @property
    def info(self) -> SaveInfo:
        """What the save reported."""
        return self._manifest.info

    def names(self) -> list[str]:
        """The names of all leaves, those without data too."""
        return [info.name for info in self._reader.leaves()]

    def value(self, name: str) -> Any:
        """A leaf as `load` returns it: a Python value or a numpy array."""
        return self._reader.value(self._info(name))

    def statistics(self) -> dict[str, int]:
        """chunks_read, bytes_read, chunks_decoded, bytes_decoded, since it was opened."""
        return self._reader.statistics()

    def close(self) -> None:
        self._reader.close()

    def __getitem__(self, name: str) -> StoredArray:
        return StoredArray(self._reader, self._info(name))

    def __contains__(self, name: object) -> bool:
        return name in self._infos

    def __iter__(self) -> Iterator[str]:
        return iter(self._infos)

    def __len__(self) -> int:
        return len(self._infos)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        names = list(self._infos)
        shown = some(list(map(escaped, names)), most=_SHOWN_NAMES)
        return f"<ostraca.Checkpoint {self.path!r}: {len(names)} arrays: {shown}>"

    def _info(self, name: str) -> ArrayInfo:
        return self._infos.get(name) or self._reader.array(name)

    @cached_property
    def _manifest(self) -> Manifest:
        return self._reader.manifest()


class StoredArray(Uncopied):
    """One array of an open checkpoint. Indexing reads the chunks that it needs, and returns numpy arrays.

    A Python value (see `kind`) is the uint8 or 0-d array that stands for it; `value` gives it back. Of strings whole
    rows are read: those of the first axis that the index touches.
    """

    __slots__ = ("_info", "_reader", "dtype")
    _instead = "read it, x[...], or open its checkpoint again by its path"

    def __init__(self, reader: Reader, info: ArrayInfo) -> None:
        self._reader = reader
        self._info = info
        self.dtype: np.dtype[Any] = info.dtype

    @property
    def name(self) -> str:
        return self._info.name

    @property
    def kind(self) -> str:
        """array, prng_key, int, float, bool, str, bytes, strings or byte_strings."""
        return self._info.kind.name.lower()

    @property
    def shape(self) -> tuple[int, ...]:
        return self._info.shape

    @property
    def ndim(self) -> int:
        return len(self._info.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self._info.shape)

    @property
    def nbytes(self) -> int:
        """Bytes when decoded."""
        return self._info.nbytes

    @property
    def stored_bytes(self) -> int:
        """Bytes in files; of a chunk shared with other arrays, its share."""
        return sum(self._reader.stored_bytes(part.name) for part in self._info.parts)

    def value(self) -> Any:
        """As `load` returns it."""
        return self._reader.value(self._info)

    def __getitem__(self, index: Any) -> Any:
        """Any basic numpy index: integers, slices, Ellipsis, None, or a tuple of these. Scalars as in numpy."""
        if index is Ellipsis:
            return self._whole()
        start, shape, local = _box(index, self._info.shape)
        box = (
            self._read_strings(start, shape)
            if self._info.kind.is_strings
            else self._reader.box(self._info, start, shape)
        )
        strided = any(isinstance(item, slice) and abs(item.step or 1) > 1 for item in local)
        part = box[local]
        return part.copy() if strided and isinstance(part, np.ndarray) else part  # lets go of the elements between

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError(f"{self!r} has to be read; it cannot be had without a copy")
        array = self._whole()
        return array if dtype is None else array.astype(dtype, copy=False)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of an array without dimensions")
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"<ostraca.StoredArray {self.name!r}: {self.kind}, shape {self.shape}, dtype {self.dtype}>"

    def _whole(self) -> NDArray[Any]:
        info = self._info
        if info.kind.is_strings:
            array: NDArray[Any] = self._reader.value(info)
            return array
        self._reader.allow(info.nbytes)
        return self._reader.fill([(info.number, None, self.dtype)])[0] if info.nbytes else info.allocate()

    def _read_strings(self, start: tuple[int, ...], shape: tuple[int, ...]) -> NDArray[Any]:
        """Reads where the strings of the rows end, and of the data what lies between."""
        info = self._info
        if not shape:
            return self._whole()
        if 0 in shape:
            return np.empty(shape, self.dtype)
        ends, data = info.parts
        first = max(start[0] - 1, 0)  # the row before says where these begin
        inner = info.shape[1:]
        found = self._reader.box(ends, (first, *(0 for _ in inner)), (start[0] + shape[0] - first, *inner))
        before, found = (found[0].flat[-1], found[1:]) if first < start[0] else (0, found)
        with info.named():
            is_last = start[0] + shape[0] == info.shape[0]
            low, high = strings.data_range(info.detail, found, before, data.nbytes, to_the_end=is_last)
            rows = strings.elements(info.kind, info.detail, found, low, self._reader.box(data, (low,), (high - low,)))
        part = rows[:, *(slice(at, at + size) for at, size in zip(start[1:], shape[1:], strict=True))]
        return part if part.shape == rows.shape else part.copy()


def open(
    path: StrPath,
    *,
    max_bytes: SupportsIndex | None = None,
    threads: SupportsIndex | None = None,
    coding_bytes: SupportsIndex | None = None,
    io: str = "auto",
) -> Checkpoint:
    """Opens a checkpoint for lazy reading: only its manifest and index are read now.

    max_bytes: of memory that one indexing may take for its array, else it raises MemoryError; None means the memory
    that is available to the process (MemAvailable, or less where its control group leaves less). Opening never refuses.

    Raises `NotFoundError`, `FormatError`, `CorruptionError` or OSError.
    """
    return Checkpoint(Reader(path, threads=threads, coding_bytes=coding_bytes, io=io, max_bytes=max_bytes))


def _box(index: Any, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[Any, ...]]:
    """The smallest box that covers a basic index: its start, its shape, and the index into the box."""
    items = list(index) if isinstance(index, tuple) else [index]
    axes = sum(item is not None and item is not Ellipsis for item in items)
    ellipses = [i for i, item in enumerate(items) if item is Ellipsis]
    if axes > len(shape) or len(ellipses) > 1:
        raise IndexError(f"too many indices, or more than one Ellipsis, for an array of {len(shape)} dimensions")
    place = ellipses[0] if ellipses else len(items)
    items[place : place + 1] = [*items[place : place + 1], *[slice(None)] * (len(shape) - axes)]

    start: list[int] = []
    sizes: list[int] = []
    local: list[Any] = []
    for item in items:
        if item is None or item is Ellipsis:  # with an Ellipsis numpy returns arrays, never scalars
            local.append(item)
            continue
        size = shape[len(start)]
        if isinstance(item, slice):
            steps = range(size)[item]
            low = min(steps[0], steps[-1]) if steps else 0
            start.append(low)
            sizes.append(abs(steps[-1] - steps[0]) + 1 if steps else 0)
            local.append(slice(None, None, steps.step) if steps else slice(None))
        else:
            start.append(_position(item, size, len(start)))
            sizes.append(1)
            local.append(0)
    return tuple(start), tuple(sizes), tuple(local)


def _position(item: SupportsIndex, size: int, axis: int) -> int:
    if isinstance(item, bool | np.bool_ | np.ndarray) or not hasattr(item, "__index__"):
        kind = type(item).__name__
        raise IndexError(f"a stored array takes ints, slices, Ellipsis and None, not {kind}; read it, then index that")
    position = operator.index(item)
    if not -size <= position < size:
        raise IndexError(f"index {position} is out of bounds for axis {axis} of size {size}")
    return position % size
