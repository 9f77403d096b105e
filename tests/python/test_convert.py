"""`ostraca convert`: round trips, the safetensors package as the second opinion, hostile files."""

import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ostraca
from ostraca.cli import main
from ostraca.cli.safetensors import DTYPES, read_header, views
from ostraca.errors import FormatError

TORCH = {
    "bool": torch.bool,
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "int64": torch.int64,
    "uint8": torch.uint8,
    "uint16": torch.uint16,
    "uint32": torch.uint32,
    "uint64": torch.uint64,
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
    "complex64": torch.complex64,
    "bfloat16": torch.bfloat16,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
    "float8_e4m3fnuz": torch.float8_e4m3fnuz,
    "float8_e5m2fnuz": torch.float8_e5m2fnuz,
}


def dtype_of(name: str) -> np.dtype[Any]:
    return np.dtype(getattr(ml_dtypes, name, None) or name)


def convert(*arguments: object, status: int = 0) -> None:
    assert main(["convert", *map(str, arguments)]) == status


def refused(capsys: pytest.CaptureFixture[str], pattern: str, *arguments: object, status: int = 2) -> None:
    capsys.readouterr()
    convert(*arguments, status=status)
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch(rf"ostraca: error: [^\n]*{pattern}[^\n]*\n", err), err


def as_bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def equal(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].shape == b[name].shape and a[name].dtype == b[name].dtype
        assert a[name].tobytes() == b[name].tobytes()


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(lambda name: name != "__metadata__")
shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)


@st.composite
def array(draw: st.DrawFn, dtype_names: list[str] = sorted(TORCH)) -> np.ndarray[Any, Any]:  # noqa: B008
    dtype, shape = dtype_of(draw(st.sampled_from(dtype_names))), draw(shapes)
    count = int(np.prod(shape)) * dtype.itemsize
    data = np.frombuffer(draw(st.binary(min_size=count, max_size=count)), np.uint8)
    return (data & 1 if dtype.kind == "b" else data).view(dtype).reshape(shape)


arrays = st.dictionaries(names, array(), min_size=1, max_size=6)
entries = st.none() | st.dictionaries(names, st.text(st.characters(exclude_categories=["Cs"])), max_size=3)
often = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def torch_view(data: np.ndarray[Any, Any]) -> torch.Tensor:
    flat = torch.frombuffer(bytearray(data.tobytes()), dtype=torch.uint8) if data.size else torch.empty(0)
    dtype = TORCH[data.dtype.name]
    return (flat.view(dtype) if data.size else flat.to(dtype)).reshape(data.shape)


@often
@given(arrays, entries)
def test_round_trip_through_the_safetensors_package(tree: dict[str, Any], metadata: dict[str, str] | None) -> None:
    """Their file -> checkpoint -> our file -> their reader."""
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        theirs, ours = place / "a.safetensors", place / "b.safetensors"
        safetensors.torch.save_file({name: torch_view(data) for name, data in tree.items()}, theirs, metadata)
        convert(theirs, place / "c")
        equal(ostraca.load(place / "c"), tree)
        convert(place / "c", ours)
        with safetensors.safe_open(ours, "pt") as file:
            assert (file.metadata() or {}) == (metadata or {})
            assert {*file.keys()} == {*tree}
            for name, data in tree.items():
                tensor = file.get_tensor(name)
                assert tensor.dtype == TORCH[data.dtype.name] and tuple(tensor.shape) == data.shape
                assert as_bits(tensor) == data.tobytes()
        equal(views(ours, read_header(ours), read_header(ours).tensors), tree)


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text("ab$.", max_size=3)
documents = st.recursive(
    values, lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text("ab$.", max_size=3), below, max_size=3)
)


@often
@given(
    st.dictionaries(names, array(sorted({*DTYPES.values()})), min_size=1, max_size=4),
    documents,
    st.none() | st.integers(0, 99),
)
def test_checkpoint_to_safetensors_and_back(tree: dict[str, Any], metadata: Any, step: int | None) -> None:
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        ostraca.save(place / "a", tree, metadata=metadata, step=step)
        convert(place / "a", place / "b.safetensors")
        convert(place / "b.safetensors", place / "c")
        equal(ostraca.load(place / "c"), tree)
        with ostraca.open(place / "a") as a, ostraca.open(place / "c") as c:
            assert repr(a.metadata) == repr(c.metadata) or (metadata is None and c.metadata in (None, {}))
            assert c.step == step
        assert main(["diff", str(place / "a"), str(place / "c"), "--ignore-metadata"]) == 0


