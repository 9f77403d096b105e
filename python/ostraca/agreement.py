"""What the processes of a save or a load tell each other, over a key-value service that all of them reach.

Keys lie below "ostraca/<n>/"; n counts the agreements of a process, and all make theirs in the same order. A save:
  1. process 0 makes its Writer, and with it directory and intent; then it publishes the attempt id as `begin`;
  2. the others compare their trees with its, look for the intent, and make their Writers;
  3. each says every second how far it is (`<p>/beat`), and looks whether it has failed elsewhere;
  4. each hands in its `<p>/report` when its file is durable;
  5. process 0 waits for all reports, commits, and publishes the `outcome`, for which the others wait.
A load has steps 3 to 5, with nothing to commit.

`outcome` is set once, and whoever sets it first decides for all: a process that fails, or finds that another shows no
progress, before it has reported; process 0 with what became of its commit. Who has reported decides nothing any more,
so that process 0 may commit once it has all reports.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from . import likeness
from ._core import FileReport
from .errors import CommitUncertainError, CoordinationError, MismatchError
from .likeness import LeafFact

TIMEOUT_SECONDS: Final = 60.0  # below the 100 after which jax ends the neighbours of a process that died
BEAT_SECONDS: Final = 1.0
QUICK_SECONDS: Final = 0.05  # what ends within this costs no beats
VISIBLE_SECONDS: Final = 5.0  # within which a shared directory shows one process what another made
POLL_SECONDS_MIN: Final = 0.0005
POLL_SECONDS_MAX: Final = 0.25  # and a millisecond for each process: all of them ask one service
UNCOMMITTED: Final = "Nothing was committed; earlier checkpoints are as they were"
UNKNOWN: Final = "Whether it was committed is not known: look whether the checkpoint is there"
NUMBER_BYTES: Final = 8

Answer = TypeVar("Answer")
Opened = TypeVar("Opened")


class Service(Protocol):
    """A key-value store that all processes share. Calls raise `CoordinationError` when it is lost; they may hang."""

    @property
    def process_index(self) -> int: ...

    @property
    def process_count(self) -> int: ...

    def set(self, key: str, value: bytes, *, overwrite: bool = False) -> bool:
        """False when there is a value already; then that one stays."""

    def try_get(self, key: str) -> bytes | None: ...

    def delete(self, key: str) -> None:
        """With all keys below it."""


class Alone:
    """The service of a single process."""

    process_index, process_count = 0, 1

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def set(self, key: str, value: bytes, *, overwrite: bool = False) -> bool:
        if key in self.values and not overwrite:
            return False
        self.values[key] = value
        return True

    def try_get(self, key: str) -> bytes | None:
        return self.values.get(key)

    def delete(self, key: str) -> None:
        for other in list(self.values):
            if other == key or other.startswith(key + "/"):
                del self.values[other]


class Group:
    """The processes that agree, as one of them sees it. Thread-safe."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._lock = threading.Lock()
        self._next = 0
        self._running: set[int] = set()
        self._deleted = 0  # keys of agreements before this one are gone

    def agreement(self, what: str, *, timeout: float | None = None, consequence: str = UNCOMMITTED) -> Agreement:
        """For the next save or load; `what` it is, for messages: "the save to '/run/3'". timeout: None is 60 seconds.

        consequence: a sentence on what it means that it failed.

        To be called in the same order in all processes, and before anything that could fail in one of them alone.
        """
        with self._lock:
            number = self._next
            self._next += 1
            self._running.add(number)
        return Agreement(self, number, what, TIMEOUT_SECONDS if timeout is None else float(timeout), consequence)

    def oldest_running(self) -> int:
        with self._lock:
            return min(self._running, default=self._next)

    def ended(self, number: int) -> None:
        with self._lock:
            self._running.discard(number)

    def take_deletable(self, end: int) -> range:
        """The agreements before `end`, where all have ended in all processes; each is returned once."""
        with self._lock:
            numbers = range(self._deleted, end)
            self._deleted = max(self._deleted, end)
        return numbers


