"""Saving from and restoring to an accelerator's memory: the way to the host, the stall, end to end beside stock Orbax.

    python bench/jax_device.py [--mib 1024] [--rounds 5] [--dir DIR] [--json]

Takes JAX's default device, whatever it is: a GPU, a TPU. Where that is a CPU there is nothing to measure, and it says
so; `--rehearse` then takes the CPU's arrays the same way, which shows that the script works and nothing else.

A state of fp32 arrays of 16 MiB. Every contender and operation in a process of its own, in turns; medians with minimum
and maximum. `to_host`: GB/s from the device into host memory: by `jax.device_get`; as `ostraca.jax.save` does it,
copies of aliases started ahead; the same by way of JAX's pinned host memory. `stall`: until `save_async` of ready
arrays returns, with staging memory for all of them and for a quarter; of Orbax, until `save` does. `save`: durable, the
second of a process (Orbax syncs nothing). `cold` and `warm`: a restore until the arrays are ready, with nothing and
with everything in the page cache.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import system

MIB = system.MIB
SHAPE = (4096, 1024)
ARRAY_BYTES = 4 * SHAPE[0] * SHAPE[1]
AHEAD_BYTES = 256 * MIB  # of copies that are on their way together
STALLS = 4  # the first, which makes pools and threads, does not count

# operation -> its contenders
CONTENDERS = {
    "to_host": ("jax.device_get", "ostraca", "ostraca, pinned"),
    "stall": ("ostraca", "ostraca, a quarter staged", "orbax"),
    "save": ("ostraca", "orbax"),
    "cold": ("ostraca", "orbax"),
    "warm": ("ostraca", "orbax"),
}


def make_state(nbytes: int) -> dict[str, Any]:
    import jax

    keys = jax.random.split(jax.random.key(0), nbytes // ARRAY_BYTES)
    draw = jax.jit(lambda key: 0.02 * jax.random.normal(key, SHAPE))
    return {f"w{i:03}": jax.block_until_ready(draw(key)) for i, key in enumerate(keys)}


def to_host(contender: str, nbytes: int, directory: Path) -> float:
    import jax
    import numpy as np

    from ostraca.jax.staging import start_copy

    state = list(make_state(nbytes).values())
    pinned = contender.endswith("pinned")

    def by_aliases() -> None:
        copies: deque[Any] = deque()
        for array in state:
            if len(copies) * ARRAY_BYTES >= AHEAD_BYTES:
                np.asarray(copies.popleft())
            copies.append(start_copy(array, pinned))
        while copies:
            np.asarray(copies.popleft())

    work: Callable[[], Any] = (lambda: jax.device_get(state)) if contender == "jax.device_get" else by_aliases
    seconds, _ = timed(work)
    return seconds


def stall(contender: str, nbytes: int, directory: Path) -> float:
    state = make_state(nbytes)
    staging = nbytes // 4 if contender.endswith("staged") else None
    found = []
    for number in range(STALLS):
        path = directory / str(number)
        seconds, wait = timed(lambda path=path: begin_save(contender, path, state, staging))
        wait()
        shutil.rmtree(path)
        found.append(seconds)
    return statistics.median(found[1:])


def begin_save(contender: str, path: Path, state: Any, staging: int | None = None) -> Callable[[], object]:
    """Returns what waits for the save's end."""
    import orbax.checkpoint as ocp

    import ostraca.jax

    if contender != "orbax":
        return ostraca.jax.save_async(path, state, staging_bytes=staging).result
    checkpointer = ocp.StandardCheckpointer()
    checkpointer.save(path, state)
    return checkpointer.wait_until_finished


def save(contender: str, nbytes: int, directory: Path) -> float:
    state = make_state(nbytes)
    for number in range(2):
        path = directory / str(number)
        seconds, _ = timed(lambda path=path: begin_save(contender, path, state)())
        shutil.rmtree(path)
    return seconds


def prepare(contender: str, nbytes: int, path: Path) -> float:
    """The checkpoint that restores read; checks that it comes back as it was."""
    import numpy as np

    state = make_state(nbytes)
    begin_save(contender, path, state)()
    for name, array in restore(contender, path, nbytes).items():
        if np.asarray(array).tobytes() != np.asarray(state[name]).tobytes():
            raise AssertionError(f"{contender}: {name} came back changed")
    return 0.0


