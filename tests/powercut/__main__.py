"""Power cuts: python tests/powercut ext4|xfs [--rounds N] [--seed N] [--control all | --shutdown]

A workload of saves, overwrites, prunes and compacts runs on a file system whose disk logs every write and flush. A
round is one power cut: the disk gets all that was flushed, and a random, torn part of what was not. It is mounted, and
every checkpoint that was acknowledged and not removed is loaded and compared; then a prune that keeps everything must
be ok, and all are loaded again.

  disks.py        mounts, loop devices, the logging disk        log_device.c    the daemon behind that
  workload.py     the process that saves                        expectation.py  what it was promised, from its marks
  replay.py       the disk after a cut                          check.py        what a run holds, against that promise
  rounds.py       one workload and its cuts                     tally.py        the counts, and the table
  shutdown.py     cuts by the file system itself                stopped.py      one that stops in the middle of a commit

With --control the syncs of the workload, or those of files or directories, do nothing (no_sync.c): then losses must be
found, else the harness is blind. With --shutdown every round is a workload whose file system stops at a random moment.
Exit status: 0 as promised; 1 losses, or with --control none; 77 this machine cannot, and why.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

import rounds
import shutdown
from disks import (
    ENDING,
    INSTALL,
    LIBRARY,
    MAKE,
    Unable,
    build,
    die_with_parent,
    logging_disk,
    make_image,
    mounted,
    private_mounts,
    require,
    undisturbed,
)
from rounds import Plan
from tally import FINDINGS_SHOWN, Tally, table

HERE: Final = Path(__file__).parent
UNABLE: Final = 77  # as automake's tests say it
ROUNDS_PER_SEED: Final = 20
OPERATIONS: Final = 40
CPUS: Final = len(os.sched_getaffinity(0))
JOB_BYTES: Final = 1 << 30  # more than the disks of one take


def main() -> int:
    arguments = _arguments()
    signal.signal(signal.SIGINT, _terminated)
    signal.signal(signal.SIGTERM, _terminated)
    with tempfile.TemporaryDirectory(prefix="powercut-", dir=arguments.scratch) as scratch:
        try:
            _build(Path(scratch))
            private_mounts()
            tally = _rounds(arguments, Path(scratch))
        except Unable as error:
            print(f"cannot cut power here: {error}")
            return UNABLE
    for finding in tally.findings[: 3 if arguments.control else FINDINGS_SHOWN]:
        print(finding)
    control = f"control, syncs do nothing: {arguments.control}" if arguments.control else ""
    print(f"{control or ('shut down' if arguments.shutdown else 'cut')}, first seed {arguments.seed}:")
    print(table(arguments.file_system, tally))
    if arguments.control:
        print("the losses were found" if tally.faults["lost"] else "no loss was found: the harness is blind")
        return 0 if tally.faults["lost"] else 1
    return 1 if tally.faults.total() else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="powercut", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file_system", choices=sorted(MAKE))
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1, help="the first; every further workload has the next one")
    parser.add_argument("--jobs", type=int, default=CPUS, help="workloads at a time")
    parser.add_argument("--scratch", type=Path, default=_memory(), help="a directory for the disks")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--control", choices=("all", "files", "directories"), help="syncs of these do nothing: must lose")
    how.add_argument("--shutdown", action="store_true", help="the file system is told to stop, no disk is cut")
    return parser.parse_args()


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    """Lets the context managers clean up, as Ctrl-C does, and a second signal does not disturb them."""
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + number)


def _memory() -> Path | None:
    """Where disks live: in memory, where there is enough; None is the usual place for temporary files."""
    memory = Path("/dev/shm")
    free = shutil.disk_usage(memory).free if os.access(memory, os.W_OK) else 0
    return memory if free > JOB_BYTES * CPUS else None


def _build(tools: Path) -> None:
    require("pkg-config")
    fuse = subprocess.run(["pkg-config", "--cflags", "--libs", "fuse3"], stdout=subprocess.PIPE, text=True)
    if fuse.returncode != 0:
        raise Unable(f"the headers of libfuse 3 are not there: {INSTALL}")
    build(HERE / "log_device.c", tools / "log_device", *fuse.stdout.split())
    build(HERE / "no_sync.c", tools / "no_sync.so", *LIBRARY)


def _rounds(arguments: argparse.Namespace, scratch: Path) -> Tally:
    plans = []
    for first in range(0, arguments.rounds, ROUNDS_PER_SEED):
        count = min(ROUNDS_PER_SEED, arguments.rounds - first)
        seed = arguments.seed + len(plans)
        plans.append(
            Plan(arguments.file_system, seed, OPERATIONS, count, scratch, arguments.control, arguments.shutdown)
        )
    _try(arguments.file_system, scratch)
    total = Tally()
    for plan, tally in _in_processes(plans, arguments.jobs):
        total.add(tally)
        print(f"seed {plan.seed}: {tally.rounds} power cuts, {tally.faults.total()} faults", file=sys.stderr)
    return total


def _in_processes(plans: list[Plan], jobs: int) -> Iterator[tuple[Plan, Tally]]:
    """Runs each plan in a process of its own, so many at a time. All have ended when this is left, however it is."""
    fork = get_context("fork")
    waiting, running = plans[::-1], {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                ours, theirs = fork.Pipe(duplex=False)
                process = fork.Process(target=_work, args=(waiting[-1], theirs))
                with undisturbed():
                    process.start()
                    running[ours] = waiting.pop(), process
                theirs.close()
            for connection in wait(list(running)):
                plan, process = running.pop(connection)
                try:
                    yield plan, connection.recv()
                except EOFError:
                    raise RuntimeError(f"seed {plan.seed}: the rounds failed, the error stands above") from None
                finally:
                    process.join()
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.join()


def _work(plan: Plan, result: Connection) -> None:
    """Ends in order when the parent says so, or is gone. Ctrl-C reaches the parent as well, which says so."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    with tempfile.TemporaryDirectory(dir=plan.tools) as scratch:
        result.send((shutdown if plan.shutdown else rounds).run(plan, Path(scratch)))


def _try(file_system: str, tools: Path) -> None:
    """Raises `Unable` when a disk that logs cannot be mounted."""
    with tempfile.TemporaryDirectory(dir=tools) as directory:
        scratch = Path(directory)
        make_image(file_system, scratch / "image")
        with (
            logging_disk(tools / "log_device", scratch / "image", scratch / "log", scratch / "device") as device,
            mounted(file_system, device / "disk", scratch / "mount"),
        ):
            pass


if __name__ == "__main__":
    sys.exit(main())
