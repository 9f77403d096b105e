"""What the rounds found, and the table of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

OPERATIONS: Final = ("save", "async", "incremental", "overwrite", "prune", "compact")
FINDINGS_SHOWN: Final = 20
FINDINGS_PER_WORKLOAD: Final = 3  # the others mostly say the same of later cuts


@dataclass
class Tally:
    """Counts of some rounds on one file system."""

    seeds: int = 0
    rounds: int = 0
    operations: Counter[str] = field(default_factory=Counter)  # called, by kind
    acknowledged: int = 0  # of them
    refused: int = 0  # of them: to replace a keyframe that deltas need, or with a base that was pruned meanwhile
    pending: int = 0  # writes that were not flushed when the power went
    dropped: int = 0  # of them, in whole or in part
    kept: int = 0  # checkpoints that had to be there, each looked at before and after a prune in every round
    faults: Counter[str] = field(default_factory=Counter)  # "lost", "prune", "strays", "other"
    findings: list[str] = field(default_factory=list)

    def found(self, kind: str, text: str) -> None:
        self.faults[kind] += 1
        self.findings.append(f"{kind}: {text}")

    def add(self, other: Tally) -> None:
        for name in ("seeds", "rounds", "acknowledged", "refused", "pending", "dropped", "kept"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.operations += other.operations
        self.faults += other.faults
        self.findings += other.findings[:FINDINGS_PER_WORKLOAD]


def table(file_system: str, tally: Tally) -> str:
    """Two tables in Markdown, for docs/log/."""
    operations = {kind: tally.operations[kind] for kind in OPERATIONS}
    operations |= {"acknowledged": tally.acknowledged, "refused": tally.refused}
    lost = tally.faults["lost"]
    rounds = {
        "workloads": tally.seeds,
        "power cuts": tally.rounds,
        "writes pending": tally.pending,
        "of them lost": tally.dropped,
        "kept, looked at": tally.kept,
        "lost": lost,
        "other faults": tally.faults.total() - lost,
    }
    return f"{_table(file_system, operations)}\n\n{_table(file_system, rounds)}"


def _table(file_system: str, counts: dict[str, int]) -> str:
    rows = (["file system", *counts], ["---"] * (1 + len(counts)), [file_system, *(f"{n:,}" for n in counts.values())])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
