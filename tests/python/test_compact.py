"""`compact`: the same checkpoint afterwards, without its base, in bounded memory, and whole after a crash."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest

import ostraca
import trees
from increments import base_of, changed, check, data_file, flip, kinds, state, stepped, weights
from ostraca import _core, compacting, leaves, reference
from ostraca.tree import flatten


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A keyframe and two deltas."""
    run = tmp_path / "run"
    tree = state()
    ostraca.save(run / "0", tree, step=0)
    ostraca.save(run / "1", changed(tree), step=1, metadata={"loss": float("nan"), "n": 1 << 60}, base=run / "0")
    ostraca.save(run / "2", changed(changed(tree)), step=2, base=run / "0")
    return run


def grid(path: Path, names: Iterable[str]) -> set[Any]:
    """Where the chunks of leaves are."""
    with ostraca.Reader(path) as reader:
        return {(name, chunk.origin, chunk.shape) for name in names for chunk in reader.chunks(name)}


def identity(path: Path) -> list[tuple[Any, ...]]:
    with ostraca.Reader(path) as reader:
        return [(*info[:7], info.shape, info.nbytes) for info in reader.arrays()]


def test_compact(run: Path) -> None:
    expected, leaves = ostraca.load(run / "1"), identity(run / "1")
    with ostraca.open(run / "1") as opened:
        before, attempt = opened.info, opened.id
        dry = ostraca.compact(run / "1", dry_run=True)
        assert ostraca.open(run / "1").id == attempt and dry.dry_run
        report = ostraca.compact(run / "1")
        assert (opened["frozen"][7] == expected["frozen"][7]).all()  # an open reader goes on
    assert report.path == str(run / "1") and not report.dry_run and report.seconds >= 0
    assert (report.base, report.base_needed_by) == ("0", ["2"]) == (dry.base, dry.base_needed_by)
    assert report.base_bytes == dry.base_bytes == ostraca.open(run / "0").info.stored_bytes
    with ostraca.open(run / "1") as now:
        assert now.id != attempt and now.step == 1
        assert (now.info.seconds, now.info.stall_seconds) == (before.seconds, before.stall_seconds)
        assert np.isnan(now.metadata["loss"]) and now.metadata["n"] == 1 << 60
        assert report.stored_bytes_before == dry.stored_bytes_before == before.stored_bytes
        assert report.stored_bytes_after == now.info.stored_bytes <= dry.stored_bytes_after
        assert now.info.logical_bytes == before.logical_bytes and now.info.referenced_bytes == 0
    assert identity(run / "1") == leaves and base_of(run / "1") is None
    assert len(list((run / "1").iterdir())) == 3
    assert ostraca.compact(run / "2").base_needed_by == []
    ostraca.prune(run, keep=["1", "2"], grace_seconds=0)
    assert not (run / "0").exists()
    check(run / "1", expected)
    full = ostraca.save(run / "full", expected)
    assert ostraca.open(run / "1").info.stored_bytes <= full.stored_bytes * 1.01


def test_what_prune_goes_by_stays(run: Path) -> None:
    """Without steps the newest is the one that was created last, whatever was compacted since."""
    for name in "12":
        shutil.rmtree(run / name)
    ostraca.save(run / "0", state(), overwrite=True)
    tree = state()
    ostraca.save(run / "first", changed(tree), base=run / "0")
    created = json.loads((run / "first" / "manifest.json").read_text())["created"]
    time.sleep(1.1)  # times are in seconds
    ostraca.save(run / "second", tree, base=run / "0")
    time.sleep(1.1)
    ostraca.compact(run / "first")
    assert json.loads((run / "first" / "manifest.json").read_text())["created"] == created
    assert "first" in [removed.name for removed in ostraca.prune(run, keep=1, dry_run=True).removed]


def test_nothing_to_do(run: Path) -> None:
    attempt = ostraca.open(run / "0").id
    for dry_run in (True, False):
        report = ostraca.compact(run / "0", dry_run=dry_run)
        assert report.base is None and report.stored_bytes_before == report.stored_bytes_after
        assert "nothing to do" in str(report)
    assert ostraca.open(run / "0").id == attempt
    with pytest.raises(ostraca.NotFoundError):
        ostraca.compact(run / "nowhere")


def test_reports_are_readable(run: Path) -> None:
    assert "would be replaced by at most" in str(ostraca.compact(run / "1", dry_run=True))
    assert "still needed by '2'" in str(ostraca.compact(run / "1"))
    assert "no other needs its base '0'" in str(ostraca.compact(run / "2"))


