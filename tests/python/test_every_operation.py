"""Faults at every operation of the door to bytes at rest, one after another: EIO, ENOSPC, EACCES, a kill before it and
after it. Nothing that was acknowledged is lost, what is there loads, and the next try and a prune finish the work.

Each operation runs in a forked process of its own; this file is also the script that forks. The library that injects
(tests/faults/fault_library.cc) wraps the module's stores by the storage that fails of the C++ tests.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import FAULTS

KINDS = {
    "EIO": (errno.EIO, 0),
    "ENOSPC": (errno.ENOSPC, 0),
    "EACCES": (errno.EACCES, 0),
    "killed before": (0, 0),
    "killed after": (0, 1),
}
CALLS_MAX = 1000  # an operation that makes more is not the small one meant here
NAMES = ("save", "async save", "incremental save", "overwrite", "annotate", "prune", "compact")
ROOT = FAULTS.parents[1]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that injects, built."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    built = tmp_path_factory.mktemp("faults") / "faults.so"
    include = [f"-I{ROOT / folder}" for folder in ("cpp", "cpp/include", "tests/faults")]
    sources = [FAULTS / "fault_library.cc", ROOT / "cpp/base/status.cc"]
    options = ["-std=c++20", "-shared", "-fPIC", "-O0", "-w"]
    subprocess.run([compiler, *options, *include, *sources, "-o", built], check=True)
    return built


@pytest.mark.parametrize("name", NAMES)
def test_a_fault_at_every_operation(library: Path, tmp_path: Path, name: str) -> None:
    command = [sys.executable, "-W", "ignore", __file__, library, tmp_path, name]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout
    print(done.stdout)


# --- In the script ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Operation:
    """`done`: whether a run shows that it succeeded; `replaces`: the step that may be gone then."""

    do: Callable[[Path], object]
    done: Callable[[Path, dict[str, int]], bool]
    replaces: int | None = None
    goes: frozenset[int] = frozenset()  # steps that may be gone whatever it says


def operations() -> dict[str, Operation]:
    import ostraca
    import small_run

    def prune(run: Path) -> object:
        report = ostraca.prune(run, keep=["1", "9"], grace_seconds=0)
        if not report.ok:
            raise OSError(errno.EIO, str(report.errors))
        return report

    def save(name: str, step: int, **options: object) -> Callable[[Path], object]:
        def do(run: Path) -> object:
            base = run / small_run.KEYFRAME if options.get("base") else None
            more = {"overwrite": True, "threads": 1, "base": base}
            if options.get("in_background"):
                return ostraca.save_async(run / name, small_run.state(step), step=step, **more).result()
            return ostraca.save(run / name, small_run.state(step), step=step, **more)

        return do

    def holds(name: str, step: int) -> Callable[[Path, dict[str, int]], bool]:
        return lambda run, found: found.get(name) == step

    return {
        "save": Operation(save("50", 50), holds("50", 50)),
        "async save": Operation(save("51", 51, in_background=True), holds("51", 51)),
        "incremental save": Operation(save("52", 52, base=True), holds("52", 52)),
        "overwrite": Operation(save(small_run.PLAIN, 60), holds(small_run.PLAIN, 60), replaces=9),
        "annotate": Operation(
            lambda run: ostraca.annotate(run / "1", {"late": 5}),
            lambda run, found: ostraca.notes(run / "1") == {"early": 1, "late": 5},
        ),
        "prune": Operation(prune, lambda run, found: set(found.values()) == {1, 9}, goes=frozenset({0, 2})),
        "compact": Operation(
            lambda run: ostraca.compact(run / "1"),
            lambda run, found: small_run.members(run / "1" / "manifest.json")["base"] is None,
        ),
    }


class Strikes:
    """One operation, at whose calls all faults strike."""

    def __init__(self, library: str, scratch: Path, operation: Operation) -> None:
        import deleting
        import ostraca
        import small_run

        self._faults, self._scratch, self._operation = ctypes.CDLL(library), scratch, operation
        self._faults.fault_wrapper.restype = ctypes.c_void_p
        self._faults.fault_operation.restype = ctypes.c_char_p
        self._child, self._small, self._ostraca = deleting.Child, small_run, ostraca
        self._original = scratch / "original" / "run"
        small_run.make(self._original)
        ostraca.annotate(self._original / "1", {"early": 1})
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    def all(self, kind: str, error: int, after: int) -> None:
        for call in range(1, CALLS_MAX):
            run = self._scratch / "run"
            shutil.copytree(self._original, run, symlinks=True)
            said, struck = self._strike(run, call, error, after)
            try:
                if not struck:
                    assert said == "ok", f"it fails without a fault: {said}"
                    return
                self._check(run, said)
                self.counts[f"{kind}: {'killed' if said == 'killed' else 'ok' if said == 'ok' else 'told'}"] += 1
            except Exception:
                self.wrong.append(f"WRONG {kind} at {call}, {self._name(call)!r}: {said}\n{traceback.format_exc()}")
            finally:
                shutil.rmtree(run)
        raise AssertionError(f"it makes more than {CALLS_MAX} calls")

    def _strike(self, run: Path, call: int, error: int, after: int) -> tuple[str, bool]:
        """What the operation said, and whether it came to this call."""

        def do() -> str:
            self._faults.fault_arm(ctypes.c_uint64(call), error, after)
            self._ostraca._core.wrap_stores(self._faults.fault_wrapper())
            said = "ok"
            try:
                self._operation.do(run)
            except (self._ostraca.OstracaError, OSError) as raised:
                said = f"{type(raised).__name__}: {raised}"
            return f"{self._faults.fault_calls()} {self._faults.fault_operation(call).decode()}|{said}"

        child = self._child(self._scratch, do)
        if not child.ends_within(60):
            return child.said(), True
        try:
            text = child.said()
        except FileNotFoundError:
            return "killed", True
        assert text.startswith("ok "), text
        calls, _, rest = text[3:].partition(" ")
        self._called, _, said = rest.partition("|")
        return said, int(calls) >= call

    def _name(self, call: int) -> str:
        return getattr(self, "_called", "")

    def _check(self, run: Path, said: str) -> None:
        operation = self._operation
        uncertain = said == "killed" or said.startswith("CommitUncertainError")
        required = []
        for step in {0, 1, 2, 9} - operation.goes:
            replaced = step == operation.replaces and (uncertain or said == "ok")
            required.append(frozenset({step, 60}) if replaced else frozenset({step}))
        found = self._small.check(run, required)
        assert self._ostraca.notes(run / "1")["early"] == 1, "a note is lost"
        if said == "ok":
            assert operation.done(run, found), "it said that it was done"
        again = operation.do(run)
        found = self._small.check(run, [])
        assert operation.done(run, found), f"the next one does not finish it: {again}"
        assert self._ostraca.notes(run / "1")["early"] == 1, "a note is lost"
        kept = [name for name in found if operation.goes.isdisjoint({found[name]})]
        report = self._ostraca.prune(run, keep=kept, grace_seconds=0)
        assert report.ok, report.errors
        # An empty directory stays, as it may be somebody's.
        left = [name for name in self._small.unnamed(run) if "/notes-" not in name and not name.endswith("/")]
        assert not left, f"nobody names {left}"


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    library, scratch, name = sys.argv[1:]
    strikes = Strikes(library, Path(scratch), operations()[name])
    for kind, (error, after) in KINDS.items():
        strikes.all(kind, error, after)
    counts = dict(sorted(strikes.counts.items()))
    print(
        f"{name}: {strikes.counts.total()} faults, {len(strikes.wrong)} wrong, {counts}", *strikes.wrong[:3], sep="\n"
    )
    sys.exit(1 if strikes.wrong or strikes.counts.total() < 5 * 5 else 0)


if __name__ == "__main__":
    main()
