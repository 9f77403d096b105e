"""Facts that change after the commit: notes, tags, and the checkpoints that no prune removes."""

import json
import math
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ostraca
from ostraca import _core, cli

TREE = {"w": np.arange(1000, dtype="f4")}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(["a", "b", "$c", "d/e", ""])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for step in range(3):
        ostraca.save(tmp_path / str(step), TREE, step=step)
    return tmp_path


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def note_files(checkpoint: Path) -> list[str]:
    return sorted(file.name for file in checkpoint.glob("notes-*"))


def test_facts_are_merged_and_removed(run: Path) -> None:
    place = run / "0"
    assert ostraca.notes(place) == {}
    assert ostraca.annotate(place, {"loss": math.inf, "tags": ("a", "b")}) == {"loss": math.inf, "tags": ["a", "b"]}
    assert ostraca.annotate(place, {"seen": 1 << 60}) == {"loss": math.inf, "tags": ["a", "b"], "seen": 1 << 60}
    assert ostraca.annotate(place, {"loss": None}) == ostraca.notes(place) == {"tags": ["a", "b"], "seen": 1 << 60}
    assert note_files(place) == ["notes-1.json", "notes-2.json", "notes-3.json"]
    ostraca.annotate(place, {"seen": 1 << 60})  # nothing new
    assert len(note_files(place)) == 3
    for i in range(20):
        ostraca.annotate(place, {"i": i})
    assert len(note_files(place)) == 8
    ostraca.annotate(place, {"i": None})
    assert ostraca.notes(run / "1") == {}
    assert ostraca.verify(place, deep=True).ok


def test_what_cannot_be_noted_is_refused(run: Path) -> None:
    for facts, error in (
        ([("a", 1)], TypeError),
        ({1: 2}, TypeError),
        ({"tags": "protected"}, TypeError),
        ({"tags": [1]}, TypeError),
        ({"tags": [""]}, TypeError),
        ({"w": TREE["w"]}, ostraca.UnsupportedError),
        ({"long": "x" * (2 << 20)}, ValueError),
    ):
        with pytest.raises(error):
            ostraca.annotate(run / "0", facts)  # type: ignore[arg-type]
    for call in (ostraca.notes, lambda path: ostraca.annotate(path, {"a": 1})):
        with pytest.raises(ostraca.NotFoundError):
            call(run / "absent")
        with pytest.raises(ostraca.NotFoundError):
            call(run)
    assert note_files(run / "0") == []


