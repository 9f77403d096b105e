"""A jax.Array to what a process writes of it: boxes of its shards, and the chunks to cut them into.

Each distinct box of a sharding is written once. Processes that hold the same box share it: a slice for each where it is
large, else who has least to write so far. All processes compute this alike, from the shardings alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

from .. import _core
from ..sharded.boxes import Box

SLICE_BYTES: Final = 4 << 20  # boxes are shared when every slice has as much
CHUNK_BYTES_MAX: Final = _core.CHUNK_BYTES_MAX
# The least of chunks that are cut for the sake of other meshes. Smaller ones take longer to code (by 10, 40, 80 % in
# 256, 128, 64 KiB), which only arrays of at most SMALL_CHUNKS of them may do.
CHUNK_BYTES_MIN: Final = 256 << 10
SMALL_CHUNK_BYTES_MIN: Final = 64 << 10
SMALL_CHUNKS: Final = 64

Shape = tuple[int, ...]


class Share(NamedTuple):
    """What one process writes of an array: a box, or a slice of it."""

    process: int
    box: Box
    part: Box


class Shares:
    """Who writes what of the arrays of one save, asked for in the same order in all processes."""

    def __init__(self, process_count: int) -> None:
        self.bytes = [0] * process_count  # that each has to write so far
        self._held: dict[tuple[Any, Shape], list[tuple[Box, list[int]]]] = {}

    def of(self, sharding: Any, shape: Shape, item_bytes: int) -> list[Share]:
        """Of an array whose parts several processes may hold."""
        held = self._held.get((sharding, shape))
        if held is None:
            devices = sharding.devices_indices_map(shape).items()
            held = holders(((device.process_index, index) for device, index in devices), shape)
            self._held[sharding, shape] = held
        return [share for box, processes in held for share in self._divided(box, processes, item_bytes)]

    def _divided(self, box: Box, processes: Sequence[int], item_bytes: int) -> Iterable[Share]:
        parts = [box]
        if len(processes) > 1 and math.prod(box[1]) * item_bytes >= len(processes) * SLICE_BYTES:
            parts = slices(box, len(processes))
        if len(parts) == 1:
            processes = [min(processes, key=lambda process: (self.bytes[process], process))]
        for process, part in zip(processes, parts, strict=True):
            self.bytes[process] += math.prod(part[1]) * item_bytes
            yield Share(process, box, part)


def holders(indices: Iterable[tuple[int, tuple[slice, ...]]], shape: Shape) -> list[tuple[Box, list[int]]]:
    """The distinct boxes of an array, in order, and the processes that hold each."""
    found: dict[Box, set[int]] = {}
    for process, index in indices:
        found.setdefault(box_of(index, shape), set()).add(process)
    return [(box, sorted(found[box])) for box in sorted(found)]


def box_of(index: tuple[slice, ...], shape: Shape) -> Box:
    bounds = [part.indices(size)[:2] for part, size in zip(index, shape, strict=True)]
    return tuple(a for a, _ in bounds), tuple(b - a for a, b in bounds)


def slices(box: Box, count: int) -> list[Box]:
    """`count` slices along the first axis that is long enough; the box itself where none is."""
    start, shape = box
    for axis, size in enumerate(shape):
        if size >= count:
            borders = [size * i // count for i in range(count + 1)]
            return [
                ((*start[:axis], start[axis] + a, *start[axis + 1 :]), (*shape[:axis], b - a, *shape[axis + 1 :]))
                for a, b in pairwise(borders)
            ]
    return [box]


def chunk_shape(part: Shape, whole: Shape, item_bytes: int, processes: int) -> Shape:
    """How to cut a part of an array that `processes` hold together, for those who will want other parts of it.

    They may cut any axis, into as many pieces. Halving keeps the borders of chunks at theirs, where sizes divide by
    powers of two; the axis that is cut least so far is next, so that chunks have about as many pieces along each.
    """
    least = min(max(math.prod(whole) * item_bytes // SMALL_CHUNKS, SMALL_CHUNK_BYTES_MIN), CHUNK_BYTES_MIN)
    chunk = list(part)
    while axes := [axis for axis, size in enumerate(chunk) if size > 1]:
        axis = min(axes, key=lambda axis: whole[axis] / chunk[axis])
        nbytes = math.prod(chunk) * item_bytes
        is_coarse = whole[axis] < processes * chunk[axis] and nbytes >= 2 * least
        if nbytes <= CHUNK_BYTES_MAX and not is_coarse:
            break
        chunk[axis] = -(-chunk[axis] // 2)
    return tuple(chunk)
