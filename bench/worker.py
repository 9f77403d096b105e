"""One measurement in a process of its own: `python bench/worker.py CONTENDER OPERATION SPEC.json` prints one JSON line.

The spec names the workload and its size, the directory to work in, `source`, where the contender's checkpoint is that
loads read (made by the operation `prepare`), and an operation's own options.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import limits
import system
import workloads
from contenders import CONTENDERS

MIB = system.MIB
TRAINING_SECONDS = 2.0
STALL_SAVES = 4  # the first, which fills the pools, is reported apart


class Run:
    """The spec, and the contender that it is for."""

    def __init__(self, contender: str, spec: dict[str, Any]) -> None:
        self.contender: Any = CONTENDERS[contender]() if contender in CONTENDERS else None
        self.workload: str = spec["workload"]
        self.nbytes: int = spec["bytes"]
        self.options: dict[str, Any] = spec.get("options", {})
        self.source = Path(spec["source"])
        self.scratch = Path(spec["directory"]) / f"scratch-{contender}"
        self.logical: int = workloads.logical_bytes(self.workload, self.nbytes)

    def arrays(self) -> workloads.Arrays:
        return workloads.make(self.workload, self.nbytes)

    def shapes(self) -> workloads.Shapes:
        return workloads.shapes(self.workload, self.nbytes)

    def state(self) -> Any:
        return self.contender.state(self.arrays())

    def fresh_scratch(self) -> Path:
        shutil.rmtree(self.scratch, ignore_errors=True)
        os.sync()
        return self.scratch

    def same(self, name: str, value: Any, arrays: workloads.Arrays) -> None:
        if not workloads.equal(self.contender.numpy(value), arrays[name]):
            raise AssertionError(f"{name} came back changed")


def prepare(run: Run) -> dict[str, Any]:
    """The checkpoint that loads read; not timed. Checks that every way to read it gives the same bytes."""
    arrays = run.arrays()
    run.contender.save(run.source, run.contender.state(arrays))
    loaded = run.contender.load(run.source, run.shapes())
    if set(loaded) != set(arrays):
        raise AssertionError("other arrays came back")
    for name, value in loaded.items():
        run.same(name, value, arrays)
    del loaded
    if hasattr(run.contender, "load_into"):
        targets = run.contender.state({name: array * 0 for name, array in arrays.items()})
        run.contender.load_into(run.source, targets)
        for name, value in targets.items():
            run.same(name, value, arrays)
    return {"checked": True, "stored_bytes": system.stored_bytes(run.source)}


def save(run: Run) -> dict[str, Any]:
    """The second save of a process. The first, which fills every contender's pools and caches, is reported apart."""
    state = run.state()
    path = run.fresh_scratch()
    first, _ = system.measure(lambda: run.contender.save(path, state), run.logical)
    run.fresh_scratch()
    figures, _ = system.measure(lambda: run.contender.save(path, state), run.logical)
    peak = max(first["peak_extra_bytes"], figures["peak_extra_bytes"])
    further = {"first_seconds": first["seconds"], "peak_extra_bytes": peak}
    return {**figures, **further, "stored_bytes": system.stored_bytes(path)}


