"""`ostraca ls`: the checkpoints in a directory, and what unfinished saves left there."""

import argparse
import json
import os
import re
import socket
import sys
from pathlib import Path
from typing import Any, Final

from .. import _core, lineage
from ..errors import CorruptionError, OstracaError
from . import text

NAME: Final = "ls"
SUMMARY: Final = "list checkpoints"
DESCRIPTION: Final = """\
Lists the checkpoints at and directly below DIR, and attempts to save that are
unfinished. Manifests and indexes are read, and files' sizes compared;
`ostraca verify` reads everything."""
EPILOG: Final = """\
status: committed, unfinished (being saved now, or left over from a save that
        was killed), removed (`ostraca prune` frees its bytes later), damaged,
        unreadable
base:   the checkpoint whose bytes this one uses, too
ratio:  stored by logical bytes, without the base's

examples:
  ostraca ls run/
  ostraca ls --json run/ | jq '.checkpoints[] | select(.status == "committed").path'

exit status: 0 ok, 1 a damaged checkpoint, 2 an unreadable one, or another
error"""

_FILE: Final = re.compile(r"(?:p[0-9]{5,7}|index|intent|tombstone)-([0-9a-f]{32})\.(?:ostraca|json)")
_MAX_INTENT_BYTES: Final = 1 << 20

Entry = dict[str, Any]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "directory", type=text.path, metavar="DIR", help="a directory of checkpoints, or one checkpoint"
    )


def run(arguments: argparse.Namespace) -> int:
    directory = Path(arguments.directory)
    children = [child for child in directory.iterdir() if child.is_dir()]
    entries = [entry for place in (directory, *children) for entry in _entries(place)]
    entries.sort(key=lambda entry: (entry["step"] is None, entry["step"] or 0, entry["created"] or "", entry["path"]))
    if arguments.json:
        text.show_json({"directory": arguments.directory, "checkpoints": entries})
    elif entries:
        _show(directory, entries)
    else:
        sys.stderr.write(f"no checkpoints in {text.escaped(arguments.directory)}\n")
    states = {entry["status"] for entry in entries}
    return 2 if "unreadable" in states else 1 if "damaged" in states else 0


def read_manifest(path: str) -> dict[str, Any]:
    """A checkpoint's manifest as it is stored, verified."""
    reader = _core.Reader(path, threads=1)
    try:
        members: dict[str, Any] = json.loads(reader.manifest)
        return members
    finally:
        reader.close()


def _entries(place: Path) -> list[Entry]:
    """The checkpoint in a directory, if there is one, and the attempts that are not part of it."""
    try:
        attempts: dict[str, int] = {}
        for item in os.scandir(place):
            match = _FILE.fullmatch(item.name)
            if match:
                attempts[match[1]] = attempts.get(match[1], 0) + item.stat(follow_symlinks=False).st_size
        committed = (place / "manifest.json").exists()
    except OSError as error:
        return [_entry(place, "unreadable", detail=error.strerror or str(error))]
    entries = []
    if committed:
        entry = _checkpoint(place)
        if "id" not in entry or entry["id"] is None:  # which of the files are its own is not known
            return [entry]
        attempts.pop(entry["id"], None)
        entries.append(entry)
    return entries + [_attempt(place, attempt, stored) for attempt, stored in attempts.items()]


def _checkpoint(place: Path) -> Entry:
    try:
        manifest = read_manifest(str(place))
    except CorruptionError as error:
        return _entry(place, "damaged", detail=str(error))
    except (OstracaError, OSError, ValueError) as error:
        return _entry(place, "unreadable", detail=str(error))
    names = ("id", "step", "created", "arrays", "chunks", "logical_bytes", "stored_bytes", "referenced_bytes")
    figures = {name: manifest[name] for name in names}
    named = manifest["base"]
    base = lineage.base_state(str(place), named and (named["directory"], named["id"]))
    if base is not None:
        figures["base"] = base.directory
    for file in (manifest["index"], *manifest["files"]):
        try:
            found = (place / file["file"]).stat().st_size
        except FileNotFoundError:
            return _entry(place, "damaged", detail=f"{file['file']} is missing", **figures)
        except OSError as error:
            return _entry(place, "unreadable", detail=f"{file['file']}: {error.strerror}", **figures)
        if found != file["bytes"]:
            detail = f"{file['file']}: size in bytes: expected {file['bytes']}, found {found}"
            return _entry(place, "damaged", detail=detail, **figures)
    if base is not None and base.status not in (lineage.COMMITTED, lineage.REMOVED):
        status = "unreadable" if base.status == lineage.UNREADABLE else "damaged"
        return _entry(place, status, detail=f"its base {base.directory!r} is {base.status}", **figures)
    return _entry(place, "committed", **figures)


def _attempt(place: Path, attempt: str, stored: int) -> Entry:
    if (place / f"tombstone-{attempt}.json").exists():
        return _entry(
            place, "removed", detail="its bytes go when nobody can need them", id=attempt, stored_bytes=stored
        )
    intent = _intent(place / f"intent-{attempt}.json")
    if intent is None:
        detail = "left over: no save claims these files"
    else:
        pid, host = intent.get("pid"), intent.get("host")
        detail = f"by process {pid} on {host}"
        if isinstance(pid, int) and host == socket.gethostname():
            detail += ", which is running" if _is_running(pid) else ", which is gone"
    created = (intent or {}).get("created")
    return _entry(place, "unfinished", detail=detail, id=attempt, created=created, stored_bytes=stored)


def _intent(path: Path) -> dict[str, Any] | None:
    try:
        with path.open("rb") as file:
            intent = json.loads(file.read(_MAX_INTENT_BYTES))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        return {}
    return intent if isinstance(intent, dict) else {}


def _is_running(pid: int) -> bool:
    return pid > 0 and Path(f"/proc/{pid}").exists()


def _entry(place: Path, status: str, *, detail: str = "", **known: Any) -> Entry:
    entry: Entry = {
        "path": str(place),
        "status": status,
        "detail": detail,
        "id": None,
        "step": None,
        "created": None,
        "arrays": None,
        "chunks": None,
        "logical_bytes": None,
        "stored_bytes": None,
        "referenced_bytes": None,
        "base": None,
        **known,
    }
    logical, stored = entry["logical_bytes"], entry["stored_bytes"]
    entry["ratio"] = None if logical is None or stored is None else text.ratio(stored, logical)
    return entry


def _show(directory: Path, entries: list[Entry]) -> None:
    rows = [
        (
            str(Path(entry["path"]).relative_to(directory)),
            "-" if entry["step"] is None else str(entry["step"]),
            _when(entry["created"]),
            text.number(entry["arrays"]),
            text.size(entry["logical_bytes"]),
            text.size(entry["stored_bytes"]),
            text.ratio_text(entry["ratio"]),
            entry["base"] or "-",
            f"{entry['status']}: {entry['detail']}" if entry["detail"] else entry["status"],
        )
        for entry in entries
    ]
    headings = ("name", "step", "when (UTC)", "arrays", "logical", "stored", "ratio", "base", "status")
    text.show(text.table(headings, "<><>>>><<", rows))


def _when(created: Any) -> str:
    return created.replace("T", " ").removesuffix("Z") if isinstance(created, str) else "-"
