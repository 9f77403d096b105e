"""What this process last loaded or saved in each directory of checkpoints: the parent of what it saves next there.

Calls count in their order: an asynchronous save is its successor's parent before it is committed. Threads that save to
one directory at once have no order, and need none here; single operations on the dictionary are atomic.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from . import _core
from .errors import OstracaError

if TYPE_CHECKING:
    from .lowlevel import Reader

_DIRECTORIES_MAX: Final = 64  # that are remembered: Orbax makes a new one for each step

_last: dict[str, str] = {}  # by directory: the checkpoint's id


def saving(place: str, attempt: str) -> str | None:
    """A save begins, to a place by its real path: the id of its parent."""
    run = os.path.dirname(place)  # noqa: PTH120
    parent = _last.get(run)
    _note(run, attempt)
    return parent


def failed(place: str, attempt: str, parent: str | None) -> None:
    """A save ended without a checkpoint: unless something followed it, all is as it was before."""
    run = os.path.dirname(place)  # noqa: PTH120
    if _last.get(run) != attempt:
        return
    if parent is None:
        _last.pop(run, None)
    else:
        _note(run, parent)


@contextlib.contextmanager
def loading(reader: Reader) -> Iterator[None]:
    """Notes what was loaded, once it is."""
    yield
    _note(os.path.dirname(_core.real_path(reader.path)), reader.manifest().id)  # noqa: PTH120


def _note(run: str, attempt: str) -> None:
    _last.pop(run, None)
    _last[run] = attempt
    if len(_last) > _DIRECTORIES_MAX:
        _last.pop(next(iter(_last)), None)


def created_last(place: str) -> int:
    """When the newest checkpoint beside `place` was created, in nanoseconds since 1970; 0: there is none.

    A save is later than that even if this machine's clock is behind.
    """
    with contextlib.suppress(OSError, OstracaError):
        return _core.Run(os.path.dirname(place)).created_last()  # noqa: PTH120
    return 0
