"""`ostraca bench`: how fast this machine saves and loads, in half a minute."""

import argparse
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .. import _core, dtypes, loading, saving
from ..options import CODECS
from . import text

NAME: Final = "bench"
SUMMARY: Final = "measure this machine"
DESCRIPTION: Final = """\
Saves, loads and verifies normally distributed weights in a new directory below
DIR, which is removed afterwards, and shows medians. Loads are from the page
cache. A save includes making the checkpoint durable."""
EPILOG: Final = """\
GB/s are logical bytes, 1e9 a second. Memory needed: twice the size.

examples:
  ostraca bench
  ostraca bench --size 4GiB --dtype bfloat16 --dir /mnt/checkpoints --threads 8"""

_MIB: Final = 1 << 20
_ARRAY_BYTES: Final = 64 * _MIB
_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT]?)i?B?", re.IGNORECASE)
_SPARE_MEMORY_BYTES: Final = 256 * _MIB
_MAX_SIZE_BYTES: Final = 1 << 50

Timings = list[tuple[str, list[float]]]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=_size, default=1 << 30, metavar="SIZE", help="such as 256MiB (default: 1GiB)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="(default: float32)")
    parser.add_argument(
        "--dir", type=text.path, default=".", help="on the file system to measure (default: the current directory)"
    )
    parser.add_argument("--codec", choices=CODECS, default="auto", help="(default: auto)")
    parser.add_argument("--threads", type=_count, metavar="N", help="that code and decode (default: all cores)")
    parser.add_argument("--repeat", type=_count, default=3, metavar="N", help="of each measurement (default: 3)")


def run(arguments: argparse.Namespace) -> int:
    if not Path(arguments.dir).is_dir():
        raise NotADirectoryError(20, "not a directory", arguments.dir)
    _check_space(arguments)
    tree = _weights(arguments.size, arguments.dtype)
    logical = sum(array.nbytes for array in tree.values())
    place = Path(tempfile.mkdtemp(prefix="ostraca-bench-", dir=arguments.dir))
    try:
        info, timings = _measure(place / "checkpoint", tree, arguments)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    threads = arguments.threads or _core.usable_cores()
    result = {
        "version": _core.VERSION,
        "machine": platform.machine(),
        "cpu_features": _core.cpu_features(),
        "directory": arguments.dir,
        "dtype": arguments.dtype,
        "codec": arguments.codec,
        "threads": threads,
        "repeat": arguments.repeat,
        "logical_bytes": logical,
        "stored_bytes": info.stored_bytes,
        "ratio": text.ratio(info.stored_bytes, logical),
        "results": [_summary(name, seconds, logical) for name, seconds in timings],
    }
    if arguments.json:
        text.show_json(result)
    else:
        _show(result)
    return 0


def _measure(path: Path, tree: dict[str, NDArray[Any]], arguments: argparse.Namespace) -> tuple[Any, Timings]:
    threads, repeat = arguments.threads, arguments.repeat
    timings: Timings = []

    def timed(name: str, action: Callable[[], Any], before: Callable[[], Any] = lambda: None) -> Any:
        seconds = []
        for i in range(repeat):
            _say(f"{name} {i + 1}/{repeat}")
            before()
            started = time.perf_counter()
            result = action()
            seconds.append(time.perf_counter() - started)
        timings.append((name, seconds))
        return result

    info = timed(
        "save",
        lambda: saving.save(path, tree, codec=arguments.codec, threads=threads),
        before=lambda: shutil.rmtree(path, ignore_errors=True),
    )
    _say("load, untimed")
    loaded = loading.load(path, threads=threads)  # fills the page cache, and the memory to load into
    for name, array in tree.items():
        if not np.array_equal(loaded[name].view(np.uint8), array.view(np.uint8)):
            raise RuntimeError(f"what was loaded differs from what was saved in {name}")
    targets = [loaded]
    del loaded
    timed("load into", lambda: loading.load(path, into=targets[0], threads=threads))
    targets.clear()
    timed("load", lambda: loading.load(path, threads=threads) and None)
    timed("verify", lambda: _core.verify(str(path), threads=threads or 0))
    timed("verify deep", lambda: _core.verify(str(path), deep=True, threads=threads or 0))
    _say("")
    return info, timings


def _weights(nbytes: int, dtype_name: str) -> dict[str, NDArray[Any]]:
    """Arrays of normally distributed numbers of which no two chunks are alike, at the cost of drawing one of them."""
    _say("drawing weights")
    dtype = dtypes.decode(dtypes.CODES[dtype_name], "")
    count = max(nbytes // dtype.itemsize, 1)
    each = min(count, _ARRAY_BYTES // dtype.itemsize)
    drawn = np.random.default_rng(0).standard_normal(each, np.float32).astype(dtype)
    drawn *= dtype.type(0.02)
    tree = {}
    for i, start in enumerate(range(0, count, each)):
        shifted = np.roll(drawn, i * 9973)  # no multiple of a chunk
        tree[f"layer{i:04}/kernel"] = shifted[: min(each, count - start)]
    return tree


def _check_space(arguments: argparse.Namespace) -> None:
    memory, disk = _core.available_memory_bytes(), shutil.disk_usage(arguments.dir).free
    needed = 2 * arguments.size + _SPARE_MEMORY_BYTES
    if needed > memory:
        raise MemoryError(f"{text.size(needed)} needed, {text.size(memory)} available; choose a smaller --size")
    if arguments.size > disk:
        raise OSError(28, f"{text.size(arguments.size)} needed, {text.size(disk)} free", arguments.dir)


def _summary(name: str, seconds: list[float], logical: int) -> dict[str, Any]:
    import statistics

    median = statistics.median(seconds)
    return {
        "name": name,
        "seconds": [round(value, 6) for value in seconds],
        "median_seconds": round(median, 6),
        "bytes_per_second": round(logical / max(median, 1e-9)),
    }


def _show(result: dict[str, Any]) -> None:
    sizes = f"{text.size(result['logical_bytes'])} of {result['dtype']}, stored {text.size(result['stored_bytes'])}"
    cores = text.counted(result["threads"], "thread")
    text.show(f"{sizes}, ratio {text.ratio_text(result['ratio'])}; codec {result['codec']}, {cores}")
    rows = [
        (
            row["name"],
            f"{row['median_seconds']:.3f} s",
            f"{row['bytes_per_second'] / 1e9:.2f}",
            f"{min(row['seconds']):.3f} to {max(row['seconds']):.3f} s",
        )
        for row in result["results"]
    ]
    text.show(text.table(("", "median", "GB/s", "range"), "<>>>", rows))


def _say(what: str) -> None:
    """Where it is, on a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{what}")
        sys.stderr.flush()


def _size(argument: str) -> int:
    match = _SIZE.fullmatch(argument.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{argument!r} is no size, such as 256MiB or 4GiB")
    count = int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " "))
    if not 0 < count <= _MAX_SIZE_BYTES:
        raise argparse.ArgumentTypeError(f"{argument!r} is out of range")
    return count


def _count(argument: str) -> int:
    try:
        count = int(argument)
    except ValueError:
        count = 0
    if not 0 < count <= os.sysconf("SC_OPEN_MAX"):
        raise argparse.ArgumentTypeError(f"{argument!r} is no positive number")
    return count
