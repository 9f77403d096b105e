"""A run of one checkpoint of each kind, in a directory with other people's files, and a culprit put into it.

`first` and `second` are what upkeep does to it; `check_first` and `check_second` say what it must have come to.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import socket
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import format_writer
import ostraca
import small_run
import stopped
from ostraca.cli import main
from small_run import DELTA, KEYFRAME, OTHER_DELTA, PLAIN

OTHER_PLAIN, DEAD, GONE = "8", "dead", "gone"  # the last two: a save that was killed, a checkpoint that was removed
PLACES = (KEYFRAME, DELTA, OTHER_DELTA, OTHER_PLAIN, PLAIN, DEAD, GONE)
KEPT = (DELTA, PLAIN)
NEW = 60  # the step of what overwrites
READ_BYTES_MAX = 1 << 20  # of larger files, size and times are compared
ALIEN = "f" * 32  # an id that nothing has

Snapshot = dict[str, tuple[Any, ...]]


def make(top: Path) -> None:
    """`top/run`, and beside it a home directory and a checkpoint of somebody else."""
    run = top / "run"
    small_run.make(run)
    ostraca.save(run / OTHER_PLAIN, small_run.state(8), step=8)
    ostraca.save(run / GONE, small_run.state(7), step=7)
    tombstone(run / GONE).hardlink_to(run / GONE / "manifest.json")
    (run / GONE / "manifest.json").unlink()
    child = stopped.Child(lambda: _die_saving(run / DEAD, run / KEYFRAME), top / "said")
    child.wait()
    (top / "said").unlink(missing_ok=True)
    (run / "notes").mkdir()
    (run / "notes" / "todo.txt").write_text("buy milk")
    (run / "notes.txt").write_text("results so far")
    for name in ("settings", "settings.json"):
        (top / "home").mkdir(exist_ok=True)
        (top / "home" / name).write_text('{"theme": "dark"}')
    shutil.copytree(run / PLAIN, top / "outside")
    small_run.age(run)


def _die_saving(path: Path, base: Path) -> None:
    writer = ostraca.Writer(path, base=base)
    writer.add("x", small_run.state(5)["w"], dtype="float32", shape=(22_000,))
    writer.finish()
    os._exit(0)


def attempt_of(place: Path) -> str:
    return next(place.glob("p00000-*")).name[7:39]


def tombstone(place: Path) -> Path:
    return place / f"tombstone-{attempt_of(place)}.json"


def snapshot(top: Path, *, without: str = "") -> Snapshot:
    """Everything in it, links not followed; `without` one directory."""
    found: Snapshot = {}
    for folder, directories, files in os.walk(top):
        directories[:] = [name for name in directories if os.path.join(folder, name) != without]  # noqa: PTH118
        for name in [*directories, *files]:
            path = Path(folder) / name
            about = path.lstat()
            key = str(path.relative_to(top))
            kind = stat.S_IFMT(about.st_mode)
            if stat.S_ISREG(about.st_mode):
                raw = path.read_bytes() if about.st_size <= READ_BYTES_MAX else about.st_size
                found[key] = kind, about.st_mtime_ns, raw
            else:
                found[key] = kind, str(path.readlink()) if path.is_symlink() else ""
    return found


def differing(before: Snapshot, after: Snapshot) -> list[str]:
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


# --- Culprits: file types


def _link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def _socket(path: Path) -> None:
    here = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{here}/{path.name}")  # the path itself may be too long
    os.close(here)


def _directory(path: Path) -> None:
    path.mkdir()
    (path / "inside.txt").write_text("somebody's")


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


TYPES: dict[str, Callable[[Path], object]] = {
    "FIFO": lambda path: os.mkfifo(path),
    "directory": _directory,
    "link to a file outside": _link("../../home/settings.json"),
    "link to a manifest outside": _link("../../outside/manifest.json"),
    "link to a directory outside": _link("../../outside"),
    "loop": _loop,
    "socket": _socket,
    "device": lambda path: os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3)),
    "empty": lambda path: path.touch(),
}


def large_files(top: Path) -> dict[str, Path]:
    """57 MiB of text, of nested lists, and of nested lists in a sealed manifest and intent."""
    count = 57 << 20
    manifest = small_run.members(top / "run" / PLAIN / "manifest.json")
    intent = small_run.members(next((top / "run" / DEAD).glob("intent-*")))
    found = {"57 MiB of text": b"x" * count, "57 MiB of nested lists": b"[" * (count // 2) + b"]" * (count // 2)}
    for name, document in {"manifest": manifest, "intent": intent}.items():
        head, end = sealed(document | {"metadata": "@"}).split(b'"@"')
        raw = head + b"[" * (count // 2) + b"]" * (count // 2) + end
        found[f"57 MiB of nested lists in a sealed {name}"] = resealed(raw)
    folder = top.parent / "large"
    folder.mkdir()
    head, end = sealed(manifest | {"metadata": "@"}).split(b'"@"')
    found["57 MiB of empty lists in a sealed manifest"] = resealed(head + b"[" + b"[]," * (count // 3) + b"[]]" + end)
    for name, raw in found.items():
        (folder / name).write_bytes(raw)
    return {name: folder / name for name in found}


def files_of(place: Path) -> dict[str, Path]:
    """What lies, or may lie, in a checkpoint's directory."""
    attempt = attempt_of(place)
    names = {
        "manifest": "manifest.json",
        "index": f"index-{attempt}.ostraca",
        "data": f"p00000-{attempt}.ostraca",
        "intent": f"intent-{attempt}.json",
        "other intent": f"intent-{ALIEN}.json",
        "tombstone": f"tombstone-{attempt}.json",
        "other tombstone": f"tombstone-{ALIEN}.json",
        "temporary manifest": f"manifest-{attempt}.json",
        "lease": "manifest.json.lock",
    }
    return {what: place / name for what, name in names.items()}


