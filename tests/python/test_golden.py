"""Golden checkpoints (tests/golden): later releases read what earlier ones wrote. And docs/format.md, section 11."""

from __future__ import annotations

import importlib.util
import re
import struct
from pathlib import Path
from typing import Any

import pytest
import zstandard

import ostraca
import trees
from ostraca import reference

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT.parent / "docs" / "format.md"
GOLDEN = sorted(path.parent for path in (ROOT / "golden").glob("v*/*/manifest.json"))
SPEC = importlib.util.spec_from_file_location("make_golden", ROOT / "golden" / "make_golden.py")
assert SPEC is not None and SPEC.loader is not None
make_golden = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(make_golden)


def same(found: Any, expected: Any) -> None:
    """As trees.same; metadata is compared so, too."""
    trees.same(expected, found)


def test_there_are_golden_checkpoints() -> None:
    names = {path.name for path in GOLDEN if path.parent.name == "v1"}
    assert names == {*make_golden.SAVES, *make_golden.OTHERS}
    assert sum(file.stat().st_size for file in (ROOT / "golden").glob("v*/**/*") if file.is_file()) < 420 << 10


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: f"{path.parent.name}/{path.name}")
class TestGolden:
    def test_the_engine_reads_it(self, path: Path) -> None:
        step, metadata, tree = make_golden.contents(path.parent, path.name)
        same(ostraca.load(path, verify="deep"), tree)
        with ostraca.open(path) as checkpoint:
            same(checkpoint.metadata, metadata)
            assert checkpoint.step == step
        report = ostraca.verify(path, deep=True)
        assert report.ok and not report.damaged

    def test_the_reference_reader_reads_it(self, path: Path) -> None:
        step, metadata, tree = make_golden.contents(path.parent, path.name)
        same(reference.load(path), tree)
        found = reference.manifest(path)
        same(found["metadata"], metadata)
        assert found["step"] == step
        assert reference.verify(path) == []


def test_they_use_every_codec() -> None:
    codecs: set[int] = set()
    for path in GOLDEN:
        with ostraca.Reader(str(path)) as reader:
            codecs |= {chunk.codec for info in reader.arrays() for chunk in reader.chunks(info.name)}
    assert codecs == {0, 1, 2, 3}


def test_the_delta_has_everything_that_a_delta_can_have() -> None:
    path = ROOT / "golden" / "v1" / "delta"
    with ostraca.Reader(str(path)) as reader:
        chunks = {info.name: reader.chunks(info.name) for info in reader.arrays()}
        widths = {
            info.dtype.itemsize
            for info in reader.arrays()
            for chunk in chunks[info.name]
            if chunk.codec == 3 and not chunk.offset_in_extent and info.name.startswith("chunked/")
        }
    assert widths == {1, 2, 4, 8}
    assert all(chunk.in_base for chunk in chunks["chunked/frozen"])
    assert not any(chunk.in_base or chunk.codec == 3 for name in ("chunked/redrawn", "fresh") for chunk in chunks[name])
    packs = [chunks["moving/2"][0], chunks["kept/0"][0]]
    assert packs[0].codec == 3 and packs[0].offset_in_extent > 0 and packs[1].in_base


def test_parts_have_parts_of_parts_as_base() -> None:
    path = ROOT / "golden" / "v1" / "parts-delta"
    assert len(list(path.glob("p00000-*"))) > 2
    with ostraca.Reader(str(path)) as reader:
        chunks = {info.name: reader.chunks(info.name) for info in reader.arrays()}
    assert len({chunk.file for chunk in chunks["large"]}) > 2 and all(chunk.in_base for chunk in chunks["large"])
    assert {chunk.codec for chunk in chunks["tied"]} == {3}


def test_the_trees_are_still_made_alike() -> None:
    for name, (make, _) in make_golden.SAVES.items():
        make_golden.RANDOM = make_golden.np.random.default_rng(1)
        tree = make_golden.contents(ROOT / "golden" / "v1", name)[2]
        same(make_golden.expected(make_golden.described(make())), tree)


def blocks() -> dict[str, str]:
    """The code blocks of section 11, by the words in bold before them."""
    section = DOCUMENT.read_text().split("\n## 11. ")[1].split("\n## ")[0]
    return dict(re.findall(r"\*\*`?([^*`]+)`?\*\*[^\n]*\n\n```\n(.*?)```", section, re.DOTALL))


def dumped(text: str, size: int) -> bytes:
    """The bytes of an annotated dump: offset, bytes, words. What it leaves out is zero."""
    raw = bytearray(size)
    lines = re.findall(r"^([0-9a-f]{4})  ((?:[0-9A-F]{2} )*[0-9A-F]{2})(?:  .*)?$", text, re.MULTILINE)
    assert len(lines) == len([line for line in text.splitlines() if line.strip() and line != "..."])
    end = 0
    for offset, words in lines:
        at, part = int(offset, 16), bytes.fromhex(words)
        assert at >= end and at + len(part) <= size
        raw[at : at + len(part)], end = part, at + len(part)
    return bytes(raw)


def test_worked_bytes_are_those_of_the_golden_file() -> None:
    found = blocks()
    tiny = ROOT / "golden" / "v1" / "tiny"
    path = next(tiny.glob("p00000-*"))
    raw = path.read_bytes()
    assert dumped(found.pop(path.name), len(raw)) == raw
    at, stored, decoded = (int.from_bytes(raw[-96 + i : -88 + i], "little") for i in (16, 24, 32))
    directory = zstandard.ZstdDecompressor().decompress(raw[at : at + stored])
    assert dumped(found.pop(f"{path.name}, directory, decoded"), decoded) == directory
    index = reference._Checkpoint(tiny, reference._Guard(collect=False)).index
    size_and_crc = struct.pack("<Q", len(raw)) + raw[-4:]  # of the data file, as the document says
    assert index.directory() == directory[:64] + size_and_crc + directory[76:]
    assert found.pop("manifest.json") == (tiny / "manifest.json").read_text()
    assert not found
