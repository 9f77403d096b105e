"""The engine against the reference reader: what one writes, the other reads to the same bits."""

from __future__ import annotations

import itertools
import json
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import format_writer as writer
import ostraca
import trees
from format_writer import Options
from ostraca import reference

ZSTD = shutil.which("zstd")
RANDOM = np.random.default_rng(3)
WEIGHTS = (RANDOM.standard_normal((300, 200)) / 30).astype("f4")
VARIED: dict[str, Any] = {
    "weights": WEIGHTS,
    "half": WEIGHTS.astype("f2"),
    "counter": np.arange(100_000),
    "zeros": np.zeros((50, 500)),
    "noise": RANDOM.integers(0, 256, 20_000, dtype="u1"),
    "small": [np.full(5, i, "i2") for i in range(20)],
    "text": "reference " * 500,
    "python": {"step": 7, 3: None, "empty": [{}, (), []]},
}


def equal(found: Any, expected: Any) -> None:
    """The same bits; keys as the reference reader gives them."""
    trees.same(expected, found)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(trees.trees, st.sampled_from(["auto", "raw", "zstd"]), st.lists(st.integers(1, 6), max_size=3))
def test_any_tree(tree: Any, codec: str, chunk: list[int]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "c")
        ostraca.save(path, tree, codec=codec, chunk_shape=chunk or None)
        assert reference.verify(path) == []
        equal(reference.load(path), tree)
        equal(ostraca.load(path, verify="deep"), tree)


@pytest.mark.parametrize("dtype", trees.ALL_DTYPES, ids=str)
def test_every_dtype(path: Path, dtype: Any) -> None:
    shapes = [(), (1,), (7, 3), (0, 4), (2, 3, 4, 5), (3000,)]
    tree = {str(shape): trees.array(dtype, shape, seed) for seed, shape in enumerate(shapes)}
    tree |= {layout: trees.laid_out(trees.array(dtype, (31, 17)), layout) for layout in trees.LAYOUTS}
    ostraca.save(path, tree, chunk_shape=(8, 16))
    assert reference.verify(path) == []
    equal(reference.load(path), tree)


@pytest.mark.parametrize("codec", ["auto", "raw", "zstd"])
@pytest.mark.parametrize("chunk", [None, (7, 64), (300, 1), (1000, 1000)], ids=str)
def test_chunk_shapes(path: Path, codec: str, chunk: Any) -> None:
    ostraca.save(path, VARIED, codec=codec, chunk_shape=chunk)
    assert reference.verify(path) == []
    equal(reference.load(path), VARIED)


@pytest.mark.parametrize(
    "metadata",
    [None, 1 << 53, -(1 << 70), [float("inf"), float("-inf"), 1e-300], {"$int": "x", "$$": {"$": 1}, "": "é"}],
    ids=str,
)
def test_metadata(path: Path, metadata: Any) -> None:
    ostraca.save(path, {}, metadata=metadata, step=5)
    m = reference.manifest(path)
    assert m["metadata"] == metadata and m["step"] == 5 and ostraca.open(path).metadata == metadata
    assert type(m["metadata"]) is type(metadata)


def opened(path: Path) -> Any:
    return reference._Checkpoint(path, reference._Guard(collect=False))


def frames(file: Any) -> Iterator[tuple[bytes, int]]:
    """Every zstd frame of a file and its content size: of extents, of planes, and the directory's."""
    yield file.read(file.footer.directory_at, file.footer.directory_bytes), file.footer.directory_decoded
    for at, stored, decoded, _, codec, *_ in file.table.tolist():
        raw = file.read(at, stored)
        if codec == 1:
            yield raw, decoded
        elif codec == 2:
            place = 4 + 8 * raw[0]
            for k in range(raw[0]):
                mode, _, _, size = struct.unpack_from("<BBHI", raw, 4 + 8 * k)
                if mode >= 2:
                    yield raw[place : place + size], decoded // raw[0]
                place += size


