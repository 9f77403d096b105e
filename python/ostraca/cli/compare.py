"""The contents of leaves of two checkpoints: by chunk hashes where these say enough, else by reading both."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import dtypes, leaves, strings
from ..lowlevel import ArrayInfo, ChunkInfo, Reader
from ..sharded.boxes import BATCH_BYTES, Box, boxes
from ..tree import Kind
from . import text

_WORDS: Final = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


class Tally:
    """How two arrays' elements differ, over all boxes compared."""

    def __init__(self) -> None:
        self.differing = 0
        self.nan_in_one = 0
        self.largest: float | None = None  # None: no two numbers differ
        self.total = 0.0

    def add(self, a: NDArray[Any], b: NDArray[Any], name: str) -> None:
        """Two boxes of one shape and of the dtype `name`, in C order."""
        different = _bits_differ(a.reshape(-1), b.reshape(-1))
        self.differing += int(np.count_nonzero(different))
        distance = _distance(a.reshape(-1)[different], b.reshape(-1)[different], name)
        if distance is None:
            return
        is_nan = np.isnan(distance)
        self.nan_in_one += int(np.count_nonzero(is_nan))
        numbers = distance[~is_nan]
        if numbers.size:
            self.largest = max(self.largest or 0.0, float(numbers.max()))
            self.total += float(numbers.sum(dtype=np.float64))


class _Pair(NamedTuple):
    a: ArrayInfo
    b: ArrayInfo
    tally: Tally
    chunks: int | None  # None: cut differently, or packed
    chunks_identical: int | None


class _Content(NamedTuple):
    content_hash: str  # of the extent
    decoded_bytes: int
    offset: int


class Comparison:
    """Compares leaves of the same kind, dtype and (arrays) shape, within a bounded amount of memory."""

    def __init__(self, a: Reader, b: Reader) -> None:
        self._readers = (a, b)
        self._pending: list[tuple[_Pair, tuple[Box, Box]]] = []
        self._pending_bytes = 0
        self._values: dict[str, dict[str, Any]] = {}

    def run(self, alike: Iterable[tuple[ArrayInfo, ArrayInfo]]) -> list[dict[str, Any]]:
        """The differences found, in the order given."""
        pairs = [self._examine(a, b) for a, b in alike if a.has_data]
        self._flush()
        return [row for row in map(self._row, pairs) if row]

    def _examine(self, a: ArrayInfo, b: ArrayInfo) -> _Pair:
        if a.kind.is_strings:
            return self._examine_strings(a, b)
        item_bytes = dtypes.item_bytes(a.dtype_code, a.detail)
        tally = Tally()
        grids = [_contents(reader.chunks(a.name)) for reader in self._readers]
        if a.kind.is_value:
            pair = _Pair(a, b, tally, None, None)
            if grids[0] != grids[1] or a.shape != b.shape:
                self._request(pair, [((0,) * len(info.shape), info.shape) for info in (a, b)])
            return pair
        if grids[0].keys() != grids[1].keys():
            pair = _Pair(a, b, tally, None, None)
            different: Iterable[Box] = boxes(a.shape, item_bytes)
        else:
            different = [box for box, content in grids[0].items() if grids[1][box] != content]
            whole = all(_is_whole(box, content, item_bytes) for grid in grids for box, content in grid.items())
            counts = (len(grids[0]), len(grids[0]) - len(different)) if whole else (None, None)
            pair = _Pair(a, b, tally, *counts)
        for box in different:
            self._request(pair, [box, box])
        return pair

    def _examine_strings(self, a: ArrayInfo, b: ArrayInfo) -> _Pair:
        """Reads both whole, unless hashes say that they are the same."""
        sides = list(zip(self._readers, (a, b), strict=True))
        grids = [[_contents(reader.chunks(part.name)) for part in info.parts] for reader, info in sides]
        tally = Tally()
        if grids[0] != grids[1]:
            (a_missing, a_items), (b_missing, b_items) = (_strings(reader, info) for reader, info in sides)
            tally.differing = int(np.count_nonzero((a_missing != b_missing) | (a_items != b_items)))
        return _Pair(a, b, tally, None, None)

    def _request(self, pair: _Pair, places: Sequence[Box]) -> None:
        self._pending.append((pair, (places[0], places[1])))
        item_bytes = dtypes.item_bytes(pair.a.dtype_code, pair.a.detail)
        self._pending_bytes += item_bytes * sum(math.prod(shape) for _, shape in places)
        if self._pending_bytes >= BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        sides: list[list[NDArray[Any]]] = []
        for side, reader in enumerate(self._readers):
            arrays: list[NDArray[Any]] = []
            requests = []
            for pair, places in self._pending:
                start, shape = places[side]
                info = (pair.a, pair.b)[side]
                arrays.append(np.ndarray(shape, dtypes.decode(info.dtype_code, info.detail)))
                if arrays[-1].nbytes:
                    requests.append((info.number, start, arrays[-1]))
            reader.fill(requests)
            sides.append(arrays)
        for (pair, _), a, b in zip(self._pending, *sides, strict=True):
            if pair.a.kind.is_value:
                self._compare_values(pair, a, b)
            else:
                pair.tally.add(a, b, dtypes.describe(pair.a.dtype_code, pair.a.detail))
        self._pending.clear()
        self._pending_bytes = 0

    def _compare_values(self, pair: _Pair, a: NDArray[Any], b: NDArray[Any]) -> None:
        if a.tobytes() != b.tobytes():
            values = [leaves.restored(pair.a.kind, "", data) for data in (a, b)]
            self._values[pair.a.name] = {"a_value": _json_value(values[0]), "b_value": _json_value(values[1])}

    def _row(self, pair: _Pair) -> dict[str, Any] | None:
        head = {"name": pair.a.name, "a": text.described(pair.a), "b": text.described(pair.b)}
        if pair.a.kind.is_value:
            values = self._values.get(pair.a.name)
            return None if values is None else head | {"reason": "value"} | values
        tally, elements = pair.tally, math.prod(pair.a.shape)
        if not tally.differing:
            return None
        compared = elements - tally.nan_in_one
        mean = None if tally.largest is None else tally.total / compared
        return head | {
            "reason": "content",
            "chunks": pair.chunks,
            "chunks_identical": pair.chunks_identical,
            "elements": elements,
            "elements_differing": tally.differing,
            "nan_in_one": tally.nan_in_one,
            "max_abs_difference": text.json_float(tally.largest),
            "mean_abs_difference": text.json_float(mean),
        }


