"""How long strings take, and what is stored of them: the figures of docs/decisions/0015-strings.md.

python bench/strings.py [--count 1000000] [--dir build]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import ostraca
from ostraca import strings

ROUNDS = 5


def seconds(work: Callable[[], object]) -> float:
    """The median of some rounds."""
    times = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description="Strings: seconds, and bytes stored.")
    parser.add_argument("--count", type=int, default=1_000_000, help="elements of an array")
    parser.add_argument("--dir", type=Path, default=Path("build"), help="the disk to measure")
    arguments = parser.parse_args()
    numbers = np.random.default_rng(0)
    words = [b"w" * size for size in numbers.integers(0, 20, arguments.count).tolist()]
    arrays: dict[str, Any] = {
        "text": np.array([word.decode() for word in words], np.dtypes.StringDType()),
        "bytes": np.array([*words, None], object)[:-1],
    }
    with tempfile.TemporaryDirectory(dir=arguments.dir) as scratch:
        for name, array in arrays.items():
            path = Path(scratch) / name
            parts = strings.taken_apart(array)
            print(
                f"{name}: {arguments.count:,} elements, {parts.data.nbytes / 1e6:.1f} MB;"
                f" taken apart in {seconds(lambda array=array: strings.taken_apart(array)):.2f} s,"
                f" put together in {seconds(lambda parts=parts: strings.put_together(*parts)):.2f},"
                f" saved in {seconds(lambda path=path, array=array: ostraca.save(path, array, overwrite=True)):.2f},"
                f" loaded in {seconds(lambda path=path: ostraca.load(path)):.2f}"
            )
        few = arrays["text"][: arguments.count // 5]
        longer = few.copy()
        longer[few.size // 2] += "!"
        ends, moved = strings.taken_apart(few).ends, strings.taken_apart(longer).ends
        info = ostraca.save(Path(scratch) / "ends", {"ends": ends})
        delta = ostraca.save(Path(scratch) / "delta", {"ends": moved}, base=Path(scratch) / "ends")
        print(f"ends of {few.size:,}: {ends.nbytes / 1e6:.2f} MB, stored in {info.stored_bytes / 1e6:.2f}")
        with ostraca.open(Path(scratch) / "delta") as checkpoint:
            stored = checkpoint["ends"].stored_bytes
        print(f"one of them longer: their delta takes {stored} bytes, the checkpoint {delta.stored_bytes}")


if __name__ == "__main__":
    main()
