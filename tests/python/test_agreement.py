"""`ostraca.sharded.agreement` with threads as the processes, on real files: what each failure at each step does to all.

Whatever happens: who is told of success finds the checkpoint, what is published is whole, and all end in time.
"""

import errno
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

import ostraca
from ostraca import _core
from ostraca.sharded import agreement, services
from ostraca.sharded.calls import Call
from ostraca.sharded.likeness import LeafFact

COUNT = 3
TIMEOUT = 1.5  # of the agreements
LATE = 2.5 * TIMEOUT  # nobody waits longer: once for another process, and once more to tell of it
CALLS = 40  # of the service: more than a save makes before it ends
AT_ONCE = 12


class Gone(SystemExit):
    """What a dead process runs into. (Threads end silently on SystemExit.)"""


class Store(services.Alone):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


@dataclass
class Strike:
    """What happens to a process at one of its calls of the service."""

    process: int = -1
    call: int = 0
    how: str = "dies"  # or "stops", until `resume`
    after: bool = False  # the call was made
    resume: threading.Event = field(default_factory=threading.Event)
    struck: bool = False


class Service:
    """A process's, with strikes and random delays."""

    def __init__(self, store: Store, index: int, strike: Strike, seed: int = 0) -> None:
        self.process_index, self.process_count = index, COUNT
        self._store, self._strike = store, strike
        self._mine = strike.process == index
        self._calls = 0
        self._random = random.Random(seed * COUNT + index)

    def set(self, key: str, value: bytes, *, overwrite: bool = False) -> bool:
        return self._call(lambda: self._store.set(key, value, overwrite=overwrite))

    def try_get(self, key: str) -> bytes | None:
        return self._call(lambda: self._store.try_get(key))

    def delete(self, key: str) -> None:
        self._call(lambda: self._store.delete(key))

    def _call(self, call: Callable[[], object]) -> object:
        time.sleep(self._random.random() * 0.002)
        with self._store.lock:
            self._calls += 1
            if not (self._mine and self._calls >= self._strike.call):
                return call()
            first, self._strike.struck = not self._strike.struck, True
            if self._strike.how == "dies":
                if first and self._strike.after:
                    call()
                raise Gone
            result = call() if first and self._strike.after else None
        self._strike.resume.wait()
        if first and self._strike.after:
            return result
        with self._store.lock:
            return call()


