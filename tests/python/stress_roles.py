"""The roles of test_stress.py, a process each: `stress_roles.py ROLE NUMBER EPOCH SCRATCH`, until SCRATCH/stop exists.

A role ends with status 1 where it saw a loss or an error that nothing explains; its last line counts what it did.
"""

import contextlib
import fcntl
import io
import os
import random
import shutil
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import ostraca
import stress_model as model
from ostraca.cli import main as command
from stress_model import GRACE_SECONDS, OWN_BASE, Entry, Ledger, committed, is_kept, members, seed_of, tree_of

RETRY_SECONDS = 10.0
# What a save is told whose base was pruned, moved or renamed meanwhile: nothing was published, or it cannot be known.
REFUSED = (FileNotFoundError, ostraca.CorruptionError, ostraca.CommitUncertainError)


class Role:
    """What all of them have."""

    def __init__(self, number: int, epoch: int, scratch: Path) -> None:
        self.number, self.epoch = number, epoch
        self.run, self.away, self._stop = scratch / "run", scratch / "away", scratch / "stop"
        self._locks = scratch / "locks"
        self.ledger = Ledger(scratch / "ledger")
        self.rng = random.Random(number)
        self.counts: Counter[str] = Counter()
        self._seeds = number << 20

    def goes_on(self) -> bool:
        return not self._stop.exists()

    def rest(self, most_seconds: float) -> None:
        time.sleep(self.rng.uniform(0, most_seconds))

    def pick(self, *, kept: bool = False, delta: bool | None = None, savers: bool = True) -> str | None:
        """The name of some checkpoint."""
        names = [
            name
            for name, said in committed(self.run).items()
            if (not kept or is_kept(said.metadata, self.epoch))
            and (delta is None or delta == (said.base is not None))
            and (not savers or name.startswith("s"))
        ]
        return self.rng.choice(names) if names else None

    @contextlib.contextmanager
    def hands_on(self, name: str) -> Iterator[bool]:
        """People who rename and move agree on who does: gives whether the checkpoint is still there."""
        with (self._locks / name).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield members(self.run / name) is not None

    def begin(self, name: str, keep: bool) -> Entry:
        self._seeds += 1
        entry = Entry(name, self._seeds, self.number, self.epoch, keep, False)
        self.ledger.add(entry)
        return entry

    def acknowledge(self, entry: Entry) -> None:
        self.ledger.add(entry._replace(acknowledged=True))
        self.counts["acknowledged"] += 1

    def options(self, entry: Entry) -> dict[str, object]:
        epoch = 1 << 40 if entry.name.startswith(model.OVERWRITTEN) else self.epoch
        return {"step": entry.seed, "metadata": model.metadata(epoch, entry.keep)}

    def save(self, name: str, keep: bool, base: Path | None = None, overwrite: bool = False) -> Entry:
        entry = self.begin(name, keep)
        options = self.options(entry)
        ostraca.save(self.run / name, tree_of(entry.seed), base=base, overwrite=overwrite, **options)  # type: ignore[arg-type]
        self.acknowledge(entry)
        return entry


def saver(role: Role) -> None:
    """Keyframes with deltas. A delta may find that its keyframe is elsewhere, or pruned, if it was not to be kept."""
    n = 0
    while role.goes_on():
        keyframe = role.run / f"s{role.number}-{n}"
        role.save(keyframe.name, role.rng.random() < 0.3)
        for _ in range(role.rng.randrange(5)):
            n += 1
            try:
                role.save(f"s{role.number}-{n}", role.rng.random() < 0.3, base=keyframe)
            except REFUSED as error:
                role.counts[f"refused, {type(error).__name__}"] += 1
                break
        n += 1


def own_overwriter(role: Role) -> None:
    """The one who overwrites this name finds there what was saved last, whoever compacts it meanwhile."""
    base = role.run / OWN_BASE
    if members(base) is None:
        role.save(OWN_BASE, True)
    while role.goes_on():
        entry = role.save("own", True, base=base if role.rng.random() < 0.7 else None, overwrite=True)
        role.rest(0.02)
        found = seed_of(ostraca.load(role.run / "own"))
        assert found == entry.seed, f"`own` was acknowledged with seed {entry.seed}, and holds {found}"


def latest_overwriter(role: Role) -> None:
    """One of several; overlapping saves of this process commit in the order of their calls."""
    while role.goes_on():
        if role.rng.random() < 0.5:
            role.save("latest", True, overwrite=True)
            continue
        entries = [role.begin("latest", True) for _ in range(3)]
        path = role.run / "latest"
        handles = [
            ostraca.save_async(path, tree_of(entry.seed), overwrite=True, **role.options(entry))  # type: ignore[arg-type]
            for entry in entries
        ]
        for entry, handle in zip(entries, handles, strict=True):
            handle.result(120)
            role.acknowledge(entry)


def pruner(role: Role) -> None:
    while role.goes_on():
        report = model.prune(role.run, role.epoch, GRACE_SECONDS)
        role.counts["prunes"] += 1
        role.counts["removed"] += sum(1 for removed in report.removed if removed.reason == "not kept")
        role.counts["freed"] += sum(1 for removed in report.removed if removed.bytes)
        role.counts["errors, explained by others at work"] += len(report.errors)
        role.rest(0.02)


