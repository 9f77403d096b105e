"""Who writes what of a sharded array, and how it is cut, for any number of processes: no devices are needed."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("jax")
from ostraca.jax import shards
from ostraca.jax.shards import Box, Shape, Shares, box_of, chunk_shape

READ_SHARE_MAX = 1.25


class Device:
    def __init__(self, process_index: int) -> None:
        self.process_index = process_index


class Sharding:
    """A mesh of simulated devices: axis d of an array is cut along mesh axis cuts[d], or not at all."""

    def __init__(self, mesh: tuple[int, ...], cuts: tuple[int | None, ...], processes: int) -> None:
        self.mesh, self.cuts, self.processes = mesh, cuts, processes

    def devices_indices_map(self, shape: Shape) -> dict[Device, tuple[slice, ...]]:
        count = math.prod(self.mesh)
        found = {}
        for number, place in enumerate(itertools.product(*map(range, self.mesh))):
            index = []
            for size, cut in zip(shape, self.cuts, strict=True):
                step = size if cut is None else size // self.mesh[cut]
                start = 0 if cut is None else place[cut] * step
                index.append(slice(None) if cut is None else slice(start, start + step))
            found[Device(number * self.processes // count)] = tuple(index)
        return found


@st.composite
def arrays(draw: Any) -> tuple[Sharding, Shape]:
    mesh = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=3)))
    rank = draw(st.integers(0, 3))
    axes = draw(st.permutations([*range(len(mesh)), *[None] * rank]))[:rank]
    sizes = [draw(st.integers(1, 6)) * (1 if cut is None else mesh[cut]) for cut in axes]
    processes = draw(st.sampled_from([n for n in range(1, 9) if math.prod(mesh) % n == 0]))
    return Sharding(mesh, tuple(axes), processes), tuple(sizes)


def region(box: Box) -> tuple[slice, ...]:
    return tuple(slice(start, start + size) for start, size in zip(*box, strict=True))


@given(st.lists(arrays(), max_size=5), st.sampled_from([4, 1 << 20]))
def test_every_element_is_written_once_by_one_who_holds_it(found: list[Any], item_bytes: int) -> None:
    shares = Shares(8)
    for sharding, shape in found:
        written = np.zeros(shape, int)
        held = {
            (device.process_index, box_of(index, shape))
            for device, index in sharding.devices_indices_map(shape).items()
        }
        for share in shares.of(sharding, shape, item_bytes):
            written[region(share.part)] += 1
            assert (share.process, share.box) in held
            whole = np.zeros(shape, bool)
            whole[region(share.box)] = True
            assert whole[region(share.part)].all()
        assert (written == 1).all()
    total = sum(math.prod(shape) for _, shape in found) * item_bytes
    assert sum(shares.bytes) == total


@given(st.lists(arrays(), min_size=1, max_size=5))
def test_all_processes_compute_it_alike(found: list[Any]) -> None:
    first, second = Shares(8), Shares(8)
    assert [first.of(*array, 4) for array in found] == [second.of(*array, 4) for array in found]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=40), st.integers(2, 8))
def test_replicas_share_the_work(rows: list[int], processes: int) -> None:
    """Among those who hold all of the same, nobody has more to write than another by a slice, or what is not sliced."""
    shares = Shares(processes)
    replicated = Sharding((processes,), (None, None), processes)
    for count in rows:
        shares.of(replicated, (count, 1 << 18), 4)  # of 1 MiB a row
    assert max(shares.bytes) - min(shares.bytes) <= max(processes * shards.SLICE_BYTES, 1 << 20) + len(rows) * (1 << 20)


def test_large_replicas_are_sliced_evenly() -> None:
    shares = Shares(4)
    found = shares.of(Sharding((4,), (None, None), 4), (3, 1 << 24), 4)  # too few rows
    assert [share.part for share in found] == [((0, i << 22), (3, 1 << 22)) for i in range(4)]
    assert len(set(shares.bytes)) == 1
    assert len(shares.of(Sharding((4,), (None,), 4), (1 << 20,), 4)) == 1  # 4 MiB: not worth it


def read_share(shape: Shape, item_bytes: int, written: tuple[int, ...], read: tuple[int, ...]) -> float:
    """Bytes that all readers read, whole chunks, over bytes of the array; both cut it into so many parts along axes."""
    part = tuple(size // count for size, count in zip(shape, written, strict=True))
    chunk = chunk_shape(part, shape, item_bytes, math.prod(written))
    assert math.prod(chunk) * item_bytes <= shards.CHUNK_BYTES_MAX
    total = 0
    for place in itertools.product(*map(range, read)):
        volume = 1
        for size, own, cut, count, at in zip(shape, part, chunk, read, place, strict=True):
            start, stop = at * (size // count), (at + 1) * (size // count)
            borders = sorted({min(p + c, p + own) for p in range(0, size, own) for c in range(0, own + cut, cut)})
            volume *= sum(b - a for a, b in itertools.pairwise(borders) if a < stop and b > start)
        total += volume
    return total / math.prod(shape)


@pytest.mark.parametrize("shape", [(4096, 4096), (8192, 1000), (1000, 8000), (1024, 1024), (512, 4096), (4, 2048, 512)])
@pytest.mark.parametrize("item_bytes", [1, 2, 4])
def test_chunks_fit_other_meshes(shape: Shape, item_bytes: int) -> None:
    rank = len(shape)
    for written, read in itertools.product(range(rank), repeat=2):
        cuts = [tuple(4 if axis == cut else 1 for axis in range(rank)) for cut in (written, read)]
        assert read_share(shape, item_bytes, *cuts) <= READ_SHARE_MAX, (written, read)


def test_small_arrays_are_not_cut_to_pieces() -> None:
    assert chunk_shape((64, 256), (256, 256), 4, 4) == (64, 256)
    assert chunk_shape((8, 1 << 20), (1 << 10, 1 << 20), 4, 1 << 7) == (8, 1 << 13)
    assert chunk_shape((1,), (1,), 4, 4) == (1,)
    assert chunk_shape((), (), 4, 4) == ()
    assert chunk_shape((1 << 21,), (1 << 23,), 4, 4) == (1 << 20,)
