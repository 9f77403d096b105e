"""Mounts and loop devices for power cuts, which vanish with the process that made them, however it ends.

`private_mounts` gives the process a mount namespace of its own, and a loop device detaches itself with its last user:
when the namespace dies, so do its mounts, and with them the loop devices. What is left then is a scratch directory.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

WAIT_SECONDS: Final = 30.0
ENDING: Final = (signal.SIGINT, signal.SIGTERM)
INSTALL: Final = "`make powercut`, as root, installs what it takes"
LIBRARY: Final = ("-shared", "-fPIC", "-ldl")  # options of `build` for what is preloaded

# How to make a file system in an image.
MAKE: Final = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-J", "size=8", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"],
    "xfs": ["mkfs.xfs", "-q", "-f", "-K"],
}
IMAGE_BYTES: Final = 512 << 20  # XFS refuses less than 300 MB

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS, _MS_REC, _MS_PRIVATE, _PR_SET_PDEATHSIG = 0x20000, 1 << 14, 1 << 18, 1
_LOOP_CTL_GET_FREE, _LOOP_CONFIGURE, _LO_FLAGS_AUTOCLEAR = 0x4C82, 0x4C0A, 4


class Unable(Exception):
    """This machine or user cannot cut power; the text says why, and what would help."""


def require(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            raise Unable(f"there is no {program}: {INSTALL}")


def build(source: Path, out: Path, *options: str) -> None:
    require("cc")
    subprocess.run(["cc", "-O2", "-Wall", "-Wextra", source, "-o", out, *options], check=True)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def die_with_parent(number: int) -> None:
    """Sends this process the signal `number` when its parent ends."""
    _call("prctl", _PR_SET_PDEATHSIG, number)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Signals that end this process wait until what was started in this block is sure to be ended, too."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


@contextmanager
def started(command: Sequence[str | Path], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block, at the latest."""
    with ExitStack() as stack:
        with undisturbed():
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_begin_child, **options)
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield process


def _begin_child() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    die_with_parent(signal.SIGKILL)


def private_mounts() -> None:
    """Hides the mounts of this process, and of its children, from all others."""
    try:
        _call("unshare", _CLONE_NEWNS)
        _call("mount", None, b"/", None, _MS_REC | _MS_PRIVATE, None)
    except OSError as error:
        raise Unable(
            f"no mount namespace of its own ({error}): run as root, in a container with CAP_SYS_ADMIN"
        ) from None


def sync_file_system(fd: int) -> None:
    _call("syncfs", fd)


def make_image(file_system: str, image: Path) -> None:
    """An empty file system in a sparse file."""
    require(MAKE[file_system][0])
    full = image.with_suffix(".full")
    with full.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    subprocess.run([*MAKE[file_system], full], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cp", "--sparse=always", full, image], check=True)
    full.unlink()


def _loop_device(image: Path) -> tuple[int, str]:
    """An open loop device that holds the file, and its name; it detaches itself when it is closed and unmounted."""
    file = os.open(image, os.O_RDWR | os.O_CLOEXEC)
    # struct loop_config: descriptor, block size (0: 512 bytes), struct loop_info64, reserved
    configuration = struct.pack("II40x12xI160x16x64x", file, 0, _LO_FLAGS_AUTOCLEAR)
    try:
        for _ in range(100):
            name = f"/dev/loop{_free_loop_number()}"
            loop = os.open(name, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(loop, _LOOP_CONFIGURE, configuration)
                return loop, name
            except OSError as error:
                os.close(loop)
                if error.errno != errno.EBUSY:  # EBUSY: somebody else took this number first
                    raise
        raise OSError(errno.EBUSY, "all are taken")
    except OSError as error:
        raise Unable(f"no loop device of {image}: {error}") from None
    finally:
        os.close(file)


def _free_loop_number() -> int:
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        return fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
    finally:
        os.close(control)


@contextmanager
def mounted(file_system: str, image: Path, where: Path) -> Iterator[Path]:
    """Mounts the file system in `image`, which replays its journal, and yields its root."""
    where.mkdir(exist_ok=True)
    with ExitStack() as stack:
        with undisturbed():
            loop, name = _loop_device(image)
            try:
                _call("mount", name.encode(), bytes(where), file_system.encode(), 0, None)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    raise Unable(f"the kernel does not know {file_system}") from None
                raise
            finally:
                os.close(loop)
            stack.callback(_unmount, where)
        yield where


def _unmount(where: Path) -> None:
    """Retries while it is busy: whoever used it may be on the way out, and a loop device lets go of its file late.
    Nothing may be mounted there."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return _call("umount2", bytes(where), 0)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return None
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


@contextmanager
def logging_disk(program: Path, image: Path, log: Path, where: Path) -> Iterator[Path]:
    """Runs the daemon of log_device.c and yields the directory with its files, `disk` and `marks`."""
    where.mkdir()
    with ExitStack() as stack:
        stack.callback(_unmount, where)  # the daemon mounts by itself, up to its end
        daemon = stack.enter_context(started([program, where, image, log], start_new_session=True))
        deadline = time.monotonic() + WAIT_SECONDS
        while not (where / "disk").exists():
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise Unable(f"the FUSE daemon did not start (status {daemon.poll()}): is /dev/fuse usable here?")
            time.sleep(0.01)
        stack.callback(_unmount, where)
        yield where
