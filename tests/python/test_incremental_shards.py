"""Incremental saves whose keyframe was cut otherwise: by other processes, into other shards, or by `compact`."""

from __future__ import annotations

import itertools
import operator
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ostraca
import trees
from increments import check, kinds, stepped, weights
from ostraca import compacting

Box = tuple[tuple[int, ...], tuple[int, ...]]  # corner and shape


def save_cut(
    path: Path, tree: dict[str, np.ndarray], cuts: list[dict[str, list[Box]]], chunk: Any, base: Any = None
) -> None:
    """Saves arrays from as many processes as there are `cuts`, each with its boxes of them."""
    attempt = os.urandom(16).hex()
    reports = []
    for index, mine in enumerate(cuts):
        writer = ostraca.Writer(
            path, process_index=index, process_count=len(cuts), attempt=attempt, base=base, chunk_shape=chunk
        )
        for name, boxes in mine.items():
            whole = tree[name]
            for corner, shape in boxes:
                part = whole[tuple(slice(at, at + n) for at, n in zip(corner, shape, strict=True))]
                whole_shape = None if shape == whole.shape else whole.shape
                writer.add(name, part, dtype=part.dtype, shape=shape, global_shape=whole_shape, offset=corner)
        reports.append(writer.finish())
    ostraca.commit(path, reports)


def chunks(path: Path, name: str) -> dict[Box, str]:
    with ostraca.Reader(path) as reader:
        return {
            (chunk.origin, chunk.shape): "reference" if chunk.in_base else "delta" if chunk.codec == 3 else "full"
            for chunk in reader.chunks(name)
        }


# Boxes are made of whole units, of more than 64 KiB, which is what small arrays are packed up to.
UNITS = {1: (20_000,), 2: (100, 200), 3: (20, 30, 40)}


@st.composite
def dealt_boxes(draw: st.DrawFn, shape: tuple[int, ...], processes: int) -> list[list[Box]]:
    """Boxes that tile an array, cut at the same places throughout, dealt to processes."""
    boxes: list[Box] = [((), ())]
    for length, unit in zip(shape, UNITS[len(shape)], strict=True):
        cuts = sorted({0, *draw(st.lists(st.sampled_from(range(0, length, unit)), max_size=3)), length})
        boxes = [((*corner, a), (*size, b - a)) for corner, size in boxes for a, b in itertools.pairwise(cuts)]
    dealt: list[list[Box]] = [[] for _ in range(processes)]
    for box in boxes:
        dealt[draw(st.integers(0, processes - 1))].append(box)
    return dealt


@st.composite
def two_cuts(draw: st.DrawFn) -> Any:
    """An array's shape, and two ways to cut it into boxes and chunks."""
    units = draw(st.sampled_from([(12,), (5, 4), (3, 2, 3)]))
    unit = UNITS[len(units)]
    shape = tuple(n * size for n, size in zip(units, unit, strict=True))
    several = st.tuples(*(st.integers(1, 2) for _ in unit))
    chunk = st.one_of(st.none(), several.map(lambda n: tuple(map(operator.mul, n, unit))))
    first = draw(chunk)
    cuts = [draw(dealt_boxes(shape, draw(st.integers(1, 3)))) for _ in range(2)]
    return shape, *cuts, first, draw(st.one_of(st.just(first), chunk))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(two_cuts(), st.sampled_from(["f4", "f8"]), st.integers(0, 99))
def test_the_same_box_is_found_in_whatever_shard(cut: Any, dtype: str, seed: int) -> None:
    shape, before, after, chunk, other = cut
    old = {"x": trees.array(dtype, shape, seed)}
    with tempfile.TemporaryDirectory() as directory:
        run = Path(directory)
        save_cut(run / "0", old, [{"x": boxes} for boxes in before], chunk)
        save_cut(run / "1", old, [{"x": boxes} for boxes in after], other, base=run / "0")
        check(run / "1", old)
        found = chunks(run / "1", "x")
        assert {box for box, kind in found.items() if kind == "reference"} == found.keys() & chunks(
            run / "0", "x"
        ).keys()
        new = {"x": old["x"].copy()}
        some = new["x"].reshape(-1)[:: 1 + seed]
        some[:] = trees.array(dtype, some.shape, seed + 1)
        save_cut(run / "2", new, [{"x": boxes} for boxes in after], other, base=run / "0")
        check(run / "2", new)


def rows(shape: tuple[int, int], count: int) -> list[Box]:
    step = shape[0] // count
    return [((i * step, 0), (step, shape[1])) for i in range(count)]


