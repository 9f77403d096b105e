"""The command line as a user types it: output, JSON, exit status, broken input."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import ostraca
from ostraca.cli import main, text
from ostraca.sharded.boxes import boxes

COMMAND = (sys.executable, "-m", "ostraca")
TRICKY = "evil\x1b[2J\u202ename"
CHUNK_ELEMENTS = 1 << 20  # of float32


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "OSTRACA_DEBUG"}
    argv = [*COMMAND, *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, cwd=cwd, env=environment, timeout=120)


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> Any:
    """In this process, for speed."""
    assert main([*map(str, arguments), "--json"]) == status
    return json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def state() -> dict[str, Any]:
    generator = np.random.default_rng(0)
    return {
        "params": {
            "kernel": generator.standard_normal((3 * 1024, 1024)).astype(np.float32),
            "bias": np.zeros(1000, np.float32),
            "embedding": generator.standard_normal((512, 256)).astype(ml_dtypes.bfloat16),
        },
        "count": 7,
        "note": "text",
        "nothing": None,
        "small": [np.arange(5), np.float64(2.5)],
        TRICKY: np.ones(3, np.int8),
    }


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "1000"
    ostraca.save(path, state(), step=1000, metadata={"lr": 0.5, "loss": float("nan"), "big": 1 << 60})
    return path


def data_file(path: Path) -> Path:
    return next(path.glob("p00000-*.ostraca"))


def flip(path: Path, *offsets: int) -> None:
    data = bytearray(path.read_bytes())
    for offset in offsets:
        data[offset] ^= 0x10
    path.write_bytes(data)


def fails(result: subprocess.CompletedProcess[str], status: int, pattern: str) -> None:
    """One clear line on standard error, and nothing else."""
    assert result.returncode == status, result
    assert result.stdout == ""
    assert re.fullmatch(rf"ostraca: error: [^\n]*{pattern}[^\n]*\n", result.stderr), result.stderr
    assert all(line.isprintable() for line in result.stderr.splitlines())


# --- The command itself -------------------------------------------------------------------------------------------


def test_help_names_every_command_and_is_quick() -> None:
    run("--help")
    started = time.monotonic()
    result = run("--help")
    assert time.monotonic() - started < 2  # 0.2 s on an idle machine
    assert result.returncode == 0
    for command in ("ls", "inspect", "verify", "diff", "prune", "compact", "convert", "bench"):
        assert re.search(rf"^    {command} ", result.stdout, re.MULTILINE)
        details = run(command, "--help")
        assert details.returncode == 0 and "examples:" in details.stdout and "--json" in details.stdout
        assert max(map(len, details.stdout.splitlines())) <= 80


def test_usage_errors() -> None:
    nothing = run()
    assert nothing.returncode == 2 and nothing.stdout == "" and nothing.stderr.startswith("usage: ostraca")
    fails(run("frobnicate"), 2, "invalid choice: 'frobnicate'")
    fails(run("verify"), 2, "PATH")
    fails(run("bench", "--size", "big"), 2, "'big' is no size")
    fails(run("bench", "--repeat", "0"), 2, "'0' is no positive number")


@pytest.mark.parametrize("command", ["ls", "inspect", "verify"])
def test_missing_path(command: str, tmp_path: Path) -> None:
    fails(run(command, tmp_path / "no\x1bwhere"), 2, r"no\\x1bwhere")


def test_not_a_checkpoint(tmp_path: Path) -> None:
    fails(run("inspect", tmp_path), 2, "not a checkpoint")
    fails(run("diff", tmp_path, tmp_path), 2, "not a checkpoint")
    (tmp_path / "file").touch()
    fails(run("ls", tmp_path / "file"), 2, "[Nn]ot a directory")


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    result = subprocess.run(
        [*COMMAND, "inspect", str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ | {"OSTRACA_DEBUG": "1"},
        timeout=60,
    )
    assert result.returncode != 0 and "Traceback" in result.stderr


def test_unexpected_errors_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], saved: Path
) -> None:
    monkeypatch.delenv("OSTRACA_DEBUG", raising=False)
    monkeypatch.setattr("ostraca.loading.verify", lambda *_, **__: 1 / 0)
    assert main(["verify", str(saved)]) == 2
    assert "unexpected ZeroDivisionError" in capsys.readouterr().err


def test_closed_pipe_is_no_error(saved: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "inspect", "--chunks", str(saved)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 141


def test_interrupt(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "bench", "--size", "64MiB", "--repeat", "1000", "--dir", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("ostraca-bench-*/checkpoint")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "ostraca: interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_ascii_terminal(saved: Path, tmp_path: Path) -> None:
    ostraca.save(tmp_path / "c", {"名前": np.ones(3)})
    result = subprocess.run(
        [*COMMAND, "inspect", str(tmp_path / "c")],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        timeout=60,
    )
    assert result.returncode == 0 and b"\\u540d\\u524d" in result.stdout


# --- ls -----------------------------------------------------------------------------------------------------------


def abandon(path: Path) -> None:
    """A save that is killed before its commit."""
    script = (
        "import os, sys, numpy, ostraca\n"
        "w = ostraca.Writer(sys.argv[1])\n"
        "w.add('x', numpy.arange(5000000.0), dtype='float64', shape=(5000000,))\n"
        "w.wait_copied()\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=True, timeout=60)


def test_ls(tmp_path: Path, saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(saved, tmp_path / "0001000")
    ostraca.save(tmp_path / "0000500", {"x": np.arange(10)}, step=500)
    shutil.copytree(saved, tmp_path / "bad")
    flip(tmp_path / "bad" / "manifest.json", 60)
    abandon(tmp_path / "0002000")
    (tmp_path / "unrelated").mkdir()
    (tmp_path / "file").touch()
    listed = run_json(capsys, "ls", tmp_path, status=1)
    assert listed["directory"] == str(tmp_path)
    rows = {Path(row["path"]).name: row for row in listed["checkpoints"]}
    assert [*rows][:2] == ["0001000", "0000500"]  # in the order in which they were saved
    assert {name: row["status"] for name, row in rows.items()} == {
        "0000500": "committed",
        "0001000": "committed",
        "bad": "damaged",
        "0002000": "unfinished",
    }
    assert {*rows["bad"]} == {*rows["0001000"]} == {*rows["0002000"]}  # the same keys
    good = rows["0001000"]
    assert good["step"] == 1000 and good["arrays"] == 8
    assert good["ratio"] == pytest.approx(good["stored_bytes"] / good["logical_bytes"], abs=1e-6)
    assert "which is gone" in rows["0002000"]["detail"] and rows["0002000"]["created"]
    result = run("ls", tmp_path)
    assert result.returncode == 1 and result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0].split() == [
        "name",
        "step",
        "when",
        "(UTC)",
        "arrays",
        "logical",
        "stored",
        "ratio",
        "base",
        "status",
    ]
    assert len(lines) == 5


def test_ls_of_one_checkpoint_and_of_none(saved: Path, tmp_path: Path) -> None:
    result = run("ls", saved)
    assert result.returncode == 0 and re.search(r"^\. +1000 .* committed$", result.stdout, re.MULTILINE)
    result = run("ls", tmp_path)
    assert (result.returncode, result.stdout) == (0, "") and result.stderr.startswith("no checkpoints in ")
    assert json.loads(run("ls", "--json", tmp_path).stdout)["checkpoints"] == []


def test_ls_shows_a_running_save_and_leftovers(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "c"
    shutil.copytree(saved, path)
    (path / f"p00000-{'0' * 32}.ostraca").write_bytes(b"1234")
    writer = ostraca.Writer(path, overwrite=True)
    try:
        result = run("ls", tmp_path)
    finally:
        writer.abort()
    assert result.returncode == 0
    assert f"by process {os.getpid()} on" in result.stdout and "which is running" in result.stdout
    assert "left over" in result.stdout and " committed\n" in result.stdout


@pytest.mark.parametrize(
    "intent", [b"", b"[]", b"\xff", b'{"pid": "x\x1b"}', b"[" * 100_000, b'{"pid": -1, "host": 3}']
)
def test_ls_survives_any_intent(intent: bytes, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / f"intent-{'a' * 32}.json").write_bytes(intent)
    result = run("ls", tmp_path)
    assert result.returncode == 0 and "unfinished" in result.stdout and "\x1b" not in result.stdout


# --- inspect ------------------------------------------------------------------------------------------------------


def test_inspect(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run("inspect", saved)
    assert result.returncode == 0 and result.stderr == ""
    for line in (
        r"step        1000",
        r'metadata    .*"lr": 0.5.*',
        r"params/kernel +float32 +\[3072, 1024\] +12.00 MiB .* planes +3",
        r"params/embedding +bfloat16 +\[512, 256\] .*",
        r"count +int +1 B .*pack",
        r"nothing +None .*",
        r"evil\\x1b\[2J\\u202ename .*",
    ):
        assert re.search(f"^{line}$", result.stdout, re.MULTILINE), (line, result.stdout)
    assert all(line.isprintable() for line in result.stdout.splitlines())
    shown = run_json(capsys, "inspect", saved)
    assert shown["manifest"]["step"] == 1000
    leaves = {leaf["name"]: leaf for leaf in shown["leaves"]}
    assert TRICKY in leaves
    kernel = leaves["params/kernel"]
    assert kernel["dtype"] == "float32" and kernel["shape"] == [3072, 1024] and kernel["chunks"] == 3
    assert kernel["logical_bytes"] == 12 << 20 and kernel["codecs"] == {"planes": 1.0}
    assert leaves["nothing"]["dtype"] is None and leaves["count"]["kind"] == "int"
    assert all({*leaf} == {*kernel} for leaf in leaves.values())


def test_inspect_glob_and_chunks(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run("inspect", saved, "params/*", "--chunks")
    assert "3 of 9 leaves" in result.stdout
    assert re.search(r"^params/kernel +\[1024:2048, 0:1024\] +planes +4,194,304 .* [0-9a-f]{32}$", result.stdout, re.M)
    shown = run_json(capsys, "inspect", saved, "params/kernel", "--chunks")
    chunks = shown["leaves"][0]["chunk_list"]
    assert [chunk["origin"] for chunk in chunks] == [[0, 0], [1024, 0], [2048, 0]]
    assert sum(chunk["stored_bytes"] for chunk in chunks) == shown["leaves"][0]["stored_bytes"]
    fails(run("inspect", saved, "nope*"), 2, r"matches 'nope\*'")


# --- verify -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--deep"]])
def test_verify_ok(saved: Path, options: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
    result = run("verify", saved, *options)
    assert result.returncode == 0 and result.stderr == ""
    assert re.fullmatch(r"ok: [0-9]+ chunks, [0-9,]+ bytes \(.* MiB\), [0-9.]+ s, [0-9.]+ GB/s\n", result.stdout)
    report = run_json(capsys, "verify", saved, *options)
    assert {*report} == {"path", "deep", "seconds", "ok", "chunks", "bytes", "damaged", "unreadable"}
    assert report["ok"] is True and report["deep"] is bool(options) and report["damaged"] == []


def test_verify_lists_all_damage(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(saved, bad)
    chunks = run_json(capsys, "inspect", saved, "params/*", "--chunks")["leaves"]
    kernel, embedding = (next(x for x in chunks if x["name"] == f"params/{name}") for name in ("kernel", "embedding"))
    places = [kernel["chunk_list"][0], kernel["chunk_list"][2], embedding["chunk_list"][0]]
    flip(data_file(bad), *(place["offset"] + 5 for place in places))
    flip(next(bad.glob("index-*")), 70)
    report = run_json(capsys, "verify", bad, status=1)
    assert report["ok"] is False
    found = {(row["file"], row["offset"]) for row in report["damaged"]}
    assert {(place["file"], place["offset"]) for place in places} <= found
    assert any(file.startswith("index-") for file, _ in found)
    assert all({*row} == {"file", "offset", "array", "reason"} for row in report["damaged"])
    result = run("verify", bad)
    assert result.returncode == 1 and "DAMAGED: " in result.stdout
    for place in places:
        assert re.search(rf"^{place['file']} +{place['offset']:,} ", result.stdout, re.MULTILINE)


def test_verify_names_the_arrays_and_escapes_them(saved: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(saved, bad)
    with ostraca.Reader(bad) as reader:
        flip(data_file(bad), reader.chunks("params/kernel")[1].offset, reader.chunks(TRICKY)[0].offset)
    result = run("verify", bad)
    assert result.returncode == 1
    assert "params/kernel" in result.stdout and "\x1b" not in result.stdout
    with ostraca.Reader(bad) as reader:
        assert reader.arrays()  # the index is whole


def test_verify_damaged_manifest_and_truncation(saved: Path, tmp_path: Path) -> None:
    for name in ("manifest", "data"):
        shutil.copytree(saved, tmp_path / name)
    flip(tmp_path / "manifest" / "manifest.json", 60)
    os.truncate(data_file(tmp_path / "data"), 10_000)
    for name in ("manifest", "data"):
        assert run("verify", tmp_path / name).returncode == 1
    fails(run("inspect", tmp_path / "manifest"), 1, "manifest.json")


def test_verify_shows_a_bar_on_a_terminal(saved: Path) -> None:
    primary, secondary = pty.openpty()
    try:
        process = subprocess.Popen([*COMMAND, "verify", str(saved)], stdout=subprocess.PIPE, stderr=secondary)
        out, _ = process.communicate(timeout=60)
    finally:
        os.close(secondary)
    shown = os.read(primary, 1 << 16).decode()
    os.close(primary)
    assert process.returncode == 0 and out.startswith(b"ok: ")
    assert "verifying" in shown and "100%" in shown


# --- diff ---------------------------------------------------------------------------------------------------------


def test_diff_of_the_same(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ostraca.save(tmp_path / "b", state(), step=1000, metadata={"big": 1 << 60, "loss": float("nan"), "lr": 0.5})
    result = run("diff", saved, tmp_path / "b")
    assert (result.returncode, result.stdout, result.stderr) == (0, "identical: 9 leaves\n", "")
    same = run_json(capsys, "diff", saved, tmp_path / "b")
    assert same["identical"] is True and same["leaves_identical"] == same["leaves_compared"] == 9
    assert same["only_in_a"] == same["only_in_b"] == same["differences"] == same["metadata"] == []


def test_diff(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = state()
    tree["params"]["kernel"][2000, 3] += 0.5
    tree["params"]["kernel"][2000, 4] = np.nan
    tree["params"]["bias"] = tree["params"]["bias"].astype(np.float64)
    tree["params"]["embedding"] = tree["params"]["embedding"][:100]
    tree["count"] = 8
    tree["note"] = b"bytes"
    tree["small"] = tuple(tree["small"])
    tree["new"] = np.ones(2)
    del tree[TRICKY]
    ostraca.save(tmp_path / "b", tree, step=1001, metadata={"lr": 0.25, "loss": float("nan"), "x": {"y": [1]}})
    found = run_json(capsys, "diff", saved, tmp_path / "b", status=1)
    assert found["identical"] is False
    assert [leaf["name"] for leaf in found["only_in_a"]] == [TRICKY]
    assert [leaf["name"] for leaf in found["only_in_b"]] == ["new"]
    rows = {row["name"]: row for row in found["differences"]}
    assert {name: row["reason"] for name, row in rows.items()} == {
        "params/kernel": "content",
        "params/bias": "dtype",
        "params/embedding": "shape",
        "count": "value",
        "note": "kind",
        "small/0": "containers",
        "small/1": "containers",
    }
    kernel = rows["params/kernel"]
    assert (kernel["chunks"], kernel["chunks_identical"]) == (3, 2)
    assert (kernel["elements_differing"], kernel["nan_in_one"]) == (2, 1)
    assert kernel["max_abs_difference"] == pytest.approx(0.5)
    assert kernel["mean_abs_difference"] == pytest.approx(0.5 / (3072 * 1024 - 1))
    assert (rows["count"]["a_value"], rows["count"]["b_value"]) == ("7", "8")
    assert {row["key"]: (row.get("a"), row.get("b")) for row in found["metadata"]} == {
        "step": (1000, 1001),
        "metadata.lr": (0.5, 0.25),
        "metadata.big": ({"$int": str(1 << 60)}, None),
        "metadata.x": (None, {"y": [1]}),
    }
    result = run("diff", saved, tmp_path / "b")
    assert result.returncode == 1 and result.stderr == "" and "\x1b" not in result.stdout
    for part in (
        "only in A:",
        "only in B:",
        "different leaves:",
        "different values:",
        "different contents:",
        "metadata:",
    ):
        assert f"\n{part}\n" in result.stdout
    assert "2 of 3" in result.stdout and "DIFFERENT: 1 of 8 common leaves identical" in result.stdout


def test_diff_reads_only_chunks_that_differ(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Damage in a chunk whose hash says that it is equal is not met."""
    bad = tmp_path / "bad"
    shutil.copytree(saved, bad)
    with ostraca.Reader(bad) as reader:
        flip(data_file(bad), reader.chunks("params/kernel")[1].offset)
    assert run("diff", saved, bad).returncode == 0
    tree = state()
    tree["params"]["kernel"] += 1
    ostraca.save(tmp_path / "other", tree)
    fails(run("diff", tmp_path / "other", bad, "params/kernel"), 1, "params/kernel")


