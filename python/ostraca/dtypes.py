"""numpy's dtypes and the codes of docs/format.md, section 6.

numpy alone serves its own dtypes; ml_dtypes is imported when a checkpoint or a caller names one of its dtypes.
"""

import sys
from typing import Any, Final, NamedTuple

import numpy as np

from . import _core
from .errors import FormatError, UnsupportedError

NONE: Final = 0
BOOL: Final = 1
UINT8: Final = 6
UINT32: Final = 8
UINT64: Final = 9
FLOAT64: Final = 12
DATETIME64: Final = 33
TIMEDELTA64: Final = 34
BYTES: Final = 35
TEXT: Final = 36
VOID: Final = 37

MAX_ITEM_BYTES: Final = _core.ITEM_BYTES_MAX  # of S, U and V

# fmt: off
_NUMPY: Final = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
    "complex64", "complex128",
)
_ML_DTYPES: Final = (
    "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e4m3b11fnuz",
    "float8_e3m4", "float8_e4m3", "float8_e8m0fnu", "float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn", "int2",
    "uint2", "int4", "uint4", "int1", "uint1",
)
# fmt: on
_FIRST_ML_CODE: Final = len(_NUMPY) + 1
_SIZED: Final = {"S": BYTES, "U": TEXT, "V": VOID}
_FIRST_USER_TYPE: Final = 256  # numpy's number of the first dtype that is not its own (NPY_USERDEF)

CODES: Final[dict[str, int]] = {name: code for code, name in enumerate((*_NUMPY, *_ML_DTYPES), 1)}
NAMES: Final[dict[int, str]] = {code: name for name, code in CODES.items()}


class Coded(NamedTuple):
    """A dtype as the format says it."""

    code: int
    detail: str
    big_endian: bool


def varies(dtype: np.dtype[Any]) -> bool:
    """Whether its elements vary in length: numpy's strings, and objects, which all have to be bytes (strings.py)."""
    return dtype.kind in "TO"


def encode(dtype: np.dtype[Any]) -> Coded:
    """The code of a dtype; `UnsupportedError` (without a leaf's name) for one that has none."""
    kind = dtype.kind
    if dtype.num >= _FIRST_USER_TYPE:
        code = CODES.get(dtype.name, NONE)
        if code >= _FIRST_ML_CODE:
            return Coded(code, "", False)
    elif kind in "biufc":
        code = CODES.get(dtype.name, NONE)
        if code:
            return Coded(code, "", _is_big_endian(dtype))
        raise UnsupportedError(f"dtype {dtype.name} has no fixed size across machines; convert it with .astype first")
    elif kind in "mM":
        unit, count = np.datetime_data(dtype)
        detail = "" if unit == "generic" else unit if count == 1 else f"{count}{unit}"
        return Coded(DATETIME64 if kind == "M" else TIMEDELTA64, detail, _is_big_endian(dtype))
    elif kind in _SIZED and dtype.fields is None:
        if dtype.itemsize > MAX_ITEM_BYTES:
            raise UnsupportedError(f"dtype {dtype} has items of {dtype.itemsize} bytes; the limit is {MAX_ITEM_BYTES}")
        return Coded(_SIZED[kind], str(dtype.itemsize), _is_big_endian(dtype))
    elif dtype.names == ("float0",) and not dtype.itemsize:
        raise UnsupportedError("float0, JAX's dtype for gradients of integers, holds no data; store None in its place")
    elif dtype.fields is not None:
        raise UnsupportedError(
            f"structured dtype {dtype} cannot be stored; store its fields: {{name: x[name] for name in x.dtype.names}}"
        )
    elif kind in "TO":
        raise UnsupportedError(
            f"dtype {dtype} has no items of one size: ostraca.save stores text and bytes of varying length, nothing is"
            " pickled; convert to a fixed-size dtype here"
        )
    raise UnsupportedError(f"dtype {dtype} cannot be stored; convert it to a fixed-size dtype")


def is_numpys(dtype: np.dtype[Any]) -> bool:
    """Whether numpy itself defines a dtype, and not ml_dtypes."""
    return dtype.num < _FIRST_USER_TYPE


def named(name: str) -> Coded:
    """The code of a plain dtype by name; serves ml_dtypes' names without ml_dtypes."""
    code = CODES.get(name, NONE)
    return Coded(code, "", False) if code else encode(np.dtype(name))


def decode(code: int, detail: str, big_endian: bool = False) -> np.dtype[Any]:
    """The dtype of a code. Raises `FormatError` for what is no dtype, `UnsupportedError` when ml_dtypes is missing."""
    name = NAMES.get(code)
    if name is not None:
        if code >= _FIRST_ML_CODE:
            return _ml_dtype(name)
        dtype = np.dtype(name)
    elif code in (DATETIME64, TIMEDELTA64):
        dtype = _time_dtype("M8" if code == DATETIME64 else "m8", detail)
    elif code in (BYTES, TEXT, VOID):
        dtype = _sized_dtype(code, detail)
    else:
        raise FormatError(f"dtype code {code} is not known")
    swapped: np.dtype[Any] = dtype.newbyteorder(">" if big_endian else "<")
    return swapped


def item_bytes(code: int, detail: str) -> int:
    """Bytes of an element; needs no ml_dtypes."""
    if code in (CODES["bfloat16"], NONE):
        return 2 if code else 0
    return 1 if _FIRST_ML_CODE < code < DATETIME64 else decode(code, detail).itemsize


def describe(code: int, detail: str) -> str:
    """A dtype's name for people; needs no ml_dtypes."""
    return NAMES.get(code) or (str(decode(code, detail)) if code else "none")


def _is_big_endian(dtype: np.dtype[Any]) -> bool:
    order = dtype.byteorder
    return order == ">" or (order == "=" and sys.byteorder == "big")


def _ml_dtype(name: str) -> np.dtype[Any]:
    try:
        import ml_dtypes
    except ImportError:
        raise UnsupportedError(f"dtype {name} needs the package ml_dtypes: pip install ml_dtypes") from None
    if not hasattr(ml_dtypes, name):
        raise UnsupportedError(f"dtype {name} needs a newer ml_dtypes than {ml_dtypes.__version__}")
    dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
    return dtype


def _time_dtype(letters: str, detail: str) -> np.dtype[Any]:
    try:
        return np.dtype(f"{letters}[{detail}]" if detail else letters)
    except TypeError:
        raise FormatError(f"{detail!r} is not a unit of time") from None


def _sized_dtype(code: int, detail: str) -> np.dtype[Any]:
    itemsize = int(detail) if detail.isascii() and detail.isdigit() and len(detail) < 8 else -1
    width = 4 if code == TEXT else 1
    if not 0 <= itemsize <= MAX_ITEM_BYTES or itemsize % width:
        raise FormatError(f"{detail!r} is not an item size of dtype code {code}")
    letter = next(letter for letter, sized in _SIZED.items() if sized == code)
    return np.dtype(f"{letter}{itemsize // width}")
