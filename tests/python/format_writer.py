"""Writes hand-made checkpoints, from docs/format.md alone, for the tests: a few lines for each rule, no care for speed.

Content hashes are right only where the optional `xxhash` package is installed; otherwise they are stand-ins, which the
format's other checks do not notice. Big trees, io and durability are none of its business.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
import json
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import crc32c
import numpy as np
import zstandard

_NAMES = (
    "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64 complex128 bfloat16 "
    "float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e4m3b11fnuz float8_e3m4 float8_e4m3 "
    "float8_e8m0fnu float4_e2m1fn float6_e2m3fn float6_e3m2fn int2 uint2 int4 uint4 int1 uint1"
)
DTYPES = {name: code for code, name in enumerate(_NAMES.split(), 1)}
BY_KIND = {"M": 33, "m": 34, "S": 35, "U": 36, "V": 37}

Box = tuple[tuple[int, ...], tuple[int, ...], int]  # offset, shape, process
Hook = Callable[[str, Any], None]


@dataclass
class Key:
    """A JAX PRNG key array: its key data and implementation."""

    data: Any
    impl: str


@dataclass
class TwoArrays:
    """Strings as they are stored: kind 12 or 13, ends, data."""

    kind: int
    detail: str
    ends: Any
    data: Any


@dataclass
class Leaves:
    """In place of a tree: leaves as (path, what `describe` says)."""

    leaves: Sequence[tuple[tuple[tuple[int, Any], ...], tuple[int, int, int, str, Any]]]


@dataclass
class Options:
    """How one leaf is written."""

    codec: str = "raw"  # raw, zstd, planes, delta, base (a reference to the base's extents)
    chunk: tuple[int, ...] | None = None
    boxes: Sequence[Box] = ()  # shards; the whole from process 0 where empty
    pack: str = ""  # leaves of one pack share an extent
    tie: str = ""  # the display name of the leaf whose references this one uses
    width: int = 0  # of planes; the item's where 0
    rotate: bool = False
    modes: Sequence[int] = ()  # of planes; all frames where empty


@dataclass
class Extent:
    number: int
    decoded: bytes
    digest: bytes
    codec: int
    stored: int


@dataclass
class Written:
    """What a later delta needs to know of its base."""

    name: str
    attempt: bytes
    files: list[dict[str, Any]] = field(default_factory=list)
    places: list[tuple[int, int]] = field(default_factory=list)  # process and part of each
    chunks: dict[tuple[str, int, int], tuple[int, Extent, int]] = field(default_factory=dict)  # place in files

    def list_files(self, directory: Directory) -> None:
        for number, (entry, (process, part)) in enumerate(zip(self.files, self.places, strict=True)):
            crc = int(entry["footer_crc32c"], 16)
            directory.file(entry["bytes"], crc, process, self.attempt, 1, part, number - process)


def content_hash(raw: bytes) -> bytes:
    try:
        return bytes(importlib.import_module("xxhash").xxh3_128_digest(raw))
    except ImportError:
        return hashlib.blake2b(raw, digest_size=16).digest()


def frame(raw: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=3, write_checksum=False, write_content_size=True).compress(raw)


def planes(raw: bytes, width: int, rotate: bool = False, modes: Sequence[int] = ()) -> bytes:
    values = np.frombuffer(raw, f"<u{width}")
    if rotate:
        values = (values << 1) | (values >> (8 * width - 1))
    split = values.astype(f"<u{width}").view(np.uint8).reshape(-1, width)
    head, body = struct.pack("<BBH", width, rotate, 0), b""
    for k, mode in zip(range(width), modes or [3] * width, strict=True):
        plane = split[:, k].tobytes()
        payload = plane if mode == 0 else b"" if mode == 1 else frame(plane)
        assert mode != 1 or len(set(plane)) == 1
        head += struct.pack("<BBHI", mode, plane[0] if mode == 1 else 0, 0, len(payload))
        body += payload
    return head + body


def delta(raw: bytes, base: bytes, width: int, modes: Sequence[int] = ()) -> bytes:
    signed = (np.frombuffer(raw, f"<u{width}") - np.frombuffer(base, f"<u{width}")).view(f"<i{width}")
    zigzag = (signed << 1) ^ (signed >> (8 * width - 1))
    return planes(zigzag.tobytes(), width, False, modes)


def flatten(tree: Any, path: tuple[tuple[int, Any], ...] = ()) -> Iterator[tuple[tuple[tuple[int, Any], ...], Any]]:
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        children = [((5, name), getattr(tree, name)) for name in tree._fields]
    elif isinstance(tree, dict):
        children = [((1 if isinstance(key, str) else 2, key), value) for key, value in tree.items()]
    elif isinstance(tree, list | tuple):
        children = [((3 if isinstance(tree, list) else 4, i), value) for i, value in enumerate(tree)]
    else:
        children = []
    if not children:
        yield path, tree
    for part, value in children:
        yield from flatten(value, (*path, part))


def two_arrays(array: Any) -> TwoArrays:
    """Of numpy's StringDType, or objects that are bytes."""
    ends, data, is_text = [], b"", array.dtype.kind == "T"
    words = ["strict"] * (is_text and not array.dtype.coerce)
    if hasattr(array.dtype, "na_object"):
        words.append("na=none" if array.dtype.na_object is None else "na=nan")
    for item in array.reshape(-1).tolist():
        is_missing = not isinstance(item, str | bytes)
        data += b"" if is_missing else item.encode() if is_text else item
        ends.append(len(data) | is_missing << 63)
    shaped = np.array(ends, "<u8").reshape(array.shape)
    return TwoArrays(12 if is_text else 13, " ".join(words), shaped, np.frombuffer(data, np.uint8))


