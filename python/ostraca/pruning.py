"""`prune`: removes the checkpoints of a directory that are not to be kept, and what killed saves left there.

In this order, so that a crash at any point, saves running beside it, open readers, and people who rename and copy lose
nothing that is kept:
  1. read everything and decide, before anything is changed;
  2. turn the manifest of each checkpoint that goes into a tombstone, under its exclusive lease and that of those who
     replace manifests, durably: from here on nobody can open it, or take it as a base;
  3. look again, until two looks agree: what live intents and manifests have as bases, intents first;
  4. free the bytes of tombstones that nobody has as a base or leases, and whose grace period is over: data files,
     index, and the tombstone last. Where something could not be read, no keyframe's;
  5. sweep the files of attempts to save that are dead: the intent last.
Whatever a crash leaves is a tombstone or a dead attempt, which the next prune finishes.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

from . import _core, catalog, options
from ._core import MANIFEST
from .catalog import Catalog, Claims, File, Listing, Place
from .errors import ExistsError, NotFoundError, OstracaError
from .keeping import Keep, check_keep, chosen
from .noting import PROTECTED, decoded, tags_of
from .options import StrPath
from .recency import disagreements, newest
from .reports import Manifest
from .upkeep_reports import CheckpointRecord, Kept, PruneReport, Removed

GRACE_SECONDS: Final = _core.GRACE_SECONDS


class Busy(Exception):
    """Somebody holds a lease; says what for."""


def prune(
    directory: StrPath,
    *,
    keep: Keep,
    dry_run: bool = False,
    grace_seconds: float = GRACE_SECONDS,
) -> PruneReport:
    """Removes the checkpoints directly below `directory` that are not kept, and files that no checkpoint names.

    keep: how many of the newest to keep (see `ostraca.newest`); or the names and steps of those to keep; or a function
    of a `CheckpointRecord` that says whether to. dry_run: change nothing, report what would be done.
    grace_seconds: how long bytes stay after their checkpoint was removed, and after a save last wrote, by the file
    server's clock. 0 is for directories that nobody else reads or writes: an hour covers readers on file systems
    without locks, pauses of saves on other machines, and files that are being copied or moved here.

    A checkpoint that goes loses its manifest now and its bytes in the first prune after the grace period. Until then
    renaming its `tombstone-<id>.json` back to `manifest.json` restores it. One that has an open reader, or that a
    symbolic link in the directory leads to, stays. One that a live checkpoint or a running save has as its base keeps
    its bytes. Other files and directories, and what lies elsewhere, are not touched.

    What readers would refuse is no checkpoint and stays as it is. While there is such a thing that may have any base,
    or something that cannot be read, no keyframe's bytes go.

    Raises `NotFoundError` when the directory, or a checkpoint to be kept, is not there, OSError when it cannot be
    changed, ValueError and TypeError, all before anything is changed. What cannot be read or removed later, and kept
    checkpoints whose base is gone, are in the report's `errors`; the rest goes on.
    """
    where = options.checked_path(directory)
    grace = _seconds(grace_seconds)
    check_keep(keep)
    return _Prune(where, bool(dry_run), grace).run(keep)


def _seconds(value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"grace_seconds must be a number, not {type(value).__name__}")
    if not 0 <= value < math.inf:
        raise ValueError(f"grace_seconds must be finite and not negative, not {value}")
    return float(value)


class _Item(NamedTuple):
    """A tombstone, or an attempt to save, and its files: what may go of a place."""

    place: Place
    id: str
    files: list[File]
    live: bool  # of the checkpoint that is there: then `files` are those that the commit should have removed


class _Prune:
    """One run."""

    def __init__(self, where: str, dry_run: bool, grace: float) -> None:
        self._where, self._dry_run, self._grace = where, dry_run, grace
        self._catalog = Catalog(where)
        self._run = self._catalog.run
        self._now = server_time(self._run, where, write=not dry_run)
        self._removed: dict[tuple[str, str], Removed] = {}
        self._kept: list[Kept] = []
        self._errors: list[tuple[str, str]] = []
        self._gone: dict[tuple[str, str], tuple[Manifest, int]] = {}  # not kept; its manifest and the bytes of that
        self._durable = True  # whether every sync succeeded

    def run(self, keep: Keep) -> PruneReport:
        listing, _ = self._scan()
        records = newest(catalog.records(listing.places, self._where))
        reasons = chosen(keep, records, listing, self._where)
        links = listing.kept_by_links()
        reasons |= {r.name: f"the link {links[r.name]!r} leads to it" for r in records if r.name in links}
        by_name = {place.name: place for place in listing.places}
        reasons |= {r.name: why for r in records if (why := _protection(by_name[r.name].facts(r.id)))}
        # The oldest first, and deltas before keyframes, so that as few as can be wait for each other.
        deltas_first = records[::-1]
        deltas_first.sort(key=lambda record: record.base is None)
        for record in deltas_first:
            if record.name in reasons:
                self._keep(record.name, record.id, reasons[record.name], record.step)
            else:
                self._attempt(self._bury, by_name[record.name], record)
        self._free()
        freed = sum(removed.bytes for removed in self._removed.values())
        removed = sorted(self._removed.values(), key=lambda r: (r.name, r.id))
        kept = sorted(self._kept, key=lambda k: (k.name, k.id))
        warnings = disagreements(records)
        return PruneReport(self._where, self._dry_run, removed, kept, self._errors, freed, warnings)

    def _scan(self) -> tuple[Listing, str]:
        listing, unsettled = self._catalog.settled()
        found = [(place.name, place.trouble) for place in listing.places if place.trouble]
        found += [(link.name, link.trouble) for link in listing.links if link.trouble]
        found += [(place.name, place.unknown) for place in listing.elsewhere if place.unknown]
        found += [(".", unsettled)] if unsettled else []
        self._errors += [error for error in found if error not in self._errors]
        return listing, unsettled

    def _keep(self, name: str, attempt: str, reason: str, step: int | None = None) -> None:
        self._kept.append(Kept(name, step, attempt, reason))

    def _attempt(self, action: Callable[..., bool], place: Place, *arguments: object) -> None:
        """Runs a step on one place; what fails there is noted, and the rest goes on. Where it removed something, the
        directory goes if that has left it empty."""
        try:
            storage = self._run.child(place.name, place.identity)
            removed = action(storage, place, *arguments)
            del storage  # leases over some file systems keep their files until here
            if removed and not self._dry_run:
                self._run.remove_directory(place.name)
        except FileNotFoundError:
            pass  # somebody else prunes or overwrites: it is done, or another's
        except (OSError, OstracaError) as error:
            self._fail(place, error)

    def _fail(self, place: Place, error: Exception) -> None:
        said = getattr(error, "strerror", None) or str(error)
        file = getattr(error, "filename", None)
        named = file is None or f"'{file}'" in said
        self._errors.append((place.name, said if named else f"{file}: {said}"))

    def _replacing(self, storage: _core.Storage) -> contextlib.AbstractContextManager[None]:
        if self._dry_run:
            return contextlib.nullcontext()
        return _leased(lambda: storage.lease_removing(MANIFEST), "it is being overwritten")

    # --- 2: tombstones

    def _bury(self, storage: _core.Storage, place: Place, record: CheckpointRecord) -> bool:
        try:
            with _exclusive(storage, MANIFEST), self._replacing(storage):
                text, version = storage.read(MANIFEST)
                known = place.manifest if version == place.version else None
                manifest = known or catalog.parse(text)
                if manifest.id != record.id:
                    self._keep(place.name, manifest.id, "it was overwritten meanwhile", manifest.info.step)
                    return False
                if not self._dry_run:
                    self._retire(storage, record.id, version)
        except Busy as busy:
            self._keep(place.name, record.id, str(busy), record.step)
            return False
        except FileNotFoundError:
            raise
        except (OstracaError, ValueError):
            self._keep(place.name, record.id, "it was overwritten meanwhile", record.step)
            return False
        self._gone[place.name, record.id] = manifest, len(text)
        self._removed[place.name, record.id] = Removed(place.name, record.step, record.id, "not kept", 0)
        return False

    def _retire(self, storage: _core.Storage, attempt: str, version: bytes) -> None:
        tombstone = f"tombstone-{attempt}.json"
        try:
            storage.retire(MANIFEST, version, tombstone)
        except ExistsError:  # there are no leases here, and an overwrite came between
            raise OSError(errno.EAGAIN, "it is being overwritten", MANIFEST) from None
        # Looked for after that, as whoever notes something looks after that whether the manifest is there.
        try:
            facts, unknown = storage.facts(attempt)
            why = _protection((decoded(facts), unknown))
        except (OstracaError, OSError):
            self._put_back(storage, tombstone)
            raise
        if why:
            self._put_back(storage, tombstone)
            raise Busy(why)
        self._sync_names(storage)

    def _put_back(self, storage: _core.Storage, tombstone: str) -> None:
        storage.restore(tombstone, MANIFEST)
        self._sync_names(storage)

    def _sync_names(self, storage: _core.Storage) -> None:
        try:
            storage.sync()
        except OSError:
            self._durable = False
            raise

    # --- 3 to 5: bytes

    def _free(self) -> None:
        listing, unsettled = self._scan()
        places = listing.places
        if self._dry_run:
            places[:] = [self._as_if(place) for place in places]
        self._now = server_time(self._run, self._where, write=not self._dry_run)
        claims = catalog.claims(listing, unsettled, self._now, self._grace)
        self._check_bases(listing)
        own = [place for place in places if place.usable]
        items = [item for place in own for item in _items(place)]
        if items and not self._dry_run:
            self._sync(own)
        if not self._durable:
            self._errors.append((".", "no bytes were freed: what was removed may not be durable"))
            return
        for item in items:
            self._attempt(self._free_item, item.place, item, claims)
        for place in own:
            old = place.lock is not None and catalog.age(place.lock, self._now) >= self._grace
            if old and not self._dry_run:
                self._attempt(self._sweep_lock, place)

    def _check_bases(self, listing: Listing) -> None:
        """What is kept must be readable: a base that was renamed or deleted is told."""
        by_name = {place.name: place for place in listing.places}
        by_name |= {link.name: by_name[link.place] for link in listing.links if link.place in by_name}
        for place in listing.places:
            if not place.usable or place.manifest is None or place.manifest.base is None:
                continue
            name, base_id = place.manifest.base
            there = by_name.get(name)
            if there is None or not (there.holds(base_id) or there.trouble):
                at = next((f"; it is in {p.name!r}: rename that" for p in listing.places if p.holds(base_id)), "")
                self._errors.append((place.name, f"its base is missing: expected checkpoint {base_id} in {name!r}{at}"))

    def _as_if(self, place: Place) -> Place:
        """A dry run's view of a place after step 2."""
        if place.manifest and (place.name, place.manifest.id) in self._gone:
            attempt = place.manifest.id
            size = self._gone[place.name, attempt][1]
            place.attempts.setdefault(attempt, []).append(File(MANIFEST, "tombstone", size, self._now))
            place.tombstones[attempt] = place.manifest
            place.manifest = None
        return place

    def _sync(self, places: list[Place]) -> None:
        """What a prune or an overwrite that was killed changed must be durable before what it let go of is."""
        for place in places:
            try:
                self._run.child(place.name, place.identity).sync()
            except FileNotFoundError:
                continue
            except OSError as error:
                self._durable = False
                self._fail(place, error)

    def _free_item(self, storage: _core.Storage, place: Place, item: _Item, claims: Claims) -> bool:
        tombstone = next((file for file in item.files if file.kind == "tombstone" and not item.live), None)
        if tombstone is None:
            return self._sweep(storage, place, item, claims)
        manifest, _ = self._gone.get((place.name, item.id), (place.tombstones.get(item.id), 0))
        step = manifest.info.step if manifest else None
        left = self._grace - catalog.age(tombstone.changed, self._now)
        named = claims.on(item.id) or (claims.unknown if not manifest or not manifest.base else "")
        if manifest and manifest.id != item.id:
            self._errors.append((place.name, f"{tombstone.name} is another's; rename it to {MANIFEST}"))
        elif named:
            self._keep(place.name, item.id, f"removed, but its bytes stay: {named}", step)
        elif left > 0:
            self._keep(place.name, item.id, f"removed; its bytes go in {left:.0f} seconds or later", step)
        else:
            earlier = Removed(place.name, step, item.id, "removed before; nobody needs its bytes now", 0)
            removed = self._removed.get((place.name, item.id), earlier)
            try:
                with _exclusive(storage, tombstone.name):
                    return self._remove(storage, item, tombstone, removed)
            except Busy as busy:
                self._keep(place.name, item.id, f"removed, but its bytes stay: {busy}", step)
        return False

    def _sweep(self, storage: _core.Storage, place: Place, item: _Item, claims: Claims) -> bool:
        why = catalog.is_live(place, item.id, self._now, self._grace)
        intent = next((file for file in item.files if file.kind == "intent"), None)
        # Where there is no intent it may have been a keyframe once, that was overwritten.
        named = "" if item.live else claims.on(item.id) or ("" if intent else claims.unknown)
        if why or named:
            self._keep(place.name, item.id, f"an unfinished save: {why}" if why else f"left over, but {named}")
            return False
        what = "an unfinished save" if intent else "files that no checkpoint names"
        removed = Removed(place.name, None, item.id, "left over from its save" if item.live else what, 0)
        try:
            return self._remove(storage, item, intent or item.files[-1], removed)
        except Busy as busy:
            self._keep(place.name, item.id, str(busy))
            return False

    def _sweep_lock(self, storage: _core.Storage, place: Place) -> bool:
        """A killed process left it. Who takes the lease removes the file on letting go."""
        with contextlib.suppress(Busy), self._replacing(storage):
            return not place.attempts and place.manifest is None
        return False

    def _remove(self, storage: _core.Storage, item: _Item, last: File, removed: Removed) -> bool:
        """Unlinks an item's files, `last` after all others. Whether there were any. Raises `Busy`."""
        freed = 0
        # The lease comes last, when all else speaks for it: its file changes the directory, whose age counts.
        with self._replacing(storage):
            if not self._dry_run and (self._committed(storage) == item.id) != item.live:
                return False  # it was put back, overwritten or committed at the last moment
            try:
                for file in [*(file for file in item.files if file != last), last]:
                    if not self._dry_run:
                        storage.remove(file.name)
                    freed += file.bytes
            finally:
                key = item.place.name, item.id
                if freed:
                    self._removed[key] = Removed(removed.name, removed.step, removed.id, removed.reason, freed)
        return True

    def _committed(self, storage: _core.Storage) -> str:
        """The id of the checkpoint that is there now; nothing can go where that cannot be told."""
        try:
            return catalog.parse(storage.read(MANIFEST)[0]).id
        except FileNotFoundError:
            return ""
        except (OstracaError, ValueError) as error:
            raise OSError(errno.EBUSY, f"it cannot be used now: {error}", MANIFEST) from None


