"""The base of incremental saves: what is refused, what is said when it is gone or damaged, and snapshots of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ostraca
import trees
from increments import base_of, changed, check, data_file, flip, kinds, state, stepped, weights
from ostraca import reference


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


# --- What cannot be a base ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["save", "save_async", "Writer"])
def test_bases_that_are_refused(run: Path, tmp_path: Path, how: str) -> None:
    def attempt(path: Path, base: Any) -> None:
        if how == "Writer":
            ostraca.Writer(path, base=base, overwrite=True)
        elif how == "save":
            ostraca.save(path, state(), base=base, overwrite=True)
        else:
            ostraca.save_async(path, state(), base=base, overwrite=True).result()

    ostraca.save(run / "0", state())
    ostraca.save(tmp_path / "other" / "0", state())
    with pytest.raises(ostraca.NotFoundError, match="nowhere"):
        attempt(run / "1", run / "nowhere")
    with pytest.raises(ostraca.MismatchError, match="same directory") as info:
        attempt(run / "1", tmp_path / "other" / "0")
    assert str(tmp_path / "other") in str(info.value) and str(run) in str(info.value)
    with pytest.raises(ostraca.MismatchError, match="overwritten"):
        attempt(run / "0", run / "0")
    for wrong in (3, True, bytearray(b"0"), object()):
        with pytest.raises(TypeError, match="base"):
            attempt(run / "1", wrong)
    with pytest.raises(ValueError, match="names no directory"):
        attempt(run / "1", "")
    snapshot = ostraca.BaseSnapshot(run / "0")
    snapshot.close()
    with pytest.raises(ValueError, match="closed"):
        attempt(run / "1", snapshot)
    assert sorted(p.name for p in run.iterdir()) == ["0"] and len(list((run / "0").iterdir())) == 3
    check(run / "0", state())


def test_overwriting_with_a_base(run: Path) -> None:
    tree = state()
    ostraca.save(run / "0", tree)
    ostraca.save(run / "1", changed(tree), base=run / "0")
    ostraca.save(run / "1", tree, base=run / "1", overwrite=True)  # its own base is that of what it replaces
    check(run / "1", tree)
    with pytest.raises(ostraca.ExistsError, match="base"):
        ostraca.save(run / "0", tree, overwrite=True)
    check(run / "1", tree)
    ostraca.save(run / "1", tree, overwrite=True)
    assert base_of(run / "1") is None
    ostraca.save(run / "0", changed(tree), overwrite=True)
    check(run / "1", tree)
    assert len(list((run / "1").iterdir())) == 3


# --- A base that is not there, or damaged -------------------------------------------------------------------------


@pytest.fixture
def pair(run: Path) -> Path:
    ostraca.save(run / "keyframe", state())
    ostraca.save(run / "delta", changed(state()) | {"own": weights((300, 300), seed=20)}, base=run / "keyframe")
    return run


@pytest.mark.parametrize("how", ["renamed", "removed", "another"])
def test_a_missing_base(pair: Path, how: str) -> None:
    expected = ostraca.load(pair / "delta")
    (pair / "keyframe").rename(pair / "hidden")
    if how == "removed":
        shutil.rmtree(pair / "hidden")
    elif how == "another":
        ostraca.save(pair / "keyframe", state())
    with pytest.raises(ostraca.CorruptionError, match="keyframe") as info:
        ostraca.load(pair / "delta")
    assert "p00000-" in str(info.value)
    trees.same({"own": expected["own"]}, ostraca.load(pair / "delta", select="own"))
    with ostraca.open(pair / "delta") as checkpoint:
        assert (checkpoint["own"][5] == expected["own"][5]).all()
        with pytest.raises(ostraca.CorruptionError, match="frozen"):
            checkpoint["frozen"][3]
    report = ostraca.verify(pair / "delta")
    assert not report.ok and any("keyframe" in d.file + d.reason for d in report.damaged)
    assert reference.verify(pair / "delta")


@pytest.mark.parametrize(("array", "kind"), [("frozen", "reference"), ("w", "delta")])
def test_a_damaged_base(pair: Path, array: str, kind: str) -> None:
    expected = ostraca.load(pair / "delta")
    assert kinds(pair / "delta", array) == {kind}
    with ostraca.Reader(pair / "keyframe") as reader:
        chunk = reader.chunks(array)[0]
    flip(data_file(pair / "keyframe"), chunk.offset + 3)
    with pytest.raises(ostraca.CorruptionError) as info:
        ostraca.load(pair / "delta")
    for part in ("keyframe", chunk.file, array):
        assert part in str(info.value), str(info.value)
    others = [name for name in expected if name != array]
    found = ostraca.load(pair / "delta", select=lambda name: name.split("/")[0] in others)
    trees.same({name: expected[name] for name in others}, found)
    report = ostraca.verify(pair / "delta")
    assert [(d.array, chunk.file in d.file) for d in report.damaged] == [(array, True)]
    with pytest.raises(ostraca.CorruptionError, match=array):  # it has to be read to see whether it changed
        ostraca.save(pair / "next", {array: stepped(np.asarray(expected[array]))}, base=pair / "keyframe")
    assert not (pair / "next").exists()


# --- BaseSnapshot, threads, processes --------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [None, 0, 1, 100_000, 5_000_000, 1 << 40])
def test_snapshots(run: Path, budget: int | None) -> None:
    tree = state()
    ostraca.save(run / "0", tree)
    logical = ostraca.open(run / "0").info.logical_bytes
    with ostraca.BaseSnapshot(run / "0", budget_bytes=budget) as snapshot:
        assert snapshot.path == str(run / "0") and snapshot.kept_bytes == 0
        assert snapshot.id == ostraca.open(run / "0").id
        for step in range(3):
            tree = changed(tree)
            ostraca.save(run / f"kept{step}", tree, base=snapshot)
            assert snapshot.kept_bytes <= min(logical, logical if budget is None else budget)
            ostraca.save(run / f"read{step}", tree, base=run / "0")
            sizes = [ostraca.open(run / f"{how}{step}").info.stored_bytes for how in ("kept", "read")]
            assert abs(sizes[0] - sizes[1]) < 64  # ids compress as they like
            check(run / f"kept{step}", tree)
        if budget is None or budget > logical:
            assert snapshot.kept_bytes > 0
        assert "kept" in repr(snapshot)
    assert "closed" in repr(snapshot) and snapshot.kept_bytes == 0 and snapshot.path == str(run / "0")
    snapshot.close()


def test_what_a_save_kept_is_not_read_again(run: Path) -> None:
    tree = state()
    handle = ostraca.save_async(run / "0", tree, keep_bytes=1 << 30)
    with handle.snapshot() as snapshot:
        assert snapshot.path == str(run / "0") and snapshot.id == ostraca.open(run / "0").id
        assert 0.9 * handle.result().logical_bytes < snapshot.kept_bytes <= handle.result().logical_bytes
        file = data_file(run / "0")
        sound = file.read_bytes()
        for at in range(4096, len(sound) // 2, 4096):
            flip(file, at)
        later = changed(tree)
        with pytest.raises(ostraca.CorruptionError):
            ostraca.save(run / "1", later, base=run / "0")
        ostraca.save(run / "1", later, base=snapshot)
        file.write_bytes(sound)
    check(run / "1", later)
    assert base_of(run / "1") == "0"


def test_memory_for_what_is_kept(run: Path) -> None:
    """What is there twice is kept once, and only what is kept stays."""
    zeros = {f"a{i}": np.zeros(8 << 20, np.uint8) for i in range(12)}
    # One thread: what another has coded, and is not placed yet, may be a copy or not, and takes its share until then.
    handle = ostraca.save_async(run / "0", zeros | {"w": weights((4, 1 << 20))}, keep_bytes=40 << 20, threads=1)
    with handle.snapshot() as snapshot:
        assert snapshot.kept_bytes == (4 << 20) + (16 << 20)


@pytest.mark.parametrize("keep", [0, 1, 8 << 20, 24 << 20])
def test_a_save_keeps_no_more_than_it_may(run: Path, keep: int) -> None:
    tree = {"w": weights((12, 1 << 20)), "v": weights((3, 1000))}
    handle = ostraca.save_async(run / "0", tree, keep_bytes=keep)
    with handle.snapshot() as first, handle.snapshot() as second:
        assert second.kept_bytes == 0  # one call takes it
        assert first.kept_bytes <= keep and (first.kept_bytes > 0) == (keep >= 8 << 20)
        tree = {name: stepped(array) for name, array in tree.items()}
        ostraca.save(run / "1", tree, base=first)
        assert first.kept_bytes <= keep
        ostraca.save(run / "2", tree, base=second)
    check(run / "1", tree)
    check(run / "2", tree)


def test_keeping_what_is_no_base(run: Path, tmp_path: Path) -> None:
    ostraca.save(run / "0", state())
    with pytest.raises(ValueError, match="keep_bytes is for saves without a base"):
        ostraca.save_async(run / "1", state(), base=run / "0", keep_bytes=1 << 20)
    for wrong in (-1, 1.5, True, None):
        with pytest.raises((TypeError, ValueError), match="keep_bytes"):
            ostraca.save_async(run / "1", state(), keep_bytes=wrong)  # type: ignore[arg-type]
    handle = ostraca.save_async(run / "2", state(), keep_bytes=1 << 30, return_early=True)
    if handle.cancel():
        with pytest.raises(ostraca.CancelledError):
            handle.snapshot()
    handle = ostraca.save_async(run / "1", changed(state()), base=run / "0")
    with handle.snapshot() as snapshot:
        assert snapshot.path == str(run / "0")
    handle = ostraca.save_async(run / "1", state(), overwrite=True)
    handle.result()
    ostraca.save(run / "1", state(), overwrite=True)
    with pytest.raises(ostraca.NotFoundError, match="overwritten"):
        handle.snapshot()
    handle = ostraca.save_async(run / "3", state(), keep_bytes=1 << 30)
    handle.result()
    shutil.rmtree(run / "3")
    with handle.snapshot() as snapshot, pytest.raises(ostraca.NotFoundError):
        ostraca.save(run / "4", state(), base=snapshot)


def test_a_snapshot_of_a_delta_is_of_its_keyframe(run: Path) -> None:
    ostraca.save(run / "0", state())
    ostraca.save(run / "1", changed(state()), base=run / "0")
    with ostraca.BaseSnapshot(run / "1") as snapshot:
        assert snapshot.path == str(run / "0")
    for wrong in (-1, 1.5, True):
        with pytest.raises((TypeError, ValueError), match="budget_bytes"):
            ostraca.BaseSnapshot(run / "0", budget_bytes=wrong)  # type: ignore[arg-type]
    with pytest.raises(ostraca.NotFoundError):
        ostraca.BaseSnapshot(run / "2")


def test_a_snapshot_leases_its_keyframe(run: Path) -> None:
    ostraca.save(run / "0", state())
    with ostraca.BaseSnapshot(run / "0") as snapshot:
        report = ostraca.prune(run, keep=0, grace_seconds=0)
        assert not report.removed and (run / "0").exists()
        ostraca.save(run / "1", changed(state()), base=snapshot)
    check(run / "1", changed(state()))
    ostraca.prune(run, keep=["1"], grace_seconds=0)
    check(run / "1", changed(state()))
    with pytest.raises(ostraca.NotFoundError):
        ostraca.load(run / "0")
    ostraca.prune(run, keep=0, grace_seconds=0)
    assert list(run.iterdir()) == []


def test_asynchronous_saves_share_a_snapshot(run: Path) -> None:
    tree = state()
    ostraca.save(run / "0", tree)
    trees_saved, handles = [], []
    with ostraca.BaseSnapshot(run / "0") as snapshot:
        for step in range(4):
            tree = {name: x.copy() if isinstance(x, np.ndarray) else x for name, x in changed(tree).items()}
            trees_saved.append(tree)
            handles.append(ostraca.save_async(run / f"a{step}", {"inner": tree}["inner"], base=snapshot))
    for step, handle in enumerate(handles):
        handle.result()
        check(run / f"a{step}", trees_saved[step])


def test_arrays_may_change_once_copied(run: Path) -> None:
    tree = state()
    ostraca.save(run / "0", tree)
    moved = changed(tree)
    expected = {name: x.copy() if isinstance(x, np.ndarray) else x for name, x in moved.items()}
    handle = ostraca.save_async(run / "1", moved, base=run / "0")
    moved["w"][:] = 0
    handle.result()
    check(run / "1", expected)


def test_processes(run: Path) -> None:
    """Two processes save their halves against a checkpoint of two."""
    w = weights((1000, 1000))

    def save(name: str, whole: np.ndarray, base: Any) -> None:
        options = {"process_count": 2, "attempt": name[0] * 32, "base": base}
        writers = [ostraca.Writer(run / name, process_index=i, **options) for i in range(2)]
        for i, writer in enumerate(writers):
            half = whole[500 * i : 500 * i + 500]
            writer.add("w", half, dtype="float32", shape=half.shape, global_shape=whole.shape, offset=(500 * i, 0))
        ostraca.commit(run / name, [writer.finish() for writer in writers])

    save("a0", w, None)
    moved = w.copy()
    moved[700:] = stepped(w[700:])
    save("b1", moved, run / "a0")
    check(run / "b1", {"w": moved})
    with ostraca.Reader(run / "b1") as reader:
        found = {(c.origin[0] >= 500, c.in_base, c.codec) for c in reader.chunks("w")}
    assert {(high, base or codec == 3) for high, base, codec in found} == {(False, True), (True, True)}
    ostraca.save(run / "2", {"w": moved}, base=run / "a0")  # another sharding
    check(run / "2", {"w": moved})
