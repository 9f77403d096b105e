"""What a leaf of `like` asks for, whether what is stored fits, and what has to become of it for that."""

from __future__ import annotations

import sys
from enum import Enum
from typing import Any, Final, NamedTuple

import numpy as np

from . import dtypes, leaves, strings
from .casting import Cast, converted, number_class, refusal
from .errors import MismatchError, UnsupportedError
from .lowlevel import ArrayInfo, StringsInfo
from .tree import Kind, quoted

_NUMBERS: Final = {
    Kind.INT: np.dtype(np.int64),
    Kind.FLOAT: np.dtype(np.float64),
    Kind.BOOL: np.dtype(np.bool_),
}
_PYTHON: Final = {Kind.INT: int, Kind.FLOAT: float, Kind.BOOL: bool, Kind.STR: str, Kind.BYTES: bytes}


class Wanted(NamedTuple):
    """What a leaf of `like` asks for."""

    kind: Kind
    dtype_code: int = dtypes.NONE
    detail: str = ""
    shape: tuple[int, ...] | None = None  # None: any
    key_dtype: Any = None  # of JAX key arrays

    @property
    def dtype(self) -> np.dtype[Any]:
        return _NUMBERS.get(self.kind) or dtypes.decode(self.dtype_code, self.detail).newbyteorder("=")

    @property
    def dtype_name(self) -> str:
        """For people."""
        if self.kind.is_strings:
            return strings.describe(self.kind, self.detail)
        return dtypes.describe(self.dtype_code, self.detail)


