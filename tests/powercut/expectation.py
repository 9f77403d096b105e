"""What must be there after a power cut, from the marks that the workload left in the disk's log before it.

A mark is a JSON list:
  ["begin", number, operation, {place: version}]   the operation `number` is about to be called; version null: removal;
                                                   places that it leaves as they are stand behind its name
  ["end", number, [place, ...]]                    it returned: acknowledged at these places, without effect at others
  ["void", number]                                 it was refused, without effect
A place is a checkpoint's path below the root of the disk, a version what workload.state() makes a tree of.
Calls are numbered in the order in which they were made, and overlapping saves to one place commit in that order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final

Version = tuple[int, int]
STORY_MARKS: Final = 8


class Expectation:
    """The versions that each place may hold."""

    def __init__(self, marks: Iterable[list[Any]]) -> None:
        self._history: dict[str, list[tuple[int, Version | None]]] = {}
        self.operations: Counter[str] = Counter()
        self.acknowledged = self.refused = 0  # operations
        self._marks = list(marks)
        for kind, number, *rest in self._marks:
            getattr(self, f"_{kind}")(number, *rest)

    def story(self, place: str) -> str:
        """The latest marks of operations on that place."""
        numbers = {mark[1] for mark in self._marks if mark[0] == "begin" and (place in mark[3] or place in mark[2])}
        mine = [mark[:3] if mark[0] == "begin" else mark for mark in self._marks if mark[1] in numbers]
        return "; ".join(f"{mark[1]} {mark[0]} {' '.join(map(str, mark[2:]))}" for mark in mine[-STORY_MARKS:])

    def __iter__(self) -> Iterator[tuple[str, set[Version | None]]]:
        for place, history in sorted(self._history.items()):
            yield place, {version for _, version in history}

    def _begin(self, number: int, operation: str, places: dict[str, list[int] | None]) -> None:
        self.operations[operation.split()[0]] += 1
        for place, version in places.items():
            history = self._history.setdefault(place, [(-1, None)])
            history.append((number, None if version is None else (version[0], version[1])))

    def _end(self, number: int, places: list[str]) -> None:
        self.acknowledged += 1
        for place, history in self._history.items():
            entry = next((entry for entry in history if entry[0] == number), None)
            if entry is None:
                continue
            if place not in places:
                history.remove(entry)
            elif entry[1] is not None:  # a checkpoint that was removed may come back, but only whole
                history[:] = history[history.index(entry) :]

    def _void(self, number: int) -> None:
        self.refused += 1
        for history in self._history.values():
            history[:] = [entry for entry in history if entry[0] != number]