class Program:
    """Three processes that save to one path, once."""

    def __init__(self, path: Path, strike: Strike | None = None, seed: int = 0) -> None:
        self.path = path
        self.strike = strike or Strike()
        store = Store()
        self.groups = [agreement.Group(Service(store, i, self.strike, seed)) for i in range(COUNT)]
        self.raises: dict[tuple[int, str], BaseException] = {}  # at (process, phase)
        self.paths = [path] * COUNT
        self.calls = [Call("save('c', step=1)", f"the save to '{path}'", True)] * COUNT
        self.facts = [[LeafFact("w", "array float32 (12,)")]] * COUNT
        self.before_commit: Callable[[], object] = lambda: None
        self.waits: dict[int, Callable[[], object]] = {}  # while it writes
        self.committing = _core.CommitProgress()
        self.on_failure: Callable[[], object] = lambda: None
        self.results: list[str | BaseException | None] = [None] * COUNT
        self.seconds = [0.0] * COUNT

    def run(self) -> "Program":
        threads = [threading.Thread(target=self._process, args=(i,), daemon=True) for i in range(COUNT)]
        for thread in threads:
            thread.start()
        for index, thread in enumerate(threads):
            if not (index == self.strike.process and self.strike.how == "stops"):
                thread.join(30)
        self.strike.resume.set()
        for thread in threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in threads), self
        return self

    @property
    def survivors(self) -> list[int]:
        return [i for i in range(COUNT) if not (self.strike.struck and i == self.strike.process)]

    @property
    def errors(self) -> list[BaseException]:
        """Of the survivors."""
        return [r for r in (self.results[i] for i in self.survivors) if isinstance(r, BaseException)]

    def committed(self) -> bool:
        try:
            found = ostraca.load(self.path)["w"]
        except ostraca.NotFoundError:
            return False
        assert ostraca.verify(self.path, deep=True).ok
        assert np.array_equal(found, np.arange(12, dtype=np.float32))
        return True

    def data_files(self) -> list[int]:
        return sorted(int(file.name[1:6]) for file in self.path.glob("p0*.ostraca"))

    def check(self) -> str:
        """What holds whatever happened."""
        committed = self.committed()
        assert committed or not any(isinstance(result, str) for result in self.results), self
        for process in self.survivors:
            assert self.results[process] is not None, self
            assert self.seconds[process] < LATE, self
        assert not any(isinstance(error, AssertionError) for error in self.errors), self
        return "committed" if committed else "not committed"

    def __repr__(self) -> str:
        return f"{self.strike} {self.results} {self.seconds}"

    def _process(self, index: int) -> None:
        started = time.monotonic()
        try:
            self.results[index] = self._save(index)
        except BaseException as error:
            self.results[index] = error
        self.seconds[index] = time.monotonic() - started

    def _save(self, index: int) -> str:
        path = str(self.paths[index])
        agreed = self.groups[index].meet(self.calls[index], timeout=TIMEOUT)
        writer: ostraca.Writer | None = None

        def open_writer(attempt: str) -> ostraca.Writer:
            self._may_raise(index, "open")
            return ostraca.Writer(path, process_index=index, process_count=COUNT, attempt=attempt, threads=1)

        def commit(reports: list[ostraca.FileReport]) -> str:
            self.before_commit()
            self._may_raise(index, "commit")
            text = _core.commit(path, reports, progress=self.committing)
            self._may_raise(index, "published")
            return text

        try:
            self._may_raise(index, "start")
            writer = agreed.begin(path, self.facts[index], open_writer)

            def stop() -> None:
                writer.cancel()
                self.on_failure()

            agreed.writing(writer.progress, stop)
            part = np.arange(4 * index, 4 * index + 4, dtype=np.float32)
            writer.add("w", part, dtype="float32", shape=(4,), global_shape=(12,), offset=(4 * index,))
            self._may_raise(index, "write")
            self.waits.get(index, bool)()
            return agreed.publish(writer.finish(), commit)
        except Gone:
            raise
        except BaseException as error:
            if agreed.fail(error) and writer is not None:
                writer.abort()
            raise agreed.cause(error) from None

    def _may_raise(self, index: int, phase: str) -> None:
        error = self.raises.get((index, phase))
        if error is not None:
            raise error


