"""The process whose saves a power cut interrupts: python workload.py MARKS ROOT SEED OPERATIONS

It mixes saves, asynchronous and incremental ones, overwrites, prunes and compacts at random in two runs, and writes a
mark (see expectation.py) before each call and after its acknowledgement, into the log of the disk below.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

import ostraca
from expectation import Version

RUNS: Final = ("a", "deep/b")  # the first save makes the directories
NAMES: Final = tuple(f"step{i}" for i in range(7))  # few, so that names of removed checkpoints are taken again
LATEST: Final = "latest"  # overwritten again and again
CHANGES_MAX: Final = 1 << 16
# A keyframe that deltas need is not overwritten. A base may go while a save is in flight, or the keyframe of a delta
# that is to be a base may be pruned, and its name taken by another.
REFUSALS: Final = (
    ostraca.ExistsError,
    ostraca.NotFoundError,
    ostraca.MismatchError,
    ostraca.FormatError,
    ostraca.CommitUncertainError,
)


@functools.lru_cache(128)
def state(version: Version) -> dict[str, Any]:
    """The tree of a version, not to be changed. Versions with the same seed are alike: good bases for each other."""
    seed, change = version
    rng = np.random.default_rng(seed)
    rows = 5000 if seed % 50 == 0 else int(rng.choice((20, 100, 600)))  # 40 KB to 1.2 MB, or two blocks of output
    weights = rng.standard_normal((rows, 512)).astype(np.float32)
    weights[change % rows] += np.float32(change)
    return {
        "weights": weights + np.float32(1e-4) * np.float32(change % 7),
        "frozen": rng.integers(0, 1 << 20, (rows, 64)),
        "small": [np.arange(10) + change, rng.bytes(3000), None],
        "version": list(version),
    }


@dataclass(frozen=True)
class Running:
    """An asynchronous save."""

    handle: ostraca.SaveHandle
    number: int
    place: str
    version: Version
    root: str | None


class Workload:
    """Random operations below `root`, one at a time but for asynchronous saves."""

    def __init__(self, marks_fd: int, root: Path, seed: int) -> None:
        self._marks_fd, self._root, self._rng = marks_fd, root, random.Random(seed)
        self._calls = 0
        self._live: dict[str, Version] = {}
        self._roots: dict[str, str | None] = {}  # the keyframe of each live delta
        self._running: list[Running] = []

    def run(self, operations: int) -> None:
        kinds: list[tuple[int, Callable[[str], None]]] = [
            (30, self._save_new),
            (25, self._overwrite_latest),
            (15, self._overwrite_other),
            (18, self._prune),
            (12, self._compact),
        ]
        functions = [function for _, function in kinds]
        weights = [weight for weight, _ in kinds]
        for _ in range(operations):
            self._rng.choices(functions, weights)[0](self._rng.choice(RUNS))
            self._collect(everything=self._rng.random() < 0.2)
        self._collect(everything=True)

    # --- Operations on a run -----------------------------------------------------------------------------------------

    def _save_new(self, run: str) -> None:
        free = [place for name in NAMES if not self._taken(place := f"{run}/{name}")]
        if free:
            self._save(self._rng.choice(free), overwrite=False)
        else:
            self._prune(run)

    def _overwrite_latest(self, run: str) -> None:
        self._save(f"{run}/{LATEST}", overwrite=True)

    def _overwrite_other(self, run: str) -> None:
        """Plain checkpoints, deltas, and now and then a keyframe that a delta needs, which is refused."""
        places = self._places(run)
        if places:
            self._save(self._rng.choice(places), overwrite=True)

    def _prune(self, run: str) -> None:
        places = self._places(run)
        keep: Any
        if self._rng.random() < 0.4:
            self._collect(everything=True)  # a number would also remove what is committed but not acknowledged yet
            places, keep, kept = self._places(run), self._rng.randint(1, 4), []
        else:
            kept = [place for place in places if self._rng.random() < 0.7]
            keep = [Path(place).name for place in kept]
            names = {*keep, *(Path(save.place).name for save in self._running)}
            if self._running or self._rng.random() < 0.5:  # a list may name only what is there
                keep = lambda record: record.name in names  # noqa: E731
        going = [place for place in places if place not in kept and not self._in_flight(place)]
        number = self._begin("prune", dict.fromkeys(going))
        with contextlib.suppress(ostraca.NotFoundError):  # nothing was saved there yet
            ostraca.prune(self._root / run, keep=keep, grace_seconds=self._rng.choice((0, 0, 3600)))
        gone = [place for place in going if not (self._root / place / "manifest.json").exists()]
        self._mark("end", number, gone)
        for place in gone:
            del self._live[place], self._roots[place]

    def _compact(self, run: str) -> None:
        deltas = [place for place in self._places(run) if self._roots[place] is not None]
        if deltas:
            place = self._rng.choice(deltas)
            number = self._begin(f"compact {place}", {})
            try:
                ostraca.compact(self._root / place)
            except ostraca.ExistsError:
                assert self._in_flight(place), f"{place} was not overwritten meanwhile"
                self._mark("void", number)
            else:
                self._mark("end", number, [])
                self._roots[place] = None

    # --- Saves -------------------------------------------------------------------------------------------------------

    def _save(self, place: str, *, overwrite: bool) -> None:
        base = self._base_for(place)
        seed, root = (self._live[base][0], self._roots[base] or base) if base else (self._rng.randrange(1000), None)
        version = (seed, self._rng.randrange(1, CHANGES_MAX))
        asynchronous = self._rng.random() < 0.5
        kind = "overwrite" if overwrite else "incremental" if base else "async" if asynchronous else "save"
        options = {
            "step": self._calls,
            "base": self._root / base if base else None,
            "io": self._rng.choice(("auto", "buffered", "direct")),
            "overwrite": overwrite,
        }
        number = self._begin(kind, {place: version})
        path, tree = self._root / place, state(version)
        try:
            if not asynchronous:
                ostraca.save(path, tree, **options)
                self._acknowledge(number, place, version, root)
            else:
                handle = ostraca.save_async(path, tree, **options)
                self._running.append(Running(handle, number, place, version, root))
        except REFUSALS as error:
            self._refused(number, error)

    def _base_for(self, place: str) -> str | None:
        """A checkpoint beside it; not the latest, which could not be overwritten then."""
        places = [
            other for other in self._places(place.partition("/")[0]) if other != place and not other.endswith(LATEST)
        ]
        return self._rng.choice(places) if places and self._rng.random() < 0.6 else None

    def _collect(self, *, everything: bool) -> None:
        """Acknowledges the asynchronous saves that are done, in the order of their calls."""
        still = []
        for save in self._running:
            if not everything and not save.handle.done():
                still.append(save)
                continue
            try:
                save.handle.result()
                self._acknowledge(save.number, save.place, save.version, save.root)
            except REFUSALS as error:
                self._refused(save.number, error)
        self._running = still

    def _acknowledge(self, number: int, place: str, version: Version, root: str | None) -> None:
        self._mark("end", number, [place])
        self._live[place], self._roots[place] = version, root

    def _refused(self, number: int, error: ostraca.OstracaError) -> None:
        """Without effect, but for an uncertain commit, which leaves the call open for ever."""
        if not isinstance(error, ostraca.CommitUncertainError):
            self._mark("void", number)

    # --- What is there, and marks ------------------------------------------------------------------------------------

    def _places(self, run: str) -> list[str]:
        return [place for place in self._live if place.startswith(f"{run}/")]

    def _in_flight(self, place: str) -> bool:
        return any(save.place == place for save in self._running)

    def _taken(self, place: str) -> bool:
        return place in self._live or self._in_flight(place)

    def _begin(self, operation: str, places: dict[str, Version | None]) -> int:
        self._calls += 1
        self._mark("begin", self._calls, operation, places)
        return self._calls

    def _mark(self, *mark: Any) -> None:
        text = json.dumps(mark).encode() + b"\n"
        assert os.write(self._marks_fd, text) == len(text)


def main() -> None:
    marks, root, seed, operations = sys.argv[1:]
    marks_fd = os.open(marks, os.O_WRONLY | os.O_APPEND)
    Workload(marks_fd, Path(root), int(seed)).run(int(operations))
    os.close(marks_fd)


if __name__ == "__main__":
    main()
