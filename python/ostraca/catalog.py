"""What lies in a directory of checkpoints: places, their files by attempt, and who has whom as a base.

Looks, and changes nothing. What is read here goes through the engine's decoding first: what readers refuse is no
checkpoint, and an id or a name that was not checked becomes part of no path.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from . import _core, noting, run_directory
from .errors import CorruptionError, OstracaError
from .reports import Manifest
from .run_directory import LOCK, MANIFEST
from .upkeep_reports import CheckpointRecord

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
    base_id: str = ""
    created: str = ""  # UTC
    host: str = ""
    pid: int = 0
    process: str = ""  # "runs", "gone", or "unknown": of another machine


@dataclass(slots=True)
class Place:
    """One child of the directory."""

    name: str
    inode: tuple[int, int] = (0, 0)  # and device
    changed: float = 0.0  # the directory itself
    attempts: dict[str, list[File]] = field(default_factory=dict)  # by id
    intents: dict[str, Intent] = field(default_factory=dict)
    tombstones: dict[str, Manifest | None] = field(default_factory=dict)  # None: it cannot be read
    notes: dict[int, tuple[str, dict[str, Any]] | None] = field(default_factory=dict)  # by number: about whom, and what
    manifest: Manifest | None = None
    links: list[str] = field(default_factory=list)  # other places that symbolic links in this one lead to
    lock: float | None = None  # when the lease's file last changed
    foreign: bool = False  # its manifest.json is another program's
    trouble: str = ""  # why it cannot be known what it holds: then nothing in it may go
    refused_base: str = ""  # the base's id in a manifest that can be trusted for nothing else
    unknown: str = ""  # why it may have any checkpoint as its base

    @property
    def usable(self) -> bool:
        return not self.foreign and not self.trouble

    def facts(self, attempt: str) -> tuple[dict[str, Any], bool]:
        """What is noted about a checkpoint that is here; and whether something newer is, that cannot be read."""
        unknown = False
        for number in sorted(self.notes, reverse=True):
            note = self.notes[number]
            if note is None:
                unknown = True
            elif note[0] == attempt:
                return note[1], unknown
        return {}, unknown

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
        files = [{attempt: [file.name for file in some] for attempt, some in p.attempts.items()} for p in self.places]
        places = self.places + self.elsewhere
        whole = [(p.name, p.inode, p.trouble, p.manifest and p.manifest.id, p.intents) for p in places]
        return [self.changed, self.links, whole, files]

    def kept_by_links(self) -> dict[str, str]:
        """The places that symbolic links lead to, and one link for each."""
        found = {place: own.name for own in self.places for place in own.links if place != own.name}
        return found | {link.place: link.name for link in self.links if link.place}


class Catalog:
    """An open directory of checkpoints. Documents that did not change are decoded once."""

    def __init__(self, run: int, path: str) -> None:
        self._run = run
        self._path = os.path.realpath(path)
        self._decoded: dict[tuple[Any, ...], Any] = {}

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
        """All child directories, by name. Intents are read first, then manifests: a save publishes its manifest before
        it removes its intent, so that one of them is seen."""
        about = os.fstat(self._run)
        with os.scandir(self._run) as entries:
            found = sorted((entry.name, *_kind(entry)) for entry in entries if entry.name != _PASSED_OVER)
        places = [Place(name) for name, linked, directory in found if directory and not linked]
        links = [self._link(name) for name, linked, _ in found if linked]
        elsewhere = [Place(link.name) for link in links if not link.place and self._is_directory(link.name)]
        for look in (self._read_files, self._read_manifest):
            for place in places:
                self._look(place, look)
            for place in elsewhere:
                self._look(place, look, follow=True)
        return Listing(places, links, elsewhere, about.st_mtime_ns)

    def itself(self) -> Place:
        """The directory, which may be a checkpoint."""
        place = Place(".")
        for look in (self._read_files, self._read_manifest):
            self._look(place, look)
        return place

    def facts(self, name: str, fd: int, attempt: str) -> tuple[dict[str, Any], bool]:
        """What is noted now about a checkpoint in an open child directory; see `Place.facts`."""
        place = Place(name)
        self._read_files(place, fd)
        return place.facts(attempt)

    def _is_directory(self, link: str) -> bool:
        try:
            return stat.S_ISDIR(os.stat(link, dir_fd=self._run).st_mode)
        except OSError:
            return False

    def _look(self, place: Place, look: Callable[[Place, int], None], *, follow: bool = False) -> None:
        try:
            fd = run_directory.open_child(self._run, place.name, follow=follow)
        except OSError as error:
            vanished = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
            why = "it vanished while it was looked at" if vanished else error.strerror or str(error)
            place.trouble = place.unknown = why
            return
        try:
            look(place, fd)
        except OSError as error:
            place.trouble = place.unknown = f"{error.filename or place.name}: {error.strerror}"
        finally:
            os.close(fd)

    def _link(self, name: str) -> Link:
        """Where a link, given by its path in the directory, leads to."""
        try:
            real = os.path.realpath(os.path.join(self._path, name), strict=True)  # noqa: PTH118
        except OSError as error:
            nowhere = error.errno in (errno.ENOENT, errno.ENOTDIR)
            return Link(name, trouble="" if nowhere else f"it cannot be followed: {error.strerror}")
        inside = real.startswith(self._path.rstrip("/") + "/")
        parts = os.path.relpath(real, self._path).split("/") if inside else [""]
        is_place = len(parts) == 1 and os.path.isdir(real)  # noqa: PTH112
        return Link(name, parts[0], parts[0] if is_place else "")

    def _read_files(self, place: Place, fd: int) -> None:
        about = os.fstat(fd)
        place.inode, place.changed = (about.st_dev, about.st_ino), run_directory.changed(about)
        with os.scandir(fd) as entries:
            names = sorted((entry.name, entry.is_symlink()) for entry in entries)
        for name, linked in names:
            if linked:
                if to := self._link(f"{place.name}/{name}").place:
                    place.links.append(to)
            elif name.startswith("notes-") and (number := _core.notes_number(os.fsencode(name))):
                with contextlib.suppress(FileNotFoundError):
                    self._read_notes(place, fd, name, number)
            elif (match := _FILE.fullmatch(name)) or name == LOCK:
                with contextlib.suppress(FileNotFoundError):
                    self._read_file(place, fd, name, match)

    def _read_file(self, place: Place, fd: int, name: str, match: re.Match[str] | None) -> None:
        about = os.stat(name, dir_fd=fd, follow_symlinks=False)
        plain, changed = stat.S_ISREG(about.st_mode), run_directory.changed(about)
        if match is None:
            place.lock = changed if plain else None
            return
        kind, attempt = match[1] or match[2] or match[4], match[3] or match[5]
        if kind == "intent":
            place.intents[attempt] = self._decode(fd, name, lambda text: _intent(text, attempt)) if plain else Intent()
        elif kind == "tombstone" and plain:
            place.tombstones[attempt] = self._decode(fd, name, _manifest_or_none)
        if plain:  # what is not is none of ours, whatever it is called
            place.attempts.setdefault(attempt, []).append(File(name, kind, about.st_size, changed))

    def _read_notes(self, place: Place, fd: int, name: str, number: int) -> None:
        about = os.stat(name, dir_fd=fd, follow_symlinks=False)
        plain = stat.S_ISREG(about.st_mode)
        note = place.notes[number] = self._decode(fd, name, _note_or_none) if plain else None
        if note is not None:
            file = File(name, "notes", about.st_size, run_directory.changed(about))
            place.attempts.setdefault(note[0], []).append(file)

    def _read_manifest(self, place: Place, fd: int) -> None:
        try:
            place.manifest = self._decode(fd, MANIFEST, parse)
        except FileNotFoundError:
            if is_link(fd, MANIFEST):
                place.trouble = place.unknown = f"{MANIFEST} is a symbolic link that leads nowhere"
        except run_directory.NotPlainError as error:
            place.foreign = not place.attempts
            if not place.foreign:
                place.trouble = place.unknown = f"{MANIFEST}: {error.strerror}"
        except (OstracaError, ValueError) as error:
            place.foreign = not place.attempts and isinstance(error, CorruptionError)
            if not place.foreign:
                place.trouble = f"its manifest cannot be used: {error}"
                place.refused_base, place.unknown = _refused_base(run_directory.read(fd, MANIFEST), place.trouble)
        else:
            if is_link(fd, MANIFEST):  # to another checkpoint's, perhaps
                place.trouble = place.unknown = f"{MANIFEST} is a symbolic link"
                place.refused_base = place.manifest.base[1] if place.manifest and place.manifest.base else ""
                place.manifest = None

    def _decode(self, fd: int, name: str, decode: Callable[[bytes], Any]) -> Any:
        file = run_directory.open_plain(fd, name)
        with os.fdopen(file, "rb") as stream:
            about = os.fstat(file)
            key = (name, about.st_dev, about.st_ino, about.st_mtime_ns, about.st_ctime_ns, about.st_size)
            if key not in self._decoded:
                self._decoded[key] = decode(stream.read(run_directory.DOCUMENT_BYTES_MAX + 1))
        return self._decoded[key]


def _kind(entry: os.DirEntry[str]) -> tuple[bool, bool]:
    """Whether it is a symbolic link, and whether a directory, or may be one."""
    try:
        return entry.is_symlink(), entry.is_dir(follow_symlinks=False)
    except OSError:
        return False, True


def is_link(fd: int, name: str) -> bool:
    """Whether a file of an open directory is a symbolic link."""
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def parse(text: bytes) -> Manifest:
    """A manifest as readers take it. Raises `CorruptionError`, or `FormatError` for one that they refuse."""
    return Manifest.parse(MANIFEST, text)


def _manifest_or_none(text: bytes) -> Manifest | None:
    try:
        return parse(text)
    except (OstracaError, ValueError):
        return None


def _note_or_none(text: bytes) -> tuple[str, dict[str, Any]] | None:
    try:
        attempt, facts = _core.note_of(text)
        return attempt, noting.decoded(facts)
    except (OstracaError, ValueError):
        return None


def _intent(text: bytes, attempt: str) -> Intent:
    try:
        own, base, created, host, pid, process = _core.intent_of(text)
    except (OstracaError, ValueError):
        return Intent()  # cut off: it is being written, or its save was killed there
    return Intent(own == attempt, base[1] if base else "", created, host, pid, process)


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
    if intent is not None and intent.process == "runs":
        return f"process {intent.pid} is saving it"
    seconds = age(_newest(place, attempt), now)
    return f"a save wrote to it, or it came here, {seconds:.0f} seconds ago" if seconds < grace else ""


def age(changed: float, now: float) -> float:
    """In seconds, and never less than none: a file's time may be finer than the clock's, and a little ahead of it."""
    return max(now - changed, 0.0)


def _newest(place: Place, attempt: str) -> float:
    """When an attempt's files last changed. Where none of them tells what became of it, a file that did may have been
    renamed: then the directory counts, too."""
    files = place.attempts.get(attempt, [])
    told = any(file.kind in ("intent", "tombstone") for file in files)
    return max([file.changed for file in files] + ([] if told and files else [place.changed]))
