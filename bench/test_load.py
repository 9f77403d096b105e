"""Loads: cold and warm, to new and into existing arrays; slices, many small arrays, and verification."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import system
import workloads

import ostraca
from conftest import NBYTES, Bench


def test_cold_load(bench: Bench, saved: Path, arrays: workloads.Arrays) -> None:
    bench(lambda: ostraca.load(saved), nbytes=workloads.size(arrays), before=lambda: system.evict(saved))


def test_warm_load(bench: Bench, saved: Path, arrays: workloads.Arrays) -> None:
    system.warm(saved)
    bench(lambda: ostraca.load(saved), nbytes=workloads.size(arrays))


def test_warm_load_into(bench: Bench, saved: Path, arrays: workloads.Arrays) -> None:
    system.warm(saved)
    targets = {name: np.ones_like(array) for name, array in arrays.items()}
    bench(lambda: ostraca.load(saved, into=targets), nbytes=workloads.size(arrays))
    assert all(workloads.equal(targets[name], array) for name, array in arrays.items())


@pytest.mark.parametrize("deep", [False, True], ids=["crc", "deep"])
def test_verify_cold(bench: Bench, saved: Path, arrays: workloads.Arrays, deep: bool) -> None:
    bench(lambda: ostraca.verify(saved, deep=deep), nbytes=workloads.size(arrays), before=lambda: system.evict(saved))


@pytest.mark.parametrize("temperature", ["cold", "warm"])
def test_one_row(bench: Bench, directory: Path, temperature: str) -> None:
    table = workloads.make("rows", NBYTES)["table"]
    path = directory / "checkpoint"
    ostraca.save(path, {"table": table})
    middle = len(table) // 3

    def row() -> Any:
        with ostraca.open(path) as checkpoint:
            return checkpoint["table"][middle]

    assert np.array_equal(row(), table[middle])
    bench(row, nbytes=table[0].nbytes, before=lambda: (system.evict if temperature == "cold" else system.warm)(path))


def test_load_small(bench: Bench, directory: Path, small_arrays: workloads.Arrays) -> None:
    ostraca.save(directory / "checkpoint", small_arrays)
    system.warm(directory / "checkpoint")
    bench(lambda: ostraca.load(directory / "checkpoint"), nbytes=workloads.size(small_arrays))


def test_iterate_small(bench: Bench, directory: Path, small_arrays: workloads.Arrays) -> None:
    ostraca.save(directory / "checkpoint", small_arrays)
    system.warm(directory / "checkpoint")

    def iterate() -> None:
        with ostraca.open(directory / "checkpoint") as checkpoint:
            for name in checkpoint:
                checkpoint[name][...]

    bench(iterate, nbytes=workloads.size(small_arrays))
