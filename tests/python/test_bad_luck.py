"""Full and read-only disks, interrupts, failing commits, arrays that change: nothing lost, nothing left behind."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ostraca
from ostraca import _core

WEIGHTS = np.random.default_rng(0).standard_normal(1 << 20).astype(np.float32)
IS_ROOT = os.geteuid() == 0


def files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def names(directory: Path) -> list[str]:
    return [entry.name for entry in directory.iterdir()]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if not IS_ROOT or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", disk], check=False).returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("io", ["auto", "buffered"])
def test_full_disk(small_disk: Path, io: str) -> None:
    ostraca.save(small_disk / "old", {"w": WEIGHTS[:1000]})
    noise = [np.random.default_rng(i).integers(0, 256, 1 << 20, np.uint8) for i in range(16)]
    before = files(small_disk / "old")
    for path in (small_disk / "new", small_disk / "old"):
        for save in (ostraca.save, lambda *a, **k: ostraca.save_async(*a, **k).result()):
            with pytest.raises(OSError, match=str(path)) as caught:
                save(path, noise, io=io, overwrite=True)
            assert caught.value.errno == errno.ENOSPC and caught.value.filename
    assert names(small_disk) == ["old"] and files(small_disk / "old") == before
    assert ostraca.verify(small_disk / "old").ok


def test_full_disk_while_the_caller_waits(small_disk: Path) -> None:
    noise = [np.random.default_rng(i).integers(0, 256, 1 << 20, np.uint8) for i in range(64)]
    for _ in range(20):
        with pytest.raises(OSError, match="No space"):
            ostraca.save_async(small_disk / "new", noise, staging_bytes=1 << 20, coding_bytes=16 << 20).result()
        assert names(small_disk) == []


def test_read_only_file_system(small_disk: Path) -> None:
    ostraca.save(small_disk / "old", 1)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for path in (small_disk / "new", small_disk / "old"):
        with pytest.raises(OSError, match="Read-only") as caught:
            ostraca.save(path, 2, overwrite=True)
        assert caught.value.errno == errno.EROFS
    assert ostraca.load(small_disk / "old") == 1


@pytest.mark.skipif(IS_ROOT, reason="root may write anywhere")
def test_read_only_directory(path: Path) -> None:
    path.mkdir(mode=0o500)
    with pytest.raises(PermissionError, match=str(path)):
        ostraca.save(path, 1)
    assert names(path) == []


INTERRUPTED = """
import sys, time, numpy as np, ostraca
tree = {"w": np.arange(1 << 20)}
def slow(done, total):
    print("working", flush=True)
    time.sleep(0.5)
what, path = sys.argv[1:]
try:
    if what == "save": ostraca.save(path, tree, overwrite=True, progress=slow)
    elif what == "load": ostraca.load(path, progress=slow)
    else: ostraca.verify(path, progress=slow)
    print("not interrupted")
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize("what", ["save", "overwrite", "load", "verify"])
def test_interrupt(path: Path, what: str) -> None:
    if what != "save":
        ostraca.save(path, {"old": 1})
    before = files(path) if path.exists() else {}
    action = what.replace("overwrite", "save")
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED, action, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.read().split()[-1] == "interrupted" and process.wait(60) == 0
    assert path.exists() == (what != "save")
    assert not before or files(path) == before


def test_uncertain_commit_deletes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = _core.commit

    def published(*arguments: Any, **options: Any) -> str:
        commit(*arguments, **options)
        raise ostraca.CommitUncertainError("published, but the directory could not be synced")

    monkeypatch.setattr(_core, "commit", published)
    with pytest.raises(ostraca.CommitUncertainError):
        ostraca.save(path, {"w": WEIGHTS})
    assert (ostraca.load(path)["w"] == WEIGHTS).all()


def test_failed_commit_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*arguments: Any, **options: Any) -> str:
        raise OSError(errno.EIO, "injected", str(path))

    monkeypatch.setattr(_core, "commit", failing)
    for save in (ostraca.save, lambda *arguments: ostraca.save_async(*arguments).result()):
        with pytest.raises(OSError, match="injected"):
            save(path, {"w": WEIGHTS})
        assert not path.exists()


@pytest.mark.parametrize("published", [False, True])
def test_interrupt_beside_the_publication(path: Path, monkeypatch: pytest.MonkeyPatch, published: bool) -> None:
    """The engine publishes without a look at signals, so that they come before or after it."""
    commit = _core.commit

    def interrupted(*arguments: Any, **options: Any) -> str:
        text = commit(*arguments, **options) if published else ""
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        return text

    monkeypatch.setattr(_core, "commit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ostraca.save(path, {"w": WEIGHTS})
    if published:
        assert ostraca.verify(path).ok and names(path.parent) == ["checkpoint"] and len(names(path)) == 3
    else:
        assert names(path.parent) == []


def test_interrupt_of_who_waits_for_a_publication(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = _core.commit

    def interrupted(*arguments: Any, **options: Any) -> str:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        return commit(*arguments, **options)

    monkeypatch.setattr(_core, "commit", interrupted)
    handle = ostraca.save_async(path, {"w": WEIGHTS}, return_early=True)
    with pytest.raises(KeyboardInterrupt):
        handle.result()
    assert handle.result().arrays == 1 and ostraca.verify(path).ok


def test_mutation_during_a_synchronous_save(path: Path) -> None:
    """Whatever was read is stored, and what is stored is sound."""
    weights = WEIGHTS.copy()
    stop = threading.Event()

    def mutate() -> None:
        while not stop.is_set():
            weights[:] += 1

    thread = threading.Thread(target=mutate)
    thread.start()
    try:
        for _ in range(10):
            ostraca.save(path, [weights] + [weights[i:] for i in range(5)], overwrite=True)
            assert ostraca.verify(path, deep=True).ok
            assert len(ostraca.load(path, verify="deep")) == 6
    finally:
        stop.set()
        thread.join()
