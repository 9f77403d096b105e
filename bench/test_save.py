"""Durable saves, and how long an asynchronous one keeps its caller."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import workloads

import ostraca
from conftest import Bench


def test_save(bench: Bench, directory: Path, arrays: workloads.Arrays, codec: str) -> None:
    path = directory / "checkpoint"
    bench(
        lambda: ostraca.save(path, arrays, codec=codec),
        nbytes=workloads.size(arrays),
        before=lambda: shutil.rmtree(path, ignore_errors=True),
    )


def test_save_small(bench: Bench, directory: Path, small_arrays: workloads.Arrays) -> None:
    path = directory / "checkpoint"
    bench(
        lambda: ostraca.save(path, small_arrays),
        nbytes=workloads.size(small_arrays),
        before=lambda: shutil.rmtree(path, ignore_errors=True),
    )


def stall(bench: Bench, directory: Path, arrays: dict[str, Any], nbytes: int) -> None:
    """The first save fills the pools and is not counted."""
    path = directory / "checkpoint"
    handles = [ostraca.save_async(path, arrays)]

    def settle() -> None:
        handles.pop().result()
        shutil.rmtree(path)

    bench(lambda: handles.append(ostraca.save_async(path, arrays)), nbytes=nbytes, before=settle)
    handles.pop().result()


def test_async_stall_numpy(bench: Bench, directory: Path, arrays: workloads.Arrays) -> None:
    stall(bench, directory, arrays, workloads.size(arrays))


def test_async_stall_jax(bench: Bench, directory: Path, arrays: workloads.Arrays) -> None:
    jax = pytest.importorskip("jax")
    state = jax.block_until_ready({name: jax.numpy.array(array) for name, array in arrays.items()})
    stall(bench, directory, state, workloads.size(arrays))
