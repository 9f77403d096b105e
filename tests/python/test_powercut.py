"""Power cuts on real file systems: a sample of `make powercut`, which tests/powercut explains. Nothing stays mounted
when it is stopped in the middle."""

import contextlib
import os
import random
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

POWERCUT = Path(__file__).parents[1] / "powercut"
UNABLE = 77  # its exit status where it cannot be done, and it says why
WAIT_SECONDS = 60


def command(*arguments: object, program: Path = POWERCUT) -> list[str]:
    return [sys.executable, *map(str, (program, *arguments))]


def powercut(*arguments: object, program: Path = POWERCUT) -> str:
    line = command(*arguments, program=program)
    done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode == UNABLE:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize("file_system", ["ext4", "xfs"])
def test_what_was_acknowledged_is_there_after_a_power_cut(file_system: str) -> None:
    print(powercut(file_system, "--rounds", 25))


@pytest.mark.parametrize(("file_system", "syncs"), [("ext4", "all"), ("xfs", "files")])
def test_syncs_that_do_nothing_are_noticed(file_system: str, syncs: str) -> None:
    """The control: else the harness would be blind."""
    assert "the losses were found" in powercut(file_system, "--rounds", 5, "--control", syncs)


@pytest.mark.parametrize("file_system", ["ext4", "xfs"])
def test_a_file_system_that_shuts_down(file_system: str) -> None:
    print(powercut(file_system, "--rounds", 3, "--shutdown"))


@pytest.mark.parametrize("file_system", ["ext4", "xfs"])
def test_a_file_system_that_stopped_acknowledges_nothing(file_system: str) -> None:
    """It stops, as on an error of its disk, between the manifest's new name and the sync of that."""
    print(powercut(file_system, program=POWERCUT / "stopped.py"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_stays_when_it_is_stopped(number: signal.Signals, tmp_path: Path) -> None:
    output = tmp_path / "output"
    with output.open("w") as file:
        process = subprocess.Popen(
            command("ext4", "--rounds", 40, "--scratch", tmp_path), stdout=file, stderr=file, start_new_session=True
        )
        try:
            wait_until(lambda: process.poll() is not None or processes("workload.py", tmp_path))
            if process.poll() == UNABLE:
                pytest.skip(output.read_text().strip())
            assert processes("log_device", tmp_path)
            os.killpg(process.pid, number)  # as a terminal does, or `timeout`: some are told twice
            assert process.wait(WAIT_SECONDS) != 0, output.read_text()
        finally:
            process.kill()
            process.wait()
    wait_until(lambda: not processes("", tmp_path))
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
    if number != signal.SIGKILL:
        assert list(tmp_path.iterdir()) == [output], output.read_text()


def processes(name: str, directory: Path) -> list[str]:
    """The command lines that speak of both."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if name in line and str(directory) in line:
                found.append(line)
    return found


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_cut_keeps_what_was_flushed_and_sectors_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness itself: every sector holds what was last flushed to it, or what was written to it since."""
    monkeypatch.syspath_prepend(POWERCUT)
    from replay import FLUSH, MARK, SECTOR_BYTES, WRITE, Disk, Log

    rng = random.Random(1)
    sectors = 16
    records = [(MARK, 0, b'["begin", 1, "save", {}]')]
    for value in range(1, 200):
        first = rng.randrange(sectors)
        count = rng.randint(1, sectors - first)
        records.append((WRITE, first * SECTOR_BYTES, bytes([value]) * count * SECTOR_BYTES))
        if rng.random() < 0.3:
            records.append((FLUSH, 0, b""))
    records.append((MARK, 0, b'["end", 1, []]'))
    raw = b"".join(struct.pack("=QQQ", kind, offset, len(data)) + data for kind, offset, data in records)
    (tmp_path / "log").write_bytes(raw)
    log = Log(tmp_path / "log")
    (tmp_path / "image").write_bytes(bytes(sectors * SECTOR_BYTES))
    disk = Disk(log, tmp_path / "image")
    for cut in log.cuts(300, rng):
        disk.cut(cut, rng, tmp_path / "cut")
        allowed = [[0] for _ in range(sectors)]
        for kind, offset, data in records[:cut]:
            if kind == FLUSH:
                allowed = [values[-1:] for values in allowed]
            elif kind == WRITE:
                for values in allowed[offset // SECTOR_BYTES : (offset + len(data)) // SECTOR_BYTES]:
                    values.append(data[0])
        found = (tmp_path / "cut").read_bytes()
        for sector, values in enumerate(allowed):
            inside = set(found[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES])
            assert len(inside) == 1 and inside <= set(values), f"cut at {cut}, sector {sector}: {inside}, not {values}"
