"""What may be needed stays: bases that cannot be known, bases by id, what links lead to.

This file is also the script that the library is preloaded into, which stops `prune` between any two of its calls, or
makes one of them say that nothing is there.
"""

import errno
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import deleting
import ostraca
from deleting import Child, content, error, holds, id_of, keyframe_and_delta, names, state, stopping, why
from ostraca.cli import main as command

FAIL = 3  # interpose.c's mode


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A keyframe "base" and its "delta", and a checkpoint of each kind that is not kept below."""
    run = tmp_path / "run"
    keyframe_and_delta(run)
    keyframe_and_delta(run, "other-base", "other-delta", seed=10)
    ostraca.save(run / "dead", state(3), base=run / "base")
    (run / "dead" / "manifest.json").rename(run / "dead" / f"tombstone-{id_of(run / 'dead')}.json")
    return run


def manifest_of(path: Path) -> list[str]:
    return [name for name in names(path) if name == "manifest.json"] if path.exists() else []


# --- What cannot be read now


@pytest.mark.parametrize("operation", ["prune", "overwrite"])
@pytest.mark.parametrize("how", ["rename", "ENOENT"])
def test_what_vanishes_between_listing_and_opening_keeps_its_claim(
    shim: Path, tmp_path: Path, how: str, operation: str
) -> None:
    """A person renames the delta, or the file system says once that it is not there, at each call of a prune that does
    not keep the keyframe, or of a save over it."""
    deleting.run_script(__file__, shim, tmp_path, how, operation)


def test_what_is_listed_and_cannot_be_read_frees_no_keyframe(run: Path) -> None:
    """A manifest on storage that is not there at the moment may name any. Manifests that are not kept are retired none
    the less, and what is no keyframe's goes."""
    manifest, away = run / "delta" / "manifest.json", run.parent / "away"
    manifest.rename(away)
    manifest.symlink_to("../../absent")
    before = content(run)
    report = ostraca.prune(run, keep=[], grace_seconds=0)
    after = content(run)
    for place in ("base", "other-base", "delta"):
        kept = {name for name in before if name.startswith(f"{place}/") and name.endswith(".ostraca")}
        assert kept <= after.keys(), f"the bytes of {place} went, and nobody knows what 'delta' names"
    assert not report.ok and error(report, "delta"), f"the report does not name the culprit: {report}"
    assert manifest_of(run / "base") == manifest_of(run / "other-base") == []
    assert not (run / "other-delta").exists() and not (run / "dead").exists(), "what is no keyframe's stays"
    manifest.unlink()
    away.rename(manifest)
    assert holds(run / "delta", 1)
    report = ostraca.prune(run, keep=["delta"], grace_seconds=0)
    assert report.ok and names(run) == ["base", "delta"] and holds(run / "delta", 1)


# --- Claims go by id


def test_a_renamed_keyframe_of_a_kept_delta_keeps_its_bytes(run: Path) -> None:
    (run / "base").rename(run / "renamed")
    before = content(run / "renamed")
    report = ostraca.prune(run, keep=["delta"], grace_seconds=0)
    after = content(run / "renamed") if (run / "renamed").exists() else {}
    assert {n: raw for n, raw in before.items() if n.endswith(".ostraca")}.items() <= after.items(), "freed silently"
    assert "'delta'" in why(report, "renamed")
    assert "base" in error(report, "delta"), "a kept delta cannot be loaded, and nobody is told"
    (run / "renamed").rename(run / "base")
    assert holds(run / "delta", 1)


def test_a_copied_keyframe_does_not_stand_for_the_original(run: Path) -> None:
    """A copy has the same id: while the delta lives none of the two may lose its bytes, as either may be renamed."""
    shutil.copytree(run / "base", run / "copy")
    (run / "base").rename(run / "original")
    ostraca.prune(run, keep=["delta"], grace_seconds=0)
    for name in ("original", "copy"):
        if len(list((run / name).glob("*.ostraca"))) == 2:
            (run / name).rename(run / "base")
            break
    assert holds(run / "delta", 1), "both are gone"


def absent(run: Path) -> None:
    shutil.rmtree(run / "base")


def renamed(run: Path) -> None:
    (run / "base").rename(run / "renamed")


def replaced(run: Path) -> None:
    shutil.rmtree(run / "base")
    ostraca.save(run / "base", state(5))


