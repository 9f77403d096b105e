"""The reference reader: all of docs/format.md, version 1, in plain Python, and nothing of the engine.

It is a second opinion in the tests and a promise to users: this one file, copied next to a checkpoint, reads it with
zstandard, crc32c and numpy (and ml_dtypes where its dtypes occur). Section numbers below are those of docs/format.md.
Content hashes are compared when the optional `xxhash` package is there. It favours plainness over speed.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import math
import re
import struct
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import crc32c
import numpy as np
import numpy.typing as npt
import zstandard

__all__ = ["PrngKey", "ReferenceReaderError", "leaves", "load", "manifest", "verify"]

HEADER = struct.Struct("<8sIBBHQ16sIII8sI")
FOOTER = struct.Struct("<QQQQQII16sQQ8sII")
DIRECTORY = struct.Struct("<QQQQQQ16s")


def _record(fields: str) -> np.dtype[Any]:
    """A structured dtype from `name:type` or `name:type*count`, little-endian and without padding."""
    split = (re.split("[:*]", f) for f in fields.split())
    return np.dtype([(n, "<" + t, *(int(c) for c in count)) for n, t, *count in split])


EXTENT = _record(
    "offset:u8 stored:u4 decoded:u4 crc:u4 codec:u1 zero:u1*3 hash:u1*16 base_hash:u1*16 base_file:u4 base_extent:u4"
)
FILE = _record("size:u8 crc:u4 process:u4 id:u1*16 origin:u1 zero:u1*7")
LEAF = _record(
    "path_at:u8 path_bytes:u4 kind:u1 dtype:u1 order:u1 rank:u1 dims:u8 shard:u8 shards:u4 detail_bytes:u4 detail_at:u8"
)
SHARD = _record("dims:u8 reference:u8 process:u4 zero:u4")
REFERENCE = _record("file:u4 extent:u4 offset:u4 zero:u4")

MAGIC = b"\x89OSTRACA"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
INCREMENTAL = 1
MAX_EXTENT_BYTES, MAX_ITEM_BYTES, MAX_ALIGNMENT = 4 << 20, 1 << 20, 1 << 16
MAX_PATH_BYTES, MAX_DETAIL_BYTES, MAX_RANK = 64 << 10, 1 << 10, 64
MAX_MANIFEST_BYTES, MAX_DIRECTORY_BYTES, MAX_PROCESSES = 64 << 20, 2 << 30, 1 << 20
CACHED_EXTENTS = 8

ARRAY, KEY, INT, FLOAT, BOOL, STR, BYTES = 1, 2, 3, 4, 5, 6, 7
EMPTY: dict[int, Callable[[], Any]] = {8: lambda: None, 9: dict, 10: list, 11: tuple}
KINDS = ("", "array", "key", "int", "float", "bool", "str", "bytes", "None", "{}", "[]", "()")
_NUMPY = "? i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8 c8 c16"
_ML_DTYPES = (
    "bfloat16 float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e4m3b11fnuz float8_e3m4 float8_e4m3 "
    "float8_e8m0fnu float4_e2m1fn float6_e2m3fn float6_e3m2fn int2 uint2 int4 uint4 int1 uint1"
)
NUMPY = {code: np.dtype("<" + name) for code, name in enumerate(_NUMPY.split(), 1)}
ML_DTYPES = dict(enumerate(_ML_DTYPES.split(), 15))
UNITS, SIZED = {33: "M8", 34: "m8"}, {35: "S", 36: "U", 37: "V"}

Key = tuple[int, str | int]
Array = npt.NDArray[Any]


class PrngKey(NamedTuple):
    """A JAX PRNG key array: its key data (any shape; usually uint32) and the name of its implementation."""

    data: Array
    impl: str


class ReferenceReaderError(ValueError):
    """The checkpoint is not what docs/format.md says: what, where, and, when it makes sense, expected and found."""

    def __init__(self, what: str, where: str, expected: object = None, found: object = None) -> None:
        self.what, self.where, self.expected, self.found = what, where, expected, found
        tail = "" if expected is None else f": expected {expected}"
        super().__init__(
            f"{where}: {what}{tail}" + ("" if found is None else f"{',' if tail else ':'} found {found!r}")
        )


def _fail(what: str, where: str, expected: object = None, found: object = None) -> NoReturn:
    raise ReferenceReaderError(what, where, expected, found)


def _must(ok: object, what: str, where: str, expected: object = None, found: object = None) -> None:
    if not ok:
        _fail(what, where, expected, found)


class _Guard:
    """Runs one check: where problems are collected it notes the error and goes on, otherwise the error passes."""

    def __init__(self, collect: bool) -> None:
        self.collect = collect
        self.problems: list[str] = []

    @contextmanager
    def __call__(self) -> Iterator[None]:
        try:
            yield
        except ReferenceReaderError as error:
            if not self.collect:
                raise
            if str(error) not in self.problems:
                self.problems.append(str(error))


def _crc(raw: bytes, expected: int, what: str, where: str) -> None:
    found = crc32c.crc32c(raw)
    _must(found == expected, f"wrong CRC of the {what}", where, f"{expected:08x}", f"{found:08x}")


# --- codecs (section 7) -----------------------------------------------------------------------------------------------


def _frame(raw: bytes, size: int, where: str) -> bytes:
    """Decodes exactly one zstd frame that states `size` (section 1)."""
    _must(raw[:4] == ZSTD_MAGIC, "not a zstd frame", where)
    try:
        parameters = zstandard.get_frame_parameters(raw)
        stated = parameters.content_size
        _must(stated == size, "wrong content size of a zstd frame", where, size, stated)
        _must(not parameters.dict_id and not parameters.has_checksum, "zstd frame with a dictionary or checksum", where)
        decoded: bytes = zstandard.ZstdDecompressor().decompress(raw, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ReferenceReaderError(f"broken zstd frame ({error})", where) from error
    _must(len(decoded) == size, "wrong size of a decoded zstd frame", where, size, len(decoded))
    return decoded


def _planes(raw: bytes, size: int, where: str, base: bytes | None) -> bytes:
    """Decodes codec 2, or codec 3 where `base` holds the base extent's decoded bytes."""
    _must(len(raw) >= 4, "truncated planes", where)
    width, transform, zero = struct.unpack_from("<BBH", raw)
    _must(width in (1, 2, 4, 8) and size % width == 0, "impossible width of planes", where, None, width)
    _must(transform <= (base is None) and zero == 0, "unknown transform or reserved bytes in planes", where)
    count, at = size // width, 4 + 8 * width
    _must(len(raw) >= at, "truncated planes", where, at, len(raw))
    decoded = np.empty((count, width), np.uint8)
    for k in range(width):
        mode, byte, zero, stored = struct.unpack_from("<BBHI", raw, 4 + 8 * k)
        _must(mode <= 3 and zero == 0 and (mode == 1 or byte == 0), f"unknown mode or reserved in plane {k}", where)
        _must(stored <= len(raw) - at, f"plane {k} does not fit", where, f"at most {len(raw) - at}", stored)
        payload, at = raw[at : at + stored], at + stored
        if mode == 1:
            _must(stored == 0, f"constant plane {k} with bytes", where, 0, stored)
            decoded[:, k] = byte
        elif mode == 0:
            _must(stored == count, f"wrong size of raw plane {k}", where, count, stored)
            decoded[:, k] = np.frombuffer(payload, np.uint8)
        else:
            decoded[:, k] = np.frombuffer(_frame(payload, count, f"{where}, plane {k}"), np.uint8)
    _must(at == len(raw), "bytes after the last plane", where, at, len(raw))
    unsigned = np.dtype(f"<u{width}")
    values = decoded.reshape(-1).view(unsigned)
    if transform:
        values = (values >> 1) | (values << (8 * width - 1))
    if base is not None:
        values = np.frombuffer(base, unsigned) + ((values >> 1) ^ np.negative(values & 1))
    return values.astype(unsigned, copy=False).tobytes()


