"""`bench/before_after.py`: a slowdown fails, noise that the control shares does not."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCH = Path(__file__).parents[2] / "bench"
ROUNDS = 15


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(BENCH))
    before = set(sys.modules)
    import before_after

    yield before_after
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/x").parent == BENCH:
            del sys.modules[name]


def judged(bench: Any, unit: str, before: Any, after: Any, control: Any) -> Any:
    case = bench.Case("case", "title", "save", "fp32", 1 << 30, ("ostraca-auto",), unit=unit)
    sides = {}
    for name, seconds in zip(bench.SIDES, (before, after, control), strict=True):
        rows = [
            {
                "case": "case",
                "contender": "ostraca-auto",
                "round": i,
                "seconds": s,
                "ratio": s,
                "logical_bytes": 1 << 30,
            }
            for i, s in enumerate(seconds)
        ]
        sides[name] = bench.Results([case], rows, {})
    return bench.figure(case, sides)


@pytest.mark.parametrize("unit", ["GB/s", "s", "ms", "ratio"])
@pytest.mark.parametrize("seed", range(5))
def test_verdicts(bench: Any, unit: str, seed: int) -> None:
    random = np.random.default_rng(seed)

    def seconds(factor: float, spread: float) -> Any:
        return factor * random.lognormal(0.0, spread, ROUNDS)

    same = judged(bench, unit, seconds(1, 0.01), seconds(1, 0.01), seconds(1, 0.01))
    assert not same.fails and 0.98 < same.after.median < 1.02
    slower = judged(bench, unit, seconds(1, 0.01), seconds(1.1, 0.01), seconds(1, 0.01))
    assert slower.fails and slower.after.low <= slower.after.median <= slower.after.high < 0.95
    faster = judged(bench, unit, seconds(1, 0.01), seconds(0.8, 0.01), seconds(1, 0.01))
    assert not faster.fails and faster.after.median > 1.2


def test_noise_that_the_control_shares(bench: Any) -> None:
    noisy = judged(bench, "s", [1.0] * ROUNDS, [0.8, 1.3, 1.0] * 5, [0.7, 1.6, 1.0] * 5)
    assert noisy.control.low <= noisy.after.low and not noisy.fails


def test_a_measurement_that_failed(bench: Any) -> None:
    case = bench.Case("case", "title", "save", "fp32", 1, ("ostraca-auto",))
    row = {"case": "case", "contender": "ostraca-auto", "round": 0, "error": "it broke"}
    sides = {name: bench.Results([case], [row] if name == "after" else [], {}) for name in bench.SIDES}
    found = bench.figure(case, sides)
    assert found.fails and found.error == "after: it broke" and "FAILS after: it broke" in bench.table([found])
