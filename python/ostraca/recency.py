"""Which checkpoint of a directory is the newest: the one answer, for whoever asks."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .upkeep_reports import CheckpointRecord


def newest(records: Iterable[CheckpointRecord]) -> list[CheckpointRecord]:
    """Checkpoints of one directory in the order in which they were saved, the last one first.

    A checkpoint is newer than its parent whatever their clocks said; beyond that the time of creation decides, then the
    step (none is the oldest), then the name. So a run that was restarted at an earlier step, or branched, has its last
    save first.
    """
    found = list(records)
    by_id = {record.id: record for record in found}
    times: dict[str, int] = {}  # of creation, nanoseconds, but later than that of any ancestor
    for record in found:
        line: dict[str, CheckpointRecord] = {}  # up to an ancestor whose time is known
        at: CheckpointRecord | None = record
        while at is not None and at.id not in times and at.id not in line:
            line[at.id] = at
            at = by_id.get(at.parent or "")
        least = times[at.id] + 1 if at is not None and at.id in times else 0
        for one in reversed(line.values()):
            times[one.id] = max(one.created_ns, least)
            least = times[one.id] + 1
    return sorted(found, key=lambda r: (times[r.id], r.step is not None, r.step or 0, r.name), reverse=True)


def disagreements(records: list[CheckpointRecord]) -> list[str]:
    """In words, where the order of `newest` is not that of steps."""
    return [
        f"{new.name!r} of step {new.step} was saved after {old.name!r} of step {old.step}: it counts as the newer one"
        for new, old in pairwise(record for record in records if record.step is not None)
        if (new.step or 0) < (old.step or 0)
    ]