@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 1), (4, 2), (2, 4)])
def test_another_process_count(tmp_path: Path, before: int, after: int) -> None:
    old = {"w": weights((1600, 1000)), "frozen": weights((1600, 1000), seed=1)}
    new = old | {"w": stepped(old["w"])}
    chunk = (100, 1000)

    def cuts(count: int) -> list[dict[str, list[Box]]]:
        return [{name: [box] for name in old} for box in rows((1600, 1000), count)]

    save_cut(tmp_path / "0", old, cuts(before), chunk)
    save_cut(tmp_path / "1", new, cuts(after), chunk, base=tmp_path / "0")
    check(tmp_path / "1", new)
    assert kinds(tmp_path / "1", "w") == {"delta"}
    assert kinds(tmp_path / "1", "frozen") == {"reference"}
    ostraca.compact(tmp_path / "1")
    check(tmp_path / "1", new)


def test_only_what_has_another_grid_is_full(tmp_path: Path) -> None:
    old = {"x": trees.array("u1", (300, 1000))}
    halves = [{"x": [((0, 0), (150, 1000))]}, {"x": [((150, 0), (150, 1000))]}]
    save_cut(tmp_path / "0", old, halves, (100, 1000))  # 100, 50 | 100, 50
    save_cut(tmp_path / "1", old, [{"x": [((0, 0), (300, 1000))]}], (50, 1000), base=tmp_path / "0")
    found = {box[0][0]: kind for box, kind in chunks(tmp_path / "1", "x").items()}
    assert found == {0: "full", 50: "full", 100: "reference", 150: "full", 200: "full", 250: "reference"}
    check(tmp_path / "1", old)


def test_after_compact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which cuts large arrays into shards, and packs small ones in several files."""
    monkeypatch.setattr(compacting, "HELD_BYTES", 1 << 20)
    monkeypatch.setattr(compacting, "PIECE_BYTES", 16 << 20)
    tree = {"w": weights((5000, 2000)), "small": [weights((1000,), seed=i) for i in range(700)]}
    ostraca.save(tmp_path / "0", tree | {"w": stepped(tree["w"])})
    ostraca.save(tmp_path / "1", tree, base=tmp_path / "0")
    ostraca.compact(tmp_path / "1")
    with ostraca.Reader(tmp_path / "1") as reader:
        assert len({chunk.file for name in ("w", "small/0", "small/699") for chunk in reader.chunks(name)}) > 1
    info = ostraca.save(tmp_path / "2", tree, base=tmp_path / "1")
    assert info.chunks == 0
    check(tmp_path / "2", tree)


def test_packs_with_other_neighbours(tmp_path: Path) -> None:
    """One array more or less changes the pack that it is in, and no other."""
    tree = {f"x{i:04}": weights((1000,), seed=i) for i in range(1000)}  # four packs
    ostraca.save(tmp_path / "0", tree)
    touched = {name: stepped(x, 1e-6) for name, x in tree.items()}
    more = {"another": np.ones(77, np.float32)} | touched
    fewer = {name: x for name, x in touched.items() if name != "x0500"}
    for name, new in {"more": more, "fewer": fewer}.items():
        ostraca.save(tmp_path / name, new, base=tmp_path / "0")
        check(tmp_path / name, new)
        assert kinds(tmp_path / name, "x0100") == kinds(tmp_path / name, "x0900") == {"delta"}
        assert kinds(tmp_path / name, "x0501") == ({"delta"} if name == "more" else {"full"})
    assert kinds(tmp_path / "more", "another") == {"full"}


def test_packs_of_several_processes(tmp_path: Path) -> None:
    """Packs that two processes made are found by one."""
    tree = {f"x{i:03}": weights((100 + i,), seed=i) for i in range(200)}
    mine = [{name: [((0,), x.shape)] for name, x in tree.items() if int(name[1:]) % 2 == p} for p in range(2)]
    save_cut(tmp_path / "0", tree, mine, None)
    info = ostraca.save(tmp_path / "1", tree, base=tmp_path / "0")
    assert info.chunks == 0
    check(tmp_path / "1", tree)


def test_packs_whose_members_were_tied_or_equal(tmp_path: Path) -> None:
    zeros = {f"{kind}{i}": np.zeros(2000, kind) for kind in ("f4", "i4") for i in range(300)}
    tied = weights((500,))
    ostraca.save(tmp_path / "0", zeros | {"a": tied, "b": tied, "c": np.ones(3, np.float32)})
    new = zeros | {"a": tied, "b": tied.copy(), "c": np.ones(3, np.float32), "aa": np.ones(1, np.float32)}
    ostraca.save(tmp_path / "1", new, base=tmp_path / "0")
    check(tmp_path / "1", new)
    moved = {name: stepped(x, 1e-6) for name, x in new.items()}
    ostraca.save(tmp_path / "2", moved, base=tmp_path / "0")
    check(tmp_path / "2", moved)
