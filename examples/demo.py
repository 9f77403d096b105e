"""Kill a training run in the middle of a save, resume it, and end where an undisturbed run ends, bit for bit.

    python examples/demo.py [--steps 60] [--save-every 10] [--keep DIRECTORY]

Runs demo_training.py (a small transformer in JAX on the Python standard library's source) as child processes: one that
nobody disturbs, and one that gets SIGKILL while the bytes of a checkpoint flow, and is then started again. Exit status
0 if both end with the same parameters, optimizer state, RNG and data position; 1 if not.
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import ostraca

KILL_ATTEMPTS: Final = 5  # the save may be faster than the signal
MB: Final = 1e6

Event = dict[str, Any]


@dataclass
class Log:
    """What the children reported."""

    step_seconds: list[float] = field(default_factory=list)
    step_seconds_while_saving: list[float] = field(default_factory=list)
    text: str = ""


@dataclass
class Kill:
    """A save that was killed."""

    trained_step: int  # the last one before the signal
    checkpoint: Path
    done_bytes: int  # of the arrays, when the child said so
    total_bytes: int
    left: list[str]  # in the checkpoint's directory


class Failure(Exception):
    """The demo did not show what it promises."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help="training steps (default: %(default)s)")
    parser.add_argument("--save-every", type=int, default=10, help="steps between checkpoints (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, metavar="DIRECTORY", help="keep the checkpoints here; must not exist")
    arguments = parser.parse_args()
    if arguments.save_every < 1 or arguments.steps <= arguments.save_every:
        parser.error("--steps must be more than --save-every, so that there is a checkpoint to resume from")
    if arguments.keep:
        arguments.keep.mkdir(parents=True)
    directory = arguments.keep or Path(tempfile.mkdtemp(prefix="ostraca-demo-"))
    started = time.monotonic()
    try:
        show(directory, arguments)
    except (Failure, ostraca.OstracaError, OSError) as error:
        print(f"\nFAILED: {error}", file=sys.stderr)
        return 1
    finally:
        if not arguments.keep:
            shutil.rmtree(directory, ignore_errors=True)
    print(f"The demo took {time.monotonic() - started:.0f} s.")
    return 0


def show(directory: Path, arguments: argparse.Namespace) -> None:
    log = Log()
    whole, broken = directory / "whole", directory / "killed"
    print(
        "A byte-level transformer learns the Python standard library's source; a checkpoint holds all of its state.\n"
    )
    print(f"{'run':10}{'step':>6}{'loss':>8}{'logical MB':>12}{'stored MB':>11}{'ratio':>7}", end="")
    print(f"{'stall ms':>10}{'seconds':>9}{'GB/s':>6}")
    expected = run_to_end("whole", whole, arguments, log)
    kill = killed_run("killed", broken, arguments, log)
    print(f"{'':10}{int(kill.checkpoint.name):6d}   SIGKILL in the middle of the save")
    resumed_step = newest_step(broken)
    found = run_to_end("resumed", broken, arguments, log)

    last = f"{arguments.steps:010d}"
    count, position = compare(whole / last, broken / last, expected["sha256"], found["sha256"])
    report = ostraca.verify(broken / last, deep=True)
    if not report.ok:
        raise Failure(f"the last checkpoint is damaged: {report.damaged}")
    print(f"""
{log.text}
Killed:    after step {kill.trained_step}, in the middle of saving checkpoint {kill.checkpoint.name}: \
{kill.done_bytes / MB:.1f} of {kill.total_bytes / MB:.1f} MB were done.
           It left {", ".join(kill.left)},
           but no manifest: nothing loads it.
Resumed:   from checkpoint {resumed_step:010d}, the newest committed one.
Compared:  {count} arrays at step {arguments.steps} (parameters, optimizer state, RNG key, data position {position}):
           all bit-identical to those of the run that was never killed, in memory and in the checkpoints.
Verified:  checkpoint {last}, deep: {report.chunks} chunks, {report.bytes / MB:.1f} MB, no damage.
Training:  {1e3 * statistics.median(log.step_seconds):.0f} ms a step; \
{1e3 * statistics.median(log.step_seconds_while_saving):.0f} ms for the step beside which a checkpoint is written.
""")


def run_to_end(name: str, directory: Path, arguments: argparse.Namespace, log: Log) -> Event:
    """Trains until the last step. Returns the child's last event."""
    with training(directory, arguments) as child:
        for event in events(name, child, log):
            if event["event"] == "ended":
                return event
    raise Failure(f"the {name} run ended early, with exit status {child.returncode}")


def killed_run(name: str, directory: Path, arguments: argparse.Namespace, log: Log) -> Kill:
    """Trains, and kills the child when bytes of the first save past half of the steps flow."""
    saves = [*range(arguments.save_every, arguments.steps, arguments.save_every), arguments.steps]
    victim = next(step for step in saves[1:] if 2 * step >= arguments.steps)
    checkpoint = directory / f"{victim:010d}"
    for _ in range(KILL_ATTEMPTS):
        trained, flowing = 0, None
        with training(directory, arguments) as child:
            for event in events(name, child, log):
                if event["event"] == "trained":
                    trained = event["step"]
                if event["event"] == "flowing" and event["step"] == victim:
                    child.kill()
                    flowing = event
                    break
        if not flowing:
            raise Failure(f"the {name} run ended before the save of step {victim}, with exit status {child.returncode}")
        if (checkpoint / "manifest.json").exists():
            print(f"{'':10}{victim:6d}   committed before the signal arrived: once more")
            shutil.rmtree(checkpoint)
            continue
        left = sorted(path.name for path in checkpoint.glob("*"))
        if not any(file.startswith("intent-") for file in left) or not any(file.startswith("p00000-") for file in left):
            raise Failure(f"expected an intent and a data file in {checkpoint}, found {left}")
        try:
            ostraca.load(checkpoint)
        except ostraca.NotFoundError:
            return Kill(trained, checkpoint, flowing["done"], flowing["total"], left)
        raise Failure(f"{checkpoint} was loaded, although its save was killed")
    raise Failure(f"in {KILL_ATTEMPTS} attempts, every save was committed before the signal arrived")


def training(directory: Path, arguments: argparse.Namespace) -> "subprocess.Popen[str]":
    program = Path(__file__).with_name("demo_training.py")
    options = {"--steps": arguments.steps, "--save-every": arguments.save_every, "--seed": arguments.seed}
    command = [sys.executable, str(program), str(directory), *(str(x) for pair in options.items() for x in pair)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})


