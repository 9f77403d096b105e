"""Files, leases and the clock of a directory of checkpoints, for those who delete.

Nothing here removes anything but the file of its own lease. Names are those of docs/format.md, section 2.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from typing import Final

from . import _core

MANIFEST: Final = "manifest.json"
LOCK: Final = "manifest.json.lock"  # is there while somebody replaces or removes the manifest
DOCUMENT_BYTES_MAX: Final = _core.DOCUMENT_BYTES_MAX
_NO_FLOCK: Final = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EBADF, errno.ENOSYS, errno.EINVAL)
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)
_NEVER_A_FILE: Final = (errno.ENXIO, errno.ENODEV, errno.ELOOP)  # sockets, devices, links that go in circles
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# Opening a pipe, a device or a terminal by these does not wait for anybody and has no effect.
_CAUTIOUS: Final = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class Busy(Exception):
    """Somebody holds a lease; says what for."""


class NotPlainError(OSError):
    """A pipe, a device or something else that is no file stands in a file's place."""


def open_child(run: int, name: str, *, follow: bool = False) -> int:
    """A descriptor of a child directory; symbolic links are refused unless `follow`."""
    return os.open(name, _DIRECTORY | (0 if follow else os.O_NOFOLLOW), dir_fd=run)


def open_plain(fd: int, name: str) -> int:
    """A descriptor, for reading, of a file of an open directory. Raises `NotPlainError` where it is none."""
    try:
        file = os.open(name, os.O_RDONLY | _CAUTIOUS, dir_fd=fd)
    except OSError as error:
        if error.errno in _NEVER_A_FILE:
            raise NotPlainError(error.errno, "it is not a plain file", name) from None
        raise
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise NotPlainError(errno.EINVAL, "it is not a plain file", name)
    return file


def read(fd: int, name: str) -> bytes:
    """A manifest, tombstone or intent of an open directory."""
    with os.fdopen(open_plain(fd, name), "rb") as stream:
        return stream.read(DOCUMENT_BYTES_MAX + 1)


@contextlib.contextmanager
def exclusive(fd: int, name: str) -> Iterator[int]:
    """Holds the exclusive lease on a file, which readers share; gives its descriptor. Raises `Busy`."""
    while True:
        try:
            file = os.open(name, os.O_RDWR | os.O_NOFOLLOW | _CAUTIOUS, dir_fd=fd)  # NFS locks what may be written
        except PermissionError:
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | _CAUTIOUS, dir_fd=fd)
        try:
            _lock(file, "a reader has it open")
            if same_file(fd, name, file):
                yield file
                return
        finally:
            os.close(file)


@contextlib.contextmanager
def replacing(fd: int) -> Iterator[None]:
    """Holds the lease of those who replace or remove the manifest of an open directory. Raises `Busy`.

    On a full disk it holds nothing, as if the file system had no locks: what is to be removed makes room.
    """
    while True:
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | _CAUTIOUS
            file = os.open(LOCK, flags, 0o666, dir_fd=fd)
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise
            yield
            return
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise NotPlainError(errno.EINVAL, "it is not a plain file; remove it", LOCK)
            _lock(file, "it is being overwritten")
            if same_file(fd, LOCK, file):  # else its holder has removed it: the lease is on another file now
                try:
                    yield
                finally:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(LOCK, dir_fd=fd)
                return
        finally:
            os.close(file)


def _lock(file: int, holder: str) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Busy(holder) from None
    except OSError as error:
        if error.errno not in _NO_FLOCK:
            raise


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


def changed(about: os.stat_result) -> float:
    """When a file came to be as it is and where it is, in seconds by the file server's clock.

    Copying, moving and unpacking may keep the time of modification; the time of change is theirs.
    """
    return max(about.st_mtime_ns, about.st_ctime_ns) / 1e9


def server_time(run: int, *, write: bool) -> float:
    """Now, in seconds, by the clock that dates an open directory's files; without `write` perhaps this machine's."""
    try:
        fd = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=run)
    except OSError:  # many file systems have no files without names, and a full one has no more of them
        if not write:
            return time.time()
        os.utime(run)
        return os.fstat(run).st_mtime_ns / 1e9
    try:
        return os.fstat(fd).st_mtime_ns / 1e9
    finally:
        os.close(fd)
