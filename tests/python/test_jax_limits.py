"""How long processes wait for each other: for one that is slow, for one that is busy elsewhere, for one that is dead.

Real processes of a jax program. This file is also their script.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import ostraca
from processes import WAIT_SECONDS, Processes, join, leave

pytest.importorskip("jax")

STRESS = os.environ.get("OSTRACA_STRESS", "") not in ("", "0")
SLACK = 5.0  # that a busy machine may take longer
COMMIT_SECONDS, COMMIT_TIMEOUT = 8.0, 5.0
DEAD_SECONDS, IDLE_SECONDS = 4.0, 0.5  # in place of 60 and 10
BUSY_SECONDS = 2 * DEAD_SECONDS
TIMEOUT = 3.0


def said(output: str, what: str) -> tuple[str, float]:
    (line,) = [line for line in output.splitlines() if line.startswith(what + ": ")]
    text, _, seconds = line.removeprefix(what + ": ").rpartition(" after ")
    return text, float(seconds)


def test_a_slow_commit_succeeds_everywhere(tmp_path: Path) -> None:
    with Processes(__file__, 3, "slow", tmp_path) as run:
        outputs = run.wait(2 * WAIT_SECONDS)
    for output in outputs:
        text, seconds = said(output, "slow")
        assert text == "committed", text
        assert seconds >= COMMIT_SECONDS
    assert ostraca.verify(tmp_path / "slow", deep=True).ok


def test_the_environment_says_how_long_to_wait(tmp_path: Path) -> None:
    with Processes(__file__, 2, "alone", tmp_path, environment={"OSTRACA_TIMEOUT": str(TIMEOUT)}) as run:
        text, seconds = said(run.wait(2 * WAIT_SECONDS)[0], "alone")
    assert text.startswith("CoordinationError") and "process 1 (it has not come to this call" in text, text
    assert TIMEOUT <= seconds < TIMEOUT + SLACK


def test_a_process_that_is_busy_elsewhere_is_not_dead(tmp_path: Path) -> None:
    with Processes(__file__, 2, "busy", tmp_path) as run:
        outputs = run.wait(2 * WAIT_SECONDS)
    assert said(outputs[0], "second")[1] >= BUSY_SECONDS - 1
    assert [said(output, "second")[0] for output in outputs] == ["committed"] * 2, outputs


@pytest.mark.skipif(not STRESS, reason="takes more than a minute; OSTRACA_STRESS=1 runs it")
def test_a_process_that_is_busy_for_more_than_a_minute(tmp_path: Path) -> None:
    with Processes(__file__, 2, "busy", tmp_path, "as it is") as run:
        outputs = run.wait(4 * WAIT_SECONDS)
    assert [said(output, "second")[0] for output in outputs] == ["committed"] * 2, outputs


def test_a_process_that_is_stopped_between_calls_is_dead(tmp_path: Path) -> None:
    """Which the others need not wait for as long as for one that lives."""
    with Processes(__file__, 2, "stopped", tmp_path) as run:
        run[0].wait_for("second: ")
        run[1].send(signal.SIGCONT)
        text, seconds = said(run.wait(2 * WAIT_SECONDS)[0], "second")
    assert text.startswith("CoordinationError"), text
    assert f"process 1 (it died or hangs: no sign of life for {DEAD_SECONDS:g} s)" in text, text
    assert seconds < DEAD_SECONDS + SLACK


def test_a_process_that_has_ended_is_not_waited_for(tmp_path: Path) -> None:
    with Processes(__file__, 2, "ended", tmp_path) as run:
        text, seconds = said(run.wait(2 * WAIT_SECONDS)[0], "second")
    assert "process 1 (it has ended)" in text, text
    assert seconds < SLACK


# --- In the processes -------------------------------------------------------------------------------------------------


def save(path: Path, **options: float) -> None:
    import jax

    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("x",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    shape = (len(jax.devices()), 8)
    rows = jax.make_array_from_callback(shape, sharding, lambda _: np.ones((1, 8), np.float32))
    ostraca.jax.save(path, {"w": rows}, **options)


def attempt(what: str, work: Callable[[], object]) -> None:
    started = time.monotonic()
    try:
        work()
        text = "committed"
    except ostraca.OstracaError as error:
        text = f"{type(error).__name__}: {error}"
    print(f"{what}: {text} after {time.monotonic() - started:.3f}", flush=True)


def slow(index: int, path: Path) -> None:
    from ostraca import _core

    commit = _core.commit

    def slowly(*arguments: object, **options: object) -> str:
        time.sleep(COMMIT_SECONDS)
        return commit(*arguments, **options)  # type: ignore[arg-type]

    _core.commit = slowly  # type: ignore[assignment]
    attempt("slow", lambda: save(path / "slow", timeout=COMMIT_TIMEOUT))


def alone(index: int, path: Path) -> None:
    if index == 0:
        attempt("alone", lambda: save(path / "alone"))
        (path / "said").touch()
    while not (path / "said").exists():
        time.sleep(0.05)


def between_saves(path: Path, work: Callable[[], object], *, limits: bool = True) -> None:
    """A process does something else between two saves."""
    if limits:
        from ostraca.sharded import pulse

        pulse.DEAD_SECONDS, pulse.IDLE_SECONDS = DEAD_SECONDS, IDLE_SECONDS  # type: ignore[misc]
    save(path / "first")
    work()
    attempt("second", lambda: save(path / "second"))


def busy(index: int, path: Path, *as_it_is: str) -> None:
    seconds = 70.0 if as_it_is else BUSY_SECONDS
    between_saves(path, lambda: index == 1 and time.sleep(seconds), limits=not as_it_is)


def stopped(index: int, path: Path) -> None:
    between_saves(path, lambda: index == 1 and os.kill(os.getpid(), signal.SIGSTOP))


def ended(index: int, path: Path) -> None:
    if index == 1:
        save(path / "first")
        ostraca.jax.service._leave()
        time.sleep(2)
    else:
        between_saves(path, bool)


def main() -> None:
    import jax

    import ostraca.jax  # noqa: F401

    index, count, port = map(int, sys.argv[1:4])
    join(index, count, port)
    jax.devices()  # which are there when all processes have asked for them
    roles = {"slow": slow, "alone": alone, "busy": busy, "stopped": stopped, "ended": ended}
    roles[sys.argv[4]](index, Path(sys.argv[5]), *sys.argv[6:])
    if index == 0:  # with it the service ends, and what the others are about to say
        time.sleep(1)
    leave()


if __name__ == "__main__":
    main()