def everything() -> dict[str, Any]:
    """Every dtype, kind and key; the same in the base."""
    tree: dict[str, Any] = {str(dtype): trees.array(dtype, (70, 50)) for dtype in trees.ALL_DTYPES}
    tree |= {f"zero {dtype}": np.zeros((0, 3), dtype) for dtype in ("f4", "S0", "M8[ns]")}
    tree |= {"key": jax.random.key(3), "int": -(1 << 70), "float": float("inf"), "bool": True, "bytes": b"\0\1"}
    tree |= {"none": None, "empty": [{}, (), []], "a/b": {1: 2, -5: (3, [4])}, "": "", "point": trees.Point(1, None)}
    return tree


def test_every_kind(tmp_path: Path) -> None:
    ostraca.save(tmp_path / "0", everything() | {"more": np.arange(9)})
    ostraca.save(tmp_path / "1", everything(), base=tmp_path / "0")
    leaves = identity(tmp_path / "1")
    ostraca.compact(tmp_path / "1")
    shutil.rmtree(tmp_path / "0")
    assert identity(tmp_path / "1") == leaves
    assert reference.verify(tmp_path / "1") == []
    loaded = ostraca.load(tmp_path / "1", verify="deep")
    assert jax.random.key_data(loaded.pop("key")).tolist() == jax.random.key_data(jax.random.key(3)).tolist()
    trees.same({name: value for name, value in everything().items() if name != "key"}, loaded)


@pytest.mark.parametrize("chunk_shape", [None, (64, 512), (1, 1500), (400_000,), (3000, 100)], ids=str)
def test_chunks_stay_where_they_were(tmp_path: Path, chunk_shape: Any) -> None:
    """So that later saves find them again."""
    tree = {"w": weights((2000, 1500)), "v": weights((5_000_000,), seed=1), "flat": weights((3, 100, 1000), seed=2)}
    ostraca.save(tmp_path / "0", tree, chunk_shape=chunk_shape)
    ostraca.save(tmp_path / "1", tree | {"w": stepped(tree["w"])}, base=tmp_path / "0", chunk_shape=chunk_shape)

    before = grid(tmp_path / "1", tree)
    ostraca.compact(tmp_path / "1")
    assert grid(tmp_path / "1", tree) == before
    ostraca.save(tmp_path / "2", ostraca.load(tmp_path / "1"), base=tmp_path / "1", chunk_shape=chunk_shape)
    assert kinds(tmp_path / "2", "w") == kinds(tmp_path / "2", "v") == {"reference"}


