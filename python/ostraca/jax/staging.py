"""Arrays on accelerators on their way through host memory: copies started ahead, as far as a budget goes.

A copy is made through an alias of the array, which dies with it: JAX keeps what it copied to the host for as long as
the array that was asked for it, and the training's arrays are to keep nothing.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Container, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import jax
import numpy as np

from .. import _core
from ..errors import UnsupportedError
from ..jobs import Step
from ..sharded.budget import Budget
from ..tree import quoted

if TYPE_CHECKING:
    from .._core import Description, Dims, LeafSpec

PACKED_BYTES: Final = _core.PACK_MEMBER_BYTES_MAX  # up to here the engine packs arrays: it keeps them until it has all


def is_staged(array: jax.Array) -> bool:
    """Whether the memory of an array on one device is out of the engine's reach."""
    return any(device.platform != "cpu" for device in array.devices())


class Staged(NamedTuple):
    """A part of a leaf on a device."""

    path: bytes
    name: str  # for messages
    description: Description
    data: jax.Array
    within: tuple[slice, ...] | None  # what of the data is meant; sliced on the host, where nothing is compiled for it
    global_shape: Dims | None
    offset: Dims | None
    chunk_shape: Dims | None

    @property
    def nbytes(self) -> int:
        """Of host memory that it takes for as long as the writer reads it."""
        nbytes: int = math.prod(self.data.shape) * np.dtype(self.data.dtype).itemsize
        return nbytes

    def spec(self, memory: np.ndarray[Any, Any]) -> LeafSpec:
        part = memory if self.within is None else memory[self.within]
        return self.path, self.description, part, self.global_shape, self.offset, self.chunk_shape


class Feed:
    """Adds leaves to a writer in their order, those on devices when there is room for them."""

    def __init__(self, leaves: Sequence[LeafSpec | Staged], pinned: bool) -> None:
        self.nbytes = _staged_bytes(leaves)
        self._leaves: deque[LeafSpec | Staged] = deque(leaves)
        self._pinned = pinned

    def leave_out(self, paths: Container[bytes]) -> None:
        """Before it is called."""
        self._leaves = deque(leaf for leaf in self._leaves if leaf[0] not in paths)
        self.nbytes = _staged_bytes(self._leaves)

    def __call__(self, writer: _core.Writer, step: Step, *, limit: int) -> None:
        """Raises `UnsupportedError`, naming the leaf, where one was donated before its copy was started."""
        budget = Budget(limit)
        copies: deque[jax.Array] = deque()  # of the leaves ahead
        ahead = iter([leaf for leaf in self._leaves if isinstance(leaf, Staged)])
        following = next(ahead, None)
        ready: list[LeafSpec] = []
        while self._leaves:
            leaf = self._leaves.popleft()
            if not isinstance(leaf, Staged):
                ready.append(leaf)
                continue
            writer.add(ready)
            ready = []
            while following is not None and (not copies or budget.has(_counted(following))):
                budget.take(_counted(following), writer)
                copies.append(self._start_copy(following))
                following = next(ahead, None)
            spec = leaf.spec(on_host(copies.popleft()))
            writer.add([spec], partial(budget.give, _counted(leaf)))
            del leaf, spec
            step()
        writer.add(ready)

    def _start_copy(self, leaf: Staged) -> jax.Array:
        try:
            return start_copy(leaf.data, self._pinned)
        except Exception as error:
            if not leaf.data.is_deleted():
                raise
            raise UnsupportedError(
                f"cannot store {quoted(leaf.name)}: it was deleted or donated before it was copied. Call wait_copied()"
                " of the handle before the step that donates it, or save without return_early=True"
            ) from error


def start_copy(data: jax.Array, pinned: bool = False) -> jax.Array:
    """An alias of an array on one device, of which a copy to the host is on its way."""
    alias = jax.make_array_from_single_device_arrays(data.shape, data.sharding, [data])
    if pinned:
        alias = jax.device_put(alias, data.sharding.with_memory_kind("pinned_host"))
    with jax.transfer_guard_device_to_host("allow"):  # JAX guards against copies that nobody asked for
        alias.copy_to_host_async()
    return alias


def on_host(copy: jax.Array) -> np.ndarray[Any, Any]:
    """Waits for a copy that was started."""
    with jax.transfer_guard_device_to_host("allow"):
        return np.asarray(copy)


def _staged_bytes(leaves: Iterable[LeafSpec | Staged]) -> int:
    return sum(leaf.nbytes for leaf in leaves if isinstance(leaf, Staged))


def _counted(leaf: Staged) -> int:
    return leaf.nbytes if leaf.nbytes > PACKED_BYTES else 0
