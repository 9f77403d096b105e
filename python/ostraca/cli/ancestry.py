"""A checkpoint's lineage for `ostraca inspect`: its base, its deltas, and what of it is its own."""

import math
from typing import Any, Final

from .. import _core, lineage
from ..errors import CorruptionError
from ..lowlevel import ChunkInfo, Reader
from ..printing import some
from . import text

_REFERENCE: Final = "reference"
_KINDS: Final = (_REFERENCE, "delta", "full")
_SHOWN_NAMES: Final = 10


def codec(chunk: ChunkInfo) -> str:
    """How a chunk is coded, or that it is the base's."""
    return _REFERENCE if chunk.in_base else _core.CODEC_NAMES[chunk.codec]


def chunks_of(reader: Reader, name: str) -> list[ChunkInfo] | None:
    """A leaf's chunks; None when files of the base that it needs are missing or damaged."""
    try:
        return reader.chunks(name)
    except CorruptionError:
        if reader.manifest().base is None:
            raise
        return None


def of(reader: Reader) -> dict[str, Any]:
    """What inspect's JSON has as lineage. Sizes are stored bytes unless said otherwise; each extent counts once.

    written: of this checkpoint's files. referenced: of the base's extents that are used; shared: of these, as they are.
    restore: what reading all arrays takes, without tables and directories; ratio: to the keyframe's stored bytes. What
    cannot be known without a base that is missing or damaged is None.
    """
    manifest = reader.manifest()
    base = lineage.base_state(reader.path, manifest.base)
    kinds = _kinds(reader)
    referenced = manifest.info.referenced_bytes
    keyframe = manifest if base is None else base.manifest
    keyframe_bytes = None if keyframe is None else keyframe.info.stored_bytes
    restore = None if kinds is None else kinds["delta"]["stored_bytes"] + kinds["full"]["stored_bytes"] + referenced
    return {
        "kind": "keyframe" if base is None else "delta",
        "base": base and {"directory": base.directory, "id": base.id, "path": base.path, "status": base.status},
        "base_of": lineage.deltas_of(reader.path, manifest.id),
        "keyframe_stored_bytes": keyframe_bytes,
        "written_bytes": manifest.info.stored_bytes,
        "referenced_bytes": referenced,
        "shared_bytes": None if kinds is None else kinds[_REFERENCE]["stored_bytes"],
        "restore_bytes": restore,
        "restore_ratio": text.ratio(restore, keyframe_bytes) if keyframe_bytes and restore is not None else None,
        "chunks": kinds,
    }


def _kinds(reader: Reader) -> dict[str, dict[str, int]] | None:
    """By kind: chunks of arrays and their decoded bytes; stored bytes of extents, each once."""
    kinds = {kind: {"chunks": 0, "logical_bytes": 0, "stored_bytes": 0, "base_stored_bytes": 0} for kind in _KINDS}
    seen: set[tuple[str, int]] = set()
    for info in reader.arrays():
        if not info.nbytes:
            continue
        item_bytes = info.nbytes // math.prod(info.shape)
        chunks = chunks_of(reader, info.name)
        if chunks is None:
            return None
        for chunk in chunks:
            name = codec(chunk)
            counts = kinds[name if name in _KINDS else "full"]
            counts["chunks"] += 1
            counts["logical_bytes"] += math.prod(chunk.shape) * item_bytes
            if (chunk.file, chunk.offset) not in seen:  # names carry the attempt's id
                seen.add((chunk.file, chunk.offset))
                counts["stored_bytes"] += chunk.stored_bytes
                counts["base_stored_bytes"] += chunk.base_stored_bytes
    return kinds


def show(relations: dict[str, Any]) -> None:
    base, deltas = relations["base"], relations["base_of"]
    rows = [("lineage", "keyframe" if base is None else f"delta of {base['directory']} ({base['id']})")]
    if base is not None:
        if base["status"] != lineage.COMMITTED:
            rows.append(("", f"its base is {base['status'].upper()}{_REMARKS[base['status']]}"))
        rows.append(("", f"{text.size(relations['written_bytes'])} written"))
        shared = text.size(relations["shared_bytes"])
        rows.append(("", f"{text.size(relations['referenced_bytes'])} of the base referenced, {shared} of it shared"))
        ratio = relations["restore_ratio"]
        times = "" if ratio is None else f", {ratio:.3f} times the keyframe's stored bytes"
        rows.append(("", f"{text.size(relations['restore_bytes'])} read by a restore{times}"))
    if deltas:
        rows.append(("base of", f"{len(deltas):,}: {some(deltas, most=_SHOWN_NAMES)}"))
    text.show([f"{label:<11} {text.escaped(value)}" for label, value in rows])
    if base is None or relations["chunks"] is None:
        return
    cells = [
        (kind, text.number(c["chunks"]), text.size(c["logical_bytes"]), text.size(c["stored_bytes"]), _also(c))
        for kind, c in relations["chunks"].items()
    ]
    headings = ("chunks", "", "logical", "stored", "and of the base")
    text.show(text.table(headings, "<>>>>", cells, " " * 12))


_REMARKS: Final = {
    lineage.REMOVED: ", by prune; its bytes stay as long as this checkpoint does",
    lineage.MISSING: ": arrays that need it cannot be loaded; bring it back beside this checkpoint",
    lineage.UNREADABLE: "",
}


def _also(counts: dict[str, int]) -> str:
    return text.size(counts["base_stored_bytes"]) if counts["base_stored_bytes"] else "-"
