"""What lies where a checkpoint was looked for."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .errors import NotFoundError

if TYPE_CHECKING:
    from .upkeep_reports import CheckpointRecord


@contextlib.contextmanager
def explained(path: str) -> Iterator[None]:
    """Adds to a `NotFoundError` that `path` is a directory of checkpoints, and which is the newest."""
    try:
        yield
    except NotFoundError as error:
        found = _checkpoints(path)
        if not found:
            raise
        number = f"{len(found)} checkpoints, of which the newest is" if len(found) > 1 else "a checkpoint,"
        raise NotFoundError(f"{error}. It is a directory that holds {number} {found[0].path!r}") from None


def _checkpoints(directory: str) -> "list[CheckpointRecord]":
    """The newest first."""
    from .catalog import Catalog, records  # late: only an error needs them
    from .recency import newest

    with contextlib.suppress(OSError):
        listing = Catalog(directory).scan()
        return newest(records(listing.places + listing.elsewhere, directory))
    return []