class Fit(NamedTuple):
    """What has to become of a stored leaf."""

    name: str
    dtype: np.dtype[Any] | None  # of the array it becomes on the way; None: as stored
    kind: type | None  # of the Python value or numpy scalar it becomes; None: it becomes an array
    cast: Cast

    def value(self, stored: Any) -> Any:
        """Of a leaf as `load` returns it without `like`. MismatchError where the value does not fit."""
        value = stored if self.dtype is None else self._array(stored, self.dtype)
        if self.kind is None:
            return value
        if isinstance(value, np.ndarray):
            value = value[()]
        return value if issubclass(self.kind, np.generic) else self._python(value)

    def _array(self, stored: Any, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
        if isinstance(stored, np.ndarray):
            return converted(stored, dtype, self.name, self.cast)
        source = np.array(stored)  # a Python number
        if source.dtype.kind == "O":
            raise MismatchError(f"{quoted(self.name)}: {stored} does not fit {dtype}")
        array = converted(source, dtype, self.name, self.cast)
        if not self.cast and source == source and converted(array, source.dtype, self.name, "unsafe") != source:
            raise MismatchError(
                f"{quoted(self.name)}: the stored number {stored} would be rounded to {array} as {dtype};"
                " pass cast=True"
            )
        return array

    def _python(self, value: Any) -> Any:
        kind: Any = self.kind
        plain = next(plain for plain in (bool, int, float, str, bytes) if issubclass(kind, plain))
        value = value if type(value) is plain else plain(value)
        try:
            return value if kind is plain else kind(value) if issubclass(kind, Enum) else plain.__new__(kind, value)
        except ValueError as error:  # no member of the Enum
            raise MismatchError(f"{quoted(self.name)}: {error}") from None


def fit(leaf: Any, info: ArrayInfo, name: str, cast: Cast) -> Fit | str | None:
    """What has to become of a stored leaf for a leaf of `like`: None: nothing. A str says why it cannot be."""
    try:
        want = wanted(leaf)
    except (UnsupportedError, TypeError) as error:
        raise UnsupportedError(f"like: {quoted(name)} says nothing that can be restored: {error}") from None
    kind = type(leaf) if isinstance(leaf, np.generic) or want.kind in _PYTHON else None
    if want.kind is not info.kind:
        return _number_fit(want, kind, info, name, cast)
    if want.kind is Kind.PRNG_KEY:
        return _key_difference(want, info)
    if want.shape is not None and want.shape != info.shape:
        return f"expected shape {want.shape}, found {info.shape}"
    if (want.dtype_code, want.detail) != (info.dtype_code, info.detail):
        if not cast or want.kind.is_strings:
            return f"expected dtype {want.dtype_name}, found {info.dtype_name}"
        return refusal(info.dtype, want.dtype, cast) or Fit(name, want.dtype, kind, cast)
    if type(info) is StringsInfo:
        return Fit(name, None, None, cast)  # the engine cannot fill the memory of `into`
    return None if kind in (None, _PYTHON.get(want.kind)) else Fit(name, None, kind, cast)


def _number_fit(want: Wanted, kind: type | None, info: ArrayInfo, name: str, cast: Cast) -> Fit | str:
    """A Python number where a scalar array is wanted, the reverse, or one number for another."""
    if _is_scalar(want.kind, want.shape) and _is_scalar(info.kind, info.shape):
        stored = _NUMBERS.get(info.kind) or info.dtype
        is_alike = number_class(stored) == number_class(want.dtype) and Kind.ARRAY in (want.kind, info.kind)
        if is_alike or (cast and not refusal(stored, want.dtype, cast)):
            is_as_stored = is_alike and info.kind is Kind.ARRAY
            return Fit(name, None if is_as_stored else want.dtype, kind, cast)
    if want.kind.is_strings or info.kind.is_strings:
        return f"expected {_what(want)}, found {_what(info)}"
    return f"expected {_kind(want.kind)}, found {_kind(info.kind)}"


def _is_scalar(kind: Kind, shape: tuple[int, ...] | None) -> bool:
    return kind in _NUMBERS or (kind is Kind.ARRAY and not shape)


def wanted(leaf: Any) -> Wanted:
    """What a leaf of `like` describes: a value, or anything with shape and dtype."""
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        shape = tuple(int(size) for size in leaf.shape)
        if leaves.is_prng_key(leaf.dtype):
            return Wanted(Kind.PRNG_KEY, dtypes.UINT32, shape=shape, key_dtype=leaf.dtype)
        if leaves.is_torch_dtype(leaf.dtype):
            return Wanted(Kind.ARRAY, *_torch_code(leaf.dtype), shape)
        dtype = np.dtype(getattr(leaf.dtype, "as_numpy_dtype", leaf.dtype))  # tf.DType has one
        if dtypes.varies(dtype):
            kind, detail = strings.described(dtype)
            return Wanted(kind, dtypes.UINT64, detail, shape)
        code, detail, _ = dtypes.encode(dtype)
        return Wanted(Kind.ARRAY, code, detail, shape)
    piece = leaves.piece(leaf)
    if piece.kind is not Kind.ARRAY or piece.memory is None:
        return Wanted(piece.kind, piece.dtype_code, piece.detail)
    return Wanted(piece.kind, piece.dtype_code, piece.detail, piece.memory.shape)


def stored_keys(info: ArrayInfo) -> Any:
    """Shape and dtype of stored PRNG keys, of which `info` describes the data. JAX was imported before."""
    jax = sys.modules["jax"]
    data = jax.ShapeDtypeStruct(info.shape, np.uint32)
    return jax.eval_shape(lambda array: jax.random.wrap_key_data(array, impl=info.detail), data)


def _key_difference(want: Wanted, info: ArrayInfo) -> str | None:
    stored = stored_keys(info)  # JAX made the keys wanted
    if stored.dtype != want.key_dtype:
        return f"expected PRNG keys {want.key_dtype}, found {stored.dtype}"
    return None if stored.shape == want.shape else f"expected shape {want.shape}, found {stored.shape}"


def _torch_code(dtype: Any) -> tuple[int, str]:
    coded = leaves.torch_code(dtype)
    if coded is None:
        raise UnsupportedError(f"{dtype} cannot be stored")
    return coded.code, coded.detail


def _what(described: Wanted | ArrayInfo) -> str:
    return _kind(described.kind) if described.kind.is_value else f"dtype {described.dtype_name}"


def _kind(kind: Kind) -> str:
    return kind.name.lower().replace("_", " ").replace("prng", "PRNG").replace("none", "None")
