"""Arrays whose elements vary in length, and the two arrays that are stored of one (docs/format.md, section 6).

`ends` has the array's shape: where each element ends in `data`, the bytes of all of them, back to back in C order.
numpy hides the memory of its strings, so that elements pass through Python's own, a block of them at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from .errors import FormatError, UnsupportedError
from .tree import Kind, encode_path

if TYPE_CHECKING:  # numpy.typing costs more than all of this module
    from numpy.typing import NDArray

DATA_KEY: Final = (5, "data")  # the part of the data's key path, below the array's
DATA_PART: Final = encode_path([DATA_KEY])

MISSING: Final = np.uint64(1 << 63)  # in an end: the element is the dtype's `na_object`
_PLACE: Final = np.uint64((1 << 63) - 1)  # the rest of an end
_BLOCK_ITEMS: Final = 1 << 16  # that are Python's at a time
_STRICT: Final[dict[str, Any]] = {"coerce": False}
_NAN: Final[dict[str, Any]] = {"na_object": math.nan}
_NONE: Final[dict[str, Any]] = {"na_object": None}
_OPTIONS: Final[dict[str, dict[str, Any]]] = {  # of numpy's StringDType, by the detail
    "": {},
    "na=nan": _NAN,
    "na=none": _NONE,
    "strict": _STRICT,
    "strict na=nan": _STRICT | _NAN,
    "strict na=none": _STRICT | _NONE,
}


class Strings(NamedTuple):
    """An array, taken apart."""

    kind: Kind
    detail: str
    ends: NDArray[np.uint64]
    data: NDArray[np.uint8]


def described(dtype: np.dtype[Any]) -> tuple[Kind, str]:
    """Kind and detail of a dtype that varies. `UnsupportedError` where it has a missing value but None and nan."""
    if dtype.kind == "O":
        return Kind.BYTE_STRINGS, ""
    words = [] if getattr(dtype, "coerce", True) else ["strict"]
    if hasattr(dtype, "na_object"):
        missing = dtype.na_object
        is_nan = isinstance(missing, float) and math.isnan(missing)
        if missing is not None and not is_nan:
            raise UnsupportedError(
                f"strings whose missing element is {missing!r:.40}: only None and nan are stored; use"
                " numpy.dtypes.StringDType(na_object=None)"
            )
        words.append("na=nan" if is_nan else "na=none")
    return Kind.STRINGS, " ".join(words)


@cache
def dtype_of(kind: Kind, detail: str) -> np.dtype[Any]:
    """The dtype of a kind and detail. `UnsupportedError` where numpy has none, before its version 2."""
    if kind is Kind.BYTE_STRINGS:
        return np.dtype(np.object_)
    make = getattr(getattr(np, "dtypes", None), "StringDType", None)
    if make is None:
        raise UnsupportedError(f"strings of varying length need numpy 2, and this is numpy {np.__version__}")
    dtype: np.dtype[Any] = make(**_OPTIONS[detail])
    return dtype


def describe(kind: Kind, detail: str) -> str:
    """The dtype's name for people."""
    name = "bytes" if kind is Kind.BYTE_STRINGS else "string"
    return f"{name} ({detail})" if detail else name


def taken_apart(array: NDArray[Any]) -> Strings:
    """What is stored of an array of any shape and strides. `UnsupportedError` for objects that are not bytes."""
    kind, detail = described(array.dtype)
    flat = array.reshape(-1)
    lengths = np.zeros(flat.size, np.uint64)
    missing = np.zeros(flat.size, np.bool_)
    blocks: list[bytes] = []
    for begin in range(0, flat.size, _BLOCK_ITEMS):
        items: list[Any] = flat[begin : begin + _BLOCK_ITEMS].tolist()
        block = slice(begin, begin + len(items))
        if kind is Kind.BYTE_STRINGS:
            _check_bytes(items, array.shape, begin)
        else:
            if "na=" in detail:
                missing[block] = [type(item) is not str for item in items]
                items = [item if type(item) is str else "" for item in items]
            items = list(map(str.encode, items))
        lengths[block] = np.fromiter(map(len, items), np.uint64, len(items))
        blocks.append(b"".join(items))
    ends = np.cumsum(lengths, dtype=np.uint64)
    ends[missing] |= MISSING
    return Strings(kind, detail, ends.reshape(array.shape), np.frombuffer(b"".join(blocks), np.uint8))


