"""What a measurement needs of the operating system (Linux): the page cache, peak memory, and what machine this is."""

import ctypes
import importlib.metadata
import mmap
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MIB = 2**20
GIB = 2**30
PACKAGES = (
    "numpy",
    "ml_dtypes",
    "safetensors",
    "torch",
    "jax",
    "orbax-checkpoint",
    "tensorstore",
    "tensorflow-cpu",
    "zipnn",
)

_libc = ctypes.CDLL(None, use_errno=True)


def files_under(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())


def stored_bytes(path: Path) -> int:
    return sum(p.stat().st_size for p in files_under(path))


def fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(path: Path) -> None:
    """Makes durable what a peer wrote: every file, every directory, and the entry of `path` itself."""
    for file in path.rglob("*"):
        fsync(file)
    fsync(path)
    fsync(path.parent)


def evict(path: Path) -> None:
    """Drops the files' pages from the page cache; dirty pages are written first, as only clean ones can be dropped."""
    for file in files_under(path):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def warm(path: Path) -> None:
    """Reads the files into the page cache."""
    buffer = bytearray(4 * MIB)
    for file in files_under(path):
        with file.open("rb", buffering=0) as opened:
            while opened.readinto(buffer):
                pass


def cached_share(path: Path) -> float:
    """The share of the files' pages that is in the page cache (mincore)."""
    pages = resident = 0
    for file in files_under(path):
        size = file.stat().st_size
        if not size:
            continue
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), size, access=mmap.ACCESS_COPY) as mapping:
            count = -(-size // mmap.PAGESIZE)
            states = (ctypes.c_ubyte * count)()
            first = ctypes.c_ubyte.from_buffer(mapping)
            failed = _libc.mincore(ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(size), states)
            del first
            if failed:
                raise OSError(ctypes.get_errno(), "mincore")
            pages += count
            resident += sum(bytes(states).translate(_LOWEST_BIT))
    return resident / pages if pages else 0.0


_LOWEST_BIT = bytes(value & 1 for value in range(256))  # the other bits of mincore's answer are undefined


def _status_bytes(field: str) -> int:
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith(field))


def _io_bytes() -> tuple[int, int]:
    """Bytes this process made the disk read and write."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["read_bytes"]), int(fields["write_bytes"])


def settle_memory(nbytes: int) -> None:
    """Touches `nbytes` of free memory and gives them back, but leaves 2 GiB alone.

    A virtual machine may hand free memory back to its host within seconds (free page reporting), and pays for every
    4 KiB of it when it is next touched: 0.5 instead of 24 GB/s were seen. Whoever comes first would pay for all.
    """
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    nbytes = min(nbytes, int(fields["MemAvailable"].split()[0]) * 1024 - 2 * GIB)
    if nbytes > 0:
        with mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
            memory.madvise(mmap.MADV_HUGEPAGE)
            for at in range(0, nbytes, mmap.PAGESIZE):
                memory[at] = 1


def measure(work: Callable[[], Any], new_bytes: int = 0) -> tuple[dict[str, float], Any]:
    """Runs `work`, which takes about `new_bytes` of new memory or page cache, once.

    Returns its seconds, CPU seconds, disk traffic and peak growth of resident memory; and its result. Resident memory
    counts the pages of mapped files too (safetensors maps its file).
    """
    settle_memory(new_bytes)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    resident, (read, written) = _status_bytes("VmRSS"), _io_bytes()
    cpu, begin = time.process_time(), time.perf_counter()
    result = work()
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu
    read_after, written_after = _io_bytes()
    figures = {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "peak_extra_bytes": _status_bytes("VmHWM") - resident,
        "disk_read_bytes": read_after - read,
        "disk_written_bytes": written_after - written,
    }
    return figures, result


def machine(directory: Path) -> dict[str, Any]:
    """What the figures depend on."""
    cpu = next((line.split(": ")[1] for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "unknown")
    memory = next(int(line.split()[1]) * 1024 for line in _lines("/proc/meminfo") if line.startswith("MemTotal"))
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": cpu,
        "architecture": platform.machine(),
        "memory_bytes": memory,
        "kernel": platform.release(),
        "file_system": _file_system(directory.resolve()),
        "transparent_huge_pages": "".join(_lines("/sys/kernel/mm/transparent_hugepage/enabled")),
        "load_average_before": os.getloadavg()[0],
    }


def versions() -> dict[str, str]:
    """The packages' versions; "absent" where one is not installed."""
    import ostraca

    found = {"python": platform.python_version(), "ostraca": f"{ostraca.__version__} ({_commit()})"}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def _lines(path: str) -> Iterator[str]:
    file = Path(path)
    return iter(file.read_text().splitlines() if file.exists() else [])


def _file_system(directory: Path) -> str:
    mounts = [line.split() for line in _lines("/proc/mounts")]
    above = [(len(mount[1]), mount[2], mount[0]) for mount in mounts if directory.is_relative_to(mount[1])]
    _, kind, device = max(above)
    return f"{kind} on {device}"


def _commit() -> str:
    command = ["git", "--no-optional-locks", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "no commit"