def compactor(role: Role) -> None:
    while role.goes_on():
        name = role.pick(delta=True, savers=False)
        if name is None:
            role.rest(0.05)
            continue
        try:
            ostraca.compact(role.run / name)
            role.counts["compacted"] += 1
        except (*REFUSED, ostraca.ExistsError, ostraca.CoordinationError) as error:
            # Pruned or overwritten meanwhile; its base is elsewhere at the moment; or its directory was renamed.
            role.counts[f"refused, {type(error).__name__}"] += 1


def renamer(role: Role) -> None:
    while role.goes_on():
        name = role.pick()
        if name is not None:
            other = role.run / f"renamed-{role.number}-{name}"
            with role.hands_on(name) as is_there, contextlib.suppress(FileNotFoundError):  # pruned meanwhile
                if is_there:
                    (role.run / name).rename(other)
                    role.counts["renamed"] += 1
                    role.rest(0.05)
                    put_back(role, other, role.run / name)
        role.rest(0.02)


def put_back(role: Role, other: Path, place: Path) -> None:
    """Where a save or a compaction that came too late has made the directory again, waits until it has ended."""
    end = time.monotonic() + RETRY_SECONDS
    while True:
        try:
            other.rename(place)
            return
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                raise
            if time.monotonic() > end:
                role.counts["left under another name"] += 1
                return
        time.sleep(0.01)


def mover(role: Role) -> None:
    """Takes a checkpoint that others need out of the run and back: by a rename, or as `mv` across file systems does,
    with the files' times and the manifest last."""
    while role.goes_on():
        name = role.pick(kept=True, delta=False)
        if name is None:
            role.rest(0.05)
            continue
        with role.hands_on(name) as is_there:
            if is_there:
                move(role, role.run / name, role.away / f"{role.number}-{name}")
                role.counts["moved"] += 1


def move(role: Role, place: Path, outside: Path) -> None:
    try:
        place.rename(outside)
    except FileNotFoundError:
        return
    role.rest(0.02)
    said = members(outside)
    if said is None or role.rng.random() < 0.3:
        put_back(role, outside, place)
        return
    names = [*role.rng.sample(sorted(said.files), len(said.files)), "manifest.json"]
    while True:
        started = time.monotonic()
        for name in names:
            place.mkdir(exist_ok=True)
            shutil.copy2(outside / name, place / name)
            shutil.copystat(outside, place)
            role.rest(0.01)
        in_time = time.monotonic() - started < GRACE_SECONDS / 2
        missing = [name for name in names if not (place / name).exists()]
        if not missing:
            break
        # What has not arrived within the grace may be swept, and is copied again.
        assert not in_time, f"{place.name}: {missing} went while it arrived"
    shutil.rmtree(outside)


def copier(role: Role) -> None:
    """Copies with times, the manifest last, and takes its copies out of the run again, each at once."""
    n = 0
    while role.goes_on():
        name = role.pick()
        if name is None:
            role.rest(0.05)
            continue
        n += 1
        source, copy = role.run / name, role.run / f"copy-{role.number}-{n}"
        copy.mkdir()
        started = time.monotonic()
        said = None
        with contextlib.suppress(FileNotFoundError):  # what is copied is pruned, compacted or renamed
            names = sorted((file.name for file in source.iterdir()), key=lambda name: name == "manifest.json")
            for file in names:
                shutil.copy2(source / file, copy / file)
            said = members(copy)
            if said and not said.files <= set(names):  # a compaction came between the listing and the manifest
                said = None
        in_time = time.monotonic() - started < GRACE_SECONDS / 2
        role.counts["copied" if said else "copied in part"] += 1
        if said and in_time and said.base is None and is_kept(said.metadata, role.epoch):
            seed_of(ostraca.load(copy))
            role.counts["copies checked"] += 1
        role.rest(0.1)
        trash = role.away / f"trash-{copy.name}"
        with contextlib.suppress(FileNotFoundError):
            copy.rename(trash)
            shutil.rmtree(trash)


def reader(role: Role) -> None:
    """What loads is one save's; `own` and `latest` are always there."""
    while role.goes_on():
        always = [name for name in model.OVERWRITTEN if members(role.run / name) is not None]
        name = role.rng.choice(always) if always and role.rng.random() < 0.5 else role.pick()
        if name is None:
            role.rest(0.05)
            continue
        try:
            if role.rng.random() < 0.5:
                seed_of(ostraca.load(role.run / name))
            else:
                with ostraca.open(role.run / name) as opened:
                    role.rest(0.1)
                    assert opened["weights"][...].shape == (300, 64)
            role.counts["read"] += 1
        except (FileNotFoundError, ostraca.CorruptionError) as error:
            assert name not in always, f"`{name}` cannot be read: {error}"
            role.counts[f"not read, {type(error).__name__}"] += 1
        if role.rng.random() < 0.05:
            with contextlib.redirect_stdout(io.StringIO()):
                assert command(["ls", str(role.run), "--json"]) in (0, 1, 2)
            role.counts["listed"] += 1


ROLES = {
    role.__name__: role
    for role in (saver, own_overwriter, latest_overwriter, pruner, compactor, renamer, mover, copier, reader)
}


def main() -> int:
    name, number, epoch, scratch = sys.argv[1:]
    role = Role(int(number), int(epoch), Path(scratch))
    try:
        ROLES[name](role)
    except BaseException:
        print(f"{name} {number}: {traceback.format_exc()}", flush=True)
        return 1
    finally:
        print(model.summary(role.counts), flush=True)
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)
