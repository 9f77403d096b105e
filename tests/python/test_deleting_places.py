"""Deleting on file systems and in directories that are not like others: FUSE, read-only, names that are no text."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import ostraca
from conftest import FAULTS
from deleting import holds, keyframe_and_delta, names, state

NOBODY = 65534
MOUNT_SECONDS = 20.0


# --- FUSE


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file system in user space, built."""
    compiler, config = shutil.which("cc"), shutil.which("pkg-config")
    if not compiler or not config or subprocess.run([config, "--exists", "fuse3"], check=False).returncode:
        pytest.skip("needs a C compiler, pkg-config and libfuse3-dev")
    flags = subprocess.run([config, "--cflags", "--libs", "fuse3"], check=True, capture_output=True, text=True)
    program = tmp_path_factory.mktemp("mirror") / "mirror_fuse"
    source = FAULTS / "mirror_fuse.c"
    subprocess.run([compiler, "-O1", "-w", source, "-o", program, *flags.stdout.split()], check=True)
    return program


@pytest.fixture
def mounted(mirror: Path, tmp_path: Path) -> Iterator[Path]:
    source, mountpoint = tmp_path / "source", tmp_path / "mounted"
    source.mkdir()
    mountpoint.mkdir()
    daemon = subprocess.Popen([mirror, source, mountpoint], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        end = time.monotonic() + MOUNT_SECONDS
        while not mountpoint.is_mount():
            if daemon.poll() is not None or time.monotonic() > end:
                daemon.kill()
                pytest.skip(f"FUSE cannot be mounted here: {daemon.communicate()[0]}")
            time.sleep(0.02)
        yield mountpoint
    finally:
        daemon.terminate()  # which unmounts
        with contextlib.suppress(subprocess.TimeoutExpired):
            daemon.communicate(timeout=MOUNT_SECONDS)
        daemon.kill()
        if mountpoint.is_mount():
            subprocess.run(["fusermount3", "-u", "-z", mountpoint], check=False)


def test_prune_leaves_no_directory_on_fuse(mounted: Path) -> None:
    """Where a file that is open is renamed instead of unlinked, as on NFS."""
    run = mounted / "run"
    for step in (1, 2, 3):
        ostraca.save(run / str(step), state(step), step=step)
    keyframe_and_delta(run, "4", "5", seed=4)
    report = ostraca.prune(run, keep=["3"], grace_seconds=0)
    assert report.ok, report.errors
    assert names(run) == ["3"], "directories stay for ever"
    assert holds(run / "3", 3)


def test_overwriting_and_compacting_leave_nothing_on_fuse(mounted: Path) -> None:
    run = mounted / "run"
    keyframe_and_delta(run, "1", "2")
    ostraca.compact(run / "2")
    ostraca.save(run / "1", state(7), overwrite=True)
    assert holds(run / "2", 1) and holds(run / "1", 7)
    ostraca.prune(run, keep=2, grace_seconds=0)
    assert [len(names(run / name)) for name in names(run)] == [3, 3], [names(run / name) for name in names(run)]


# --- Names


def test_a_name_that_is_no_text_spoils_only_itself(tmp_path: Path) -> None:
    run = os.fsencode(tmp_path / "run")
    for step, name in ((1, b"1"), (2, b"caf\xe9"), (3, b"3")):
        ostraca.save(tmp_path / "saved", state(step), step=step)
        os.makedirs(run, exist_ok=True)  # noqa: PTH103
        os.rename(os.fsencode(tmp_path / "saved"), os.path.join(run, name))  # noqa: PTH104, PTH118
    for options in ([], ["--json"]):
        line = [sys.executable, "-m", "ostraca", "ls", tmp_path / "run", *options]
        done = subprocess.run(line, capture_output=True, timeout=120)
        assert b"Traceback" not in done.stderr
        if options:
            assert done.stdout, f"ls fails whole: {done.stderr.decode()}"
            entries = json.loads(done.stdout)["checkpoints"]
            shown = {Path(entry["path"]).name: entry["status"] for entry in entries}
            assert len(shown) == 3 and shown["1"] == shown["3"] in ("committed", "ok"), done.stderr
        else:
            assert done.stdout.count(b"\n") == 4, f"ls fails whole: {done.stderr.decode()}"
    line = [sys.executable, "-m", "ostraca", "prune", tmp_path / "run", "--keep-step", "3", "--grace", "0"]
    done = subprocess.run(line, capture_output=True, timeout=120)
    assert b"Traceback" not in done.stderr and not (tmp_path / "run" / "1" / "manifest.json").exists(), done.stderr
    assert holds(tmp_path / "run" / "3", 3)


# --- Read-only


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A run that its user may read and not write, where that user can reach it."""
    place = Path(tempfile.mkdtemp())
    run = place / "run"
    for step in (1, 2, 3):
        ostraca.save(run / str(step), state(step), step=step)
    ostraca.save(run / "2", state(9), overwrite=True, step=2)
    place.chmod(0o755)
    for directory in (run, *run.iterdir()):
        directory.chmod(0o555)
    try:
        yield run
    finally:
        for directory in (run, *run.iterdir()):
            directory.chmod(0o755)
        shutil.rmtree(place)


def as_nobody(run: Path, **options: bool) -> tuple[str, str]:
    """What a prune raised, and what its report says, in a process that is not root."""
    said, saying = os.pipe()
    child = os.fork()
    if child == 0:
        raised = reported = ""
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            reported = str(ostraca.prune(run, keep=1, grace_seconds=0, **options))
        except OSError as error:
            raised = f"{error.filename}: {error}"
        except BaseException as error:
            raised = f"unexpected {error!r}"
        os.write(saying, json.dumps([raised, reported]).encode())
        os._exit(0)
    os.close(saying)
    with os.fdopen(said) as stream:
        text = stream.read()
    os.waitpid(child, 0)
    raised, reported = json.loads(text)
    return raised, reported


def test_prune_of_a_read_only_directory_names_the_directory(read_only: Path) -> None:
    raised, reported = as_nobody(read_only)
    assert "clock-" not in raised + reported, "it names a file of its own, that nobody knows"
    assert str(read_only) in raised or ("error" in reported and "ermission denied" in reported), (raised, reported)
    for step, seed in ((1, 1), (2, 9), (3, 3)):
        assert holds(read_only / str(step), seed)


def test_a_dry_run_needs_only_to_read(read_only: Path) -> None:
    raised, reported = as_nobody(read_only, dry_run=True)
    assert not raised and "would be removed" in reported
