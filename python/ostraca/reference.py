"""The reference reader: all of docs/format.md, version 1, in plain Python, and nothing of the engine.

It is a second opinion in the tests and a promise to users: this one file, copied next to a checkpoint, reads it with
zstandard, crc32c and numpy (and ml_dtypes where its dtypes occur). Section numbers below are those of docs/format.md.
Content hashes are compared when the optional `xxhash` package is there. It favours plainness over speed.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import itertools
import json
import math
import re
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace as Record
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

try:
    import crc32c
    import zstandard
except ImportError as error:
    raise ImportError(f"{error}; the reference reader needs: pip install zstandard crc32c") from error

xxhash = importlib.import_module("xxhash") if importlib.util.find_spec("xxhash") else None

__all__ = ["PrngKey", "ReferenceReaderError", "leaves", "load", "manifest", "verify"]

Array = npt.NDArray[Any]
KeyPath = tuple[tuple[int, str | int], ...]  # of parts: type, key


def _record(fields: str) -> np.dtype[Any]:
    """A structured dtype from `name:type`, little-endian and without padding. Reserved fields are called `zero`."""
    return np.dtype([(name, "<" + kind) for name, kind in (field.split(":") for field in fields.split())])


# fmt: off
HEADER = _record("magic:V8 version:u4 kind:u1 hash:u1 part:u2 features:u8 id:V16 process:u4 processes:u4 "
                 "alignment:u4 compatible:u8 crc:u4")
FOOTER = _record("table_at:u8 extents:u8 directory_at:u8 directory_bytes:u8 directory_decoded:u8 table_crc:u4 "
                 "directory_crc:u4 id:V16 size:u8 zero:u8 magic:V8 header_crc:u4 crc:u4")
EXTENT = _record("at:u8 stored:u4 decoded:u4 crc:u4 codec:u1 zero:V3 hash:V16 base_hash:V16 base_file:u4 "
                 "base_extent:u4")
HEAD = _record("files:u8 leaves:u8 shards:u8 references:u8 dims:u8 text:u8 zero:V16")
FILE = _record("size:u8 crc:u4 process:u4 id:V16 origin:u1 zero:V1 part:u2 shift:u4")
LEAF = _record("path_at:u8 path_bytes:u4 kind:u1 dtype:u1 big:u1 rank:u1 dims:u8 shard:u8 shards:u4 detail_bytes:u4 "
               "detail_at:u8")
SHARD = _record("dims:u8 reference:u8 process:u4 zero:u4")
REFERENCE = _record("file:u4 extent:u4 offset:u4 zero:u4")
SECTIONS = {"files": FILE, "leaves": LEAF, "shards": SHARD, "references": REFERENCE, "dims": np.dtype("<u8")}

MAGIC, ZSTD_MAGIC = b"\x89OSTRACA", b"\x28\xb5\x2f\xfd"
DATA_FILE, INDEX_FILE = 1, 2
INCREMENTAL, PARTS = 1, 2  # features
MIB, MAX_PROCESSES, MAX_PARTS, MAX_FILES = 1 << 20, 1 << 18, 1 << 16, 1 << 18
ARRAY, KEY, INT, FLOAT, BOOL, STR, BYTES, NONE, EMPTY_DICT, EMPTY_LIST, EMPTY_TUPLE, TEXTS, BYTE_STRINGS = range(1, 14)
STRINGS = (TEXTS, BYTE_STRINGS)
EMPTY: dict[int, Callable[[], Any]] = {NONE: lambda: None, EMPTY_DICT: dict, EMPTY_LIST: list, EMPTY_TUPLE: tuple}
DTYPE_AND_RANK = {INT: (6, 1), FLOAT: (12, 0), BOOL: (1, 0), STR: (6, 1), BYTES: (6, 1)} | dict.fromkeys(EMPTY, (0, 0))
NUMPY = dict(enumerate(("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"), 1))
ML_DTYPES = dict(enumerate((
    "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e4m3b11fnuz",
    "float8_e3m4", "float8_e4m3", "float8_e8m0fnu", "float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn",
    "int2", "uint2", "int4", "uint4", "int1", "uint1"), 15))
UINT8, UINT64, MISSING = 6, 9, 1 << 63
TIMES, TEXT, SIZED = {33: "M8", 34: "m8"}, 36, {35: "S", 36: "U", 37: "V"}
DETAIL = (dict.fromkeys(TIMES, "|([1-9][0-9]{0,9})?(Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)")  # patterns
          | dict.fromkeys(SIZED, "0|[1-9][0-9]{0,6}"))
DETAIL_OF_KIND = {KEY: ".+", TEXTS: "|strict|(strict )?na=(nan|none)", BYTE_STRINGS: ""}
# fmt: on


class PrngKey(NamedTuple):
    """A JAX PRNG key array: its key data (any shape; usually uint32) and the name of its implementation."""

    data: Array
    impl: str


class ReferenceReaderError(ValueError):
    """The checkpoint is not what docs/format.md says: where, and which rule."""


def _must(ok: object, where: str, rule: str, found: object = None) -> None:
    if not ok:
        raise ReferenceReaderError(f"{where}: {rule}" + ("" if found is None else f": found {found}"))


def _rules(where: str, rules: dict[str, Any]) -> None:
    """Each rule must hold, and where it is an array of truths, hold for every row."""
    for rule, ok in rules.items():
        _must(np.all(ok), where, f"not so: {rule}", f"rows {np.flatnonzero(~ok)[:8]}" if np.ndim(ok) else None)


class _Guard:
    """Wraps one check: where problems are collected its error is noted and all goes on, otherwise it is raised."""

    def __init__(self, collect: bool) -> None:
        self.collect, self.problems = collect, dict[str, None]()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        try:
            yield
        except (ReferenceReaderError, OSError) as error:
            if not self.collect:
                raise
            self.problems[str(error)] = None


def _crc(raw: bytes, expected: int, where: str) -> None:
    _must(crc32c.crc32c(raw) == expected, where, f"wrong CRC, {expected:08x} expected", f"{crc32c.crc32c(raw):08x}")


def _table(raw: bytes, record: np.dtype[Any], where: str, count: int = 1, at: int = 0) -> Array:
    found = np.frombuffer(raw, record, count, at) if count else np.zeros(0, record)
    zeros = b"".join(found[name].tobytes() for name in record.names or () if name.startswith("zero"))
    _must(not any(zeros), where, "reserved bytes are not zero")
    return found


def _rows(table: Array) -> list[Any]:
    return [Record(**dict(zip(table.dtype.names or (), row, strict=True))) for row in table.tolist()]


def _utf8(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ReferenceReaderError(f"{where}: text is not UTF-8 ({error.reason})") from error


# --- codecs (section 7) -----------------------------------------------------------------------------------------------


def _frame(raw: bytes, size: int, where: str) -> bytes:
    """Decodes exactly one zstd frame that states `size` (section 1)."""
    try:
        _must(raw[:4] == ZSTD_MAGIC, where, "not a zstd frame")
        p = zstandard.get_frame_parameters(raw)
        _must(not p.dict_id and not p.has_checksum, where, "zstd frame with a dictionary or checksum")
        _must(p.content_size == size, where, f"content size of the zstd frame is not {size}", p.content_size)
        decoded: bytes = zstandard.ZstdDecompressor().decompress(raw, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ReferenceReaderError(f"{where}: broken zstd frame ({error})") from error
    return decoded


def _planes(raw: bytes, size: int, where: str, base: bytes | None) -> bytes:
    """Decodes codec 2, or codec 3 where `base` holds the base extent's decoded bytes."""
    width, at = raw[0], 4 + 8 * raw[0]
    _must(width in (1, 2, 4, 8) and size % width == 0, where, "impossible width of planes", width)
    _must(len(raw) >= at, where, "truncated planes")
    rotated, zero = struct.unpack_from("<BH", raw, 1)
    _must(rotated <= (base is None) and zero == 0, where, "unknown transform or reserved bytes in planes")
    count, bits = size // width, 8 * width
    planes = np.empty((count, width), np.uint8)
    for k in range(width):
        mode, byte, zero, stored = struct.unpack_from("<BBHI", raw, 4 + 8 * k)
        payload, at = raw[at : at + stored], at + stored
        _must(mode <= 3 and zero == 0 and (mode == 1 or byte == 0), where, f"unknown mode or reserved in plane {k}")
        _must(len(payload) == stored, where, f"plane {k} does not fit")
        decoded = payload if mode <= 1 else _frame(payload, count, f"{where}, plane {k}")
        _must(len(decoded) == (0 if mode == 1 else count), where, f"wrong size of plane {k}", len(decoded))
        planes[:, k] = byte if mode == 1 else np.frombuffer(decoded, np.uint8)
    _must(at == len(raw), where, "bytes after the last plane")
    values = planes.reshape(-1).view(f"<u{width}")
    if rotated:
        values = (values >> 1) | (values << (bits - 1))
    if base is not None:
        values = np.frombuffer(base, values.dtype) + ((values >> 1) ^ np.negative(values & 1))
    return values.astype(f"<u{width}", copy=False).tobytes()


