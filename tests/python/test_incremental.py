"""Incremental saves: what is stored, what comes back, and what is said when the base is not there."""

from __future__ import annotations

import json
import shutil
import struct
import tempfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ostraca
import trees
from increments import base_of, changed, check, data_file, kinds, state, stepped, weights
from ostraca import reference

# Beyond its full coding an incremental save may take 0.1 %, and this: its directory names the base's files, and
# files end at multiples of 4 KiB.
SLACK_BYTES = 4096 + 1024


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def saved_after(run: Path, old: Any, new: Any, **options: Any) -> ostraca.SaveInfo:
    """Saves two trees, the second against the first, and checks it and its size."""
    ostraca.save(run / "base", old, **options)
    info = ostraca.save(run / "delta", new, base=run / "base", **options)
    full = ostraca.save(run / "full", new, **options)
    assert info.stored_bytes <= full.stored_bytes * 1.001 + SLACK_BYTES
    assert (info.logical_bytes, info.arrays) == (full.logical_bytes, full.arrays)
    assert base_of(run / "delta") == "base" and base_of(run / "full") is None
    check(run / "delta", new)
    return info


def test_what_changed_is_stored(run: Path) -> None:
    old = state()
    new = changed(old)
    info = saved_after(run, old, new)
    assert kinds(run / "delta", "w") == {"delta"}
    assert kinds(run / "delta", "half") == {"delta"}
    assert kinds(run / "delta", "frozen") == {"reference"}
    assert kinds(run / "delta", "small/b3") == {"reference"}
    assert 0 < info.referenced_bytes <= ostraca.open(run / "base").info.stored_bytes
    full = ostraca.open(run / "full").info
    assert info.stored_bytes < full.stored_bytes * 0.7
    check(run / "base", old)


def test_nothing_changed(run: Path) -> None:
    info = saved_after(run, state(), state())
    assert info.chunks == 0 and info.stored_bytes < 20_000
    assert {*map(str, kinds(run / "delta", "w"))} == {"reference"}


def test_everything_changed(run: Path) -> None:
    old = {"noise": trees.array("u1", (3_000_000,), 1), "w": weights((1000, 1000), seed=4)}
    new = {"noise": trees.array("u1", (3_000_000,), 2), "w": weights((1000, 1000), seed=5)}
    saved_after(run, old, new)
    assert kinds(run / "delta", "noise") == {"full"}


@pytest.mark.parametrize("dtype", trees.ALL_DTYPES, ids=str)
def test_every_dtype(run: Path, dtype: Any) -> None:
    """Packed and in chunks of their own, unchanged, changed a little, and in another byte order or layout."""
    old = {str(shape): trees.array(dtype, shape, seed) for seed, shape in enumerate([(), (7, 3), (0, 4), (40_000,)])}
    new = dict(old)
    touched = old["(40000,)"].copy()
    touched[123:456] = trees.array(dtype, (333,), 9)
    new["(40000,)"] = touched
    new["fresh"] = trees.array(dtype, (40_000,), 11)
    old["turned"] = trees.array(dtype, (200, 200), 12)
    new["turned"] = trees.laid_out(old["turned"], "fortran")
    saved_after(run, old, new)
    with ostraca.open(run / "delta") as checkpoint:
        part = checkpoint["(40000,)"][100:500:3]
        trees.same(touched[100:500:3], part)
    if old["turned"].nbytes > 64 << 10:
        assert kinds(run / "delta", "turned") == {"reference"}


@pytest.mark.parametrize("codec", ["auto", "raw", "zstd"])
def test_codecs_and_slices(run: Path, codec: str) -> None:
    old = state()
    new = changed(old)
    ostraca.save(run / "base", old, codec=codec)
    ostraca.save(run / "delta", new, base=run / "base", codec=codec)
    check(run / "delta", new)
    with ostraca.open(run / "delta") as checkpoint:
        assert (checkpoint["w"][1100:1300:7, 3] == new["w"][1100:1300:7, 3]).all()
        assert (checkpoint["frozen"][1190:] == new["frozen"][1190:]).all()
        assert checkpoint["count"].value() == 11
    into = np.zeros((1500, 1000), np.float32)
    ostraca.load(run / "delta", select="w", into={"w": into})
    assert (into == new["w"]).all()


