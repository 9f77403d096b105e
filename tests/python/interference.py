"""What others do to a run of small_run.py while an operation on it is stopped: they rename, move, copy, overwrite."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ostraca
import small_run

ALL = (small_run.KEYFRAME, small_run.DELTA, small_run.OTHER_DELTA, small_run.PLAIN)
# The steps of what is saved, or arrives, meanwhile.
ARMED, BESIDE, ADDED, ARRIVING = 60, 50, 51, 8


@dataclass(frozen=True)
class Operation:
    """Something done by a process. `replaces`: the step that an overwrite replaces, `writes`: the one it writes."""

    name: str
    do: Callable[[Path], object]
    replaces: int | None = None
    writes: int | None = None
    keeps: frozenset[int] | None = None  # of a prune: all others may go


@dataclass(frozen=True)
class Interference:
    """`act` happens while the operation is stopped, `undo` when it has ended, whether it came to be stopped or not."""

    name: str
    act: Callable[[Path], None] = lambda run: None
    undo: Callable[[Path], None] = lambda run: None
    process: Operation | None = None  # what another process does meanwhile
    prepare: Callable[[Path], None] = lambda run: None
    brings: frozenset[int] = frozenset()  # the steps of checkpoints that are there when all is done
    needs_grace: bool = False  # looks to a prune as if a checkpoint had been removed by hand: only its age protects it


def prune(keep: frozenset[int], grace: float = 0) -> Operation:
    kept = keep | {ARMED, BESIDE, ADDED, ARRIVING}

    def do(run: Path) -> str:
        report = ostraca.prune(run, keep=lambda record: record.step in kept, grace_seconds=grace)
        return "ok" if report.ok else "ok with errors"

    return Operation("prune", do, keeps=keep)


def compact(name: str) -> Operation:
    return Operation(f"compact {name}", lambda run: ostraca.compact(run / name))


def overwrite(name: str, step: int, base: str | None = None) -> Operation:
    def do(run: Path) -> None:
        on = run / base if base else None
        ostraca.save(run / name, small_run.state(step), step=step, base=on, overwrite=True)

    return Operation(f"overwrite {name}" + (" as a delta" if base else ""), do, int(name), step)


def add_delta() -> Operation:
    def do(run: Path) -> None:
        ostraca.save(run / "added", small_run.state(ADDED), step=ADDED, base=run / small_run.KEYFRAME)

    return Operation("a new delta", do, None, ADDED)


def back(source: Path, target: Path) -> None:
    """Undoes a rename; where something new has taken the name, that stays and the old one keeps its other name."""
    if source.exists() and not target.exists():
        source.rename(target)


def named_again(name: str) -> Callable[[Path], None]:
    """Deltas name their keyframe, which has to get its name back; all others are found under their new ones."""
    return lambda run: back(run / "moved", run / name) if name == small_run.KEYFRAME else None


def renamed(name: str) -> Interference:
    def act(run: Path) -> None:
        if (run / name).exists():
            (run / name).rename(run / "moved")

    return Interference(f"rename {name}", act, named_again(name))


def away(name: str) -> Interference:
    def act(run: Path) -> None:
        if (run / name).exists():
            (run / name).rename(run.parent / "away")

    def undo(run: Path) -> None:
        back(run.parent / "away", run / name)
        back(run.parent / "away", run / "returned")

    return Interference(f"out of the run and back {name}", act, undo, needs_grace=True)


def copy_tree(source: Path, target: Path) -> None:
    """As `cp -a`: with modification times, the manifest last."""
    target.mkdir()
    files = sorted(source.iterdir(), key=lambda file: (file.name == "manifest.json", file.name))
    for file in files:
        shutil.copy2(file, target / file.name)
    shutil.copystat(source, target)


def copied(name: str) -> Interference:
    def act(run: Path) -> None:
        if (run / name).exists():
            copy_tree(run / name, run / "copy")

    return Interference(f"copy {name}", act)


def moved(name: str) -> Interference:
    """As `mv` between file systems."""

    def act(run: Path) -> None:
        if (run / name).exists():
            copy_tree(run / name, run / "moved")
            shutil.rmtree(run / name)

    return Interference(f"move by copying {name}", act, named_again(name))


def unmanifested(name: str) -> Interference:
    def act(run: Path) -> None:
        back(run / name / "manifest.json", run / name / "manifest.json.away")

    def undo(run: Path) -> None:
        aside = run / name / "manifest.json.away"
        back(aside, run / name / "manifest.json")
        aside.unlink(missing_ok=True)

    return Interference(f"manifest away {name}", act, undo, needs_grace=True)


def without_link(run: Path) -> None:
    (run / "link").unlink(missing_ok=True)


def linked(name: str, target: str) -> Interference:
    return Interference(f"link to {name}", lambda run: (run / "link").symlink_to(target), without_link)


def unlinked(name: str) -> Interference:
    return Interference(
        f"link to {name} removed",
        without_link,
        without_link,
        prepare=lambda run: (run / "link").symlink_to(name),
    )


def arriving(order: tuple[str, ...], count: int, hidden: bool) -> Interference:
    """The first files of a checkpoint of old ones arrive, the others when the operation has ended, the manifest last.

    `hidden`: the next file has arrived in part, under the name that `rsync` gives it until it is whole.
    """

    def files(run: Path) -> list[Path]:
        source = run.parent / "arriving"
        return [*(next(source.glob(f"{kind}*.ostraca")) for kind in order), source / "manifest.json"]

    def act(run: Path) -> None:
        target = run / "arrived"
        target.mkdir()
        for file in files(run)[:count]:
            shutil.copy2(file, target / file.name)
        if hidden:
            file = files(run)[count]
            (target / f".{file.name}.Xk2Q9z").write_bytes(file.read_bytes()[:100])
        shutil.copystat(run.parent / "arriving", target)

    def undo(run: Path) -> None:
        target = run / "arrived"
        if not target.exists():
            return  # nothing came of it, or its directory is gone: then `cp` fails
        for file in files(run)[count:]:
            if hidden:
                (target / f".{file.name}.Xk2Q9z").unlink(missing_ok=True)
            shutil.copy2(file, target / file.name)

    how = "in part" if hidden else "whole"
    return Interference(
        f"{count} files arrive {how}, {order[0]} first", act, undo, brings=frozenset({ARRIVING}), needs_grace=True
    )


def done(operation: Operation) -> Interference:
    return Interference(operation.name, process=operation)


KINDS: dict[str, list[Interference]] = {
    "rename": [renamed(name) for name in ALL],
    "away": [away(name) for name in ALL],
    "move": [moved(name) for name in ALL],
    "copy": [copied(name) for name in ALL],
    "manifest": [unmanifested(name) for name in ALL],
    "link": [
        *(linked(name, name) for name in ALL),
        linked("outside", "../outside"),
        *(unlinked(name) for name in ALL),
    ],
    "arrive": [
        *(arriving(("p", "index"), count, hidden) for count in (0, 1, 2) for hidden in (False, True)),
        *(arriving(("index", "p"), count, False) for count in (1, 2)),
    ],
    "overwrite": [
        *(done(overwrite(name, BESIDE)) for name in ALL[1:]),
        done(overwrite(small_run.DELTA, BESIDE, small_run.KEYFRAME)),
    ],
    "save": [done(add_delta())],
    "compact": [done(compact(name)) for name in (small_run.DELTA, small_run.OTHER_DELTA)],
    "prune": [done(prune(frozenset({1, 9})))],
}
OPERATIONS: dict[str, Operation] = {
    "prune": prune(frozenset({1, 9})),
    "compact": compact(small_run.DELTA),
    "overwrite": overwrite(small_run.PLAIN, ARMED),
    "overwrite-delta": overwrite(small_run.OTHER_DELTA, ARMED),
}


@dataclass
class Story:
    """What two processes did to the run at one point, to work out what must be there in the end."""

    armed: Operation
    armed_said: str = ""
    beside: Operation | None = None
    beside_said: str = ""
    beside_waited: bool = False  # it had not ended when the armed operation went on
    brought: frozenset[int] = frozenset()  # by others, and not to be pruned
    published: bool = False  # the armed operation's checkpoint was there already when it was stopped

    def required(self) -> list[frozenset[int]]:
        """Of each set one step must be there."""
        both = [(self.armed, self.armed_said)]
        if self.beside is not None:
            both.append((self.beside, self.beside_said))
        needed = {int(name) for name in ALL}
        for operation, _ in both:
            needed &= needed if operation.keeps is None else operation.keeps
        sets: list[set[int]] = []
        acknowledged = [o for o, said in both if o.writes is not None and said.startswith("ok")]
        for operation, said in both:
            if said.startswith("CommitUncertainError") and operation.replaces in needed:
                sets.append({operation.writes or 0, operation.replaces or 0})
        if len(acknowledged) == 2 and acknowledged[0].replaces == acknowledged[1].replaces:
            sets.append({o.writes or 0 for o in acknowledged if self.beside_waited or o is self._last()})
        else:
            sets += [{o.writes or 0} for o in acknowledged]
        replaced = {o.replaces for o, said in both if said.startswith(("ok", "CommitUncertainError"))}
        sets += [{step} for step in sorted((needed - replaced) | self.brought)]
        return [frozenset(steps) for steps in sets]

    def _last(self) -> Operation | None:
        """Which of two overwrites published last, where one began and ended while the other was stopped."""
        return self.beside if self.published else self.armed
