"""Processes that write several files each: the engine, the reference reader and a writer of the tests' own agree."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import format_writer as writer
import ostraca
import trees
from format_writer import Options
from ostraca import _core, reference

TREE: dict[str, Any] = {
    "w": np.arange(4800, dtype="<i4").reshape(80, 60),
    "text": "in one chunk",
    "none": None,
    "half": np.arange(600, dtype="<u2").reshape(30, 20),
    "tied": np.arange(600, dtype="<u2").reshape(30, 20),
}
OPTIONS = {
    "w": Options(chunk=(9, 13), boxes=[((0, 0), (40, 60), 0), ((40, 0), (40, 60), 1)]),
    "half": Options("planes", chunk=(4, 20), boxes=[((0, 0), (30, 20), 1)]),
    "tied": Options(tie="half", chunk=(4, 20), boxes=[((0, 0), (30, 20), 1)]),
}
PARTS = [(1, 1), (3, 1), (1, 4), (2, 3)]


def put(stage: str, at: int, value: bytes) -> Any:
    def hook(name: str, part: Any) -> None:
        if name == stage:
            part[at : at + len(value)] = value

    return hook


def renamed(number: int, old: str, new: str) -> Any:
    def hook(name: str, part: Any) -> None:
        if name == "manifest":
            part["files"][number]["file"] = part["files"][number]["file"].replace(old, new)

    return hook


def sound(path: Path, tree: Any) -> None:
    assert reference.verify(path) == []
    report = ostraca.verify(path, deep=True)
    assert report.ok, report
    trees.same(tree, reference.load(path))
    trees.same(tree, ostraca.load(path, verify="deep"))


@pytest.mark.parametrize("parts", PARTS, ids=str)
def test_files_of_another_writer(tmp_path: Path, parts: tuple[int, int]) -> None:
    written = writer.write(tmp_path / "key", TREE, OPTIONS, processes=2, parts=parts, alignment=512)
    assert len(written.files) == sum(parts)
    sound(tmp_path / "key", TREE)
    trained = {**TREE, "w": TREE["w"] + 1}
    options = {
        "w": Options("delta", OPTIONS["w"].chunk, OPTIONS["w"].boxes),
        "half": Options("base", OPTIONS["half"].chunk, OPTIONS["half"].boxes),
        "tied": OPTIONS["tied"],
        "text": Options("base"),
    }
    for others in PARTS:
        path = tmp_path / f"delta{others}"
        writer.write(path, trained, options, processes=2, parts=others, base=written, seed=len(path.name))
        sound(path, trained)


# The header, and the first file's entry in the directories: at 64 of them.
DAMAGE = {
    "a part in another's place": put("p1-2:header", 14, b"\1"),
    "a part that says it is the first": put("p1-2:header", 14, b"\0"),
    "a part without its feature": put("p1-2:header", 16, b"\0"),
    "the feature where there is no part": put("p1:header", 16, b"\2"),
    "an unknown feature": put("p1-1:header", 16, b"\6"),
    "the index without the feature": put("index:header", 16, b"\0"),
    "a part in the index's header": put("index:header", 14, b"\1"),
    "parts out of order in the index": put("index:directory", 98, b"\1"),
    "a number in the base without one": put("index:directory", 100, b"\1"),
    "the last says another part": put("p1-3:directory", 64 + 3 * 40 + 34, b"\2"),
    "the last says another size of one before": put("p1-3:directory", 64 + 40, b"\1"),
    "a part before the last says another part": put("p1-1:directory", 64 + 34, b"\2"),
    "parts out of order in the manifest": renamed(3, "-00002-", "-00003-"),
    "a part of another width": renamed(3, "-00002-", "-2-"),
    "a part that leads elsewhere": renamed(3, "-00002-", "-../../00002-"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_the_format_does_not_allow_is_found_by_both(tmp_path: Path, name: str) -> None:
    path = tmp_path / "c"
    writer.write(path, TREE, OPTIONS, processes=2, parts=(1, 4), hook=DAMAGE[name])
    assert reference.verify(path) != []
    with pytest.raises((ostraca.OstracaError, AssertionError)):
        assert ostraca.verify(path).ok


def test_leaves_before_the_last_part_are_refused(tmp_path: Path) -> None:
    """The first of two parts, as one file of its own, has leaves."""
    path, other = tmp_path / "c", tmp_path / "other"
    written = writer.write(path, TREE, processes=1, parts=(2,))
    writer.write(other, TREE, processes=1)
    first = written.files[0]["file"]
    raw = (other / first).read_bytes()
    (path / first).write_bytes(raw)
    members = json.loads((path / "manifest.json").read_text())
    members["files"][0] |= {"bytes": len(raw), "footer_crc32c": raw[-4:][::-1].hex()}
    del members["crc32c"]
    (path / "manifest.json").write_bytes(writer.manifest_bytes(members))
    assert any("not the last of its process" in problem for problem in reference.verify(path))
    assert not ostraca.verify(path).ok


def test_unknown_compatible_features_are_passed_over(tmp_path: Path) -> None:
    bit = (1 << 63).to_bytes(8, "little")

    def hook(stage: str, part: Any) -> None:
        if stage.endswith(":header"):
            part[52:60] = bit
        if stage == "manifest":
            part["compatible_features"] = "8000000000000000"

    writer.write(tmp_path / "c", TREE, OPTIONS, processes=2, parts=(1, 2), hook=hook)
    sound(tmp_path / "c", TREE)


# --- The engine's own, forced to write small files ------------------------------------------------------------------


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_core, "Writer", partial(_core.Writer, file_bytes=1))


def state(seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    noise = random.integers(0, 255, 12 << 20, dtype="u1")
    return {"noise": noise, "repeated": noise.copy(), "counter": np.arange(3 << 20), "small": [1, "two", np.zeros(3)]}


def data_files(path: Path) -> int:
    return len(list(path.glob("p0*.ostraca")))


@pytest.mark.usefixtures("small_files")
def test_saves_of_several_files_by_the_engine(tmp_path: Path) -> None:
    tree, key, delta = state(1), tmp_path / "key", tmp_path / "delta"
    ostraca.save(key, tree)
    assert data_files(key) > 3
    sound(key, tree)
    with ostraca.open(key) as checkpoint:
        assert np.array_equal(checkpoint["counter"][5:9], np.arange(5, 9))
    trained = {**tree, "counter": tree["counter"] + 1}
    snapshot = ostraca.save_async(tmp_path / "kept", tree, keep_bytes=1 << 28)
    snapshot.result()
    ostraca.save(delta, trained, base=key)
    sound(delta, trained)
    assert ostraca.save(tmp_path / "later", trained, base=snapshot.snapshot()).referenced_bytes > 0
    sound(tmp_path / "later", trained)
    ostraca.compact(delta)
    sound(delta, trained)
    ostraca.save(key, {"x": 1}, overwrite=True)
    report = ostraca.prune(tmp_path, keep=1, grace_seconds=0)
    assert not report.errors
    left = [file for file in tmp_path.glob("*/*") if file.name != "manifest.json"]
    assert len({file.parent for file in left}) <= 2


@pytest.mark.usefixtures("small_files")
def test_what_a_killed_save_left_is_swept(tmp_path: Path) -> None:
    tree, path = state(2), tmp_path / "c"
    killed = _core.Writer(str(path))
    for name in ("noise", "count"):
        memory = tree["noise" if name == "noise" else "counter"].view("u1")
        killed.add([(b"\1\5\0\0\0" + name.encode(), (1, 6, "", False, False), memory, None, None, None)])
    killed.finish()
    assert data_files(path) > 3
    report = ostraca.prune(tmp_path, keep=1, grace_seconds=0)
    assert [kept.reason for kept in report.kept] == [f"an unfinished save: process {os.getpid()} is saving it"]
    (intent,) = path.glob("intent-*")
    intent.unlink()
    report = ostraca.prune(tmp_path, keep=1, grace_seconds=0)
    assert [removed.reason for removed in report.removed] == ["files that no checkpoint names"]
    assert not path.exists()
    killed.abort()


@pytest.mark.usefixtures("small_files")
def test_several_processes_of_several_files(tmp_path: Path) -> None:
    path, whole = tmp_path / "c", np.arange(6 << 20, dtype="<u4")
    cuts = [0, 1 << 20, 4 << 20, 6 << 20]
    writers = [ostraca.Writer(path, process_index=p, process_count=3, attempt="ab" * 16) for p in range(3)]
    reports = []
    for p, each in enumerate(writers):
        part = whole[cuts[p] : cuts[p + 1]]
        each.add("w", part, dtype="uint32", shape=part.shape, global_shape=whole.shape, offset=(cuts[p],))
        reports.append(ostraca.FileReport.from_bytes(each.finish().to_bytes()))
    ostraca.commit(path, reports)
    assert data_files(path) == 5
    sound(path, {"w": whole})