def test_arrays_keep_their_own_tiles(tmp_path: Path) -> None:
    """As those of distributed arrays have them: each its own, and not the engine's."""
    tiles = {"columns": (2000, 100), "square": (300, 400), "thin": (20, 30), "usual": None}
    shapes = {"columns": (2000, 1500), "square": (2000, 1500), "thin": (100, 90), "usual": (2000, 1500)}
    tree = {name: weights(shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}

    def save(name: str, tree: dict[str, np.ndarray], base: _core.BaseSnapshot | None) -> None:
        writer = _core.Writer(str(tmp_path / name), base=base)
        for leaf, array in tree.items():
            (spec,) = leaves.specs(flatten({leaf: array}))
            writer.add([(*spec[:5], tiles[leaf])])
        _core.commit(str(tmp_path / name), [writer.finish()])

    save("0", tree, None)
    save("1", {name: stepped(array) for name, array in tree.items()}, _core.BaseSnapshot(str(tmp_path / "0"), 0))

    before = grid(tmp_path / "1", tree)
    assert len(before) == 15 + 7 * 4 + 5 * 3 + 3
    ostraca.compact(tmp_path / "1")
    assert grid(tmp_path / "1", tree) == before and base_of(tmp_path / "1") is None
    check(tmp_path / "1", {name: stepped(array) for name, array in tree.items()})


def test_more_than_the_budgets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large leaves in pieces, small ones over several data files, never more alive than may be."""
    for name, share in {"ALIVE": 16, "HELD": 64, "PIECE": 32}.items():
        monkeypatch.setattr(compacting, f"{name}_BYTES", (256 << 20) // share)
    monkeypatch.setattr(compacting, "ALIVE_BYTES", 40 << 20)
    alive, most = 0, 0
    take, give = compacting.Budget.take, compacting.Budget.give

    def counted_take(budget: Any, count: int, writer: Any) -> None:
        nonlocal alive, most
        take(budget, count, writer)
        alive += count
        most = max(most, alive)

    def counted_give(budget: Any, count: int) -> None:
        nonlocal alive
        alive -= count
        give(budget, count)

    monkeypatch.setattr(compacting.Budget, "take", counted_take)
    monkeypatch.setattr(compacting.Budget, "give", counted_give)
    tree: dict[str, Any] = {f"s{i}": weights((12_000,), seed=i) for i in range(200)}  # 9.6 MB
    tree |= {f"m{i}": weights((30_000 + i,), seed=i) for i in range(500)}  # 60 MB
    tree["large"] = weights((7000, 2000), seed=7)  # 56 MB
    tree["half"] = weights((3000, 1000), ml_dtypes.bfloat16, 8)
    ostraca.save(tmp_path / "0", {"large": tree["large"], "other": np.arange(5)})
    ostraca.save(tmp_path / "1", tree, base=tmp_path / "0")
    leaves = identity(tmp_path / "1")
    ostraca.compact(tmp_path / "1")
    assert alive == 0 and 0 < most <= 36 << 20
    assert len(list((tmp_path / "1").glob("p*"))) == 3  # data files
    assert identity(tmp_path / "1") == leaves
    shutil.rmtree(tmp_path / "0")
    check(tmp_path / "1", tree)


def test_memory_is_bounded(tmp_path: Path) -> None:
    """600 MB of arrays in a process of its own."""
    script = """
import resource, sys, numpy as np, ostraca
run = sys.argv[1]
if sys.argv[2] == "save":
    tree = {f"x{i}": np.random.default_rng(i).integers(0, 1 << 62, 18_750_000) for i in range(4)}
    ostraca.save(run + "/0", tree)
    ostraca.save(run + "/1", tree, base=run + "/0")
else:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ostraca.compact(run + "/1")
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10)
"""
    for what in ("save", "compact"):
        argv = [sys.executable, "-c", script, str(tmp_path), what]
        done = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=250)
    # Arrays, and the buffers of a reader and a writer.
    assert int(done.stdout) < (256 + 2 * 128 + 100) << 20


def test_damage_leaves_it_as_it_is(run: Path) -> None:
    with ostraca.Reader(run / "0") as reader:
        chunk = reader.chunks("frozen")[0]
    flip(data_file(run / "0"), chunk.offset + 3)
    files = sorted(p.name for p in (run / "1").iterdir())
    with pytest.raises(ostraca.CorruptionError, match="frozen"):
        ostraca.compact(run / "1")
    assert sorted(p.name for p in (run / "1").iterdir()) == files
    flip(data_file(run / "0"), chunk.offset + 3)
    check(run / "1", ostraca.load(run / "1"))
    (run / "0").rename(run / "away")
    with pytest.raises(ostraca.CorruptionError, match=r"'0'|/0"):
        ostraca.compact(run / "1")
    assert sorted(p.name for p in (run / "1").iterdir()) == files


def test_somebody_else_overwrites_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = compacting._copy

    def slow(*arguments: Any) -> None:
        copy(*arguments)
        ostraca.save(run / "1", {"x": 1}, overwrite=True)

    monkeypatch.setattr(compacting, "_copy", slow)
    with pytest.raises(ostraca.ExistsError, match="somebody else"):
        ostraca.compact(run / "1")
    monkeypatch.undo()
    check(run / "1", {"x": 1})
    assert len(list((run / "1").iterdir())) == 3


SCRIPT = """
import ctypes, os, shutil, signal, sys
from pathlib import Path
import ostraca
shim, run, scratch = ctypes.CDLL(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
for call in range(1, 300):
    for mode in (1, 2):  # killed before it, and after it
        place = scratch / f"{call}-{mode}"
        shutil.copytree(run, place)
        child = os.fork()
        if child == 0:
            shim.interpose_arm(str(place / "1").encode(), ctypes.c_long(call), mode, 0, -1)
            ostraca.compact(place / "1")
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if status == 0:
            shutil.rmtree(place)
            sys.exit(0)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
sys.exit("too many calls")
"""


def test_killed_anywhere(tmp_path: Path, shim: Path) -> None:
    """At every call under its directory: the old or the new one is there, and prune removes the rest."""
    run, scratch = tmp_path / "run", tmp_path / "scratch"
    old = {"w": weights((200, 100)), "small": np.arange(9), "count": 1}
    expected = old | {"count": 2, "w": stepped(old["w"])}
    ostraca.save(run / "0", old)
    ostraca.save(run / "1", expected, base=run / "0")
    scratch.mkdir()
    environment = {**os.environ, "LD_PRELOAD": str(shim), "OPENBLAS_NUM_THREADS": "1"}
    argv = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(shim), str(run), str(scratch)]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    outcomes = set()
    for place in scratch.iterdir():
        trees.same(expected, ostraca.load(place / "1", verify="deep"))
        outcomes.add(base_of(place / "1"))
        report = ostraca.prune(place, keep=["0", "1"], grace_seconds=0)
        assert report.ok and len(list((place / "1").iterdir())) == 3
        check(place / "1", expected)
    assert outcomes == {"0", None}
