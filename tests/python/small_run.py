"""A small run, a keyframe with two deltas and a plain checkpoint, and what must be true of it whatever happens to it.

Each state is known by its step alone, so that a checkpoint is recognised under any name.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

import ostraca
from ostraca import reference

KEYFRAME, DELTA, OTHER_DELTA, PLAIN = "0", "1", "2", "9"
HOURS_AGO = 5 * 3600
_FILE = re.compile(r"(p|index|intent|manifest|tombstone)[0-9]*-([0-9a-f]{32})\.(?:ostraca|json)")
_FROZEN = np.random.default_rng(7).standard_normal(30_000).astype(np.float32)


def state(step: int) -> dict[str, np.ndarray]:
    """Leaves that all steps share, a chunk of them changed, and a pack."""
    changed = np.random.default_rng(step).standard_normal(2000).astype(np.float32)
    return {"frozen": _FROZEN, "w": np.concatenate([_FROZEN[:20_000], changed]), "small": np.arange(50) + step}


def make(run: Path) -> None:
    """Files look as if they were written hours ago."""
    ostraca.save(run / KEYFRAME, state(0), step=0)
    for name in (DELTA, OTHER_DELTA):
        ostraca.save(run / name, state(int(name)), step=int(name), base=run / KEYFRAME)
    save_plain(run / PLAIN, 9)
    age(run)


def save_plain(path: Path, step: int) -> None:
    ostraca.save(path, state(step), step=step)
    age(path)


def age(directory: Path) -> None:
    then = time.time() - HOURS_AGO
    for file in [*directory.glob("*/*"), *directory.glob("*"), directory]:
        os.utime(file, (then, then), follow_symlinks=False)


def members(manifest: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(manifest.read_text())
    return found


def committed(run: Path) -> dict[str, int]:
    """The names of the checkpoints, and their steps."""
    found = {}
    for manifest in sorted(run.glob("*/manifest.json")):
        if manifest.is_file() and not manifest.parent.is_symlink():
            step = members(manifest)["step"]
            assert isinstance(step, int)
            found[manifest.parent.name] = step
    return found


def check_loads(path: Path, step: int, thorough: bool) -> None:
    """A checkpoint is bit for bit the state of its step."""
    loads = [ostraca.load(path, threads=1)]
    if thorough:
        report = ostraca.verify(path, deep=True)
        assert report.ok, f"{path.name}: {report.damaged}"
        assert reference.verify(path) == [], path.name
        loads.append(reference.load(path))
    for found in loads:
        expected = state(step)
        assert found.keys() == expected.keys(), f"{path.name} holds {sorted(found)}"
        for name, array in expected.items():
            assert found[name].dtype == array.dtype and np.array_equal(found[name], array), f"{path.name}: {name}"


def check(run: Path, required: Iterable[frozenset[int]], thorough: bool = False) -> dict[str, int]:
    """All that is there loads, and of each set of steps one is there."""
    found = committed(run)
    for name, step in found.items():
        try:
            check_loads(run / name, step, thorough)
        except Exception as error:
            raise AssertionError(f"step {step}, at {name!r}, does not load: {type(error).__name__}: {error}") from error
    for steps in required:
        assert steps & set(found.values()), f"step {' or '.join(map(str, sorted(steps)))} is lost; found {found}"
    return found


def unnamed(run: Path) -> list[str]:
    """What no manifest names: neither files of the checkpoint that is there, nor of a removed one that is a base."""
    manifests = {m.parent.name: members(m) for m in run.glob("*/manifest.json")}
    bases = {base["id"] for m in manifests.values() if isinstance(base := m["base"], dict)}
    found = []
    for place in run.iterdir():
        if not place.is_dir() or place.is_symlink():
            found.append(place.name)
            continue
        names = sorted(file.name for file in place.iterdir())
        found += [f"{place.name}/"] if not names and place.name in (KEYFRAME, DELTA, OTHER_DELTA, PLAIN) else []
        own = manifests.get(place.name, {}).get("id")
        for name in names:
            match = _FILE.fullmatch(name)
            kind, attempt = match.groups() if match else ("", "")
            removed = attempt in bases and f"tombstone-{attempt}.json" in names and kind in ("p", "index", "tombstone")
            of_own = attempt == own and kind in ("p", "index")
            if name != "manifest.json" and not of_own and not removed:
                found.append(f"{place.name}/{name}")
    return sorted(found)
