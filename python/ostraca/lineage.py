"""What a checkpoint depends on, and what depends on it: looks at the directories beside it, and changes nothing."""

from __future__ import annotations

import os
from typing import Final, NamedTuple

from . import _core
from .catalog import Catalog, Place
from .reports import Manifest

COMMITTED: Final = "committed"
REMOVED: Final = "removed"  # by prune, which keeps its bytes for those that need them
MISSING: Final = "missing"  # nothing of this name and id is there
UNREADABLE: Final = "unreadable"


class BaseState(NamedTuple):
    """The base that a manifest names, as it is now."""

    directory: str  # a sibling's name
    id: str
    path: str
    status: str  # COMMITTED, REMOVED, MISSING or UNREADABLE
    manifest: Manifest | None  # if it could be read


def base_state(path: str, base: tuple[str, str] | None) -> BaseState | None:
    """The base, a directory and an id, of the checkpoint at `path`; None if it has none."""
    if base is None:
        return None
    directory, attempt = base
    place = os.path.join(os.path.dirname(_core.real_path(path)), directory)  # noqa: PTH118, PTH120
    return BaseState(directory, attempt, place, *status_in(Catalog(place).itself(), attempt))


def status_in(place: Place, attempt: str) -> tuple[str, Manifest | None]:
    """What a place holds of a checkpoint."""
    if place.absent:
        return MISSING, None
    if place.trouble or place.foreign:
        return UNREADABLE, None
    if place.manifest is not None and place.manifest.id == attempt:
        return COMMITTED, place.manifest
    if attempt not in place.tombstones:
        return MISSING, None
    tombstone = place.tombstones[attempt]
    if tombstone is None:
        return UNREADABLE, None
    return (REMOVED, tombstone) if tombstone.id == attempt else (MISSING, None)


def deltas_of(path: str, attempt: str) -> list[str]:
    """The names of the checkpoints, and of directories to which a save runs, beside `path` whose base has this id."""
    try:
        places = Catalog(os.path.dirname(_core.real_path(path))).scan().places  # noqa: PTH120
    except OSError:
        return []
    found = []
    for place in places:
        bases = [place.manifest.base[1]] if place.manifest and place.manifest.base else [place.refused_base]
        if attempt in bases + [intent.base_id for intent in place.intents.values()]:
            found.append(place.name)
    return found
