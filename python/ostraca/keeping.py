"""Which checkpoints `prune` is to keep, and why."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import SupportsIndex

from . import _core, options
from .catalog import Listing
from .errors import NotFoundError
from .options import StrPath
from .upkeep_reports import CheckpointRecord

Keep = SupportsIndex | Iterable["int | StrPath"] | Callable[[CheckpointRecord], bool]


def check_keep(keep: Keep) -> None:
    if isinstance(keep, str | bytes | os.PathLike):
        raise TypeError(f"keep takes a list of names, not one: keep=[{keep!r}]")
    if callable(keep) or isinstance(keep, Iterable):
        return
    if isinstance(keep, bool) or not hasattr(keep, "__index__"):
        raise TypeError(f"keep must be a number, names and steps, or a function, not {type(keep).__name__}")
    options.checked_int("keep", keep, 0)


def chosen(keep: Keep, records: list[CheckpointRecord], listing: Listing, where: str) -> dict[str, str]:
    """The names of the checkpoints to keep, and why; `records` are the newest first."""
    if callable(keep):
        return {record.name: "keep() says so" for record in records if keep(record)}
    if not isinstance(keep, Iterable):
        count = options.checked_int("keep", keep, 0)
        return {record.name: f"one of the newest {count}" for record in records[:count]}
    known = {record.name for record in records} | {place.name for place in listing.places if place.trouble}
    names_kept: dict[str, str] = {}
    for wanted in keep:
        if isinstance(wanted, str | bytes | os.PathLike):
            what = repr(os.fsdecode(wanted))
            names = [name] if (name := _name(wanted, where)) in known else []
        else:
            step = options.checked_int("a step in keep", wanted, 0)
            what = f"of step {step}"
            names = [record.name for record in records if record.step == step]
        if not names:
            raise NotFoundError(f"there is no checkpoint {what} in {where!r} to be kept; nothing was removed")
        names_kept |= dict.fromkeys(names, "to be kept")
    return names_kept


def _name(wanted: StrPath, where: str) -> str:
    """The name of a child: given as such, as a path, or as a link beside it."""
    text = os.fsdecode(wanted)
    is_name = os.path.basename(text) == text  # noqa: PTH119
    path = os.path.join(where, text) if is_name else options.checked_path(text)  # noqa: PTH118
    parent, name = os.path.split(_core.real_path(path))
    return name if parent == _core.real_path(where) else ""
