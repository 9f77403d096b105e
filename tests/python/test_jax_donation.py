"""Restored state is as good as fresh state: the first step that donates it reuses its memory.

Run as a script it is one measurement, in a process of its own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MIB = 1 << 20
STATE_BYTES = 256 * MIB


def status_bytes(field: str) -> int:
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith(field))


def measure(origin: str, path: str, devices: int) -> dict[str, Any]:
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding
    from jax.sharding import PartitionSpec as P

    import ostraca.jax

    mesh = Mesh(np.array(jax.devices()[:devices]), ("x",))
    split, whole = NamedSharding(mesh, P("x")), NamedSharding(mesh, P())
    rows = STATE_BYTES // 4 // 4096 // 16
    like = {f"w{i:02}": jax.ShapeDtypeStruct((rows, 4096), np.float32, sharding=split) for i in range(16)}
    like["small"] = jax.ShapeDtypeStruct((4096,), np.float32, sharding=whole)
    like["step"] = jax.ShapeDtypeStruct((), np.int32, sharding=whole)
    ones = jax.jit(
        lambda: jax.tree.map(lambda leaf: jax.numpy.ones(leaf.shape, leaf.dtype), like),
        out_shardings=jax.tree.map(lambda leaf: leaf.sharding, like),
    )
    if origin == "make":
        ostraca.save(path, jax.tree.map(np.asarray, ones()))
        return {}
    step = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0).lower(like).compile()
    state = ones() if origin == "fresh" else ostraca.jax.load(path, like=like)
    before = pointers(jax.block_until_ready(state))
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    resident = status_bytes("VmRSS")
    state = jax.block_until_ready(step(state))
    peak = status_bytes("VmHWM") - resident
    after = pointers(state)
    assert float(state["w00"][0, 0]) == 2
    return {"reused": len(before & after) / len(before), "peak_extra_bytes": peak}


def pointers(state: Any) -> set[int]:
    import jax

    return {shard.data.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state) for shard in leaf.addressable_shards}


@pytest.mark.parametrize("devices", [1, 8])
def test_the_first_donated_step(tmp_path: Path, devices: int) -> None:
    jax = pytest.importorskip("jax")
    if jax.default_backend() != "cpu" or not sys.platform.startswith("linux"):
        pytest.skip("compares addresses and resident memory of the host")

    def run(origin: str) -> Any:
        command = [sys.executable, __file__, origin, str(tmp_path / "c"), str(devices)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=dict(os.environ))
        return json.loads(done.stdout)

    run("make")
    fresh, restored = run("fresh"), run("restored")
    assert fresh["reused"] == 1
    assert restored["reused"] >= 0.95
    assert restored["peak_extra_bytes"] <= fresh["peak_extra_bytes"] + 16 * MIB


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
