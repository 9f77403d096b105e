"""Python threads that save, load, slice, verify, cancel and abort at once: what the run under ThreadSanitizer executes.

A script and not a test, because the instrumented module runs in a bare interpreter. Uses the compiled module alone.
"""

import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ostraca import _core
from ostraca.errors import CancelledError, ExistsError

SECONDS = 15.0 if len(sys.argv) < 2 else float(sys.argv[1])
KIND_ARRAY, UINT8, FLOAT32 = 1, 6, 11
LARGE, SMALL = 3 << 20, 50  # elements


def key(name: str) -> bytes:
    text = name.encode()
    return b"\x01" + len(text).to_bytes(4, "little") + text


def arrays(version: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(version)
    state: dict[str, np.ndarray] = {"large": rng.integers(0, 256, LARGE, dtype=np.uint8)}
    state["weights"] = rng.normal(size=(300, 700)).astype(np.float32)
    state |= {f"small{i}": np.full(SMALL, version, np.float32) for i in range(20)}
    return state


def specs(state: dict[str, np.ndarray]) -> list[tuple]:
    return [
        (key(n), (KIND_ARRAY, UINT8 if a.dtype == np.uint8 else FLOAT32, "", False, False), a, None, None, None)
        for n, a in state.items()
    ]


STATES = [arrays(version) for version in range(3)]


def save(path: str, version: int, *, staged: bool, overwrite: bool) -> None:
    options = {"staging_bytes": 16 << 20} if staged else {}
    writer = _core.Writer(path, threads=3, overwrite=overwrite, **options)
    copied = threading.Event()
    try:
        writer.add(specs(STATES[version]), copied.set)
        watcher = threading.Thread(target=watch, args=(writer,))
        writer.seal()
        watcher.start()
        assert writer.wait_copied(60)
        assert copied.wait(60)
        report = writer.finish(lambda done, total: None)
        watcher.join()
        _core.commit(path, [report], step=version, overwrite=overwrite)
    except BaseException:
        writer.abort()
        raise


def watch(writer: _core.Writer) -> None:
    while not writer.copied():
        done, total = writer.progress()
        assert done <= total
        time.sleep(0.001)


def check(reader: _core.Reader) -> None:
    version = json.loads(reader.manifest)["step"]
    expected = list(STATES[version].values())
    got = [np.empty_like(a) for a in expected]
    reader.read_into([(i, None, a) for i, a in enumerate(got)], deep=True)
    assert all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True))
    rows = np.empty((10, 700), np.float32)
    reader.read_into([(1, (50, 0), rows)])
    assert np.array_equal(rows, expected[1][50:60])
    for i in range(2, 22):
        part = np.empty(5, np.float32)
        reader.read_into([(i, (7,), part)])
        assert (part == version).all()


def overwriting(root: Path, turn: int) -> None:
    save(str(root / "shared"), turn % len(STATES), staged=turn % 2 == 0, overwrite=True)


def fresh(root: Path, turn: int) -> None:
    path = str(root / f"fresh{turn}")
    save(path, turn % len(STATES), staged=turn % 2 == 1, overwrite=False)
    check(_core.Reader(path, threads=2))


def reading(root: Path, turn: int) -> None:
    del turn
    check(_core.Reader(str(root / "shared"), threads=2, coding_bytes=1))


def sharing(root: Path, turn: int) -> None:
    """Several threads use one reader."""
    del turn
    reader = _core.Reader(str(root / "constant"), threads=2, coding_bytes=1)
    threads = [threading.Thread(target=check, args=(reader,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert reader.statistics()["chunks_read"] > 0


def verifying(root: Path, turn: int) -> None:
    assert _core.verify(str(root / "shared"), deep=turn % 2 == 0, threads=2)[2] == []


def cancelling(root: Path, turn: int) -> None:
    """One thread waits for the save, another cancels it, and aborts it at once."""
    path = root / f"cancelled{turn}"
    writer = _core.Writer(str(path), threads=2, staging_bytes=0)
    writer.add(specs(STATES[0]))
    writer.seal()

    def stop() -> None:
        time.sleep(turn % 7 / 200)
        writer.cancel()
        writer.progress()
        if turn % 2:
            writer.abort()

    stopper = threading.Thread(target=stop)
    stopper.start()
    try:
        writer.wait_copied()
        writer.finish()
    except CancelledError:
        pass
    stopper.join()
    writer.abort()
    assert not path.exists()


def racing(root: Path, turn: int) -> None:
    """Of several saves to one path one wins."""
    path = str(root / f"raced{turn}")
    results: list[str] = []

    def attempt(version: int) -> None:
        try:
            save(path, version, staged=False, overwrite=False)
            results.append("saved")
        except ExistsError:
            results.append("exists")

    threads = [threading.Thread(target=attempt, args=(version,)) for version in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["exists", "exists", "saved"], results
    check(_core.Reader(path))


def main() -> None:
    jobs: list[Callable[[Path, int], None]] = [overwriting, fresh, reading, sharing, verifying, cancelling, racing]
    turns = dict.fromkeys((job.__name__ for job in jobs), 0)
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        save(str(root / "shared"), 0, staged=False, overwrite=False)
        save(str(root / "constant"), 1, staged=False, overwrite=False)
        end = time.monotonic() + SECONDS

        def loop(job: Callable[[Path, int], None]) -> None:
            try:
                while time.monotonic() < end and not failures:
                    job(root, turns[job.__name__])
                    turns[job.__name__] += 1
            except BaseException as error:
                failures.append(f"{job.__name__}: {error!r}")

        threads = [threading.Thread(target=loop, args=(job,)) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print(", ".join(f"{name} {count}" for name, count in turns.items()))
    sys.exit("\n".join(failures) if failures or min(turns.values()) == 0 else 0)


if __name__ == "__main__":
    main()