def put_together(kind: Kind, detail: str, ends: NDArray[np.uint64], data: NDArray[np.uint8]) -> NDArray[Any]:
    """The array whose elements `data` holds. Raises `FormatError` where the two do not agree."""
    data_range(detail, ends, 0, data.size, to_the_end=True)
    return elements(kind, detail, ends, 0, data)


def data_range(
    detail: str, ends: NDArray[np.uint64], before: int, data_bytes: int, *, to_the_end: bool
) -> tuple[int, int]:
    """Where the data of consecutive elements begin and end; `before` is the end before theirs, as it is stored.

    Raises `FormatError` unless ends ascend within the data, those of the last elements to its end, and what is missing
    has no bytes.
    """
    found = np.concatenate([np.array([before], np.uint64), ends.reshape(-1)])
    stops = found & _PLACE
    missing = found[1:] != stops[1:]
    wrong = (stops[1:] < stops[:-1]) | (stops[1:] > data_bytes)
    wrong |= missing & (stops[1:] != stops[:-1]) if "na=" in detail else missing
    if wrong.any():
        i = int(wrong.argmax())
        what = f"{'missing, ' if missing[i] else ''}ends at byte {stops[i + 1]}, the one before it at {stops[i]}"
        raise FormatError(f"element {i} of those read, in C order, is {what}, of {data_bytes} bytes of data")
    if to_the_end and stops[-1] != data_bytes:
        raise FormatError(f"its elements end at byte {stops[-1]} of {data_bytes} bytes of data")
    return int(stops[0]), int(stops[-1])


def elements(kind: Kind, detail: str, ends: NDArray[np.uint64], begin: int, data: NDArray[np.uint8]) -> NDArray[Any]:
    """Elements whose data begin at byte `begin` of all, and of which `data_range` approved."""
    dtype = dtype_of(kind, detail)
    flat = ends.reshape(-1)
    stops = (flat & _PLACE) - np.uint64(begin)
    starts = np.concatenate([np.zeros(1, np.uint64), stops[:-1]])
    result = np.empty(flat.size, dtype)
    for first in range(0, flat.size, _BLOCK_ITEMS):
        block = slice(first, first + _BLOCK_ITEMS)
        low, high = starts[first], stops[block][-1]
        raw = data[low:high].tobytes()
        items = list(map(raw.__getitem__, map(slice, (starts[block] - low).tolist(), (stops[block] - low).tolist())))
        result[block] = items if kind is Kind.BYTE_STRINGS else _texts(items, first)
    missing = (flat & MISSING) != 0
    if missing.any():
        result[missing] = dtype.na_object  # type: ignore[attr-defined]
    return result.reshape(ends.shape)


def _check_bytes(items: Sequence[Any], shape: tuple[int, ...], begin: int) -> None:
    kinds = {kind for kind in set(map(type, items)) if not issubclass(kind, bytes)}
    if not kinds:
        return
    at, item = next((i, item) for i, item in enumerate(items, begin) if not isinstance(item, bytes))
    index = tuple(map(int, np.unravel_index(at, shape)))
    advice = "text has a dtype of its own: .astype(numpy.dtypes.StringDType())" if type(item) is str else "store bytes"
    raise UnsupportedError(
        f"an object array of which {index} is {type(item).__name__}: nothing is pickled, all elements have to be bytes;"
        f" {advice}"
    )


def _texts(items: Sequence[bytes], first: int) -> list[str]:
    try:
        return list(map(bytes.decode, items))
    except UnicodeDecodeError:
        for i, item in enumerate(items, first):
            try:
                item.decode()
            except UnicodeDecodeError as error:
                raise FormatError(f"element {i} of those read, in C order, is not UTF-8: {error}") from None
        raise