@pytest.mark.parametrize("codec", ["auto", "zstd"])
def test_frames_are_standard_zstd(path: Path, codec: str) -> None:
    ostraca.save(path, VARIED, codec=codec)
    checkpoint = opened(path)
    found = list(itertools.chain(*map(frames, [checkpoint.index, *checkpoint.files.values()])))
    assert len(found) > 5
    decoded = [zstandard.ZstdDecompressor().decompress(raw, allow_extra_data=False) for raw, _ in found]
    assert [len(raw) for raw in decoded] == [size for _, size in found]
    if ZSTD:
        together = b"".join(raw for raw, _ in found)
        done = subprocess.run([ZSTD, "-d", "-c"], input=together, capture_output=True, check=True)
        assert done.stdout == b"".join(decoded)


BOXES = [((0, 0), (300, 20), 0), ((0, 20), (13, 180), 1), ((13, 20), (287, 180), 2)]
WRITTEN: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "raw": (VARIED, {}, {}),
    "zstd": (VARIED, {"weights": Options("zstd", (64, 100)), "counter": Options("zstd", (70_001,))}, {}),
    "planes": (
        VARIED,
        {
            "weights": Options("planes", (100, 200), rotate=True, modes=(0, 2, 3, 3)),
            "counter": Options("planes", (65536,), modes=(3, 2, 3, 1, 1, 1, 1, 1)),
            "zeros": Options("planes", width=4, modes=(1, 1, 1, 1)),
            "noise": Options("planes", width=1, modes=(0,)),
        },
        {"alignment": 4096, "block": 1 << 16},
    ),
    "processes": (VARIED, {"weights": Options("planes", (9, 11), BOXES)}, {"processes": 3, "alignment": 512}),
    "packs": (
        {"a": np.arange(5.0), "b": np.array(7.0), "e": WEIGHTS, "f": WEIGHTS},
        {"a": Options(pack="x"), "b": Options(pack="x"), "f": Options(tie="e")},
        {},
    ),
    "no leaf": ({}, {}, {}),
    "one leaf": (np.arange(3.0), {}, {}),
    "dtypes": ({str(dtype): trees.array(dtype) for dtype in trees.ALL_DTYPES}, {}, {"metadata": {"x": [1 << 60]}}),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_the_engine_reads_what_was_written_by_hand(path: Path, name: str) -> None:
    tree, options, more = WRITTEN[name]
    writer.write(path, tree, options, **more)
    equal(reference.load(path), tree)
    equal(ostraca.load(path), tree)
    assert ostraca.verify(path).ok
    assert ostraca.open(path).metadata == more.get("metadata")


@pytest.mark.parametrize("dtype", ["u1", "<i2", "<f4", "<f8"])
def test_the_engine_reads_deltas_of_every_width(path: Path, dtype: str) -> None:
    old = {"same": np.arange(9), "moved": np.arange(5000).astype(dtype), "full": np.arange(9)}
    base = writer.write(path, old)
    new = {**old, "moved": (np.arange(5000) % 200 * 3).astype(dtype), "full": np.arange(9) + 1}
    delta = path.parent / "next"
    writer.write(delta, new, {"same": Options("base"), "moved": Options("delta")}, base=base, seed=2)
    equal(ostraca.load(delta), new)
    equal(reference.load(delta), new)
    assert ostraca.verify(delta, deep=True).ok


