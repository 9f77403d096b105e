"""The same for Orbax's v1 API.

    import orbax.checkpoint.experimental.v1 as ocp
    with ostraca.orbax.v1.context():
        ocp.save(path, state)
        state = ocp.load(path, abstract_state)

    checkpointer = ocp.training.Checkpointer(directory, context=ostraca.orbax.v1.context())

`register("pytree")` does so without a context, for what is saved under these names in the whole process: for
`keras.callbacks.OrbaxCheckpoint`, which has no place for one.

Of a context's options count what trees become: partial loading, padding and truncation, dtypes that are saved. The
options of TensorStore's formats have no meaning here.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractContextManager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final

import jax
import orbax.checkpoint as v0
import orbax.checkpoint.experimental.v1 as ocp

from .._core import MANIFEST
from ..errors import CancelledError, UnsupportedError
from ..handles import SaveHandle
from ..lowlevel import Reader
from . import abstract, metadata
from .arguments import Restore, Save
from .handler import Handler, Running, local_path

_COPYING_SECONDS: Final = 1.0  # after which a save is thought to wait for its directory
_OWN_HANDLER: Final = (
    "Ostraca has no leaf handlers: a PyTreeHandler with some, as a class of its own, is registered with"
    " checkpointable_name= and saves such leaves under that name"
)


class PyTreeHandler:
    """Orbax's CheckpointableHandler of trees."""

    def __init__(self) -> None:
        self._handler = Handler()
        # Made here, it has the context that is active; Orbax makes a handler for each of its operations.
        self._stock = ocp.handlers.PyTreeHandler()
        self._context: ocp.Context = self._stock._context

    async def save(self, directory: Any, checkpointable: Any) -> Awaitable[None]:
        """Returns when the arrays may change; awaiting what it returns, when the checkpoint is durable."""
        path = local_path(directory.path)
        args = Save(checkpointable, self._save_args(checkpointable))
        made = _Made(self._context.asynchronous.timeout_secs)
        try:
            handle = self._handler.start(path, args, made, return_early=True)
        except UnsupportedError as error:
            if self.is_handleable(checkpointable):
                raise
            raise UnsupportedError(f"{error}; {_OWN_HANDLER}") from None
        saving = _Saving(directory, made, handle)
        await saving.copied()
        return saving

    async def load(self, directory: Any, abstract_checkpointable: Any = None) -> Awaitable[Any]:
        """What was saved, also by Orbax itself. Raises its UnregisteredTypeError for what is no abstract leaf."""
        path = local_path(directory)
        if not (path / MANIFEST).exists():
            loading: Awaitable[Any] = await self._stock.load(directory, abstract_checkpointable)
            return loading
        self._stock.validate_abstract_leaves_handleable(abstract_checkpointable)
        return asyncio.to_thread(self._restored, path, abstract_checkpointable)

    async def metadata(self, directory: Any) -> Any:
        """The tree with abstract leaves: ShapeDtypeStructs for jax.Arrays, and what else `load` takes."""
        path = local_path(directory)
        if not (path / MANIFEST).exists():
            return await self._stock.metadata(directory)
        with Reader(path) as reader:
            return abstract.metadata(reader)

    def is_handleable(self, checkpointable: Any) -> bool:
        """Whether it is a tree that Orbax would save."""
        return bool(self._stock.is_handleable(checkpointable))

    def is_abstract_handleable(self, abstract_checkpointable: Any) -> bool:
        """Whether it is a tree that Orbax would load."""
        return bool(self._stock.is_abstract_handleable(abstract_checkpointable))

    def _save_args(self, tree: Any) -> Any:
        """v0's SaveArgs, with the dtypes that the context asks for; None where it asks for none."""
        options = self._context.array.saving
        by_leaf, by_default = options.scoped_storage_options_creator, options.storage_options
        if by_leaf is None and by_default.dtype is None:
            return None

        def args(path: Any, leaf: Any) -> v0.SaveArgs:
            own = None if by_leaf is None else by_leaf(path, leaf)
            return v0.SaveArgs(dtype=by_default.dtype if own is None or own.dtype is None else own.dtype)

        return jax.tree_util.tree_map_with_path(args, tree)

    def _restored(self, path: Path, tree: Any) -> Any:
        args = self._restore(tree)
        restored = self._handler.restore(path, args=args)
        return _mapped(abstract.leaf_of, restored) if args.partial_restore else restored

    def _restore(self, tree: Any) -> Restore:
        """What abstract leaves ask for, in v0's terms: the item tells only which leaves there are."""
        if tree is None:
            return Restore()
        strict = not self._context.array.loading.enable_padding_and_truncation
        return Restore(
            _mapped(abstract.Place.of, tree),
            _mapped(lambda leaf: abstract.restore_args(leaf, strict=strict), tree),
            partial_restore=self._context.pytree.loading.partial_load,
            fallback_sharding=jax.sharding.SingleDeviceSharding(jax.local_devices()[0]),
        )


