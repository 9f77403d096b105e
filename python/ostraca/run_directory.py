"""What lies in a directory of checkpoints, for those who delete: files by attempt, bases, leases, the server's clock.

Nothing here removes anything but `server_time`'s own file. Names are those of docs/format.md, section 2.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from . import _core
from .errors import CorruptionError, OstracaError
from .reports import Manifest

MANIFEST: Final = "manifest.json"
_FILE: Final = re.compile(
    r"(?:(p)[0-9]{5,6}|(index))-([0-9a-f]{32})\.ostraca|(intent|manifest|tombstone)-([0-9a-f]{32})\.json"
)
CLOCK: Final = re.compile(r"clock-[0-9a-f]{32}\.tmp")
_DOCUMENT_BYTES_MAX: Final = 64 << 20
_KNOWN_FEATURES: Final = 1  # incremental: what it stores, and where, is known
_NO_FLOCK: Final = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EBADF, errno.ENOSYS, errno.EINVAL, errno.EIO)
_PASSED_OVER: Final = "lost+found"  # a file system's own, which nobody but root can read
_CLOCK_STEP_SECONDS: Final = 60.0  # a process that seems to have started this much after its intent is another one
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class File(NamedTuple):
    """A plain file that belongs to an attempt."""

    name: str
    kind: str  # p, index, intent, manifest (a temporary one), tombstone
    bytes: int
    modified: float  # by the file server's clock, seconds


class Base(NamedTuple):
    """What a delta refers to."""

    directory: str
    id: str


class Claim(NamedTuple):
    """Something that needs a base, and its name for people."""

    base: Base
    by: str


@dataclass(slots=True)
class Intent:
    """A save that was begun; `base` is None also where the file cannot be read (`readable`)."""

    base: Base | None = None
    readable: bool = False
    host: str = ""
    pid: int = 0
    created: str = ""


@dataclass(slots=True)
class Place:
    """One child of the directory. `trouble` says why it cannot be known what it holds: then nothing in it may go."""

    name: str
    inode: tuple[int, int] = (0, 0)  # and device
    linked: bool = False  # a symbolic link: looked at, never touched
    attempts: dict[str, list[File]] = field(default_factory=dict)  # by id
    intents: dict[str, Intent] = field(default_factory=dict)
    manifest: Manifest | None = None
    foreign: bool = False  # its manifest.json is another program's
    trouble: str = ""


def open_child(run: int, name: str, *, follow: bool = False) -> int:
    """A descriptor of a child directory; symbolic links are refused unless `follow`."""
    return os.open(name, _DIRECTORY | (0 if follow else os.O_NOFOLLOW), dir_fd=run)


def scan(run: int) -> list[Place]:
    """All child directories, by name. Intents are read first, then manifests: a save publishes its manifest before it
    removes its intent, so that one of them is seen."""
    with os.scandir(run) as entries:
        children = sorted((e.name, e.is_symlink()) for e in entries if e.name != _PASSED_OVER and e.is_dir())
    places = [Place(name, linked=linked) for name, linked in children]
    for look in (_read_files, _read_manifest):
        for place in places:
            try:
                fd = open_child(run, place.name, follow=place.linked)
            except (FileNotFoundError, NotADirectoryError):
                continue  # removed meanwhile
            except OSError as error:
                place.trouble = error.strerror or str(error)
                continue
            try:
                look(place, fd)
            except OSError as error:
                place.trouble = f"{error.filename or place.name}: {error.strerror}"
            finally:
                os.close(fd)
    return places


def _read_files(place: Place, fd: int) -> None:
    about = os.fstat(fd)
    place.inode = about.st_dev, about.st_ino
    with os.scandir(fd) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        match = _FILE.fullmatch(name)
        if match is None:
            continue
        with contextlib.suppress(FileNotFoundError):
            about = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISREG(about.st_mode):
                kind = match[1] or match[2] or match[4]
                file = File(name, kind, about.st_size, about.st_mtime_ns / 1e9)
                place.attempts.setdefault(match[3] or match[5], []).append(file)
                if kind == "intent":
                    place.intents[match[5]] = _intent(read(fd, name))


def _intent(text: bytes) -> Intent:
    import json  # late, for the sake of import time

    try:
        base = _core.base_of(text)
        members = json.loads(text)
        host, pid, created = members["host"], int(members["pid"]), str(members["created"])
        return Intent(Base(*base) if base else None, True, host, pid, created)
    except (OstracaError, ValueError, KeyError, TypeError, RecursionError):
        return Intent()  # cut off: it is being written, or its save was killed there


def _read_manifest(place: Place, fd: int) -> None:
    try:
        text = read(fd, MANIFEST)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        place.foreign = True
        return
    try:
        place.manifest = parse(place.name, text)
    except (OstracaError, ValueError, RecursionError) as error:
        place.foreign = not place.attempts and isinstance(error, CorruptionError)
        if not place.foreign:
            place.trouble = f"its manifest cannot be used: {error}"


def parse(name: str, text: bytes) -> Manifest:
    """A verified manifest. Raises `CorruptionError`, or `FormatError` when it is not one, or of a later release."""
    base = _core.base_of(text)
    manifest = Manifest.parse(name, text.decode())
    if manifest.features & ~_KNOWN_FEATURES or bool(base) != bool(manifest.features & 1):
        raise ValueError(f"it requires features {manifest.features:016x}, which this release does not know")
    return manifest


def read(fd: int, name: str) -> bytes:
    """A small file of an open directory."""
    file = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=fd)
    with os.fdopen(file, "rb") as stream:
        return stream.read(_DOCUMENT_BYTES_MAX)


def claims(places: list[Place], now: float, grace: float) -> tuple[list[Claim], str]:
    """What live manifests and intents name as bases; and, if not everything could be read, what may name any."""
    found: list[Claim] = []
    unknown = ""
    real = {place.inode: place.name for place in places if not place.linked}
    names = {place.name: real.get(place.inode, place.name) for place in places}  # a base may be named through a link
    for place in places:
        if place.trouble:
            unknown = unknown or f"{place.name!r} may name it as its base: {place.trouble}"
        if place.manifest is not None and place.manifest.base is not None:
            directory, base_id = place.manifest.base
            found.append(Claim(Base(names.get(directory, directory), base_id), repr(place.name)))
        for attempt, intent in place.intents.items():
            if is_live(place, attempt, now, grace):
                if intent.base is not None:
                    directory, base_id = intent.base
                    found.append(Claim(Base(names.get(directory, directory), base_id), f"a save to {place.name!r}"))
                elif not intent.readable:
                    unknown = unknown or f"a save to {place.name!r} may name it as its base: its intent is not whole"
    return found, unknown


def is_live(place: Place, attempt: str, now: float, grace: float) -> str:
    """Why an attempt to save may still be going on; empty if it cannot."""
    newest = max(file.modified for file in place.attempts[attempt])
    intent = place.intents.get(attempt)
    if intent is not None and intent.host == os.uname().nodename and _runs(intent):
        return f"process {intent.pid} is saving it"
    if now - newest < grace:
        return f"a save wrote to it {max(now - newest, 0):.0f} seconds ago"
    return ""


def _runs(intent: Intent) -> bool:
    """Whether a process of this machine is the one that wrote an intent: its number may be another's by now."""
    try:
        fields = Path(f"/proc/{intent.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    if fields[0] in "ZX":
        return False
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/stat").read_text().splitlines()
        boot = next(int(line.split()[1]) for line in lines if line.startswith("btime "))
        started = boot + int(fields[19]) / os.sysconf("SC_CLK_TCK")
        created = time.strptime(intent.created, "%Y-%m-%dT%H:%M:%SZ")
        return started < _utc_seconds(created) + _CLOCK_STEP_SECONDS
    return True


def _utc_seconds(when: time.struct_time) -> float:
    import calendar

    return float(calendar.timegm(when))


class Busy(Exception):
    """Somebody holds a lease."""


@contextlib.contextmanager
def exclusive(fd: int, name: str) -> Iterator[int]:
    """Holds the exclusive lease on a file; gives its descriptor. Raises `Busy`, or FileNotFoundError."""
    while True:
        flags = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
        try:
            file = os.open(name, os.O_RDWR | flags, dir_fd=fd)  # over NFS an exclusive lock needs one that may write
        except PermissionError:
            file = os.open(name, os.O_RDONLY | flags, dir_fd=fd)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Busy from None
            except OSError as error:
                if error.errno not in _NO_FLOCK:
                    raise
            if same_file(fd, name, file):
                yield file
                return
        finally:
            os.close(file)


def same_file(fd: int, name: str, file: int) -> bool:
    """Whether `name` is the open file."""
    try:
        return os.path.samestat(os.stat(name, dir_fd=fd, follow_symlinks=False), os.fstat(file))
    except FileNotFoundError:
        return False


def sync(fd: int) -> None:
    """Makes a directory's names durable."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that has no such thing, and needs none
            raise


def server_time(run: int, *, write: bool) -> float:
    """Now, by the clock that dates the files of an open directory; without `write` and O_TMPFILE, by this machine's."""
    try:
        fd = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=run)
    except OSError:  # many file systems have no files without names
        if not write:
            return time.time()
    else:
        try:
            return os.fstat(fd).st_mtime_ns / 1e9
        finally:
            os.close(fd)
    name = f"clock-{os.urandom(16).hex()}.tmp"
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=run)
    try:
        os.utime(fd)
        return os.fstat(fd).st_mtime_ns / 1e9
    finally:
        os.close(fd)
        os.unlink(name, dir_fd=run)
