"""`ostraca ls` and `prune(dry_run=True)` of a run of many checkpoints: seconds, and CPU seconds of this process.

    python bench/many_checkpoints.py DIR [COUNT]

The run is made once, of one small checkpoint's files with an id for each, and stays in DIR/many.
"""

import contextlib
import io
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "python"))

import numpy as np

import format_writer
import ostraca
from ostraca.cli import main

TIMES = 3


def make(run: Path, count: int) -> None:
    """Every tenth is a keyframe, and the others have it as their base."""
    if run.exists():
        return
    part = run.with_name("part")
    shutil.rmtree(part, ignore_errors=True)
    base = None
    for i in range(count):
        options = {"x": format_writer.Options(codec="base")} if i % 10 else None
        keyframe = base if i % 10 else None
        written = format_writer.write(part / f"{i:07}", {"x": np.arange(300) + i // 10}, options, base=keyframe, seed=i)
        base = base if i % 10 else written
    part.rename(run)


def measure(name: str, work: Callable[[], object]) -> None:
    for _ in range(TIMES):
        started, cpu = time.perf_counter(), time.process_time()
        with contextlib.redirect_stdout(io.StringIO()):
            work()
        print(f"{name}: {time.perf_counter() - started:.2f} s, CPU {time.process_time() - cpu:.2f} s", flush=True)


def run_all(directory: Path, count: int) -> None:
    run = directory / "many"
    make(run, count)
    print(f"{len(list(run.iterdir()))} checkpoints, load {os.getloadavg()[0]:.1f}")
    measure("ls", lambda: main(["ls", str(run)]))
    measure("prune --dry-run", lambda: ostraca.prune(run, keep=count // 2, dry_run=True))
    measure("created last", lambda: ostraca._core.Run(str(run)).created_last())


if __name__ == "__main__":
    run_all(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 10_000)
