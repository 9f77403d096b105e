"""The command line on checkpoints that have a base: ls, inspect, diff, compact."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ostraca
import trees
from increments import base_of, changed, data_file, flip, state
from ostraca.cli import main


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "OSTRACA_DEBUG"}
    argv = [sys.executable, "-m", "ostraca", *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=120)


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> Any:
    assert main([*map(str, arguments), "--json"]) == status
    return json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    tree = state()
    ostraca.save(directory / "key", tree, step=0)
    for step in (1, 2):
        tree = changed(tree)
        ostraca.save(directory / f"d{step}", tree, step=step, base=directory / "key")
    return directory


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    shutil.copytree(saved, tmp_path / "run")
    return tmp_path / "run"


def test_ls(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {Path(row["path"]).name: row for row in run_json(capsys, "ls", copied)["checkpoints"]}
    assert {name: row["base"] for name, row in rows.items()} == {"key": None, "d1": "key", "d2": "key"}
    assert rows["d1"]["referenced_bytes"] > 0 == rows["key"]["referenced_bytes"]
    assert rows["d1"]["stored_bytes"] == ostraca.open(copied / "d1").info.stored_bytes
    shown = run("ls", copied)
    assert shown.returncode == 0 and re.search(r"^d1 +1 .* key +committed$", shown.stdout, re.MULTILINE)
    (copied / "key").rename(copied / "moved")
    shown = run("ls", copied)
    assert shown.returncode == 1 and "damaged: its base 'key' is missing" in shown.stdout
    (copied / "moved").rename(copied / "key")
    ostraca.prune(copied, keep=["d1", "d2"])
    rows = {(Path(row["path"]).name, row["status"]) for row in run_json(capsys, "ls", copied)["checkpoints"]}
    assert rows == {("key", "removed"), ("d1", "committed"), ("d2", "committed")}


def test_inspect_of_a_delta(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = run_json(capsys, "inspect", saved / "d1", "--chunks")
    relations = shown["lineage"]
    keyframe = ostraca.open(saved / "key")
    base = {"directory": "key", "id": keyframe.id, "path": str(saved / "key"), "status": "committed"}
    assert (relations["kind"], relations["base"], relations["base_of"]) == ("delta", base, [])
    info = ostraca.open(saved / "d1").info
    assert relations["written_bytes"] == info.stored_bytes and relations["referenced_bytes"] == info.referenced_bytes
    assert relations["keyframe_stored_bytes"] == keyframe.info.stored_bytes
    kinds = relations["chunks"]
    assert {*kinds} == {"reference", "delta", "full"}
    assert kinds["reference"]["logical_bytes"] > 1200 * 1000 * 4 and kinds["delta"]["logical_bytes"] > 1500 * 1000 * 4
    assert sum(kind["logical_bytes"] for kind in kinds.values()) == info.logical_bytes
    assert kinds["delta"]["base_stored_bytes"] > 0 == kinds["full"]["base_stored_bytes"]
    assert relations["shared_bytes"] == kinds["reference"]["stored_bytes"]
    assert relations["shared_bytes"] + kinds["delta"]["base_stored_bytes"] >= relations["referenced_bytes"]
    with ostraca.Reader(saved / "d1") as reader:  # what is said is what is read
        reader.fill([(info.number, None, info.dtype) for info in reader.arrays() if info.nbytes])
        extra = reader.statistics()["bytes_read"] - relations["restore_bytes"]
        assert 0 <= extra < 0.01 * relations["restore_bytes"]  # padding between neighbours
    assert relations["restore_ratio"] == pytest.approx(
        relations["restore_bytes"] / relations["keyframe_stored_bytes"], abs=1e-6
    )
    leaves = {leaf["name"]: leaf for leaf in shown["leaves"]}
    assert leaves["frozen"]["codecs"] == {"reference": 1.0} and leaves["w"]["codecs"] == {"delta": 1.0}
    assert all(chunk["in_base"] for chunk in leaves["frozen"]["chunk_list"])
    assert all(chunk["base_stored_bytes"] for chunk in leaves["w"]["chunk_list"])
    text = run("inspect", saved / "d1", "--chunks").stdout
    for line in (
        rf"lineage     delta of key \({keyframe.id}\)",
        r" +[0-9.]+ [KM]iB written",
        r" +[0-9.]+ MiB of the base referenced, [0-9.]+ MiB of it shared",
        r" +[0-9.]+ MiB read by a restore, [0-9.]+ times the keyframe's stored bytes",
        r" +reference +[0-9]+ .* MiB .* -",
        r" +delta +[0-9]+ .* MiB",
        r"frozen +\[.*\] +reference .* base p00000 .*",
    ):
        assert re.search(f"^{line}$", text, re.MULTILINE), (line, text)


def test_inspect_of_a_keyframe(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    relations = run_json(capsys, "inspect", copied / "key")["lineage"]
    assert (relations["kind"], relations["base"], relations["base_of"]) == ("keyframe", None, ["d1", "d2"])
    assert relations["referenced_bytes"] == 0 and 0.9 < relations["restore_ratio"] <= 1
    text = run("inspect", copied / "key").stdout
    assert "\nlineage     keyframe\n" in text and "\nbase of     2: d1, d2\n" in text
    shutil.rmtree(copied / "d1")
    shutil.rmtree(copied / "d2")
    assert "base of" not in run("inspect", copied / "key").stdout


def test_inspect_without_the_base(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ostraca.prune(copied, keep=["d1", "d2"], grace_seconds=0)
    relations = run_json(capsys, "inspect", copied / "d1")["lineage"]
    assert relations["base"]["status"] == "removed" and relations["restore_ratio"]
    assert "its base is REMOVED" in run("inspect", copied / "d1").stdout
    shutil.rmtree(copied / "key")
    shown = run_json(capsys, "inspect", copied / "d1")
    relations = shown["lineage"]
    assert relations["base"]["status"] == "missing" and relations["restore_bytes"] is relations["chunks"] is None
    leaves = {leaf["name"]: leaf for leaf in shown["leaves"]}
    assert leaves["frozen"]["chunks"] is leaves["frozen"]["stored_bytes"] is None
    result = run("inspect", copied / "d1", "--chunks")
    assert result.returncode == 0 and "its base is MISSING" in result.stdout


def test_diff(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run_json(capsys, "diff", saved / "key", saved / "d1", "--ignore-metadata", status=1)
    rows = {row["name"]: row for row in found["differences"]}
    assert {*rows} == {"w", "half", "ids", "count"}
    assert rows["w"]["chunks_identical"] == 0 and 0 < rows["w"]["max_abs_difference"] < 1e-3
    assert 0 < rows["w"]["mean_abs_difference"] < rows["w"]["max_abs_difference"]
    assert (rows["ids"]["elements_differing"], rows["ids"]["max_abs_difference"]) == (1, 1.0)
    assert run("diff", saved / "d1", saved / "d2").returncode == 1
    assert run("diff", saved / "d1", saved / "d1").returncode == 0


def test_diff_reads_no_data_that_is_shared(copied: Path) -> None:
    """Damage in a chunk that both refer to is not met, nor in a pack that both have."""
    with ostraca.Reader(copied / "key") as reader:
        offsets = [chunk.offset for name in ("frozen", "small/b3") for chunk in reader.chunks(name)]
    flip(data_file(copied / "key"), *offsets)
    assert run("diff", copied / "key", copied / "d1", "frozen", "--ignore-metadata").returncode == 0
    assert run("diff", copied / "d1", copied / "d2", "small/*", "--ignore-metadata").returncode == 0
    assert "identical" in run("diff", copied / "d1", copied / "d2", "frozen", "--ignore-metadata").stdout


def test_diff_of_packs_with_one_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = {f"x{i}": np.arange(10) + i for i in range(5)}
    ostraca.save(tmp_path / "a", tree)
    ostraca.save(tmp_path / "b", tree | {"x3": np.arange(10)}, base=tmp_path / "a")
    found = run_json(capsys, "diff", tmp_path / "a", tmp_path / "b", status=1)
    assert [(row["name"], row["max_abs_difference"]) for row in found["differences"]] == [("x3", 3.0)]


def test_compact(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = ostraca.load(copied / "d1")
    result = run("compact", "--dry-run", copied / "d1", copied / "key")
    assert result.returncode == 0 and "at most" in result.stdout and "nothing to do" in result.stdout
    assert "key is still the base of d2" in result.stdout and base_of(copied / "d1") == "key"
    found = run_json(capsys, "compact", copied / "d1", copied / "key")
    first, second = found["compacted"]
    assert (first["base"], first["base_needed_by"], second["base"]) == ("key", ["d2"], None) and not found["errors"]
    assert first["stored_bytes_after"] == ostraca.open(copied / "d1").info.stored_bytes
    result = run("compact", copied / "d2")
    assert result.returncode == 0 and "prune may remove it" in result.stdout and result.stderr == ""
    shutil.rmtree(copied / "key")
    trees.same(expected, ostraca.load(copied / "d1", verify="deep"))


def test_compact_goes_on_after_errors(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run("compact", copied / "nowhere")
    assert result.returncode == 2 and re.fullmatch(r"ostraca: error: .*nowhere.*\n", result.stderr)
    result = run("compact", copied / "nowhere", copied / "d1")
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and base_of(copied / "d1") is None
    flip(next((copied / "d2").glob("index-*")), 70)
    found = run_json(capsys, "compact", copied / "d2", copied / "d1", status=1)
    assert [row["path"] for row in found["errors"]] == [str(copied / "d2")] and len(found["compacted"]) == 1
    assert run("compact").returncode == 2
