"""`ostraca ls`: the checkpoints in a directory, and what unfinished saves left there."""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any, Final

from .. import _core, lineage
from ..catalog import Catalog, Listing, Place, records
from ..errors import CorruptionError, OstracaError
from ..lowlevel import Reader
from ..noting import tags_of
from ..recency import newest
from ..reports import Manifest
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
tags:   `ostraca tag` gives them; prune keeps what is "protected"

examples:
  ostraca ls run/
  ostraca ls --json run/ |
    jq '.checkpoints[] | select(.status == "committed").path'

exit status: 0 ok, 1 a damaged checkpoint, 2 an unreadable one, or another
error"""

Entry = dict[str, Any]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "directory", type=text.path, metavar="DIR", help="a directory of checkpoints, or one checkpoint"
    )


def run(arguments: argparse.Namespace) -> int:
    entries = _listed(arguments.directory)
    if arguments.json:
        text.show_json({"directory": arguments.directory, "checkpoints": entries})
    elif entries:
        _show(Path(arguments.directory), entries)
    else:
        sys.stderr.write(f"no checkpoints in {text.escaped(arguments.directory)}\n")
    states = {entry["status"] for entry in entries}
    return 2 if "unreadable" in states else 1 if "damaged" in states else 0


def _listed(directory: str) -> list[Entry]:
    """Checkpoints in the order in which they were saved, then what is none."""
    found = Catalog(directory)
    listing = found.scan()
    own = found.itself()
    by_name = {place.name: place for place in listing.places}
    links = [
        dataclasses.replace(by_name[link.whole], name=link.name) for link in listing.links if link.whole in by_name
    ]
    places = [own, *listing.places, *listing.elsewhere, *links]
    order = {(r.name, r.id): i for i, r in enumerate(reversed(newest(records(places, directory))))}
    look = _Look(found, listing, directory)
    entries = [(place, entry) for place in places for entry in look.entries(place)]
    entries.sort(key=lambda e: (order.get((e[0].name, e[1]["id"]), len(order)), e[1]["created"] or "", e[1]["path"]))
    return [entry for _, entry in entries]


class _Look:
    """What there is to say of the places of a directory."""

    def __init__(self, found: Catalog, listing: Listing, directory: str) -> None:
        # As pathlib writes it, which takes longer than all else where there are many.
        self._directory = str(Path(directory))
        self._prefix = "" if self._directory == "." else self._directory.rstrip("/") + "/"
        self._by_name = {place.name: place for place in listing.places}
        sound = [place for place in listing.places if place.manifest is not None and place.usable]
        errors = found.run.check([(place.name, place.identity) for place in sound])
        self._errors = dict(zip((place.identity for place in sound), errors, strict=True))

    def entries(self, place: Place) -> list[Entry]:
        """The checkpoint in a directory, if there is one, and the attempts that are not part of it."""
        path = self._directory if place.name == "." else self._prefix + place.name
        entries, committed = [], ""
        if place.manifest is not None or not place.usable:
            entry = self._checkpoint(path, place)
            committed = entry["id"]
            entries.append(entry | {"tags": tags_of(place.facts(committed)[0]) if committed else []})
            if committed is None:  # which of the files are its own is not known
                return entries
        return entries + [_attempt(path, place, attempt) for attempt in place.attempts if attempt != committed]

    def _checkpoint(self, path: str, place: Place) -> Entry:
        known = place.identity in self._errors
        manifest, error = place.manifest, self._errors[place.identity] if known else _core.check(path)
        if error is None and not (manifest and place.usable):
            manifest, error = _manifest(path)
        if error is not None:
            return _entry(path, "damaged" if isinstance(error, CorruptionError) else "unreadable", detail=str(error))
        assert manifest is not None
        names = ("id", "step", "arrays", "chunks", "logical_bytes", "stored_bytes", "referenced_bytes")
        figures = {name: getattr(manifest.info, name) for name in names} | {"created": manifest.created}
        if manifest.base is not None:
            figures["base"], attempt = manifest.base
            if known and figures["base"] in self._by_name:
                status, _ = lineage.status_in(self._by_name[figures["base"]], attempt)
            else:
                state = lineage.base_state(path, manifest.base)
                assert state is not None
                status = state.status
            if status not in (lineage.COMMITTED, lineage.REMOVED):
                detail = f"its base {figures['base']!r} is {status}"
                status = "unreadable" if status == lineage.UNREADABLE else "damaged"
                return _entry(path, status, detail=detail, **figures)
        return _entry(path, "committed", **figures)


def _manifest(path: str) -> tuple[Manifest | None, Exception | None]:
    try:
        with Reader(path, threads=1) as reader:
            return reader.manifest(), None
    except (OstracaError, OSError, ValueError) as error:
        return None, error


def _attempt(path: str, place: Place, attempt: str) -> Entry:
    stored = sum(file.bytes for file in place.attempts[attempt])
    if attempt in place.tombstones:
        detail = "its bytes go when nobody can need them"
        return _entry(path, "removed", detail=detail, id=attempt, stored_bytes=stored)
    intent = place.intents.get(attempt)
    detail = "left over: no save claims these files"
    if intent is not None:
        detail = f"by process {intent.pid} on {intent.host}" if intent.readable else "its intent cannot be read"
        detail += {"runs": ", which is running", "gone": ", which is gone"}.get(intent.process, "")
    created = (intent and intent.created) or None
    return _entry(path, "unfinished", detail=detail, id=attempt, created=created, stored_bytes=stored)


def _entry(path: str, status: str, *, detail: str = "", **known: Any) -> Entry:
    entry: Entry = {
        "path": path,
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
        "tags": [],
        **known,
    }
    logical, stored = entry["logical_bytes"], entry["stored_bytes"]
    entry["ratio"] = None if logical is None or stored is None else text.ratio(stored, logical)
    return entry


def _show(directory: Path, entries: list[Entry]) -> None:
    prefix = "" if str(directory) == "." else str(directory).rstrip("/") + "/"
    tagged = any(entry["tags"] for entry in entries)
    rows = [
        (
            entry["path"].removeprefix(prefix) if entry["path"] != str(directory) else ".",
            "-" if entry["step"] is None else str(entry["step"]),
            _when(entry["created"]),
            text.number(entry["arrays"]),
            text.size(entry["logical_bytes"]),
            text.size(entry["stored_bytes"]),
            text.ratio_text(entry["ratio"]),
            entry["base"] or "-",
            *([", ".join(entry["tags"]) or "-"] if tagged else []),
            f"{entry['status']}: {entry['detail']}" if entry["detail"] else entry["status"],
        )
        for entry in entries
    ]
    headings = ["name", "step", "when (UTC)", "arrays", "logical", "stored", "ratio", "base"]
    headings += ["tags", "status"] if tagged else ["status"]
    text.show(text.table(headings, "<><>>>><" + "<" * tagged + "<", rows))


def _when(created: Any) -> str:
    return created.replace("T", " ").removesuffix("Z") if isinstance(created, str) else "-"
