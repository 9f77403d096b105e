"""`ostraca.sharded.meeting` with threads as the processes: only like calls begin, and all find together again."""

import random
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import pytest

import ostraca
from ostraca.sharded import agreement, pulse, services
from ostraca.sharded.calls import Call

COUNT = 3
TIMEOUT = 0.3  # of calls that may be alone
TOGETHER = 30.0
AT_ONCE = 15
JOINT = Call("save('joint', step=7)", "the joint save", True)


def call(name: str, *, is_distinct: bool = True) -> Call:
    return Call(f"save('{name}')", f"the save to '{name}'", is_distinct)


class Service:
    def __init__(self, store: services.Alone, index: int) -> None:
        self.process_index, self.process_count = index, COUNT
        self.set, self.try_get, self.delete = store.set, store.try_get, store.delete


class Program:
    """What each process calls, and what becomes of it."""

    def __init__(self, calls: list[list[Call]], pauses: random.Random, *, in_threads: bool = False) -> None:
        store = services.Alone()
        self.groups = [agreement.Group(Service(store, i)) for i in range(COUNT)]
        self.calls, self._seeds = calls, [pauses.random() for _ in range(COUNT)]
        self.begun: dict[int, dict[int, str]] = defaultdict(dict)  # number: process: call
        self.errors: list[list[BaseException]] = [[] for _ in range(COUNT)]
        self.joint: list[BaseException | None] = [None] * COUNT
        self._in_threads = in_threads
        self._gate = threading.Barrier(COUNT)

    def run(self) -> "Program":
        with ThreadPoolExecutor(COUNT) as pool:
            list(pool.map(self._process, range(COUNT)))
        return self

    def _process(self, index: int) -> None:
        pauses = random.Random(self._seeds[index])
        try:
            with ThreadPoolExecutor(max(1, len(self.calls[index])) if self._in_threads else 1) as threads:
                for each in self.calls[index]:
                    made = threads.submit(self._make, index, each, TIMEOUT)
                    if not self._in_threads:
                        made.result()
                    time.sleep(pauses.choice([0, 0, 0.01, TIMEOUT / 2, 2 * TIMEOUT]))
            self._gate.wait()
            self.joint[index] = self._make(index, JOINT, TOGETHER)
        finally:
            self.groups[index].pulse.close()

    def _make(self, index: int, each: Call, timeout: float) -> BaseException | None:
        try:
            met = self.groups[index].meet(each, timeout=timeout)
        except ostraca.OstracaError as error:
            self.errors[index].append(error)
            return error
        self.begun[met._channel.number][index] = each.text
        met.agree()
        return None


@pytest.mark.parametrize("in_threads", [False, True])
def test_only_like_calls_begin_and_all_find_together_again(in_threads: bool) -> None:
    def program(seed: int) -> Program:
        rng = random.Random(seed)
        calls = [
            [call(rng.choice("ab"), is_distinct=rng.random() < 0.8) for _ in range(rng.randint(0, 3))] for _ in "012"
        ]
        return Program(calls, rng, in_threads=in_threads).run()

    failed = together = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for found in pool.map(program, range(60)):
            for who in found.begun.values():
                assert len(who) == COUNT and len(set(who.values())) == 1, (found.calls, found.begun)
            assert found.joint == [None] * COUNT, (found.calls, found.joint)
            failed += sum(map(len, found.errors))
            together += len(found.begun)
    assert failed > 60 and together > 60, "the programs were all alike"


@pytest.mark.parametrize("late", range(COUNT))
def test_a_process_that_comes_late_hears_that_the_others_gave_up(late: int) -> None:
    program = Program([[]] * COUNT, random.Random(0))

    def process(index: int) -> BaseException | None:
        if index == late:
            time.sleep(3 * TIMEOUT)
        return program._make(index, call("a", is_distinct=False), TIMEOUT)

    with ThreadPoolExecutor(COUNT) as pool:
        errors = list(pool.map(process, range(COUNT)))
        assert all(isinstance(error, ostraca.CoordinationError) for error in errors), errors
        assert all(f"process {late} (it has not come to this call" in str(error) for error in errors), errors
        assert list(pool.map(lambda i: program._make(i, JOINT, TOGETHER), range(COUNT))) == [None] * COUNT


def test_a_process_that_comes_late_joins_those_who_try_again() -> None:
    """Only where the call says which it is: two saves without a step may be of different states."""
    for is_distinct in (True, False):
        program = Program([[]] * COUNT, random.Random(0))
        again = call("a", is_distinct=is_distinct)

        def process(index: int, program: Program = program, again: Call = again) -> list[BaseException | None]:
            if index == COUNT - 1:
                time.sleep(3 * TIMEOUT)
                return [program._make(index, again, TOGETHER)]
            return [program._make(index, again, timeout) for timeout in (TIMEOUT, 4 * TIMEOUT)]

        with ThreadPoolExecutor(COUNT) as pool:
            *others, late = pool.map(process, range(COUNT))
        assert all(isinstance(errors[0], ostraca.CoordinationError) for errors in others), others
        assert ([errors[1] for errors in others] == [None] * 2) == is_distinct, others
        assert (late == [None]) == is_distinct


def test_an_interrupted_process_tells_the_others() -> None:
    class Interrupted(Service):
        def __init__(self, store: services.Alone, index: int) -> None:
            super().__init__(store, index)
            self.try_get = self._try_get

        def _try_get(self, key: str) -> bytes | None:
            if key.endswith("verdict"):
                raise KeyboardInterrupt
            return None

    program = Program([[]] * COUNT, random.Random(0))
    store = program.groups[0].service.set.__self__  # type: ignore[attr-defined]
    interrupted = agreement.Group(Interrupted(store, 1))
    with pytest.raises(KeyboardInterrupt):
        interrupted.meet(JOINT, timeout=TOGETHER)
    interrupted.pulse.close()
    error = program._make(0, JOINT, TOGETHER)
    assert "failed in process 1: KeyboardInterrupt" in str(error)


def test_a_beat_that_fails_is_no_end() -> None:
    """A service that cannot be reached for a moment must not make a process look dead."""

    class Failing(Service):
        def __init__(self, store: services.Alone) -> None:
            super().__init__(store, 1)
            self.beats = 0
            self.set = self._set

        def _set(self, key: str, value: bytes, *, overwrite: bool = False) -> bool:
            if key == pulse.beat_key(1):
                self.beats += 1
                if self.beats < 3:
                    raise ostraca.CoordinationError("not reached")
                beaten.set()
            return True

    beaten = threading.Event()
    beats = pulse.Pulse(Failing(services.Alone()))
    beats.begin()
    beats.add(0, str, pulse.Limits.of(TIMEOUT))
    assert beaten.wait(30)
    beats.close()


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "soon"])
def test_limits_are_positive_numbers(monkeypatch: pytest.MonkeyPatch, timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout must be a positive number of seconds"):
        pulse.Limits.of(timeout)
    monkeypatch.setenv("OSTRACA_TIMEOUT", str(timeout))
    with pytest.raises(ValueError, match="OSTRACA_TIMEOUT must be a positive number of seconds"):
        pulse.Limits.of(None)


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OSTRACA_TIMEOUT", raising=False)
    assert pulse.Limits.of(None) == (60, 300) and pulse.Limits.of(20) == (20, 20) and pulse.Limits.of(600) == (60, 600)
    monkeypatch.setenv("OSTRACA_TIMEOUT", "5")
    assert pulse.Limits.of(None) == (5, 5) and pulse.Limits.of(20) == (20, 20)