def cold_load(run: Run) -> dict[str, Any]:
    like = run.shapes()
    system.evict(run.source)
    cached = system.cached_share(run.source)
    figures, loaded = system.measure(lambda: run.contender.load(run.source, like), run.logical * 5 // 4)
    assert len(loaded) == len(like)
    return {**_less_arrays(figures, run), "cached_share": cached, "stored_bytes": system.stored_bytes(run.source)}


def warm_load(run: Run) -> dict[str, Any]:
    """The first load of a fresh process, to new arrays; then again, while the first's arrays live."""
    like = run.shapes()
    system.warm(run.source)
    figures, first = system.measure(lambda: run.contender.load(run.source, like), run.logical * 5 // 4)
    begin = time.perf_counter()
    second = run.contender.load(run.source, like)
    again = time.perf_counter() - begin
    assert len(first) == len(second) == len(like)
    return {**_less_arrays(figures, run), "again_seconds": again}


def warm_into(run: Run) -> dict[str, Any]:
    """Into arrays that were written before."""
    targets = run.contender.state({name: array * 0 for name, array in run.arrays().items()})
    system.warm(run.source)
    figures, _ = system.measure(lambda: run.contender.load_into(run.source, targets))
    begin = time.perf_counter()
    run.contender.load_into(run.source, targets)
    return {**figures, "again_seconds": time.perf_counter() - begin}


def iterate(run: Run) -> dict[str, Any]:
    system.warm(run.source)
    figures, count = system.measure(lambda: len([None for _ in run.contender.iterate(run.source)]))
    assert count == len(run.shapes())
    return figures


def row(run: Run) -> dict[str, Any]:
    (name, (shape, _)), *_ = run.shapes().items()
    index = shape[0] // 3
    system.evict(run.source)
    figures, value = system.measure(lambda: run.contender.row(run.source, name, index))
    run.same(name, value, {name: run.arrays()[name][index]})
    return {**figures, **getattr(run.contender, "statistics", {})}


def stall(run: Run) -> dict[str, Any]:
    """How long training waits for a save that runs in the background: the median from the second save on."""
    state = run.state()
    seconds, extra = [], 0.0
    for _ in range(STALL_SAVES):
        path = run.fresh_scratch()
        figures, wait = system.measure(partial(run.contender.save_async, path, state, **run.options))
        wait()
        seconds.append(figures["seconds"])
        extra = max(extra, figures["peak_extra_bytes"])
    return {"seconds": statistics.median(seconds[1:]), "first_seconds": seconds[0], "peak_extra_bytes": extra}


def training(run: Run) -> dict[str, Any]:
    """How much longer a CPU-bound step of one thread takes while a save runs: step time during, over step time alone.

    With the option `pin`, steps run on one core only; the save's threads may use all.
    """
    import numpy as np

    options = dict(run.options)
    pin = options.pop("pin", False)
    state = run.state()
    cores = os.sched_getaffinity(0)
    x = np.random.default_rng(0).standard_normal((768, 768), dtype=np.float32)
    y = np.empty_like(x)

    def steps(until: Callable[[], bool]) -> list[float]:
        if pin:
            os.sched_setaffinity(0, {max(cores)})  # this thread alone
        times = []
        while not until():
            begin = time.perf_counter()
            np.matmul(x, x, out=y)
            times.append(time.perf_counter() - begin)
        os.sched_setaffinity(0, cores)
        return times

    def alone() -> list[float]:
        end = time.perf_counter() + TRAINING_SECONDS / 2
        return steps(lambda: time.perf_counter() > end)

    alone()
    quiet, during = alone(), []
    for _ in range(3):
        handle = run.contender.start_save(run.fresh_scratch(), state, **options)
        during += steps(handle.done)
        handle.result()
        quiet += alone()
    return {
        "ratio": statistics.mean(during) / statistics.mean(quiet),
        "median_ratio": statistics.median(during) / statistics.median(quiet),
        "step_seconds": statistics.mean(quiet),
        "steps_during": len(during),
    }


def verify(run: Run) -> dict[str, Any]:
    system.warm(run.source) if run.options.get("warm") else system.evict(run.source)
    deep = run.options.get("deep", False)
    figures, report = system.measure(lambda: run.contender.ostraca.verify(run.source, deep=deep))
    assert report.ok
    return figures


def encode(run: Run) -> dict[str, Any]:
    """Compression without a disk: in memory (ZipNN), or a whole save to and load from tmpfs."""
    arrays = run.arrays()
    state = run.contender.state(arrays)
    if hasattr(run.contender, "encode"):
        figures, coded = system.measure(lambda: run.contender.encode(state))
        decoding, decoded = system.measure(lambda: run.contender.decode(coded))
        stored = sum(map(len, coded.values()))
    else:
        path = Path("/dev/shm") / f"ostraca-bench-{os.getpid()}"
        try:
            figures, _ = system.measure(lambda: run.contender.save(path, state), run.logical)
            decoding, decoded = system.measure(lambda: run.contender.load(path, run.shapes()))
            stored = system.stored_bytes(path)
        finally:
            shutil.rmtree(path, ignore_errors=True)
    for name, value in decoded.items():
        run.same(name, value, arrays)
    return {**figures, "decode_seconds": decoding["seconds"], "stored_bytes": stored}


def import_time(run: Run) -> dict[str, Any]:
    """Beyond numpy, in an interpreter that has imported nothing else; modules are compiled, as pip leaves them."""
    module = run.options["module"]
    code = f"import time, numpy; begin = time.perf_counter(); import {module}; print(time.perf_counter() - begin)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for _ in range(2):  # the first compiles what an editable install has not compiled yet
        output = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
        ).stdout
    return {"seconds": float(output)}


def _less_arrays(figures: dict[str, float], run: Run) -> dict[str, float]:
    return {**figures, "peak_extra_bytes": figures["peak_extra_bytes"] - run.logical}


OPERATIONS: dict[str, Callable[[Run], dict[str, Any]]] = {
    "prepare": prepare,
    "save": save,
    "cold_load": cold_load,
    "warm_load": warm_load,
    "warm_into": warm_into,
    "iterate": iterate,
    "row": row,
    "stall": stall,
    "training": training,
    "verify": verify,
    "encode": encode,
    "import": import_time,
}


def main() -> None:
    contender, operation, spec_file = sys.argv[1:]
    spec = json.loads(Path(spec_file).read_text())
    if operation == "limit":
        name = spec["options"]["limit"]
        work = limits.LIMITS[name][1](Path(spec["directory"]), spec["bytes"])
        fresh = spec["bytes"] if "fresh" in name else 0
        result: dict[str, Any] = {**system.measure(work, fresh)[0], "logical_bytes": spec["bytes"]}
    else:
        run = Run("" if operation == "import" else contender, spec)
        try:
            result = {**OPERATIONS[operation](run), "logical_bytes": run.logical}
        finally:
            shutil.rmtree(run.scratch, ignore_errors=True)
    os.sync()  # the next measurement starts with a quiet disk
    print(json.dumps(result), flush=True)
    os._exit(0)  # nobody measures how long frameworks take to go


if __name__ == "__main__":
    main()
