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
    stall_seconds: float  # until this process's caller could go on: all of a synchronous save
    seconds: float  # until the manifest was written


@dataclass(frozen=True, slots=True)
class Damage:
    """One place that is damaged, or cannot be read."""

    file: str  # its name in the checkpoint's directory; of its base, from there
    offset: int  # in the file, bytes
    array: str  # display name; empty when unknown
    reason: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """The result of `ostraca.verify`."""

    ok: bool  # nothing is damaged, and everything could be read
    chunks: int  # checked
    bytes: int  # checked, as stored
    damaged: list[Damage]
    unreadable: list[Damage]  # the system's errors (permissions, EIO): what these places hold is not known


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a manifest says (docs/format.md, section 8); the engine has verified its checksum."""

    id: str
    metadata: Any
    info: SaveInfo
    created: str  # UTC, "2026-11-20T12:00:00Z"
    created_ns: int  # the same in nanoseconds since 1970, and more precise
    parent: str | None  # the id of the checkpoint that the state was loaded from, or saved as, before
    features: int  # required; bits of docs/format.md, section 9
    base: tuple[str, str] | None  # the base's directory, a sibling's name, and its id

    @classmethod
    def parse(cls, path: str, text: str) -> "Manifest":
        """Raises `FormatError` when a member is missing."""
        import json  # late, for the sake of import time
        from datetime import datetime

        try:
            members = json.loads(text)
            members["path"] = path
            info = SaveInfo(**{field.name: members[field.name] for field in fields(SaveInfo)})
            base = members["base"] and (members["base"]["directory"], members["base"]["id"])
            notes = metadata.decode(members["metadata"])
            created, nanoseconds = members["created"], members.get("created_nanoseconds") or 0
            return cls(
                id=members["id"],
                metadata=notes,
                info=info,
                created=created,
                created_ns=int(datetime.fromisoformat(created).timestamp()) * 1_000_000_000 + nanoseconds,
                parent=members.get("parent"),
                features=int(members["features"], 16),
                base=base,
            )
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise FormatError(f"{path!r}: the manifest is malformed: {error!r}") from None