# --- data and index files (section 3) ---------------------------------------------------------------------------------


class _File:
    """One data or index file: header, footer and extent table, checked; extents are read on demand."""

    def __init__(self, path: Path, kind: int, attempt: bytes, process_count: int, process: int, guard: _Guard) -> None:
        self.path, self.name, self.kind, self.guard, self.process = path, path.name, kind, guard, process
        self.labels: dict[int, list[str]] = {}  # which arrays use an extent, for messages
        self.table: Array = np.zeros(0, EXTENT)
        self.alignment, self.features, self.sound = MAX_ALIGNMENT, INCREMENTAL, False
        try:
            self.size = path.stat().st_size
        except OSError as error:
            raise ReferenceReaderError(f"cannot be opened ({error.strerror})", self.name) from error
        _must(self.size >= HEADER.size + FOOTER.size, "too short for a file", self.name, "at least 160", self.size)
        head, foot = self.read(0, HEADER.size), self.read(self.size - FOOTER.size, FOOTER.size)
        with guard():
            self._header(head, attempt, process_count)
        self._footer(foot, head, attempt)
        with guard():
            self._table()

    def read(self, offset: int, count: int) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                raw = file.read(count)
        except OSError as error:
            raise ReferenceReaderError(f"cannot be read ({error.strerror})", self.name) from error
        _must(len(raw) == count, f"short read at {offset}", self.name, count, len(raw))
        return raw

    def _header(self, raw: bytes, attempt: bytes, process_count: int) -> None:
        where = f"{self.name}, header"
        _must(raw[:8] == MAGIC, "not an Ostraca file", where, MAGIC, raw[:8])
        _, version, kind, algorithm, zero, features, own, process, count, alignment, zeros, crc = HEADER.unpack(raw)
        _crc(raw[:60], crc, "header", where)
        _must(version == 1, "unknown version", where, 1, version)
        _must(kind == self.kind, "wrong kind of file", where, self.kind, kind)
        _must(algorithm == 1, "unknown content hash algorithm", where, 1, algorithm)
        _must(zero == 0 and not any(zeros), "reserved bytes are not zero", where)
        _must(features & ~INCREMENTAL == 0, "unknown required features", where, "bit 0 at most", hex(features))
        _must(own == attempt, "wrong attempt id", where, attempt.hex(), own.hex())
        _must(process == self.process, "wrong process index", where, self.process, process)
        _must(count == process_count, "wrong process count", where, process_count, count)
        limit = MAX_ALIGNMENT if kind == 1 else 1
        _must(1 <= alignment <= limit and alignment & (alignment - 1) == 0, "wrong alignment", where, None, alignment)
        self.alignment, self.features = alignment, features

    def _footer(self, raw: bytes, head: bytes, attempt: bytes) -> None:
        where = f"{self.name}, footer"
        (self.table_at, self.extents, self.directory_at, self.directory_stored, self.directory_decoded, self.table_crc,
         self.directory_crc, own, size, zero, magic, header_crc, self.footer_crc) = FOOTER.unpack(raw)  # fmt: skip
        _must(magic == MAGIC[::-1], "not the end of an Ostraca file", where, MAGIC[::-1], magic)
        _crc(raw[:92], self.footer_crc, "footer", where)
        with self.guard():
            _crc(head, header_crc, "header, as the footer has it", where)
        _must(own == attempt, "wrong attempt id", where, attempt.hex(), own.hex())
        _must(size == self.size, "wrong size of the file", where, size, self.size)
        _must(zero == 0, "reserved bytes are not zero", where)
        end = self.size - FOOTER.size
        _must(self.extents < (1 if self.kind == 2 else 1 << 32), "too many extents", where, None, self.extents)
        _must(self.table_at >= HEADER.size and self.directory_at == self.table_at + EXTENT.itemsize * self.extents,
              "misplaced extent table or directory", where, None, (self.table_at, self.directory_at))  # fmt: skip
        _must(self.directory_at + self.directory_stored <= end, "the directory does not fit", where)
        _must(self.directory_decoded <= MAX_DIRECTORY_BYTES, "directory too large", where, None, self.directory_decoded)

    def _table(self) -> None:
        raw = self.read(self.table_at, EXTENT.itemsize * self.extents)
        _crc(raw, self.table_crc, "extent table", self.name)
        t = np.frombuffer(raw, EXTENT)
        based = t["base_hash"].any(axis=1) | (t["base_file"] != 0) | (t["base_extent"] != 0)
        checks = {
            "extent outside the file": t["offset"] > self.table_at,
            "wrong decoded bytes": (t["decoded"] < 1) | (t["decoded"] > MAX_EXTENT_BYTES),
            "wrong stored bytes": (t["stored"] < 1) | (t["stored"] > t["decoded"]),
            "raw extent of another size": (t["codec"] == 0) & (t["stored"] != t["decoded"]),
            "unknown codec": t["codec"] > 3,
            "codec 3 without its feature": (t["codec"] == 3) & (self.features & INCREMENTAL == 0),
            "base fields of a codec without base": (t["codec"] != 3) & based,
            "reserved bytes are not zero": t["zero"].any(axis=1),
        }
        for what, bad in checks.items():
            for i in np.flatnonzero(bad):
                with self.guard():
                    _fail(f"{what} in the extent table", f"{self.name}, extent {i}", None, t[i])
        if checks["extent outside the file"].any():
            return
        offsets, stored = t["offset"].astype(np.int64), t["stored"].astype(np.int64)
        self.starts = np.concatenate([offsets, [self.table_at, self.size - FOOTER.size]])
        self.ends = np.concatenate([[HEADER.size], offsets + stored, [self.directory_at + self.directory_stored]])
        gaps = self.starts - self.ends
        for i in np.flatnonzero((gaps < 0) | (gaps >= self.alignment)):
            with self.guard():
                before, limit = f"{self.name} before {self.starts[i]}", f"0 to {self.alignment - 1} bytes"
                _fail("overlap or hole", before, limit, int(gaps[i]))
        self.table, self.sound = t, True

    def directory(self) -> bytes:
        raw = self.read(self.directory_at, self.directory_stored)
        where = f"{self.name}, directory"
        _crc(raw, self.directory_crc, "directory", where)
        return _frame(raw, self.directory_decoded, where)

    def decoded(self, number: int, base: _Checkpoint | None, label: str = "") -> bytes:
        """The decoded bytes of one extent, at most 4 MiB; `base` is the base checkpoint for codec 3."""
        entry = self.table[number]
        names = ", ".join(self.labels.get(number, [label])[:8])
        where = f"{self.name}, extent {number} at {entry['offset']}" + (f" ({names})" if names else "")
        size, codec = int(entry["decoded"]), int(entry["codec"])
        _must(int(entry["stored"]) <= self.size, "extent outside the file", where)
        raw = self.read(int(entry["offset"]), int(entry["stored"]))
        _crc(raw, int(entry["crc"]), "stored bytes", where)
        if codec == 0:
            decoded = raw
        elif codec == 1:
            decoded = _frame(raw, size, where)
        elif codec == 2:
            decoded = _planes(raw, size, where, None)
        else:
            if codec != 3 or base is None:
                _fail("codec not usable here", where, None, codec)
            decoded = _planes(raw, size, where, base.base_bytes(entry, where))
        _must(len(decoded) == size, "wrong number of decoded bytes", where, size, len(decoded))
        digest, expected = _content_hash(decoded), entry["hash"].tobytes()
        _must(digest in (None, expected), "wrong content hash", where, expected.hex(), digest.hex() if digest else None)
        return decoded

    def check(self, base: _Checkpoint | None) -> None:
        """Decodes every extent and looks at every byte of padding."""
        for number in range(len(self.table)):
            with self.guard():
                self.decoded(number, base)
        for i in np.flatnonzero(self.starts > self.ends) if self.sound else ():
            with self.guard():
                begin, end = int(self.ends[i]), int(self.starts[i])
                zero = end - begin >= MAX_ALIGNMENT or not any(self.read(begin, end - begin))
                _must(zero, "padding is not zero", f"{self.name}, {begin} to {end}")