def test_large_arrays_in_blocks(tmp_path: Path) -> None:
    tree = {
        "big": np.random.default_rng(0).standard_normal((70, 1 << 18)).astype(np.float32),
        "wide": np.arange(3 * (9 << 20), dtype=np.int16).reshape(3, -1),
        "swapped": np.arange(1 << 20, dtype=">f8"),
        "odd": np.arange(3, dtype=np.uint8),
    }
    ostraca.save(tmp_path / "a", tree)
    convert(tmp_path / "a", tmp_path / "b.safetensors")
    read = safetensors.torch.load_file(tmp_path / "b.safetensors")
    for name, data in tree.items():
        assert np.array_equal(read[name].numpy(), data)
    mode = (tmp_path / "b.safetensors").stat().st_mode & 0o777
    umask = os.umask(0)
    os.umask(umask)
    assert mode == 0o666 & ~umask


def test_names_of_trees(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = {"layers": [{"w": np.ones(2)}, {"w": np.zeros(3)}], "a/b": np.ones(1), "c.d": np.ones(4), 7: np.ones(5)}
    ostraca.save(tmp_path / "a", tree)
    convert(tmp_path / "a", tmp_path / "b.safetensors")
    assert {*safetensors.torch.load_file(tmp_path / "b.safetensors")} == {"layers/0/w", "layers/1/w", "a/b", "c.d", "7"}
    convert(tmp_path / "a", tmp_path / "dot.safetensors", "--separator", ".")
    assert {*safetensors.torch.load_file(tmp_path / "dot.safetensors")} == {
        "layers.0.w",
        "layers.1.w",
        "a/b",
        "c.d",
        "7",
    }
    convert(tmp_path / "dot.safetensors", tmp_path / "nested", "--separator", ".")
    assert ostraca.load(tmp_path / "nested").keys() == {"layers", "a/b", "c", "7"}
    ostraca.save(tmp_path / "collide", {"a": {"b": np.ones(1)}, "a/b": np.ones(1)})
    refused(capsys, "'a/b' and 'a~1b' would both be named 'a/b'", tmp_path / "collide", tmp_path / "x.safetensors")
    np.savez(tmp_path / "x.npz", **{"a": np.ones(1), "a.b": np.ones(1)})
    refused(capsys, "lies above another", tmp_path / "x.npz", tmp_path / "x", "--separator", ".")
    assert not (tmp_path / "x").exists() and not (tmp_path / "x.safetensors").exists()


def test_what_safetensors_cannot_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = {
        "ok": np.ones(2),
        "c": np.ones(2, np.complex128),
        "t": np.array(["x"]),
        "i": 3,
        "n": None,
        "f8": np.ones(1, ml_dtypes.float8_e3m4),
        "when": np.array(["2020"], "M8[Y]"),
    }
    ostraca.save(tmp_path / "a", tree)
    target = tmp_path / "b.safetensors"
    listed = r"'c' \(complex128\), 't' \(U1\), 'i' \(int\), 'n' \(None\), 'f8' \(float8_e3m4\) and 1 more"
    refused(capsys, listed, tmp_path / "a", target)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]
    convert(tmp_path / "a", target, "--skip-unsupported", "--json")
    result = json.loads(capsys.readouterr().out)
    assert {*result} == {
        "source", "destination", "format", "arrays", "logical_bytes", "stored_bytes", "skipped", "seconds"
    }  # fmt: skip
    assert result["format"] == "safetensors" and result["arrays"] == 1
    assert [row["name"] for row in result["skipped"]] == ["c", "t", "i", "n", "f8", "when"]
    assert result["stored_bytes"] == target.stat().st_size
    assert [*safetensors.torch.load_file(target)] == ["ok"]


