"""Boxes of bounded size that cover an array, in the order of its memory."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Final

BOX_BYTES: Final = 16 << 20  # four chunks of the usual size
BATCH_BYTES: Final = 64 << 20  # read in one call, so that the engine's threads have work

Box = tuple[tuple[int, ...], tuple[int, ...]]  # start and shape


def boxes(
    shape: Sequence[int], item_bytes: int, limit: int = BOX_BYTES, chunk: Sequence[int] | None = None
) -> Iterator[Box]:
    """Boxes of at most `limit` bytes, or of one item, each contiguous in C order; none for an array without data.

    They are cut between chunks of the shape `chunk`, where the limit lets them.
    """
    if math.prod(shape) * item_bytes == 0:
        return
    axis, inner = -1, math.prod(shape) * item_bytes  # bytes below one index of `axis`
    while inner > limit and axis + 1 < len(shape):
        axis += 1
        inner //= shape[axis]
    if axis < 0:
        yield (0,) * len(shape), tuple(shape)
        return
    rest = tuple(shape[axis + 1 :])
    rows = max(1, limit // inner)
    if chunk is not None and rows > chunk[axis]:
        rows -= rows % chunk[axis]
    for prefix in itertools.product(*map(range, shape[:axis])):
        for row in range(0, shape[axis], rows):
            counts = (1,) * axis + (min(rows, shape[axis] - row),)
            yield (*prefix, row, *(0 for _ in rest)), counts + rest
