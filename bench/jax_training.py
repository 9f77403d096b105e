"""What an asynchronous save costs a JAX training loop on CPU devices, beside stock Orbax in the same run.

Prints a table; run it alone on the machine:

    python bench/jax_training.py [--mib 1024] [--saves 20] [--rounds 3] [--dir DIR] [--json]

Each contender trains in processes of its own, in turns: steps that donate a state of fp32 arrays of 16 MiB, and a save
now and then, as soon as the one before is committed. Medians over saves and rounds of: `call_ms`, from the call to its
return with the state ready; `lost_ms`, from the call until the commit was seen, less the steps done meanwhile at their
usual time; `commit_ms`, the same without the subtraction. `peak_mib`: VmHWM less what was resident before the save, of
the first save, and the highest of all. `growth_mib`: the most that is resident after a save, in the second half of
them less in the first; in donating loops one more state may be freed, and not returned yet, or not. `rest_mib`: what
is resident at rest, half a second after the commit and one step more; `rest_growth_mib` and `rest_max_growth_mib`: the
median and the most of it over the last five saves, less the same over the first five.
Ostraca's checkpoint is durable when it is committed; Orbax syncs nothing.
"""

import argparse
import functools
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from resources import MIB, status_mib

ARRAY_MIB = 16
STEPS_BEFORE = 8  # that say how long a step takes
REST_SECONDS = 0.5
GROWTH_SAVES = 5
CONTENDERS = ("ostraca", "orbax")

Save = Callable[[Path, Any], Callable[[], bool]]  # returns what says whether it is committed


def ostraca_save() -> Save:
    import ostraca.jax

    def save(path: Path, state: Any) -> Callable[[], bool]:
        handle = ostraca.jax.save_async(path, state)
        return lambda: handle.done() and bool(handle.result())

    return save


def orbax_save() -> Save:
    import orbax.checkpoint as ocp

    checkpointer = ocp.StandardCheckpointer()

    def save(path: Path, state: Any) -> Callable[[], bool]:
        checkpointer.save(path, state)

        def is_committed() -> bool:
            if not path.exists():
                return False
            checkpointer.wait_until_finished()
            return True

        return is_committed

    return save


def train(contender: str, directory: Path, mib: int, saves: int) -> dict[str, list[float]]:
    """In a process of its own: the figures of each save."""
    import jax
    import jax.numpy as jnp

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: Any) -> Any:
        return jax.tree.map(lambda x: x + 1e-3 * jnp.tanh(x), state)

    @jax.jit
    def begin() -> dict[str, Any]:
        keys = jax.random.split(jax.random.key(0), mib // ARRAY_MIB)
        return {
            f"w{i}": jax.random.normal(key, (ARRAY_MIB * MIB // 4 // 1024, 1024)) * 0.02 for i, key in enumerate(keys)
        }

    def timed_step(state: Any) -> tuple[Any, float]:
        started = time.perf_counter()
        state = jax.block_until_ready(step(state))
        return state, time.perf_counter() - started

    save = {"ostraca": ostraca_save, "orbax": orbax_save}[contender]()
    state = jax.block_until_ready(begin())
    figures: dict[str, list[float]] = {
        name: [] for name in ("call_ms", "lost_ms", "commit_ms", "step_ms", "peak_mib", "rss_mib", "rest_mib")
    }
    for number in range(saves):
        usual = []
        for _ in range(STEPS_BEFORE):
            state, seconds = timed_step(state)
            usual.append(seconds)
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        before = status_mib("VmRSS")
        path = directory / str(number)
        started = time.perf_counter()
        is_committed = save(path, state)
        called = time.perf_counter()
        steps = 0
        while not is_committed():
            state, _ = timed_step(state)
            steps += 1
        ended = time.perf_counter()
        figures["call_ms"].append((called - started) * 1e3)
        figures["commit_ms"].append((ended - started) * 1e3)
        figures["lost_ms"].append((ended - started - steps * statistics.median(usual)) * 1e3)
        figures["step_ms"].append(statistics.median(usual) * 1e3)
        figures["peak_mib"].append(status_mib("VmHWM") - before)
        figures["rss_mib"].append(status_mib("VmRSS"))
        state, _ = timed_step(state)
        time.sleep(REST_SECONDS)
        figures["rest_mib"].append(status_mib("VmRSS"))
        shutil.rmtree(path)
    return figures


def growth(resident: list[float], count: int, level: Callable[[list[float]], float] = max) -> float:
    return level(resident[-count:]) - level(resident[:count])


def summary(rounds: list[dict[str, list[float]]]) -> dict[str, float]:
    # The first save of a process makes its threads and buffers, and imports what it needs.
    later = {name: [value for figures in rounds for value in figures[name][1:]] for name in rounds[0]}
    return {
        **{name: statistics.median(later[name]) for name in ("call_ms", "lost_ms", "commit_ms", "step_ms")},
        "call_ms_max": max(later["call_ms"]),
        "first_call_ms": statistics.median(figures["call_ms"][0] for figures in rounds),
        "first_peak_mib": statistics.median(figures["peak_mib"][0] for figures in rounds),
        "peak_mib": statistics.median(max(figures["peak_mib"]) for figures in rounds),
        "growth_mib": statistics.median(growth(figures["rss_mib"], len(figures["rss_mib"]) // 2) for figures in rounds),
        "rest_mib": statistics.median(later["rest_mib"]),
        "rest_growth_mib": statistics.median(
            growth(figures["rest_mib"], GROWTH_SAVES, statistics.median) for figures in rounds
        ),
        "rest_max_growth_mib": statistics.median(growth(figures["rest_mib"], GROWTH_SAVES) for figures in rounds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024, help="size of the state (default: 1024)")
    parser.add_argument("--saves", type=int, default=20, help="in each process (default: 20)")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each contender (default: 3)")
    parser.add_argument("--dir", type=Path, help="where to write (default: a temporary directory)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--train", choices=CONTENDERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        print(json.dumps(train(args.train, args.dir, args.mib, args.saves)))
        return
    directory = Path(tempfile.mkdtemp(prefix="ostraca-bench-", dir=args.dir))
    rounds: dict[str, list[dict[str, list[float]]]] = {name: [] for name in CONTENDERS}
    try:
        for _ in range(args.rounds):
            for name in CONTENDERS:
                command = [sys.executable, __file__, "--train", name, "--dir", directory]
                command += ["--mib", str(args.mib), "--saves", str(args.saves)]
                output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                rounds[name].append(json.loads(output.splitlines()[-1]))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    figures = {name: summary(found) for name, found in rounds.items()}
    if args.json:
        print(json.dumps(figures))
        return
    print(f"{'':20}" + "".join(f"{name:>12}" for name in CONTENDERS))
    for figure in figures[CONTENDERS[0]]:
        print(f"{figure:20}" + "".join(f"{figures[name][figure]:12.1f}" for name in CONTENDERS))


if __name__ == "__main__":
    main()