def test_arrays_appear_vanish_and_change_form(run: Path) -> None:
    old = state() | {"gone": weights((300, 300)), "reshaped": weights((300, 400), seed=6)}
    old |= {"retyped": weights((300, 300), seed=7), "kind": 3, "big": weights((50_000,), ">f4", 8)}
    new = changed(state()) | {"fresh": weights((300, 300), seed=9), "reshaped": old["reshaped"].reshape(400, 300)}
    new |= {"retyped": old["retyped"].view(np.int32), "kind": "three", "big": old["big"].astype("<f4")}
    new = dict(reversed(new.items()))
    saved_after(run, old, new)
    assert "gone" not in ostraca.open(run / "delta")


def test_another_chunk_grid(run: Path) -> None:
    old = {"w": weights((1500, 1000)), "same": weights((400, 400))}
    new = {"w": stepped(old["w"]), "same": old["same"]}
    ostraca.save(run / "base", old)
    ostraca.save(run / "delta", new, base=run / "base", chunk_shape=(64, 512))
    check(run / "delta", new)
    again = ostraca.save(run / "again", new, base=run / "base")
    assert kinds(run / "again", "w") == {"delta"} and again.stored_bytes < ostraca.open(run / "delta").info.stored_bytes


def test_packs(run: Path) -> None:
    old = {f"x{i:03}": weights((50,), seed=i) for i in range(400)}
    ostraca.save(run / "base", old)
    touched = {name: stepped(x, 1e-6) for name, x in old.items()}
    ostraca.save(run / "same members", touched, base=run / "base")
    assert kinds(run / "same members", "x100") == {"delta"}
    check(run / "same members", touched)
    fewer = {name: x for name, x in touched.items() if name != "x200"} | {"more": np.ones(3, np.float32)}
    ostraca.save(run / "other members", fewer, base=run / "base")
    assert kinds(run / "other members", "x100") == {"full"}
    check(run / "other members", fewer)
    longer = touched | {"x399": np.ones(51, np.float32)}
    ostraca.save(run / "longer", longer, base=run / "base")
    check(run / "longer", longer)


def test_tied_and_equal_arrays(run: Path) -> None:
    w = weights((500, 500))
    old = {"a": w, "b": w, "c": w.copy()}
    moved = stepped(w)
    for name, new in {
        "tied": {"a": moved, "b": moved, "c": w},
        "swapped": {"a": w, "b": moved, "c": moved.copy()},
    }.items():
        saved_after(run / name, old, new)


def test_delta_of_a_delta_names_the_keyframe(run: Path) -> None:
    tree = state()
    ostraca.save(run / "0", tree)
    for step in range(1, 4):
        tree = changed(tree)
        ostraca.save(run / str(step), tree, step=step, base=run / str(step - 1))
        assert base_of(run / str(step)) == "0"
        check(run / str(step), tree)
    shutil.rmtree(run / "1")
    check(run / "3", tree)


def test_a_base_through_a_link(run: Path) -> None:
    tree = state()
    ostraca.save(run / "0", tree)
    (run / "latest").symlink_to("0")
    ostraca.save(run / "1", changed(tree), base=run / "latest")
    assert base_of(run / "1") == "0"
    (run / "latest").unlink()
    check(run / "1", changed(tree))