def in_parallel(tmp_path: Path, programs: list[Program]) -> Iterator[Program]:
    """They mostly wait."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield from pool.map(Program.run, programs)


def test_all_agree_in_any_order(tmp_path: Path) -> None:
    for program in in_parallel(tmp_path, [Program(tmp_path / str(seed), seed=seed) for seed in range(100)]):
        assert program.check() == "committed"
        assert len(set(map(str, program.results))) == 1, program
        assert program.committing.files == COUNT


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("process", range(COUNT))
def test_a_process_dies(tmp_path: Path, process: int, after: bool) -> None:
    strikes = [Strike(process, call, "dies", after) for call in range(1, CALLS)]
    found = set()
    for program in in_parallel(tmp_path, [Program(tmp_path / str(s.call), s, s.call) for s in strikes]):
        what = program.check()
        found.add((what, len(program.errors)))
        others = len(program.survivors)
        if not program.strike.struck:
            assert (what, len(program.errors)) == ("committed", 0), program
        elif what == "not committed":
            assert len(program.errors) == others, program
            for error in program.errors:
                assert isinstance(error, ostraca.CoordinationError), program
                assert f"process {process} (" in str(error), program
                assert "Nothing was committed" in str(error) or "is not known" in str(error), program
            if process != 0:
                assert program.data_files() in ([], [process]), program
        else:  # where process 0 died before it told, the others can't know
            assert len(program.errors) == 0 or (process == 0 and len(program.errors) == others), program
            assert all("is not known" in str(error) for error in program.errors), program
    assert {what for what, _ in found} == {"committed", "not committed"}


@pytest.mark.parametrize("process", range(COUNT))
def test_a_process_is_cut_off_for_long(tmp_path: Path, process: int) -> None:
    strikes = [Strike(process, call, "stops", call % 2 == 0) for call in range(1, CALLS)]
    found = set()
    for program in in_parallel(tmp_path, [Program(tmp_path / str(s.call), s, s.call) for s in strikes]):
        what = program.check()
        found.add(what)
        if what == "not committed":
            assert all(isinstance(result, ostraca.CoordinationError) for result in program.results), program
            assert all(f"process {process} " in str(error) for error in program.errors), program
            assert program.data_files() in ([], [process]) or process == 0, program
        elif process != 0:
            assert program.errors == [], program
    assert found == {"committed", "not committed"}


@pytest.mark.parametrize("process", range(COUNT))
@pytest.mark.parametrize("phase", ["start", "open", "write"])
def test_a_process_fails(tmp_path: Path, process: int, phase: str) -> None:
    for error in (
        OSError(errno.ENOSPC, "No space left", "file"),
        ostraca.CancelledError("cancelled"),
        KeyboardInterrupt(),
    ):
        program = Program(tmp_path / type(error).__name__)
        program.raises[process, phase] = error
        program.run()
        assert program.check() == "not committed"
        assert program.results[process] is error
        for other in set(range(COUNT)) - {process}:
            told = program.results[other]
            assert isinstance(told, ostraca.CoordinationError)
            assert f"failed in process {process}: {type(error).__name__}: {error}" in str(told)
            assert "Nothing was committed" in str(told)
            assert program.seconds[other] < TIMEOUT, "it was not told, but timed out"
        assert program.data_files() == []


def test_who_writes_is_stopped_when_another_fails(tmp_path: Path) -> None:
    program = Program(tmp_path / "c")
    program.raises[1, "write"] = OSError(errno.ENOSPC, "No space left", "file")
    stopped = threading.Event()
    program.on_failure = stopped.set
    program.waits[2] = lambda: stopped.wait(20)
    program.run()
    assert stopped.is_set(), "it was not told while it wrote"
    assert program.check() == "not committed" and program.data_files() == []
    assert isinstance(program.results[2], ostraca.CoordinationError) and "process 1: OSError" in str(program.results[2])


def test_the_commit_fails(tmp_path: Path) -> None:
    program = Program(tmp_path / "full")
    program.raises[0, "commit"] = OSError(errno.ENOSPC, "No space left", "index")
    program.run()
    assert program.check() == "not committed" and program.data_files() == []
    assert isinstance(program.results[0], OSError)
    assert all("failed in process 0: OSError" in str(program.results[i]) for i in (1, 2)), program


@pytest.mark.parametrize("error", [ostraca.CommitUncertainError("published, perhaps"), KeyboardInterrupt()])
def test_the_commit_is_uncertain(tmp_path: Path, error: BaseException) -> None:
    program = Program(tmp_path / "checkpoint")
    program.raises[0, "published"] = error
    program.run()
    assert program.check() == "committed" and program.data_files() == [0, 1, 2]
    assert program.results[0] is error
    assert all(isinstance(program.results[i], ostraca.CommitUncertainError) for i in (1, 2)), program


def test_trees_that_differ(tmp_path: Path) -> None:
    both = [LeafFact("a", "array int32 (3,)", "1"), LeafFact("b", "int", "2")]
    cases = {
        "'b' is only in process 0's tree": both[:1],
        "'c' is only in process 1's tree": [*both, LeafFact("c", "int", "3")],
        "'a' is array int32 (3,) in process 0, array int64 (3,) in process 1": [
            LeafFact("a", "array int64 (3,)", "1"),
            both[1],
        ],
        "'b' is not a global array, and its values differ between processes 0 and 1": [
            both[0],
            LeafFact("b", "int", "3"),
        ],
        "different orders": both[::-1],
    }
    programs = []
    for number, facts in enumerate(cases.values()):
        programs.append(Program(tmp_path / str(number)))
        programs[-1].facts = [both, facts, both]
    for expected, program in zip(cases, in_parallel(tmp_path, programs), strict=True):
        assert program.check() == "not committed" and program.data_files() == []
        assert all(isinstance(e, ostraca.MismatchError) and expected in str(e) for e in program.results), program


def test_directories_that_are_not_shared(tmp_path: Path) -> None:
    program = Program(tmp_path / "one")
    program.paths = [tmp_path / "one", tmp_path / "other", tmp_path / "one"]
    program.run()
    assert program.check() == "not committed"
    for error in program.errors:
        assert isinstance(error, ostraca.CoordinationError)
        assert "which process 1 on" in str(error) and f"does not see in '{tmp_path / 'other'}'" in str(error)
        assert "the directory is not shared" in str(error)
    assert list(tmp_path.rglob("*.*")) == []


def test_a_file_that_process_0_does_not_see(tmp_path: Path) -> None:
    program = Program(tmp_path / "c")
    program.before_commit = lambda: [file.unlink() for file in program.path.glob("p00002*")]
    program.run()
    assert program.check() == "not committed"
    for error in program.errors:
        assert "process 2 wrote 'p00002-" in str(error) and "process 0 does not see" in str(error), error
        assert "not shared" in str(error)


# --- Loads, and many agreements ---------------------------------------------------------------------------------------


def each(groups: list[agreement.Group], work: Callable[[agreement.Group], object]) -> list[BaseException | None]:
    def one(group: agreement.Group) -> BaseException | None:
        try:
            work(group)
        except BaseException as error:
            return error
        return None

    with ThreadPoolExecutor(COUNT) as pool:
        return list(pool.map(one, groups))


LOAD = Call("load('x')", "the load of 'x'", True)


@pytest.mark.parametrize("failing", [None, 0, 1, 2])
def test_a_load_is_agreed(failing: int | None) -> None:
    store = Store()

    def load(group: agreement.Group) -> None:
        agreed = group.meet(LOAD, timeout=TIMEOUT, consequence="No process loads it")
        if group.service.process_index == failing:
            error = ostraca.CorruptionError("chunk 3")
            assert agreed.fail(error)
            raise error
        agreed.agree()

    errors = each([agreement.Group(Service(store, i, Strike())) for i in range(COUNT)], load)
    for index, error in enumerate(errors):
        if failing is None:
            assert error is None
        elif index == failing:
            assert isinstance(error, ostraca.CorruptionError)
        else:
            assert isinstance(error, ostraca.CoordinationError)
            told = f"the load of 'x' failed in process {failing}: CorruptionError: chunk 3. No process loads it"
            assert str(error) == told


def meet_all(services_: list[Service], timeout: float = TIMEOUT) -> list[agreement.Agreement]:
    with ThreadPoolExecutor(COUNT) as pool:
        return list(pool.map(lambda service: agreement.Group(service).meet(LOAD, timeout=timeout), services_))


def test_the_first_failure_is_what_all_are_told() -> None:
    store = Store()
    second, third, first = meet_all([Service(store, i, Strike()) for i in range(COUNT)])
    first.fail(ValueError("first"))
    second.fail(ValueError("second"))
    with pytest.raises(ostraca.CoordinationError, match="failed in process 2: ValueError: first"):
        third.agree()


def test_a_process_raises_its_own_error_though_it_hears_of_it() -> None:
    class Slow(Service):
        def set(self, key: str, value: bytes, *, overwrite: bool = False) -> bool:
            done = super().set(key, value, overwrite=overwrite)
            if key.endswith("outcome"):
                assert heard.wait(20)
            return done

    heard = threading.Event()
    store = Store()
    _, agreed, _ = meet_all([(Slow if i == 1 else Service)(store, i, Strike()) for i in range(COUNT)], 20)
    agreed.writing(lambda: 0, heard.set)
    error = ValueError("own")
    assert agreed.fail(error)
    assert agreed.cause(error) is error


def test_a_save_is_renewed_while_its_process_waits_for_the_others_and_no_longer() -> None:
    store, renewed = Store(), threading.Event()
    first, second, third = meet_all([Service(store, i, Strike()) for i in range(COUNT)], 2)
    first.writing(lambda: 0, renew=renewed.set)
    for _ in range(2):
        renewed.clear()
        assert renewed.wait(20)
    for each_ in (first, second, third):
        each_.fail(ValueError("over"))
    renewed.clear()
    assert not renewed.wait(1.0)
