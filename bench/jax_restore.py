"""Restoring 1 GiB to JAX devices: Ostraca beside stock Orbax, interleaved, every restore in a process of its own.

    python bench/jax_restore.py DIRECTORY [--rounds 5] [--devices 1 8]

fp32 weights in 64 arrays of 16 MiB, on simulated CPU devices, split by rows. Reports seconds, GB/s, peak memory beyond
the state, and the share of buffers that the first donated step reuses.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

ARRAYS, SHAPE = 64, (1024, 4096)
STATE_BYTES = ARRAYS * 1024 * 4096 * 4
CONTENDERS = ("ostraca", "orbax")


def child(contender: str, operation: str, directory: Path, devices: int) -> dict[str, Any]:
    import jax
    import numpy as np
    import orbax.checkpoint as ocp
    import system
    from jax.sharding import Mesh, NamedSharding
    from jax.sharding import PartitionSpec as P

    import ostraca.jax

    mesh = Mesh(np.array(jax.devices()[:devices]), ("x",))
    split = NamedSharding(mesh, P("x"))
    path = directory / f"{contender}-{devices}"
    if operation == "save":
        rng = np.random.default_rng(0)
        draw = lambda: jax.device_put(0.02 * rng.standard_normal(SHAPE, np.float32), split)  # noqa: E731
        state = {f"w{i:02}": draw() for i in range(ARRAYS)}
        if contender == "ostraca":
            ostraca.jax.save(path, state)
        else:
            with ocp.StandardCheckpointer() as checkpointer:
                checkpointer.save(path, state)
        return {}
    like = {f"w{i:02}": jax.ShapeDtypeStruct(SHAPE, np.float32, sharding=split) for i in range(ARRAYS)}
    jax.block_until_ready(jax.device_put(np.ones((8, 8), np.float32), split))
    checkpointer = ocp.StandardCheckpointer()
    (system.evict if operation == "cold" else system.warm)(path)

    def restore() -> Any:
        state = ostraca.jax.load(path, like=like) if contender == "ostraca" else checkpointer.restore(path, like)
        return jax.block_until_ready(state)

    figures, state = system.measure(restore, STATE_BYTES * 5 // 4)
    before = pointers(state)
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    reused = len(before & pointers(jax.block_until_ready(step(state)))) / len(before)
    return {**figures, "reused": reused}


def pointers(state: Any) -> set[int]:
    return {shard.data.unsafe_buffer_pointer() for array in state.values() for shard in array.addressable_shards}


def run(contender: str, operation: str, directory: Path, devices: int) -> dict[str, Any]:
    environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    command = [sys.executable, __file__, str(directory), "--child", contender, operation, str(devices)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--devices", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--child", nargs=3, metavar=("CONTENDER", "OPERATION", "DEVICES"))
    args = parser.parse_args()
    directory = args.directory.resolve()
    if args.child:
        contender, operation, devices = args.child
        print(json.dumps(child(contender, operation, directory, int(devices))))
        return
    print("| devices | | seconds (min to max) | GB/s | peak beyond the state, MiB | reused by a donating step |")
    print("|---|---|---|---|---|---|")
    for devices in args.devices:
        for contender in CONTENDERS:
            if not (directory / f"{contender}-{devices}").exists():
                run(contender, "save", directory, devices)
        found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for _ in range(args.rounds):
            for operation in ("cold", "warm"):
                for contender in CONTENDERS:
                    result = run(contender, operation, directory, devices)
                    found.setdefault((operation, contender), []).append(result)
        for (operation, contender), results in found.items():
            seconds = [result["seconds"] for result in results]
            median = statistics.median(seconds)
            peak = max(result["peak_extra_bytes"] for result in results) - STATE_BYTES
            print(
                f"| {devices} | {contender}, {operation} | {median:.2f} ({min(seconds):.2f} to {max(seconds):.2f})"
                f" | {STATE_BYTES / median / 1e9:.2f} | {peak / 2**20:.0f} | {results[0]['reused']:.0%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