class Agreement:
    """One save or load, in one of its processes.

    A save calls `begin`, `writing`, `publish`; a load `writing` and `agree`. Whatever fails on the way is handed to
    `fail`. `publish`, `agree` and `fail` end it; until then a thread of its own tells the others how far this process
    is, and listens: process 0 to all others, those to process 0.
    """

    def __init__(self, group: Group, number: int, what: str, timeout: float, consequence: str) -> None:
        self._group = group
        self._service = group.service
        self._index, self._count = self._service.process_index, self._service.process_count
        self._number, self._what, self._timeout, self._consequence = number, what, timeout, consequence
        self.own: frozenset[str] = frozenset()  # leaves that this process alone holds, known when the writer is opened
        self._lock = threading.Lock()  # of the next three: either this process reports, or it decides
        self._reported = False  # process 0: it has begun to commit
        self._outcome: _Outcome | None = None  # when it is known
        self._lost = False  # the service
        self._stopped = self._is_consequence = False  # by `on_failure`; the error that `fail` got was of that
        self._progress: Callable[[], object] = lambda: "begun"
        self._polls = 0  # to wait is progress too: who is waited for is watched
        self._on_failure: Callable[[], object] | None = None
        self._heard: dict[int, _Heard] = {}
        self._silence = ""  # who shows no progress; empty: nobody
        self._beat_seconds = min(BEAT_SECONDS, timeout / 5)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="ostraca-agreement", daemon=True)
        if self._count > 1:
            self._thread.start()

    # --- For savers and loaders -------------------------------------------------------------------------------------

    def begin(self, path: str, leaves: Sequence[LeafFact], open_writer: Callable[[str], Opened]) -> Opened:
        """Returns `open_writer(attempt)`: this process's writer for the attempt id that process 0 draws.

        Raises its error; `MismatchError` in all processes when their trees differ; `CoordinationError` when another
        process failed, when process 0 does not begin, or when `path` is not the same directory here as there.
        """
        listing = likeness.listing(leaves) if self._count > 1 else b""
        if self._index == 0:
            attempt = secrets.token_hex(16)
            writer = open_writer(attempt)
            begun = {"attempt": attempt, "tree": likeness.digest(listing), "host": socket.gethostname()}
            self._ask(self._service.set, self._key("leaves"), zlib.compress(listing, 1))
            self._ask(self._service.set, self._key("begin"), json.dumps(begun).encode())
            return writer
        begun = json.loads(self._wait_for("begin"))
        if begun["tree"] != likeness.digest(listing):
            theirs = zlib.decompress(self._wait_for("leaves"))
            difference, self.own = likeness.compared(theirs, listing, self._index)
            if difference:
                self._decide(_Outcome("mismatch", f"{self._what}: {difference}. {self._consequence}"))
                self._raise_if_decided()
        self._look_for_intent(Path(path), begun)
        return open_writer(begun["attempt"])

    def writing(self, progress: Callable[[], object], on_failure: Callable[[], object] | None = None) -> None:
        """From now on this process makes progress when what `progress` returns changes.

        `on_failure` is called, from another thread, when it is known that another process failed: to stop this one.
        The error that this makes here is not the one to raise, but its `cause`.
        """
        self._on_failure = on_failure
        self._progress = progress

    def publish(self, report: FileReport, commit: Callable[[list[FileReport]], str]) -> str:
        """Hands in what this process wrote. Returns what `commit` does, which process 0 calls with all reports.

        Raises its error in process 0, and `CoordinationError` in the others; that also where any process failed or
        shows no progress; `CommitUncertainError` in all.
        """
        return self._conclude(report.to_bytes(), lambda parts: commit([FileReport.from_bytes(part) for part in parts]))

    def agree(self) -> None:
        """Returns when all processes have called it. Raises `CoordinationError` when one failed, or is silent."""
        self._conclude(b"", lambda _: "")

    def fail(self, error: BaseException) -> bool:
        """Tells the others of an error, and ends. Returns whether what this process wrote may be removed.

        It may not where a manifest that names it may have been published, or may be yet.
        """
        self._is_consequence = self._stopped  # before this error is an outcome too, and heard of by our own thread
        if not self._lost:
            with contextlib.suppress(CoordinationError):  # they notice that this process is silent
                self._decide(self._failed(_brief(error)))
        self._end()
        return not self._reported or (self._outcome is not None and self._outcome.kind in ("failed", "mismatch"))

    def cause(self, error: BaseException) -> BaseException:
        """After `fail`: what made this process fail, where `error` came of being stopped by `on_failure`."""
        if self._is_consequence and self._outcome is not None:
            try:
                self._outcome.result()
            except Exception as cause:
                return cause
        return error

    # --- Steps ------------------------------------------------------------------------------------------------------

    def _look_for_intent(self, directory: Path, begun: dict[str, str]) -> None:
        intent = directory / f"intent-{begun['attempt']}.json"
        end = time.monotonic() + min(VISIBLE_SECONDS, self._timeout / 2)
        while not _is_seen(intent):
            if time.monotonic() > end:
                why = (
                    f"process 0 on {begun['host']} wrote '{intent.name}', which process {self._index} on"
                    f" {socket.gethostname()} does not see in '{directory}'; the directory is not shared between"
                    " them. Save to a file system that all processes share, under a path that means the same to all"
                )
                self._decide(self._failed(why))
            self._raise_if_decided()
            time.sleep(POLL_SECONDS_MAX)

    def _conclude(self, part: bytes, act: Callable[[list[bytes]], str]) -> str:
        part = self._group.oldest_running().to_bytes(NUMBER_BYTES, "big") + part
        try:
            if self._index == 0:
                parts = [part, *(self._wait_for("report", process) for process in range(1, self._count))]
                self._report()
                return self._act(act, parts)
            self._report()
            self._ask(self._service.set, self._key("report", self._index), part)
            self._outcome = _Outcome.decode(self._wait_for("outcome"))
            return self._outcome.result()
        finally:
            self._end()

    def _report(self) -> None:
        """From here on this process decides nothing, unless it is process 0, with what becomes of its commit."""
        with self._lock:
            self._raise_if_decided()
            self._reported = True

    def _act(self, act: Callable[[list[bytes]], str], parts: list[bytes]) -> str:
        try:
            text = act([part[NUMBER_BYTES:] for part in parts])
        except CommitUncertainError as error:
            self._tell(_Outcome("uncertain", str(error)))
            raise
        except Exception as error:
            self._tell(self._failed(_brief(error)))
            raise
        except BaseException:  # Ctrl-C, before or after the publication
            self._tell(_Outcome("uncertain", f"{self._what} was interrupted in process 0 while it was committed"))
            raise
        self._tell(_Outcome("done", text))
        for number in self._group.take_deletable(min(int.from_bytes(part[:NUMBER_BYTES], "big") for part in parts)):
            with contextlib.suppress(CoordinationError):  # it is committed all the same
                self._ask(self._service.delete, f"ostraca/{number}")
        return text

    def _end(self) -> None:
        self._ended.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(self._beat_seconds)  # it may hang in the service
        self._progress, self._on_failure = lambda: "ended", None  # they may hold a writer
        self._group.ended(self._number)

    # --- Outcomes ---------------------------------------------------------------------------------------------------

    def _decide(self, outcome: _Outcome) -> None:
        """Decides for all that it failed, unless that is decided already, or this process has reported."""
        with self._lock:
            if self._reported or self._outcome is not None:
                return
            if not self._ask(self._service.set, self._key("outcome"), outcome.encode()):
                outcome = self._decided() or outcome
            self._outcome = outcome

    def _tell(self, outcome: _Outcome) -> None:
        """Process 0's outcome, which stands even if the others cannot be told."""
        self._outcome = outcome
        with contextlib.suppress(CoordinationError):
            self._ask(self._service.set, self._key("outcome"), outcome.encode())

    def _decided(self) -> _Outcome | None:
        found = self._ask(self._service.try_get, self._key("outcome"))
        return None if found is None else _Outcome.decode(found)

    def _raise_if_decided(self) -> None:
        if self._outcome is not None:
            self._outcome.result()

    def _failed(self, why: str) -> _Outcome:
        return _Outcome("failed", f"{self._what} failed in process {self._index}: {why}. {self._consequence}")

    # --- Waiting and watching ---------------------------------------------------------------------------------------

    def _wait_for(self, name: str, process: int | None = None) -> bytes:
        """A key's value. Polls for it: a waiting read that times out stays in jax's service for good."""
        key = self._key(name, process)
        started = time.monotonic()
        while (value := self._ask(self._service.try_get, key)) is None:
            if self._reported and self._silence:
                raise CoordinationError(f"{self._what}: {self._silence}. {UNKNOWN}")
            if not self._reported:
                self._raise_if_decided()
            self._polls += 1
            longest = POLL_SECONDS_MAX + self._count / 1000
            time.sleep(min(max((time.monotonic() - started) / 4, POLL_SECONDS_MIN), longest))
        return value

    def _ask(self, call: Callable[..., Answer], *arguments: Any) -> Answer:
        """A call of the service, which may hang: where the process that runs it is stopped."""
        if self._count == 1:
            return call(*arguments)
        answers: list[Answer] = []
        errors: list[BaseException] = []

        def ask() -> None:
            try:
                answers.append(call(*arguments))
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=ask, name="ostraca-service", daemon=True)
        thread.start()
        thread.join(self._timeout)
        if answers:
            return answers[0]
        self._lost = True
        if errors and not isinstance(errors[0], CoordinationError):
            raise errors[0]
        why = (
            errors[0]
            if errors
            else (
                f"the coordination service, which process 0 runs, has not answered process {self._index} for"
                f" {self._timeout:g} s: process 0 hangs, or was stopped"
            )
        )
        raise CoordinationError(f"{self._what}: {why}{'. ' + UNKNOWN if self._reported else ''}")

    def _watch(self) -> None:
        tick = 0
        pause = min(QUICK_SECONDS, self._beat_seconds)
        while not self._ended.wait(pause):
            beat = f"{tick} {self._progress()} {self._polls}"
            with contextlib.suppress(CoordinationError):  # who waits will notice
                self._ask(self._beat, self._key("beat", self._index), beat.encode())
                self._listen()
                if not self._reported and self._outcome is not None:
                    if self._on_failure is not None:
                        self._stopped = True
                        self._on_failure()
                    return
            tick += 1
            pause = self._beat_seconds

    def _beat(self, key: str, value: bytes) -> None:
        self._service.set(key, value, overwrite=True)

    def _listen(self) -> None:
        """Looks for an outcome, and for processes that show no progress."""
        if not self._reported and self._outcome is None and (decided := self._decided()) is not None:
            self._outcome = decided
        now = time.monotonic()
        silent = []
        for process in [0] if self._index else range(1, self._count):
            beat = self._ask(self._service.try_get, self._key("beat", process)) or b""
            heard = self._heard[process] = self._heard.get(process, _Heard(beat, now, now)).after(beat, now)
            if now - heard.progressed > self._timeout and not self._has_reported(process):
                silent.append(f"process {process} ({heard.state(now - self._timeout / 2)})")
        if silent:
            self._silence = f"no progress for {self._timeout:g} s of {likeness.some(silent)}"
            self._decide(self._failed(self._silence))

    def _has_reported(self, process: int) -> bool:
        return process != 0 and self._ask(self._service.try_get, self._key("report", process)) is not None

    def _key(self, name: str, process: int | None = None) -> str:
        return f"ostraca/{self._number}/{name}" if process is None else f"ostraca/{self._number}/{process}/{name}"


