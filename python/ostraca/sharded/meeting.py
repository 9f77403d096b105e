"""Which calls of the processes belong together: all make the same one, or none of them starts.

Calls are numbered, in each process in the order in which it makes them. For number n:
  1. each process says what it calls (`<p>/call`);
  2. process 0 compares, and sets the verdict: the call begins, or it is a mismatch;
  3. whoever waits in vain sets the verdict instead: the call is given up. It is set once, by whoever comes first.
No process goes past a number without its verdict, so that all of them count alike again after any failure: a process
that comes late finds the verdict, and raises it where the call was its own, or tries the next number where it was not.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Self

from ..errors import CoordinationError, MismatchError
from ..printing import LISTED_MAX, some
from .calls import Call
from .channel import Channel

BEGINS: Final = "begins"
MISMATCH: Final = "mismatch"
GIVEN_UP: Final = "given up"
RETRY_SECONDS: Final = 1.0  # in which a process that gave up a call begins to make it again, if it does at all


_LOGGER = logging.getLogger("ostraca")


class Verdict(NamedTuple):
    kind: str
    text: str = ""  # why not
    by: int = 0  # the process that gave it up
    calls: Sequence[str] = ()  # that was given up; that differ
    notes: dict[str, list[str]] | None = None  # of processes, by index: keys of metadata that differ from process 0's

    def encode(self) -> bytes:
        return json.dumps(self).encode()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        return cls(*json.loads(data))


class Meeting:
    """One process's way to a number at which all make its call."""

    def __init__(self, channel: Channel, call: Call, consequence: str) -> None:
        self._channel, self._call, self._consequence = channel, call, consequence
        self._is_late = False  # the verdict was there before this process came

    def hold(self, take: Callable[[], object], leave: Callable[[], object]) -> None:
        """Returns when all processes are there. take, leave: gets the channel its next number; gives that up.

        Raises `MismatchError` where they call something else, `CoordinationError` where one does not come.
        """
        while True:
            take()
            try:
                verdict = self._verdict()
            except BaseException as error:
                if not self._channel.is_lost:
                    with contextlib.suppress(CoordinationError):  # they notice that this process is silent
                        self._give_up(f"{type(error).__name__}: {error}")
                raise
            if verdict.kind == BEGINS:
                self._warn(verdict)
                return
            if not self._is_of_others(verdict):
                raise (MismatchError if verdict.kind == MISMATCH else CoordinationError)(verdict.text)
            leave()

    def _verdict(self) -> Verdict:
        channel = self._channel
        here = json.dumps([self._call.text, self._call.metadata]).encode()
        channel.set("call", here, channel.index)
        found: bytes | Verdict | None = channel.get("verdict")
        self._is_late = found is not None
        if found is None:
            found = self._compared() if channel.index == 0 else self._awaited("verdict", None, [0])
        return found if isinstance(found, Verdict) else Verdict.decode(found)

    def _compared(self) -> Verdict:
        """Process 0's."""
        ours = self._call.metadata
        notes: dict[str, list[str]] = {}
        for process in range(1, self._channel.count):
            there = self._awaited("call", process, range(process, self._channel.count))
            if isinstance(there, Verdict):
                return there
            text, theirs = json.loads(there)
            if text != self._call.text:
                return self._set(Verdict(MISMATCH, self._difference(process, text), 0, [self._call.text, text]))
            keys = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
            if keys and len(notes) < LISTED_MAX:
                notes[str(process)] = keys[:LISTED_MAX]
        return self._set(Verdict(BEGINS, notes=notes))

    def _awaited(self, name: str, process: int | None, others: Sequence[int]) -> bytes | Verdict:
        """A key's value; or a verdict that is there instead, this process's own where the first of `others` is lost."""
        channel, listened = self._channel, 0.0
        for waited in channel.pauses():
            if (value := channel.get(name, process)) is not None:
                return value
            if waited - listened < channel.limits.beat:
                continue
            listened = waited
            if (verdict := channel.get("verdict")) is not None:
                return Verdict.decode(verdict)
            if channel.lost(others[:1]):
                missing = [each for each in others if each == 0 or channel.get("call", each) is None]
                lost = [each.why for each in channel.lost(missing)]
                return self._give_up(f"it waited in vain for {some(lost)}")
        raise AssertionError  # the pauses have no end

    def _give_up(self, why: str) -> Verdict:
        text = f"{self._channel.what} failed in process {self._channel.index}: {why}. {self._consequence}"
        return self._set(Verdict(GIVEN_UP, text, self._channel.index, [self._call.text]))

    def _set(self, verdict: Verdict) -> Verdict:
        """This verdict, or the one that was there first."""
        if self._channel.set("verdict", verdict.encode()):
            return verdict
        found = self._channel.get("verdict")
        return verdict if found is None else Verdict.decode(found)

    def _is_of_others(self, verdict: Verdict) -> bool:
        """Whether a call failed that is not ours, so that ours belongs to a later number."""
        is_named = self._call.text in verdict.calls
        if verdict.kind == GIVEN_UP and not is_named:
            return True
        # A save without a step may be of another state than the next one that looks the same.
        may_be_again = self._is_late and self._call.is_distinct and is_named == (verdict.kind == GIVEN_UP)
        return may_be_again and self._is_made_later(verdict)

    def _is_made_later(self, verdict: Verdict) -> bool:
        """Whether the process that ended this number without us makes our call at a later one."""
        channel, number = self._channel, self._channel.number + 1
        for waited in channel.pauses():
            there = channel.get("call", verdict.by, number=number)
            if there is not None and json.loads(there)[0] == self._call.text:
                return True
            if there is not None:
                number += 1
            elif waited > RETRY_SECONDS:
                return False
        raise AssertionError  # the pauses have no end

    def _difference(self, process: int, theirs: str) -> str:
        return (
            f"the processes make different calls: process 0 calls {self._call.text}, and process {process} calls"
            f" {theirs}. {self._consequence}. Every process has to make the same calls, in the same order"
        )

    def _warn(self, verdict: Verdict) -> None:
        index = self._channel.index
        for process, keys in (verdict.notes or {}).items():
            if index in (0, int(process)):
                _LOGGER.warning(
                    "%s: the metadata of process %s is not that of process 0, which is stored: it differs in %s",
                    self._channel.what,
                    process,
                    some([repr(key) for key in keys]),
                )
