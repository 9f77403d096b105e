"""`ostraca.newest` against histories whose truth is known: runs that restart and branch, clocks that are wrong, steps
that are missing or come again, manifests of releases that recorded less.

Histories are made by the rules that saves follow (history.py): a parent is what the process last loaded or saved, and a
save is created later than what it sees in the directory. `OSTRACA_STRESS=1` takes more of them.
"""

import contextlib
import io
import json
import shutil
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import format_writer
import ostraca
from ostraca.cli import main
from ostraca.recency import disagreements

HISTORIES = 10_000
ON_DISK = 60  # of them, as directories, for prune and `ls`
SECOND = 1_000_000_000
START = 1_790_000_000 * SECOND


class Saved(NamedTuple):
    """One save; the history's truth is the order of these."""

    id: str
    step: int | None
    created_ns: int
    parent: str | None  # as recorded
    true_parent: str | None


class Process:
    """One that saves, by a clock that may be wrong, as this release or an earlier one does."""

    def __init__(self, skew_seconds: int, old: bool) -> None:
        self.skew_seconds, self.old = skew_seconds, old
        self.at: Saved | None = None

    def save(self, history: list[Saved], now: int, step: int | None) -> Saved:
        clock = now + self.skew_seconds * SECOND
        seen = max((saved.created_ns for saved in history), default=0)
        created = clock // SECOND * SECOND if self.old else max(clock, seen + 1)
        parent = self.at.id if self.at else None
        self.at = Saved(f"{len(history):032x}", step, created, None if self.old else parent, parent)
        return self.at


moves = st.tuples(
    st.integers(0, 2),  # which process
    st.sampled_from(["save", "save", "save", "load", "restart"]),
    st.integers(0, 30),  # what is loaded
    st.integers(0, 3_000_000_000),  # nanoseconds that pass
    st.none() | st.integers(0, 5),  # a step: often the same again
)
histories = st.tuples(
    st.lists(st.tuples(st.integers(-7200, 7200), st.booleans()), min_size=3, max_size=3),
    st.lists(moves, min_size=1, max_size=14),
)


def played(history: tuple[list[tuple[int, bool]], list[Any]]) -> list[Saved]:
    processes = [Process(*settings) for settings in history[0]]
    saved: list[Saved] = []
    now = START
    for which, move, target, passed, step in history[1]:
        process = processes[which]
        now += passed
        if move == "save":
            saved.append(process.save(saved, now, step))
        elif move == "load" and saved:
            process.at = saved[target % len(saved)]
        elif move == "restart":
            processes[which] = Process(process.skew_seconds, process.old)
    return saved


def record(saved: Saved, path: Path = Path("run")) -> ostraca.CheckpointRecord:
    info = ostraca.SaveInfo(str(path), saved.id, saved.step, 0, 0, 0, 0, 0, 0.0, 0.0)
    return ostraca.CheckpointRecord(
        saved.id, str(path), saved.id, saved.step, "", saved.created_ns, saved.parent, None, info, "null"
    )


def check(history: list[Saved], order: list[str]) -> None:
    """The promises, for the ids of a history in an order, the newest first."""
    by_id = {saved.id: saved for saved in history}
    assert sorted(order) == sorted(by_id)
    place = {attempt: i for i, attempt in enumerate(order)}
    for saved in history:
        if saved.parent is not None:
            assert place[saved.id] < place[saved.parent], "a checkpoint is not newer than its parent"
    last = history[-1]
    latest = all(last.created_ns > saved.created_ns for saved in history[:-1])
    # A save that records its parent was made by this release, which looks at what is there: it is the latest, too.
    if last.parent is not None or latest:
        assert order[0] == last.id, "the last save is not the newest"
    if all(saved.created_ns < later.created_ns for saved, later in pairwise(history)):
        assert order == [saved.id for saved in reversed(history)], "clocks were right, the order is not"