def _content_hash(raw: bytes) -> bytes | None:
    """XXH3-128 with seed 0, canonical bytes; None where xxhash is not installed."""
    try:
        digest = importlib.import_module("xxhash").xxh3_128_digest(raw)
    except ImportError:
        return None
    return bytes(digest)


# --- directory (sections 4 to 6) --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Shard:
    offset: tuple[int, ...]
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    process: int
    reference: int = field(compare=False)

    def chunks(self) -> Iterator[tuple[int, tuple[slice, ...], tuple[int, ...]]]:
        """Yields reference, place in the global array, shape; in C order of the grid."""
        corners = itertools.product(*(range(0, s, c) for s, c in zip(self.shape, self.chunk, strict=True)))
        for i, corner in enumerate(corners):
            shape = tuple(min(c, s - at) for at, s, c in zip(corner, self.shape, self.chunk, strict=True))
            begin = tuple(o + at for o, at in zip(self.offset, corner, strict=True))
            yield self.reference + i, tuple(slice(b, b + s) for b, s in zip(begin, shape, strict=True)), shape


@dataclass(frozen=True)
class _Leaf:
    """One leaf; `where` names it in messages."""

    path: tuple[Key, ...]
    name: str
    kind: int
    code: int
    big: bool
    shape: tuple[int, ...]
    detail: str
    item_bytes: int
    where: str = field(compare=False)
    shards: tuple[_Shard, ...] = field(compare=False)

    @property
    def has_data(self) -> bool:
        return self.code != 0 and self.item_bytes > 0 and 0 not in self.shape

    @property
    def dtype_name(self) -> str:
        return "-" if self.code == 0 else ML_DTYPES.get(self.code) or str(self.dtype())

    def dtype(self) -> np.dtype[Any]:
        """The dtype of the stored bytes: little-endian."""
        if self.code in ML_DTYPES:
            found: np.dtype[Any] = np.dtype(getattr(importlib.import_module("ml_dtypes"), ML_DTYPES[self.code]))
            return found
        if self.code in UNITS:
            return np.dtype(f"<{UNITS[self.code]}" + (f"[{self.detail}]" if self.detail else ""))
        if self.code in SIZED:
            return np.dtype(f"<{SIZED[self.code]}{self.item_bytes // (4 if self.code == 36 else 1)}")
        return NUMPY[self.code]


