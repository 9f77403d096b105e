"""What the first delta after a keyframe takes, by where the keyframe's bytes come from.

    python bench/kept_base.py            numpy arrays on the disk, 384 MiB of fp32
    python bench/kept_base.py --jax      jax.Arrays in CPU memory

Each round makes a keyframe as usual and one with `keep_bytes`, and saves the next state against them: given the path,
with a new `BaseSnapshot` (which also fills its memory), with that one again, and with what the second keyframe kept.
Medians of the rounds but the first two, with minimum and maximum.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}  # before anything imports jax

import numpy as np

import ostraca

ARRAYS, ELEMENTS = 24, 4 << 20
SLACK_BYTES = 64 << 20  # blocks may be half empty
WARM_UP = 2


def measured(module: Any, now: Any, later: Any, place: Path, rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = defaultdict(list)

    def timed(name: str, work: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        result = work()
        seconds[name].append(time.perf_counter() - begin)
        return result

    keep = sum(array.nbytes for array in now.values()) + SLACK_BYTES
    for number in range(rounds):
        run = place / str(number)
        timed("keyframe", lambda run=run: module.save_async(run / "a", now).result())
        timed("delta, path", lambda run=run: module.save(run / "a1", later, base=run / "a"))
        with ostraca.BaseSnapshot(run / "a") as base:
            timed("delta, new snapshot", lambda run=run, base=base: module.save(run / "a2", later, base=base))
            timed("delta, filled snapshot", lambda run=run, base=base: module.save(run / "a3", later, base=base))
        handle = module.save_async(run / "b", now, keep_bytes=keep)
        timed("keyframe that keeps", handle.result)
        with handle.snapshot() as base:
            timed("delta, what it kept", lambda run=run, base=base: module.save(run / "b1", later, base=base))
        del handle
        shutil.rmtree(run)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jax", action="store_true", help="jax.Arrays instead of numpy's")
    parser.add_argument("--dir", type=Path, default=Path(__file__).parent.parent / "build", help="(default: build)")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    now: Any = {f"w{i:02}": rng.standard_normal(ELEMENTS, np.float32) * np.float32(0.02) for i in range(ARRAYS)}
    later: Any = {
        name: x * (1 + np.float32(1e-3) * rng.standard_normal(ELEMENTS, np.float32)) for name, x in now.items()
    }
    module: Any = ostraca
    if args.jax:
        import jax

        import ostraca.jax as module

        now, later = jax.device_put((now, later))
    place = Path(tempfile.mkdtemp(prefix="ostraca-kept-", dir=args.dir))
    try:
        for name, each in measured(module, now, later, place, WARM_UP + max(1, args.rounds - WARM_UP)).items():
            kept = [1e3 * x for x in each[WARM_UP:]]
            print(f"{name:24} {statistics.median(kept):5.0f} ms ({min(kept):.0f} to {max(kept):.0f})")
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