@hypothesis.settings(max_examples=HISTORIES, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(histories, st.randoms(use_true_random=False))
def test_the_newest_is_the_last_save(history: Any, random: Any) -> None:
    saved = played(history)
    hypothesis.assume(saved)
    records = [record(one) for one in saved]
    random.shuffle(records)
    found = ostraca.newest(records)
    check(saved, [one.id for one in found])
    assert ostraca.newest(reversed(found)) == found  # whatever the order in which they come
    steps = [one.step for one in found if one.step is not None]
    assert bool(disagreements(found)) == (steps != sorted(steps, reverse=True))


def on_disk(run: Path, saved: Saved, ids: dict[str | None, str | None]) -> None:
    """A checkpoint in a directory of this save's id, whose manifest says what the save would have written. Its id there
    is another, which `ids` has."""
    format_writer.write(run / saved.id, {"x": np.zeros(2)}, seed=len(ids))
    path = run / saved.id / "manifest.json"
    created = datetime.fromtimestamp(saved.created_ns // SECOND, UTC)
    members = json.loads(path.read_bytes()) | {"created": created.strftime("%Y-%m-%dT%H:%M:%SZ"), "step": saved.step}
    ids[saved.id] = members["id"]
    del members["crc32c"]
    if saved.parent is not None or saved.created_ns % SECOND:
        members |= {"created_nanoseconds": saved.created_ns % SECOND, "parent": ids[saved.parent]}
    path.write_bytes(format_writer.manifest_bytes(members))


@hypothesis.settings(max_examples=ON_DISK, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(histories, st.integers(1, 4))
def test_prune_and_ls_agree(tmp_path_factory: pytest.TempPathFactory, history: Any, keep: int) -> None:
    saved = played(history)
    hypothesis.assume(saved)
    run = tmp_path_factory.mktemp("run")
    ids: dict[str | None, str | None] = {None: None}
    for one in saved:
        on_disk(run, one, ids)
    order = [one.id for one in ostraca.newest([record(one) for one in saved])]
    check(saved, order)
    assert listed(run) == order[::-1]
    report = ostraca.prune(run, keep=keep, grace_seconds=0)
    assert report.ok and {kept.name for kept in report.kept} == set(order[:keep]) == {p.name for p in run.iterdir()}
    shutil.rmtree(run)


def listed(run: Path) -> list[str]:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        assert main(["ls", "--json", str(run)]) == 0
    return [Path(entry["path"]).name for entry in json.loads(output.getvalue())["checkpoints"]]


# --- What saves record


def manifests(run: Path) -> dict[str, Any]:
    return {path.parent.name: json.loads(path.read_bytes()) for path in run.glob("*/manifest.json")}


def test_saves_record_what_the_process_last_loaded_or_saved(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for name in ("a", "b"):
        ostraca.save(run / name, {"x": np.zeros(3)})
    ostraca.load(run / "a")
    with ostraca.open(run / "b") as checkpoint:  # looking is not loading
        _ = checkpoint["x"][0]
    ostraca.save_async(run / "c", {"x": np.zeros(3)}).result()
    with pytest.raises(ostraca.ExistsError):
        ostraca.save(run / "a", {"x": np.zeros(3)})
    ostraca.save(run / "d", {"x": np.zeros(3)})
    ostraca.save(tmp_path / "other" / "e", {"x": np.zeros(3)})
    named = ostraca.save(run / "f", {"x": np.zeros(3)}, parent="ab" * 16)
    found = manifests(run)
    by_id = {members["id"]: name for name, members in found.items()}
    parents = {name: by_id.get(members["parent"], members["parent"]) for name, members in found.items()}
    assert parents == {"a": None, "b": "a", "c": "a", "d": "c", "f": "ab" * 16}
    assert manifests(tmp_path / "other")["e"]["parent"] is None
    assert named.id == found["f"]["id"]
    for nonsense in ("ab", "AB" * 16, "../" * 11, 3):
        with pytest.raises((TypeError, ValueError), match="parent"):
            ostraca.save(run / "g", {}, parent=nonsense)  # type: ignore[arg-type]


def test_a_save_is_later_than_what_is_there_whatever_the_clock_says(tmp_path: Path) -> None:
    ahead = Saved("ahead", 1000, START + 10**8 * SECOND, None, None)  # by a clock that is years ahead
    on_disk(tmp_path, ahead, {None: None})
    for step in (1, 2):
        ostraca.save(tmp_path / str(step), {"x": np.zeros(3)}, step=step)
    assert listed(tmp_path) == ["ahead", "1", "2"]
    report = ostraca.prune(tmp_path, keep=1, grace_seconds=0)
    assert [kept.name for kept in report.kept] == ["2"]
    assert "of step 1000" in report.warnings[-1]