def leaves_of(tree: Any) -> Iterator[tuple[tuple[tuple[int, Any], ...], tuple[int, int, int, str, Any]]]:
    """What is stored of a tree, in order."""
    if isinstance(tree, Leaves):
        yield from tree.leaves
        return
    for path, value in flatten(tree):
        if isinstance(value, np.ndarray) and value.dtype.kind in "TO":
            value = two_arrays(value)
        if isinstance(value, TwoArrays):
            yield path, (value.kind, DTYPES["uint64"], 0, value.detail, value.ends)
            yield (*path, (5, "data")), (1, DTYPES["uint8"], 0, "", value.data)
        else:
            yield path, describe(value)


def display(path: Sequence[tuple[int, Any]]) -> str:
    return "/".join(str(key).replace("~", "~0").replace("/", "~1") for _, key in path)


def key_path(path: Sequence[tuple[int, Any]]) -> bytes:
    raw = b""
    for kind, key in path:
        if kind in (1, 5):
            raw += struct.pack("<BI", kind, len(key.encode())) + key.encode()
        else:
            raw += struct.pack("<Bq" if kind == 2 else "<BQ", kind, key)
    return raw


def describe(value: Any) -> tuple[int, int, int, str, Any]:
    """Kind, dtype code, byte order, detail and the little-endian array (None without data) of a leaf."""
    u1 = np.uint8
    if value is None or isinstance(value, dict | list | tuple):
        return (8 if value is None else {dict: 9, list: 10, tuple: 11}[type(value)]), 0, 0, "", None
    if isinstance(value, bool):
        return 5, 1, 0, "", np.array(value)
    if isinstance(value, int):
        return 3, 6, 0, "", np.frombuffer(value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True), u1)
    if isinstance(value, float):
        return 4, 12, 0, "", np.array(value, "<f8")
    if isinstance(value, str | bytes):
        return (
            (6, 6, 0, "", np.frombuffer(value.encode(), u1))
            if isinstance(value, str)
            else (7, 6, 0, "", np.frombuffer(value, u1))
        )
    if isinstance(value, Key):
        return 2, DTYPES[value.data.dtype.name], 0, value.impl, value.data
    dtype = value.dtype
    big = int(dtype.byteorder == ">")
    array = value.byteswap().view(dtype.newbyteorder("<")) if big else value
    if dtype.name in DTYPES:
        return 1, DTYPES[dtype.name], big, "", array
    unit = dtype.str[4:-1] if dtype.kind in "mM" else str(dtype.itemsize)
    return 1, BY_KIND[dtype.kind], big, unit, array


