"""What arrives is not taken for what died: copies that keep their times, renamed manifests, stepped clocks."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import ostraca
from deleting import holds, id_of, names, process, state, why

HOUR = 3600
GRACE_SECONDS = 2.0  # of prunes that real time is waited for


def age(directory: Path, seconds: float = 2 * HOUR) -> None:
    """Sets modification times back; `cp -a` and the like bring them along."""
    then = time.time() - seconds
    for file in [*directory.rglob("*"), directory]:
        os.utime(file, (then, then), follow_symlinks=False)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An old checkpoint elsewhere."""
    place = tmp_path / "elsewhere" / "0001"
    ostraca.save(place, state(1), step=1)
    age(place.parent)
    return place


@pytest.fixture
def run(tmp_path: Path) -> Path:
    ostraca.save(tmp_path / "run" / "0002", state(2), step=2)
    return tmp_path / "run"


def cp(source: Path, files: list[str], target: Path) -> None:
    subprocess.run(["cp", "-a", *(source / file for file in files), target], check=True)


def tar(source: Path, files: list[str], target: Path) -> None:
    with subprocess.Popen(["tar", "c", "-C", source, *files], stdout=subprocess.PIPE) as packing:
        subprocess.run(["tar", "x", "-C", target], stdin=packing.stdout, check=True)


def rsync(source: Path, files: list[str], target: Path) -> None:
    """As rsync -a does: each file under a hidden name, with its times, then under its own."""
    for file in files:
        shutil.copy2(source / file, target / f".{file}.a1B2c3")
        (target / f".{file}.a1B2c3").rename(target / file)


def mv(source: Path, files: list[str], target: Path) -> None:
    """As mv does across file systems: it copies with times, then it removes."""
    for file in files:
        shutil.copy2(source / file, target / file)
        (source / file).unlink()


WAYS = (cp, tar, rsync, mv)


@pytest.mark.parametrize("bring", WAYS, ids=lambda way: str(way.__name__))
def test_files_whose_manifest_has_not_arrived_yet_stay(
    source: Path, run: Path, bring: Callable[[Path, list[str], Path], None]
) -> None:
    """A default `prune` after each file, the manifest last; the directory's own times are brought along, too."""
    files = sorted(names(source), key=lambda name: name == "manifest.json")
    target = run / "0001"
    target.mkdir()
    for number, file in enumerate(files):
        bring(source, [file], target)
        then = time.time() - 2 * HOUR
        os.utime(target, (then, then))
        ostraca.prune(run, keep=2)
        left = names(target) if target.exists() else []
        assert left == sorted(files[: number + 1]), f"taken for what a dead save left, after {file} arrived"
    assert holds(target, 1)


@pytest.mark.parametrize("bring", WAYS, ids=lambda way: str(way.__name__))
def test_a_tombstone_that_arrives_is_as_young_as_its_arrival(
    source: Path, run: Path, bring: Callable[[Path, list[str], Path], None]
) -> None:
    """Its bytes go in an hour: until then it can be renamed back."""
    tombstone = source / f"tombstone-{id_of(source)}.json"
    (source / "manifest.json").rename(tombstone)
    age(source)
    (run / "0001").mkdir()
    bring(source, names(source), run / "0001")
    report = ostraca.prune(run, keep=1)
    assert len(names(run / "0001") if (run / "0001").exists() else []) == 3, "its bytes went at once"
    assert report.freed_bytes == 0
    (run / "0001" / tombstone.name).rename(run / "0001" / "manifest.json")
    assert holds(run / "0001", 1)


def test_an_attempt_that_arrives_is_as_young_as_its_arrival(source: Path, run: Path) -> None:
    """Data files and an intent of a machine that is not here: its save may go on there."""
    intent = f"intent-{id_of(source)}.json"
    (source / "manifest.json").rename(source / intent)  # none that can be read, as one that is being written
    age(source)
    shutil.copytree(source, run / "0001")
    ostraca.prune(run, keep=1)
    assert (run / "0001").exists() and len(names(run / "0001")) == 3, "it was swept at once"


@pytest.mark.parametrize("aside", ["in its place", "elsewhere"])
def test_files_whose_manifest_was_renamed_away_a_second_ago_are_young(run: Path, tmp_path: Path, aside: str) -> None:
    """Whoever hides a checkpoint, or replaces its manifest by hand, has the whole grace period."""
    ostraca.save(run / "0001", state(1), step=1)
    time.sleep(GRACE_SECONDS + 0.5)
    manifest = run / "0001" / "manifest.json"
    hidden = manifest.rename(run / "0001" / "hidden" if aside == "in its place" else tmp_path / "hidden")
    ostraca.prune(run, keep=1, grace_seconds=GRACE_SECONDS)
    assert len(list((run / "0001").glob("*.ostraca"))) == 2, "taken for what a dead save left"
    hidden.rename(manifest)
    assert holds(run / "0001", 1)


def test_what_is_old_still_goes(run: Path) -> None:
    """After the same wait: a dead save's files, and a tombstone's."""
    ostraca.save(run / "0001", state(1), step=1)
    ostraca.save(run / "0000", state(0), step=0)
    ostraca.prune(run, keep=["0001", "0002"], grace_seconds=GRACE_SECONDS)
    (run / "0001" / "manifest.json").unlink()
    time.sleep(GRACE_SECONDS + 0.5)
    ostraca.prune(run, keep=1, grace_seconds=GRACE_SECONDS)
    assert names(run) == ["0002"]


# --- The clock

SAVE = """
w = ostraca.Writer(sys.argv[1])
w.add('x', np.arange(3000, dtype=np.float32) + 9, dtype='float32', shape=(3000,))
r = w.finish()
print('ready', flush=True)
sys.stdin.readline()
ostraca.commit(sys.argv[1], [r], step=9)
"""


@pytest.mark.parametrize("hours", [-2, 2])
def test_a_clock_that_is_stepped_makes_no_living_save_dead(run: Path, clock: str, hours: int) -> None:
    """The intent was written by a clock that is hours from the one that dates its process now; the process goes on."""
    with process(SAVE, run / "0009", LD_PRELOAD=clock, CLOCK_STEP_SECONDS=str(hours * HOUR)) as save:
        before = names(run / "0009")
        time.sleep(GRACE_SECONDS + 0.5)
        report = ostraca.prune(run, keep=1, grace_seconds=GRACE_SECONDS)
        assert (run / "0009").exists() and names(run / "0009") == before, "the living save was taken for a dead one"
        assert str(save.pid) in why(report, "0009")
        assert save.stdin is not None
        save.stdin.write("\n")
        save.stdin.flush()
        assert save.wait(60) == 0
    assert holds(run / "0009", 9)
