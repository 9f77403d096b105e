"""One save or load's keys in the service, and what its process hears of the others there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from ..errors import CoordinationError
from .pulse import Limits, Lost, Vigil, beat_key
from .services import Answer, Service, answer

POLL_SECONDS_MIN: Final = 0.0005
POLL_SECONDS_MAX: Final = 0.25  # and a millisecond for each process: all of them ask one service


class Channel:
    """Of one process, for the save or load `number`, which changes in the meeting alone. Thread-safe."""

    def __init__(self, service: Service, what: str, limits: Limits) -> None:
        self.service, self.what, self.limits = service, what, limits
        self.index, self.count = service.process_index, service.process_count
        self.number = 0
        self.is_lost = False  # the service
        self.polls = 0  # to wait is progress too: whoever is waited for is watched
        self._vigil = Vigil(limits)

    def get(self, name: str, process: int | None = None, *, number: int | None = None) -> bytes | None:
        return self.ask(self.service.try_get, self._key(name, process, self.number if number is None else number))

    def set(self, name: str, value: bytes, process: int | None = None) -> bool:
        """False when there is a value already; then that one stays."""
        return self.ask(self.service.set, self._key(name, process, self.number), value)

    def ask(self, call: Callable[..., Answer], *arguments: Any) -> Answer:
        """A call of the service. Raises `CoordinationError` when it is lost, or does not answer."""
        try:
            return answer(self.service, self.limits.dead, call, *arguments)
        except CoordinationError as error:
            self.is_lost = True
            raise CoordinationError(f"{self.what}: {error}") from error

    def lost(self, processes: Iterable[int], *, hung: float | None = None) -> list[Lost]:
        """Those of `processes` that show no sign of life or progress, and why. hung: in place of that limit."""
        beats = ((process, self.ask(self.service.try_get, beat_key(process))) for process in processes)
        found = (self._vigil.lost(process, beat, self.number, hung=hung) for process, beat in beats)
        return [each for each in found if each is not None]

    def pauses(self) -> Iterator[float]:
        """Sleeps before each look at what is waited for but the first; yields the seconds so far.

        Looks are polls, as a waiting read that times out stays in jax's service for good.
        """
        started = time.monotonic()
        longest = POLL_SECONDS_MAX + self.count / 1000
        while True:
            waited = time.monotonic() - started
            yield waited
            self.polls += 1
            time.sleep(min(max(waited / 4, POLL_SECONDS_MIN), longest))

    def _key(self, name: str, process: int | None, number: int) -> str:
        return f"ostraca/{number}/{name}" if process is None else f"ostraca/{number}/{process}/{name}"