def test_diff_of_other_grids_and_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = np.random.default_rng(1).standard_normal((3000, 3000))
    ostraca.save(tmp_path / "a", {"x": x, "y": np.arange(3)}, metadata="a")
    ostraca.save(tmp_path / "b", {"x": x, "y": np.arange(3)}, metadata="b", chunk_shape=(128, 512), codec="raw")
    assert run_json(capsys, "diff", tmp_path / "a", tmp_path / "b", "--ignore-metadata")["identical"]
    assert not run_json(capsys, "diff", tmp_path / "a", tmp_path / "b", status=1)["identical"]
    x[2999, 2999] += 1
    ostraca.save(tmp_path / "c", {"x": x, "y": np.arange(3)}, chunk_shape=(128, 512))
    found = run_json(capsys, "diff", tmp_path / "a", tmp_path / "c", "--ignore-metadata", status=1)
    (row,) = found["differences"]
    assert row["chunks"] is None and row["elements_differing"] == 1 and row["max_abs_difference"] == pytest.approx(1)
    assert run_json(capsys, "diff", tmp_path / "a", tmp_path / "c", "y", "--ignore-metadata")["identical"]
    fails(run("diff", tmp_path / "a", tmp_path / "c", "zzz"), 2, "matches 'zzz'")


# fmt: off
NUMBERS = [
    (np.array([1, 2, 3], "i8"), np.array([1, -(1 << 63) + 2, 3], "i8"), 1, 0, float(1 << 63)),
    (np.array([0], "u8"), np.array([(1 << 64) - 1], "u8"), 1, 0, float(1 << 64)),
    (np.array([np.nan, 1.0]), np.array([-np.nan, 1.0]), 1, 0, 0.0),
    (np.array([0.0, 1.0]), np.array([-0.0, 1.0]), 1, 0, 0.0),
    (np.array([np.inf]), np.array([1.0]), 1, 0, "inf"),
    (np.array([np.inf]), np.array([-np.inf]), 1, 0, "inf"),
    (np.array([np.nan]), np.array([1.0]), 1, 1, None),
    (np.array([1 + 1j], "c8"), np.array([4 + 5j], "c8"), 1, 0, 5.0),
    (np.array([1 + 1j], "c16"), np.array([4 + 5j], "c16"), 1, 0, 5.0),
    (np.array([True, False]), np.array([True, True]), 1, 0, 1.0),
    (np.array([1, 2], ml_dtypes.bfloat16), np.array([1, 3], ml_dtypes.bfloat16), 1, 0, 1.0),
    (np.array([1, -2], ml_dtypes.int4), np.array([1, 3], ml_dtypes.int4), 1, 0, 5.0),
    (np.array([1, 2], ">f4"), np.array([1, 4], "<f4"), 1, 0, 2.0),
    (np.array(["ab", "c"]), np.array(["ab", "d"]), 1, 0, None),
    (np.array([b"abc"], "S3"), np.array([b"abd"], "S3"), 1, 0, None),
    (np.array(["2020-01-01"], "M8[D]"), np.array(["NaT"], "M8[D]"), 1, 0, None),
    (np.array(3.0), np.array(4.0), 1, 0, 1.0),
]
# fmt: on


