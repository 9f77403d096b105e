"""Stock Orbax's manager against the same manager on Ostraca: `python bench/orbax_plugin.py [--check]`.

Each measurement is a process of its own, the two in turns. A save is timed from the call until it is finished and
durable, a cold restore from an empty page cache to arrays on the device; the state is 1 GiB of fp32 in jax.Arrays.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import system
import workloads

MIB, GIB = system.MIB, system.GIB
KINDS = ("stock", "ours")
TINY_SAVES = 15


class Target(NamedTuple):
    title: str
    aim: float
    at_most: bool
    figure: float

    def line(self) -> str:
        met = self.figure <= self.aim if self.at_most else self.figure >= self.aim
        sign = "at most" if self.at_most else "at least"
        return f"{'met    ' if met else 'NOT MET'}  {self.title}: {self.figure:.2f} ({sign} {self.aim:g})"

    def is_met(self) -> bool:
        return self.line().startswith("met")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit status 1 when a target is not met")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bytes", type=int, default=GIB)
    parser.add_argument("--directory", type=Path, default=Path(__file__).parents[1] / "build" / "bench-data")
    parser.add_argument("--child", nargs=2, metavar=("KIND", "OPERATION"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        kind, operation = arguments.child
        print(json.dumps(OPERATIONS[operation](kind, arguments.directory, arguments.bytes)), flush=True)
        os._exit(0)
    arguments.directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        results = measured(Path(directory), arguments.rounds, arguments.bytes)
    show(results)
    targets = judged(results)
    for target in targets:
        print(target.line())
    return int(arguments.check and not all(target.is_met() for target in targets))


def measured(directory: Path, rounds: int, nbytes: int) -> dict[tuple[str, str], list[dict[str, float]]]:
    results: dict[tuple[str, str], list[dict[str, float]]] = {}
    for turn in range(rounds):
        for operation in OPERATIONS:
            for kind in KINDS if turn % 2 else KINDS[::-1]:
                command = [sys.executable, __file__, "--child", kind, operation, "--bytes", str(nbytes)]
                command += ["--directory", str(directory)]
                environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
                output = subprocess.run(command, capture_output=True, text=True, env=environment)
                if output.returncode:
                    raise SystemExit(f"{kind} {operation} failed:\n{output.stderr}")
                results.setdefault((kind, operation), []).append(json.loads(output.stdout.splitlines()[-1]))
    return results


def show(results: dict[tuple[str, str], list[dict[str, float]]]) -> None:
    for (kind, operation), figures in sorted(results.items(), key=lambda item: item[0][::-1]):
        for name in figures[0]:
            values = [figure[name] for figure in figures]
            low, middle, high = min(values), statistics.median(values), max(values)
            print(f"{operation:8} {kind:6} {name:16} {middle:9.3f}  ({low:.3f} to {high:.3f})")


def judged(results: dict[tuple[str, str], list[dict[str, float]]]) -> list[Target]:
    def ratio(operation: str) -> float:
        pairs = zip(results["stock", operation], results["ours", operation], strict=True)
        return statistics.median(stock["seconds"] / ours["seconds"] for stock, ours in pairs)

    def worst(operation: str, name: str) -> float:
        return max(figure[name] for figure in results["ours", operation])

    return [
        Target("save, times as fast as stock", 4, False, ratio("save")),
        Target("cold restore, times as fast as stock", 2, False, ratio("restore")),
        Target("save, peak memory beyond the state, MiB", 256, True, worst("save", "peak_extra_MiB")),
        Target("restore, peak memory beyond the state, MiB", 256, True, worst("restore", "peak_extra_MiB")),
        Target("a tiny save, from call to commit, ms", 50, True, worst("tiny", "milliseconds")),
    ]


# --- In a process of its own ----------------------------------------------------------------------------------------


def manager(kind: str, directory: Path) -> Any:
    import orbax.checkpoint as ocp

    if kind == "stock":
        return ocp.CheckpointManager(directory)
    import ostraca.orbax

    return ocp.CheckpointManager(directory, handler_registry=ostraca.orbax.registry())


def save(kind: str, directory: Path, nbytes: int) -> dict[str, float]:
    """The second save of a process; the first fills pools and is reported apart."""
    import jax
    import orbax.checkpoint as ocp

    place = directory / kind
    shutil.rmtree(place, ignore_errors=True)
    arrays = workloads.make("fp32", nbytes)
    state = jax.block_until_ready({name: jax.device_put(arrays.pop(name)).copy() for name in list(arrays)})
    figures = []
    with manager(kind, place) as saving:
        for step in range(2):
            stall = 0.0

            def work(step: int = step) -> None:
                nonlocal stall
                begin = time.perf_counter()
                saving.save(step, args=ocp.args.StandardSave(state))
                stall = time.perf_counter() - begin
                saving.wait_until_finished()
                system.fsync_tree(place / str(step))

            os.sync()
            figures.append({**system.measure(work, nbytes)[0], "stall": stall})
            if step == 0:
                saving.delete(0)
    return {
        "seconds": figures[1]["seconds"],
        "first_seconds": figures[0]["seconds"],
        "GB/s": nbytes / figures[1]["seconds"] / 1e9,
        "stall_ms": figures[1]["stall"] * 1e3,
        "peak_extra_MiB": max(figure["peak_extra_bytes"] for figure in figures) / MIB,
        "stored_ratio": system.stored_bytes(place) / nbytes,
    }


def restore(kind: str, directory: Path, nbytes: int) -> dict[str, float]:
    import jax
    import orbax.checkpoint as ocp

    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = workloads.shapes("fp32", nbytes)
    like = {name: jax.ShapeDtypeStruct(shape, dtype, sharding=device) for name, (shape, dtype) in shapes.items()}
    place = directory / kind
    with manager(kind, place) as restoring:
        system.evict(place)
        restore_args = ocp.args.StandardRestore(like)
        figures, restored = system.measure(
            lambda: jax.block_until_ready(restoring.restore(1, args=restore_args)), nbytes * 5 // 4
        )
    arrays = workloads.make("fp32", nbytes)
    for name, value in restored.items():
        if not workloads.equal(value, arrays[name]):
            raise AssertionError(f"{name} came back changed")
    return {
        "seconds": figures["seconds"],
        "GB/s": nbytes / figures["seconds"] / 1e9,
        "peak_extra_MiB": (figures["peak_extra_bytes"] - nbytes) / MIB,
    }


def tiny(kind: str, directory: Path, nbytes: int) -> dict[str, float]:
    import jax.numpy as jnp
    import orbax.checkpoint as ocp

    place = directory / f"tiny-{kind}"
    shutil.rmtree(place, ignore_errors=True)
    state = {"w": jnp.ones(8), "step": 1}
    times = []
    with manager(kind, place) as saving:
        for step in range(TINY_SAVES):
            begin = time.perf_counter()
            saving.save(step, args=ocp.args.StandardSave(state))
            saving.wait_until_finished()
            times.append((time.perf_counter() - begin) * 1e3)
    return {"milliseconds": statistics.median(times), "first_milliseconds": times[0]}


OPERATIONS = {"save": save, "restore": restore, "tiny": tiny}


if __name__ == "__main__":
    sys.exit(main())
