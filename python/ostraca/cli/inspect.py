"""`ostraca inspect`: what a checkpoint holds."""

import argparse
import json
import math
from collections.abc import Sequence
from typing import Any, Final

from .. import _core
from ..lowlevel import ArrayInfo, ChunkInfo, Reader
from . import ancestry, text

NAME: Final = "inspect"
SUMMARY: Final = "show what a checkpoint holds"
DESCRIPTION: Final = """\
Shows a checkpoint's manifest, and its arrays: dtype, shape, sizes, and how
their chunks are coded. Reads the manifest and the index, no data."""
EPILOG: Final = """\
ratio:   stored by logical bytes
codecs:  raw, zstd, planes (byte planes, each coded on its own), delta (the
         difference to the base's chunk, in planes), reference (the base's
         chunk, as it is), with the share of the array's bytes that each took
chunks:  "pack" is a chunk that small arrays share
lineage: written are the bytes of this checkpoint's own files, referenced those
         of its base that it uses, shared those of these that are used as they
         are; a restore reads its own chunks and what is referenced

examples:
  ostraca inspect run/1000
  ostraca inspect run/1000 'params/*/kernel'       # "*" matches "/" too
  ostraca inspect run/1000 params/embedding --chunks
  ostraca inspect --json run/1000 | jq .manifest.metadata"""

Leaf = dict[str, Any]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=text.path, metavar="PATH", help="a checkpoint")
    parser.add_argument("glob", metavar="NAME-GLOB", nargs="?", help="only leaves whose names match")
    parser.add_argument("--chunks", action="store_true", help="show every chunk, too")


def run(arguments: argparse.Namespace) -> int:
    with Reader(arguments.path, threads=1) as reader:
        stored = reader.leaves()
        (chosen,) = text.chosen([stored], arguments.glob)
        if arguments.glob is not None and not chosen:
            raise ValueError(f"no name in {arguments.path} matches {arguments.glob!r}")
        leaves = [_leaf(reader, info, arguments.chunks) for info in chosen]
        relations = ancestry.of(reader)
    manifest = _manifest(arguments.path)
    if arguments.json:
        text.show_json({"path": arguments.path, "manifest": manifest, "lineage": relations, "leaves": leaves})
        return 0
    _show_manifest(arguments.path, manifest)
    ancestry.show(relations)
    text.show()
    _show_leaves(chosen, leaves)
    if len(chosen) < len(stored):
        text.show(f"{len(chosen):,} of {text.counted(len(stored), 'leaf', 'leaves')}")
    if arguments.chunks:
        text.show()
        _show_chunks(leaves)
    return 0


def _manifest(path: str) -> dict[str, Any]:
    """As it is stored; the engine has verified it."""
    reader = _core.Reader(path, threads=1)
    try:
        members: dict[str, Any] = json.loads(reader.manifest)
        return members
    finally:
        reader.close()


def _leaf(reader: Reader, info: ArrayInfo, with_chunks: bool) -> Leaf:
    found = [ancestry.chunks_of(reader, part.name) for part in info.parts]
    is_known = None not in found
    stored = sum(reader.stored_bytes(part.name) for part in info.parts) if is_known else None
    chunks: list[ChunkInfo] = []
    shares: dict[str, int] = {}
    is_packed = False
    for part, of_part in zip(info.parts, found, strict=True):
        item_bytes = part.nbytes // math.prod(part.shape) if part.nbytes else 0
        for chunk in of_part or [] if is_known else []:
            chunks.append(chunk)
            codec, nbytes = ancestry.codec(chunk), math.prod(chunk.shape) * item_bytes
            shares[codec] = shares.get(codec, 0) + nbytes
            is_packed = is_packed or nbytes < chunk.decoded_bytes
    leaf = text.described(info) | {
        "logical_bytes": info.nbytes,
        "stored_bytes": stored,
        "ratio": None if stored is None else text.ratio(stored, info.nbytes),
        "codecs": {name: round(share / info.nbytes, 6) for name, share in sorted(shares.items())},
        "chunks": len(chunks) if is_known else None,
        "packed": is_packed,
    }
    if with_chunks:
        leaf["chunk_list"] = [_chunk(chunk) for chunk in chunks]
    return leaf


