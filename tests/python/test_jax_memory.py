"""A donating loop keeps to one state of memory at rest, though a step ends after the save that it ran beside.

Run as a script it is one measurement, in a process of its own.
"""

import functools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

MIB = 1 << 20
ARRAYS, ARRAY_BYTES = 16, 16 * MIB
SAVES = 8


def resident_bytes() -> int:
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmRSS"))


def measure(path: Path) -> list[int]:
    """Resident bytes after each save that a step outlasted; before them, after one that had no step beside it."""
    import jax
    import jax.numpy as jnp

    import ostraca.jax

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: Any) -> Any:  # longer than a save
        return jax.tree.map(lambda x: jax.lax.fori_loop(0, 100, lambda _, y: y + jnp.tanh(y), x), state)

    state = {str(i): jnp.full((ARRAY_BYTES // 4096, 1024), i, jnp.float32) for i in range(ARRAYS)}
    state = jax.block_until_ready(step(state))
    ostraca.jax.save(path / "before", state)
    found = [at_rest()]
    for number in range(SAVES):
        handle = ostraca.jax.save_async(path / str(number), state)
        state = step(state)
        handle.result()
        outlasted = not state["0"].is_ready()  # as ever, unless the disk is very slow
        jax.block_until_ready(state)
        if outlasted:
            found.append(at_rest())
    return found


def at_rest() -> int:
    from ostraca import exiting

    deadline = time.monotonic() + 30
    while exiting._running and time.monotonic() < deadline:  # memory is given back by the saves' threads
        time.sleep(0.01)
    return resident_bytes()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads resident memory from /proc")
def test_what_steps_beside_saves_free_is_given_back(tmp_path: Path) -> None:
    pytest.importorskip("jax")
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    command = [sys.executable, __file__, tmp_path]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    found = json.loads(done.stdout)
    if len(found) == 1:
        pytest.skip("no step was longer than the save beside it")
    assert max(found) - found[0] <= ARRAYS * ARRAY_BYTES // 2, [nbytes // MIB for nbytes in found]


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]))))
