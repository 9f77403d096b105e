"""`ostraca.jax.preemption`, in real processes that get real signals. This file is also their script."""

import re
import signal
import sys
import time

import pytest

jax = pytest.importorskip("jax")

import ostraca.jax  # noqa: E402
from processes import Processes, join, leave  # noqa: E402

STEPS = 2000


def reached(output: str) -> list[str]:
    return [line.split()[1] for line in output.splitlines() if line.startswith("reached ")]


@pytest.mark.parametrize("count", [1, 2])
def test_all_reach_the_same_step(count: int) -> None:
    with Processes(__file__, count, "train", "distributed") as run:
        for process in run.all:
            process.wait_for("step 3")
        run[count - 1].send(signal.SIGTERM)
        outputs = run.wait()
    assert [process.returncode for process in run.all] == [0] * count, outputs
    steps = [reached(output) for output in outputs]
    assert all(found == steps[0] and len(found) == 1 for found in steps), outputs


def test_alone() -> None:
    with Processes(__file__, 1, "train", "alone") as run:
        run[0].wait_for("step 3")
        run[0].send(signal.SIGTERM)
        (output,) = run.wait()
    assert run[0].returncode == 0, output
    assert len(reached(output)) == 1


def test_handlers_of_others_are_called() -> None:
    with Processes(__file__, 1, "chain", "alone") as run:
        run[0].wait_for("step 3")
        run[0].send(signal.SIGTERM)
        (output,) = run.wait()
    assert "theirs" in output and len(reached(output)) == 1, output


def test_a_signal_before_the_first_step() -> None:
    with Processes(__file__, 1, "early", "alone") as run:
        (output,) = run.wait()
    assert reached(output) == ["0"], output
    assert "0 again: True, 1: False, after another signal: True" in output


def test_what_cannot_be_served() -> None:
    with Processes(__file__, 1, "thread", "alone") as run:
        (output,) = run.wait()
    assert "UnsupportedError: signals are caught in the main thread" in output
    named = re.findall(r"ostraca\.jax\.(\w+)\(", output)
    assert named and all(hasattr(ostraca.jax, name) for name in named), output
    if not hasattr(jax.config, "jax_enable_preemption_service"):  # jax 0.8 has it on always
        return
    environment = {"JAX_ENABLE_PREEMPTION_SERVICE": "false"}
    with Processes(__file__, 1, "train", "distributed", environment=environment) as run:
        assert "UnsupportedError: jax's preemption service is off: set JAX_ENABLE_PRE" in run.wait()[0]


def test_no_handler_of_ours_with_jax_distributed() -> None:
    with Processes(__file__, 1, "handler", "distributed") as run:
        assert "same handler: True" in run.wait()[0]


# --- In the processes -------------------------------------------------------------------------------------------------


def train() -> None:
    from ostraca.jax.preemption import reached_preemption

    last = STEPS
    for step in range(STEPS):
        if step > last:
            break
        if reached_preemption(step):
            print("reached", step)
            last = step + 20  # it is told once
        print("step", step)
        time.sleep(0.01)


def chain() -> None:
    signal.signal(signal.SIGTERM, lambda *_: print("theirs"))
    train()


def early() -> None:
    from ostraca.jax.preemption import install_preemption_handler, reached_preemption

    install_preemption_handler()
    signal.raise_signal(signal.SIGTERM)
    if reached_preemption(0):
        print("reached 0")
    again, after = reached_preemption(0), reached_preemption(1)
    signal.raise_signal(signal.SIGTERM)
    print(f"0 again: {again}, 1: {after}, after another signal: {reached_preemption(2)}")


def thread() -> None:
    import threading

    worker = threading.Thread(target=train)
    worker.start()
    worker.join()


def handler() -> None:
    from ostraca.jax.preemption import install_preemption_handler, reached_preemption

    before = signal.getsignal(signal.SIGTERM)
    install_preemption_handler()
    reached_preemption(0)
    print("same handler:", signal.getsignal(signal.SIGTERM) is before)


if __name__ == "__main__":
    if sys.argv[5] == "distributed":
        join(*map(int, sys.argv[1:4]))
    {"train": train, "chain": chain, "early": early, "thread": thread, "handler": handler}[sys.argv[4]]()
    leave()
