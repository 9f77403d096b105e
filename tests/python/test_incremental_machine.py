"""Random saves, deltas, overwrites, prunes, compactions, kills and damage: after each, every checkpoint that was
committed and kept loads bit-exactly, and after a prune no file is left that no manifest names.

Hypothesis draws the steps. As in test_crash.py, this file is also the script that tests/faults/interpose.c is preloaded
into. `OSTRACA_STRESS=1` (make stress) takes minutes instead of seconds.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

import ostraca
from ostraca import reference

STRESS = os.environ.get("OSTRACA_STRESS", "") not in ("", "0")
EXAMPLES = 2000 if STRESS else 60
STEPS = 40 if STRESS else 25
TIMEOUT_SECONDS = 3600 if STRESS else 250
NAMES = 5
REFERENCE_EVERY = 10  # steps between looks with the reference reader


@pytest.mark.timeout(TIMEOUT_SECONDS + 30)
def test_machine(shim: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "LD_PRELOAD": str(shim), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", __file__, str(shim), str(tmp_path)]
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT_SECONDS
    )
    assert done.returncode == 0, done.stdout
    print(done.stdout)


# --- In the script ----------------------------------------------------------------------------------------------------

sys.path.insert(0, str(Path(__file__).parent))

import incremental_model as model  # noqa: E402
from trees import same  # noqa: E402

numbers = st.integers(0, 2**20)
names = st.integers(0, NAMES - 1)
strikes = st.none() | st.none() | numbers  # a third of the operations dies
changes = st.lists(st.sampled_from(model.CHANGES), max_size=3)
chunk_shapes = st.none() | st.none() | st.sampled_from([(64, 64), (100, 32)])
ways = st.sampled_from(["save", "async", "snapshot"])


class Committed(NamedTuple):
    """What a checkpoint must hold."""

    tree: model.Tree
    id: str
    base: tuple[str, str] | None


class Machine(RuleBasedStateMachine):
    """One directory of checkpoints. No rule's arguments depend on it, so that what a killed one leaves may differ."""

    striker: model.Striker
    scratch: Path

    def __init__(self) -> None:
        super().__init__()
        self.top = Path(tempfile.mkdtemp(dir=self.scratch))
        self.run = self.top / "run"
        self.run.mkdir()
        self.committed: dict[str, Committed] = {}
        self.steps = 0

    def teardown(self) -> None:
        try:
            self.check_prune(list(self.committed))
            for name, held in self.committed.items():
                same(held.tree, reference.load(self.run / name))
        finally:
            shutil.rmtree(self.top)

    # --- Rules

    @initialize(seed=numbers)
    def first(self, seed: int) -> None:
        self.save("c0", model.initial(seed % 3), None, None, "save", None)

    @rule(name=names, seed=numbers, chunk=chunk_shapes, way=ways, strike=strikes)
    def save_full(self, name: int, seed: int, chunk: Any, way: str, strike: int | None) -> None:
        tree = model.changed(model.initial(seed % 3), ["nudge"], seed)
        self.save(f"c{name}", tree, None, chunk, "save" if way == "snapshot" else way, strike)

    @rule(name=names, on=numbers, what=changes, seed=numbers, chunk=chunk_shapes, way=ways, strike=strikes)
    def save_delta(
        self, name: int, on: int, what: list[str], seed: int, chunk: Any, way: str, strike: int | None
    ) -> None:
        base = self.pick(on)
        if base is not None:
            tree = model.changed(self.committed[base].tree, what, seed)
            self.save(f"c{name}", tree, base, chunk, way, strike)

    @rule(kept=numbers, strike=strikes)
    def prune(self, kept: int, strike: int | None) -> None:
        keep = [name for i, name in enumerate(sorted(self.committed)) if kept >> 2 * i & 3]  # three of four
        outcome = self.operate(lambda run: ostraca.prune(run, keep=keep, grace_seconds=0), strike)
        assert not outcome.error, outcome
        for name in self.committed.keys() - set(keep):
            if not (self.run / name / "manifest.json").exists():
                del self.committed[name]
            else:
                assert outcome.killed, f"{name} is still there"
        if not outcome.killed:
            self.check_nothing_else()

    @rule(which=numbers, strike=strikes)
    def compact(self, which: int, strike: int | None) -> None:
        name = self.pick(which)
        if name is None:
            return
        outcome = self.operate(lambda run: ostraca.compact(run / name), strike)
        assert not outcome.error, outcome
        held = self.committed[name]
        self.committed[name] = Committed(held.tree, *model.identity(self.run / name))
        if not outcome.killed:
            assert self.committed[name].base is None
        elif self.committed[name].base is not None:
            assert self.committed[name].id == held.id

    @rule(which=numbers, file=numbers, offset=numbers, mask=st.integers(1, 255), on_damaged=st.none() | names)
    def damage(self, which: int, file: int, offset: int, mask: int, on_damaged: int | None) -> None:
        """A byte of a file that somebody names changes, and is then written back."""
        name = self.pick(which)
        if name is None:
            return
        files = sorted(set(model.needed(self.run / name)))
        victim = files[file % len(files)]
        content = bytearray(victim.read_bytes())
        at = offset * 37 % len(content)
        content[at] ^= mask
        hypothesis.note(f"damaged {victim.relative_to(self.run)} at {at}")
        self.rewrite(victim, bytes(content))
        try:
            for user, held in self.committed.items():
                self.check_damaged(user, held, victim)
            if on_damaged is not None:
                self.save_on_damaged(f"d{on_damaged}", name)
        finally:
            content[at] ^= mask
            self.rewrite(victim, bytes(content))

    # --- Invariants

    @invariant()
    def every_kept_checkpoint_loads(self) -> None:
        self.steps += 1
        for name, held in self.committed.items():
            path = self.run / name
            try:
                same(held.tree, ostraca.load(path))
                if self.steps % REFERENCE_EVERY == 0:
                    same(held.tree, reference.load(path))
                    assert ostraca.verify(path, deep=True).ok
            except Exception as error:
                error.add_note(f"in {name}, whose base is {held.base}")
                raise

    def check_prune(self, keep: list[str]) -> None:
        report = ostraca.prune(self.run, keep=keep, grace_seconds=0)
        assert report.ok, report.errors
        self.check_nothing_else()

    def check_nothing_else(self) -> None:
        left = model.unnamed(self.run, list(self.committed))
        assert not left, f"nothing names {left}"

    def check_damaged(self, user: str, held: Committed, victim: Path) -> None:
        """Damage is reported, or does not matter to this checkpoint: it never changes what loads."""
        path = self.run / user
        try:
            report = ostraca.verify(path, deep=True)
            found = [f"{damage.file}: {damage.reason}" for damage in report.damaged]
            assert report.ok == (not found)
        except ostraca.OstracaError as error:
            found = [repr(error)]
        try:
            same(held.tree, ostraca.load(path))
        except ostraca.OstracaError as error:
            assert found, f"verify found nothing in {user}, but it does not load: {error!r}"
        if held.id in victim.name or victim == path / "manifest.json":
            assert found, f"nobody noticed the damage in {user}"
        problems = reference.verify(path)
        assert problems or not found, f"{user}: the reference says nothing, verify {found}"
        if victim.parent == path or victim.name.startswith("p"):  # of a base the engine needs the data files alone
            assert found or not problems, f"{user}: verify says nothing, the reference {problems}"

    # --- Operations

    def save(self, name: str, tree: model.Tree, base: str | None, chunk: Any, way: str, strike: int | None) -> None:
        refused = self.refused(name, base)
        chunk = chunk if all(a.ndim != 2 or a.shape[1] == 64 for a in tree.values()) else None
        overwrite = name in self.committed
        options = {"overwrite": overwrite, "chunk_shape": chunk}
        outcome = self.operate(lambda run: save_as(run, name, tree, base, way, options), strike)
        hypothesis.note(f"refused: {refused}; {outcome}")
        if refused:
            assert outcome.killed or outcome.error, f"not refused, although {refused}"
            return
        assert not outcome.error, outcome
        before = self.committed.get(name)
        if not (self.run / name / "manifest.json").exists():
            assert outcome.killed and before is None, f"{name} is gone"
            return
        attempt, found = model.identity(self.run / name)
        if before is not None and attempt == before.id:
            assert outcome.killed, "it was not saved"
            return
        assert (found is None) == (base is None)
        if base is not None:
            keyframe = self.committed[base].base or (base, self.committed[base].id)
            assert found == keyframe, f"the base is {found}, not the keyframe {keyframe}"
        self.committed[name] = Committed(tree, attempt, found)

    def save_on_damaged(self, name: str, base: str) -> None:
        """It fails and changes nothing, or has not seen the damage."""
        tree = model.changed(self.committed[base].tree, ["nudge"], 1)
        if name in self.committed:
            return
        before = sorted(self.run.rglob("*"))
        try:
            ostraca.save(self.run / name, tree, base=self.run / base)
        except ostraca.OstracaError as error:
            hypothesis.note(f"refused: {error}")
            assert sorted(self.run.rglob("*")) == before
            return
        self.committed[name] = Committed(tree, *model.identity(self.run / name))

    def refused(self, name: str, base: str | None) -> str:
        """Why a save must be; empty if it must not."""
        held = self.committed.get(name)
        users = [n for n, other in self.committed.items() if held and other.base == (name, held.id)]
        if users:
            return f"{users} need {name}"
        if base is None:
            return ""
        directory, attempt = self.committed[base].base or (base, self.committed[base].id)
        if directory == name and held is not None and held.id == attempt:
            return "it would replace its own base"
        keyframe = self.committed.get(directory)
        return "" if keyframe and keyframe.id == attempt else f"the keyframe {directory} was removed"

    def operate(self, operation: Any, strike: int | None) -> model.Outcome:
        outcome = self.striker.operate(self.run, operation, strike)
        hypothesis.note(str(outcome))
        return outcome

    def pick(self, number: int) -> str | None:
        known = sorted(self.committed)
        return known[number % len(known)] if known else None

    @staticmethod
    def rewrite(file: Path, content: bytes) -> None:
        with file.open("r+b") as opened:  # the same file: who has it open sees it too
            opened.write(content)


def save_as(run: Path, name: str, tree: model.Tree, base: str | None, way: str, options: dict[str, Any]) -> None:
    path = run / name
    if base is not None and way == "snapshot":
        with ostraca.BaseSnapshot(run / base) as snapshot:
            ostraca.save(path, tree, base=snapshot, **options)
    elif way == "async":
        ostraca.save_async(path, tree, base=None if base is None else run / base, **options).result()
    else:
        ostraca.save(path, tree, base=None if base is None else run / base, **options)


def main() -> None:
    shim, scratch = sys.argv[1:]
    Machine.scratch = Path(scratch)
    Machine.striker = model.Striker(shim, Path(scratch))
    settings = hypothesis.settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        derandomize=not STRESS,
        suppress_health_check=list(hypothesis.HealthCheck),
        print_blob=True,
        report_multiple_bugs=False,
    )
    run_state_machine_as_test(Machine, settings=settings)
    striker = Machine.striker
    print(f"{striker.operations} operations, {striker.deaths} of them killed")
    assert striker.deaths > EXAMPLES


if __name__ == "__main__":
    main()
