"""What lies in a directory of checkpoints: places, their files by attempt, and who has whom as a base.

Looks, and changes nothing. What is read here goes through the engine's decoding first: what readers refuse is no
checkpoint, and an id or a name that was not checked becomes part of no path.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from . import _core, noting
from ._core import MANIFEST
from .errors import CorruptionError, OstracaError
from .reports import Manifest
from .upkeep_reports import CheckpointRecord

LOCK: Final = MANIFEST + ".lock"  # is there while somebody replaces or removes the manifest
SCANS_MAX: Final = 8  # of a directory that does not hold still
PAUSE_SECONDS: Final = 0.001  # after two scans that differ, twice as long each time
_FILE: Final = re.compile(
    r"(?:(p)[0-9]{5,6}(?:-[0-9]{5})?|(index))-([0-9a-f]{32})\.ostraca|(intent|manifest|tombstone)-([0-9a-f]{32})\.json"
)
_PASSED_OVER: Final = "lost+found"  # a file system's own, which nobody but root can read


class File(NamedTuple):
    """A plain file that belongs to an attempt."""

    name: str
    kind: str  # p, index, intent, manifest (a temporary one), tombstone, notes
    bytes: int
    changed: float  # the latest of change and modification, seconds by the file server's clock


class Intent(NamedTuple):
    """A save that was begun. `readable` is False where the file is cut off, or is no intent."""

    readable: bool = False
    text: bytes | None = None
    base_id: str = ""
    created: str = ""  # UTC
    host: str = ""
    pid: int = 0
    process: str = ""  # "runs", "gone", or "unknown": of another machine


@dataclass(slots=True)
class Place:
    """One child of the directory."""

    name: str
    identity: bytes = b""  # which directory it is
    changed: float = 0.0  # the directory itself
    attempts: dict[str, list[File]] = field(default_factory=dict)  # by id
    intents: dict[str, Intent] = field(default_factory=dict)
    tombstones: dict[str, Manifest | None] = field(default_factory=dict)  # None: it cannot be read
    notes: dict[int, bytes | None] = field(default_factory=dict)  # by number; None: they cannot be read
    manifest: Manifest | None = None
    version: bytes = b""  # of the manifest's file
    links: list[str] = field(default_factory=list)  # other places that symbolic links in this one lead to
    lock: float | None = None  # when the lease's file last changed
    absent: bool = False  # there is no such directory
    foreign: bool = False  # its manifest.json is another program's
    trouble: str = ""  # why it cannot be known what it holds: then nothing in it may go
    refused_base: str = ""  # the base's id in a manifest that can be trusted for nothing else
    unknown: str = ""  # why it may have any checkpoint as its base
    _state: tuple[Any, ...] = ()

    @property
    def usable(self) -> bool:
        return not self.foreign and not self.trouble

    def facts(self, attempt: str) -> tuple[dict[str, Any], bool]:
        """What is noted about a checkpoint that is here; and whether something newer is, that cannot be read."""
        if not self.notes:
            return {}, False
        facts, unknown = _core.facts_among(list(self.notes.items()), attempt)
        return noting.decoded(facts), unknown

    def state(self) -> tuple[Any, ...]:
        """Equal for two looks between which nothing came, went or was renamed."""
        if not self._state:
            files = [(attempt, [file.name for file in some]) for attempt, some in self.attempts.items()]
            attempt = self.manifest and self.manifest.id
            self._state = self.name, self.identity, self.trouble, attempt, self.intents, files
        return self._state

    def holds(self, attempt: str) -> bool:
        """Whether this checkpoint is here, perhaps removed."""
        return attempt in self.tombstones or (self.manifest is not None and self.manifest.id == attempt)


class Link(NamedTuple):
    """A symbolic link in the directory."""

    name: str
    place: str = ""  # to which it leads, or into which; empty: out of the directory, or nowhere
    whole: str = ""  # the place, if it leads to that itself
    trouble: str = ""


@dataclass(slots=True)
class Listing:
    """What one scan saw."""

    places: list[Place]
    links: list[Link]
    elsewhere: list[Place]  # directories that links lead to, under their names: these claim bases, no more
    changed: int  # of the directory, nanoseconds, before the scan

    def state(self) -> list[Any]:
        """Equal for two scans between which nothing came, went or was renamed."""
        return [self.changed, self.links, [place.state() for place in self.places + self.elsewhere]]

    def kept_by_links(self) -> dict[str, str]:
        """The places that symbolic links lead to, and one link for each."""
        found = {place: own.name for own in self.places for place in own.links if place != own.name}
        return found | {link.place: link.name for link in self.links if link.place}


class Catalog:
    """A directory of checkpoints. Documents that did not change are read and decoded once."""

    def __init__(self, path: str) -> None:
        self.run = _core.Run(path)
        self._decoded: dict[tuple[str, bytes], _Decoded] = {}
        self._seen: dict[str, tuple[Place | None, Link | None]] = {}  # in the last scan, by name

    def settled(self) -> tuple[Listing, str]:
        """A scan during which nothing was renamed; or the last of some, and why it may have missed something."""
        before: list[Any] | None = None
        for i in range(SCANS_MAX):
            listing = self.scan()
            state = listing.state()
            if state == before:
                return listing, ""
            if before is not None:
                time.sleep(PAUSE_SECONDS * 2**i)
            before = state
        return listing, "the directory did not hold still while it was read"

    def scan(self) -> Listing:
        """All child directories, by name. Of each, intents are read first, then the manifest: a save publishes its
        manifest before it removes its intent, so that one of them is seen."""
        changed = self.run.changed_ns()
        children = self.run.scan()
        self._seen = dict(
            (child, self._seen[child]) if isinstance(child, str) else (child[0], self._child(child))
            for child in children
        )
        seen = [both for name, both in self._seen.items() if name != _PASSED_OVER]
        places = [place for place, link in seen if place and not link]
        elsewhere = [place for place, link in seen if place and link]
        return Listing(places, [link for _, link in seen if link], elsewhere, changed)

    def _child(self, child: _core.Child) -> tuple[Place | None, Link | None]:
        name, is_link, leads_to, whole, is_directory, *_, error = child
        place = self._place(child) if is_directory else None
        trouble = f"it cannot be followed: {_said(error)}" if error and not is_directory else ""
        return place, Link(name, leads_to, leads_to if whole else "", trouble) if is_link else None

    def itself(self) -> Place:
        """The directory, which may be a checkpoint."""
        return self._place(self.run.itself())

    def _place(self, child: _core.Child) -> Place:
        name, _, _, _, _, identity, changed_ns, files, links, manifest, error = child
        place = Place(name, identity, changed_ns / 1e9, links=links)
        for file in files:
            self._add(place, file)
        if manifest is not None:
            self._add_manifest(place, manifest)
        if error is not None and not place.trouble:
            place.trouble = place.unknown = _trouble(name, error)
            place.absent = not identity and isinstance(error, FileNotFoundError | NotADirectoryError)
        return place

    def _add(self, place: Place, file: _core.ScannedFile) -> None:
        name, kind, nbytes, changed_ns, *_ = file
        plain, changed = kind == "plain", changed_ns / 1e9
        if match := _FILE.fullmatch(name):
            kind, attempt = match[1] or match[2] or match[4], match[3] or match[5]
            if kind == "intent":
                place.intents[attempt] = self._decode(file, lambda text: _intent(text, attempt)).value or Intent()
            elif kind == "tombstone" and plain:
                place.tombstones[attempt] = self._decode(file, parse).value
            if plain:  # what is not is none of ours, whatever it is called
                place.attempts.setdefault(attempt, []).append(File(name, kind, nbytes, changed))
        elif name == LOCK:
            place.lock = changed if plain else None
        elif name.startswith("notes-") and (number := _core.notes_number(os.fsencode(name))):
            note = self._decode(file, _note).value
            place.notes[number] = note and note[1]
            if note:
                place.attempts.setdefault(note[0], []).append(File(name, "notes", nbytes, changed))

    def _add_manifest(self, place: Place, file: _core.ScannedFile) -> None:
        _, kind, *_, error = file
        if kind == "link" and isinstance(error, FileNotFoundError):
            place.trouble = place.unknown = f"{MANIFEST} is a symbolic link that leads nowhere"
            return
        if isinstance(error, OSError):
            return  # it is the place's trouble
        if kind == "other":
            place.foreign = not place.attempts
            if not place.foreign:
                place.trouble = place.unknown = f"{MANIFEST}: it is not a plain file"
            return
        manifest, error, text = self._decode(file, parse)
        if error is not None:
            place.foreign = not place.attempts and isinstance(error, CorruptionError)
            if not place.foreign:
                place.trouble = f"its manifest cannot be used: {error}"
                place.refused_base, place.unknown = _refused_base(text, place.trouble)
        elif kind == "link":  # to another checkpoint's, perhaps
            place.trouble = place.unknown = f"{MANIFEST} is a symbolic link"
            place.refused_base = manifest.base[1] if manifest.base else ""
        else:
            place.manifest, place.version = manifest, file[4]

    def _decode(self, file: _core.ScannedFile, decode: Callable[[bytes], Any]) -> _Decoded:
        name, _, _, _, version, contents, error = file
        if contents is None:
            return self._decoded.get((name, version), _Decoded(None, error, b""))
        try:
            decoded = _Decoded(decode(contents), None, b"")
        except (OstracaError, ValueError) as raised:
            # Its frames hold this catalog, and with it the directory open: until the collector comes.
            decoded = _Decoded(None, raised.with_traceback(None), contents)
        self._decoded[name, version] = decoded
        return decoded


class _Decoded(NamedTuple):
    """A document: what it says, or why it cannot be used, and its text then."""

    value: Any
    error: Exception | None
    text: bytes


def _said(error: Exception) -> str:
    code = error.errno if isinstance(error, OSError) else None
    return os.strerror(code) if code else str(error)


def _trouble(place: str, error: Exception) -> str:
    """Why it is not known what a place, or a file in it, holds."""
    file = os.fsdecode(error.filename) if isinstance(error, OSError) and error.filename else ""
    if file not in ("", place):
        return f"{file}: {_said(error)}"
    vanished = isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, None)
    return "it vanished while it was looked at" if vanished else _said(error)


def parse(text: bytes) -> Manifest:
    """A manifest as readers take it. Raises `CorruptionError`, or `FormatError` for one that they refuse."""
    return Manifest.parse(MANIFEST, text)


def _note(text: bytes) -> tuple[str, bytes]:
    attempt, facts = _core.note_of(text)
    noting.decoded(facts)
    return attempt, text


def _intent(text: bytes, attempt: str) -> Intent:
    own, base, created, host, pid, process = _core.intent_of(text)  # fails if it is cut off: being written, or killed
    return Intent(own == attempt, text, base[1] if base else "", created, host, pid, process)


def _refused_base(text: bytes, why: str) -> tuple[str, str]:
    """The base's id in a manifest that this release refuses; and why there may be any other."""
    try:
        base = _core.base_of(text)
    except (OstracaError, ValueError):
        return "", why
    return (base[1] if base else ""), ""