class _Heard(NamedTuple):
    """What is known of another process: its last beat, when that came, and when its progress last changed."""

    beat: bytes
    spoke: float
    progressed: float

    def after(self, beat: bytes, now: float) -> _Heard:
        if beat == self.beat:
            return self
        moved = beat.partition(b" ")[2] != self.beat.partition(b" ")[2]
        return _Heard(beat, now, now if moved else self.progressed)

    def state(self, recently: float) -> str:
        if not self.beat:
            return "it has not come to this call, or died on the way"
        return "it runs: does its storage hang?" if self.spoke > recently else "it died or hangs"


class _Outcome(NamedTuple):
    kind: str  # "done", "failed", "mismatch", "uncertain"
    text: str  # what `commit` returned, or why not

    def encode(self) -> bytes:
        return json.dumps(self).encode()

    @staticmethod
    def decode(data: bytes) -> _Outcome:
        return _Outcome(*json.loads(data))

    def result(self) -> str:
        if self.kind == "done":
            return self.text
        if self.kind == "uncertain":
            raise CommitUncertainError(self.text)
        raise (MismatchError if self.kind == "mismatch" else CoordinationError)(self.text)


def _is_seen(file: Path) -> bool:
    if file.exists():
        return True
    for directory in (file.parent.parent, file.parent):  # opened, NFS asks its server anew
        with contextlib.suppress(OSError):
            os.close(os.open(directory, os.O_RDONLY | os.O_DIRECTORY))
    return file.exists()


def _brief(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
