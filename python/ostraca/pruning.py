"""`prune`: removes the checkpoints of a directory that are not to be kept, and what killed saves left there.

In this order, so that a crash at any point, saves running beside it and open readers lose nothing that is kept:
  1. read everything and decide, before anything is changed;
  2. turn the manifest of each checkpoint that goes into a tombstone, under its exclusive lease, durably: from here on
     nobody can open it, or take it as a base;
  3. look again: what live intents and manifests name as bases, intents first;
  4. free the bytes of tombstones that nobody names or leases, and whose grace period is over: data files, index, and
     the tombstone last;
  5. sweep the files of attempts to save that are dead: the intent last.
Whatever a crash leaves is a tombstone or a dead attempt, which the next prune finishes.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, SupportsIndex

from . import options, run_directory
from .errors import NotFoundError, OstracaError
from .options import StrPath
from .reports import Manifest
from .run_directory import MANIFEST, Base, Busy, Claim, File, Place
from .upkeep_reports import CheckpointRecord, Kept, PruneReport, Removed

GRACE_SECONDS: Final = 3600.0  # longer than any save is silent, and than readers go on that the server gives no lease

Keep = SupportsIndex | Iterable["int | StrPath"] | Callable[[CheckpointRecord], bool]


def prune(
    directory: StrPath,
    *,
    keep: Keep,
    dry_run: bool = False,
    grace_seconds: float = GRACE_SECONDS,
) -> PruneReport:
    """Removes the checkpoints directly below `directory` that are not kept, and files that no checkpoint names.

    keep: how many of the newest to keep (by step, then time of creation); or the names and steps of those to keep; or
    a function of a `CheckpointRecord` that says whether to. dry_run: change nothing, report what would be done.
    grace_seconds: how long bytes stay after their checkpoint was removed, and after a save last wrote, by the file
    server's clock. 0 is for directories that nobody else reads or writes: an hour covers readers on file systems
    without locks, and pauses of saves on other machines.

    A checkpoint that goes loses its manifest now and its bytes in the first prune after the grace period. Until then
    renaming its `tombstone-<id>.json` back to `manifest.json` restores it. One that has an open reader stays. One that
    a live checkpoint or a running save names as its base keeps its bytes. Other files and directories, and what
    symbolic links lead to, are not touched.

    Raises `NotFoundError` when the directory, or a checkpoint to be kept, is not there, ValueError and TypeError, all
    before anything is changed. What cannot be read or removed later is in the report's `errors`; the rest goes on.
    """
    where = options.checked_path(directory)
    grace = _seconds(grace_seconds)
    _check_keep(keep)
    try:
        run = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFoundError(f"there is no directory {where!r}") from None
    try:
        return _Prune(run, where, bool(dry_run), grace).run(keep)
    finally:
        os.close(run)


def _seconds(value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"grace_seconds must be a number, not {type(value).__name__}")
    if not 0 <= value < math.inf:
        raise ValueError(f"grace_seconds must be finite and not negative, not {value}")
    return float(value)


def _check_keep(keep: Keep) -> None:
    if isinstance(keep, str | bytes | os.PathLike):
        raise TypeError(f"keep takes a list of names, not one: keep=[{keep!r}]")
    if callable(keep) or isinstance(keep, Iterable):
        return
    if isinstance(keep, bool) or not hasattr(keep, "__index__"):
        raise TypeError(f"keep must be a number, names and steps, or a function, not {type(keep).__name__}")
    options.checked_int("keep", keep, 0)


class _Item(NamedTuple):
    """A tombstone, or an attempt to save, and its files."""

    place: Place
    id: str
    files: list[File]
    live: bool  # of the checkpoint that is there: then `files` are those that the commit should have removed


class _Prune:
    """One run."""

    def __init__(self, run: int, where: str, dry_run: bool, grace: float) -> None:
        self._run, self._where, self._dry_run, self._grace = run, where, dry_run, grace
        self._now = run_directory.server_time(run, write=not dry_run)
        self._removed: dict[tuple[str, str], Removed] = {}
        self._kept: list[Kept] = []
        self._errors: list[tuple[str, str]] = []
        self._gone: dict[tuple[str, str], tuple[Manifest, int]] = {}  # not kept; its manifest and the bytes of that
        self._durable = True  # whether every sync succeeded

    def run(self, keep: Keep) -> PruneReport:
        places = self._scan()
        records = sorted((self._record(p, p.manifest) for p in places if p.manifest and not p.linked), key=_age)
        reasons = _chosen(keep, records[::-1], places, self._where)
        by_name = {place.name: place for place in places}
        # Deltas before keyframes, so that as few as can be wait for each other.
        for record in sorted(records, key=lambda r: r.base is None):
            if record.name in reasons:
                self._keep(record.name, record.id, reasons[record.name], record.step)
            else:
                self._attempt(self._bury, by_name[record.name], record)
        self._free()
        self._sweep_clocks()
        freed = sum(removed.bytes for removed in self._removed.values())
        removed = sorted(self._removed.values(), key=lambda r: (r.name, r.id))
        kept = sorted(self._kept, key=lambda k: (k.name, k.id))
        return PruneReport(self._where, self._dry_run, removed, kept, self._errors, freed)

    def _scan(self) -> list[Place]:
        places = run_directory.scan(self._run)
        found = [(place.name, place.trouble) for place in places if place.trouble and not place.linked]
        self._errors += [error for error in found if error not in self._errors]
        return places

    def _record(self, place: Place, manifest: Manifest) -> CheckpointRecord:
        path = os.path.join(self._where, place.name)  # noqa: PTH118
        base = manifest.base[0] if manifest.base else None
        return CheckpointRecord(
            place.name, path, manifest.id, manifest.info.step, manifest.created, manifest.metadata, manifest.info, base
        )

    def _keep(self, name: str, attempt: str, reason: str, step: int | None = None) -> None:
        self._kept.append(Kept(name, step, attempt, reason))

    def _attempt(self, action: Callable[..., None], place: Place, *arguments: object) -> None:
        """Runs a step on one directory; what fails there is noted, and the rest goes on."""
        try:
            fd = run_directory.open_child(self._run, place.name)
        except FileNotFoundError:
            return
        except OSError as error:
            self._fail(place, error)
            return
        try:
            action(fd, place, *arguments)
        except FileNotFoundError:
            pass  # somebody else prunes or overwrites: it is done, or another's
        except OSError as error:
            self._fail(place, error)
        finally:
            os.close(fd)

    def _fail(self, place: Place, error: OSError) -> None:
        file = f"{error.filename}: " if error.filename is not None else ""
        self._errors.append((place.name, f"{file}{error.strerror or error}"))

    # --- 2: tombstones

    def _bury(self, fd: int, place: Place, record: CheckpointRecord) -> None:
        try:
            with run_directory.exclusive(fd, MANIFEST) as lease:
                text = run_directory.read(fd, MANIFEST)
                manifest = run_directory.parse(place.name, text)
                if manifest.id != record.id:
                    self._keep(place.name, manifest.id, "it was overwritten meanwhile", manifest.info.step)
                    return
                if not self._dry_run:
                    self._rename(fd, record.id, lease)
        except Busy:
            self._keep(place.name, record.id, "a reader has it open", record.step)
            return
        except (OstracaError, ValueError):
            self._keep(place.name, record.id, "it was overwritten meanwhile", record.step)
            return
        self._gone[place.name, record.id] = manifest, len(text)
        self._removed[place.name, record.id] = Removed(place.name, record.step, record.id, "not kept", 0)

    def _rename(self, fd: int, attempt: str, lease: int) -> None:
        tombstone = f"tombstone-{attempt}.json"
        os.utime(lease)  # by the server's clock; first, so that no tombstone ever looks older than it is
        os.rename(MANIFEST, tombstone, src_dir_fd=fd, dst_dir_fd=fd)
        if not run_directory.same_file(fd, tombstone, lease):
            # There are no leases here, and an overwrite came between: what was renamed is the new manifest.
            with contextlib.suppress(FileExistsError):
                os.link(tombstone, MANIFEST, src_dir_fd=fd, dst_dir_fd=fd)
            os.unlink(tombstone, dir_fd=fd)
            raise OSError(errno.EAGAIN, "it is being overwritten", MANIFEST)
        try:
            run_directory.sync(fd)
        except OSError:
            self._durable = False
            raise

    # --- 3 to 5: bytes

    def _free(self) -> None:
        places = self._scan()
        if self._dry_run:
            places = [self._as_if(place) for place in places]
        self._now = run_directory.server_time(self._run, write=not self._dry_run)
        claims, unknown = run_directory.claims(places, self._now, self._grace)
        own = [place for place in places if not place.linked and not place.foreign and not place.trouble]
        items = [item for place in own for item in _items(place)]
        if items and not self._dry_run:
            self._sync(own)
        if not self._durable:
            self._errors.append((".", "no bytes were freed: what was removed may not be durable"))
            return
        for item in items:
            tombstone = next((file for file in item.files if file.kind == "tombstone" and not item.live), None)
            if tombstone is not None:
                self._attempt(self._free_tombstone, item.place, item, tombstone, claims, unknown)
            else:
                self._attempt(self._sweep, item.place, item, claims, unknown)

    def _as_if(self, place: Place) -> Place:
        """A dry run's view of a place after step 2."""
        if place.manifest and (place.name, place.manifest.id) in self._gone:
            attempt = place.manifest.id
            size = self._gone[place.name, attempt][1]
            place.attempts.setdefault(attempt, []).append(File(MANIFEST, "tombstone", size, self._now))
            place.manifest = None
        return place

    def _sync(self, places: list[Place]) -> None:
        """What a prune or an overwrite that was killed changed must be durable before what it let go of is."""
        for place in places:
            try:
                fd = run_directory.open_child(self._run, place.name)
            except FileNotFoundError:
                continue
            try:
                run_directory.sync(fd)
            except OSError as error:
                self._durable = False
                self._fail(place, error)
            finally:
                os.close(fd)

    def _free_tombstone(
        self, fd: int, place: Place, item: _Item, tombstone: File, claims: list[Claim], unknown: str
    ) -> None:
        left = tombstone.modified + self._grace - self._now
        try:
            with run_directory.exclusive(fd, tombstone.name):
                gone = self._gone.get((place.name, item.id))
                manifest = gone[0] if gone else _tombstone(place, fd, tombstone)
                step = manifest.info.step if manifest else None
                named = _named(place, item.id, claims) or (unknown if not manifest or not manifest.base else "")
                if manifest and manifest.id != item.id:
                    self._errors.append((place.name, f"{tombstone.name} is another's; rename it to {MANIFEST}"))
                elif named:
                    self._keep(place.name, item.id, f"removed, but its bytes stay: {named}", step)
                elif left > 0:
                    self._keep(place.name, item.id, f"removed; its bytes go in {left:.0f} seconds or later", step)
                else:
                    earlier = Removed(place.name, step, item.id, "removed before; nobody needs its bytes now", 0)
                    self._remove(fd, item, tombstone, self._removed.get((place.name, item.id), earlier))
        except Busy:
            self._keep(place.name, item.id, "removed, but its bytes stay: a reader has it open")

    def _sweep(self, fd: int, place: Place, item: _Item, claims: list[Claim], unknown: str) -> None:
        why = run_directory.is_live(place, item.id, self._now, self._grace)
        intent = next((file for file in item.files if file.kind == "intent"), None)
        # Where there is no intent it may have been a keyframe once, that was overwritten.
        named = "" if item.live else _named(place, item.id, claims) or ("" if intent else unknown)
        if why or named:
            self._keep(place.name, item.id, f"an unfinished save: {why}" if why else f"left over, but {named}")
            return
        if not item.live and _committed(place, fd) == item.id:
            return  # at the last moment
        what = "an unfinished save" if intent else "files that no checkpoint names"
        removed = Removed(place.name, None, item.id, "left over from its save" if item.live else what, 0)
        self._remove(fd, item, intent or item.files[-1], removed)

    def _remove(self, fd: int, item: _Item, last: File, removed: Removed) -> None:
        """Unlinks an item's files, `last` after all others, and the directory if that leaves it empty."""
        freed = 0
        try:
            for file in [*(file for file in item.files if file != last), last]:
                if not self._dry_run:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(file.name, dir_fd=fd)
                freed += file.bytes
        finally:
            key = item.place.name, item.id
            if freed:
                self._removed[key] = Removed(removed.name, removed.step, removed.id, removed.reason, freed)
        if not self._dry_run:
            with contextlib.suppress(FileNotFoundError):
                try:
                    os.rmdir(item.place.name, dir_fd=self._run)
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise

    def _sweep_clocks(self) -> None:
        """Files of `run_directory.server_time` that a killed prune left."""
        for name in os.listdir(self._run):  # noqa: PTH208
            if not self._dry_run and run_directory.CLOCK.fullmatch(name):
                with contextlib.suppress(OSError):
                    about = os.stat(name, dir_fd=self._run, follow_symlinks=False)
                    if about.st_mtime + self._grace < self._now:
                        os.unlink(name, dir_fd=self._run)