def test_existing_targets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ostraca.save(tmp_path / "a", {"x": np.ones(3)})
    target = tmp_path / "b.safetensors"
    target.write_bytes(b"mine")
    refused(capsys, "exists; --overwrite", tmp_path / "a", target)
    assert target.read_bytes() == b"mine"
    convert(tmp_path / "a", target, "--overwrite")
    refused(capsys, "already holds a checkpoint", target, tmp_path / "a")
    convert(target, tmp_path / "a", "--overwrite", "--codec", "raw", "--step", "5")
    assert ostraca.open(tmp_path / "a").step == 5
    refused(capsys, "no directory", tmp_path / "a", tmp_path / "nope" / "b.safetensors")
    (tmp_path / "d.safetensors").mkdir()
    refused(capsys, "is a directory", tmp_path / "a", tmp_path / "d.safetensors", "--overwrite")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b.safetensors", "d.safetensors"]


def test_a_failing_export_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ostraca.save(tmp_path / "a", {"x": np.random.default_rng(0).bytes(100) * 10, "y": np.arange(3_000_000.0)})
    with ostraca.Reader(tmp_path / "a") as reader:
        chunk = reader.chunks("y")[2]
    file = tmp_path / "a" / chunk.file
    data = bytearray(file.read_bytes())
    data[chunk.offset] ^= 1
    file.write_bytes(data)
    target = tmp_path / "b.safetensors"
    target.write_bytes(b"mine")
    refused(capsys, "'?y'?", tmp_path / "a", target, "--overwrite", "--skip-unsupported", status=1)
    assert target.read_bytes() == b"mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b.safetensors"]


def test_directions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for pair in (("a", "b"), ("a.npz", "b.npz"), ("a", "b.npz"), ("a.safetensors", "b.safetensors")):
        refused(capsys, "cannot convert", *(tmp_path / name for name in pair))
    refused(capsys, "No such file", tmp_path / "a.safetensors", tmp_path / "b")
    refused(capsys, "No such file", tmp_path / "a.npz", tmp_path / "b")
    refused(capsys, "no checkpoint", tmp_path / "a", tmp_path / "b.safetensors")
    refused(capsys, "--codec and --step", tmp_path / "a", tmp_path / "b.safetensors", "--codec", "raw")


