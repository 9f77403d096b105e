"""What is newest is what was saved last: restarted and branched runs never lose the save that they have just made.

Saves are made by processes of their own, as restarted runs are; the last is the newest whatever its step.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ostraca
from deleting import holds, id_of, members_of, names
from ostraca.cli import main as command

SAVE = """
import json, sys, numpy as np, ostraca
run, steps, after = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
for name in after:
    ostraca.load(f"{run}/{name}")
for step in steps:
    name, seed = ("final", 0) if step is None else (str(step), step)
    ostraca.save(f"{run}/{name}", {"x": np.arange(3000, dtype=np.float32) + seed}, step=step)
"""


def save(run: Path, *steps: int | None, after: tuple[str, ...] = (), **environment: str) -> None:
    """Saves these steps in a new process, which first loads the checkpoints `after`."""
    line = [sys.executable, "-c", SAVE, run, json.dumps(steps), json.dumps(after)]
    subprocess.run(line, check=True, timeout=120, env=os.environ | environment)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Steps 900 and 1000 of a run that has ended."""
    save(tmp_path / "run", 900, 1000)
    return tmp_path / "run"


def listed(run: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The names in the order of `ostraca ls`, the newest last or first."""
    capsys.readouterr()
    assert command(["ls", str(run), "--json"]) == 0
    return [Path(entry["path"]).name for entry in json.loads(capsys.readouterr().out)["checkpoints"]]


def pruned(run: Path, keep: int) -> list[str]:
    """What a prune would leave."""
    removed = {entry.name for entry in ostraca.prune(run, keep=keep, dry_run=True).removed}
    return sorted(set(names(run)) - removed)


@pytest.mark.parametrize("keep", [1, 2])
def test_a_run_that_was_restarted_from_nothing_keeps_its_save(run: Path, keep: int) -> None:
    save(run, 100)
    ostraca.prune(run, keep=keep, grace_seconds=0)
    assert names(run) == (["100"] if keep == 1 else ["100", "1000"]), "the save that was just made was removed"
    assert holds(run / "100", 100)


@pytest.mark.parametrize("keep", [1, 2])
def test_a_save_without_a_step_is_not_older_for_that(run: Path, keep: int) -> None:
    save(run, None)
    ostraca.prune(run, keep=keep, grace_seconds=0)
    assert names(run) == (["final"] if keep == 1 else ["1000", "final"]), "the save that was just made was removed"
    assert holds(run / "final", 0)


def test_a_branch_keeps_its_save(run: Path) -> None:
    """The run goes on from step 900, as what came after it went wrong."""
    save(run, 950, after=("900",))
    assert pruned(run, 1) == ["950"] and "950" in pruned(run, 2), "the save that was just made goes"


def test_creation_is_finer_than_seconds(tmp_path: Path) -> None:
    """Saves of one second, whose steps and names say the contrary."""
    for step in (30, 20, 10):
        ostraca.save(tmp_path / str(step), {"x": 1}, step=step)
    left = [pruned(tmp_path, n) for n in (1, 2)]
    assert left == [["10"], ["10", "20"]], f"keeping 1 and 2 of 30, 20 and 10, saved in this order, leaves {left}"


def test_ls_and_prune_agree(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(run, 100)
    save(run, None, after=("100",))
    order = listed(run, capsys)
    assert order in (["900", "1000", "100", "final"], ["final", "100", "1000", "900"]), f"ls lists them as {order}"
    newest_first = order if order[0] == "final" else order[::-1]
    assert [pruned(run, n) for n in (1, 2, 3)] == [sorted(newest_first[:n]) for n in (1, 2, 3)]


def test_the_report_says_where_order_by_step_and_by_creation_disagree(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(run, 1100)
    for expected in (False, True):
        if expected:
            save(run, 100)
        report = ostraca.prune(run, keep=2, dry_run=True)
        warnings: list[str] = getattr(report, "warnings", [])
        assert bool(warnings) == expected, f"the report says: {report}"
        capsys.readouterr()
        assert command(["prune", str(run), "--keep", "2", "--dry-run"]) == 0
        printed = capsys.readouterr()
        if expected:
            assert any("step" in warning for warning in warnings) and report.ok
            assert warnings[0] in printed.out + printed.err


def test_manifests_say_what_order_needs(run: Path) -> None:
    """Creation in nanoseconds, and the checkpoint that the process last loaded or saved in this run."""
    save(run, 910, 920, after=("900",))
    save(run, 5)
    shutil.copytree(run / "5", run.parent / "another" / "5")
    save(run, 930, after=("920", "../another/5"))  # of another run: no parent in this one
    by_step: dict[str, dict[str, Any]] = {name: members_of(run / name) for name in names(run)}
    for members in by_step.values():
        nanoseconds = members.get("created_nanoseconds")
        assert isinstance(nanoseconds, int) and 0 <= nanoseconds < 10**9, f"created_nanoseconds: {nanoseconds}"
    parents = {name: members.get("parent") for name, members in by_step.items()}
    ids = {name: id_of(run / name) for name in by_step}
    expected = {"900": None, "1000": "900", "910": "900", "920": "910", "5": None, "930": "920"}
    assert parents == {name: parent and ids[parent] for name, parent in expected.items()}


def test_a_recorded_parent_outweighs_a_clock_that_is_late(run: Path, clock: str) -> None:
    """The restarted run is on a machine whose clock is two hours behind."""
    save(run, 100, after=("1000",), LD_PRELOAD=clock, CLOCK_STEP_SECONDS="-7200")
    assert pruned(run, 1) == ["100"] and "100" in pruned(run, 2), "the save that was just made goes"


def test_a_parent_may_be_given(run: Path) -> None:
    ostraca.save(run / "1001", {"x": 1}, step=1001, parent=id_of(run / "900"))
    assert members_of(run / "1001")["parent"] == id_of(run / "900")


def test_newest_gives_the_newest_first(run: Path) -> None:
    save(run, 100)
    seen: list[Any] = []
    ostraca.prune(run, keep=lambda record: seen.append(record) or True, dry_run=True)
    for order in (seen, seen[::-1]):
        assert [record.name for record in ostraca.newest(order)] == ["100", "1000", "900"]
