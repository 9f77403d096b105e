"""What a checkpoint depends on, and what depends on it: looks at the directories beside it, and changes nothing."""

from __future__ import annotations

import os
from typing import Final, NamedTuple

from . import catalog, run_directory
from .catalog import Catalog
from .errors import OstracaError
from .reports import Manifest
from .run_directory import MANIFEST

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
    place = os.path.join(os.path.dirname(os.path.realpath(path)), directory)  # noqa: PTH118, PTH120
    status, found = _look(place, attempt)
    return BaseState(directory, attempt, place, status, found)


def deltas_of(path: str, attempt: str) -> list[str]:
    """The names of the checkpoints, and of directories to which a save runs, beside `path` whose base has this id."""
    real = os.path.realpath(path)
    try:
        run = os.open(os.path.dirname(real), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # noqa: PTH120
    except OSError:
        return []
    try:
        places = Catalog(run, os.path.dirname(real)).scan().places  # noqa: PTH120
    except OSError:
        return []
    finally:
        os.close(run)
    found = []
    for place in places:
        bases = [place.manifest.base[1]] if place.manifest and place.manifest.base else [place.refused_base]
        if attempt in bases + [intent.base_id for intent in place.intents.values()]:
            found.append(place.name)
    return found


def _look(place: str, attempt: str) -> tuple[str, Manifest | None]:
    try:
        fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return MISSING, None
    except OSError:
        return UNREADABLE, None
    try:
        for name, status in ((MANIFEST, COMMITTED), (f"tombstone-{attempt}.json", REMOVED)):
            try:
                manifest = catalog.parse(run_directory.read(fd, name))
            except FileNotFoundError:
                continue
            except (OstracaError, ValueError, OSError):
                return UNREADABLE, None
            if manifest.id == attempt:
                return status, manifest
        return MISSING, None
    finally:
        os.close(fd)