def _chunk(chunk: ChunkInfo) -> dict[str, Any]:
    return {
        "origin": list(chunk.origin),
        "shape": list(chunk.shape),
        "codec": ancestry.codec(chunk),
        "in_base": chunk.in_base,
        "file": chunk.file,
        "offset": chunk.offset,
        "stored_bytes": chunk.stored_bytes,
        "decoded_bytes": chunk.decoded_bytes,
        "offset_in_extent": chunk.offset_in_extent,
        "base_stored_bytes": chunk.base_stored_bytes,
        "content_hash": chunk.content_hash,
    }


def _show_manifest(path: str, manifest: dict[str, Any]) -> None:
    logical, stored = manifest["logical_bytes"], manifest["stored_bytes"]
    seconds, stall = manifest["seconds"], manifest["stall_seconds"]
    files = [manifest["index"], *manifest["files"]]
    sizes = f"{text.size(logical)} logical, {text.size(stored)} stored"
    rows = [
        ("checkpoint", path),
        ("id", manifest["id"]),
        ("step", "-" if manifest["step"] is None else str(manifest["step"])),
        ("created", f"{manifest['created']} by {manifest['writer']}"),
        ("format", f"version {manifest['version']}, features {manifest['features']}"),
        ("size", f"{sizes}, ratio {text.ratio_text(text.ratio(stored, logical))}"),
        ("holds", f"{text.counted(manifest['arrays'], 'array')} in {text.counted(manifest['chunks'], 'chunk')}"),
        ("save took", f"{seconds:.3f} s" + (f"; its caller waited {stall:.3f} s" if stall < seconds else "")),
        *(("file", f"{file['file']}  {text.size(file['bytes'])}") for file in files),
    ]
    text.show([f"{label:<11} {text.escaped(value)}" for label, value in rows])
    if manifest["metadata"] is not None:
        _show_metadata(manifest["metadata"])


def _show_metadata(metadata: Any) -> None:
    """JSON as stored: on one line when it is short."""
    line = json.dumps(metadata, ensure_ascii=False)
    if len(line) <= 100 or not isinstance(metadata, dict | list):
        text.show(f"{'metadata':<11} {text.escaped(line)}")
        return
    lines = json.dumps(metadata, ensure_ascii=False, indent=2).split("\n")
    text.show(["metadata", *(f"  {text.escaped(line)}" for line in lines)])


def _show_leaves(infos: Sequence[ArrayInfo], leaves: Sequence[Leaf]) -> None:
    rows = [
        (
            info.name,
            text.dtype_text(info),
            text.shape_text(info),
            text.size(info.nbytes),
            text.size(leaf["stored_bytes"]),
            text.ratio_text(leaf["ratio"]),
            _codecs_text(leaf["codecs"]),
            "pack" if leaf["packed"] else text.number(leaf["chunks"]),
        )
        for info, leaf in zip(infos, leaves, strict=True)
    ]
    headings = ("name", "dtype", "shape", "logical", "stored", "ratio", "codecs", "chunks")
    text.show(text.table(headings, "<<<>>><>", rows))


def _codecs_text(shares: dict[str, float]) -> str:
    if len(shares) < 2:
        return "".join(shares) or "-"
    return ", ".join(f"{name} {share:.0%}" for name, share in sorted(shares.items(), key=lambda item: -item[1]))


def _show_chunks(leaves: Sequence[Leaf]) -> None:
    rows = [
        (
            leaf["name"],
            _box_text(chunk),
            chunk["codec"],
            text.number(chunk["decoded_bytes"]),
            text.number(chunk["stored_bytes"]),
            f"{'base ' if chunk['in_base'] else ''}{chunk['file'].split('-')[0]}",
            text.number(chunk["offset"]),
            chunk["content_hash"],
        )
        for leaf in leaves
        for chunk in leaf["chunk_list"]
    ]
    headings = ("chunk of", "box", "codec", "decoded bytes", "stored bytes", "file", "at", "content hash")
    text.show(text.table(headings, "<<<>><><", rows))


def _box_text(chunk: dict[str, Any]) -> str:
    ranges = (f"{start}:{start + count}" for start, count in zip(chunk["origin"], chunk["shape"], strict=True))
    return f"[{', '.join(ranges)}]"
