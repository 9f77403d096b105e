"""What lies where a checkpoint was looked for."""

import contextlib
import os
from collections.abc import Iterator
from typing import Final

from . import _core
from .errors import NotFoundError, OstracaError
from .reports import Manifest

_LOOKED_AT_MAX: Final = 1000  # entries of a directory


@contextlib.contextmanager
def explained(path: str) -> Iterator[None]:
    """Adds to a `NotFoundError` that `path` is a directory of checkpoints, and which is the newest."""
    try:
        yield
    except NotFoundError as error:
        found = _checkpoints(path)
        if not found:
            raise
        newest = max(found, key=lambda manifest: (manifest.info.step or 0, manifest.created))
        number = f"{len(found)} checkpoints, of which the newest is" if len(found) > 1 else "a checkpoint,"
        raise NotFoundError(f"{error}. It is a directory that holds {number} {newest.info.path!r}") from None


def _checkpoints(directory: str) -> list[Manifest]:
    found = []
    with contextlib.suppress(OSError):
        names = sorted(os.listdir(directory), reverse=True)  # noqa: PTH208
        for name in names[:_LOOKED_AT_MAX]:
            path = os.path.join(directory, name)  # noqa: PTH118
            with contextlib.suppress(OSError, OstracaError, ValueError):
                found.append(Manifest.parse(path, _core.Reader(path, threads=1).manifest))
    return found