def _mapped(function: Callable[[Any], Any], tree: Any) -> Any:
    """Abstract leaves are JAX's leaves, dataclasses among them, and None."""
    return jax.tree.map(function, tree, is_leaf=lambda leaf: leaf is None)


class _Made:
    """Whether the directory of a save is there, for the save's thread; Orbax makes it in the meantime."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until = time.monotonic() + seconds
        self._event = threading.Event()

    def __call__(self, seconds: float) -> bool:
        """Waits at most so long. Raises CancelledError when the time is over."""
        if not self._event.wait(seconds) and time.monotonic() > self._until:
            raise CancelledError(f"the save was given up: Orbax made no directory within {self._seconds} seconds")
        return self._event.is_set()

    def remaining_seconds(self) -> float:
        return max(0.0, self._until - time.monotonic())

    def set(self) -> None:
        self._event.set()


class _Saving:
    """A save that Orbax awaits, cancels through its `commit_futures`, or drops where it cannot make the directory."""

    def __init__(self, directory: Any, made: _Made, handle: SaveHandle) -> None:
        self.commit_futures = [Running(handle)]
        self._directory = directory
        self._made = made
        self._handle = handle
        weakref.finalize(self, handle.cancel).atexit = False

    async def copied(self) -> None:
        """Until the arrays may change. A save beyond its staging budget needs the directory for that."""
        try:
            await asyncio.to_thread(self._handle.wait_copied, _COPYING_SECONDS)
        except TimeoutError:
            await self._path()
            await asyncio.to_thread(self._handle.wait_copied)

    def __await__(self) -> Generator[Any, None, None]:
        return self._finish().__await__()

    async def _finish(self) -> None:
        path = await self._path()
        (running,) = self.commit_futures
        try:
            await asyncio.to_thread(running.result, self._made.remaining_seconds())
        except TimeoutError:
            running.cancel()
            raise
        if jax.process_index() == 0:
            (path / metadata.MARKER).write_text(metadata.MARKER_TEXT)

    async def _path(self) -> Path:
        """The directory, which Orbax may make just for this call."""
        try:
            path = local_path(await self._directory.await_creation())
        except BaseException:
            self._handle.cancel()
            raise
        self._made.set()
        return path


def context(like: ocp.Context | None = None) -> ocp.Context:
    """A context in which trees are saved and loaded with Ostraca; all other checkpointables as ever.

    like: a context whose options and handlers it takes over; Orbax's PyTreeHandler becomes Ostraca's, a handler of
    one's own (for leaf handlers, say) stays. A plain `ocp.Context(like)` would be lost with the first call of a
    `training.Checkpointer` inside of its `with`, which is why this one is not plain.
    """
    stock = ocp.handlers.PyTreeHandler
    every = ocp.handlers.global_registry() if like is None else like.checkpointables.registry
    registry = ocp.handlers.local_registry(include_global_registry=False)
    for handler, name in every.get_all_entries():
        kind, known_as = handler, list(every.get_secondary_typestrs(handler))
        if handler is stock:
            kind, known_as = PyTreeHandler, [*known_as, f"{stock.__module__}.{stock.__qualname__}", Handler.typestr()]
        registry.add(kind, checkpointable_name=name, secondary_typestrs=known_as)
    result = _Context(like)
    result.checkpointables.registry = registry
    return result


def register(*names: str) -> None:
    """From now on, checkpointables of these names are saved and loaded with Ostraca, outside of contexts too.

    Registers with Orbax's global registry, for this process; again is no error. What Orbax itself wrote under the
    names is still loaded. Raises UnsupportedError where a name has another handler: "state", which `ocp.save` takes,
    is Orbax's own.
    """
    if not names:
        raise TypeError('register() without a name: say which checkpointables, as in register("pytree")')
    every = ocp.handlers.global_registry()
    taken = {name: every.get(name) for name in names if every.has(name)}
    for name, owner in taken.items():
        if owner is not PyTreeHandler:
            raise UnsupportedError(
                f"{name!r} is registered already, with {owner.__module__}.{owner.__qualname__}, and Orbax lets nobody"
                " replace that: use ostraca.orbax.v1.context(), or save under another checkpointable_name"
            )
    for name in dict.fromkeys(names):
        if name not in taken:
            ocp.handlers.register_handler(
                PyTreeHandler, checkpointable_name=name, secondary_typestrs=[Handler.typestr()]
            )


_entered: ContextVar[tuple[AbstractContextManager[Any], ...]] = ContextVar("ostraca_orbax_entered", default=())


class _Context(ocp.Context):  # type: ignore[misc]
    """A context that can be entered within itself, as `training.Checkpointer` does at each call.

    Orbax's own keeps one entry: with the second it loses the first, and after the call no context is active any more.
    """

    def __enter__(self) -> ocp.Context:
        entry = self.__contextmanager__()
        result = entry.__enter__()
        _entered.set((*_entered.get(), entry))
        return result

    def __exit__(self, *error: Any) -> Any:
        *outer, entry = _entered.get()
        _entered.set(tuple(outer))
        return entry.__exit__(*error)
