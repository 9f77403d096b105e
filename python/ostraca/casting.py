"""Values of one dtype to another: what `cast=True` allows, and the first value that would be lost.

With True, floats are rounded; everything else has to stay what it is. "unsafe" takes what numpy makes of a value.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from . import dtypes
from .errors import MismatchError
from .tree import quoted

if TYPE_CHECKING:  # numpy.typing costs more than all of this module
    from numpy.typing import NDArray

Cast = bool | Literal["unsafe"]

BLOCK_ITEMS: Final = 1 << 18  # converted and checked at a time, so that what a check allocates stays in the cache
_CLASSES: Final = ("bool", "int", "float", "complex")  # values of each can become values of later ones


def checked_cast(cast: Cast) -> Cast:
    """False, True or "unsafe"; ValueError for anything else."""
    if isinstance(cast, str) and cast != "unsafe":
        raise ValueError(f"cast must be False, True or 'unsafe', not {cast!r}")
    return cast if isinstance(cast, str) else bool(cast)


@lru_cache(maxsize=256)
def number_class(dtype: np.dtype[Any]) -> str | None:
    """ "bool", "int", "float" or "complex"; None for what is no number."""
    name = dtype.name
    if dtypes.CODES.get(name) is None:
        return None
    return next(each for each in _CLASSES if name.lstrip("ub").startswith(each.lstrip("b")))


def refusal(stored: np.dtype[Any], wanted: np.dtype[Any], cast: Cast) -> str | None:
    """Why no value of a dtype can become one of another; None where it depends on the value."""
    if cast == "unsafe" or stored == wanted.newbyteorder("="):
        return None
    old, new = number_class(stored), number_class(wanted)
    if old is None or new is None:
        return f"cast=True is for numbers; expected dtype {wanted}, found {stored}"
    if new == "bool" and old == "int":
        return None
    if _CLASSES.index(old) > _CLASSES.index(new):
        return f"{stored} cannot be cast to {wanted} without loss (cast='unsafe' takes what numpy makes of it)"
    return None


def converted(
    source: NDArray[Any], dtype: np.dtype[Any], name: str, cast: Cast, start: tuple[int, ...] | None = None
) -> NDArray[Any]:
    """A new array of the dtype. Raises as `convert` does."""
    target = np.empty(source.shape, dtype)
    convert(source, target, name, cast, start)
    return target


def convert(
    source: NDArray[Any], target: NDArray[Any], name: str, cast: Cast, start: tuple[int, ...] | None = None
) -> None:
    """Fills an array with values of another dtype; both are in C order.

    Raises `MismatchError`, naming leaf and index, at the first value that does not fit. `start` is where the arrays
    begin in the leaf.
    """
    flat, out = source.reshape(-1), target.reshape(-1)
    is_safe = dtypes.is_numpys(target.dtype) and np.can_cast(source.dtype, target.dtype, "safe")
    for begin in range(0, flat.size, BLOCK_ITEMS):
        block = slice(begin, begin + BLOCK_ITEMS)
        _assign(out[block], flat[block], name)
        if cast != "unsafe" and not is_safe:
            lost = _lost(flat[block], out[block])
            if lost.any():
                at = begin + int(lost.argmax())
                index = [int(i) for i in np.unravel_index(at, source.shape)]
                index = [i + j for i, j in zip(index, start or (0,) * len(index), strict=False)]
                raise MismatchError(
                    f"{quoted(name)}: {flat[at]} at index {tuple(index)} does not fit {target.dtype}, stored as"
                    f" {source.dtype}; cast='unsafe' takes what numpy makes of it"
                )


def _assign(target: NDArray[Any], source: NDArray[Any], name: str) -> None:
    if source.dtype.kind == "c" and target.dtype.kind not in "cb":
        source = source.real  # as numpy does, with a warning
    if not (dtypes.is_numpys(source.dtype) or dtypes.is_numpys(target.dtype)):  # some of ml_dtypes' know no other
        source = source.astype(np.float32 if number_class(source.dtype) == "float" else np.int64)
    try:
        with np.errstate(all="ignore"):
            np.copyto(target, source, casting="unsafe")
    except (ValueError, TypeError) as error:
        raise MismatchError(f"{quoted(name)}: {source.dtype} cannot be cast to {target.dtype}: {error}") from None


def _lost(source: NDArray[Any], target: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a value became another one, but for rounding."""
    if number_class(target.dtype) in ("bool", "int"):
        return _beyond(source, target.dtype)
    if target.dtype.kind == "c":
        parts = source.real, source.imag
        return _lost_float(parts[0], target.real) | _lost_float(parts[1], target.imag)
    return _lost_float(source, target)


def _beyond(source: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[np.bool_]:
    """Which integers lie beyond the range of a dtype."""
    if source.dtype.kind not in "iu":  # bool, and the small integers of ml_dtypes
        source = source.astype(np.int64)
    (low, high), (least, most) = _range(dtype), _range(source.dtype)
    lost = np.zeros(source.shape, np.bool_)
    if low > least:
        lost |= source < low
    if high < most:
        lost |= source > high
    return lost


def _range(dtype: np.dtype[Any]) -> tuple[int, int]:
    if dtype.kind == "b":
        return 0, 1
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
    else:
        import ml_dtypes

        info = ml_dtypes.iinfo(dtype)
    return int(info.min), int(info.max)


def _lost_float(source: NDArray[Any], target: NDArray[Any]) -> NDArray[np.bool_]:
    if number_class(source.dtype) in ("bool", "int"):
        source = source.astype(np.float64)
    lost: NDArray[np.bool_] = np.isfinite(source) & ~np.isfinite(target)
    lost |= np.isinf(source) & ~np.isinf(target)
    lost |= np.isnan(source) & ~np.isnan(target)
    limit = _saturates_at(target.dtype.newbyteorder("="))
    if limit is not None:
        lost |= np.abs(source.astype(np.float64)) >= limit
    return lost


@lru_cache(maxsize=64)
def _saturates_at(dtype: np.dtype[Any]) -> float | None:
    """From where on values become the greatest of a dtype that has no inf and no NaN; None for others."""
    if dtypes.is_numpys(dtype) or not np.isfinite(np.array(np.inf).astype(dtype)):
        return None
    import ml_dtypes

    info = ml_dtypes.finfo(dtype)
    greatest = float(info.max)
    return greatest + math.ldexp(1.0, math.frexp(greatest)[1] - 2 - int(info.nmant))
