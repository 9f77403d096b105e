"""What the processes of test_stress.py know of a run: contents that anybody can check, who owns which names, what is to
be kept, and the ledger of what was acknowledged, which lies outside the run.

Names: savers own `s<process>-<n>`, each once; `own` and `latest` are overwritten; copies are `copy-...`, and a place is
`renamed-<process>-<its name>` for a moment. Kept is what says so in its metadata, for this epoch and the next.
"""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import ostraca

GRACE_SECONDS = 2.0  # of the prunes in between; what arrives in less than half of it must not be taken
OVERWRITTEN = ("own", "latest")
OWN_BASE = "own-base"


def state(seed: int) -> dict[str, np.ndarray]:
    frozen = np.random.default_rng(0).normal(0, 0.02, (300, 64)).astype(np.float32)
    noise = np.random.default_rng(seed).normal(0, 1e-4, frozen.shape).astype(np.float32)
    small = {f"small/{i}": np.full(100 + i, seed % 1009 + i, np.float32) for i in range(5)}
    return {"frozen": frozen, "weights": frozen + noise, "seed": np.array(seed), **small}


def seed_of(tree: dict[str, Any]) -> int:
    """The seed of a whole checkpoint's content. Raises AssertionError where it is not all of one save's."""
    seed = int(tree["seed"])
    expected = state(seed)
    found = {f"small/{name}": array for name, array in tree["small"].items()} if "small" in tree else {}
    found |= {name: array for name, array in tree.items() if name != "small"}
    assert found.keys() == expected.keys(), f"seed {seed}: arrays {sorted(found)}"
    for name, array in expected.items():
        assert found[name].tobytes() == array.tobytes(), f"{name} of seed {seed} is another's, or changed"
    return seed


def tree_of(seed: int) -> dict[str, Any]:
    """As it is saved."""
    flat = state(seed)
    return {
        "small": {name.removeprefix("small/"): flat.pop(name) for name in list(flat) if name.startswith("small/")},
        **flat,
    }


def metadata(epoch: int, keep: bool) -> dict[str, Any]:
    return {"epoch": epoch, "keep": keep}


def is_kept(said: Any, epoch: int) -> bool:
    """Whether metadata say so; those of `own` and `latest` have no end."""
    return isinstance(said, dict) and bool(said["keep"]) and said["epoch"] >= epoch - 1


def prune(run: Path, epoch: int, grace_seconds: float) -> ostraca.PruneReport:
    return ostraca.prune(run, keep=lambda record: is_kept(record.metadata, epoch), grace_seconds=grace_seconds)


class Entry(NamedTuple):
    """A save that was begun, and perhaps acknowledged."""

    name: str
    seed: int
    process: int
    epoch: int
    keep: bool
    acknowledged: bool


class Ledger:
    """An append-only file; a line is one write, so that processes do not disturb each other."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)

    def add(self, entry: Entry) -> None:
        os.write(self._fd, json.dumps(entry).encode() + b"\n")

    def entries(self) -> list[Entry]:
        return [Entry(*json.loads(line)) for line in self._path.read_text().splitlines()]


class Members(NamedTuple):
    """What a manifest says, as far as the processes go by it."""

    id: str
    base: str | None  # an id
    metadata: Any
    files: frozenset[str]


def members(path: Path, name: str = "manifest.json") -> Members | None:
    """None: there is none now, or it is being copied."""
    try:
        found = json.loads((path / name).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    files = {found["index"]["file"], *(file["file"] for file in found["files"])}
    return Members(found["id"], found["base"] and found["base"]["id"], found["metadata"], frozenset(files))


def committed(run: Path) -> dict[str, Members]:
    """The checkpoints of savers, of `own` and `latest`, now."""
    found = {}
    for child in run.iterdir():
        if child.name.startswith(("s", *OVERWRITTEN)) and (said := members(child)) is not None:
            found[child.name] = said
    return found


def unnamed(run: Path) -> list[str]:
    """Files that neither a manifest, nor a tombstone that a manifest needs, names; and places that hold nothing."""
    found: list[str] = []
    claimed = {said.base for child in run.iterdir() if (said := members(child)) is not None}
    for child in run.iterdir():
        names = {file.name for file in child.iterdir()}
        documents = {"manifest.json", *(f"tombstone-{attempt}.json" for attempt in claimed)} & names
        named = documents.union(*(said.files for name in documents if (said := members(child, name)) is not None))
        found += [f"{child.name}/{name}" for name in sorted(names - named)] or ([] if documents else [child.name])
    return found


def summary(counts: Counter[str]) -> str:
    return json.dumps(dict(sorted(counts.items())))
