"""What saves and checks report, and the manifest they are read from."""

from dataclasses import dataclass, fields
from typing import Any

from . import metadata
from .errors import FormatError


@dataclass(frozen=True, slots=True)
class SaveInfo:
    """A committed checkpoint: what was written, and what it cost."""

    path: str
    step: int | None
    logical_bytes: int  # of all leaves, decoded
    stored_bytes: int  # written by this save
    referenced_bytes: int  # of the base that this checkpoint uses, as stored; 0 without a base
    arrays: int  # leaves that hold data
    chunks: int
    stall_seconds: float  # until the caller could go on: all of a synchronous save
    seconds: float  # until the manifest was written


@dataclass(frozen=True, slots=True)
class Damage:
    """One damaged place."""

    file: str  # its name in the checkpoint's directory; of its base, from there
    offset: int  # in the file, bytes
    array: str  # display name; empty when unknown
    reason: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """The result of `ostraca.verify`."""

    ok: bool
    chunks: int  # checked
    bytes: int  # checked, as stored
    damaged: list[Damage]


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """A committed checkpoint, as a directory's listing knows it: what `prune` gives to a `keep` function."""

    name: str  # of its directory
    path: str
    id: str
    step: int | None
    created: str  # UTC, "2026-11-20T12:00:00Z"
    metadata: Any
    info: SaveInfo
    base: str | None  # the name of the checkpoint that its chunks refer to


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

    @property
    def ok(self) -> bool:
        """Whether nothing went wrong."""
        return not self.errors

    def __str__(self) -> str:
        would = "would be " if self.dry_run else ""
        lines = [f"{self.directory}: {self.freed_bytes:,} bytes {would}freed"]
        lines += [f"  {would}removed  {r.name}: {r.reason} ({r.bytes:,} bytes)" for r in self.removed]
        lines += [f"  kept  {k.name}: {k.reason}" for k in self.kept]
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


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a manifest says (docs/format.md, section 8); the engine has verified its checksum."""

    id: str
    metadata: Any
    info: SaveInfo
    created: str  # UTC, "2026-11-20T12:00:00Z"
    features: int  # required; bits of docs/format.md, section 9
    base: tuple[str, str] | None  # the base's directory, a sibling's name, and its id

    @classmethod
    def parse(cls, path: str, text: str) -> "Manifest":
        """Raises `FormatError` when a member is missing."""
        import json  # late, for the sake of import time

        try:
            members = json.loads(text)
            members["path"] = path
            info = SaveInfo(**{field.name: members[field.name] for field in fields(SaveInfo)})
            base = members["base"] and (members["base"]["directory"], members["base"]["id"])
            notes = metadata.decode(members["metadata"])
            return cls(members["id"], notes, info, members["created"], int(members["features"], 16), base)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise FormatError(f"{path!r}: the manifest is malformed: {error!r}") from None