class DataFile:
    """The extents of one file, growing."""

    def __init__(self, process: int, part: int, alignment: int, block: int) -> None:
        self.process, self.part, self.alignment, self.block = process, part, alignment, block
        self.body, self.table, self.extents = bytearray(), bytearray(), 0

    def add(self, raw: bytes, stored: bytes, codec: int, base: tuple[bytes, int, int] = (bytes(16), 0, 0)) -> Extent:
        if len(stored) >= len(raw):  # what does not get smaller is stored raw
            stored, codec, base = raw, 0, (bytes(16), 0, 0)
        assert 1 <= len(stored) <= len(raw) <= 4 << 20, (len(stored), len(raw))
        end = 64 + len(self.body)
        if self.block and end % self.block + len(stored) > self.block:  # it would straddle two blocks
            self.body += bytes(-end % self.alignment)
        digest = content_hash(raw)
        self.table += struct.pack(
            "<QIIIB3x16s16sII", 64 + len(self.body), len(stored), len(raw), crc32c.crc32c(stored), codec, digest, *base
        )
        self.body += stored
        self.extents += 1
        return Extent(self.extents - 1, raw, digest, codec, len(stored))


class Directory:
    """The directory of a data or index file, growing."""

    def __init__(self) -> None:
        self.files, self.leaves, self.shards, self.references = bytearray(), bytearray(), bytearray(), bytearray()
        self.dims: list[int] = []
        self.text = bytearray()

    def file(
        self, size: int, crc: int, process: int, attempt: bytes, origin: int, part: int = 0, shift: int = 0
    ) -> None:
        self.files += struct.pack("<QII16sBxHI", size, crc, process, attempt, origin, part, shift)

    def leaf(
        self,
        path: bytes,
        what: tuple[int, int, int, str],
        shape: Sequence[int],
        shards: list[tuple[Sequence[int], int, list[tuple[int, int, int]]]],
    ) -> None:
        kind, dtype, order, detail = what
        self.leaves += struct.pack(
            "<QIBBBBQQIIQ",
            len(self.text),
            len(path),
            kind,
            dtype,
            order,
            len(shape),
            len(self.dims),
            len(self.shards) // 24,
            len(shards),
            len(detail.encode()),
            len(self.text) + len(path),
        )
        self.text += path + detail.encode()
        self.dims += shape
        for dims, process, references in shards:
            self.shards += struct.pack("<QQII", len(self.dims), len(self.references) // 16, process, 0)
            self.dims += dims
            for reference in references:
                self.references += struct.pack("<IIII", *reference, 0)

    def pack(self) -> bytearray:
        counts = (len(self.files) // 40, len(self.leaves) // 48, len(self.shards) // 24, len(self.references) // 16)
        head = struct.pack("<QQQQQQ16x", *counts, len(self.dims), len(self.text))
        dims = struct.pack(f"<{len(self.dims)}Q", *self.dims)
        return bytearray(head + self.files + self.leaves + self.shards + self.references + dims + self.text)


def assemble(
    kind: int,
    attempt: bytes,
    place: tuple[int, int],
    count: int,
    alignment: int,
    features: int,
    body: bytearray,
    table: bytearray,
    directory: Directory,
    hook: Hook,
    name: str,
) -> bytes:
    """A whole data or index file; `hook` may change each part before its CRC is taken."""
    process, part = place
    header = bytearray(
        struct.pack("<8sIBBHQ16sIII8x", b"\x89OSTRACA", 1, kind, 1, part, features, attempt, process, count, alignment)
    )
    raw, decoded = bytearray(body), directory.pack()
    hook(f"{name}:header", header)
    hook(f"{name}:body", raw)
    hook(f"{name}:table", table)
    hook(f"{name}:directory", decoded)
    header_crc = crc32c.crc32c(bytes(header))
    header += struct.pack("<I", header_crc)
    stored = frame(bytes(decoded))
    raw += bytes(-(64 + len(raw)) % alignment)
    table_at = 64 + len(raw)
    raw += table + stored
    raw += bytes(-(64 + len(raw) + 96) % alignment)
    footer = bytearray(
        struct.pack(
            "<QQQQQII16sQ8x8sI",
            table_at,
            len(table) // 64,
            table_at + len(table),
            len(stored),
            len(decoded),
            crc32c.crc32c(bytes(table)),
            crc32c.crc32c(stored),
            attempt,
            64 + len(raw) + 96,
            b"ACARTSO\x89",
            header_crc,
        )
    )
    hook(f"{name}:footer", footer)
    return bytes(header + raw + footer + struct.pack("<I", crc32c.crc32c(bytes(footer))))


def tag(value: Any) -> Any:
    """Metadata as section 8 writes it."""
    if isinstance(value, dict):
        return {("$" + k if k.startswith("$") else k): tag(v) for k, v in value.items()}
    if isinstance(value, list):
        return [tag(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"}
    if type(value) is int and abs(value) >= 1 << 53:
        return {"$int": str(value)}
    return value


def manifest_bytes(members: dict[str, Any], indent: int | None = 2) -> bytes:
    text = json.dumps(members, indent=indent).rstrip("}").rstrip()
    raw = (text + ',\n"crc32c": "').encode()
    return raw + f'{crc32c.crc32c(raw):08x}"\n}}\n'.encode()


def write(
    directory: Path,
    tree: Any,
    options: dict[str, Options] | None = None,
    *,
    processes: int = 1,
    parts: Sequence[int] | None = None,
    alignment: int = 1,
    block: int = 0,
    base: Written | None = None,
    metadata: Any = None,
    seed: int = 1,
    indent: int | None = 2,
    hook: Hook = lambda stage, part: None,
) -> Written:
    """Writes `tree` (numpy arrays, Keys and Python values in dicts, lists, tuples, namedtuples) as a checkpoint.

    `parts`: how many files each process writes, one where None; an array's chunks go to one after the other. `block`
    pads to `alignment` where an extent would straddle a multiple of it. Stages that `hook` sees: `p<n>:header`,
    `:body`, `:table`, `:directory`, `:footer` (bytearrays, before their CRC), also of `index` and, of parts but the
    first, of `p<n>-<part>`; and `manifest`, a dict.
    """
    attempt = hashlib.blake2b(seed.to_bytes(8, "little"), digest_size=16).digest()
    options = options or {}
    parts = parts or [1] * processes
    places = [(process, part) for process in range(processes) for part in range(parts[process])]
    firsts = [places.index((process, 0)) for process in range(processes)]
    files = [DataFile(process, part, alignment, block) for process, part in places]
    result = Written(directory.name, attempt, places=places)
    used: set[tuple[tuple[int, int], int]] = set()  # extents of the base, and their stored bytes
    described = [(key_path(path), display(path), d[:4], d[4]) for path, d in leaves_of(tree)]
    packs: dict[str, tuple[Extent, dict[str, int]]] = {}
    for pack in sorted({o.pack for o in options.values() if o.pack}):
        offsets, raw = {}, b""
        for _, name, _, array in described:
            if options.get(name, Options()).pack == pack:
                offsets[name] = len(raw)
                raw += array.tobytes()
        packs[pack] = files[0].add(raw, raw, 0), offsets

    def chunk(
        name: str, shard: int, number: int, process: int, raw: bytes, o: Options, item: int
    ) -> tuple[int, int, int]:
        """Writes or finds one chunk; returns its reference, by place in the index's files."""
        if o.pack:
            extent, offsets = packs[o.pack]
            result.chunks[name, shard, number] = 0, extent, offsets[name]
            return 0, extent.number, offsets[name]
        place = firsts[process] + number % parts[process]
        if o.codec in ("delta", "base"):
            assert base is not None
            at_base, old, at = base.chunks[name, shard, number]
            used.add(((at_base, old.number), old.stored))
            if o.codec == "base":
                return len(files) + at_base, old.number, at
            stored = delta(raw, old.decoded, o.width or item, o.modes)
            extent = files[place].add(raw, stored, 3, (old.digest, at_base, old.number))
        elif o.codec == "planes":
            extent = files[place].add(raw, planes(raw, o.width or item, o.rotate, o.modes), 2)
        else:
            extent = files[place].add(raw, frame(raw) if o.codec == "zstd" else raw, o.codec == "zstd")
        result.chunks[name, shard, number] = place, extent, 0
        return place, extent.number, 0

    def local(process: int, file: int) -> int:
        """A file's number in the directory of its process's last."""
        own_file = max(0, file - firsts[process])  # those of another process are tied to packs, which are in 0
        return own_file if file < len(files) else parts[process] + file - len(files)

    written: dict[str, list[tuple[Sequence[int], int, list[tuple[int, int, int]]]]] = {}
    index, own = Directory(), [Directory() for _ in range(processes)]
    logical, first, indexed = 0, {}, []  # the index's leaves are in the order of processes
    for path, name, what, array in described:
        o = options.get(name, Options())
        shards: list[tuple[Sequence[int], int, list[tuple[int, int, int]]]] = []
        shape = () if array is None else array.shape
        boxes = o.boxes or [((0,) * len(shape), shape, 0)]
        if array is None or array.nbytes == 0:
            boxes = []
        logical += 0 if array is None else array.nbytes
        for number, (offset, size, process) in enumerate(boxes):
            cut = o.chunk or tuple(max(1, s) for s in size)
            corners = itertools.product(*(range(0, s, c) for s, c in zip(size, cut, strict=True)))
            references = []
            for i, corner in enumerate(corners):
                box = tuple(
                    slice(f + a, f + min(a + c, s)) for f, a, c, s in zip(offset, corner, cut, size, strict=True)
                )
                references.append(
                    chunk(name, number, i, process, array[box].tobytes(), o, array.dtype.itemsize)
                    if not o.tie
                    else written[o.tie][number][2][i]
                )
            shards.append(((*offset, *size, *cut), process, references))
        written[name] = shards
        for process, part in enumerate(own):  # whose files are itself and those of the base
            mine = [(d, p, [(local(p, f), e, a) for f, e, a in r]) for d, p, r in shards if p == process]
            if mine or (process == 0 and not shards):
                part.leaf(path, what, shape, mine)
        first[name] = min((p for _, p, _ in shards), default=0)
        indexed.append((path, name, what, shape, shards))
    for path, _, what, shape, shards in sorted(indexed, key=lambda leaf: first[leaf[1]]):
        index.leaf(path, what, shape, shards)

    directory.mkdir(parents=True)
    features, has_parts = int(base is not None), len(files) > processes

    def put(
        name: str, stage: str, kind: int, place: tuple[int, int], body: bytearray, table: bytearray, contents: Directory
    ) -> dict[str, Any]:
        align = alignment if kind == 1 else 1
        bits = features | 2 * (place[1] > 0 if kind == 1 else has_parts)
        raw = assemble(kind, attempt, place, processes, align, bits, body, table, contents, hook, stage)
        (directory / name).write_bytes(raw)
        return {"file": name, "bytes": len(raw), "footer_crc32c": raw[-4:][::-1].hex()}

    for data in files:
        process, number = data.process, data.part
        is_last = number == parts[process] - 1
        contents = own[process] if is_last else Directory()
        contents.file(0, 0, process, attempt, 0, number)
        if base is not None and is_last:
            base.list_files(contents)
        name = f"p{process:05d}-{f'{number:05d}-' if number else ''}{attempt.hex()}.ostraca"
        stage = f"p{process}-{number}" if number else f"p{process}"
        entry = put(name, stage, 1, (process, number), data.body, data.table, contents)
        result.files.append(entry)
        for each in [index] if is_last else [index, own[process]]:
            each.file(entry["bytes"], int(entry["footer_crc32c"], 16), process, attempt, 0, number)
    if base is not None:
        base.list_files(index)
    top = put(f"index-{attempt.hex()}.ostraca", "index", 2, (0, 0), bytearray(), bytearray(), index)
    members: dict[str, Any] = {
        "format": "ostraca",
        "version": 1,
        "features": f"{features | 2 * has_parts:016x}",
        "id": attempt.hex(),
        "step": 7,
        "created": "2026-11-20T12:00:00Z",
        "writer": "format_writer",
        "process_count": processes,
        "logical_bytes": logical,
        "stored_bytes": top["bytes"] + sum(f["bytes"] for f in result.files),
        "referenced_bytes": sum(stored for _, stored in used),
        "arrays": sum(1 for d in described if d[-1] is not None),
        "chunks": sum(f.extents for f in files),
        "seconds": 0.5,
        "stall_seconds": 0.0,
        "base": {"directory": base.name, "id": base.attempt.hex()} if base else None,
        "metadata": tag(metadata),
        "index": top,
        "files": result.files,
    }
    hook("manifest", members)
    (directory / "manifest.json").write_bytes(manifest_bytes(members, indent))
    return result
