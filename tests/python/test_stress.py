"""Movers, renamers, copiers, overwriters, pruners, compactors, savers and readers against each other: nothing that was
acknowledged and is kept is lost, and nothing is left over.

Each is a process of stress_roles.py. They work on one run for a while and end; then everything in the ledger is looked
up, everything that is not kept is pruned, and the next epoch begins. `make test` has one short epoch, `make stress` ten
minutes of them. OSTRACA_STRESS_SEED repeats the roles' choices (not the system's).
"""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

import ostraca
import stress_model as model
from ostraca import reference
from stress_model import GRACE_SECONDS, Entry, Ledger, is_kept, members, seed_of

STRESS = os.environ.get("OSTRACA_STRESS", "") not in ("", "0")
SECONDS = 600.0 if STRESS else 20.0
EPOCH_SECONDS = 30.0 if STRESS else 20.0
SEED = int(os.environ.get("OSTRACA_STRESS_SEED", "1"))
WAIT_SECONDS = 120.0  # for a role that was told to end
REFERENCE_EVERY = 10  # of the checkpoints that are checked; it is slow
CAST = (
    *("saver", "saver", "own_overwriter", "latest_overwriter", "latest_overwriter", "pruner", "pruner"),
    *("compactor", "renamer", "mover", "copier", "reader"),
)


@pytest.mark.timeout(10 * SECONDS + 4 * WAIT_SECONDS)
def test_nothing_is_lost(tmp_path: Path) -> None:
    for name in ("run", "away", "locks"):
        (tmp_path / name).mkdir()
    counts: Counter[str] = Counter()
    end = time.monotonic() + SECONDS
    epoch = 0
    while time.monotonic() < end:
        epoch += 1
        play(tmp_path, epoch, min(EPOCH_SECONDS, end - time.monotonic()), counts)
        check(tmp_path, epoch, counts)
    print(f"seed {SEED}, {epoch} epochs: {model.summary(counts)}")
    for what in ("saver: acknowledged", "pruner: removed", "pruner: freed", "compactor: compacted", "renamer: renamed"):
        assert counts[what], f"nothing was {what}"


def play(scratch: Path, epoch: int, seconds: float, counts: Counter[str]) -> None:
    """Everybody at once, for that long."""
    stop, script = scratch / "stop", Path(__file__).with_name("stress_roles.py")
    processes = []
    for i, role in enumerate(CAST):
        number = SEED * 100_000 + epoch * 100 + i
        command = [sys.executable, "-W", "ignore", script, role, str(number), str(epoch), str(scratch)]
        log = (scratch / f"log-{i}").open("w+")
        processes.append((role, log, subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)))
    said = []
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not any(process.poll() for _, _, process in processes):
            time.sleep(0.1)
        stop.touch()
        for role, log, process in processes:
            try:
                process.wait(WAIT_SECONDS)
            except subprocess.TimeoutExpired:
                said.append(f"{role} hangs")
            log.seek(0)
            lines = log.read().splitlines()
            if process.poll() != 0:
                said.append("\n".join([f"{role} ended with {process.poll()}:", *lines[-40:]]))
            elif lines:
                counts.update({f"{role}: {what}": n for what, n in json.loads(lines[-1]).items()})
    finally:
        for _, log, process in processes:
            process.kill()
            process.wait()
            log.close()
    stop.unlink()
    assert not said, f"seed {SEED}, epoch {epoch}, {scratch}:\n" + "\n".join(said)


def check(scratch: Path, epoch: int, counts: Counter[str]) -> None:
    """Nobody is at work."""
    run = scratch / "run"
    entries = Ledger(scratch / "ledger").entries()
    put_back(run, epoch)
    where = f"seed {SEED}, epoch {epoch}, {run}"
    kept = kept_seeds(entries, epoch)
    for step in ("before", "after"):
        for number, (name, seeds) in enumerate(sorted(kept.items())):
            found = load(run / name, f"{where}: {name}, {step} the prune")
            assert found in seeds, f"{where}: {name} holds seed {found}, acknowledged was {sorted(seeds)}"
            if number % REFERENCE_EVERY == 0 and step == "after":
                assert reference.verify(run / name) == [], f"{where}: {name}"
        if step == "before":
            report = model.prune(run, epoch, 0)
            unexplained = [(name, message) for name, message in report.errors if name in kept]
            assert not unexplained, f"{where}: {unexplained}"
    assert model.unnamed(run) == [], f"{where}: left over after {report}"
    assert not list((scratch / "away").iterdir())
    counts["kept and checked"] += len(kept)


def put_back(run: Path, epoch: int) -> None:
    """Places that a renamer left, as the directory had been made again; whoever made it is gone."""
    left = [other for other in run.iterdir() if other.name.startswith("renamed-")]
    if left:
        model.prune(run, epoch, GRACE_SECONDS)
        time.sleep(GRACE_SECONDS)
        model.prune(run, epoch, 0)
    for other in left:
        if other.exists():
            other.rename(run / other.name.split("-", 2)[2])


def kept_seeds(entries: list[Entry], epoch: int) -> dict[str, set[int]]:
    """The checkpoints that have to be there, and the seeds that each may have: a saver's own; of an overwritten one the
    last of each process that overwrote it in the last epoch in which somebody did."""
    kept: dict[str, set[int]] = {}
    last: dict[tuple[str, int], int] = {}
    for entry in entries:
        if not entry.acknowledged:
            continue
        if entry.name.startswith(model.OVERWRITTEN):
            if entry.epoch == epoch or entry.name == model.OWN_BASE:
                last[entry.name, entry.process] = entry.seed
        elif is_kept(model.metadata(entry.epoch, entry.keep), epoch):
            kept[entry.name] = {entry.seed}
    for (name, _), seed in last.items():
        kept.setdefault(name, set()).add(seed)
    return kept


def load(path: Path, where: str) -> int:
    try:
        report = ostraca.verify(path, deep=True)
        assert report.ok, report.damaged
        return seed_of(ostraca.load(path))
    except Exception as error:
        said = members(path)
        around = sorted(file.name for file in path.iterdir()) if path.exists() else "no directory"
        raise AssertionError(f"{where} is lost: {error!r}; its manifest: {said}; there is: {around}") from error