def test_the_engine_reads_increments_written_by_hand(tmp_path: Path) -> None:
    old = {"w": WEIGHTS, "b": RANDOM.integers(0, 99, 3000), "p": np.arange(5.0), "q": np.arange(7.0)}
    new = old | {"w": (WEIGHTS.view("<u4") + RANDOM.integers(0, 100, WEIGHTS.shape, "<u4")).view("f4"), "new": "text"}
    shards = {"w": Options("planes", (9, 64), BOXES), "b": Options(chunk=(1000,)), "p": Options(pack="x")}
    base = writer.write(tmp_path / "base", old, shards | {"q": Options(pack="x")}, processes=3)
    changed = {"w": Options("delta", (9, 64), BOXES, modes=(3, 1, 1, 1)), "b": Options("base", (1000,))}
    packed = {name: Options("base") for name in "pq"}
    writer.write(tmp_path / "delta", new, changed | packed, processes=3, base=base, seed=2)
    assert reference.verify(tmp_path / "delta") == [] and ostraca.verify(tmp_path / "delta").ok
    equal(reference.load(tmp_path / "delta"), new)
    equal(ostraca.load(tmp_path / "delta"), new)
    with ostraca.open(tmp_path / "delta") as checkpoint:
        assert (checkpoint["w"][7:290:3, 30:] == new["w"][7:290:3, 30:]).all()
    with ostraca.Reader(tmp_path / "delta") as reader:
        assert {(c.in_base, c.codec, c.base_stored_bytes > 0) for c in reader.chunks("w")} == {(False, 3, True)}
        assert {(c.in_base, c.base_stored_bytes) for c in reader.chunks("b")} == {(True, 0)}
        assert [reader.chunks(name)[0].offset_in_extent for name in "pq"] == [0, 40]


def anonymous(path: Path) -> tuple[Any, ...]:
    """All of a checkpoint but ids, times and the checksums and sizes that follow from them."""
    checkpoint = opened(path)
    attempt = checkpoint.manifest["id"]
    m = json.loads((path / "manifest.json").read_text().replace(attempt, "id"))
    for member in ("created", "created_nanoseconds", "parent", "seconds", "stall_seconds", "crc32c"):
        del m[member]
    for entry in (m["index"], *m["files"]):
        del entry["footer_crc32c"]
    m["stored_bytes"] -= m["index"].pop("bytes")  # the index's size depends on how well random ids compress
    parts: list[Any] = []
    for file in checkpoint.files.values():
        stored = [file.read(at, size) for at, size, *_ in file.table.tolist()]
        parts += [file.table.tobytes(), stored, file.size, file.header.alignment]
    for file in (checkpoint.index, *checkpoint.files.values()):
        directory = bytearray(file.directory())
        for row in range(struct.unpack_from("<Q", directory)[0]):
            at = 64 + 40 * row
            directory[at + 8 : at + 12] = bytes(4)
        parts.append(bytes(directory).replace(bytes.fromhex(attempt), b"id"))
    return m, parts


def test_two_saves_of_one_tree_are_the_same(tmp_path: Path) -> None:
    for name in "ab":
        ostraca.save(tmp_path / name, VARIED, step=3, metadata={"x": 1}, threads=4)
    a, b = anonymous(tmp_path / "a"), anonymous(tmp_path / "b")
    assert a == b
    ids = [ostraca.open(tmp_path / name).id for name in "ab"]
    assert ids[0] != ids[1]


def test_processes_of_the_engine(path: Path) -> None:
    writers = [ostraca.Writer(path, process_index=i, process_count=3, attempt="0a" * 16) for i in range(3)]
    for i, box in enumerate([slice(0, 100), slice(100, 250), slice(250, 300)]):
        part, offset = WEIGHTS[box], (box.start, 0)
        writers[i].add("w", part, dtype="float32", shape=part.shape, global_shape=WEIGHTS.shape, offset=offset)
        writers[i].add(f"own/{i}", part[:i], dtype="float32", shape=part[:i].shape)
    ostraca.commit(path, [writer.finish() for writer in writers])
    assert reference.verify(path) == []
    found = reference.load(path)
    equal(found, {"w": WEIGHTS, "own": {"0": WEIGHTS[:0], "1": WEIGHTS[100:101], "2": WEIGHTS[250:252]}})
    equal(ostraca.load(path), found)
