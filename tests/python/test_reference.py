"""The reference reader against hand-made checkpoints: values come back, and whatever is wrong is reported."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

HERE = Path(__file__).parent


def _module(path: Path) -> Any:
    """Loads one file on its own: the reference reader must need nothing else of the package."""
    spec = importlib.util.spec_from_file_location(f"_test_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


SOURCE = HERE.parent.parent / "python" / "ostraca" / "reference.py"
reference = _module(SOURCE)
writer = _module(HERE / "format_writer.py")
Options = writer.Options
State = namedtuple("State", ["step", "rate"])
RANDOM = np.random.default_rng(7)
WEIGHTS = (RANDOM.standard_normal((40, 64)) / 50).astype(np.float32)


def same(a: Any, b: Any) -> None:
    """Equal values, types, dtypes (byte order too), shapes and bits."""
    if isinstance(a, np.ndarray):
        assert isinstance(b, np.ndarray) and a.dtype == b.dtype and a.dtype.byteorder == b.dtype.byteorder
        assert a.shape == b.shape and a.tobytes() == b.tobytes()
    elif isinstance(a, writer.Key):
        assert isinstance(b, reference.PrngKey) and b.impl == a.impl
        same(a.data, b.data)
    elif isinstance(a, dict) or hasattr(a, "_fields"):
        a = a if isinstance(a, dict) else a._asdict()
        assert list(a) == list(b) and [type(key) for key in a] == [type(key) for key in b]
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert type(a) is type(b) and len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y)
    else:
        assert type(a) is type(b) and (a == b or (a != a and b != b))


def round_trip(path: Path, tree: Any, options: dict[str, Any] | None = None, **more: Any) -> Any:
    written = writer.write(path, tree, options, **more)
    assert reference.verify(path) == []
    same(tree, reference.load(path))
    return written


def test_python_values_and_containers(tmp_path: Path) -> None:
    tree = {
        "step": 3, "huge": -(1 << 200), "zero": 0, "minus": -129, "rate": 2.5, "nan": float("nan"), "yes": True,
        "no": False, "text": "naïve ☃", "empty text": "", "raw": b"\x00\xff", "no bytes": b"", "none": None, "a/b~c": 1,
        "": {"": 2}, "nested": {1: [1, (2, {}), [], ()], -2: State(1, 0.5)},
        "key": writer.Key(np.arange(4, dtype="u4").reshape(2, 2), "rbg"),
    }  # fmt: skip
    round_trip(tmp_path / "c", tree)
    assert {"a~1b~0c", "/", "nested/1/1/0", "nested/-2/rate"} <= set(reference.leaves(tmp_path / "c"))


@pytest.mark.parametrize("tree", [np.arange(3), 5, None, {}, [], ()], ids=str)
def test_a_tree_that_is_one_leaf(tmp_path: Path, tree: Any) -> None:
    round_trip(tmp_path / "c", tree)


def test_every_dtype(tmp_path: Path) -> None:
    raw = RANDOM.integers(0, 256, 16 * 24, dtype=np.uint8)
    tree: dict[str, Any] = {}
    for name in writer.DTYPES:
        dtype = np.dtype(getattr(ml_dtypes, name, None) or name)
        tree[name] = np.array([[True, False]]) if name == "bool" else raw.view(dtype).reshape(2, -1)
        if hasattr(np, name) and dtype.itemsize > 1:
            tree[f">{name}"] = tree[name].astype(dtype.newbyteorder(">"))
    for text in ("<M8[ns]", "<M8[25s]", ">M8[D]", "<m8[us]", "<m8", ">m8[h]"):
        tree[text] = np.arange(4).astype("<i8").view("<" + text[1:]).astype(text)
    for text in ("<U3", ">U2"):
        tree[text] = np.array(["ab", "ç☃", ""], text)
    tree["S"], tree["V"] = np.array([b"ab", b"", b"c\0d"]), raw[:12].view("V3")
    tree["U0"], tree["V0"] = (np.zeros(3, [("x", t)])["x"] for t in ("U0", "V0"))
    tree["scalar"], tree["nothing"] = np.array(1.5, ">f8"), np.zeros((3, 0, 2), "<i2")
    tree["deep"] = np.arange(2.0).reshape((1,) * 31 + (2,))
    round_trip(tmp_path / "c", tree)


CHUNKS = {(40, 64): "one", (7, 64): "rows", (9, 13): "boxes", (100, 1): "columns"}


@pytest.mark.parametrize("codec", ["raw", "zstd", "planes"])
@pytest.mark.parametrize("chunk", CHUNKS, ids=CHUNKS.get)
def test_codecs_and_chunks(tmp_path: Path, codec: str, chunk: tuple[int, int]) -> None:
    ints = np.arange(2560, dtype=">i8").reshape(40, 64)
    modes = (3, 3, 2, 1, 1, 1, 1, 1)
    options = {"w": Options(codec, chunk, modes=(0, 0, 2, 3), rotate=True), "i": Options(codec, chunk, modes=modes)}
    round_trip(tmp_path / "c", {"w": WEIGHTS, "i": ints}, options)


@pytest.mark.parametrize("rotate", [False, True])
@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_planes(tmp_path: Path, width: int, rotate: bool) -> None:
    values = RANDOM.integers(0, 200, 4096).astype(f"<u{width}")
    values[::3] = np.iinfo(values.dtype).max
    round_trip(tmp_path / "c", {"x": values}, {"x": Options("planes", rotate=rotate)})


def test_packs_and_tied_arrays(tmp_path: Path) -> None:
    tree = {"a": np.arange(5.0), "b": np.array(7.0), "c": np.arange(6.0).reshape(2, 3), "e": WEIGHTS, "f": WEIGHTS}
    options = {name: Options(pack="f8") for name in "abc"} | {"f": Options(tie="e")}
    round_trip(tmp_path / "c", tree, options)
    assert reference.manifest(tmp_path / "c")["chunks"] == 2


BOXES = [((0, 0), (40, 20), 0), ((0, 20), (13, 44), 1), ((13, 20), (27, 44), 2)]


def test_many_processes_and_padding(tmp_path: Path) -> None:
    tree = {"w": WEIGHTS, "step": 3, "x": np.arange(3000)}
    options = {"w": Options("planes", (9, 11), BOXES), "x": Options("raw", (100,))}
    round_trip(tmp_path / "c", tree, options, processes=3, alignment=4096, block=8192)
    assert all(path.stat().st_size % 4096 == 0 for path in (tmp_path / "c").glob("p*"))


def delta_pair(path: Path) -> Any:
    """A base and a checkpoint that refers to it in every way; returns the second one's tree."""
    near = (WEIGHTS.view("u4") + RANDOM.integers(-9, 9, WEIGHTS.shape)).astype("u4").view("f4")
    options = {"w": Options("zstd", (9, 64), BOXES), "b": Options("planes", (1000,), rotate=True)}
    old, new = {"w": WEIGHTS, "b": np.arange(3000)}, {"w": near, "b": np.arange(3000), "own": np.arange(4)}
    base = round_trip(path / "base", old, options, processes=3)
    options = {"w": Options("delta", (9, 64), BOXES, modes=(3, 1, 1, 1)), "b": Options("base", (1000,))}
    round_trip(path / "delta", new, options, processes=3, base=base, seed=2)
    return new