def restore(contender: str, path: Path, nbytes: int) -> Any:
    import jax
    import orbax.checkpoint as ocp

    import ostraca.jax

    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.ShapeDtypeStruct(SHAPE, "float32", sharding=here)
    like = {f"w{i:03}": abstract for i in range(nbytes // ARRAY_BYTES)}
    if contender == "ostraca":
        return jax.block_until_ready(ostraca.jax.load(path, like=like))
    return jax.block_until_ready(ocp.StandardCheckpointer().restore(path, like))


def read(contender: str, nbytes: int, path: Path, *, cold: bool) -> float:
    import jax.numpy as jnp

    jnp.ones(8).block_until_ready()  # the device is there
    (system.evict if cold else system.warm)(path)
    seconds, _ = timed(lambda: restore(contender, path, nbytes))
    return seconds


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    result = work()
    return time.perf_counter() - begin, result


OPERATIONS: dict[str, Callable[[str, int, Path], float]] = {
    "to_host": to_host,
    "stall": stall,
    "save": save,
    "prepare": prepare,
    "cold": lambda contender, nbytes, path: read(contender, nbytes, path, cold=True),
    "warm": lambda contender, nbytes, path: read(contender, nbytes, path, cold=False),
}


def child(operation: str, contender: str, arguments: argparse.Namespace) -> None:
    if arguments.rehearse:
        from ostraca.jax import collecting

        collecting.is_staged = lambda array: True  # type: ignore[assignment]
    print(json.dumps(OPERATIONS[operation](contender, arguments.mib * MIB, arguments.dir)))


def run(operation: str, contender: str, directory: Path, arguments: argparse.Namespace) -> float:
    command = [sys.executable, __file__, "--child", operation, contender, "--dir", directory]
    command += ["--mib", str(arguments.mib), *(["--rehearse"] if arguments.rehearse else [])]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.splitlines()[-1])


def measured(directory: Path, arguments: argparse.Namespace) -> dict[tuple[str, str], list[float]]:
    found: dict[tuple[str, str], list[float]] = {}
    for contender in CONTENDERS["cold"]:
        run("prepare", contender, directory / contender, arguments)
    for _ in range(arguments.rounds):
        for operation, contenders in CONTENDERS.items():
            for contender in contenders:
                path = directory / (contender if operation in ("cold", "warm") else "scratch")
                found.setdefault((operation, contender), []).append(run(operation, contender, path, arguments))
    return found


def line(operation: str, contender: str, seconds: list[float], nbytes: int) -> str:
    unit, figures = "GB/s", [nbytes / value / 1e9 for value in seconds]
    if operation == "stall":
        unit, figures = "ms", [value * 1e3 for value in seconds]
    spread = f"{statistics.median(figures):.3g} ({min(figures):.3g} to {max(figures):.3g})"
    return f"| {operation} | {contender} | {spread} | {unit} |"


def default_device() -> tuple[str, str]:
    """Its platform and kind, asked in another process: here it would keep the device's memory."""
    ask = "import jax; device = jax.devices()[0]; print(device.platform); print(device.device_kind)"
    done = subprocess.run([sys.executable, "-c", ask], check=True, stdout=subprocess.PIPE, text=True)
    platform, kind = done.stdout.splitlines()[-2:]
    return platform, kind


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024, help="size of the state (default: 1024)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", type=Path, help="where to write (default: a temporary directory)")
    parser.add_argument("--rehearse", action="store_true", help="also where the device is a CPU")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", nargs=2, metavar=("OPERATION", "CONTENDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(*arguments.child, arguments)
        return
    platform, kind = default_device()
    if platform == "cpu" and not arguments.rehearse:
        print("JAX's default device is a CPU: there is no accelerator to measure (--rehearse runs the script on it)")
        return
    with tempfile.TemporaryDirectory(prefix="ostraca-bench-", dir=arguments.dir) as directory:
        found = measured(Path(directory), arguments)
    if arguments.json:
        figures = [{"operation": o, "contender": c, "seconds": seconds} for (o, c), seconds in found.items()]
        print(json.dumps({"platform": platform, "device": kind, "mib": arguments.mib, "figures": figures}))
        return
    print(f"{kind} ({platform}){', a rehearsal' if platform == 'cpu' else ''}; {arguments.mib} MiB of fp32\n")
    print("| | | median (min to max) | |\n|---|---|---|---|")
    for (operation, contender), seconds in found.items():
        print(line(operation, contender, seconds, arguments.mib * MIB))


if __name__ == "__main__":
    main()
