"""One workload on a disk that logs, and power cuts at some points of that log."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from check import check
from disks import logging_disk, make_image, mounted, started, sync_file_system
from expectation import Expectation
from replay import Disk, Log, copy_sparse
from tally import Tally

HERE: Final = Path(__file__).parent
WORKLOAD_SECONDS: Final = 240
NO_CUT: Final = "no power cut"


@dataclass(frozen=True)
class Plan:
    """What one process does: a workload, and its power cuts."""

    file_system: str
    seed: int
    operations: int
    rounds: int
    tools: Path  # where the daemon and the library are built
    control: str | None = None  # syncs of these do nothing: "all", "files", "directories"
    shutdown: bool = False  # the file system drops what is not on its disk, instead of a disk that logs


def run(plan: Plan, scratch: Path) -> Tally:
    """Leaves nothing mounted; files in `scratch` are the caller's to remove."""
    rng = random.Random(f"{plan.file_system} {plan.seed}")
    tally = Tally(seeds=1)
    empty, image = scratch / "empty", scratch / "image"
    make_image(plan.file_system, empty)
    copy_sparse(empty, image)
    name = f"{plan.file_system}, seed {plan.seed}"
    with (
        logging_disk(plan.tools / "log_device", image, scratch / "log", scratch / "device") as device,
        mounted(plan.file_system, device / "disk", scratch / "mount") as root,
    ):
        with _neighbour(root, rng), workload(plan, device / "marks", root) as process:
            status = process.wait(WORKLOAD_SECONDS)
            if status:
                raise RuntimeError(f"{name}: the workload failed with status {status}; its error stands above")
        log = Log(scratch / "log")
        whole = Expectation(log.marks_before(len(log.records)))
        check(root, whole, tally, f"{name}, {NO_CUT}")
    tally.kept = 0  # counts those of the cuts alone
    tally.operations, tally.acknowledged, tally.refused = whole.operations, whole.acknowledged, whole.refused
    disk = Disk(log, empty)
    for cut in log.cuts(plan.rounds, rng):
        survivors = disk.cut(cut, rng, scratch / "cut")
        tally.rounds += 1
        tally.pending += survivors.writes
        tally.dropped += survivors.writes - survivors.kept
        where = f"{name}, cut at {cut} of {len(log.records)}"
        try:
            with mounted(plan.file_system, scratch / "cut", scratch / "mount") as root:
                check(root, Expectation(log.marks_before(cut)), tally, where)
        except OSError as error:  # the file system does not come up, or something failed in it unexpectedly
            tally.found("other", f"{where}: {error!r}")
    return tally


@contextmanager
def workload(plan: Plan, marks: Path, root: Path, stderr: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """The running process; it ends with the block at the latest."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    if plan.control:
        environment |= {"LD_PRELOAD": str(plan.tools / "no_sync.so"), "NO_SYNC": plan.control}
    command = [sys.executable, HERE / "workload.py", marks, root, str(plan.seed), str(plan.operations)]
    with started(command, env=environment, stderr=stderr) as process:
        yield process


@contextmanager
def _neighbour(root: Path, rng: random.Random) -> Iterator[None]:
    """In every other workload, somebody else syncs at random: a file of its own, which takes names of others along but
    not their bytes, or the whole file system."""
    stop = threading.Event()
    pauses = random.Random(rng.random())

    def sync_now_and_then() -> None:
        with (root / "neighbour").open("wb", buffering=0) as file:
            while not stop.wait(pauses.uniform(0.001, 0.05)):
                file.write(b"something")
                os.fsync(file.fileno())
                if pauses.random() < 0.2:
                    sync_file_system(file.fileno())

    thread = threading.Thread(target=sync_now_and_then)
    if rng.random() < 0.5:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        if thread.ident is not None:
            thread.join()
