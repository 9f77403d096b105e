"""`prune` and leases: what goes, what stays and why, with readers and saves in other processes."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import format_writer
import ostraca
from ostraca import _core, pruning, reference
from ostraca.cli import main

HOUR = 3600


def state(seed: int) -> dict[str, Any]:
    return {"x": np.arange(3000, dtype=np.float32) + seed}


def run_of(tmp_path: Path, *steps: int) -> Path:
    run = tmp_path / "run"
    for step in steps:
        ostraca.save(run / f"{step:04}", state(step), step=step, metadata={"step": step})
    return run


def content(directory: Path) -> dict[str, Any]:
    return {
        str(file.relative_to(directory)): (os.lstat(file).st_mtime_ns, file.read_bytes() if file.is_file() else b"")
        for file in directory.rglob("*")
    }


def names(directory: Path) -> list[str]:
    return sorted(child.name for child in directory.iterdir())


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lets time pass by the file server's clock: no file can be made to look older than it is."""
    real, passed = pruning.server_time, [0.0]
    monkeypatch.setattr(pruning, "server_time", lambda *a, **k: real(*a, **k) + passed[0])

    def pass_(seconds: float = 2 * HOUR) -> None:
        passed[0] += seconds

    return pass_


def why(report: ostraca.PruneReport, name: str) -> str:
    return "; ".join(kept.reason for kept in report.kept if kept.name == name)


def with_delta(run: Path) -> None:
    """A keyframe "base" and a checkpoint "delta" that needs it."""
    keyframe = format_writer.write(run / "base", state(1), metadata={"which": "base"}, seed=1)
    options = {"x": format_writer.Options(codec="base")}
    format_writer.write(run / "delta", state(1), options, base=keyframe, seed=2)


