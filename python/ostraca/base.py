"""`BaseSnapshot`, and the checks of a save's `base=`."""

from __future__ import annotations

import os
from typing import Final, Self, SupportsIndex

from . import _core, options
from .errors import MismatchError, NotFoundError
from .instead import explained
from .options import StrPath
from .uncopied import Uncopied

MEMORY_SHARE: Final = 0.25  # of the memory available: what a snapshot keeps at most unless told otherwise


class BaseSnapshot(Uncopied):
    """A keyframe for incremental saves, of which decoded chunks stay in memory: `save(..., base=snapshot)`.

    Opens the checkpoint at `path`, or its base if it has one. What a save reads back of it stays for the next one, up
    to `budget_bytes` (None: a quarter of the memory available now; it is never more than the keyframe's arrays take; 0
    keeps nothing). Until `close` it holds a lease, so that `prune` leaves the keyframe alone. Serves any number of
    saves, also at once. Thread-safe; close it, or use it in a `with` block.

    Raises `NotFoundError`, `FormatError`, `CorruptionError` or OSError.
    """

    __slots__ = ("_core", "_path")
    _instead = "open another by its path"

    def __init__(self, path: StrPath, *, budget_bytes: SupportsIndex | None = None) -> None:
        if budget_bytes is None:
            budget = int(_core.available_memory_bytes() * MEMORY_SHARE)
        else:
            budget = options.checked_int("budget_bytes", budget_bytes, 0)
        self._core: _core.BaseSnapshot | None = _opened(path, budget)
        self._path = self._core.path

    @classmethod
    def of(cls, core: _core.BaseSnapshot) -> Self:
        """The engine's one for what the engine has opened."""
        snapshot = cls.__new__(cls)
        snapshot._core, snapshot._path = core, core.path
        return snapshot

    @property
    def path(self) -> str:
        """The keyframe's directory."""
        return self._path

    @property
    def id(self) -> str:
        """The keyframe's id."""
        return self.core().id

    @property
    def kept_bytes(self) -> int:
        """Bytes of decoded chunks in memory now; 0 when it is closed."""
        return 0 if self._core is None else self._core.kept_bytes

    def core(self) -> _core.BaseSnapshot:
        """What the engine knows it by."""
        if self._core is None:
            raise ValueError(f"the snapshot of {self._path!r} is closed")
        return self._core

    def close(self) -> None:
        """Lets go of memory and lease, once the saves that use it are done."""
        self._core = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._core is None else f"{self.kept_bytes:,} bytes kept"
        return f"<ostraca.BaseSnapshot {self._path!r}: {state}>"


Base = StrPath | BaseSnapshot | None


def for_save(base: Base, path: str) -> _core.BaseSnapshot | None:
    """The base of a save to `path`. Raises `NotFoundError`, or `MismatchError` where it cannot be that."""
    if base is None:
        return None
    found = base.core() if isinstance(base, BaseSnapshot) else _opened(base, 0)
    keyframe, target = _core.real_path(found.path), _core.real_path(path)
    if keyframe == target:
        raise MismatchError(f"base: {path!r} cannot be overwritten by a checkpoint that needs it; save beside it")
    beside, place = os.path.dirname(keyframe), os.path.dirname(target)  # noqa: PTH120
    if beside != place:
        raise MismatchError(
            f"base: {found.path!r} lies in {beside!r}, and {path!r} would be in {place!r}: a checkpoint and"
            " its base have to lie in the same directory"
        )
    try:
        os.path.basename(keyframe).encode()  # noqa: PTH119
    except UnicodeEncodeError:
        raise MismatchError(
            f"base: {found.path!r} is not UTF-8, and the manifest of a checkpoint that needs it would have to name it:"
            " rename it, or save without a base"
        ) from None
    return found


def _opened(path: StrPath, budget_bytes: int) -> _core.BaseSnapshot:
    if not isinstance(path, str | bytes | os.PathLike):
        raise TypeError(f"a base is a path or a BaseSnapshot, not {type(path).__name__}")
    where = options.checked_path(path)
    with explained(where):
        try:  # its own name goes into the manifest: a link may lead elsewhere later
            return _core.BaseSnapshot(_core.real_path(where), budget_bytes)
        except NotFoundError:
            return _core.BaseSnapshot(where, budget_bytes)  # which says where a link leads
