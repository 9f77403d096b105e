"""What saves and checks report, and the manifest they are read from."""

from dataclasses import dataclass, fields
from typing import Any

from . import _core, metadata
from .errors import FormatError


@dataclass(frozen=True, slots=True)
class SaveInfo:
    """A committed checkpoint: what was written, and what it cost."""

    path: str
    id: str  # 32 hexadecimal digits
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
    """What a manifest says (docs/format.md, section 8)."""

    id: str
    metadata_json: str
    info: SaveInfo
    created: str  # UTC, "2026-11-20T12:00:00Z"
    created_ns: int  # the same in nanoseconds since 1970, and more precise
    parent: str | None  # the id of the checkpoint that the state was loaded from, or saved as, before
    features: int  # required; bits of docs/format.md, section 9
    base: tuple[str, str] | None  # the base's directory, a sibling's name, and its id
    files: list[tuple[str, int]]  # names and sizes in bytes, the index first

    @classmethod
    def parse(cls, path: str, text: str | bytes) -> "Manifest":
        """Raises `CorruptionError`, or `FormatError` for one that readers refuse."""
        from datetime import datetime  # late, for the sake of import time

        members = _core.manifest_of(text.encode() if isinstance(text, str) else text)
        seconds = int(datetime.fromisoformat(members["created"]).timestamp())
        return cls(
            id=members["id"],
            metadata_json=members["metadata"],
            info=SaveInfo(path, **{field.name: members[field.name] for field in fields(SaveInfo)[1:]}),
            created=members["created"],
            created_ns=seconds * 1_000_000_000 + members["created_nanoseconds"],
            parent=members["parent"],
            features=members["features"],
            base=members["base"],
            files=members["files"],
        )

    @property
    def metadata(self) -> Any:
        """Decoded when asked for: it may be large. Raises `FormatError`."""
        return decoded_metadata(self.metadata_json)


def decoded_metadata(text: str) -> Any:
    """Raises `FormatError` where it is not what `metadata.encode` makes."""
    import json

    try:
        return metadata.decode(json.loads(text))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise FormatError(f"the metadata is malformed: {error!r}") from None