def test_as_a_command(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.arange(3), b=np.ones((2, 2)))
    command = [sys.executable, "-m", "ostraca", "convert", "x.npz", "c"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0 and result.stderr == ""
    assert re.fullmatch(r"c: 2 arrays, 56 B logical, .* stored, .* GB/s\n", result.stdout)


# --- Hostile safetensors ------------------------------------------------------------------------------------------


def packed(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: Any = "U8", shape: Any = (4,), begin: Any = 0, end: Any = 4) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


FOUR = b"abcd"
DUPLICATE = b'{"x":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"x":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}'
# fmt: off
HOSTILE = {
    "empty file": (b"", "too few"),
    "short file": (b"\0" * 7, "too few"),
    "huge header": (packed(b"{}", length=1 << 63), "says that its header takes"),
    "header beyond 100 MB": (packed(b"{}", length=100_000_001), "says that its header takes"),
    "header beyond the file": (packed(b"{}", length=3), "says that its header takes"),
    "no JSON": (packed(b"{nope"), "not JSON"),
    "no object": (packed(b"[]"), "begin with"),
    "empty header": (packed(b""), "begin with"),
    "leading space": (packed(b" {}"), "begin with"),
    "not UTF-8": (packed(b'{"\xff":1}'), "not JSON"),
    "trailing text": (packed(b"{} {}"), "not JSON"),
    "deep JSON": (packed(b'{"x":' + b"[" * 200_000), "not JSON"),
    "huge number": (packed(b'{"x":' + b"9" * 10_000 + b"}"), "not JSON"),
    "duplicate": (packed(DUPLICATE, FOUR), "'x' twice"),
    "duplicate member": (packed(b'{"x":{"dtype":"U8","dtype":"I8"}}'), "'dtype' twice"),
    "lone surrogate": (packed(b'{"\\ud800":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}', FOUR), "not valid Uni"),
    "overlap": (packed({"x": entry(), "y": entry(begin=2, end=6)}, FOUR + b"ef"), "overlaps"),
    "same place": (packed({"x": entry(), "y": entry()}, FOUR), "overlaps"),
    "gap": (packed({"x": entry(shape=[1], end=1), "y": entry(begin=2, end=6)}, FOUR + b"ef"), "gap"),
    "gap at the start": (packed({"x": entry(begin=1, end=5)}, FOUR + b"e"), "gap"),
    "out of range": (packed({"x": entry(shape=[8], end=8)}, FOUR), "take 8 bytes, but 4"),
    "data without a tensor": (packed({}, FOUR), "take 0 bytes, but 4"),
    "trailing data": (packed({"x": entry()}, FOUR + b"e"), "take 4 bytes, but 5"),
    "backwards": (packed({"x": entry(begin=4, end=0)}, FOUR), "needs 4 bytes"),
    "negative": (packed({"x": entry(begin=-4, end=0)}, FOUR), "needs 4 bytes"),
    "wrong size": (packed({"x": entry(shape=[3])}, FOUR), "needs 3 bytes"),
    "negative shape": (packed({"x": entry(shape=[-2, -2])}, FOUR), "impossible shape"),
    "overflowing shape": (packed({"x": entry(shape=[1 << 32, 1 << 32, 0], end=0)}), "too large"),
    "overflowing size": (packed({"x": entry(shape=[1 << 64], end=4)}, FOUR), "impossible shape"),
    "too many dimensions": (packed({"x": entry(shape=[1] * 65, end=1)}, b"a"), "impossible shape"),
    "bool shape": (packed({"x": entry(shape=[True, 4])}, FOUR), "no dtype, shape and data_offsets"),
    "float offsets": (packed({"x": entry(begin=0.0)}, FOUR), "no dtype, shape and data_offsets"),
    "three offsets": (packed({"x": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4, 4]}}, FOUR), "no dtype"),
    "no dtype": (packed({"x": {"shape": [4], "data_offsets": [0, 4]}}, FOUR), "no dtype"),
    "not an entry": (packed({"x": 3}, FOUR), "no dtype"),
    "null shape": (packed({"x": entry(shape=None)}, FOUR), "no dtype"),
    "unknown dtype": (packed({"x": entry(dtype="Q8")}, FOUR), "unknown dtype 'Q8'"),
    "list dtype": (packed({"x": entry(dtype=["U8"])}, FOUR), "unknown dtype"),
    "metadata of numbers": (packed({"__metadata__": {"a": 1}}), "object of strings"),
    "metadata as text": (packed({"__metadata__": "a"}), "object of strings"),
    "ostraca.step of text": (packed({"__metadata__": {"ostraca.step": "x"}}), "malformed"),
    "ostraca.metadata of text": (packed({"__metadata__": {"ostraca.metadata": "{"}}), "malformed"),
    "ostraca.metadata with a bad tag": (packed({"__metadata__": {"ostraca.metadata": '{"$int": "x"}'}}), "malformed"),
}
# fmt: on


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_safetensors(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, message = HOSTILE[case]
    source = tmp_path / "x.safetensors"
    source.write_bytes(content)
    refused(capsys, re.escape(message), source, tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_many_duplicates_are_found_quickly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = [f'"{i}":0' for i in range(300_000)] + ['"299999":0']
    (tmp_path / "x.safetensors").write_bytes(packed(("{" + ",".join(pairs) + "}").encode()))
    refused(capsys, "'299999' twice", tmp_path / "x.safetensors", tmp_path / "c")


def test_packed_dtypes_can_be_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "x.safetensors"
    source.write_bytes(packed({"f": entry("F4", [2, 4]), "x": entry(begin=4, end=8)}, FOUR + FOUR))
    refused(capsys, r"'f' \(F4\)", source, tmp_path / "c")
    convert(source, tmp_path / "c", "--skip-unsupported")
    assert ostraca.load(tmp_path / "c")["x"].tobytes() == FOUR


@pytest.mark.parametrize("padding", range(8))
def test_unaligned_data(padding: int, tmp_path: Path) -> None:
    data = np.arange(1000.0)
    header = json.dumps({"b": entry("U8", [1], 0, 1), "x": entry("F64", [1000], 1, 8001)}).encode() + b" " * padding
    source = tmp_path / "x.safetensors"
    source.write_bytes(packed(header, b"b" + data.tobytes()))
    convert(source, tmp_path / "c")
    assert np.array_equal(ostraca.load(tmp_path / "c")["x"], data)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_accepts_what_the_safetensors_package_accepts(data: st.DataObject) -> None:
    """One mutated byte in a header: what we read, they read alike; what they refuse, we refuse."""
    content = bytearray(packed({"x": entry(), "y": entry("F32", [2], 4, 12), "__metadata__": {"k": "v"}}, bytes(12)))
    for _ in range(data.draw(st.integers(1, 2))):
        content[data.draw(st.integers(8, len(content) - 13))] = data.draw(
            st.sampled_from(b'0123456789{}[]",:UIF8xy \\e-.')
        )
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "x.safetensors")
        path.write_bytes(content)
        try:
            header = read_header(path)
        except FormatError:
            return
        theirs = dict(safetensors.deserialize(bytes(content)))
        assert {t.name: (t.dtype, list(t.shape)) for t in header.tensors} == {
            name: (tensor["dtype"], tensor["shape"]) for name, tensor in theirs.items()
        }


# --- .npz ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(save: Any, tmp_path: Path) -> None:
    tree = {
        "a/b.c": np.arange(6, dtype=">i4").reshape(2, 3),
        "f": np.asfortranarray(np.random.default_rng(0).standard_normal((50, 40))),
        "text": np.array(["x", "yz"]),
        "zero": np.zeros((0, 2)),
        "scalar": np.float32(3),
    }
    save(tmp_path / "x.npz", **tree)
    convert(tmp_path / "x.npz", tmp_path / "c", "--step", "3")
    loaded = ostraca.load(tmp_path / "c")
    assert loaded.keys() == tree.keys() and ostraca.open(tmp_path / "c").step == 3
    for name, data in tree.items():
        assert loaded[name].dtype == data.dtype and np.array_equal(loaded[name], data)


def test_npz_objects_are_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "x.npz"
    record = np.zeros(2, [("a", "i4")])
    np.savez(source, good=np.ones(2), bad=np.array([{}], object), record=record)
    refused(capsys, r"'bad' \(an object array.*'record' \(structured", source, tmp_path / "c")
    convert(source, tmp_path / "c", "--skip-unsupported")
    assert [*ostraca.load(tmp_path / "c")] == ["good"]


def test_hostile_npz(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "x.npz"
    buffer = io.BytesIO()
    np.save(buffer, np.ones(2))
    cases = [b"", b"PK\x03\x04 nope", b"\x80\x04K\x01.", b"text", buffer.getvalue()]
    for content in cases:
        source.write_bytes(content)
        refused(capsys, r"x\.npz", source, tmp_path / "c")
    with zipfile.ZipFile(source, "w") as file, pytest.warns(UserWarning):
        file.writestr("a.npy", buffer.getvalue())
        file.writestr("a.npy", buffer.getvalue())
    refused(capsys, "two arrays of one name", source, tmp_path / "c")
    with zipfile.ZipFile(source, "w") as file:
        file.writestr("notes.txt", "hello")
    refused(capsys, r"'notes.txt' \(not an array\)", source, tmp_path / "c")
    np.savez_compressed(source, a=np.random.default_rng(0).standard_normal(300))
    content = source.read_bytes()
    for offset in range(0, len(content), 7):  # no traceback, no checkpoint of wrong numbers
        source.write_bytes(content[:offset] + bytes([content[offset] ^ 0x41]) + content[offset + 1 :])
        capsys.readouterr()
        if main(["convert", str(source), str(tmp_path / "c")]) == 0:
            assert np.array_equal(next(iter(ostraca.load(tmp_path / "c").values())), np.load(io.BytesIO(content))["a"])
            shutil.rmtree(tmp_path / "c")
        else:
            err = capsys.readouterr().err
            assert err.startswith("ostraca: error: ") and "unexpected" not in err
