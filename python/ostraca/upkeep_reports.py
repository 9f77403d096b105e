"""What upkeep reports: `prune` and `compact`."""

from dataclasses import dataclass, field
from typing import Any

from .reports import SaveInfo, decoded_metadata


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """A committed checkpoint, as a directory's listing knows it: what `prune` gives to a `keep` function."""

    name: str  # of its directory
    path: str
    id: str
    step: int | None
    created: str  # UTC, "2026-11-20T12:00:00Z"
    created_ns: int  # the same in nanoseconds since 1970, and more precise
    parent: str | None  # the id of the checkpoint that the state was loaded from, or saved as, before
    base: str | None  # the name of the checkpoint that its chunks refer to
    info: SaveInfo
    metadata_json: str

    @property
    def metadata(self) -> Any:
        """Decoded when asked for: it may be large. Raises `FormatError`."""
        return decoded_metadata(self.metadata_json)


@dataclass(frozen=True, slots=True)
class Removed:
    """A checkpoint that is none any more, or files that no checkpoint names."""

    name: str  # of its directory
    step: int | None
    id: str  # of the save that wrote it
    reason: str
    bytes: int  # freed; 0 where the bytes have to wait, `Kept` says for what


@dataclass(frozen=True, slots=True)
class Kept:
    """What stays, and why."""

    name: str  # of its directory
    step: int | None
    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class PruneReport:
    """The result of `ostraca.prune`: what was removed, or with `dry_run` would be."""

    directory: str
    dry_run: bool
    removed: list[Removed]
    kept: list[Kept]
    errors: list[tuple[str, str]]  # a directory's name, and what could not be read or removed there
    freed_bytes: int
    warnings: list[str] = field(default_factory=list)  # where the newest are not those of the highest steps

    @property
    def ok(self) -> bool:
        """Whether nothing went wrong."""
        return not self.errors

    def __str__(self) -> str:
        would = "would be " if self.dry_run else ""
        lines = [f"{self.directory}: {self.freed_bytes:,} bytes {would}freed"]
        lines += [f"  {would}removed  {r.name}: {r.reason} ({r.bytes:,} bytes)" for r in self.removed]
        lines += [f"  kept  {k.name}: {k.reason}" for k in self.kept]
        lines += [f"  warning  {text}" for text in self.warnings]
        lines += [f"  error  {name}: {message}" for name, message in self.errors]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class CompactReport:
    """The result of `ostraca.compact`: what was written, or with `dry_run` would be."""

    path: str
    dry_run: bool
    base: str | None  # the name of the checkpoint it needed; None: it had no base, and nothing was done
    stored_bytes_before: int  # of its own files
    stored_bytes_after: int  # with `dry_run`: at most
    base_bytes: int  # stored by the base; 0 when its manifest cannot be read
    base_needed_by: list[str]  # names of others beside it with the same base; none: prune may remove that
    seconds: float

    def __str__(self) -> str:
        if self.base is None:
            return f"{self.path}: it has no base, there is nothing to do"
        done = "would be replaced by at most" if self.dry_run else "replaced by"
        sizes = f"{self.stored_bytes_before:,} bytes {done} {self.stored_bytes_after:,}"
        if self.base_needed_by:
            rest = f"its base {self.base!r} is still needed by {', '.join(map(repr, self.base_needed_by))}"
        else:
            rest = f"no other needs its base {self.base!r} ({self.base_bytes:,} bytes): then prune may remove it"
        return f"{self.path}: {sizes}; {rest}"
