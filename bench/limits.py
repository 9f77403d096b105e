"""What the machine itself can do: the figures that saves and loads are held against.

Each function takes a directory and a number of bytes, prepares, and returns the work to be timed. Direct requests are
4 MiB, to and from huge pages: a request made of 4 KiB pages costs the kernel far more (2.4 instead of 4.2 GB/s were
seen). Files are allocated first (fallocate is timed too), because ext4 takes one writer at a time where a file grows.
"""

import mmap
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from system import MIB, warm

REQUEST = 4 * MIB
DEPTH = 8
HUGE_PAGE = 2 * MIB
COPYING = f"""
import time, numpy
a = numpy.ones({256 * MIB}, "u1")
b = a.copy()
print(flush=True)
end = time.monotonic() + 60  # should nobody be left to stop it
while time.monotonic() < end:
    b[:] = a
"""

Work = Callable[[], object]


def direct_write(directory: Path, nbytes: int, depth: int) -> Work:
    path = directory / "limit-write.bin"
    path.unlink(missing_ok=True)
    os.sync()
    buffers = _buffers(depth)

    def work() -> None:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_DIRECT, 0o644)
        os.posix_fallocate(descriptor, 0, nbytes)

        def write(at: int) -> None:
            _exactly(os.pwrite(descriptor, buffers[at // REQUEST % depth], at))

        _on_threads(depth, write, range(0, nbytes, REQUEST))
        os.fdatasync(descriptor)
        os.close(descriptor)

    return work


def buffered_write(directory: Path, nbytes: int) -> Work:
    path = directory / "limit-write.bin"
    path.unlink(missing_ok=True)
    os.sync()
    buffers = _buffers(DEPTH)

    def work() -> None:
        with path.open("xb", buffering=0) as file:
            for at in range(0, nbytes, REQUEST):
                _exactly(file.write(buffers[at // REQUEST % DEPTH]))
            os.fsync(file.fileno())

    return work


def direct_read(directory: Path, nbytes: int, depth: int) -> Work:
    descriptor = os.open(_readable(directory, nbytes), os.O_RDONLY | os.O_DIRECT)
    buffers = _buffers(depth)

    def read(k: int) -> None:
        for at in range(k * REQUEST, nbytes, depth * REQUEST):
            _exactly(os.preadv(descriptor, [buffers[k]], at))

    return lambda: _on_threads(depth, read, range(depth))


def cache_read(directory: Path, nbytes: int, threads: int) -> Work:
    path = _readable(directory, nbytes)
    warm(path)
    descriptor = os.open(path, os.O_RDONLY)
    buffers = [bytearray(REQUEST) for _ in range(threads)]

    def read(k: int) -> None:
        for at in range(k * REQUEST, nbytes, threads * REQUEST):
            _exactly(os.preadv(descriptor, [buffers[k]], at))

    return lambda: _on_threads(threads, read, range(threads))


def memcpy(nbytes: int, threads: int, fresh: str = "") -> Work:
    """To memory that was written before; or to fresh memory, in pages that are "huge" or "small" (4 KiB)."""
    source = np.ones(nbytes, np.uint8)
    target = _fresh(nbytes, huge=fresh != "small")
    if not fresh:
        target.fill(0)
    step = -(-nbytes // threads)

    def copy(at: int) -> None:
        np.copyto(target[at : at + step], source[at : at + step])

    return lambda: _on_threads(threads, copy, range(0, nbytes, step))


def beside_memcpy(work: Work) -> Work:
    """The work, while two other processes copy memory that no cache holds: what coding leaves of the machine."""
    neighbours = [subprocess.Popen([sys.executable, "-c", COPYING], stdout=subprocess.PIPE) for _ in range(2)]
    for neighbour in neighbours:
        assert neighbour.stdout is not None
        neighbour.stdout.readline()

    def beside() -> None:
        try:
            work()
        finally:
            for neighbour in neighbours:
                neighbour.kill()

    return beside


LIMITS: dict[str, tuple[str, Callable[[Path, int], Work]]] = {
    "direct_write_8": ("O_DIRECT write + fdatasync, queue depth 8", lambda d, n: direct_write(d, n, DEPTH)),
    "direct_write_8_busy": (
        "the same beside two processes that copy memory",
        lambda d, n: beside_memcpy(direct_write(d, n, DEPTH)),
    ),
    "direct_write_1": ("O_DIRECT write + fdatasync, one thread", lambda d, n: direct_write(d, n, 1)),
    "buffered_write": ("buffered write + fsync", buffered_write),
    "direct_read_8": ("O_DIRECT read, queue depth 8", lambda d, n: direct_read(d, n, DEPTH)),
    "direct_read_8_busy": (
        "the same beside two processes that copy memory",
        lambda d, n: beside_memcpy(direct_read(d, n, DEPTH)),
    ),
    "direct_read_1": ("O_DIRECT read, one thread", lambda d, n: direct_read(d, n, 1)),
    "cache_read_1": ("page-cache read, one thread", lambda d, n: cache_read(d, n, 1)),
    "cache_read_2": ("page-cache read, two threads", lambda d, n: cache_read(d, n, 2)),
    "memcpy_1": ("memcpy to warm memory, one thread", lambda d, n: memcpy(n, 1)),
    "memcpy_2": ("memcpy to warm memory, two threads", lambda d, n: memcpy(n, 2)),
    "memcpy_fresh_small_1": ("memcpy to fresh 4 KiB pages, one thread", lambda d, n: memcpy(n, 1, "small")),
    "memcpy_fresh_1": ("memcpy to fresh huge pages, one thread", lambda d, n: memcpy(n, 1, "huge")),
    "memcpy_fresh_2": ("memcpy to fresh huge pages, two threads", lambda d, n: memcpy(n, 2, "huge")),
}


def _on_threads(count: int, work: Callable[[int], None], items: range) -> None:
    if count == 1:
        for item in items:
            work(item)
        return
    with ThreadPoolExecutor(count) as pool:
        for _ in pool.map(work, items):
            pass


def _exactly(count: int | None) -> None:
    if count != REQUEST:
        raise OSError(f"a request of {REQUEST} bytes moved {count}")


def _buffers(count: int) -> list[memoryview]:
    """Of REQUEST random bytes each, in huge pages."""
    memory = _fresh((count + 1) * REQUEST, huge=True)
    first = -memory.ctypes.data % HUGE_PAGE
    memory[:] = np.frombuffer(os.urandom(len(memory)), np.uint8)
    return [memory[first + k * REQUEST : first + (k + 1) * REQUEST].data for k in range(count)]


def _readable(directory: Path, nbytes: int) -> Path:
    path = directory / "limit-read.bin"
    if not path.exists() or path.stat().st_size != nbytes:
        path.unlink(missing_ok=True)
        direct_write(directory, nbytes, DEPTH)()
        (directory / "limit-write.bin").rename(path)
    return path


def _fresh(nbytes: int, *, huge: bool) -> NDArray[np.uint8]:
    mapping = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    mapping.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(mapping, dtype=np.uint8)
