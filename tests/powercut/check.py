"""What a run holds after a power cut, compared with what must be there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

import ostraca
from expectation import Expectation, Version
from tally import Tally
from workload import CHANGES_MAX, LATEST, RUNS, state


def same(found: Any, wanted: Any) -> bool:
    """Bit for bit."""
    if type(found) is not type(wanted):
        return False
    if isinstance(wanted, dict):
        return list(found) == list(wanted) and all(same(found[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(same, found, wanted))
    if isinstance(wanted, np.ndarray):
        return found.dtype == wanted.dtype and found.shape == wanted.shape and found.tobytes() == wanted.tobytes()
    return bool(found == wanted)


def check(root: Path, expected: Expectation, tally: Tally, where: str) -> None:
    """Loads all that is there, prunes with everything kept, loads again, and goes on saving."""
    _load_all(root, expected, tally, where)
    for run in filter(lambda run: (root / run).exists(), RUNS):
        report = ostraca.prune(root / run, keep=lambda record: True, grace_seconds=0)
        if not report.ok:
            tally.found("prune", f"{where}: the prune afterwards said: {report.errors}")
        for stray in _strays(root / run):
            tally.found("strays", f"{where}: {stray} is there after a prune, and no checkpoint names it")
    _load_all(root, expected, tally, f"{where}, after a prune")
    for run in RUNS:
        _go_on(root / run, tally, where)


def _load_all(root: Path, expected: Expectation, tally: Tally, where: str) -> None:
    for place, versions in expected:
        if None not in versions:
            tally.kept += 1
        fault = _fault(root / place, versions)
        if fault:
            tally.found("lost", f"{where}: {place} {fault}, not one of {versions}, after: {expected.story(place)}")


def _fault(path: Path, versions: set[Version | None]) -> str | None:
    try:
        found = ostraca.load(path, verify="deep", threads=1)
    except ostraca.NotFoundError as error:
        return None if None in versions else f"is gone ({error})"
    except (ostraca.OstracaError, OSError) as error:
        return f"is damaged ({error!r})"
    if any(version and same(found, state(version)) for version in versions):
        return None
    return f"holds {found.get('version')}"


def _strays(run: Path) -> list[Path]:
    """Files of dead attempts."""
    strays = []
    for place in run.iterdir():
        try:
            named = _ids(place)
        except ostraca.OstracaError:  # reported as lost; then prune removes nothing there
            continue
        for file in place.iterdir():
            found = re.fullmatch(r"(p\d+|index|intent|manifest)-([0-9a-f]{32})\..*", file.name)
            if found and (found[2] not in named or found[1] in ("intent", "manifest")):
                strays.append(file)
    return strays


def _ids(place: Path) -> set[str]:
    """Of the checkpoint there, and of removed ones that deltas still need."""
    ids = {file.name.removeprefix("tombstone-").removesuffix(".json") for file in place.glob("tombstone-*.json")}
    if (place / "manifest.json").exists():
        with ostraca.Reader(place) as reader:
            ids.add(reader.manifest().id)
    return ids


def _go_on(run: Path, tally: Tally, where: str) -> None:
    """The next save is not hindered by what the cut left."""
    version: Version = (7, CHANGES_MAX)
    try:
        ostraca.save(run / LATEST, state(version), overwrite=True, threads=1)
        if not same(ostraca.load(run / LATEST), state(version)):
            tally.found("lost", f"{where}: {run.name}/{LATEST} does not hold what was saved after the cut")
    except (ostraca.OstracaError, OSError) as error:
        tally.found("prune", f"{where}: a save after the cut failed: {error!r}")
