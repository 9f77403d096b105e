"""`pytest bench`: pytest-benchmark suites for what users do with Ostraca. Peers are in compare.py.

OSTRACA_BENCH_MIB (default 256) is the size of a state, OSTRACA_BENCH_DIR (default build/) the disk. Each benchmark also
reports GB/s of decoded bytes in its `extra_info` (see --benchmark-json, or --benchmark-columns for the times alone).
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # pytest's importlib mode leaves it out

import workloads  # noqa: E402
from system import MIB  # noqa: E402

import ostraca  # noqa: E402

NBYTES = int(os.environ.get("OSTRACA_BENCH_MIB", "256")) * MIB
ROUNDS = 5


class Bench:
    """Runs an operation ROUNDS times, each after an untimed set-up, and reports its speed."""

    def __init__(self, benchmark: Any) -> None:
        self.benchmark = benchmark

    def __call__(self, work: Callable[[], Any], *, nbytes: int, before: Callable[[], Any] = lambda: None) -> None:
        def setup() -> None:
            before()  # its result would be taken for the work's arguments

        self.benchmark.pedantic(work, setup=setup, rounds=ROUNDS)
        if self.benchmark.stats is not None:  # None under --benchmark-disable
            self.benchmark.extra_info["GB/s"] = nbytes / self.benchmark.stats.stats.median / 1e9


@pytest.fixture
def bench(benchmark: Any) -> Bench:
    return Bench(benchmark)


@pytest.fixture
def directory() -> Iterator[Path]:
    parent = Path(os.environ.get("OSTRACA_BENCH_DIR", HERE.parent / "build"))
    parent.mkdir(parents=True, exist_ok=True)
    path = Path(tempfile.mkdtemp(prefix="bench-", dir=parent))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session", params=["fp32", "bf16", "trained"])
def arrays(request: pytest.FixtureRequest) -> workloads.Arrays:
    if request.param == "trained" and not workloads.trained_available():
        pytest.skip("no trained weights: python bench/train_weights.py makes them")
    if request.param == "bf16":
        pytest.importorskip("ml_dtypes")
    return workloads.make(request.param, NBYTES)


@pytest.fixture(scope="session")
def small_arrays() -> workloads.Arrays:
    """100,000 arrays of 1 KiB."""
    return workloads.make("small", 0)


@pytest.fixture(params=["auto", "raw"])
def codec(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def saved(directory: Path, arrays: workloads.Arrays, codec: str) -> Path:
    ostraca.save(directory / "checkpoint", arrays, codec=codec)
    return directory / "checkpoint"
