"""Whether arrays that are to be filled share memory: then the last one filled would win, silently."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from .errors import MismatchError
from .tree import quoted

if TYPE_CHECKING:  # numpy.typing costs more than all of this module
    from numpy.typing import NDArray

MAX_WORK: Final = 100_000  # candidates that numpy tries for a pair of strided arrays


def check_targets(targets: Sequence[tuple[str, NDArray[Any]]], is_same: Callable[[int, int], bool]) -> None:
    """Raises `MismatchError`, naming the leaves, where two targets (name, array) overlap, or the elements of one.

    The same whole memory may be given for targets that shall hold the same, which `is_same` tells of two places.
    """
    spans = []
    for i, (name, array) in enumerate(targets):
        if not array.nbytes:
            continue
        low: int = array.__array_interface__["data"][0]
        high = low + array.nbytes
        if not array.flags.forc:
            low, high = _span(array, low)
            if _overlaps_itself(array, high - low):
                raise MismatchError(
                    f"{quoted(name)}: elements of the array to fill, of shape {array.shape} and strides"
                    f" {array.strides}, share memory; give one whose elements have their own"
                )
        spans.append((low, high, i))
    spans.sort()
    if any(after[0] < before[1] for before, after in pairwise(spans)):
        _check_pairs(targets, spans, is_same)


def _check_pairs(
    targets: Sequence[tuple[str, NDArray[Any]]],
    spans: Sequence[tuple[int, int, int]],
    is_same: Callable[[int, int], bool],
) -> None:
    """Of targets, by where their memory begins: those whose spans overlap may be strided, or the same."""
    firsts: dict[tuple[Any, ...], int] = {}
    reaching: list[tuple[int, int]] = []  # ends and places of those that reach beyond the next beginning
    for low, high, i in spans:
        name, array = targets[i]
        first = firsts.setdefault((low, array.shape, array.strides, array.dtype), i)
        if first != i:
            if not is_same(first, i):
                raise _shared(targets[first][0], name)
            continue
        reaching = [span for span in reaching if span[0] > low]
        for _, other in reaching:
            if _overlap(array, targets[other][1]):
                raise _shared(*sorted((targets[other][0], name)))
        reaching.append((high, i))


def _span(array: NDArray[Any], begin: int) -> tuple[int, int]:
    """The addresses that an array's elements lie between, of which the first is at `begin`."""
    reach = [stride * (size - 1) for size, stride in zip(array.shape, array.strides, strict=True)]
    return begin + sum(min(each, 0) for each in reach), begin + sum(max(each, 0) for each in reach) + array.itemsize


def _overlaps_itself(array: NDArray[Any], span_bytes: int) -> bool:
    if span_bytes < array.size * array.itemsize:
        return True
    axes = sorted((abs(stride), size) for size, stride in zip(array.shape, array.strides, strict=True) if size > 1)
    reached = array.itemsize
    for stride, size in axes:
        if stride < reached:
            break
        reached += stride * (size - 1)
    else:
        return False  # the elements of an axis lie beyond all that the shorter strides reach
    offsets = np.zeros((1,) * len(axes), np.int64)
    for axis, (stride, size) in enumerate(axes):
        offsets = offsets + (np.arange(size) * stride).reshape((-1,) + (1,) * (len(axes) - axis - 1))
    return bool((np.diff(np.sort(offsets, axis=None)) < array.itemsize).any())


def _overlap(one: NDArray[Any], other: NDArray[Any]) -> bool:
    try:
        return np.shares_memory(one, other, max_work=MAX_WORK)  # type: ignore[arg-type]  # numpy's stub knows two values
    except np.exceptions.TooHardError:  # strides without order: nobody needs those
        return True


def _shared(one: str, other: str) -> MismatchError:
    return MismatchError(
        f"the arrays to fill for {quoted(one)} and {quoted(other)} share memory, and what is stored for these is not"
        " the same; give each leaf memory of its own"
    )
