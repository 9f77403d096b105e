"""A tree to what this process stores of it, and to what must be alike in all processes."""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from .. import _core, dtypes, leaves, strings
from ..errors import UnsupportedError
from ..saving import Content
from ..sharded.boxes import Box
from ..sharded.likeness import LeafFact, of_process
from ..tree import Flattener, Kind, quoted
from .nodes import REGISTERED
from .shards import Shares, box_of, chunk_shape
from .staging import Feed, Staged, is_staged, on_host, start_copy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .._core import Dims, LeafSpec


class Collector:
    """One save, in one of its processes."""

    def __init__(self, process_index: int = 0, process_count: int = 1) -> None:
        self.facts: list[LeafFact] = []  # of several processes; but for the leaves that each has its own of
        self._index, self._count = process_index, process_count
        self._shares = Shares(process_count)
        self._items: list[LeafSpec | Staged] = []
        self._specs: list[LeafSpec] = []
        self._feed: Feed | None = None
        self._local: dict[str, bytes] = {}  # arrays that are process 0's to store, unless this one alone has them
        self._cut_rank: int | None = None

    def collect(self, tree: Any, *, cut_rank: int | None = None, pinned: bool = False) -> Content:
        """Raises `UnsupportedError`, naming the leaf, for what cannot be stored.

        cut_rank: of arrays that the caller says how to cut. pinned: copy by way of JAX's pinned host memory.
        """
        self._cut_rank = cut_rank
        walk = Flattener(REGISTERED, self._index)
        found = walk.flatten(tree)
        own = tuple(walk.per_process)
        for path, name, leaf in found:
            try:
                add = self._add_array if leaves.is_jax(leaf) else self._add_other
                add(path, name, leaf, bool(own) and path.startswith(own))
            except UnsupportedError as error:
                raise UnsupportedError(f"cannot store {quoted(name)}: {error}") from None
        self._specs = [item for item in self._items if not isinstance(item, Staged)]
        if len(self._specs) < len(self._items):
            self._feed = Feed(self._items, pinned)
        return Content(self._specs, self._feed)

    def keep(self, own: Container[str]) -> None:
        """Before anything is added: what else is local is stored from process 0."""
        others = {path for name, path in self._local.items() if name not in own}
        if others:
            self._specs[:] = [spec for spec in self._specs if spec[0] not in others]
            if self._feed is not None:
                self._feed.leave_out(others)

    def _add_other(self, path: bytes, name: str, leaf: Any, is_own: bool) -> None:
        """Not an array of JAX's: process 0 stores it."""
        piece = leaves.piece(leaf)
        if self._count > 1 and not is_own:
            arrays = [array for array in (piece.memory, piece.data) if array is not None]
            self._shares.bytes[0] += sum(array.nbytes for array in arrays)
            shape = arrays[0].shape if arrays else ()
            self.facts.append(LeafFact(name, _described(piece, shape), "".join(map(_digest, arrays))))
            if self._index > 0:
                return
        self._items += piece.specs(path)

    def _add_array(self, path: bytes, name: str, array: jax.Array, is_own: bool) -> None:
        leaves.check_jax(array)
        if leaves.is_prng_key(array.dtype):
            impl = str(jax.random.key_impl(array))
            array = jax.random.key_data(array)
            piece = leaves.described(np.dtype(array.dtype), Kind.PRNG_KEY, impl)
        else:
            piece = leaves.described(np.dtype(array.dtype))
        if not array.is_fully_addressable:
            if is_own:
                raise UnsupportedError("PerProcess is for what a process has of its own; others hold parts of this")
            add = self._add_elsewhere if len(_processes(array)) == 1 else self._add_global
            add(path, name, array, piece)
            return
        held = _held(array)
        if self._count > 1 and not is_own:
            digest = "".join(_digest(on_host(start_copy(data))) for _, data in sorted(held.items(), key=_box))
            self.facts.append(LeafFact(name, _described(piece, array.shape), digest))
            if self._index > 0:
                self._local[name] = path  # which says nothing to `_shares`: not all processes know yet whose it is
        for box, data in held.items():
            self._add_part(path, name, piece, array.shape, data, box, box, None)

    def _add_global(self, path: bytes, name: str, array: jax.Array, piece: leaves.Piece) -> None:
        shape, item_bytes = array.shape, np.dtype(array.dtype).itemsize
        self.facts.append(LeafFact(name, f"a global {_described(piece, shape)}"))
        held = _held(array)
        processes = len(_processes(array))
        is_here = False
        for share in self._shares.of(array.sharding, shape, item_bytes):
            if share.process == self._index:
                is_here = True
                chunks = None
                if processes > 1 and len(shape) != self._cut_rank and 0 not in share.part[1]:
                    chunks = chunk_shape(share.part[1], shape, item_bytes, processes)
                self._add_part(path, name, piece, shape, held[share.box], share.box, share.part, chunks)
        if not is_here:
            self._add_name(path, array, piece)

    def _add_elsewhere(self, path: bytes, name: str, array: jax.Array, piece: leaves.Piece) -> None:
        """On devices of one other process, which stores it."""
        (process,) = _processes(array)
        self.facts.append(LeafFact(name, of_process(_described(piece, array.shape), process)))
        self._add_name(path, array, piece)

    def _add_name(self, path: bytes, array: jax.Array, piece: leaves.Piece) -> None:
        """Process 0 names all leaves, so that they stay in their order."""
        if self._index == 0 and array.shape:
            nothing = np.empty((0,) * array.ndim, np.dtype(array.dtype))
            self._items.append((path, piece.description, nothing, array.shape, None, None))

    def _add_part(
        self,
        path: bytes,
        name: str,
        piece: leaves.Piece,
        shape: Dims,
        data: jax.Array,
        box: Box,
        part: Box,
        chunks: Dims | None,
    ) -> None:
        within = None
        if part != box:
            starts = [a - b for a, b in zip(part[0], box[0], strict=True)]
            within = tuple(slice(start, start + size) for start, size in zip(starts, part[1], strict=True))
        staged = Staged(path, name, piece.description, data, within, None, None, chunks)
        if part[1] != shape:
            staged = staged._replace(global_shape=shape, offset=part[0])
        self._items.append(staged if is_staged(data) else staged.spec(np.asarray(data)))


def _processes(array: jax.Array) -> set[int]:
    return {device.process_index for device in array.sharding.device_set}


def _held(array: jax.Array) -> dict[Box, jax.Array]:
    """The distinct boxes that this process holds of an array, each on one device."""
    if len(array.sharding.device_set) == 1:
        return {((0,) * array.ndim, array.shape): array}
    return {box_of(shard.index, array.shape): shard.data for shard in reversed(array.addressable_shards)}


def _box(held: tuple[Box, jax.Array]) -> Box:
    return held[0]


def _digest(memory: NDArray[Any]) -> str:
    return _core.content_hash(np.ascontiguousarray(memory)).hex()


def _described(piece: leaves.Piece, shape: Dims) -> str:
    if piece.kind.is_value:
        return piece.kind.name.lower()
    if piece.kind.is_strings:
        what = strings.describe(piece.kind, piece.detail)
    else:
        is_key = piece.kind is Kind.PRNG_KEY
        what = f"{piece.detail} key data" if is_key else dtypes.describe(piece.dtype_code, piece.detail)
    return f"{what}{list(shape)}"
