"""The states that are saved and loaded: dicts of numpy arrays, the same ones in every process.

fp32, bf16   weights as after initialisation: N(0, 0.02), in arrays of 16 MiB
trained      fp32 parameters and Adam moments of a real training run (train_weights.py)
small        100,000 fp32 arrays of 1 KiB, whatever the size asked for
rows         one fp32 array with rows of 16 KiB
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from system import MIB

Arrays = dict[str, NDArray[Any]]
Shapes = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]

DATA = Path(__file__).parent.parent / "build" / "bench-data"
SIGMA = np.float32(0.02)
ARRAY_BYTES = 16 * MIB
SMALL_COUNT = 100_000
SMALL_BYTES = 1024
ROW_ELEMENTS = 4096


def dtype_of(workload: str) -> np.dtype[Any]:
    if workload == "bf16":
        import ml_dtypes

        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    return np.dtype(np.float32)


def shapes(workload: str, nbytes: int) -> Shapes:
    """Name -> (shape, dtype) of a workload of about `nbytes`."""
    dtype = dtype_of(workload)
    if workload == "small":
        return {f"layer{i:06}": ((SMALL_BYTES // dtype.itemsize,), dtype) for i in range(SMALL_COUNT)}
    if workload == "rows":
        return {"table": ((max(1, nbytes // (ROW_ELEMENTS * dtype.itemsize)), ROW_ELEMENTS), dtype)}
    if workload == "trained":
        return {name: (shape, dtype) for name, shape, _ in _trained(nbytes)}
    count = max(1, nbytes // ARRAY_BYTES)
    width = 4096 * 4 // dtype.itemsize
    return {f"w{i:04}": ((ARRAY_BYTES // (width * dtype.itemsize), width), dtype) for i in range(count)}


def logical_bytes(workload: str, nbytes: int) -> int:
    return sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in shapes(workload, nbytes).values())


def make(workload: str, nbytes: int) -> Arrays:
    if workload == "trained":
        return {name: np.load(file).reshape(shape) for name, shape, file in _trained(nbytes)}
    wanted = shapes(workload, nbytes)
    if workload == "small":
        block = _normal(0, (SMALL_COUNT, SMALL_BYTES // 4))
        return {name: block[i].copy() for i, name in enumerate(wanted)}
    if workload == "rows":
        array = np.empty(*wanted["table"])
        step = ARRAY_BYTES // (ROW_ELEMENTS * 4)
        parts = [array[at : at + step] for at in range(0, len(array), step)]
        _parallel(lambda i: np.copyto(parts[i], _normal(i, parts[i].shape)), len(parts))
        return {"table": array}
    arrays: list[Any] = [None] * len(wanted)
    items = list(wanted.values())

    def fill(i: int) -> None:
        shape, dtype = items[i]
        arrays[i] = _normal(i, shape).astype(dtype, copy=False)

    _parallel(fill, len(items))
    return dict(zip(wanted, arrays, strict=True))


def size(arrays: Arrays) -> int:
    """In bytes."""
    return sum(array.nbytes for array in arrays.values())


def equal(first: NDArray[Any], second: NDArray[Any]) -> bool:
    """Whether two arrays hold the same bytes."""
    if first.nbytes != second.nbytes:
        return False
    flat = [np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in (first, second)]
    return np.array_equal(flat[0], flat[1])


def trained_available() -> bool:
    return (DATA / "trained.json").exists()


def _normal(seed: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    values = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    values *= SIGMA
    return values


def _parallel(work: Any, count: int) -> None:
    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(work, range(count)):
            pass


def _trained(nbytes: int) -> Iterator[tuple[str, tuple[int, ...], Path]]:
    """Snapshots of the training run, the last one first, until there are `nbytes` or no more."""
    index = json.loads((DATA / "trained.json").read_text())
    total = 0
    for snapshot in reversed(index["snapshots"]):
        for name, shape in index["arrays"].items():
            yield f"{snapshot}/{name}", tuple(shape), DATA / snapshot / f"{name}.npy"
            total += 4 * int(np.prod(shape))
        if total >= nbytes:
            return