def test_delta(tmp_path: Path) -> None:
    delta_pair(tmp_path)
    for name in sorted(file.name for file in (tmp_path / "base").glob("p*")):
        file = tmp_path / "base" / name
        raw = file.read_bytes()
        file.write_bytes(raw[:64] + bytes([raw[64] ^ 4]) + raw[65:])
        assert any("CRC" in problem and name in problem for problem in reference.verify(tmp_path / "delta"))
        file.unlink()
        assert any(name in problem for problem in reference.verify(tmp_path / "delta"))
        file.write_bytes(raw)
    assert reference.verify(tmp_path / "delta") == []
    (tmp_path / "base").rename(tmp_path / "gone")
    assert any("gone" in p or "base" in p for p in reference.verify(tmp_path / "delta"))
    with pytest.raises(OSError, match="base"):
        reference.load(tmp_path / "delta")


def test_content_hash(tmp_path: Path) -> None:
    pytest.importorskip("xxhash")
    writer.write(tmp_path / "c", {"x": WEIGHTS}, hook=_put("p0:table", 24, b"\0\0\0\0"))
    assert any("content hash" in problem for problem in reference.verify(tmp_path / "c"))


def test_metadata(tmp_path: Path) -> None:
    metadata = {"$int": 1, "a": [1 << 60, -(1 << 53), float("inf"), None], "$$": {"x": float("-inf")}, "big": 2**53 - 1}
    writer.write(tmp_path / "c", {"x": 1}, metadata=metadata)
    assert reference.verify(tmp_path / "c") == []
    assert reference.manifest(tmp_path / "c")["metadata"] == metadata