def _key_path(raw: bytes, where: str) -> tuple[Key, ...]:
    parts: list[Key] = []
    at = 0
    while at < len(raw):
        kind, at = raw[at], at + 1
        _must(1 <= kind <= 5, "unknown type of a key path's part", where, "1 to 5", kind)
        fixed = 4 if kind in (1, 5) else 8
        _must(at + fixed <= len(raw), "truncated key path", where)
        number = int.from_bytes(raw[at : at + fixed], "little", signed=kind == 2)
        at += fixed
        if kind in (1, 5):
            _must(number <= len(raw) - at, "truncated key path", where)
            parts.append((kind, _utf8(raw[at : at + number], where)))
            at += number
        else:
            parts.append((kind, number))
    return tuple(parts)


def _utf8(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ReferenceReaderError(f"text is not UTF-8 ({error.reason})", where, None, raw[:64]) from error


def _item_bytes(kind: int, code: int, big: int, rank: int, detail: str, where: str) -> int:
    """Checks what section 6 says about kind, dtype, byte order and detail; returns the bytes of an item."""
    _must(1 <= kind <= 11, "unknown kind", where, "1 to 11", kind)
    _must(code <= 37, "unknown dtype", where, "0 to 37", code)
    fixed = {INT: (6, 1), FLOAT: (12, 0), BOOL: (1, 0), STR: (6, 1), BYTES: (6, 1)}.get(kind, (0, 0))
    fits = code != 0 if kind <= KEY else (code, rank) == fixed
    _must(fits, "dtype or rank does not fit the kind", where, None, (code, rank))
    size = 0 if code == 0 else 2 if code == 15 else 8 if code in UNITS else NUMPY[code].itemsize if code in NUMPY else 1
    if code in UNITS and kind == ARRAY and detail:
        try:
            canonical = np.dtype(f"<{UNITS[code]}[{detail}]").str
        except (TypeError, ValueError):
            canonical = ""
        _must(canonical == f"<{UNITS[code]}[{detail}]", "unknown unit", where, None, detail)
    elif code in SIZED:
        _must(re.fullmatch("0|[1-9][0-9]{0,6}", detail), "malformed item bytes", where, None, detail)
        size = int(detail)
        _must(size <= MAX_ITEM_BYTES and (code != 36 or size % 4 == 0), "impossible item bytes", where, None, size)
    elif kind != KEY:
        _must(detail == "", "detail where none belongs", where, None, detail)
    _must(kind != KEY or code not in (*UNITS, *SIZED), "dtype does not fit a PRNG key", where, None, code)
    _must(big <= (code in (36, *UNITS) or (code in NUMPY and size > 1)), "wrong byte order", where, None, big)
    return size


def _check_boxes(leaf: _Leaf, cover: bool) -> None:
    """Shards lie inside the global shape, do not overlap and, where `cover`, leave nothing out."""
    for shard in leaf.shards:
        inside = all(o + s <= g for o, s, g in zip(shard.offset, shard.shape, leaf.shape, strict=True))
        _must(inside, "shard outside the global shape", leaf.where, leaf.shape, (shard.offset, shard.shape))
        _must(all(shard.chunk), "chunk shape with a zero", leaf.where, None, shard.chunk)
    low = np.array([s.offset for s in leaf.shards], np.uint64).reshape(len(leaf.shards), len(leaf.shape))
    high = low + np.array([s.shape for s in leaf.shards], np.uint64).reshape(low.shape)
    for i in range(len(leaf.shards) - 1):
        others = np.maximum(low[i], low[i + 1 :]) < np.minimum(high[i], high[i + 1 :])
        _must(not others.all(axis=1).any(), "shards overlap", leaf.where, None, leaf.shards[i])
    volume, expected = sum(math.prod(s.shape) for s in leaf.shards), math.prod(leaf.shape)
    _must(not cover or volume == expected, "shards do not cover the array", leaf.where, f"{expected} elements", volume)


class _Directory:
    """A parsed directory. Leaves that break a rule are left out (where problems are collected)."""

    def __init__(self, raw: bytes, owner: _File, process_count: int, guard: _Guard) -> None:
        where = f"{owner.name}, directory"
        _must(len(raw) >= DIRECTORY.size, "too short", where, DIRECTORY.size, len(raw))
        *counts, zeros = DIRECTORY.unpack_from(raw)
        types = (FILE, LEAF, SHARD, REFERENCE, np.dtype("<u8"), np.dtype("u1"))
        ends = [DIRECTORY.size]
        for n, dtype in zip(counts, types, strict=True):
            ends.append(ends[-1] + n * dtype.itemsize)
        _must(not any(zeros), "reserved bytes are not zero", where)
        _must(ends[-1] == len(raw), "sections do not fill it", where, len(raw), ends[-1])
        self.files, self._leaves, self._shards, self.references, self._dims, _ = (
            np.frombuffer(raw, dtype, n, at) if n else np.zeros(0, dtype)
            for n, dtype, at in zip(counts, types, ends[:-1], strict=True)
        )
        self._text, self._processes, self._owner = raw[ends[-2] :], process_count, owner
        for what, section in {"file": self.files, "shard": self._shards, "reference": self.references}.items():
            zero = section["zero"]
            for i in np.flatnonzero(zero.any(axis=tuple(range(1, zero.ndim)))):
                with guard():
                    _fail(f"reserved bytes of {what} {i} are not zero", where)
        self.leaves: list[_Leaf] = []
        self._seen: set[object] = set()
        shard = 0
        for number, row in enumerate(self._leaves):
            with guard():
                _must(int(row["shard"]) == shard, "shards with a gap before them or shared", f"{where}, leaf {number}")
            shard = int(row["shard"]) + int(row["shards"])
            with guard():
                self.leaves.append(self._leaf(row, f"{where}, leaf {number}"))
        with guard():
            _must(shard == len(self._shards), "shards that no leaf has", where, shard, len(self._shards))
            _must(self.leaves or owner.kind != 2, "a checkpoint without leaves", where)

    def _slice(self, at: Any, count: int, where: str) -> list[int]:
        _must(int(at) + count <= len(self._dims), "dimensions out of range", where, len(self._dims), int(at))
        found: list[int] = self._dims[int(at) : int(at) + count].tolist()
        return found

    def _bytes(self, at: Any, count: Any, limit: int, where: str) -> bytes:
        _must(int(count) <= limit, "text too long", where, limit, int(count))
        _must(int(at) + int(count) <= len(self._text), "text out of range", where, len(self._text), int(at))
        return self._text[int(at) : int(at) + int(count)]

    def _leaf(self, row: Any, where: str) -> _Leaf:
        path = _key_path(self._bytes(row["path_at"], row["path_bytes"], MAX_PATH_BYTES, where), where)
        name = "/".join(str(key).replace("~", "~0").replace("/", "~1") for _, key in path)
        where = f"{self._owner.name}, array {name!r}"
        for seen in (name, path):
            _must(seen not in self._seen, "two leaves with the same name", where)
            self._seen.add(seen)
        detail = _utf8(self._bytes(row["detail_at"], row["detail_bytes"], MAX_DETAIL_BYTES, where), where)
        kind, code, big, rank = (int(row[key]) for key in ("kind", "dtype", "order", "rank"))
        _must(rank <= MAX_RANK, "rank too large", where, MAX_RANK, rank)
        item_bytes = _item_bytes(kind, code, big, rank, detail, where)
        shape = tuple(self._slice(row["dims"], rank, where))
        _must(kind != INT or shape[0] >= 1, "an int without bytes", where)
        first, count = int(row["shard"]), int(row["shards"])
        _must(first + count <= len(self._shards), "shards out of range", where, len(self._shards), first + count)
        shards = tuple(self._shard(shard, rank, where) for shard in self._shards[first : first + count])
        leaf = _Leaf(path, name, kind, code, big == 1, shape, detail, item_bytes, where, shards)
        if leaf.has_data:
            _must(math.prod(shape) * item_bytes < 1 << 63, "array too large", where, None, shape)
            _check_boxes(leaf, self._owner.kind == 2)
        else:
            _must(not shards, "shards of a leaf without bytes", where, 0, len(shards))
        return leaf

    def _shard(self, row: Any, rank: int, where: str) -> _Shard:
        dims = self._slice(row["dims"], 3 * rank, where)
        offset, shape, chunk = tuple(dims[:rank]), tuple(dims[rank : 2 * rank]), tuple(dims[2 * rank :])
        _must(all(chunk), "chunk shape with a zero", where, None, chunk)
        chunks = math.prod(-(-s // c) for s, c in zip(shape, chunk, strict=True))
        shard = _Shard(offset, shape, chunk, int(row["process"]), int(row["reference"]))
        _must(shard.reference + chunks <= len(self.references), "references out of range", where, None, shard)
        own = shard.process == self._owner.process
        _must(
            own if self._owner.kind == 1 else shard.process < self._processes,
            "wrong process of a shard",
            where,
            None,
            shard.process,
        )
        return shard


# --- manifest (section 8) ---------------------------------------------------------------------------------------------


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("two members with the same name")
    return dict(pairs)


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _metadata(value: Any) -> Any:
    """Undoes the tags of section 8."""
    if isinstance(value, list):
        return [_metadata(item) for item in value]
    if not isinstance(value, dict):
        return value
    if list(value) == ["$int"] and re.fullmatch("-?[0-9]+", str(value["$int"])):
        return int(value["$int"])
    if list(value) == ["$float"] and value["$float"] in ("nan", "inf", "-inf"):
        return float(value["$float"])
    if any(key.startswith("$") and not key.startswith("$$") for key in value):
        raise ValueError(f"unknown tag in metadata: {list(value)[:8]}")
    return {key[1:] if key.startswith("$") else key: _metadata(item) for key, item in value.items()}


def _manifest(directory: Path) -> dict[str, Any]:
    where = "manifest.json"
    try:
        with (directory / where).open("rb") as file:
            raw = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise ReferenceReaderError(f"not a checkpoint ({error.strerror})", str(directory / where)) from error
    _must(len(raw) <= MAX_MANIFEST_BYTES, "too large", where, MAX_MANIFEST_BYTES)
    ending = re.search(rb'"crc32c": "[0-9a-f]{8}"\n\}\n\Z', raw[-23:])
    _must(ending, "does not end as a manifest does", where, None, raw[-23:])
    _crc(raw[:-12], int(raw[-12:-4], 16), "manifest", where)
    try:
        m = json.loads(raw.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant)
        _must(isinstance(m, dict) and list(m)[-1] == "crc32c", "not an object that ends in its crc32c", where)
        m["metadata"] = _metadata(m["metadata"])
    except (ValueError, KeyError, RecursionError) as error:
        raise ReferenceReaderError(f"malformed ({type(error).__name__}: {error})", where) from error

    def member(at: dict[str, Any], key: str, test: Callable[[Any], object]) -> None:
        _must(key in at and test(at[key]), f"wrong or missing member {key!r}", where, None, at.get(key))

    def text(pattern: str) -> Callable[[Any], object]:
        return lambda v: isinstance(v, str) and re.fullmatch(pattern, v)

    def count(v: Any) -> bool:
        return type(v) is int and v >= 0

    member(m, "format", lambda v: v == "ostraca")
    member(m, "version", lambda v: type(v) is int and v == 1)
    member(m, "features", text("0{15}[01]"))
    member(m, "id", text("[0-9a-f]{32}"))
    member(m, "step", lambda v: v is None or type(v) is int)
    member(m, "created", text("[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z"))
    member(m, "writer", lambda v: isinstance(v, str))
    member(m, "process_count", lambda v: type(v) is int and 1 <= v <= MAX_PROCESSES)
    for key in ("logical_bytes", "stored_bytes", "referenced_bytes", "arrays", "chunks"):
        member(m, key, count)
    for key in ("seconds", "stall_seconds"):
        member(m, key, lambda v: type(v) in (int, float) and v >= 0)
    incremental = int(m["features"], 16) & INCREMENTAL
    member(m, "base", lambda v: isinstance(v, dict) if incremental else v is None)
    if m["base"] is not None:
        member(m["base"], "directory", lambda v: text(r"[^/\\\0]+")(v) and v not in (".", ".."))
        member(m["base"], "id", text("[0-9a-f]{32}"))
    member(m, "index", lambda v: isinstance(v, dict))
    member(m, "files", lambda v: isinstance(v, list) and all(isinstance(item, dict) for item in v))
    member(m["index"], "file", lambda v: v == f"index-{m['id']}.ostraca")
    last = -1
    for entry in m["files"]:
        member(entry, "file", text(f"p([0-9]{{5}}|[1-9][0-9]{{5,6}})-{m['id']}\\.ostraca"))
        process = int(entry["file"][1:].split("-")[0])
        _must(
            last < process < m["process_count"], "files are not in the order of processes", where, None, entry["file"]
        )
        last = process
    for entry in (m["index"], *m["files"]):
        member(entry, "bytes", count)
        member(entry, "footer_crc32c", text("[0-9a-f]{8}"))
    return dict(m)


# --- checkpoint -------------------------------------------------------------------------------------------------------


class _Checkpoint:
    """An open checkpoint and, where it has one, its base. Nothing stays open between reads."""

    def __init__(self, path: Path, guard: _Guard, is_base: bool = False) -> None:
        self.path, self.guard = path, guard
        self.base: _Checkpoint | None = None
        self._cache: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        m = self.manifest = _manifest(path)
        _must(not is_base or m["base"] is None, "the base has a base itself", f"{path.name}/manifest.json")
        self.own: list[_File | None] = []
        for entry in m["files"]:
            self.own.append(None)
            with guard():
                self.own[-1] = self._open(entry, 1, int(entry["file"][1:].split("-")[0]))
        if m["base"] is not None:
            with guard():
                base = _Checkpoint(path.resolve().parent / m["base"]["directory"], guard, is_base=True)
                _must(
                    base.manifest["id"] == m["base"]["id"],
                    "another base",
                    "manifest.json",
                    m["base"]["id"],
                    base.manifest["id"],
                )
                self.base = base
        self.leaves: list[_Leaf] = []
        self.files: list[_File | None] = []
        self.references: Array = np.zeros(0, REFERENCE)

    def open_index(self) -> None:
        """Reads the index; without it (a broken one) only the data files can be checked."""
        m, guard = self.manifest, self.guard
        self.index = self._open(m["index"], 2, 0)
        _must(self.index.features == int(m["features"], 16), "features differ from the manifest's", self.index.name)
        for file in self.own:
            with guard():
                _must(
                    file is None or file.features & ~self.index.features == 0,
                    "feature that the index lacks",
                    file.name if file else "",
                )
        directory = _Directory(self.index.directory(), self.index, m["process_count"], guard)
        for row in directory.files:
            self.files.append(None)
            with guard():
                self.files[-1] = self._named(len(self.files) - 1, row)
        _must(len(self.files) >= len(self.own), "files of the manifest are missing", f"{self.index.name}, files")
        with guard():
            _assemble([(leaf.path, None) for leaf in directory.leaves], self.index.name)
        self.leaves, self.references = directory.leaves, directory.references

    def _open(self, entry: dict[str, Any], kind: int, process: int) -> _File:
        m = self.manifest
        file = _File(self.path / entry["file"], kind, bytes.fromhex(m["id"]), m["process_count"], process, self.guard)
        with self.guard():
            _must(file.size == entry["bytes"], "size is not the manifest's", file.name, entry["bytes"], file.size)
            crc = f"{file.footer_crc:08x}"
            expected = entry["footer_crc32c"]
            _must(crc == expected, "footer CRC is not the manifest's", file.name, expected, crc)
        return file

    def _named(self, place: int, row: Any) -> _File | None:
        """The file that one entry of the index's list of files means."""
        where = f"{self.index.name}, file {place}"
        own = place < len(self.own)
        _must(int(row["origin"]) == (0 if own else 1), "wrong origin", where, 0 if own else 1, int(row["origin"]))
        source = self if own else self.base
        _must(own or self.manifest["base"], "file of a base, but there is no base", where)
        if source is None:  # the base is broken, and was reported
            return None
        _must(row["id"].tobytes().hex() == source.manifest["id"], "wrong attempt id", where, source.manifest["id"])
        name = f"p{int(row['process']):05d}-{source.manifest['id']}.ostraca"
        entries = [e["file"] for e in source.manifest["files"]]
        _must(entries[place] == name if own else name in entries, "not the manifest's file", where, None, name)
        entry = source.manifest["files"][entries.index(name)]
        _must(int(row["size"]) == entry["bytes"], "wrong size", where, entry["bytes"], int(row["size"]))
        _must(f"{int(row['crc']):08x}" == entry["footer_crc32c"], "wrong footer CRC", where, entry["footer_crc32c"])
        return source.own[entries.index(name)]

    def base_bytes(self, entry: Any, where: str) -> bytes:
        """The decoded bytes of the extent that a delta (codec 3) of another checkpoint names in this one."""
        number, extent = int(entry["base_file"]), int(entry["base_extent"])
        _must(number < len(self.own), "no such file in the base", where, len(self.own), number)
        file = self.own[number]
        if file is None:
            _fail("the base's file is broken", where, None, self.manifest["files"][number]["file"])
        _must(extent < len(file.table), "no such extent in the base", where, len(file.table), extent)
        target = file.table[extent]
        possible = target["codec"] != 3 and target["decoded"] == entry["decoded"]
        _must(possible, "impossible base extent", where, None, target)
        _must((target["hash"] == entry["base_hash"]).all(), "content hash of the base differs", where)
        return file.decoded(extent, None, where)

    def locate(self, reference: int, count: int, where: str) -> tuple[int, _File | None, int, int]:
        """File number, file (None: broken), extent and offset of `count` decoded bytes."""
        number, extent, offset, _ = (int(v) for v in self.references[reference])
        _must(number < len(self.files), "no such file", where, len(self.files), number)
        file = self.files[number]
        if file is None or not file.sound:
            return number, None, extent, offset
        _must(extent < len(file.table), f"no such extent in {file.name}", where, len(file.table), extent)
        end, decoded = offset + count, int(file.table[extent]["decoded"])
        _must(end <= decoded, f"chunk outside extent {extent} of {file.name}", where, decoded, end)
        return number, file, extent, offset

    def array(self, leaf: _Leaf) -> Array:
        """The leaf's elements: global shape, little-endian dtype."""
        dtype = leaf.dtype()
        try:
            result = _empty(leaf.shape, dtype)
        except (ValueError, MemoryError) as error:
            raise ReferenceReaderError(f"numpy cannot hold it ({error})", leaf.where, None, leaf.shape) from error
        for shard in leaf.shards:
            for reference, place, shape in shard.chunks():
                count = math.prod(shape) * leaf.item_bytes
                number, file, extent, offset = self.locate(reference, count, leaf.where)
                if file is None or not file.sound:
                    _fail("a file of it is broken", leaf.where)
                decoded = self._cache.pop((number, extent), None) or file.decoded(extent, self.base, leaf.name)
                self._cache[number, extent] = decoded
                if len(self._cache) > CACHED_EXTENTS:
                    self._cache.popitem(last=False)
                if leaf.code == 1:
                    _must(max(decoded[offset : offset + count]) <= 1, "a bool that is neither 0 nor 1", leaf.where)
                result[place] = np.frombuffer(decoded, dtype, math.prod(shape), offset).reshape(shape)
        return result

    def value(self, leaf: _Leaf) -> Any:
        if leaf.kind in EMPTY:
            return EMPTY[leaf.kind]()
        array = self.array(leaf)
        if leaf.big:
            swapped = array.dtype.newbyteorder(">")
            array = array.byteswap().view(swapped) if leaf.item_bytes else _empty(leaf.shape, swapped)
        if leaf.kind == ARRAY:
            return array
        if leaf.kind == KEY:
            return PrngKey(array, leaf.detail)
        if leaf.kind == INT:
            return int.from_bytes(array.tobytes(), "little", signed=True)
        if leaf.kind in (FLOAT, BOOL):
            return array.item()
        return _utf8(array.tobytes(), leaf.where) if leaf.kind == STR else array.tobytes()

    def check(self) -> None:
        """Everything that reading does not look at already."""
        used: set[tuple[int, int]] = set()
        for leaf in self.leaves:
            for reference, _, shape in itertools.chain.from_iterable(s.chunks() for s in leaf.shards):
                with self.guard():
                    number, file, extent, _ = self.locate(reference, math.prod(shape) * leaf.item_bytes, leaf.where)
                    if file is not None:
                        used.add((number, extent))
                        names = file.labels.setdefault(extent, [])
                        if leaf.name not in names[-8:]:
                            names.append(leaf.name)
        known = {leaf.path: leaf for leaf in self.leaves}
        for file in filter(None, self.own):
            file.check(self.base)
            with self.guard():
                self._check_directory(file, known)
        for number, extent in sorted(used):
            other = self.files[number]
            if number >= len(self.own) and other is not None:
                with self.guard():
                    other.decoded(extent, None)
        for leaf in self.leaves:
            with self.guard():
                if leaf.kind == STR or leaf.code == 1:  # those where not every byte is a value
                    self.value(leaf)
        self._check_totals()

    def _check_directory(self, file: _File, known: dict[tuple[Key, ...], _Leaf]) -> None:
        """A data file's own directory: sound, and nothing in it that the index lacks."""
        directory = _Directory(file.directory(), file, self.manifest["process_count"], self.guard)
        where = f"{file.name}, directory"
        itself = np.array([(0, 0, file.process, list(bytes.fromhex(self.manifest["id"])), 0, [0] * 7)], FILE)
        _must(directory.files.tobytes() == itself.tobytes(), "wrong list of files", where)
        for leaf in directory.leaves:
            with self.guard():
                other = known.get(leaf.path)
                same = leaf == other and other and set(leaf.shards) <= set(other.shards)
                _must(same or not known, "differs from the index", leaf.where)
                for reference, _, shape in itertools.chain.from_iterable(s.chunks() for s in leaf.shards):
                    number, extent, offset, _ = (int(v) for v in directory.references[reference])
                    known_extent = number == 0 and (not file.sound or extent < len(file.table))
                    _must(known_extent, "no such extent", leaf.where, None, extent)
                    end = offset + math.prod(shape) * leaf.item_bytes
                    fits = not file.sound or end <= file.table[extent]["decoded"]
                    _must(fits, f"chunk outside extent {extent}", leaf.where)

    def _check_totals(self) -> None:
        entries = (self.manifest["index"], *self.manifest["files"])
        expected = {
            "logical_bytes": sum(math.prod(leaf.shape) * leaf.item_bytes for leaf in self.leaves),
            "stored_bytes": sum(entry["bytes"] for entry in entries),
            "chunks": sum(len(file.table) for file in self.own if file is not None),
        }
        if not self.guard.problems:  # otherwise the sums mean nothing
            for key, value in expected.items():
                with self.guard():
                    _must(self.manifest[key] == value, f"wrong {key}", "manifest.json", value, self.manifest[key])


def _empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    if dtype.itemsize:
        return np.empty(shape, dtype)
    array: Array = np.empty(shape, [("x", dtype)])["x"]  # numpy makes items of zero bytes in no other way
    return array


def _assemble(items: list[tuple[tuple[Key, ...], Any]], where: str) -> Any:
    """Builds the tree from key paths and values; iterative, since key paths may be thousands of parts deep."""
    if len(items) == 1 and not items[0][0]:
        return items[0][1]

    class Node:
        def __init__(self, parent: Node | None, key: str | int) -> None:
            self.parent, self.key, self.container = parent, key, 0
            self.children: dict[str | int, Any] = {}

    nodes = [Node(None, "")]
    for path, value in items:
        _must(path, "a leaf at the root of a tree", where)
        node = nodes[0]
        for depth, (kind, key) in enumerate(path, 1):
            container = 1 if kind == 2 else kind
            node.container = node.container or container
            _must(node.container == container, "leaves disagree on a container", where, node.container, path)
            if depth == len(path):
                _must(key not in node.children, "a leaf where there is another or a container", where, None, path)
                node.children[key] = value
            else:
                if key not in node.children:
                    nodes.append(Node(node, key))
                    node.children[key] = nodes[-1]
                node = node.children[key]
                _must(isinstance(node, Node), "a leaf where there is a container", where, None, path)
    built: Any = {}
    for node in reversed(nodes):
        built = node.children
        if node.container in (3, 4):
            _must(set(built) == set(range(len(built))), "a list or tuple with gaps", where, None, sorted(built)[:16])
            items_in_order = [built[i] for i in range(len(built))]
            built = items_in_order if node.container == 3 else tuple(items_in_order)
        if node.parent is not None:
            node.parent.children[node.key] = built
    return built


# --- public -----------------------------------------------------------------------------------------------------------


def _open(path: str | Path) -> _Checkpoint:
    checkpoint = _Checkpoint(Path(path), _Guard(collect=False))
    checkpoint.open_index()
    return checkpoint


def load(path: str | Path) -> Any:
    """Reads the whole tree: dicts, lists, tuples (attribute nodes are dicts) of numpy arrays and Python values.

    Arrays have their global shape and their original dtype, byte order included; integer keys are ints; JAX PRNG keys
    are PrngKey. Raises ReferenceReaderError for anything that docs/format.md does not allow in what is read.
    """
    checkpoint = _open(path)
    return _assemble([(leaf.path, checkpoint.value(leaf)) for leaf in checkpoint.leaves], checkpoint.index.name)


def leaves(path: str | Path) -> dict[str, Any]:
    """Reads all leaves, by display name, in tree order; values and errors as with load."""
    checkpoint = _open(path)
    return {leaf.name: checkpoint.value(leaf) for leaf in checkpoint.leaves}


def manifest(path: str | Path) -> dict[str, Any]:
    """The manifest, checked, with the tags in `metadata` undone. Raises ReferenceReaderError."""
    return _manifest(Path(path))


def verify(path: str | Path) -> list[str]:
    """Looks at every byte of a checkpoint and returns every problem found: an empty list means that it is sound.

    A base is verified as far as it is used. Never raises for what a checkpoint holds.
    """
    guard = _Guard(collect=True)
    with guard():
        checkpoint = _Checkpoint(Path(path), guard)
        with guard():
            checkpoint.open_index()
        checkpoint.check()
    return guard.problems


def main(arguments: list[str] | None = None) -> int:
    """Lists a checkpoint's leaves, or verifies it. Exit status: 0 ok, 1 problems found, 2 not readable."""
    parser = argparse.ArgumentParser(prog="python -m ostraca.reference", description=main.__doc__)
    parser.add_argument("path")
    parser.add_argument("--verify", action="store_true", help="check every byte and print every problem")
    options = parser.parse_args(arguments)
    if options.verify:
        problems = verify(options.path)
        print("\n".join(problems) or "sound")
        return 1 if problems else 0
    try:
        checkpoint = _open(options.path)
    except ReferenceReaderError as error:
        print(error, file=sys.stderr)
        return 2
    for leaf in checkpoint.leaves:
        print(f"{leaf.name}\t{KINDS[leaf.kind]}\t{'>' if leaf.big else ''}{leaf.dtype_name}\t{leaf.shape}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