# --- data and index files (section 3) ---------------------------------------------------------------------------------


class _File:
    """One data or index file: header, footer and extent table are checked when it is opened, extents when read."""

    def __init__(
        self, path: Path, kind: int, number: int, place: tuple[int, int], manifest: dict[str, Any], guard: _Guard
    ) -> None:
        self.path, self.name, self.kind, self.number, self.guard = path, path.name, kind, number, guard
        self.process, self.part = place
        self.size, data, attempt = path.stat().st_size, kind == DATA_FILE, bytes.fromhex(manifest["id"])
        _must(self.size >= HEADER.itemsize + FOOTER.itemsize, self.name, "too short", self.size)
        self.header: Any = Record(features=INCREMENTAL, compatible=0, alignment=65536)  # unless it is sound
        with guard():
            h = self._sealed(0, HEADER, MAGIC, where := f"{self.name}, header")
            alignments = [1 << i for i in range(17)] if data else [1]
            _rules(where, {
                "the version is 1": h.version == 1,
                "it is a data file, or an index file": h.kind == kind,
                "content hash algorithm 1": h.hash == 1,
                "the required features are known": h.features <= INCREMENTAL | PARTS,
                "it requires parts where it is one": not data or (h.features & PARTS > 0) == (h.part > 0),
                "the attempt id is the manifest's": h.id == attempt,
                "the process index and part are the name's": (h.process, h.part) == place,
                "the process count is the manifest's": h.processes == manifest["process_count"],
                "the alignment is possible": h.alignment in alignments,
            })  # fmt: skip
            self.header = h
        self.end = self.size - FOOTER.itemsize
        f = self.footer = self._sealed(self.end, FOOTER, MAGIC[::-1], where := f"{self.name}, footer")
        _rules(where, {
            "the attempt id is the manifest's": f.id == attempt,
            "the size of the file": f.size == self.size,
            "the extents are fewer than 2^32, none in an index file": f.extents < (1 << 32 if data else 1),
            "the extent table's place": f.table_at >= HEADER.itemsize and (data or f.table_at == HEADER.itemsize),
            "the directory follows the extent table": f.directory_at == f.table_at + EXTENT.itemsize * f.extents,
            "the directory fits": f.directory_at + f.directory_bytes <= self.end,
            "the directory has 2 GiB at most": f.directory_decoded <= 2048 * MIB,
        })  # fmt: skip
        self.table: Array = np.zeros(0, EXTENT)
        self.sound, self.gaps = False, list[tuple[int, int]]()
        with guard():
            _must(f.header_crc == int.from_bytes(self.read(60, 4), "little"), where, "the header's CRC is another")
        with guard():
            self._read_table(self.read(f.table_at, EXTENT.itemsize * f.extents), f"{self.name}, extent table")

    def read(self, at: int, count: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(at)
            raw = file.read(count)
        _must(len(raw) == count, self.name, f"cannot read {count} bytes at {at}")
        return raw

    def _sealed(self, at: int, record: np.dtype[Any], magic: bytes, where: str) -> Any:
        """The header or footer: a record with a magic, that ends in its own CRC."""
        raw = self.read(at, record.itemsize)
        (row,) = _rows(np.frombuffer(raw, record))
        _must(row.magic == magic, where, "not of an Ostraca file", row.magic)
        _crc(raw[:-4], row.crc, where)
        _table(raw, record, where)
        return row

    def _read_table(self, raw: bytes, where: str) -> None:
        f, h = self.footer, self.header
        _crc(raw, f.table_crc, where)
        t = _table(raw, EXTENT, where, f.extents)
        has_base = np.frombuffer(raw, np.uint8).reshape(-1, EXTENT.itemsize)[:, 40:].any(axis=1)
        _rules(where, {
            "extents lie in the file": t["at"] <= f.table_at,
            "decoded bytes are 1 to 4 MiB": (t["decoded"] >= 1) & (t["decoded"] <= 4 * MIB),
            "stored bytes are 1 to decoded bytes": (t["stored"] >= 1) & (t["stored"] <= t["decoded"]),
            "raw extents are stored as they are": (t["codec"] != 0) | (t["stored"] == t["decoded"]),
            "the codec is known": t["codec"] <= 3,
            "codec 3 has its feature": (t["codec"] != 3) | (h.features & INCREMENTAL > 0),
            "only codec 3 has a base": (t["codec"] == 3) | ~has_base,
        })  # fmt: skip
        starts = [*t["at"].tolist(), f.table_at, self.end]
        ends = [HEADER.itemsize, *(t["at"] + t["stored"]).tolist(), f.directory_at + f.directory_bytes]
        self.gaps = list(zip(ends, starts, strict=True))
        for end, start in self.gaps:
            _must(0 <= start - end < h.alignment, where, f"overlap or hole before {start}", start - end)
        self.table, self.sound = t, True

    def directory(self) -> bytes:
        f, where = self.footer, f"{self.name}, directory"
        raw = self.read(f.directory_at, f.directory_bytes)
        _crc(raw, f.directory_crc, where)
        return _frame(raw, f.directory_decoded, where)

    def decode(self, number: int, base: _Checkpoint | None, users: str) -> bytes:
        """The decoded bytes of one extent; `users` names its arrays in messages."""
        (e,) = _rows(self.table[number : number + 1])
        where = f"{self.name}, extent {number} at {e.at} ({users})"
        raw = self.read(e.at, e.stored)
        _crc(raw, e.crc, where)
        _must(e.codec != 3 or base, where, "a delta without base")
        against = base.base_bytes(e, where) if e.codec == 3 and base else None
        decoded = _planes(raw, e.decoded, where, against) if e.codec > 1 else raw
        decoded = _frame(raw, e.decoded, where) if e.codec == 1 else decoded
        _must(not xxhash or xxhash.xxh3_128_digest(decoded) == e.hash, where, "wrong content hash")
        return decoded

    def check_padding(self) -> None:
        for end, start in self.gaps if self.sound else ():
            with self.guard():
                _must(not any(self.read(end, start - end)), self.name, f"padding at {end} is not zero")


# --- directory (sections 4 to 6) --------------------------------------------------------------------------------------


class _Shard(NamedTuple):
    offset: tuple[int, ...]
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    process: int
    references: tuple[tuple[int, int, int, int], ...]  # origin, number of the file, extent, offset


class _Leaf(NamedTuple):
    path: KeyPath
    kind: int
    code: int
    big: bool
    detail: str
    shape: tuple[int, ...]
    shards: tuple[_Shard, ...]

    @property
    def name(self) -> str:
        return "/".join(str(key).replace("~", "~0").replace("/", "~1") for _, key in self.path)

    @property
    def item_bytes(self) -> int:
        if self.code in NUMPY:
            return np.dtype(NUMPY[self.code]).itemsize
        return int(self.detail) if self.code in SIZED else {0: 0, 15: 2, 33: 8, 34: 8}.get(self.code, 1)

    @property
    def dtype(self) -> np.dtype[Any]:
        """As it was in memory; ml_dtypes knows one byte order only."""
        if self.code in ML_DTYPES:
            return np.dtype(getattr(importlib.import_module("ml_dtypes"), ML_DTYPES[self.code]))  # type: ignore[no-any-return]
        text = NUMPY.get(self.code) or TIMES.get(self.code, "") + (f"[{self.detail}]" if self.detail else "")
        if self.code in SIZED:
            text = f"{SIZED[self.code]}{self.item_bytes // (4 if self.code == TEXT else 1)}"
        return np.dtype((">" if self.big else "<") + text)

    def chunks(self) -> Iterator[tuple[tuple[int, int, int, int], tuple[slice, ...], tuple[int, ...]]]:
        """Yields reference, place in the global array and shape of every chunk, in C order of the shards' grids."""
        for shard in self.shards:
            corners = itertools.product(*(range(0, s, c) for s, c in zip(shard.shape, shard.chunk, strict=True)))
            for reference, corner in zip(shard.references, corners, strict=True):
                begin = [o + at for o, at in zip(shard.offset, corner, strict=True)]
                shape = tuple(min(c, s - at) for at, s, c in zip(corner, shard.shape, shard.chunk, strict=True))
                yield reference, tuple(slice(b, b + s) for b, s in zip(begin, shape, strict=True)), shape

    def check(self, where: str, whole: bool) -> None:
        """What sections 4 and 6 say about one leaf; its shards cover it where `whole`."""
        rank = len(self.shape)
        fits = (self.code, rank) == DTYPE_AND_RANK.get(self.kind) if self.kind > KEY else 1 <= self.code <= 37
        fits = self.code == UINT64 and not self.big if self.kind in STRINGS else fits
        _must(self.kind >= 1 and fits, where, "unknown kind or dtype, or they do not fit", self[1:3])
        _must(self.kind != KEY or self.code not in DETAIL, where, "dtype of a PRNG key", self.code)
        pattern = DETAIL_OF_KIND.get(self.kind, DETAIL.get(self.code, ""))
        detail = re.fullmatch(pattern, self.detail, re.DOTALL)
        possible = detail and (self.code not in TIMES or int(detail[1] or 1) < 1 << 31)
        _must(possible, where, "impossible detail", self.detail)
        elements = math.prod(self.shape)
        size = elements * self.item_bytes
        wide = self.code in (15, TEXT, *TIMES) or (self.code in NUMPY and self.item_bytes > 1)
        _rules(where, {
            "byte order big only where scalars are wide": wide or not self.big,
            "items have 1 MiB at most": self.item_bytes <= MIB,
            "texts have whole code units": self.code != TEXT or self.item_bytes % 4 == 0,
            "dimensions and sizes are below 2^63": max(0, *self.shape, elements * max(1, self.item_bytes)) < 1 << 63,
            "an int has bytes": self.kind != INT or size,
            "a leaf without bytes has no shards": size or not self.shards,
            "shapes of shards and chunks have no zero": all(all(s.shape + s.chunk) for s in self.shards),
            "shards lie inside the global shape": all(
                o + n <= g for s in self.shards for o, n, g in zip(s.offset, s.shape, self.shape, strict=True)
            ),
        })  # fmt: skip
        low = np.array([s.offset for s in self.shards], np.uint64).reshape(len(self.shards), rank)
        high = low + np.array([s.shape for s in self.shards], np.uint64).reshape(low.shape)
        for i in range(len(self.shards)):
            shared = np.maximum(low[i], low[i + 1 :]) < np.minimum(high[i], high[i + 1 :])
            _must(not shared.all(axis=1).any(), where, "shards overlap")
        volume = sum(math.prod(s.shape) for s in self.shards) * self.item_bytes
        _must(volume == size or not whole, where, "shards do not cover the array")


def _key_path(raw: bytes, where: str) -> KeyPath:
    parts: list[tuple[int, str | int]] = []
    at = 0
    while at < len(raw):
        kind = raw[at]
        _must(1 <= kind <= 5, where, "unknown type of a key path's part", kind)
        begin = at + (5 if kind in (1, 5) else 9)
        number = int.from_bytes(raw[at + 1 : begin], "little", signed=kind == 2)
        at = begin + (number if kind in (1, 5) else 0)
        _must(at <= len(raw), where, "truncated key path")
        parts.append((kind, _utf8(raw[begin:at], where) if kind in (1, 5) else number))
    return tuple(parts)


def _with_data(leaves: list[_Leaf]) -> list[tuple[_Leaf, _Leaf | None]]:
    """The tree's leaves, strings with their data, which follow them."""
    pairs: list[tuple[_Leaf, _Leaf | None]] = []
    for leaf in leaves:
        before, data = pairs[-1] if pairs else (leaf, leaf)
        if before.kind in STRINGS and data is None and leaf.path == (*before.path, (5, "data")):
            pairs[-1] = (before, leaf)
        else:
            pairs.append((leaf, None))
    return pairs


class _Directory:
    """A parsed directory; where problems are collected, leaves that break a rule are left out."""

    def __init__(self, file: _File, checkpoint: _Checkpoint) -> None:
        raw, where, m = file.directory(), f"{file.name}, directory", checkpoint.manifest
        _must(len(raw) >= HEAD.itemsize, where, "too short")
        (head,) = _table(raw, HEAD, where).tolist()
        counts = dict(zip(HEAD.names or (), head, strict=True))
        ends = list(itertools.accumulate((counts[k] * v.itemsize for k, v in SECTIONS.items()), initial=HEAD.itemsize))
        _must(ends[-1] + counts["text"] == len(raw), where, "sections do not fill it")
        tables = [_table(raw, t, where, counts[k], at) for (k, t), at in zip(SECTIONS.items(), ends, strict=False)]
        files, leaves, shards, self.references, self.dims = tables
        self.text, self.shards = raw[ends[-1] :], _rows(shards)
        self.files, self.leaves = checkpoint.check_files(file, files.tolist()), list[_Leaf]()
        is_last = file.kind == INDEX_FILE or checkpoint.is_last(file)
        _must(is_last or not counts["leaves"], where, "leaves in a file that is not the last of its process")
        names, spans, next_shard = set[str](), set[Any](), 0
        for number, row in enumerate(_rows(leaves)):
            with file.guard():
                place = f"{where}, leaf {number}"
                _must(row.shard == next_shard, place, "gap before its shards, or they are shared", row.shard)
                leaf = self._leaf(row, place)
                _must(leaf.name not in names, place, "two leaves of one name", leaf.name)
                names.add(leaf.name)
                leaf.check(f"{file.name}, array {leaf.name!r}", file.kind == INDEX_FILE)
                self.leaves.append(leaf)
                for s, at in zip(leaf.shards, self.shards[row.shard :], strict=False):
                    end = at.reference + len(s.references)
                    spans.add((at.reference, end, s.shape, s.chunk, leaf.item_bytes))
            next_shard = row.shard + row.shards
        with file.guard():
            _must(next_shard == len(shards), where, "shards without a leaf", next_shard)
            tied = all(a[1] <= b[0] for a, b in itertools.pairwise(sorted(spans)))  # the same ones are one in the set
            _must(tied, where, "shards share references, but not all of them or not alike")
            _must(leaves["path_bytes"].sum() <= len(self.text), where, "key paths overlap")
            processes = range(m["process_count"]) if file.kind == INDEX_FILE else [file.process]
            _must(all(row.process in processes for row in self.shards), where, "wrong process of a shard")
            pairs = _with_data(self.leaves)
            _assemble([(leaf.path, None) for leaf, _ in pairs], where)
            for leaf, data in pairs if file.kind == INDEX_FILE else ():
                fits = data and (data.kind, data.code, len(data.shape)) == (ARRAY, UINT8, 1)
                _must(fits or leaf.kind not in STRINGS, f"array {leaf.name!r}", "no data follow the strings")

    def _leaf(self, row: Any, where: str) -> _Leaf:
        def cut(what: Any, at: int, count: int, limit: int) -> Any:
            _must(at + count <= len(what) and count <= limit, where, "out of range", (at, count))
            return what[at : at + count]

        def shard(s: Any) -> _Shard:
            dims = cut(self.dims, s.dims, 3 * row.rank, 192).tolist()
            offset, shape, chunk = (tuple(dims[i * row.rank : (i + 1) * row.rank]) for i in range(3))
            _must(all(chunk), where, "zero in a chunk shape", chunk)
            count = math.prod(-(-n // c) for n, c in zip(shape, chunk, strict=True))
            references = cut(self.references, s.reference, count, 1 << 63).tolist()
            _must(all(r[0] < len(self.files) for r in references), where, "no such file")
            return _Shard(offset, shape, chunk, s.process, tuple((*self.files[f], e, o) for f, e, o, _ in references))

        _must(row.big <= 1, where, "unknown byte order", row.big)
        shape = cut(self.dims, row.dims, row.rank, 64).tolist()
        path = _key_path(cut(self.text, row.path_at, row.path_bytes, 65536), where)
        detail = _utf8(cut(self.text, row.detail_at, row.detail_bytes, 1024), where)
        shards = tuple(shard(s) for s in cut(self.shards, row.shard, row.shards, 1 << 32))
        return _Leaf(path, row.kind, row.dtype, row.big == 1, detail, tuple(shape), shards)


class _Node(dict[str | int, Any]):
    container = 0  # the type of the parts below it


def _assemble(items: list[tuple[KeyPath, Any]], where: str) -> Any:
    """Builds the tree from key paths and values; iterative, since key paths may be thousands of parts deep."""
    if len(items) == 1 and not items[0][0]:
        return items[0][1]
    top, root = dict[Any, Any](), _Node()
    nodes: list[tuple[dict[Any, Any], str | int, _Node]] = [(top, "", root)]  # where each is, and itself
    for path, value in items:
        _must(path, where, "a leaf at the root, where there are others")
        node = root
        for depth, (kind, key) in enumerate(path, 1):
            container = 1 if kind == 2 else kind
            _must(node.container in (0, container), where, "leaves disagree on a container", path[:depth])
            node.container = container
            if depth < len(path) and key not in node:
                node[key] = _Node()
                nodes.append((node, key, node[key]))
            elif depth == len(path):
                _must(key not in node, where, "a leaf where there are others", path)
                node[key] = value
            _must(depth == len(path) or isinstance(node[key], _Node), where, "a leaf below another leaf", path)
            node = node[key]
    for parent, key, node in reversed(nodes):
        if node.container in (3, 4) and set(node) == set(range(len(node))):
            items_in_order = [node[i] for i in range(len(node))]
            parent[key] = items_in_order if node.container == 3 else tuple(items_in_order)
        else:
            parent[key] = dict(node)
    return top[""]


# --- manifest (section 8) ---------------------------------------------------------------------------------------------


def _text(pattern: str) -> Callable[[Any], object]:
    return lambda v: isinstance(v, str) and re.fullmatch(pattern, v, re.DOTALL)


def _members(value: Any, tests: dict[str, Callable[[Any], object]]) -> bool:
    for key, test in tests.items():
        _must(isinstance(value, dict) and key in value, "manifest.json", f"missing member {key!r}")
        _must(test(value[key]), "manifest.json", f"impossible member {key!r}", value[key])
    return True


COUNT: Callable[[Any], object] = lambda v: type(v) is int and v >= 0  # noqa: E731
ID, HEX8 = _text("[0-9a-f]{32}"), _text("[0-9a-f]{8}")
FILE_MEMBERS = {"file": _text(".*"), "bytes": COUNT, "footer_crc32c": HEX8}
BASE_MEMBERS = {"directory": _text(r"(?!\.\.?\Z)[^/\0]+"), "id": ID}
MEMBERS: dict[str, Callable[[Any], object]] = {
    "format": _text("ostraca"),
    "version": lambda v: type(v) is int and v == 1,
    "features": _text("0{15}[0-3]"),
    "id": ID,
    "step": lambda v: v is None or type(v) is int,
    "created": _text(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"),
    "writer": _text(".*"),
    "process_count": lambda v: COUNT(v) and 1 <= v <= MAX_PROCESSES,
    **dict.fromkeys(("logical_bytes", "stored_bytes", "referenced_bytes", "arrays", "chunks"), COUNT),
    **dict.fromkeys(("seconds", "stall_seconds"), lambda v: type(v) in (int, float) and v >= 0),
    "base": lambda v: v is None or _members(v, BASE_MEMBERS),
    "metadata": lambda v: True,
    "index": lambda v: _members(v, FILE_MEMBERS),
    "files": lambda v: isinstance(v, list) and all(_members(file, FILE_MEMBERS) for file in v),
    "crc32c": HEX8,
}


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _must(len(dict(pairs)) == len(pairs), "manifest.json", "two members of one name")
    return dict(pairs)


def _untagged(value: dict[str, Any]) -> Any:
    """Undoes the tags of `metadata`."""
    if list(value) == ["$int"] and _text("-?[0-9]+")(value["$int"]):
        return int(value["$int"])
    if list(value) == ["$float"] and value["$float"] in ("nan", "inf", "-inf"):
        return float(value["$float"])
    _must(not any(re.match(r"\$(?!\$)", key) for key in value), "manifest.json", "unknown tag", list(value))
    return {key[1:] if key.startswith("$") else key: item for key, item in value.items()}


def _manifest(directory: Path, where: str = "manifest.json") -> dict[str, Any]:
    with (directory / where).open("rb") as file:
        raw = file.read(64 * MIB + 1)
    ending = re.search(rb'"crc32c": "([0-9a-f]{8})"\n\}\n\Z', raw[-23:])
    _must(ending and len(raw) <= 64 * MIB, where, "too large, or does not end as a manifest does")
    _crc(raw[:-12], int(raw[-12:-4], 16), where)
    brackets = re.sub(rb'"(?:\\.|[^"\\])*"', b"", raw)
    depths = itertools.accumulate((c in b"[{") - (c in b"]}") for c in brackets)
    _must(max(depths) <= 512, where, "nested too deep")
    try:
        m: dict[str, Any] = json.loads(_utf8(raw, where), object_pairs_hook=_object, parse_constant=lambda s: int(s))
        _members(m, MEMBERS)
        m["metadata"] = json.loads(json.dumps(m["metadata"]), object_hook=_untagged)
    except (TypeError, ValueError, RecursionError) as error:
        raise ReferenceReaderError(f"{where}: malformed: {error}") from error
    places = list(_places(m))
    _rules(where, {
        "crc32c is the last member": list(m)[-1] == "crc32c",
        "there is a base where feature bit 0 says so": (m["base"] is not None) == (int(m["features"], 16) % 2 == 1),
        "the index file has its name": m["index"]["file"] == f"index-{m['id']}.ostraca",
        "there are files of each process, in order": [f["file"] for f in m["files"]] == [
            f"p{process:05d}-{f'{part:05d}-' if part else ''}{m['id']}.ostraca" for process, part in places
        ] and {process for process, _ in places} == set(range(m["process_count"])),
        "there are not too many": len(places) <= MAX_FILES and all(part < MAX_PARTS for _, part in places),
        "compatible features": ID(2 * (m.get("compatible_features") or "0" * 16)),
        "the feature of parts is there where they are": any(part for _, part in places) == (int(m["features"], 16) > 1),
    })  # fmt: skip
    return m


def _places(m: dict[str, Any]) -> Iterator[tuple[int, int]]:
    """Process index and part of each data file: one whose name has a part is of the process of the one before it."""
    process, part = -1, 0
    for entry in m["files"]:
        is_next_part = entry["file"].count("-") == 2
        process, part = (process, part + 1) if is_next_part else (process + 1, 0)
        yield process, part


def _base_manifest(directory: Path, wanted: str) -> dict[str, Any]:
    """That of a base, which may have been removed: then it is the tombstone."""
    tombstone = f"tombstone-{wanted}.json"
    try:
        m = _manifest(directory)
    except FileNotFoundError:
        return _manifest(directory, tombstone)
    return m if m["id"] == wanted or not (directory / tombstone).exists() else _manifest(directory, tombstone)


# --- checkpoint -------------------------------------------------------------------------------------------------------


class _Checkpoint:
    """An open checkpoint and, where it has one, its base. Nothing stays open between reads."""

    def __init__(self, path: Path, guard: _Guard, base_id: str = "") -> None:
        self.guard = guard
        self.manifest = m = _base_manifest(path, base_id) if base_id else _manifest(path)
        self.index: _File | None = None
        self.base: _Checkpoint | None = None
        self.files: dict[tuple[int, int], _File] = {}  # by origin and number; without those that are broken
        self.leaves: list[_Leaf] = []
        self.users: dict[tuple[int, int, int], list[str]] = {}  # by origin, file and extent: arrays' names
        self.decoded = functools.lru_cache(8)(self._decoded)

        def opened(entry: dict[str, Any], kind: int, number: int, place: tuple[int, int]) -> _File:
            file = _File(path / entry["file"], kind, number, place, m, guard)
            with guard():
                found = (file.size, f"{file.footer.crc:08x}")
                _must(
                    found == (entry["bytes"], entry["footer_crc32c"]), file.name, "not the manifest's size, CRC", found
                )
            return file

        self.places = list(_places(m))
        for number, entry in enumerate(m["files"]):
            with guard():
                self.files[0, number] = opened(entry, DATA_FILE, number, self.places[number])
        if base_id:
            _must(m["base"] is None, str(path), "the base has a base itself")
            return
        own = [file.header.features for file in self.files.values()]
        if m["base"]:
            with guard():
                self.base = base = _Checkpoint(path.resolve().parent / m["base"]["directory"], guard, m["base"]["id"])
                _must(base.manifest["id"] == m["base"]["id"], "manifest.json", "the base is another", m["base"]["id"])
                self.files |= {(1, number): file for (_, number), file in base.files.items()}
        with guard():
            self.index = index = opened(m["index"], INDEX_FILE, 0, (0, 0))
            every = len(own) < len(m["files"]) or functools.reduce(int.__or__, own) == index.header.features
            _must(every and index.header.features == int(m["features"], 16), index.name, "features disagree")
            compatible = int(m.get("compatible_features") or "0", 16)
            _must(index.header.compatible == compatible, index.name, "compatible features disagree")
            self.leaves = _Directory(index, self).leaves
        for leaf in self.leaves:
            for reference, _, shape in leaf.chunks():
                with guard():
                    self._use(leaf, *reference, math.prod(shape) * leaf.item_bytes)

    def _use(self, leaf: _Leaf, origin: int, number: int, extent: int, offset: int, count: int) -> None:
        """Checks that there are so many decoded bytes, and remembers whose they are."""
        file = self.files.get((origin, number))
        if file is not None and file.sound:  # otherwise it was reported
            _must(extent < len(file.table), f"array {leaf.name!r}", f"no such extent in {file.name}", extent)
            fits = offset + count <= int(file.table[extent]["decoded"])
            _must(fits, f"array {leaf.name!r}", f"chunk outside extent {extent} of {file.name}")
            names = self.users.setdefault((origin, number, extent), [])
            if len(names) < 8 and leaf.name not in names:
                names.append(leaf.name)

    def is_last(self, file: _File) -> bool:
        """Whether the file is the last of its process, whose directory speaks for all of them."""
        return self.places[file.number + 1 : file.number + 2] != [(file.process, file.part + 1)]

    def check_files(self, file: _File, rows: list[tuple[Any, ...]]) -> list[tuple[int, int]]:
        """Checks a directory's list of files; returns their origins and numbers."""

        def row(checkpoint: _Checkpoint, number: int, origin: int) -> tuple[Any, ...]:
            m, (process, part) = checkpoint.manifest, checkpoint.places[number]
            entry, shift = m["files"][number], number - process if origin else 0
            crc = int(entry["footer_crc32c"], 16)
            return entry["bytes"], crc, process, bytes.fromhex(m["id"]), origin, bytes(1), part, shift

        own = list(range(len(self.places)))
        if file.kind == DATA_FILE:
            first = file.number - file.part if self.is_last(file) else file.number
            own = list(range(first, file.number + 1))
        expected = [row(self, number, 0) for number in own]
        if file.kind == DATA_FILE:
            expected[-1] = (0, 0, *expected[-1][2:])
        base = [r[2] + r[7] for r in rows[len(own) :]]  # numbers there
        _must(all(n < len(self.base.places) if self.base else False for n in base), file.name, "not a file of the base")
        expected += [row(self.base, number, 1) for number in base if self.base]
        _must(rows == expected, file.name, "wrong list of files", rows[:8])
        return [(0, number) for number in own] + [(1, number) for number in base]

    def base_bytes(self, entry: Any, where: str) -> bytes:
        """The decoded bytes of the extent that a delta of another checkpoint names in this one."""
        file = self.files.get((0, entry.base_file))
        _must(file and entry.base_extent < len(file.table), where, "no such extent in the base, or it is broken")
        (target,) = _rows(self.files[0, entry.base_file].table[[entry.base_extent]])
        _must(target.codec != 3 and target.decoded == entry.decoded, where, "not an extent to be a base")
        _must(target.hash == entry.base_hash, where, "content hash of the base")
        return self.decoded(0, entry.base_file, entry.base_extent)

    def _decoded(self, origin: int, number: int, extent: int) -> bytes:
        users = ", ".join(self.users.get((origin, number, extent), []))
        return self.files[origin, number].decode(extent, self.base, users)

    def values(self) -> Iterator[tuple[_Leaf, Any]]:
        for leaf, data in _with_data(self.leaves):
            yield leaf, self.value(leaf) if data is None else self.strings(leaf, data)

    def value(self, leaf: _Leaf) -> Any:
        if leaf.kind in EMPTY:
            return EMPTY[leaf.kind]()
        array = self.array(leaf)
        if leaf.kind in (ARRAY, KEY):
            return array if leaf.kind == ARRAY else PrngKey(array, leaf.detail)
        data = array.tobytes()
        if leaf.kind in (INT, BOOL):
            return int.from_bytes(data, "little", signed=True) if leaf.kind == INT else any(data)
        return array.item() if leaf.kind == FLOAT else _utf8(data, leaf.name) if leaf.kind == STR else data

    def strings(self, leaf: _Leaf, data: _Leaf) -> Array:
        """Text as numpy's StringDType, bytes as an object array."""
        where, raw, at = f"array {leaf.name!r}", self.array(data).tobytes(), 0
        options: dict[str, Any] = {"coerce": False} if "strict" in leaf.detail else {}
        if "na=" in leaf.detail:
            options["na_object"] = math.nan if "nan" in leaf.detail else None
        _must(leaf.kind == BYTE_STRINGS or hasattr(np.dtypes, "StringDType"), where, "text needs numpy 2")
        dtype = np.dtypes.StringDType(**options) if leaf.kind == TEXTS else np.dtype(object)
        found = np.empty(math.prod(leaf.shape), dtype)
        for i, end in enumerate(self.array(leaf).reshape(-1).tolist()):
            missing, end = end >= MISSING, end % MISSING
            _must(at <= end <= len(raw), where, f"element {i} does not lie in the data, after the one before", end)
            _must(not missing or ("na=" in leaf.detail and at == end), where, f"element {i} cannot be missing")
            item = raw[at:end] if leaf.kind == BYTE_STRINGS else _utf8(raw[at:end], f"{where}, element {i}")
            found[i], at = options["na_object"] if missing else item, end
        _must(at == len(raw), where, "data after the last element", len(raw) - at)
        return found.reshape(leaf.shape)

    def array(self, leaf: _Leaf) -> Array:
        try:
            array: Array = np.ndarray(leaf.shape, leaf.dtype)  # unlike np.empty it knows items of zero bytes
        except (ValueError, MemoryError) as error:
            raise ReferenceReaderError(f"array {leaf.name!r}: numpy cannot hold it ({error})") from error
        little = array.dtype if leaf.code in ML_DTYPES else array.dtype.newbyteorder("<")
        for (origin, number, extent, offset), box, shape in leaf.chunks():
            raw = self.decoded(origin, number, extent)
            array[box] = np.frombuffer(raw, little, math.prod(shape), offset).reshape(shape)
        return array

    def check(self) -> None:
        """Everything that opening does not look at: every extent, all padding, the data files' directories, sums."""
        own = [file for (origin, _), file in self.files.items() if origin == 0]
        used = {key for key in self.users if key[0] == 1}
        merged: dict[_Leaf, list[_Shard]] = {}
        for key in sorted(used | {(0, file.number, extent) for file in own for extent in range(len(file.table))}):
            with self.guard():
                self.decoded(*key)
        for file in own:
            file.check_padding()
            with self.guard():
                for leaf in _Directory(file, self).leaves:
                    merged.setdefault(leaf._replace(shards=()), []).extend(leaf.shards)
        if self.guard.problems or not self.index:  # otherwise what follows means nothing
            return
        for leaf, data in _with_data(self.leaves):
            with self.guard():
                if leaf.kind == STR:
                    self.value(leaf)
                if data:
                    self.strings(leaf, data)
        expected = [leaf._replace(shards=tuple(sorted(shards))) for leaf, shards in merged.items()]
        found = [leaf._replace(shards=tuple(sorted(leaf.shards))) for leaf in self.leaves]
        with self.guard():
            for a, b in itertools.zip_longest(found, expected):
                _must(a == b, self.index.name, f"{(a or b).name!r} differs from the data files' {b}", a)
        deltas = [e for file in own for e in _rows(file.table[file.table["codec"] == 3])]
        used |= {(1, e.base_file, e.base_extent) for e in deltas}
        sums = {
            "logical_bytes": sum(math.prod(leaf.shape) * leaf.item_bytes for leaf in self.leaves),
            "stored_bytes": self.index.size + sum(file.size for file in own),
            "referenced_bytes": sum(int(self.files[o, p].table[e]["stored"]) for o, p, e in used),
            "arrays": sum(leaf.kind not in EMPTY for leaf in self.leaves),
            "chunks": sum(len(file.table) for file in own),
        }
        for member, value in sums.items():
            with self.guard():
                _must(self.manifest[member] == value, "manifest.json", f"{member} should be {value}")


# --- public -----------------------------------------------------------------------------------------------------------


def load(path: str | Path) -> Any:
    """Reads the whole tree: dicts, lists, tuples (attribute nodes are dicts) of numpy arrays and Python values.

    Arrays have their global shape and their original dtype, byte order included; integer keys are ints; JAX PRNG keys
    are PrngKey, strings arrays of numpy's StringDType or of bytes objects. Raises OSError, and ReferenceReaderError for
    what docs/format.md does not allow in what is read.
    """
    checkpoint = _Checkpoint(Path(path), _Guard(collect=False))
    return _assemble([(leaf.path, value) for leaf, value in checkpoint.values()], "index")


def leaves(path: str | Path) -> dict[str, Any]:
    """Reads all leaves, by display name, in the index's order; values and errors as with load."""
    checkpoint = _Checkpoint(Path(path), _Guard(collect=False))
    return {leaf.name: value for leaf, value in checkpoint.values()}


def manifest(path: str | Path) -> dict[str, Any]:
    """The manifest, checked, with the tags in `metadata` undone. Errors as with load."""
    return _manifest(Path(path))


def verify(path: str | Path) -> list[str]:
    """Looks at every byte of a checkpoint and returns every problem found: an empty list means that it is sound.

    A base is verified as far as it is used. Never raises for what a checkpoint holds.
    """
    guard = _Guard(collect=True)
    with guard():
        _Checkpoint(Path(path), guard).check()
    return list(guard.problems)


def main(arguments: list[str] | None = None) -> int:
    """Lists a checkpoint's leaves, or verifies it. Exit status: 0 ok, 1 problems found, 2 not readable."""
    parser = argparse.ArgumentParser(prog="python -m ostraca.reference", description=main.__doc__)
    parser.add_argument("path")
    parser.add_argument("--verify", action="store_true", help="check every byte and print every problem")
    options = parser.parse_args(arguments)
    if options.verify:
        problems = verify(options.path)
        print("\n".join(problems) or "sound")
        return int(bool(problems))
    try:
        for name, value in leaves(options.path).items():
            print(name, f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else repr(value)[:80], sep="\t")
    except (ReferenceReaderError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
