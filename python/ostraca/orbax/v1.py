"""The same for Orbax's v1 API, as far as its public names go.

    import orbax.checkpoint.experimental.v1 as ocp
    with ostraca.orbax.v1.context():
        ocp.save(path, state)
        state = ocp.load(path, abstract_state)

A handler is not told the options of the context: `options.PyTreeOptions` (partial loading, padding, casts when saving)
have no effect on Ostraca's checkpoints; `ocp.PLACEHOLDER` leaves out leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Final

import jax
import orbax.checkpoint.experimental.v1 as ocp

from ..lowlevel import Reader
from ..tree import Kind, unflatten
from .handler import MANIFEST, Handler, Restore, local_path
from .metadata import Notes
from .targets import mapped

_MARKER: Final = "_METADATA"  # by which Orbax knows trees from other items
_TYPES: Final = {Kind.INT: int, Kind.FLOAT: float, Kind.BOOL: bool, Kind.STR: str, Kind.BYTES: bytes}
_EMPTIES: Final[dict[Kind, Any]] = {Kind.EMPTY_LIST: [], Kind.EMPTY_TUPLE: (), Kind.EMPTY_DICT: {}}


class PyTreeHandler:
    """Orbax's CheckpointableHandler of trees."""

    def __init__(self) -> None:
        self._handler = Handler()
        self._stock = ocp.handlers.PyTreeHandler()

    async def save(self, directory: Any, checkpointable: Any) -> Awaitable[None]:
        """Returns when the arrays may change; awaiting what it returns, when the checkpoint is durable."""
        # Here and not later, because arrays on devices have to be staged; Orbax is making it already.
        path = local_path(await directory.await_creation())
        (running,) = await self._handler.async_save(path, checkpointable)

        async def finish() -> None:
            await asyncio.to_thread(running.result)
            if jax.process_index() == 0:
                (path / _MARKER).write_text("{}")

        return finish()

    async def load(self, directory: Any, abstract_checkpointable: Any = None) -> Awaitable[Any]:
        """What was saved, also by Orbax itself."""
        path = local_path(directory)
        if not (path / MANIFEST).exists():
            loading: Awaitable[Any] = await self._stock.load(directory, abstract_checkpointable)
            return loading
        target = abstract_checkpointable
        if target is not None:  # None as a leaf means: as it was saved
            target = mapped(target, lambda _, leaf: object if leaf is None else leaf)
        return asyncio.to_thread(self._handler.restore, path, args=Restore(target))

    async def metadata(self, directory: Any) -> Any:
        """The tree with ShapeDtypeStructs for arrays, and types for Python's values."""
        path = local_path(directory)
        if not (path / MANIFEST).exists():
            return await self._stock.metadata(directory)
        with Reader(path) as reader:
            notes = Notes(reader)
            return unflatten([(info.path, info.name, _abstract(info, notes)) for info in reader.leaves()])

    def is_handleable(self, checkpointable: Any) -> bool:
        """Whether it is a tree that Orbax would save."""
        return bool(self._stock.is_handleable(checkpointable))

    def is_abstract_handleable(self, abstract_checkpointable: Any) -> bool:
        """Whether it is a tree that Orbax would load."""
        return bool(self._stock.is_abstract_handleable(abstract_checkpointable))


def context() -> ocp.Context:
    """A context in which trees are saved and loaded with Ostraca; all other checkpointables as ever."""
    stock = ocp.handlers.PyTreeHandler
    every = ocp.handlers.global_registry()
    registry = ocp.handlers.local_registry(include_global_registry=False)
    for handler, name in every.get_all_entries():
        kind, known_as = handler, list(every.get_secondary_typestrs(handler))
        if handler is stock:
            kind, known_as = PyTreeHandler, [*known_as, f"{stock.__module__}.{stock.__qualname__}", Handler.typestr()]
        registry.add(kind, checkpointable_name=name, secondary_typestrs=known_as)
    result = ocp.Context()
    result.checkpointables.registry = registry
    return result


def _abstract(info: Any, notes: Notes) -> Any:
    if not info.has_data:
        return _EMPTIES.get(info.kind)
    if info.kind in _TYPES:
        return _TYPES[info.kind]
    return jax.ShapeDtypeStruct(info.shape, info.dtype, sharding=notes.sharding(info.name))