# --- Culprits: members

MISSING = object()


def values(other_id: str) -> list[Any]:
    """Every JSON type, and text that means something in a path."""
    nested: Any = []
    for _ in range(600):
        nested = [nested]
    paths = ["../../../../home/settings", "/../../9/manifest", "../../x", "/etc/passwd", "a/../b", "..", ".", "x\0y"]
    texts = ["", "text", "x\ny", "n" * 300, "é" * 16, "0" * 32, "0" * 31, "A" * 32, other_id]
    plain = [MISSING, None, True, 0, -1, 1 << 40, 1 << 63, 1.5, 1e308, [], [1], {}, {"file": "../x"}, nested]
    return [*paths, *texts, *plain]


def paths_in(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where a document has members, nested ones too."""
    found = [path] if path else []
    if isinstance(document, dict):
        found += [p for key, value in document.items() if key != "crc32c" for p in paths_in(value, (*path, key))]
    elif isinstance(document, list):
        found += [p for i, value in enumerate(document) for p in paths_in(value, (*path, i))]
    return found


def replaced(document: dict[str, Any], path: tuple[Any, ...], value: Any) -> bytes:
    """A document with another member, sealed."""
    edited = json.loads(json.dumps(document))
    holder = edited
    for key in path[:-1]:
        holder = holder[key]
    if value is MISSING:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    return sealed(edited)


def sealed(document: dict[str, Any]) -> bytes:
    return format_writer.manifest_bytes({key: value for key, value in document.items() if key != "crc32c"})


def resealed(raw: bytes) -> bytes:
    """A document with the crc that it must end with."""
    head = raw[: raw.rindex(b'"crc32c": "') + len(b'"crc32c": "')]
    return head + f'{format_writer.crc32c.crc32c(head):08x}"\n}}\n'.encode()


def make_paths_whole(place: Path) -> None:
    """The directories that names built from text with `..` would lead through."""
    for kind in ("tombstone", "manifest", "intent", "index", "p00000"):
        (place / f"{kind}-..").mkdir()
        (place / f"{kind}-").mkdir()


# --- What is done to it, and what must hold then


@dataclass(frozen=True)
class Culprit:
    """Where something hostile lies: a file of a place, or with `file` empty in the run itself, in place of a directory.

    `frees`: it takes the kept delta's claim on its keyframe away.
    """

    place: str
    file: str
    what: str
    put: Callable[[Path], object]
    frees: bool = False

    def into(self, run: Path) -> None:
        path = run / self.place / self.file
        if path.is_file():
            path.unlink()
        self.put(path)


def first(run: Path) -> str:
    """`ls`, which changes nothing, and a prune; what they print."""
    before = snapshot(run)
    listing = {}
    for arguments in (["ls", str(run)], ["ls", "--json", str(run)]):
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            status = main(arguments)
        assert status in (0, 1, 2), f"`ls` returns {status}"
        assert "Traceback" not in out.getvalue()
        listing = {"status": status, "said": out.getvalue()}
    assert not differing(before, snapshot(run)), f"`ls` changes {differing(before, snapshot(run))}"
    report = ostraca.prune(run, keep=lambda record: record.name in KEPT, grace_seconds=0)
    return json.dumps({"ls": listing, "ok": report.ok, "errors": report.errors, "kept": str(report)})


def check_first(before: Snapshot, top: Path, culprit: Culprit, said: str) -> None:
    """What `first` must have left, whatever the culprit is."""
    after = snapshot(top)
    assert said.startswith("{"), said
    told = json.loads(said)
    assert told["ls"]["said"].startswith("{"), f"`ls` fails whole: {told['ls']['said']}"
    entries = json.loads(told["ls"]["said"])["checkpoints"]
    statuses = {Path(entry["path"]).name: entry["status"] for entry in entries}
    # Deltas are as damaged as their keyframe.
    listed = {KEYFRAME, DELTA, OTHER_DELTA, OTHER_PLAIN, PLAIN} - {culprit.place}
    listed -= {DELTA, OTHER_DELTA} if culprit.place == KEYFRAME else set()
    wrong = {name: statuses.get(name) for name in listed if statuses.get(name) not in ("ok", "committed")}
    assert not wrong, f"`ls` says of others {wrong}"
    touched = [name for name in differing(before, after) if name.split("/")[:2][-1] not in PLACES]
    assert not touched, f"what is none of its business changed: {touched}"
    for name in KEPT:  # the culprit's, too: it is to be kept, or nobody knows what it is
        changed = [
            file for file in differing(before, after) if file.startswith(f"run/{name}/") or file == f"run/{name}"
        ]
        assert not (set(changed) - _leftovers(name, culprit)), f"of the kept {name!r}: {changed}"
    if not culprit.frees:
        assert not (lost := _lost_bytes(before, after)), f"a delta that is kept needs {lost}"
    gone = {OTHER_DELTA, DEAD} | ({GONE, OTHER_PLAIN} if told["ok"] else set())
    for name in sorted(gone - {culprit.place}):
        left = [file for file in after if file == f"run/{name}" or file in _below(name, after)]
        assert not left, f"{left} had to go"
    for name in {KEYFRAME, OTHER_PLAIN} - {culprit.place}:
        assert f"run/{name}/manifest.json" not in after, f"{name!r} is not kept and still there"


def _below(name: str, files: Iterable[str]) -> list[str]:
    return [file for file in files if file.startswith(f"run/{name}/")]


def _lost_bytes(before: Snapshot, after: Snapshot) -> list[str]:
    """Files of the keyframe that are not there any more."""
    return [file for file in _below(KEYFRAME, before) if file.endswith(".ostraca") and file not in after]


def _leftovers(name: str, culprit: Culprit) -> set[str]:
    """What may go of a kept checkpoint's directory: the culprit itself, where it is none of the checkpoint's files."""
    is_own = culprit.file == "manifest.json" or culprit.file.endswith(".ostraca")
    return set() if name != culprit.place or is_own else {f"run/{name}/{culprit.file}"}


def second(run: Path, culprit: str) -> str:
    """Overwrites the culprit's place, compacts the delta and overwrites a plain checkpoint; what each came to."""

    def overwrite(name: str) -> Callable[[], object]:
        return lambda: ostraca.save(run / name, small_run.state(NEW), step=NEW, overwrite=True)

    steps = {
        "itself": overwrite(culprit),
        "compact": lambda: ostraca.compact(run / DELTA),
        "overwrite": overwrite(PLAIN),
    }
    found = {what: stopped.outcome(step) for what, step in steps.items() if what != "itself" or culprit in PLACES}
    return json.dumps(found)


def check_second(before: Snapshot, top: Path, culprit: Culprit, said: str) -> None:
    after = snapshot(top)
    assert said.startswith("{"), said
    told = json.loads(said)
    unexpected = {what: text for what, text in told.items() if text.startswith("unexpected")}
    assert not unexpected, unexpected
    own = {DELTA, PLAIN, culprit.place}
    touched = [name for name in differing(before, after) if f"{name}/".split("/")[1] not in own or name[:4] != "run/"]
    assert not touched, f"of others: {touched}"
    if culprit.place != PLAIN:
        assert told["overwrite"] == "ok", f"another place cannot be overwritten: {told['overwrite']}"
    if told["overwrite"] == "ok":
        small_run.check_loads(top / "run" / PLAIN, NEW, thorough=False)
    if culprit.place not in (KEYFRAME, DELTA):
        assert told["compact"] == "ok", f"another place cannot be compacted: {told['compact']}"
        small_run.check_loads(top / "run" / DELTA, 1, thorough=False)
    if told.get("itself") == "ok" and culprit.place not in (DELTA, PLAIN):
        small_run.check_loads(top / "run" / culprit.place, NEW, thorough=False)
    if culprit.place == KEYFRAME and told["compact"] != "ok":
        assert not (lost := _lost_bytes(before, after)), f"a delta still names {lost}"