@settings(max_examples=40, deadline=None)
@given(changes=st.lists(st.dictionaries(NAMES, VALUES, max_size=4), max_size=6))
def test_any_facts_come_back(changes: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> None:
    place = tmp_path_factory.mktemp("run") / "0"
    ostraca.save(place, {"a": 1})
    expected: dict[str, Any] = {}
    for facts in changes:
        expected = {name: value for name, value in (expected | facts).items() if value is not None}
        assert ostraca.annotate(place, facts) == ostraca.notes(place) == expected
    assert len(note_files(place)) <= 8


def test_an_overwritten_checkpoints_notes_do_not_count(run: Path) -> None:
    ostraca.annotate(run / "0", {"loss": 1, "tags": ["protected"]})
    ostraca.save(run / "0", TREE, step=0, overwrite=True)
    assert ostraca.notes(run / "0") == {}
    report = ostraca.prune(run, keep=["2"], grace_seconds=0)
    assert report.ok and {removed.name for removed in report.removed} == {"0", "1"}
    assert names(run) == ["2"]


def test_protected_is_kept_by_every_prune_and_notes_go_with_their_checkpoint(run: Path) -> None:
    ostraca.annotate(run / "0", {"tags": ["protected"]})
    ostraca.annotate(run / "1", {"tags": ["other"]})
    for keep in (1, 0, ["2"], [2], lambda record: False):
        report = ostraca.prune(run, keep=keep, dry_run=True)
        assert "protected" in next(kept.reason for kept in report.kept if kept.name == "0")
    report = ostraca.prune(run, keep=0, grace_seconds=0)
    assert report.ok and names(run) == ["0"]
    ostraca.annotate(run / "0", {"tags": None})
    ostraca.prune(run, keep=0, grace_seconds=0)
    assert names(run) == []


def test_what_is_protected_while_it_is_pruned_stays(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Acknowledged after prune has looked, and before it removes the manifest."""
    retire = _core.Storage.retire

    def annotated(self: _core.Storage, *arguments: Any) -> None:
        ostraca.annotate(run / "0", {"tags": ["protected"]})
        retire(self, *arguments)

    monkeypatch.setattr(_core.Storage, "retire", annotated)
    report = ostraca.prune(run, keep=["2"], grace_seconds=0)
    assert report.ok and [removed.name for removed in report.removed] == ["1"]
    assert "protected" in next(kept.reason for kept in report.kept if kept.name == "0")
    assert (ostraca.load(run / "0")["w"] == TREE["w"]).all()
    assert not list((run / "0").glob("tombstone*"))


@pytest.mark.parametrize("damage", ["cut", "flip", "directory", "fifo", "link"])
def test_notes_that_cannot_be_read_protect(run: Path, damage: str) -> None:
    """The newest may say so. Older ones still tell what is known; nothing is written over what would be lost."""
    place = run / "0"
    ostraca.annotate(place, {"a": 1})
    text = (place / "notes-1.json").read_bytes()
    newest = place / "notes-2.json"
    if damage == "cut":
        newest.write_bytes(text[:-9])
    elif damage == "flip":
        newest.write_bytes(text.replace(b'"a": 1', b'"a": 2'))
    elif damage == "directory":
        newest.mkdir()
    elif damage == "fifo":
        os.mkfifo(newest)
    else:
        newest.symlink_to(place / "notes-1.json")
    if damage in ("cut", "flip"):
        assert ostraca.notes(place) == {"a": 1}
        with pytest.raises(ostraca.FormatError, match=r"notes-2\.json"):
            ostraca.annotate(place, {"b": 1})
    if damage != "link":
        report = ostraca.prune(run, keep=1, grace_seconds=0)
        assert "cannot be read" in next(kept.reason for kept in report.kept if kept.name == "0")
    assert (ostraca.load(place)["w"] == TREE["w"]).all()


def test_the_last_number_is_an_error_not_a_loss(run: Path) -> None:
    place = run / "0"
    ostraca.annotate(place, {"a": 1, "tags": ["protected"]})
    (place / "notes-1.json").rename(place / f"notes-{10**15}.json")
    assert ostraca.notes(place)["a"] == 1
    with pytest.raises(ostraca.FormatError, match="the last number"):
        ostraca.annotate(place, {"b": 1})
    assert ostraca.prune(run, keep=0, dry_run=True).kept[0].name == "0"


def test_hostile_names_and_ids_are_no_notes(run: Path) -> None:
    place = run / "0"
    ostraca.annotate(place, {"a": 1})
    text = (place / "notes-1.json").read_text()
    for name in (
        "notes-01.json",
        "notes-0.json",
        "notes--1.json",
        "notes-2.json.json",
        "notes-1000000000000001.json",
        "notes-18446744073709551615.json",
        "notes-18446744073709551617.json",
        "notes-\udcff.json",
    ):
        (place / name).write_text(text.replace('"a": 1', '"a": 9'))
    assert ostraca.notes(place) == {"a": 1}
    assert json.loads(text)["id"] == ostraca.open(place).info.id
    assert ostraca.prune(run, keep=["2"], grace_seconds=0).ok


def test_compact_carries_notes_to_its_new_id(run: Path) -> None:
    base = run / "0"
    ostraca.save(run / "3", {"w": TREE["w"] + 1}, base=base, step=3)
    ostraca.annotate(run / "3", {"loss": 2.5, "tags": ["protected"]})
    before = ostraca.open(run / "3").info.id
    ostraca.compact(run / "3")
    assert ostraca.open(run / "3").info.id != before
    assert ostraca.notes(run / "3") == {"loss": 2.5, "tags": ["protected"]}
    report = ostraca.prune(run, keep=0, grace_seconds=0)
    assert report.ok and names(run) == ["3"] and len(note_files(run / "3")) == 1


def test_many_annotate_one_checkpoint(run: Path) -> None:
    """Threads and processes, while it is compacted: nothing that was acknowledged is lost."""
    place = run / "3"
    ostraca.save(place, {"w": TREE["w"] + 1}, base=run / "0", step=3)
    noted: dict[str, int] = {}

    def annotate(name: str) -> None:
        for i in range(25):
            try:
                ostraca.annotate(place, {f"{name}{i}": i})
                noted[f"{name}{i}"] = i
            except ostraca.NotFoundError:  # compact came between: not acknowledged
                pass

    program = (
        "import ostraca, sys\n"
        "for i in range(25):\n"
        "    try: ostraca.annotate(sys.argv[1], {f'{sys.argv[2]}{i}': i}); print(f'{sys.argv[2]}{i}', flush=True)\n"
        "    except ostraca.NotFoundError: pass\n"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", program, str(place), name], stdout=subprocess.PIPE, text=True)
        for name in ("p", "q")
    ]
    threads = [threading.Thread(target=annotate, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    ostraca.compact(place)
    for thread in threads:
        thread.join()
    for child in children:
        out = child.communicate()[0]
        assert child.returncode == 0
        noted |= {name: int(name[1:]) for name in out.split()}
    assert len(noted) > 25  # the rest met compact
    found = ostraca.notes(place)
    assert noted.items() <= found.items()
    assert all(value == int(name[1:]) for name, value in found.items())  # what was not acknowledged may be there
    assert ostraca.prune(run, keep=["3", "0"], grace_seconds=0).ok and len(note_files(place)) <= 8


def test_tag(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = str(run / "0")
    assert cli.main(["tag", place, "best", "protected", "best"]) == 0
    assert capsys.readouterr().out == "best\nprotected\n"
    assert ostraca.notes(place) == {"tags": ["best", "protected"]}
    assert cli.main(["ls", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "tags" in lines[0] and "best, protected" in lines[1]
    assert cli.main(["tag", "--remove", place, "best", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tags"] == ["protected"]
    assert cli.main(["tag", "--remove", place, "protected"]) == 0
    assert capsys.readouterr().out == "" and ostraca.notes(place) == {}
    assert cli.main(["tag", str(run / "absent")]) == 2
    assert cli.main(["ls", str(run)]) == 0
    assert "tags" not in capsys.readouterr().out