def _age(record: CheckpointRecord) -> tuple[bool, int, str, str]:
    return record.step is not None, record.step or 0, record.created, record.name


def _chosen(keep: Keep, records: list[CheckpointRecord], places: list[Place], where: str) -> dict[str, str]:
    """The names of the checkpoints to keep, and why; `records` are the newest first."""
    if callable(keep):
        return {record.name: "keep() says so" for record in records if keep(record)}
    if not isinstance(keep, Iterable):
        count = options.checked_int("keep", keep, 0)
        return {record.name: f"one of the newest {count}" for record in records[:count]}
    known = {record.name for record in records} | {place.name for place in places if place.trouble}
    chosen: dict[str, str] = {}
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
        chosen |= dict.fromkeys(names, "to be kept")
    return chosen


def _name(wanted: StrPath, where: str) -> str:
    """The name of a child: given as such, as a path, or as a link beside it."""
    text = os.fsdecode(wanted)
    is_name = os.path.basename(text) == text  # noqa: PTH119
    path = os.path.join(where, text) if is_name else options.checked_path(text)  # noqa: PTH118
    parent, name = os.path.split(os.path.realpath(path))
    return name if parent == os.path.realpath(where) else ""


def _items(place: Place) -> Iterable[_Item]:
    """What may go of a directory."""
    for attempt, files in place.attempts.items():
        live = place.manifest is not None and place.manifest.id == attempt
        files = [file for file in files if not live or file.kind in ("intent", "manifest", "tombstone")]
        if files:
            yield _Item(place, attempt, files, live)


def _named(place: Place, attempt: str, claims: list[Claim]) -> str:
    by = next((claim.by for claim in claims if claim.base == Base(place.name, attempt)), "")
    return f"{by} has it as its base" if by else ""


def _committed(place: Place, fd: int) -> str:
    """The id of the checkpoint that is there now."""
    try:
        return run_directory.parse(place.name, run_directory.read(fd, MANIFEST)).id
    except (FileNotFoundError, OstracaError, ValueError):
        return ""


def _tombstone(place: Place, fd: int, tombstone: File) -> Manifest | None:
    """What a tombstone says, if it can be read."""
    try:
        return run_directory.parse(place.name, run_directory.read(fd, tombstone.name))
    except (OstracaError, ValueError):
        return None