def test_relative_paths(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run.mkdir()
    monkeypatch.chdir(run)
    ostraca.save("0", state())
    ostraca.save("1", changed(state()), base="0")
    ostraca.save(Path("2"), changed(state()), base=Path("../run/1"))
    ostraca.save("./3/", state(), base="1/")
    for name in "123":
        check(run / name, state() if name == "3" else changed(state()))


def test_a_copied_run_is_whole(run: Path, tmp_path: Path) -> None:
    ostraca.save(run / "0", state())
    ostraca.save(run / "1", changed(state()), base=run / "0")
    shutil.copytree(run, tmp_path / "copy")
    shutil.rmtree(run)
    check(tmp_path / "copy" / "1", changed(state()))


def test_loading_through_a_link_elsewhere(run: Path, tmp_path: Path) -> None:
    ostraca.save(run / "0", state())
    ostraca.save(run / "1", changed(state()), base=run / "0")
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "latest"
    link.symlink_to(run / "1")
    trees.same(changed(state()), ostraca.load(link))


# --- Properties ---------------------------------------------------------------------------------------------------


def anonymous(path: Path) -> tuple[Any, ...]:
    """All of a delta but ids, times, and the checksums and sizes that follow from them."""
    checkpoint = reference._Checkpoint(path, reference._Guard(collect=False))
    m = json.loads((path / "manifest.json").read_text().replace(checkpoint.manifest["id"], "id"))
    for member in ("created", "created_nanoseconds", "parent", "seconds", "stall_seconds", "crc32c"):
        del m[member]
    for entry in (m["index"], *m["files"]):
        del entry["footer_crc32c"]
    m["stored_bytes"] -= m["index"].pop("bytes")
    raw = data_file(path).read_bytes()
    table_at, extents = struct.unpack_from("<QQ", raw, len(raw) - 96)
    return m, raw[64 : table_at + 64 * extents]


def test_two_saves_against_one_base_are_the_same(run: Path) -> None:
    ostraca.save(run / "0", state())
    with ostraca.BaseSnapshot(run / "0") as snapshot:
        for name, base in {"a": run / "0", "b": snapshot, "c": snapshot}.items():
            ostraca.save(run / name, changed(state()), base=base, threads=3, step=1)
    assert anonymous(run / "a") == anonymous(run / "b") == anonymous(run / "c")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(trees.trees, trees.trees, st.sampled_from(["auto", "raw", "zstd"]), st.booleans())
def test_any_two_trees(old: Any, new: Any, codec: str, both: bool) -> None:
    if both:  # so that there is something to share
        old, new = {"x": old, "y": new}, {"x": old, "y": old}
    with tempfile.TemporaryDirectory() as directory:
        run = Path(directory)
        ostraca.save(run / "0", old)
        info = ostraca.save(run / "1", new, base=run / "0", codec=codec)
        full = ostraca.save(run / "2", new, codec=codec)
        assert info.stored_bytes <= full.stored_bytes * 1.001 + SLACK_BYTES
        assert reference.verify(run / "1") == []
        trees.same(new, reference.load(run / "1"))
        trees.same(new, ostraca.load(run / "1", verify="deep"))
        ostraca.compact(run / "1")
        shutil.rmtree(run / "0")
        trees.same(new, ostraca.load(run / "1", verify="deep"))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(["f4", "f2", "i8", "u1", "i2", "f8", ml_dtypes.bfloat16]),
    st.integers(1, 300),
    st.integers(1, 300),
    st.floats(0, 1),
    st.sampled_from([None, (16, 16), (1, 300)]),
    st.integers(0, 99),
)
def test_any_change(dtype: Any, rows: int, columns: int, share: float, chunk: Any, seed: int) -> None:
    """Any share of an array's elements, changed to any bits."""
    old = trees.array(dtype, (rows, columns), seed)
    new = old.copy()
    where = np.random.default_rng(seed).random((rows, columns)) < share
    new[where] = trees.array(dtype, (rows, columns), seed + 1)[where]
    with tempfile.TemporaryDirectory() as directory:
        run = Path(directory)
        ostraca.save(run / "0", {"x": old}, chunk_shape=chunk)
        ostraca.save(run / "1", {"x": new}, base=run / "0", chunk_shape=chunk)
        trees.same({"x": new}, ostraca.load(run / "1", verify="deep"))
        trees.same({"x": new}, reference.load(run / "1"))
        start = rows // 3, columns // 2
        with ostraca.open(run / "1") as checkpoint:
            trees.same(new[start[0] :, start[1] :], checkpoint["x"][start[0] :, start[1] :])
