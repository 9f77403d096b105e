"""Saves on a file system without hard links and without RENAME_NOREPLACE, as mounts of buckets are: a real FUSE one."""

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import ostraca

SOURCE = Path(__file__).parents[1] / "mounts" / "bucket.c"
WAIT_SECONDS = 30


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[Path]:
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "fuse3"], capture_output=True, text=True)
    if flags.returncode != 0 or os.geteuid() != 0 or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("needs root, /dev/fuse and the headers of libfuse 3")
    program, mount, directory = tmp_path / "bucket", tmp_path / "mount", tmp_path / "directory"
    subprocess.run(
        ["cc", "-O1", "-Wall", "-Wextra", "-Werror", SOURCE, "-o", program, *flags.stdout.split()], check=True
    )
    mount.mkdir()
    directory.mkdir()
    daemon = subprocess.Popen([program, mount, directory], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + WAIT_SECONDS
    while not mount.is_mount() and daemon.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    if not mount.is_mount():
        daemon.kill()
        pytest.skip(f"a FUSE file system cannot be mounted here: {daemon.communicate()[1].strip()}")
    try:
        yield mount
    finally:
        subprocess.run(
            [shutil.which("fusermount3") or "umount", *(["-u"] if shutil.which("fusermount3") else []), mount]
        )
        daemon.terminate()
        daemon.wait(WAIT_SECONDS)


def tree(seed: int) -> dict[str, np.ndarray]:
    return {"w": np.random.default_rng(seed).standard_normal(50_000, "f4"), "n": np.arange(seed)}


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    return found.keys() == expected.keys() and all((found[name] == expected[name]).all() for name in expected)


def test_one_process_saves_overwrites_and_prunes(bucket: Path) -> None:
    with pytest.raises(OSError, match=r"not permitted|not implemented"):
        (bucket / "file").touch()
        os.link(bucket / "file", bucket / "link")
    for step in range(3):
        ostraca.save(bucket / "run" / str(step), tree(step), step=step)
    with pytest.raises(ostraca.ExistsError):
        ostraca.save(bucket / "run" / "1", tree(7))
    assert same(ostraca.load(bucket / "run" / "1"), tree(1))
    ostraca.save(bucket / "run" / "1", tree(8), overwrite=True, step=1)
    assert same(ostraca.load(bucket / "run" / "1"), tree(8))
    ostraca.save(bucket / "run" / "3", tree(8), base=bucket / "run" / "1", step=3)
    assert ostraca.verify(bucket / "run" / "3", deep=True).ok
    report = ostraca.prune(bucket / "run", keep=1, grace_seconds=0)
    assert report.ok, report.errors
    assert same(ostraca.load(bucket / "run" / "3"), tree(8))
    ostraca.compact(bucket / "run" / "3")
    assert same(ostraca.load(bucket / "run" / "3"), tree(8))
    assert not list((bucket / "run" / "3").glob("intent*")) + list((bucket / "run" / "3").glob("manifest-*"))


def test_of_many_saves_to_one_place_one_succeeds(bucket: Path) -> None:
    outcomes: list[int | None] = []

    def save(seed: int) -> None:
        try:
            ostraca.save(bucket / "checkpoint", tree(seed))
            outcomes.append(seed)
        except ostraca.ExistsError:
            outcomes.append(None)

    threads = [threading.Thread(target=save, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [seed for seed in outcomes if seed is not None]
    assert same(ostraca.load(bucket / "checkpoint"), tree(winner))


def test_several_processes_are_refused_before_anything_is_written(bucket: Path) -> None:
    with pytest.raises(OSError, match=r"neither hard links nor RENAME_NOREPLACE.*the bucket's URL"):
        ostraca.Writer(bucket / "checkpoint", process_index=0, process_count=2, attempt="ab" * 16)
    assert not (bucket / "checkpoint").exists()