def test_a_deep_key_path(tmp_path: Path) -> None:
    tree: Any = 1
    for _ in range(700):  # as deep as this test's own recursion allows; the format's limit is about 13 000
        tree = {"": tree}
    round_trip(tmp_path / "c", tree)


def test_every_flipped_bit_is_reported(tmp_path: Path) -> None:
    tree = {"a": np.arange(24, dtype="<u2"), "b": np.array([1.5, -2.0], ">f4"), "n": 7}
    modes = {"a": Options("planes", modes=(0, 1))}
    round_trip(tmp_path / "c", tree, modes, alignment=32, block=96, metadata={"m": 1}, indent=None)
    for path in sorted((tmp_path / "c").iterdir()):
        raw = bytearray(path.read_bytes())
        for bit in range(8 * len(raw)):
            raw[bit // 8] ^= 1 << bit % 8
            path.write_bytes(raw)
            problems = reference.verify(tmp_path / "c")
            assert problems, f"bit {bit % 8} of byte {bit // 8} of {path.name}"
            assert all(path.name in problem or "manifest" in path.name for problem in problems[:1])
            raw[bit // 8] ^= 1 << bit % 8
        path.write_bytes(raw)
    assert reference.verify(tmp_path / "c") == []


def test_every_truncation_and_extension_is_reported(tmp_path: Path) -> None:
    round_trip(tmp_path / "c", {"a": np.arange(9), "n": 7}, alignment=64)
    for path in sorted((tmp_path / "c").iterdir()):
        raw = path.read_bytes()
        for size in range(len(raw)):
            path.write_bytes(raw[:size])
            assert reference.verify(tmp_path / "c"), (path.name, size)
        for more in (b"\0", b"\n", b" " * 64):
            path.write_bytes(raw + more)
            assert reference.verify(tmp_path / "c"), (path.name, more)
        path.unlink()
        assert any(path.name in problem for problem in reference.verify(tmp_path / "c"))
        path.write_bytes(raw)


def test_all_problems_are_listed_with_their_arrays(tmp_path: Path) -> None:
    written = writer.write(tmp_path / "c", {name: np.full(40, i) for i, name in enumerate("abc")})
    path = tmp_path / "c" / written.files[0]["file"]
    raw = bytearray(path.read_bytes())
    for place in (64, 64 + 320, len(raw) - 90):
        raw[place] ^= 1
    path.write_bytes(raw[:64] + raw[64:])
    assert len(reference.verify(tmp_path / "c")) == 1  # the footer is broken: nothing can be found any more
    raw[-90] ^= 1
    path.write_bytes(raw)
    problems = reference.verify(tmp_path / "c")
    assert len(problems) == 2 and "(a)" in problems[0] and "(b)" in problems[1]
    with pytest.raises(reference.ReferenceReaderError, match=r"\(a\).*CRC"):
        reference.load(tmp_path / "c")


def _put(stage: str, at: int, value: bytes) -> Any:
    def hook(name: str, part: Any) -> None:
        if name == stage:
            part[at : at + len(value)] = value

    return hook


def _member(key: str, value: Any) -> Any:
    def hook(name: str, part: Any) -> None:
        if name == "manifest":
            part[key] = value

    return hook


# The tree below: files 64, leaf "a" 104, leaf "b" 152, shards 200 and 224, references 248 to 296, dims from 296 on:
# a 3 4 | 0 0 3 4 2 4 | b 2 | 0 2 2. Each damage has right CRCs, so that only the rule itself can report it.
DAMAGE = {
    "version": (_put("p0:header", 8, b"\2"), "version"),
    "kind": (_put("p0:header", 12, b"\2"), "it is a data file"),
    "hash algorithm": (_put("index:header", 13, b"\2"), "algorithm"),
    "part": (_put("p0:header", 14, b"\1\0\2"), "index and part are the name's"),
    "part of an index": (_put("index:header", 14, b"\1"), "index and part are the name's"),
    "compatible features of the index only": (_put("index:header", 59, b"\1"), "compatible features disagree"),
    "feature of parts": (_put("p0:header", 16, b"\2"), "requires parts where it is one"),
    "feature": (_put("p0:header", 16, b"\4"), "features"),
    "feature, high": (_put("index:header", 23, b"\x80"), "features"),
    "feature of the index only": (_put("index:header", 16, b"\1"), "features"),
    "attempt": (_put("p0:header", 24, b"\0\0"), "attempt"),
    "process": (_put("p0:header", 40, b"\1"), "process index"),
    "process count": (_put("p0:header", 44, b"\2"), "process count"),
    "alignment": (_put("p0:header", 48, b"\3"), "alignment"),
    "alignment of an index": (_put("index:header", 48, b"\2"), "alignment"),
    "table offset": (_put("p0:footer", 0, b"\x01"), "place"),
    "extents": (_put("p0:footer", 8, b"\x09"), "follows"),
    "directory size": (_put("p0:footer", 24, b"\xff\xff\xff\xff\xff\xff\xff\xff"), "fits"),
    "directory, decoded": (_put("p0:footer", 32, b"\1"), "content size"),
    "directory, decoded, huge": (_put("index:footer", 37, b"\1"), "2 GiB"),
    "file size": (_put("p0:footer", 64, b"\1"), "size of the file"),
    "footer, reserved": (_put("p0:footer", 72, b"\1"), "reserved"),
    "extent offset": (_put("p0:table", 0, b"\x41"), "overlap or hole"),
    "extent offset, huge": (_put("p0:table", 7, b"\x80"), "lie in"),
    "extent stored": (_put("p0:table", 8, b"\0"), "stored"),
    "extent decoded": (_put("p0:table", 14, b"\xff"), "decoded"),
    "codec": (_put("p0:table", 20, b"\4"), "codec"),
    "codec without feature": (_put("p0:table", 20, b"\3"), "feature"),
    "codec zstd of raw": (_put("p0:table", 20, b"\1"), "zstd"),
    "extent, reserved": (_put("p0:table", 23, b"\1"), "reserved"),
    "extent, base": (_put("p0:table", 40, b"\1"), "base"),
    "body": (_put("p0:body", 0, b"\1"), "CRC"),
    "counts": (_put("index:directory", 8, b"\3"), "sections"),
    "counts, huge": (_put("index:directory", 7, b"\xff"), "sections"),
    "head, reserved": (_put("index:directory", 63, b"\1"), "reserved"),
    "file size in the index": (_put("index:directory", 64, b"\1"), "list of files"),
    "file CRC in the index": (_put("index:directory", 72, b"\0\0\0\0"), "list of files"),
    "file process": (_put("index:directory", 76, b"\1"), "file"),
    "file origin": (_put("index:directory", 96, b"\1"), "list of files"),
    "file, reserved": (_put("index:directory", 97, b"\1"), "reserved"),
    "file part": (_put("index:directory", 98, b"\1"), "list of files"),
    "file shift": (_put("index:directory", 103, b"\1"), "list of files"),
    "file in the data file": (_put("p0:directory", 64, b"\1"), "list of files"),
    "path offset": (_put("index:directory", 104, b"\xff"), "out of range"),
    "path length": (_put("index:directory", 112, b"\5"), "path"),
    "leaf kind": (_put("index:directory", 116, b"\x0c"), "kind"),
    "leaf kind without data": (_put("index:directory", 116, b"\x08"), "fit"),
    "leaf dtype": (_put("index:directory", 117, b"\x26"), "dtype"),
    "leaf dtype of another size": (_put("index:directory", 117, b"\x05"), "outside extent"),
    "byte order": (_put("index:directory", 118, b"\2"), "byte order"),
    "rank": (_put("index:directory", 119, b"\x41"), "out of range"),
    "dims": (_put("index:directory", 127, b"\x80"), "out of range"),
    "first shard": (_put("index:directory", 128, b"\1"), "shards"),
    "shards": (_put("index:directory", 136, b"\0"), "shards"),
    "detail": (_put("index:directory", 140, b"\1"), "detail"),
    "shard dims": (_put("index:directory", 200, b"\xff"), "out of range"),
    "shard reference": (_put("index:directory", 208, b"\2"), "out of range"),
    "shard process": (_put("index:directory", 216, b"\1"), "process"),
    "shard, reserved": (_put("index:directory", 220, b"\1"), "reserved"),
    "reference file": (_put("index:directory", 248, b"\1"), "no such file"),
    "reference extent": (_put("index:directory", 252, b"\x03"), "no such extent"),
    "reference offset": (_put("index:directory", 256, b"\1"), "outside extent"),
    "reference, reserved": (_put("index:directory", 260, b"\1"), "reserved"),
    "reference in the data file": (_put("p0:directory", 252, b"\x09"), "differs"),
    "text, overlapping": (_put("index:directory", 160, b"\x0c"), "overlap"),
    "tied in part": (_put("index:directory", 232, b"\1"), "share references"),
    "shape": (_put("index:directory", 296, b"\4"), "cover"),
    "shape, smaller": (_put("index:directory", 296, b"\2"), "inside the global"),
    "shape, huge": (_put("index:directory", 303, b"\xff"), "2^63"),
    "shape in the data file": (_put("p0:directory", 296, b"\4"), "differs"),
    "chunk shape": (_put("index:directory", 344, b"\0"), "zero"),
    "text": (_put("index:directory", 392 - 1, b"\1"), ""),
    "format": (_member("format", "other"), "format"),
    "version of the manifest": (_member("version", 2), "version"),
    "features of the manifest": (_member("features", "0000000000000004"), "features"),
    "parts that are not there": (_member("features", "0000000000000002"), "feature of parts"),
    "compatible features": (_member("compatible_features", "8"), "compatible features"),
    "id": (_member("id", "0" * 32), "index"),
    "step": (_member("step", True), "step"),
    "created": (_member("created", "today"), "created"),
    "processes": (_member("process_count", 0), "process_count"),
    "totals": (_member("logical_bytes", 1), "logical_bytes"),
    "base": (_member("base", {"directory": "..", "id": "0" * 32}), "directory"),
    "files": (_member("files", []), "file"),
    "files, path": (_member("files", [{"file": "../x", "bytes": 1, "footer_crc32c": "00000000"}]), "file"),
    "metadata": (_member("metadata", {"$odd": 1}), "tag"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_rules_beyond_checksums(tmp_path: Path, name: str) -> None:
    hook, word = DAMAGE[name]
    tree = {"a": np.arange(12, dtype="<i4").reshape(3, 4), "b": np.array([1, 2], "<u2")}
    writer.write(tmp_path / "c", tree, {"a": Options(chunk=(2, 4))}, hook=hook)
    problems = reference.verify(tmp_path / "c")
    assert any(word in problem for problem in problems), problems


TREES = {
    "leaf below leaf": ([((1, "a"),), ((1, "a"), (1, "b"))], "leaf"),
    "two containers": ([((1, "a"),), ((3, 0),)], "container"),
    "same name": ([((1, "1"),), ((2, 1),)], "of one name"),
    "not UTF-8": ([((1, "\udcff"),)], "UTF-8"),
}


@pytest.mark.parametrize("name", TREES)
def test_impossible_trees(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, word = TREES[name]
    monkeypatch.setattr(writer, "flatten", lambda tree: [(path, None) for path in paths])
    encode = writer.key_path
    if name == "not UTF-8":
        monkeypatch.setattr(writer, "key_path", lambda path: encode([(1, "?")]).replace(b"?", b"\xff"))
    writer.write(tmp_path / "c", None)
    assert any(word in problem for problem in reference.verify(tmp_path / "c"))
    with pytest.raises(reference.ReferenceReaderError, match=word):
        reference.load(tmp_path / "c")


PARTIAL = {
    "gap": ([((3, 0),), ((3, 2),)], {0: None, 2: None}),
    "not the first": ([((1, "a"), (4, 1))], {"a": {1: None}}),
    "another order": ([((4, 1),), ((4, 0),)], (None, None)),
    "no leaves": ([], {}),
}


@pytest.mark.parametrize("name", PARTIAL)
def test_lists_and_dicts_of_leaves_that_are_left(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, tree = PARTIAL[name]
    monkeypatch.setattr(writer, "flatten", lambda tree: [(path, None) for path in paths])
    monkeypatch.setattr(writer, "describe", lambda value: (8, 0, 0, "", None))
    writer.write(tmp_path / "c", None)
    assert reference.verify(tmp_path / "c") == []
    same(tree, reference.load(tmp_path / "c"))


def test_bytes_of_bool_are_kept(tmp_path: Path) -> None:
    odd = np.array([0, 1, 2, 255], "u1").view("?")
    writer.write(tmp_path / "c", {"x": odd})
    assert reference.verify(tmp_path / "c") == [] and reference.load(tmp_path / "c")["x"].tobytes() == odd.tobytes()


def test_deep_metadata(tmp_path: Path) -> None:
    metadata: Any = 1
    for _ in range(511):
        metadata = [metadata]
    writer.write(tmp_path / "c", {}, indent=None, hook=_member("metadata", metadata))
    assert reference.manifest(tmp_path / "c")["metadata"] == metadata
    writer.write(tmp_path / "d", {}, indent=None, hook=_member("metadata", [metadata]))
    assert any("deep" in problem for problem in reference.verify(tmp_path / "d"))


def test_shards_that_overlap_or_miss(tmp_path: Path) -> None:
    for i, (boxes, word) in enumerate([
        ([((0,), (3,), 0), ((2,), (2,), 0)], "overlap"),
        ([((0,), (3,), 0)], "cover"),
        ([((0,), (2,), 0), ((2,), (2,), 0), ((1,), (0,), 0)], "zero"),
        ([((0,), (2,), 0), ((2,), (2,), 0)], ""),
    ]):  # fmt: skip
        writer.write(tmp_path / str(i), {"x": np.arange(4)}, {"x": Options(boxes=boxes)})
        problems = reference.verify(tmp_path / str(i))
        assert any(word in problem for problem in problems) if word else not problems


def test_padding_must_be_zero(tmp_path: Path) -> None:
    hook = _put("p0:body", 40, b"\1")  # between two extents
    tree, options = {"x": np.arange(4), "y": np.arange(12)}, {}
    writer.write(tmp_path / "c", tree, options, alignment=128, block=128, hook=hook)
    assert any("padding" in problem for problem in reference.verify(tmp_path / "c"))


def test_command_line(tmp_path: Path) -> None:
    writer.write(tmp_path / "c", {"w": WEIGHTS, "n": 1})

    def run(*arguments: str) -> tuple[int, str]:
        done = subprocess.run([sys.executable, str(SOURCE), *arguments], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    assert run(str(tmp_path / "c")) == (0, "w\tfloat32 (40, 64)\nn\t1\n")
    assert run(str(tmp_path / "c"), "--verify") == (0, "sound\n")
    assert run(str(tmp_path / "nothing"))[0] == 2
    assert run(str(tmp_path / "nothing"), "--verify")[0] == 1