@pytest.mark.parametrize("lose", [absent, renamed, replaced], ids=lambda lose: str(lose.__name__))
def test_a_kept_delta_whose_base_is_not_there_is_an_error(
    run: Path, lose: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    lose(run)
    for dry_run in (True, False):
        report = ostraca.prune(run, keep=["delta"], grace_seconds=0, dry_run=dry_run)
        assert not report.ok and "base" in error(report, "delta"), "the report calls this run good"
    assert manifest_of(run / "delta")
    capsys.readouterr()
    assert command(["ls", str(run), "--json"]) == 1
    listed = json.loads(capsys.readouterr().out)["checkpoints"]
    entry = next(entry for entry in listed if Path(entry["path"]).name == "delta")
    assert entry["status"] == "damaged" and "base" in entry["detail"]


# --- Links


def chain(run: Path) -> str:
    (run / "best").symlink_to("other-base")
    (run / "latest").symlink_to("best")
    return "best"


LINKS: dict[str, Callable[[Path], object]] = {
    "relative": lambda run: (run / "latest").symlink_to("other-base"),
    "absolute": lambda run: (run / "latest").symlink_to(run.resolve() / "other-base"),
    "roundabout": lambda run: (run / "latest").symlink_to("../run/./other-base"),
    "a chain": chain,
}


@pytest.mark.parametrize("how", LINKS)
def test_what_a_link_in_the_run_leads_to_is_kept(run: Path, how: str) -> None:
    LINKS[how](run)
    report = ostraca.prune(run, keep=["delta"], grace_seconds=0)
    assert manifest_of(run / "other-base"), f"`latest` dangles: {names(run)}"
    assert "latest" in why(report, "other-base") or "best" in why(report, "other-base")
    assert holds(run / "latest", 10) and report.ok
    for link in ("latest", "best"):
        (run / link).unlink(missing_ok=True)
    ostraca.prune(run, keep=["delta"], grace_seconds=0)
    assert names(run) == ["base", "delta"]


def test_what_a_link_leads_to_keeps_its_base(run: Path) -> None:
    (run / "latest").symlink_to("other-delta")
    ostraca.prune(run, keep=["delta"], grace_seconds=0)
    assert (run / "other-delta").exists() and holds(run / "latest", 10), "`latest` dangles"


# --- In the script ---------------------------------------------------------------------------------------------------


def prune(run: Path) -> Callable[[], object]:
    return lambda: ostraca.prune(run, keep=lambda record: record.base is not None, grace_seconds=0)


def overwrite(run: Path) -> Callable[[], object]:
    """The commit of a save over the keyframe that began before the delta was there."""
    (run / "delta").rename(run.parent / "later")
    writer = ostraca.Writer(run / "base", overwrite=True)
    writer.add("x", state(50)["x"], dtype="float32", shape=(3000,))
    report = writer.finish()
    (run.parent / "later").rename(run / "delta")
    return lambda: ostraca.commit(run / "base", [report], overwrite=True)


OPERATIONS = {"prune": prune, "overwrite": overwrite}


def strike(library: str, scratch: Path, run: Path, call: int, how: str, operation: str) -> tuple[str, list[str]]:
    """What the operation said, "" when it made fewer calls; and its calls."""
    action = OPERATIONS[operation](run)
    log = scratch / "log"
    log.unlink(missing_ok=True)
    if how == "rename":
        child = Child(scratch, action, stopping(library, run, call, log))
        if not child.stopped():
            return "", []
        (run / "delta").rename(run / "moved")
        child.go_on()
        said = child.said()
        (run / "moved").rename(run / "delta")
    else:
        said = Child(scratch, action, stopping(library, run, call, log, FAIL, errno.ENOENT)).said()
    calls = log.read_text().splitlines()
    return (said if call <= len(calls) else ""), calls


def run_all(library: str, scratch: Path, how: str, operation: str) -> Iterator[str]:
    """What went wrong, and last how many points there were."""
    original = scratch / "original"
    keyframe_and_delta(original)
    for call in range(1, 1000):
        run = scratch / "run"
        shutil.copytree(original, run)
        said, calls = strike(library, scratch, run, call, how, operation)
        if not said:
            yield f"{call - 1} points"
            return
        where = f"call {call}, {calls[call - 1]}: {operation} said: {said}"
        if not manifest_of(run / "delta"):
            yield f"the kept delta was removed, {where}"
        elif not (run / "base").exists() or not holds(run / "delta", 1):
            yield f"the kept delta's base was freed, {where}"
        elif said.startswith(("unexpected", "hangs")):
            yield where
        shutil.rmtree(run)


def main() -> int:
    library, scratch, how, operation = sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4]
    *wrong, points = run_all(library, scratch, how, operation)
    print(f"{how} at each of the calls of {operation}: {len(wrong)} of {points} are wrong")
    print("\n".join(wrong[:3]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