@pytest.mark.parametrize(("a", "b", "differing", "nan_in_one", "largest"), NUMBERS)
def test_diff_of_numbers(
    a: Any, b: Any, differing: int, nan_in_one: int, largest: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pad = np.zeros(9)  # packs the small arrays
    ostraca.save(tmp_path / "a", {"x": a, "p": pad})
    ostraca.save(tmp_path / "b", {"x": b, "p": pad})
    (row,) = run_json(capsys, "diff", tmp_path / "a", tmp_path / "b", status=1)["differences"]
    assert (row["elements_differing"], row["nan_in_one"], row["max_abs_difference"]) == (differing, nan_in_one, largest)
    assert main(["diff", str(tmp_path / "a"), str(tmp_path / "b")]) == 1


def test_diff_without_data(tmp_path: Path) -> None:
    for name in "ab":
        tree = {"zero": np.zeros((0, 3)), "none": None, "empty": {}, "s": "", "v": np.zeros(2, "S0")}
        ostraca.save(tmp_path / name, tree)
    assert run("diff", tmp_path / "a", tmp_path / "b").returncode == 0


# --- bench, and how things print -----------------------------------------------------------------------------------


def test_bench(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--size", "8MiB", "--repeat", "2", "--dir", tmp_path)
    result = run_json(capsys, "bench", *options, "--dtype", "bfloat16", "--threads", "1")
    assert [row["name"] for row in result["results"]] == ["save", "load into", "load", "verify", "verify deep"]
    assert all(len(row["seconds"]) == 2 and row["bytes_per_second"] > 0 for row in result["results"])
    assert result["logical_bytes"] == 8 << 20 and result["ratio"] < 0.75 and result["threads"] == 1
    result = run("bench", *options)
    assert result.returncode == 0 and result.stderr == ""
    assert re.search(r"^save +[0-9.]+ s +[0-9.]+ +[0-9.]+ to [0-9.]+ s$", result.stdout, re.MULTILINE)
    assert list(tmp_path.iterdir()) == []
    fails(run("bench", "--dir", tmp_path / "no"), 2, "not a directory")
    fails(run("bench", "--size", "900T", "--dir", tmp_path), 2, "not enough memory")


def test_sizes() -> None:
    shown = [text.size(n) for n in (0, 1023, 1024, 1536, (1 << 20) - 1, 1 << 20, 5 << 30, 3 << 40)]
    assert shown == ["0 B", "1023 B", "1.00 KiB", "1.50 KiB", "1.00 MiB", "1.00 MiB", "5.00 GiB", "3.00 TiB"]


def test_table_aligns_wide_characters() -> None:
    lines = text.table(("name", "n"), "<>", [("名前", "1"), ("e\u0301", "10"), ("abcd", "100")])
    assert lines == ["name    n", "名前    1", "e\u0301      10", "abcd  100"]


@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (2, 3, 5), (7, 1, 2), (0, 3), (1, 1, 9)])
@pytest.mark.parametrize("limit", [1, 8, 20, 64, 10_000])
def test_boxes_cover_in_memory_order(shape: tuple[int, ...], limit: int) -> None:
    array = np.arange(int(np.prod(shape))).reshape(shape)
    parts = [
        array[tuple(slice(start, start + count) for start, count in zip(*box, strict=True))]
        for box in boxes(shape, 4, limit)
    ]
    assert all(part.size * 4 <= max(limit, 4) for part in parts)
    assert [*np.concatenate([part.reshape(-1) for part in parts] or [array.reshape(-1)])] == [*range(array.size)]