@contextlib.contextmanager
def _leased(take: Callable[[], _core.Lease], holder: str) -> Iterator[None]:
    """Holds a lease. Raises `Busy`."""
    try:
        lease = take()
    except BlockingIOError:
        raise Busy(holder) from None
    with lease:
        yield


def _exclusive(storage: _core.Storage, name: str) -> contextlib.AbstractContextManager[None]:
    return _leased(lambda: storage.lease_exclusive(name), "a reader has it open")


def _protection(noted: tuple[dict[str, Any], bool]) -> str:
    """Why a checkpoint about which that is noted stays, whatever `keep` says."""
    facts, unknown = noted
    if PROTECTED in tags_of(facts):
        return f"it has the tag {PROTECTED!r}"
    return f"its newest notes cannot be read, and may have the tag {PROTECTED!r}" if unknown else ""


def server_time(run: _core.Run, where: str, *, write: bool) -> float:
    """Now, in seconds, by the clock that dates the directory's files; without `write` perhaps this machine's."""
    try:
        return run.now(write) / 1e9
    except NotFoundError:
        raise NotFoundError(f"there is no directory {where!r}") from None
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise OSError(error.errno, f"{why}: what lies in it cannot be removed", where) from None


def _items(place: Place) -> Iterable[_Item]:
    for attempt, files in place.attempts.items():
        live = place.manifest is not None and place.manifest.id == attempt
        files = [file for file in files if not live or file.kind in ("intent", "manifest", "tombstone")]
        if files:
            yield _Item(place, attempt, files, live)
