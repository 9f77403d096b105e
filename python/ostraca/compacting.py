"""`compact`: makes a checkpoint that has a base self-contained.

Every leaf is read from the open checkpoint and written into a save that overwrites it, so that after a crash either the
old or the new one is there. What is alive of the leaves at any time is bounded: small arrays are packed by the writer
only when all are known, so they count until their data file ends, and a file takes no more of them than HELD_BYTES;
larger ones are cut into pieces, and the reader waits until the writer has let go of earlier ones.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from . import _core, dtypes, lineage, metadata, noting, options
from .errors import CommitUncertainError, ExistsError
from .lowlevel import ArrayInfo, Reader, allocate
from .options import StrPath
from .reports import Manifest
from .sharded.boxes import boxes
from .sharded.budget import Budget
from .tree import encode_path
from .upkeep_reports import CompactReport

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ._core import LeafSpec

ALIVE_BYTES: Final = 256 << 20  # of leaf data in memory
HELD_BYTES: Final = 96 << 20  # of these, of small arrays in one data file
PIECE_BYTES: Final = 64 << 20  # that are read at a time; larger leaves become several shards
# The writer starts a batch when the next one begins, so it may hold on to the memory that two batches touch.
_BATCHES_BYTES: Final = 2 * _core.BLOCK_BYTES
assert HELD_BYTES + _BATCHES_BYTES + 2 * PIECE_BYTES <= ALIVE_BYTES  # else it might wait for itself


def compact(path: StrPath, *, dry_run: bool = False) -> CompactReport:
    """Makes a checkpoint that has a base self-contained, in place: afterwards it needs no other.

    It is read and written again, as a save that overwrites it: with the same leaves, step, metadata and time
    of creation, and a new id.
    At most 256 MiB of its arrays are in memory at a time. When it is killed the checkpoint is as it was, or done. A
    checkpoint without a base stays as it is. dry_run: change nothing, report what would be done.

    Raises what loading and saving raise: `NotFoundError`, `CorruptionError` (also of the base), OSError; `ExistsError`
    when somebody else overwrote the checkpoint meanwhile.
    """
    where = options.checked_path(path)
    started = time.monotonic()
    with Reader(where) as reader:
        manifest = reader.manifest()
        before = manifest.info.stored_bytes
        base = lineage.base_state(where, manifest.base)
        if base is None:
            return CompactReport(where, bool(dry_run), None, before, before, 0, [], time.monotonic() - started)
        own = os.path.basename(_core.real_path(where))  # noqa: PTH119
        others = [name for name in lineage.deltas_of(where, base.id) if name != own]
        after = _most_bytes(reader, manifest) if dry_run else _rewrite(reader, manifest, where).info.stored_bytes
    base_bytes = base.manifest.info.stored_bytes if base.manifest else 0
    return CompactReport(
        where, bool(dry_run), base.directory, before, after, base_bytes, others, time.monotonic() - started
    )


def _most_bytes(reader: Reader, manifest: Manifest) -> int:
    """More than a rewrite would write: every chunk raw, and the directory, which is in file and index, uncompressed."""
    per_chunk, per_leaf, alignment = 64 + 2 * 40, 2 * (48 + 24 + 32), 2 * _core.ALIGNMENT_MAX
    infos = reader.arrays()
    chunks = sum(2 + info.nbytes // (2 << 20) for info in infos)
    text = sum(2 * (len(encode_path(info.path)) + len(info.detail) + 32 * len(info.shape)) for info in infos)
    return manifest.info.logical_bytes + chunks * per_chunk + len(infos) * per_leaf + text + alignment


class _Piece(NamedTuple):
    """A box of a leaf, to be read; without data it is the leaf itself."""

    info: ArrayInfo
    start: tuple[int, ...]
    shape: tuple[int, ...]
    nbytes: int
    chunk_shape: tuple[int, ...] | None

    @property
    def is_small(self) -> bool:
        return self.info.nbytes <= _core.PACK_MEMBER_BYTES_MAX


def _rewrite(reader: Reader, manifest: Manifest, where: str) -> Manifest:
    parts = _parts(reader.arrays())
    writers: list[_core.Writer] = []
    attempt = os.urandom(16).hex()
    try:
        reports = []
        for i, part in enumerate(parts):
            writer = _core.Writer(where, process_index=i, process_count=len(parts), attempt=attempt, overwrite=True)
            writers.append(writer)
            _copy(reader, part, writer)
            reports.append(writer.finish())
        carried = _carry_notes(where, manifest.id, attempt)
        text = _core.commit(
            where,
            reports,
            step=manifest.info.step,
            metadata=metadata.encode(manifest.metadata),
            overwrite=True,
            seconds=manifest.info.seconds,
            stall_seconds=manifest.info.stall_seconds,
            replaces=manifest.id,
            parent=manifest.parent,
            created_ns=manifest.created_ns,
        )
    except CommitUncertainError:
        raise
    except BaseException:
        for writer in reversed(writers):
            writer.abort()
        raise
    _carry_late_notes(where, manifest.id, *carried)
    return Manifest.parse(where, text)


def _carry_notes(where: str, replaced: str, attempt: str) -> tuple[int, str]:
    """Notes about the checkpoint that is replaced, for the one that takes its place: the former's number and facts."""
    while True:
        _, facts, number, last, _ = _core.notes_at(where, replaced)
        if not number:
            return number, facts
        try:
            _core.write_notes_at(where, attempt, last, facts, ahead=True)
            return number, facts
        except ExistsError:
            continue


