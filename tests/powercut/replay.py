"""The log of log_device.c, and the disk as a power cut at one of its records leaves it.

What a disk promises: a write that was done before a flush was asked for is there once the flush is done. So all writes
before the last flush are on the disk, and of those after it any sectors, in any order.
"""

from __future__ import annotations

import json
import os
import random
import struct
from bisect import bisect_left
from pathlib import Path
from typing import Any, Final, NamedTuple

WRITE: Final = 1
FLUSH: Final = 2
MARK: Final = 3
SECTOR_BYTES: Final = 512  # what a disk writes whole; the logical block size of the loop devices
_HEAD: Final = struct.Struct("=QQQ")


class Record(NamedTuple):
    kind: int
    offset: int  # on the disk
    data: memoryview


class Log:
    """The records, in order."""

    def __init__(self, file: Path) -> None:
        raw = memoryview(file.read_bytes())
        self.records: list[Record] = []
        at = 0
        while at < len(raw):
            kind, offset, nbytes = _HEAD.unpack_from(raw, at)
            at += _HEAD.size
            self.records.append(Record(kind, offset, raw[at : at + nbytes]))
            at += nbytes
        self.flushes = self._indices(FLUSH)
        self._mark_indices = self._indices(MARK)
        self._marks = [json.loads(bytes(self.records[i].data)) for i in self._mark_indices]

    def _indices(self, kind: int) -> list[int]:
        return [i for i, record in enumerate(self.records) if record.kind == kind]

    def marks_before(self, index: int) -> list[list[Any]]:
        return self._marks[: bisect_left(self._mark_indices, index)]

    def cuts(self, count: int, rng: random.Random) -> list[int]:
        """Where to cut, ascending: just after an acknowledgement, which then is worth most; just before a flush, when
        most writes are pending; and anywhere. A cut comes before the record with that index.
        """
        first, last = self._mark_indices[0] + 1, self._mark_indices[-1] + 1
        ends = [i + 1 for i, mark in zip(self._mark_indices, self._marks, strict=True) if mark[0] == "end"]
        flushes = [i for i in self.flushes if first < i < last] or ends  # the control may have none
        return sorted(
            rng.choice((rng.choice(ends), rng.choice(flushes), rng.randint(first, last))) for _ in range(count)
        )


class Survivors(NamedTuple):
    """Which of the writes since the last flush are on the disk after a cut."""

    writes: int
    kept: int  # whole
    torn: int  # in part


class Disk:
    """The disk of a log, cut at ascending points. `image`, the disk before the first record, is changed."""

    def __init__(self, log: Log, image: Path) -> None:
        self._log, self._image, self._applied = log, image, 0

    def cut(self, index: int, rng: random.Random, out: Path) -> Survivors:
        """Writes to `out` what a power cut before the record with this index leaves."""
        flushed = bisect_left(self._log.flushes, index)
        if flushed:
            self._advance(self._log.flushes[flushed - 1])
        copy_sparse(self._image, out)
        pending = [record for record in self._log.records[self._applied : index] if record.kind == WRITE]
        with out.open("r+b", buffering=0) as file:
            return _apply_some(file.fileno(), pending, rng)

    def _advance(self, flush: int) -> None:
        """Makes durable what was written before that flush."""
        with self._image.open("r+b", buffering=0) as file:
            for record in self._log.records[self._applied : flush]:
                if record.kind == WRITE:
                    os.pwrite(file.fileno(), record.data, record.offset)
        self._applied = max(self._applied, flush)


def _apply_some(fd: int, pending: list[Record], rng: random.Random) -> Survivors:
    """A random way to lose writes: all of them, none, those after a moment, or each with some chance."""
    how = rng.choice(("none", "all", "first", "each", "each", "each"))
    until = rng.randint(0, len(pending))
    chance = {"none": 0.0, "all": 1.0, "first": 1.0, "each": rng.choice((0.1, 0.5, 0.9))}[how]
    kept = torn = 0
    for i, record in enumerate(pending):
        if how == "first" and i > until:
            break
        if (how == "first" and i == until) or (how == "each" and rng.random() < 0.2):
            torn += 1
            for start in range(0, len(record.data), SECTOR_BYTES):
                if rng.random() < 0.5:
                    os.pwrite(fd, record.data[start : start + SECTOR_BYTES], record.offset + start)
        elif rng.random() < chance:
            kept += 1
            os.pwrite(fd, record.data, record.offset)
    return Survivors(len(pending), kept, torn)


def copy_sparse(source: Path, target: Path) -> None:
    """Copies a file and its holes; what was in `target` is gone."""
    with source.open("rb", buffering=0) as read, target.open("wb", buffering=0) as write:
        size = os.fstat(read.fileno()).st_size
        os.ftruncate(write.fileno(), size)
        at = 0
        while at < size:
            try:
                start = os.lseek(read.fileno(), at, os.SEEK_DATA)
            except OSError:  # ENXIO: only a hole is left
                break
            at = os.lseek(read.fileno(), start, os.SEEK_HOLE)
            os.lseek(write.fileno(), start, os.SEEK_SET)
            while start < at:
                start += os.sendfile(write.fileno(), read.fileno(), start, at - start)
