"""What a load is asked for against what is stored: `select`, `like` and `into`."""

import sys
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any, Final, NamedTuple

import numpy as np

from . import dtypes, leaves
from .errors import MismatchError, UnsupportedError
from .lowlevel import ArrayInfo
from .tree import Kind, Leaf, quoted

MAX_LISTED: Final = 10  # differences that a MismatchError spells out

Select = str | Callable[[str], object]


class Wanted(NamedTuple):
    """What a leaf of `like` asks for."""

    kind: Kind
    dtype_code: int = dtypes.NONE
    detail: str = ""
    shape: tuple[int, ...] | None = None  # None: any
    key_dtype: Any = None  # of JAX key arrays


def selected(stored: Sequence[ArrayInfo], select: Select | None) -> list[ArrayInfo]:
    """The leaves whose names a glob matches ("*" matches "/" too) or a predicate accepts. MismatchError if none."""
    if select is None:
        return list(stored)
    if not isinstance(select, str) and not callable(select):
        raise TypeError(f"select must be a glob or a callable on names, not {type(select).__name__}")
    accepts = select if callable(select) else lambda name: fnmatchcase(name, select)
    chosen = [info for info in stored if accepts(info.name)]
    if not chosen:
        some = ", ".join(quoted(info.name) for info in stored[:3])
        hint = "a glob matches whole names, as 'params/*' does"
        raise MismatchError(f"select={select!r} chose none of the {len(stored)} stored leaves, such as {some}; {hint}")
    return chosen


def matched(like: Iterable[Leaf], stored: Iterable[ArrayInfo], *, keep: bool, what: str) -> list[ArrayInfo | None]:
    """The stored leaf for each leaf of `like`, by display name; None where it is not stored and `keep`.

    Raises `MismatchError` with the names that differ, and shapes and dtypes as expected and found. Byte order is no
    difference.
    """
    rest = {info.name: info for info in stored}
    found = []
    differences = []
    for _, name, leaf in like:
        info = rest.pop(name, None)
        found.append(info)
        difference = _difference(leaf, info, name) if info else None if keep else "not stored"
        if difference:
            differences.append(f"{quoted(name)}: {difference}")
    differences += [f"{quoted(name)}: stored, but not in `{what}`" for name in rest]
    names_differ = bool(rest) or None in found
    advice = f"\n  (select= restores a part of what is stored; missing='keep' keeps what only `{what}` has)"
    check_differences(f"the checkpoint and `{what}` differ", differences, advice if names_differ else "")
    return found


def check_differences(heading: str, differences: Sequence[str], advice: str = "") -> None:
    """Raises `MismatchError` if there are any, one for each leaf."""
    if differences:
        listed = "".join(f"\n  {difference}" for difference in islice(differences, MAX_LISTED))
        more = f"\n  and {len(differences) - MAX_LISTED} more" if len(differences) > MAX_LISTED else ""
        count = "1 leaf" if len(differences) == 1 else f"{len(differences)} leaves"
        raise MismatchError(f"{heading} in {count}:{listed}{more}{advice}")


def stored_keys(info: ArrayInfo) -> Any:
    """Shape and dtype of stored PRNG keys, of which `info` describes the data. JAX was imported before."""
    jax = sys.modules["jax"]
    data = jax.ShapeDtypeStruct(info.shape, np.uint32)
    return jax.eval_shape(lambda array: jax.random.wrap_key_data(array, impl=info.detail), data)


def check_target(leaf: Any, info: ArrayInfo) -> bool:
    """Whether a leaf of `into` is filled in place. `MismatchError`, before anything is, where it cannot be."""
    if info.kind not in (Kind.ARRAY, Kind.PRNG_KEY):
        return False
    if not (isinstance(leaf, np.ndarray) and leaf.flags.writeable):
        kind = type(leaf).__name__
        raise MismatchError(f"into: {quoted(info.name)} is {kind}, not a numpy array that can be written to")
    return True


def wanted(leaf: Any) -> Wanted:
    """What a leaf of `like` describes: a value, or anything with shape and dtype."""
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        shape = tuple(int(size) for size in leaf.shape)
        if leaves.is_prng_key(leaf.dtype):
            return Wanted(Kind.PRNG_KEY, dtypes.UINT32, shape=shape, key_dtype=leaf.dtype)
        code, detail, _ = _coded(leaf.dtype)
        return Wanted(Kind.ARRAY, code, detail, shape)
    piece = leaves.piece(leaf)
    if piece.kind is not Kind.ARRAY or piece.memory is None:
        return Wanted(piece.kind, piece.dtype_code, piece.detail)
    return Wanted(piece.kind, piece.dtype_code, piece.detail, piece.memory.shape)


def _difference(leaf: Any, info: ArrayInfo, name: str) -> str | None:
    try:
        want = wanted(leaf)
    except (UnsupportedError, TypeError) as error:
        raise UnsupportedError(f"like: {quoted(name)} says nothing that can be restored: {error}") from None
    if want.kind is not info.kind:
        return f"expected {_kind(want.kind)}, found {_kind(info.kind)}"
    if want.kind is Kind.PRNG_KEY:
        return _key_difference(want, info)
    if (want.dtype_code, want.detail) != (info.dtype_code, info.detail):
        expected = dtypes.describe(want.dtype_code, want.detail)
        return f"expected dtype {expected}, found {dtypes.describe(info.dtype_code, info.detail)}"
    if want.shape is not None and want.shape != info.shape:
        return f"expected shape {want.shape}, found {info.shape}"
    return None


def _key_difference(want: Wanted, info: ArrayInfo) -> str | None:
    stored = stored_keys(info)  # JAX made the keys wanted
    if stored.dtype != want.key_dtype:
        return f"expected PRNG keys {want.key_dtype}, found {stored.dtype}"
    return None if stored.shape == want.shape else f"expected shape {want.shape}, found {stored.shape}"


def _coded(dtype: Any) -> dtypes.Coded:
    if leaves.is_torch_dtype(dtype):
        coded = leaves.torch_code(dtype)
        if coded is None:
            raise UnsupportedError(f"{dtype} cannot be stored")
        return coded
    return dtypes.encode(np.dtype(getattr(dtype, "as_numpy_dtype", dtype)))  # tf.DType has one


def _kind(kind: Kind) -> str:
    return kind.name.lower().replace("_", " ").replace("prng", "PRNG").replace("none", "None")