def events(name: str, child: "subprocess.Popen[str]", log: Log) -> Iterator[Event]:
    """The child's events, of which those that belong there go to the table and the log."""
    assert child.stdout is not None
    losses: dict[int, float] = {}
    saving = compiled = False
    try:
        for line in child.stdout:
            event = json.loads(line)
            yield event
            match event["event"]:
                case "started":
                    log.text = f"Model:     {event['parameters'] / 1e6:.1f} million fp32 parameters with AdamW, "
                    log.text += f"{event['text_bytes'] / MB:.1f} MB of text."
                case "trained":
                    losses[event["step"]] = event["loss"]
                    if compiled:
                        (log.step_seconds_while_saving if saving else log.step_seconds).append(event["seconds"])
                    saving, compiled = False, True
                case "flowing":
                    saving = True
                case "committed":
                    print(row(name, event, losses[event["step"]]), flush=True)
    finally:
        child.kill()  # it has ended, or nobody listens any more


def row(name: str, event: Event, loss: float) -> str:
    logical, stored, seconds = event["logical_bytes"], event["stored_bytes"], event["seconds"]
    text = f"{name:10}{event['step']:6d}{loss:8.3f}{logical / MB:12.1f}{stored / MB:11.1f}{stored / logical:7.3f}"
    return f"{text}{1e3 * event['stall_seconds']:10.1f}{seconds:9.3f}{logical / seconds / 1e9:6.2f}"


def newest_step(directory: Path) -> int:
    return max(int(path.parent.name) for path in directory.glob("*/manifest.json"))


def compare(whole: Path, resumed: Path, expected: dict[str, str], found: dict[str, str]) -> tuple[int, int]:
    """Compares two checkpoints byte by byte, and each with the SHA-256 of the memory that it was made from.

    Returns the number of arrays and the data position.
    """
    with ostraca.open(whole) as a, ostraca.open(resumed) as b:
        if list(a) != list(b) or expected.keys() | {"position"} != set(a) or found.keys() != expected.keys():
            raise Failure(f"the two runs hold different arrays: {sorted(set(a) ^ set(b))}")
        for name in a:
            x, y = raw(a[name]), raw(b[name])
            if not np.array_equal(x, y):
                raise Failure(f"{name} differs in {np.count_nonzero(x != y)} of {x.size} bytes after the resume")
            if name != "position" and not sha256(x) == expected[name] == found[name]:
                raise Failure(f"{name} in the checkpoints differs from what was in memory")
        return len(a), a["position"].value()


def raw(array: ostraca.StoredArray) -> NDArray[np.uint8]:
    return np.frombuffer(np.asarray(array).tobytes(), np.uint8)


def sha256(data: NDArray[np.uint8]) -> str:
    return hashlib.sha256(data.tobytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