def records(places: Iterable[Place], directory: str) -> Iterator[CheckpointRecord]:
    """The checkpoints among the places of a directory."""
    for place in places:
        if (manifest := place.manifest) is not None and place.usable:
            path = os.path.join(directory, place.name)  # noqa: PTH118
            yield CheckpointRecord(
                name=place.name,
                path=path,
                id=manifest.id,
                step=manifest.info.step,
                created=manifest.created,
                created_ns=manifest.created_ns,
                parent=manifest.parent,
                base=manifest.base[0] if manifest.base else None,
                info=dataclasses.replace(manifest.info, path=path),
                metadata_json=manifest.metadata_json,
            )


class Claims(NamedTuple):
    """Who has which checkpoint as its base, by id: a name tells nothing once it was changed."""

    by_id: dict[str, str]  # in words
    unknown: str  # why others may have any checkpoint as their base; empty: there are none

    def on(self, attempt: str) -> str:
        return self.by_id.get(attempt, "")


def claims(listing: Listing, unsettled: str, now: float, grace: float) -> Claims:
    """By the seconds of the file server's clock. A save that may be running has a claim, and so has a checkpoint that
    was removed within the grace period, as it may be put back."""
    found: dict[str, str] = {}
    unknown = f"a checkpoint may have been missed: {unsettled}" if unsettled else ""
    for place in listing.places + listing.elsewhere:
        if place.unknown:
            unknown = unknown or f"{place.name!r} may name it as its base: {place.unknown}"
        bases = [place.manifest.base[1] if place.manifest and place.manifest.base else place.refused_base]
        for base_id in filter(None, bases):
            found.setdefault(base_id, f"{place.name!r} has it as its base")
        for attempt, tombstone in place.tombstones.items():
            if tombstone and tombstone.base and age(_newest(place, attempt), now) < grace:
                found.setdefault(tombstone.base[1], f"{place.name!r}, which was removed lately, has it as its base")
        for attempt, intent in place.intents.items():
            if is_live(place, attempt, now, grace):
                if not intent.readable:
                    unknown = unknown or f"a save to {place.name!r} may name it as its base: its intent is not whole"
                elif intent.base_id:
                    found.setdefault(intent.base_id, f"a save to {place.name!r} has it as its base")
    return Claims(found, unknown)


def is_live(place: Place, attempt: str, now: float, grace: float) -> str:
    """Why an attempt to save may still be going on, or be on its way here; empty if it cannot."""
    intent = place.intents.get(attempt)
    seconds = age(_newest(place, attempt), now)
    life = _core.life(intent and intent.text, seconds, grace)
    if intent is not None and life == "runs":
        return f"process {intent.pid} is saving it"
    return "" if life == "over" else f"a save wrote to it, or it came here, {seconds:.0f} seconds ago"


def age(changed: float, now: float) -> float:
    """In seconds, and never less than none: a file's time may be finer than the clock's, and a little ahead of it."""
    return max(now - changed, 0.0)


def _newest(place: Place, attempt: str) -> float:
    """When an attempt's files last changed. Where none of them tells what became of it, a file that did may have been
    renamed: then the directory counts, too."""
    files = place.attempts.get(attempt, [])
    told = any(file.kind in ("intent", "tombstone") for file in files)
    return max([file.changed for file in files] + ([] if told and files else [place.changed]))
