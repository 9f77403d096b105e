"""Power cuts by the file system itself: in a running workload it is told to drop what it has not written (the ioctl
FS_IOC_SHUTDOWN, without a flush of its journal). Nothing is torn then, but the saves see the disk fail under them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import struct
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from check import check
from disks import make_image, mounted
from expectation import Expectation
from replay import copy_sparse
from rounds import Plan, workload
from tally import Tally

_FS_IOC_SHUTDOWN, _NO_LOG_FLUSH = 0x8004587D, 2
SECONDS_MAX: Final = 2.0  # until the cut
OPERATIONS: Final = 1000  # more than a workload gets done until then
END_SECONDS: Final = 60.0  # by then a workload whose disk is gone has ended


def run(plan: Plan, scratch: Path) -> Tally:
    """Every round has a workload of its own."""
    rng = random.Random(f"shutdown {plan.file_system} {plan.seed}")
    tally = Tally(seeds=plan.rounds, rounds=plan.rounds)
    make_image(plan.file_system, scratch / "empty")
    for number in range(plan.rounds):
        copy_sparse(scratch / "empty", scratch / "image")
        where = f"{plan.file_system}, seed {plan.seed}, shutdown {number}"
        with mounted(plan.file_system, scratch / "image", scratch / "mount") as root:
            mine = replace(plan, seed=1000 * plan.seed + number, operations=OPERATIONS)
            promised = _cut(mine, root, scratch / "marks", rng.uniform(0.3, SECONDS_MAX), where, tally)
        expected = Expectation(promised)
        with mounted(plan.file_system, scratch / "image", scratch / "mount") as root:
            check(root, expected, tally, where)
        tally.operations += expected.operations
        tally.acknowledged += expected.acknowledged
        tally.refused += expected.refused
    return tally


def _cut(plan: Plan, root: Path, marks: Path, seconds: float, where: str, tally: Tally) -> list[list[Any]]:
    """The marks that bind: a call that was not acknowledged when the power went never is, though the process lives on
    here. (XFS then answers 0 to an fsync of a directory, and EIO to one of a file.)"""
    marks.write_bytes(b"")
    with workload(plan, marks, root, stderr=subprocess.DEVNULL) as process:
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = process.wait(seconds)
            tally.found("other", f"{where}: the workload ended before the cut, with status {status}")
        before = len(_read(marks))
        fd = os.open(root, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _FS_IOC_SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(fd)
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            tally.found("other", f"{where}: the workload goes on {END_SECONDS} s after its disk went")
    found = _read(marks)
    return found[:before] + [mark for mark in found[before:] if mark[0] == "begin"]


def _read(marks: Path) -> list[list[Any]]:
    return [json.loads(line) for line in marks.read_text().splitlines()]
