"""What a save and a load cost beside time: peak memory beyond the arrays, and the GIL.

Prints one line a figure; run it alone on the machine:

    python bench/resources.py [--gib 4] [--dir DIR]

Memory is VmHWM of this process, reset before each operation (Linux), less what was resident then; new arrays are
subtracted. The GIL is judged by a thread that counts: its rate while another thread saves or loads with `threads=1`,
as a share of its rate alone.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import ostraca

MIB = 2**20


def status_mib(field: str) -> float:
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith(field))


def peak_extra_mib(work: Callable[[], Any]) -> tuple[float, Any]:
    """Growth of resident memory at its peak while `work` ran, in MiB, and what it returned."""
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = status_mib("VmRSS")
    result = work()
    return status_mib("VmHWM") - before, result


def make_state(gib: float) -> dict[str, np.ndarray]:
    """fp32 weights of `gib` GiB in arrays of 256 MiB; the first is as large as half of them."""
    rng = np.random.default_rng(0)
    block = (rng.standard_normal(16 * MIB) * 0.02).astype(np.float32)  # 64 MiB
    blocks = max(8, int(gib * 16))
    first = np.concatenate([block * np.float32(1 + i / blocks) for i in range(blocks // 2)])
    rest = {f"w{i}": np.concatenate([block * np.float32(2 + i + k / 8) for k in range(4)]) for i in range(blocks // 8)}
    return {"first": first, **rest}


class Counter:
    """Counts in a thread of its own, a piece of pure Python at a time."""

    def __init__(self) -> None:
        self.count = 0
        self.running = True
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        while self.running:
            for _ in range(1000):
                self.count += 1

    def rate(self, work: Callable[[], Any]) -> float:
        first, begin = self.count, time.perf_counter()
        work()
        return (self.count - first) / (time.perf_counter() - begin)

    def stop(self) -> None:
        self.running = False
        self.thread.join()


def gil_shares(state: dict[str, np.ndarray], directory: Path, rounds: int = 5) -> dict[str, float]:
    """Median share of its solo rate that the counter keeps, for each operation; solo rates are taken in between."""

    def save() -> None:
        shutil.rmtree(directory / "gil", ignore_errors=True)
        ostraca.save(directory / "gil", state, threads=1)

    operations: dict[str, Callable[[], Any]] = {
        "save": save,
        "load": lambda: ostraca.load(directory / "gil", threads=1),
        "verify": lambda: ostraca.verify(directory / "gil"),
    }
    counter = Counter()
    shares: dict[str, list[float]] = {name: [] for name in operations}
    for _ in range(rounds):
        for name, operation in operations.items():
            solo = counter.rate(lambda: time.sleep(0.3))
            shares[name].append(counter.rate(operation) / solo)
    counter.stop()
    return {name: statistics.median(values) for name, values in shares.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=4.0, help="size of the state (default: 4)")
    parser.add_argument("--dir", type=Path, help="where to write (default: a temporary directory)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="ostraca-bench-", dir=args.dir))
    try:
        state = make_state(args.gib)
        nbytes = sum(a.nbytes for a in state.values())
        figures: dict[str, float] = {"state_gib": nbytes / 2**30}
        figures["save_extra_mib"], info = peak_extra_mib(lambda: ostraca.save(directory / "big", state))
        figures["save_gb_s"] = nbytes / info.seconds / 1e9
        extra, loaded = peak_extra_mib(lambda: ostraca.load(directory / "big"))
        figures["load_extra_mib"] = extra - nbytes / MIB
        assert all(np.array_equal(state[name], loaded[name]) for name in state)
        del loaded
        small = {name: a for name, a in state.items() if name != "first"}
        for name, share in gil_shares(dict(list(small.items())[:2]), directory).items():
            figures[f"gil_share_{name}"] = share
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if args.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:20} {value:10.3f}")


if __name__ == "__main__":
    main()