@pytest.fixture
def delta_run(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    with_delta(run)
    return run


@contextmanager
def process(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A Python process that has printed a line, and goes on until its standard input ends."""
    command = [sys.executable, "-c", "import sys, os, numpy as np, ostraca\n" + code, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            yield child
        finally:
            child.kill()


WAIT = "print('ready', flush=True); sys.stdin.read()\n"
OPEN = "c = ostraca.open(sys.argv[1])\n" + WAIT
SAVE = "w = ostraca.Writer(sys.argv[1]); w.add('x', np.zeros(100), dtype='float64', shape=(100,))\n" + WAIT
FINISH = SAVE + "ostraca.commit(sys.argv[1], [w.finish()], step=9)\n"


# --- Policies


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        (2, ["0003", "0020"]),
        (np.int64(1), ["0020"]),
        (0, []),
        (9, ["0001", "0003", "0020"]),
        ([3], ["0003"]),
        (["0001", Path("0003"), 20], ["0001", "0003", "0020"]),
        (iter([]), []),
        (lambda record: record.metadata["step"] == 3 and record.base is None and record.info.arrays == 1, ["0003"]),
        (lambda record: record.step > 1 and Path(record.path).is_dir(), ["0003", "0020"]),
    ],
)
def test_what_is_kept(tmp_path: Path, keep: Any, left: list[str]) -> None:
    run = run_of(tmp_path, 1, 3, 20)
    report = ostraca.prune(run, keep=keep, grace_seconds=0)
    assert names(run) == left
    assert report.ok and [kept.name for kept in report.kept] == left
    assert sorted(removed.name for removed in report.removed) == sorted({"0001", "0003", "0020"} - set(left))
    assert all(removed.reason == "not kept" and removed.bytes > 0 for removed in report.removed)
    for name in left:
        assert ostraca.verify(run / name, deep=True).ok


def test_paths_and_links_name_what_to_keep(tmp_path: Path) -> None:
    run = run_of(tmp_path, 1, 2)
    ostraca.save(run / "final", state(0))
    (run / "latest").symlink_to("0002")
    assert [removed.name for removed in ostraca.prune(run, keep=2, dry_run=True).removed] == ["0001"]
    report = ostraca.prune(run, keep=[run / "final", "latest"], grace_seconds=0)
    assert names(run) == ["0002", "final", "latest"] and report.ok


@pytest.mark.parametrize("keep", [["0007"], [7], ["notes"], ["../run/0007"], ["0001", "link"], [_core.MANIFEST]])
def test_a_kept_name_that_is_not_there_changes_nothing(tmp_path: Path, keep: Any) -> None:
    run = run_of(tmp_path, 1)
    (run / "notes").mkdir()
    (run / "link").symlink_to(tmp_path)
    before = content(run)
    with pytest.raises(ostraca.NotFoundError, match="nothing was removed"):
        ostraca.prune(run, keep=keep, grace_seconds=0)
    assert content(run) == before


@pytest.mark.parametrize("keep", ["0001", Path("0001"), True, None, 1.5, -1, [True], [1.5]])
def test_nonsense_is_refused(tmp_path: Path, keep: Any) -> None:
    run = run_of(tmp_path, 1)
    with pytest.raises((TypeError, ValueError)):
        ostraca.prune(run, keep=keep)
    for grace in (-1, float("nan"), float("inf"), True, "1"):
        with pytest.raises((TypeError, ValueError), match="grace_seconds"):
            ostraca.prune(run, keep=1, grace_seconds=grace)  # type: ignore[arg-type]
    with pytest.raises(ostraca.NotFoundError):
        ostraca.prune(tmp_path / "absent", keep=1)
    assert names(run) == ["0001"]


def test_a_keep_function_that_fails_changes_nothing(tmp_path: Path) -> None:
    run = run_of(tmp_path, 1, 2)
    before = content(run)
    with pytest.raises(ZeroDivisionError):
        ostraca.prune(run, keep=lambda record: 1 // (record.step - 1))
    assert content(run) == before


# --- Time


def test_a_dry_run_says_the_same_and_changes_nothing(delta_run: Path) -> None:
    for step in (11, 12, 13):
        ostraca.save(delta_run / str(step), state(step), step=step)
    for file in (delta_run / "11").iterdir():
        if file.name == "manifest.json":
            file.unlink()  # a killed save
    before = content(delta_run)
    for grace in (0, 100):
        planned = ostraca.prune(delta_run, keep=["delta", 13], grace_seconds=grace, dry_run=True)
        assert content(delta_run) == before and planned.dry_run
    planned = ostraca.prune(delta_run, keep=["delta", 13], grace_seconds=0, dry_run=True)
    done = ostraca.prune(delta_run, keep=["delta", 13], grace_seconds=0)
    assert (planned.removed, planned.kept, planned.freed_bytes) == (done.removed, done.kept, done.freed_bytes)
    freed = sum(len(raw) for name, (_, raw) in before.items() if name.split("/")[0] in ("11", "12"))
    assert done.freed_bytes == freed


def test_bytes_go_when_the_grace_period_is_over(tmp_path: Path, wait: Callable[..., None]) -> None:
    run = run_of(tmp_path, 1, 2)
    attempt = ostraca.Reader(run / "0001").manifest().id
    report = ostraca.prune(run, keep=1)
    assert [(r.name, r.step, r.id, r.bytes) for r in report.removed] == [("0001", 1, attempt, 0)]
    assert "its bytes go in 3600 seconds" in why(report, "0001")
    assert (run / "0001" / f"tombstone-{attempt}.json").exists()
    with pytest.raises(ostraca.NotFoundError, match="was removed"):
        ostraca.load(run / "0001")
    assert ostraca.prune(run, keep=1).freed_bytes == 0
    wait(HOUR - 60)
    assert ostraca.prune(run, keep=1).freed_bytes == 0
    wait(120)
    report = ostraca.prune(run, keep=1)
    assert names(run) == ["0002"] and report.freed_bytes > 0
    assert [(r.name, r.step) for r in report.removed] == [("0001", 1)]


def test_a_tombstone_is_as_old_as_the_removal_and_can_be_taken_back(tmp_path: Path) -> None:
    run = run_of(tmp_path, 1)
    for file in (run / "0001").iterdir():
        os.utime(file, (0, 0))
    ostraca.prune(run, keep=0)
    (tombstone,) = (run / "0001").glob("tombstone-*")
    assert time.time() - tombstone.stat().st_mtime < 60
    assert ostraca.prune(run, keep=0).freed_bytes == 0
    tombstone.rename(run / "0001" / "manifest.json")
    assert ostraca.verify(run / "0001", deep=True).ok


def test_a_checkpoint_can_be_saved_where_one_was_removed(tmp_path: Path, wait: Callable[..., None]) -> None:
    run = run_of(tmp_path, 1)
    ostraca.prune(run, keep=0)
    ostraca.save(run / "0001", state(5), step=5)
    wait()
    report = ostraca.prune(run, keep=1)
    assert report.freed_bytes > 0 and len(names(run / "0001")) == 3
    assert np.array_equal(ostraca.load(run / "0001")["x"], state(5)["x"])


def test_the_clock_is_the_file_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(tmp_path, 1, 2)
    ostraca.prune(run, keep=1)
    monkeypatch.setattr(time, "time", lambda: 1e10)
    assert ostraca.prune(run, keep=1).freed_bytes == 0
    assert names(run) == ["0001", "0002"]


# --- Readers


@pytest.mark.parametrize("how", ["prune", "kill"])
def test_an_open_reader_in_another_process_keeps_a_checkpoint(tmp_path: Path, how: str) -> None:
    run = run_of(tmp_path, 1, 2)
    with process(OPEN + "print(float(c['x'][2999]), flush=True)", run / "0001") as reader:
        before = content(run)
        for dry in (True, False):
            report = ostraca.prune(run, keep=1, grace_seconds=0, dry_run=dry)
            assert why(report, "0001") == "a reader has it open" and not report.removed
        assert content(run) == before
        assert reader.stdin is not None and reader.stdout is not None
        if how == "prune":
            reader.stdin.close()
            assert reader.stdout.readline() == "3000.0\n"
        else:
            reader.send_signal(signal.SIGKILL)
        reader.wait()
        ostraca.prune(run, keep=1, grace_seconds=0)
    assert names(run) == ["0002"]


def test_a_tombstone_that_is_read_as_a_base_stays(tmp_path: Path) -> None:
    """What the reader of a delta does with its keyframe, which may be removed already."""
    run = run_of(tmp_path, 1)
    ostraca.prune(run, keep=0)
    (tombstone,) = (run / "0001").glob("tombstone-*")
    lock = "import fcntl; f = open(sys.argv[1], 'rb'); fcntl.flock(f, fcntl.LOCK_SH)\n" + WAIT
    with process(lock, tombstone):
        assert "a reader" in why(ostraca.prune(run, keep=0, grace_seconds=0), "0001")
    assert ostraca.prune(run, keep=0, grace_seconds=0).freed_bytes > 0


def test_opening_waits_while_a_manifest_is_being_removed(tmp_path: Path) -> None:
    run = run_of(tmp_path, 1)
    with (run / "0001" / "manifest.json").open("rb") as manifest:
        fcntl.flock(manifest, fcntl.LOCK_EX)
        code = (
            "print('ready', flush=True)\ntry: ostraca.open(sys.argv[1])\nexcept ostraca.NotFoundError: print('gone')\n"
        )
        with process(code, run / "0001") as reader:
            time.sleep(0.2)
            assert reader.poll() is None
            (run / "0001" / "manifest.json").rename(run / "0001" / f"tombstone-{'0' * 32}.json")
            manifest.close()
            assert reader.stdout is not None and reader.stdout.readline() == "gone\n"


def test_closing_lets_go(tmp_path: Path) -> None:
    run = run_of(tmp_path, 1)
    with ostraca.open(run / "0001") as checkpoint:
        assert "reader" in why(ostraca.prune(run, keep=0, grace_seconds=0), "0001")
        assert checkpoint["x"][0] == 1
    ostraca.load(run / "0001")
    ostraca.prune(run, keep=0, grace_seconds=0)
    assert names(run) == []


# --- Bases


def test_a_keyframe_keeps_its_bytes_while_a_delta_names_it(delta_run: Path) -> None:
    files = set(names(delta_run / "base")) - {"manifest.json"}
    for _ in range(2):
        report = ostraca.prune(delta_run, keep=["delta"], grace_seconds=0)
        assert why(report, "base") == "removed, but its bytes stay: 'delta' has it as its base"
        assert files < set(names(delta_run / "base")) and report.ok and report.freed_bytes == 0
        assert np.array_equal(reference.load(delta_run / "delta")["x"], state(1)["x"])
    ostraca.save(delta_run / "base", state(5))  # another one in its place
    assert "'delta' has it" in why(ostraca.prune(delta_run, keep=["delta", "base"], grace_seconds=0), "base")
    assert np.array_equal(reference.load(delta_run / "delta")["x"], state(1)["x"])
    report = ostraca.prune(delta_run, keep=[], grace_seconds=0)
    assert names(delta_run) == [] and {r.name for r in report.removed} == {"base", "delta"}


def test_deltas_and_keyframes_that_both_go_go_at_once(delta_run: Path) -> None:
    assert len(ostraca.prune(delta_run, keep=0, grace_seconds=0).removed) == 2
    assert names(delta_run) == []


def test_a_base_stays_under_another_name_and_for_a_link_to_its_delta(delta_run: Path, tmp_path: Path) -> None:
    (delta_run / "base").rename(delta_run / "0001")
    (delta_run / "base").symlink_to("0001")
    assert why(ostraca.prune(delta_run, keep=["delta"], grace_seconds=0), "0001") == "the link 'base' leads to it"
    (delta_run / "base").unlink()
    (delta_run / "delta").rename(tmp_path / "elsewhere")
    (delta_run / "delta").symlink_to(tmp_path / "elsewhere")
    assert "'delta' has it as its base" in why(ostraca.prune(delta_run, keep=[], grace_seconds=0), "0001")
    assert len(names(tmp_path / "elsewhere")) == 3


def test_a_manifest_that_cannot_be_used_may_name_any_base(delta_run: Path) -> None:
    manifest = delta_run / "delta" / "manifest.json"
    whole = manifest.read_bytes()
    manifest.write_bytes(whole.replace(b"2026", b"2027"))
    report = ostraca.prune(delta_run, keep=0, grace_seconds=0)
    assert [name for name, _ in report.errors] == ["delta"] and not report.ok and report.freed_bytes == 0
    assert "'delta' may name it as its base" in why(report, "base")
    manifest.write_bytes(whole)
    assert "'delta' has it" in why(ostraca.prune(delta_run, keep=["delta"], grace_seconds=0), "base")


def test_a_checkpoint_of_a_later_release_stays(delta_run: Path) -> None:
    for change in ({"version": 2}, {"features": "0000000000000003"}):
        path = delta_run / "delta" / "manifest.json"
        members = json.loads(path.read_bytes()) | change
        del members["crc32c"]
        path.write_bytes(format_writer.manifest_bytes(members))
        report = ostraca.prune(delta_run, keep=[], grace_seconds=0)
        assert [name for name, _ in report.errors] == ["delta"] and report.freed_bytes == 0
        assert len(names(delta_run / "delta")) == 3


def intent(base: dict[str, str] | None, **changes: Any) -> bytes:
    members = {"format": "ostraca-intent", "version": 1, "id": "ab" * 16, "base": base, "process_count": 1}
    members |= {"created": "2026-11-20T12:00:00Z", "host": "elsewhere", "pid": 1, **changes}
    return format_writer.manifest_bytes(members)


def test_a_running_save_keeps_its_base(tmp_path: Path, wait: Callable[..., None]) -> None:
    run = run_of(tmp_path, 1)
    base = {"directory": "0001", "id": ostraca.Reader(run / "0001").manifest().id}
    (run / "0002").mkdir()
    path = run / "0002" / f"intent-{'ab' * 16}.json"
    path.write_bytes(intent(base)[:-20])  # being written
    assert "its intent is not whole" in why(ostraca.prune(run, keep=0, grace_seconds=60), "0001")
    (tombstone,) = (run / "0001").glob("tombstone-*")
    wait()
    path.write_bytes(intent(base))
    os.utime(path, (time.time() + 2 * HOUR,) * 2)  # written since then
    report = ostraca.prune(run, keep=0)
    assert why(report, "0001") == "removed, but its bytes stay: a save to '0002' has it as its base"
    assert tombstone.exists() and "seconds ago" in why(report, "0002")
    wait()  # dead: both go
    assert len(ostraca.prune(run, keep=0).removed) == 2
    assert names(run) == []


@pytest.mark.parametrize("claim", ["manifest", "intent"])
def test_a_base_is_not_overwritten(delta_run: Path, claim: str) -> None:
    base = {"directory": "base", "id": json.loads((delta_run / "base" / "manifest.json").read_bytes())["id"]}
    if claim == "intent":
        (delta_run / "delta" / "manifest.json").unlink()
        (delta_run / "delta" / f"intent-{'ab' * 16}.json").write_bytes(intent(base))
    before = content(delta_run)
    with pytest.raises(ostraca.ExistsError, match=r"it is the base of .*delta"):
        ostraca.save(delta_run / "base", state(3), overwrite=True)
    assert content(delta_run) == before
    if claim == "intent":  # of a process of this machine that is gone: no claim
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        raw = intent(base, host=os.uname().nodename, pid=gone.pid)
        (delta_run / "delta" / f"intent-{'ab' * 16}.json").write_bytes(raw)
    else:
        (delta_run / "delta" / "manifest.json").unlink()
    ostraca.save(delta_run / "base", state(3), overwrite=True)
    assert np.array_equal(ostraca.load(delta_run / "base")["x"], state(3)["x"])


def test_a_base_is_not_overwritten_by_a_save_that_began_before_it_was_one(tmp_path: Path) -> None:
    run = tmp_path / "run"
    keyframe = format_writer.write(run / "base", state(1), seed=1)
    writer = ostraca.Writer(run / "base", overwrite=True)
    writer.add("x", np.zeros(3), dtype="float64", shape=(3,))
    report = writer.finish()
    format_writer.write(run / "delta", state(1), {"x": format_writer.Options(codec="base")}, base=keyframe, seed=2)
    with pytest.raises(ostraca.ExistsError, match=r"it is the base of .*delta"):
        ostraca.commit(run / "base", [report], overwrite=True)
    writer.abort()
    assert len(names(run / "base")) == 3 and np.array_equal(ostraca.load(run / "base")["x"], state(1)["x"])


def test_a_delta_and_a_copy_without_deltas_are_overwritten(delta_run: Path) -> None:
    ostraca.save(delta_run / "delta", state(7), overwrite=True)
    assert np.array_equal(ostraca.load(delta_run / "delta")["x"], state(7)["x"])
    ostraca.save(delta_run / "base", state(8), overwrite=True)


# --- Saves


def test_a_save_beside_it_is_left_alone_and_commits(tmp_path: Path, wait: Callable[..., None]) -> None:
    run = run_of(tmp_path, 1)
    with process(FINISH, run / "0009") as save:
        wait(9 * HOUR)  # it has been computing
        before = content(run / "0009")
        report = ostraca.prune(run, keep=0, grace_seconds=0)
        assert f"process {save.pid} is saving it" in why(report, "0009")
        assert content(run / "0009") == before and names(run) == ["0009"]
        assert save.stdin is not None
        save.stdin.close()
        assert save.wait(60) == 0
    assert ostraca.open(run / "0009").step == 9
    assert ostraca.verify(run / "0009", deep=True).ok


def test_a_killed_save_is_swept_after_the_grace_period(tmp_path: Path, wait: Callable[..., None]) -> None:
    run = run_of(tmp_path, 1)
    for name in ("0009", "0001"):  # in a directory of its own, and beside a checkpoint
        with process(SAVE.replace("argv[1])", "argv[1], overwrite=True)"), run / name) as save:
            save.send_signal(signal.SIGKILL)
            save.wait()
    before = content(run)
    report = ostraca.prune(run, keep=1)
    assert content(run) == before and not report.removed
    for name in ("0009", "0001"):
        assert "a save wrote to it" in why(report, name)
    wait()
    report = ostraca.prune(run, keep=1)
    assert [(r.name, r.reason) for r in report.removed] == [
        ("0001", "an unfinished save"),
        ("0009", "an unfinished save"),
    ]
    assert names(run) == ["0001"] and len(names(run / "0001")) == 3
    assert ostraca.verify(run / "0001", deep=True).ok


def test_another_process_with_the_number_of_a_dead_save_keeps_nothing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "0001").mkdir(parents=True)
    path = run / "0001" / f"intent-{'ab' * 16}.json"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    me = {"host": os.uname().nodename, "pid": os.getpid()}
    for which, stays in (
        ({}, True),  # of an earlier release, which did not say more
        ({"boot_id": boot, "start_ticks": ticks}, True),
        ({"boot_id": boot, "start_ticks": ticks, "created": "2001-01-01T00:00:00Z"}, True),  # the clock was put forward
        ({"boot_id": boot, "start_ticks": ticks - 1}, False),
        ({"boot_id": "before", "start_ticks": ticks}, False),
    ):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(intent(None, **me, **which))
        ostraca.prune(run, keep=0, grace_seconds=0)
        assert path.exists() == stays


def test_a_save_on_another_host_that_renews_its_intent_is_not_dead(tmp_path: Path, wait: Callable[..., None]) -> None:
    run = tmp_path / "run"
    (run / "0001").mkdir(parents=True)
    path, data = run / "0001" / f"intent-{'ab' * 16}.json", run / "0001" / f"p00000-00001-{'ab' * 16}.ostraca"
    path.write_bytes(intent(None, host="elsewhere"))
    data.write_bytes(b"on its way")
    wait()
    renewed = time.time() + 2 * HOUR  # now, by that clock
    os.utime(path, (renewed, renewed))
    report = ostraca.prune(run, keep=0)
    assert why(report, "0001").startswith("an unfinished save: a save wrote to it") and data.exists()
    wait()
    assert not ostraca.prune(run, keep=0).kept and not (run / "0001").exists()


def test_leftovers_of_a_committed_save_are_swept(tmp_path: Path, wait: Callable[..., None]) -> None:
    run = run_of(tmp_path, 1)
    attempt = ostraca.Reader(run / "0001").manifest().id
    os.link(run / "0001" / "manifest.json", run / "0001" / f"manifest-{attempt}.json")
    (run / "0001" / f"intent-{attempt}.json").write_bytes(intent(None))
    assert ostraca.prune(run, keep=1).freed_bytes == 0
    wait()
    report = ostraca.prune(run, keep=1)
    assert [r.reason for r in report.removed] == ["left over from its save"] and len(names(run / "0001")) == 3
    assert ostraca.verify(run / "0001", deep=True).ok


# --- What is not ours


def test_foreign_files_and_links_are_not_touched(tmp_path: Path) -> None:
    run = run_of(tmp_path, 1, 2)
    outside = tmp_path / "outside"
    ostraca.save(outside, state(3), step=0)
    (run / "linked").symlink_to(outside)
    (run / "nowhere").symlink_to("absent")
    attempt = "cd" * 16
    for foreign in ("web", "empty", "logs"):
        (run / foreign).mkdir()
    (run / "web" / "manifest.json").write_text('{"name": "an extension"}')
    (run / "logs" / "events").write_text("x")
    (run / "0001" / "notes.txt").write_text("mine")
    (run / "0001" / f"p00000-{attempt}.ostraca").symlink_to(outside / "manifest.json")
    (run / f"index-{attempt}.ostraca").write_text("not in a checkpoint's directory")
    (run / "0002" / f"p00000-{attempt}.ostraca.bak").write_text("not a name of ours")
    before = content(tmp_path)
    report = ostraca.prune(run, keep=0, grace_seconds=0)
    assert report.ok and {r.name for r in report.removed} == {"0001", "0002"}
    assert names(run / "0001") == ["notes.txt", f"p00000-{attempt}.ostraca"]
    assert names(run / "0002") == [f"p00000-{attempt}.ostraca.bak"]
    after = content(tmp_path)
    gone = before.keys() - after.keys()
    assert all(name.startswith(("run/0001/", "run/0002/")) for name in gone) and len(gone) == 6
    assert ostraca.verify(outside, deep=True).ok


def test_the_directory_may_be_a_link(tmp_path: Path) -> None:
    run = run_of(tmp_path, 1, 2)
    (tmp_path / "link").symlink_to(run)
    ostraca.prune(tmp_path / "link", keep=["0002"], grace_seconds=0)
    assert names(run) == ["0002"]


# --- Failures


Refusal = Callable[..., Any]


@pytest.mark.parametrize("call", ["retire", "sync", "remove", "remove_directory"])
def test_what_fails_is_reported_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    run = run_of(tmp_path, 1, 2, 3)
    place = _core.Run if call == "remove_directory" else _core.Storage
    real: Refusal = getattr(place, call)
    refused: list[object] = []

    def refuse_once(*arguments: Any) -> Any:
        if not refused:
            refused.append(arguments)
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), "it")
        return real(*arguments)

    monkeypatch.setattr(place, call, refuse_once)
    report = ostraca.prune(run, keep=1, grace_seconds=0)
    monkeypatch.undo()
    assert len(refused) == 1 and not report.ok
    assert report.errors[0] == ("0001", "it: Operation not permitted")
    if call == "sync":  # what is not durable frees nothing
        assert report.freed_bytes == 0 and report.errors[-1][0] == "."
    else:
        assert not (run / "0002").exists() and report.freed_bytes > 0
    for name in names(run):
        if (run / name / "manifest.json").exists():
            assert ostraca.verify(run / name, deep=True).ok
    if call == "remove":  # the tombstone goes last
        assert len(list((run / "0001").glob("tombstone-*"))) == 1
    assert ostraca.prune(run, keep=1, grace_seconds=0).ok
    assert [name for name in names(run) if names(run / name)] == ["0003"]


def test_what_is_overwritten_meanwhile_stays(tmp_path: Path) -> None:
    run = run_of(tmp_path, 1)

    def keep(record: ostraca.CheckpointRecord) -> bool:
        ostraca.save(record.path, state(2), overwrite=True)
        return False

    report = ostraca.prune(run, keep=keep, grace_seconds=0)
    assert why(report, "0001") == "it was overwritten meanwhile" and not report.removed
    assert np.array_equal(ostraca.load(run / "0001")["x"], state(2)["x"])


def test_an_overwrite_that_comes_between_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where there are no locks: otherwise the overwrite waits."""
    run = run_of(tmp_path, 1)
    real = _core.Storage.retire

    def overwrite(*arguments: Any) -> None:
        ostraca.save(tmp_path / "other", state(2), step=2)
        for file in (tmp_path / "other").iterdir():
            file.rename(run / "0001" / file.name)
        real(*arguments)

    monkeypatch.setattr(_core.Storage, "retire", overwrite)
    report = ostraca.prune(run, keep=0)
    assert not report.removed and "being overwritten" in report.errors[0][1]
    assert np.array_equal(ostraca.load(run / "0001")["x"], state(2)["x"])


# --- The command


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(tmp_path, 1, 2, 3)
    assert main(["prune", str(run), "--keep", "2", "--dry-run"]) == 0
    output = capsys.readouterr().out
    assert "0001" in output and "would be removed" in output and "one of the newest 2" in output
    assert len(names(run)) == 3
    assert main(["prune", str(run), "--keep-step", "2", "3", "--grace", "0", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [(r["name"], r["step"], r["reason"]) for r in report["removed"]] == [("0001", 1, "not kept")]
    assert report["freed_bytes"] == report["removed"][0]["bytes"] > 0 and report["errors"] == []
    assert names(run) == ["0002", "0003"]
    assert main(["prune", str(run), "--keep", "1"]) == 0
    assert "bytes go in 3600 seconds" in capsys.readouterr().out
    assert main(["ls", str(run)]) == 0
    assert "removed" in capsys.readouterr().out
    for arguments in (["--keep-step", "7"], [], ["--keep", "-1"], ["--keep", "1", "--keep-step", "1"]):
        assert main(["prune", str(run), *arguments]) == 2
    (run / "0003" / "manifest.json").write_text("{}")
    capsys.readouterr()
    assert main(["prune", str(run), "--keep", "1"]) == 2
    assert "0003: its manifest cannot be used" in capsys.readouterr().err
