"""Signs of life and of progress: what a process tells the others of itself, and what it makes of theirs.

Every process sets one key, `ostraca/beat/<p>`, from its first use of the group to its end: every `IDLE_SECONDS`, and
while it has a save or a load that lasts, every `BEAT_SECONDS`. A beat holds a tick, and how far each of these is.

  dead: the tick has not changed for `DEAD_SECONDS`;
  hung: the process lives, but has not come to the call, or made no progress in it, for `HUNG_SECONDS`.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple, Self

from ..errors import CoordinationError
from .services import Service

DEAD_SECONDS: Final = 60.0  # below the 100 after which jax ends the neighbours of a process that died
HUNG_SECONDS: Final = 300.0
IDLE_SECONDS: Final = 10.0
BEAT_SECONDS: Final = 1.0
QUICK_SECONDS: Final = 0.05  # what ends within this costs no beats
BEATS_PER_LIMIT: Final = 5
CLOSE_SECONDS: Final = 1.0  # that the end of a process waits for a beat that is under way
TIMEOUT_VARIABLE: Final = "OSTRACA_TIMEOUT"
ENDED: Final = -1  # the tick of a process that ends
EVERY_PROCESS: Final = "every process has to make it, in the same order"


class Limits(NamedTuple):
    """How long another process may be silent, in seconds."""

    dead: float
    hung: float

    @classmethod
    def of(cls, timeout: float | None) -> Self:
        """timeout: of *hung*; None: `OSTRACA_TIMEOUT`, or 300. Raises ValueError for what is no positive number."""
        given = os.environ.get(TIMEOUT_VARIABLE) if timeout is None else timeout
        name = TIMEOUT_VARIABLE if timeout is None else "timeout"
        try:
            hung = HUNG_SECONDS if given in (None, "") else float(given)
        except (TypeError, ValueError):
            hung = 0.0
        if not 0 < hung < float("inf"):
            raise ValueError(f"{name} must be a positive number of seconds, not {given!r}")
        return cls(min(DEAD_SECONDS, hung), hung)

    @property
    def beat(self) -> float:
        return min(BEAT_SECONDS, self.dead / BEATS_PER_LIMIT)


class Beat(NamedTuple):
    tick: int
    running: dict[str, str]  # how far each save or load is, by its number

    def encode(self) -> bytes:
        return json.dumps(self).encode()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        return cls(*json.loads(data))


def beat_key(process: int) -> str:
    return f"ostraca/beat/{process}"


class _Running(NamedTuple):
    state: Callable[[], str]
    started: float
    beat_seconds: float


class Pulse:
    """This process's beats, from a thread of its own. Thread-safe; one for each service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._running: dict[int, _Running] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._pid = os.getpid()
        self._tick = 0
        self._last = 0.0  # when the last beat was

    def begin(self) -> None:
        """The first use of the group, or the first after `close`."""
        with self._changed:
            self._closed = False
            if self._service.process_count > 1 and (self._thread is None or not self._thread.is_alive()):
                self._thread = threading.Thread(target=self._run, name="ostraca-pulse", daemon=True)
                self._thread.start()

    def add(self, number: int, state: Callable[[], str], limits: Limits) -> None:
        """From now on beats say how far the save or load of this number is."""
        with self._changed:
            self._running[number] = _Running(state, time.monotonic(), limits.beat)
            self._changed.notify()

    def remove(self, number: int) -> None:
        with self._changed:
            self._running.pop(number, None)

    def close(self) -> None:
        """Tells the others that this process ends. A thread that hangs in the service is left behind."""
        if self._pid != os.getpid():
            return  # a forked child, whose end is not this process's
        with self._changed:
            self._closed = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        reached = time.monotonic()  # the service
        while self._wait():
            try:
                self._beat(self._tick)
                reached = time.monotonic()
            except CoordinationError:
                if time.monotonic() - reached > DEAD_SECONDS:  # it is gone; whoever waits on it will notice
                    return
            self._tick += 1
        with contextlib.suppress(CoordinationError):
            self._beat(ENDED)

    def _wait(self) -> bool:
        """For the next beat. False: there is none, as this process ends."""
        with self._changed:
            while not self._closed and (pause := self._due() - time.monotonic()) > 0:
                self._changed.wait(pause)
            return not self._closed

    def _due(self) -> float:
        if not self._tick:
            return 0.0
        times = [self._last + IDLE_SECONDS]
        for running in self._running.values():
            if self._last < running.started:
                times.append(running.started + min(QUICK_SECONDS, running.beat_seconds))
            else:
                times.append(self._last + running.beat_seconds)
        return min(times)

    def _beat(self, tick: int) -> None:
        with self._changed:
            self._last = time.monotonic()
            running = {str(number): running.state() for number, running in self._running.items()}
        key = beat_key(self._service.process_index)
        self._service.set(key, Beat(tick, running).encode(), overwrite=True)


class Lost(NamedTuple):
    process: int
    why: str  # with its number


class Vigil:
    """What one save or load makes of the others' beats."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._started = time.monotonic()
        self._heard: dict[int, _Heard] = {}

    def lost(self, process: int, data: bytes | None, number: int, *, hung: float | None = None) -> Lost | None:
        """Whether a process counts as lost, by its latest beat. hung: in place of that limit."""
        now = time.monotonic()
        heard = self._heard.get(process, _Heard(None, None, self._started, self._started)).after(data, number, now)
        self._heard[process] = heard
        why = self._why(heard, now, self._limits.hung if hung is None else hung)
        return Lost(process, f"process {process} ({why})") if why else None

    def _why(self, heard: _Heard, now: float, hung: float) -> str:
        is_hung = now - heard.progressed > hung
        is_dead = now - heard.spoke > self._limits.dead
        if heard.beat is not None and heard.beat.tick == ENDED:
            return "it has ended"
        if heard.state is None and (is_hung or (is_dead and heard.beat is None)):
            silence = f"for {now - heard.progressed:.0f} s"
            return f"it has not come to this call {silence}, or died on the way: {EVERY_PROCESS}"
        if is_dead:
            return f"it died or hangs: no sign of life for {self._limits.dead:g} s"
        if is_hung:
            return f"it lives, but made no progress for {hung:g} s: does its storage hang?"
        return ""


class _Heard(NamedTuple):
    """The last beat of another process, when that came, and when its progress last changed."""

    beat: Beat | None
    state: str | None  # None: it has not come to the call
    spoke: float
    progressed: float

    def after(self, data: bytes | None, number: int, now: float) -> _Heard:
        beat = None if data is None else Beat.decode(data)
        if beat is None or beat == self.beat:
            return self
        state = beat.running.get(str(number), self.state)
        return _Heard(beat, state, now, self.progressed if state == self.state else now)