def _carry_late_notes(where: str, replaced: str, number: int, carried: str) -> None:
    """What somebody noted about the replaced checkpoint between that and the commit."""
    _, text, newest, _, _ = _core.notes_at(where, replaced)
    if newest > number:
        before, late = noting.decoded(carried), noting.decoded(text)
        changes = dict.fromkeys(before) | late  # None removes what is not there any more
        noting.changed(where, lambda noted: noted | {k: v for k, v in changes.items() if v != before.get(k)})


def _parts(infos: list[ArrayInfo]) -> list[list[ArrayInfo]]:
    """The leaves in order, in runs of at most HELD_BYTES of small arrays; each becomes a data file."""
    parts: list[list[ArrayInfo]] = [[]]
    held = 0
    for info in infos:
        small = info.nbytes if info.nbytes <= _core.PACK_MEMBER_BYTES_MAX else 0
        if held + small > HELD_BYTES:
            parts.append([])
            held = 0
        held += small
        parts[-1].append(info)
    return parts


def _chunk_shape(reader: Reader, info: ArrayInfo) -> tuple[int, ...] | None:
    """As the leaf is cut now. None: it is to be packed, or its shards are cut in ways that have none in common."""
    chunks = reader.chunks(info.name)
    if info.nbytes <= _core.PACK_MEMBER_BYTES_MAX and len(chunks) <= 1:
        return None
    largest = tuple(map(max, zip(*(chunk.shape for chunk in chunks), strict=True)))
    return largest if _item_bytes(info) * math.prod(largest) <= _core.CHUNK_BYTES_MAX else None


def _item_bytes(info: ArrayInfo) -> int:
    return dtypes.item_bytes(info.dtype_code, info.detail)


def _pieces(reader: Reader, infos: list[ArrayInfo]) -> Iterator[_Piece]:
    for info in infos:
        chunk = _chunk_shape(reader, info)
        if info.nbytes <= PIECE_BYTES:
            yield _Piece(info, (0,) * len(info.shape), info.shape, info.nbytes, chunk)
            continue
        item_bytes = _item_bytes(info)
        for start, shape in boxes(info.shape, item_bytes, PIECE_BYTES, chunk):
            yield _Piece(info, start, shape, item_bytes * math.prod(shape), chunk)


def _groups(pieces: Iterator[_Piece]) -> Iterator[list[_Piece]]:
    """What is read in one call."""
    group: list[_Piece] = []
    total = 0
    for piece in pieces:
        if total + piece.nbytes > PIECE_BYTES and group:
            yield group
            group, total = [], 0
        group.append(piece)
        total += piece.nbytes
    if group:
        yield group


def _copy(reader: Reader, infos: list[ArrayInfo], writer: _core.Writer) -> None:
    budget = Budget(ALIVE_BYTES - HELD_BYTES)
    for group in _groups(_pieces(reader, infos)):
        budget.take(sum(piece.nbytes for piece in group if not piece.is_small), writer)
        arrays = [_memory(piece) for piece in group]
        reader.fill(
            [(p.info.number, p.start, a) for p, a in zip(group, arrays, strict=True) if a is not None and p.nbytes]
        )
        small: list[LeafSpec] = []
        while group:  # in their order, and without keeping what the writer lets go of
            piece, spec = group[0], _spec(group.pop(0), arrays.pop(0))
            if piece.is_small:
                small.append(spec)
                continue
            writer.add(small)
            small = []
            writer.add([spec], partial(budget.give, piece.nbytes))
            del spec
        writer.add(small)


def _memory(piece: _Piece) -> NDArray[Any] | None:
    if not piece.info.has_data:
        return None
    info = piece.info
    # Plain bytes stand for what has no order to keep: they need no ml_dtypes.
    item_bytes = _item_bytes(info)
    dtype = info.dtype if info.big_endian else np.dtype((np.void, item_bytes))
    return allocate(piece.shape, dtype, piece.nbytes)


def _spec(piece: _Piece, memory: NDArray[Any] | None) -> LeafSpec:
    info = piece.info
    description = (int(info.kind), info.dtype_code, info.detail, info.big_endian, True)
    path = encode_path(info.path)
    if piece.shape == info.shape:
        return path, description, memory, None, None, piece.chunk_shape
    return path, description, memory, info.shape, piece.start, piece.chunk_shape