def _contents(chunks: Iterable[ChunkInfo]) -> dict[Box, _Content]:
    """Box to what is in it: equal where the same place of the same content is referred to."""
    return {
        (chunk.origin, chunk.shape): _Content(chunk.content_hash, chunk.decoded_bytes, chunk.offset_in_extent)
        for chunk in chunks
    }


def _strings(reader: Reader, info: ArrayInfo) -> tuple[NDArray[np.uint64], NDArray[Any]]:
    """Which elements are missing, and the bytes of all."""
    ends, data = (reader.box(part, (0,) * len(part.shape), part.shape) for part in info.parts)
    missing = ends & strings.MISSING
    with info.named():
        return missing, strings.put_together(Kind.BYTE_STRINGS, "", ends ^ missing, data)


def _is_whole(box: Box, content: _Content, item_bytes: int) -> bool:
    """Whether a chunk is no part of a pack: there another hash says nothing of the parts."""
    return math.prod(box[1]) * item_bytes == content.decoded_bytes


def _bits_differ(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.bool_]:
    word = _WORDS.get(a.itemsize)
    if word is not None:
        return np.asarray(a.view(word) != b.view(word))
    if not a.itemsize:
        return np.zeros(a.shape, np.bool_)
    rows = [array.view(np.uint8).reshape(-1, array.itemsize) for array in (a, b)]
    return np.asarray((rows[0] != rows[1]).any(axis=1))


def _distance(a: NDArray[Any], b: NDArray[Any], name: str) -> NDArray[Any] | None:
    """|a - b| as float64, exact for integers before they are rounded to it; two NaNs are 0 apart, one is NaN."""
    if dtypes.CODES.get(name) is None:
        return None  # times and strings
    if name == "bool":
        return np.ones(a.shape)
    if a.dtype.kind in "iu":
        wide = np.int64 if a.dtype.kind == "i" else np.uint64
        high, low = (choose(a, b).astype(wide).view(np.uint64) for choose in (np.maximum, np.minimum))
        gap: NDArray[Any] = (high - low).astype(np.float64)
        return gap
    wider = np.complex128 if a.dtype.kind == "c" else np.float64
    with np.errstate(all="ignore"):
        x, y = a.astype(wider), b.astype(wider)
        distance: NDArray[Any] = np.abs(x - y)
        in_a, in_b = np.isnan(x), np.isnan(y)
        distance[in_a ^ in_b] = np.nan
        distance[in_a & in_b] = 0.0
        distance[np.isnan(distance) & ~(in_a | in_b)] = np.inf  # complex numbers with infinite parts
        return distance


def _json_value(value: Any) -> Any:
    if isinstance(value, bool | str):
        return value
    return text.json_float(value) if isinstance(value, float) else repr(value)
