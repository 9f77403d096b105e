"""What the processes of a save or a load tell each other, over a key-value service that all of them reach.

Keys lie below "ostraca/<n>/", where n is the number at which all processes make the same call (`meeting.py`). A save:
  1. all meet, so that none opens anything for a call that another does not make;
  2. process 0 makes its Writer, and with it directory and intent; then it publishes the attempt id as `begin`;
  3. the others compare their trees with its, look for the intent, and make their Writers;
  4. each says now and then how far it is (`pulse.py`), and looks whether the save has failed elsewhere;
  5. each hands in its `<p>/report` when its file is durable;
  6. process 0 waits for all reports, commits, and publishes the `outcome`, for which the others wait.
Where somebody else makes the directory meanwhile, step 2 makes a Writer without one, and step 3 does not look; when
process 0 has opened its files it sets `opened`, and the others then look for the intent and open theirs (`open`).
A load has steps 1 and 4 to 6, with nothing to commit.

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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeVar

from .._core import FileReport
from ..errors import CommitUncertainError, CoordinationError
from ..printing import some
from . import likeness
from .calls import Call
from .channel import POLL_SECONDS_MAX, Channel
from .likeness import LeafFact
from .meeting import Meeting
from .outcome import Outcome
from .pulse import HUNG_SECONDS, QUICK_SECONDS, Limits, Pulse
from .services import Service

VISIBLE_SECONDS: Final = 5.0  # within which a shared directory shows one process what another made
UNCOMMITTED: Final = "Nothing was committed; earlier checkpoints are as they were"
UNKNOWN: Final = "Whether it was committed is not known: look whether the checkpoint is there"
NUMBER_BYTES: Final = 8

Opened = TypeVar("Opened")
Action = Callable[[], object]


class Group:
    """The processes that agree, as one of them sees it. Thread-safe."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.pulse = Pulse(service)
        self._lock = threading.Lock()
        self._next = 0
        self._running: set[int] = set()
        self._deleted = 0  # keys of agreements before this one are gone

    def meet(self, call: Call, *, timeout: float | None = None, consequence: str = UNCOMMITTED) -> Agreement:
        """The next save or load, once all processes make the same `call`.

        timeout: seconds after which a process that lives, but does not come or makes no progress, counts as lost; None
        is `OSTRACA_TIMEOUT`, or 300. consequence: a sentence on what it means that it failed.

        To be called in the same order in all processes, and before anything that could fail in one of them alone.
        Raises `MismatchError` where processes make different calls, in all of them, and `CoordinationError` where one
        does not come. The next call is one of all again.
        """
        limits = Limits.of(timeout)
        self.pulse.begin()
        agreement = Agreement(self, Channel(self.service, call.what, limits), consequence)
        try:
            agreement.meet(call)
        except BaseException as error:
            agreement.fail(error)
            raise
        return agreement

    def take_number(self) -> int:
        with self._lock:
            number = self._next
            self._next += 1
            self._running.add(number)
        return number

    def oldest_running(self) -> int:
        with self._lock:
            return min(self._running, default=self._next)

    def ended(self, number: int) -> None:
        self.pulse.remove(number)
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
    `fail`. `publish`, `agree` and `fail` end it; until then a thread of its own listens to the others: process 0 to
    all, those to process 0.
    """

    def __init__(self, group: Group, channel: Channel, consequence: str) -> None:
        self._group, self._channel, self._consequence = group, channel, consequence
        self._index, self._count, self._what = channel.index, channel.count, channel.what
        self._begun: dict[str, str] = {}  # what process 0 said when it began
        self.own: frozenset[str] = frozenset()  # leaves that this process alone holds, known when the writer is opened
        self._lock = threading.Lock()  # of the next three: either this process reports, or it decides
        self._reported = False  # process 0: it has begun to commit
        self._outcome: Outcome | None = None  # when it is known
        self._stopped = self._is_consequence = False  # by `on_failure`; the error that `fail` got was of that
        self._progress: Callable[[], object] = lambda: "begun"
        self._renew: Action = lambda: None
        self._on_failure: Callable[[], object] | None = None
        self._lost = ""  # who shows no life or progress; empty: nobody
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="ostraca-agreement", daemon=True)

    # --- For savers and loaders -------------------------------------------------------------------------------------

    def meet(self, call: Call) -> None:
        """First of all, by `Group.meet`."""
        if self._count == 1:
            self._take_number()
            return
        Meeting(self._channel, call, self._consequence).hold(self._take_number, self._leave_number)
        self._thread.start()

    def begin(
        self, path: str, leaves: Sequence[LeafFact], open_writer: Callable[[str], Opened], *, opens_later: bool = False
    ) -> Opened:
        """Returns `open_writer(attempt)`: this process's writer for the attempt id that process 0 draws.

        opens_later: it has no files before `open`.

        Raises its error; `MismatchError` in all processes when their trees differ; `CoordinationError` when another
        process failed, or when `path` is not the same directory here as there.
        """
        listing = likeness.listing(leaves) if self._count > 1 else b""
        if self._index == 0:
            attempt = secrets.token_hex(16)
            writer = open_writer(attempt)
            begun = {"attempt": attempt, "tree": likeness.digest(listing), "host": socket.gethostname()}
            self._set("leaves", zlib.compress(listing, 1))
            self._set("begin", json.dumps(begun).encode())
            return writer
        self._begun = json.loads(self._wait_for("begin"))
        if self._begun["tree"] != likeness.digest(listing):
            theirs = zlib.decompress(self._wait_for("leaves"))
            difference, self.own = likeness.compared(theirs, listing, self._index)
            if difference:
                self._decide(Outcome("mismatch", f"{self._what}: {difference}. {self._consequence}"))
                self._raise_if_decided()
        if not opens_later:
            self._look_for_intent(Path(path), self._begun)
        return open_writer(self._begun["attempt"])

    def open(self, path: str, is_ready: Callable[[], bool], open_files: Callable[[], object]) -> None:
        """After `begin(..., opens_later=True)`: process 0 opens its files when `is_ready`, the others after it.

        Raises what the two raise, and what `begin` does.
        """
        if self._index > 0:
            self._wait_for("opened")
            self._look_for_intent(Path(path), self._begun)
            open_files()
            return
        for _ in self._channel.pauses():
            if is_ready():
                break
            self._raise_if_decided()
        open_files()
        self._set("opened", b"")

    def writing(self, progress: Action, on_failure: Action | None = None, renew: Action = lambda: None) -> None:
        """From now on this process makes progress when what `progress` returns changes. `renew` is called every beat.

        `on_failure` is called, from another thread, when another process is known to have failed: to stop this one. The
        error that this makes here is not the one to raise, but its `cause`.
        """
        self._progress, self._on_failure, self._renew = progress, on_failure, renew

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
        if not self._channel.is_lost:
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

    def _take_number(self) -> None:
        self._channel.number = self._group.take_number()
        self._group.pulse.add(self._channel.number, self._state, self._channel.limits)

    def _leave_number(self) -> None:
        self._group.ended(self._channel.number)

    def _state(self) -> str:
        return f"{self._progress()} {self._channel.polls}"

    def _look_for_intent(self, directory: Path, begun: dict[str, str]) -> None:
        intent = directory / f"intent-{begun['attempt']}.json"
        end = time.monotonic() + min(VISIBLE_SECONDS, self._channel.limits.hung / 2)
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
            self._set("report", part, self._index)
            self._outcome = Outcome.decode(self._wait_for("outcome"))
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
            self._tell(Outcome("uncertain", str(error)))
            raise
        except Exception as error:
            self._tell(self._failed(_brief(error)))
            raise
        except BaseException:  # Ctrl-C, before or after the publication
            self._tell(Outcome("uncertain", f"{self._what} was interrupted in process 0 while it was committed"))
            raise
        self._tell(Outcome("done", text))
        for number in self._group.take_deletable(min(int.from_bytes(part[:NUMBER_BYTES], "big") for part in parts)):
            with contextlib.suppress(CoordinationError):  # it is committed all the same
                self._channel.ask(self._channel.service.delete, f"ostraca/{number}")
        return text

    def _end(self) -> None:
        self._ended.set()
        self._group.ended(self._channel.number)
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(self._channel.limits.beat)  # it may hang in the service
        self._progress, self._on_failure, self._renew = lambda: "ended", None, lambda: None  # they may hold a writer

    # --- Outcomes ---------------------------------------------------------------------------------------------------

    def _decide(self, outcome: Outcome) -> None:
        """Decides for all that it failed, unless that is decided already, or this process has reported."""
        with self._lock:
            if self._reported or self._outcome is not None:
                return
            if not self._set("outcome", outcome.encode()):
                outcome = self._decided() or outcome
            self._outcome = outcome

    def _tell(self, outcome: Outcome) -> None:
        """Process 0's outcome, which stands even if the others cannot be told."""
        self._outcome = outcome
        with contextlib.suppress(CoordinationError):
            self._set("outcome", outcome.encode())

    def _decided(self) -> Outcome | None:
        found = self._channel.get("outcome")
        return None if found is None else Outcome.decode(found)

    def _raise_if_decided(self) -> None:
        if self._outcome is not None:
            self._outcome.result()

    def _failed(self, why: str) -> Outcome:
        return Outcome("failed", f"{self._what} failed in process {self._index}: {why}. {self._consequence}")

    # --- Waiting and watching ---------------------------------------------------------------------------------------

    def _set(self, name: str, value: bytes, process: int | None = None) -> bool:
        with self._told_as_unknown():
            return self._channel.set(name, value, process)

    def _wait_for(self, name: str, process: int | None = None) -> bytes:
        """A key's value."""
        with self._told_as_unknown():
            for _ in self._channel.pauses():
                if (value := self._channel.get(name, process)) is not None:
                    return value
                if not self._reported:
                    self._raise_if_decided()
                elif self._lost:
                    raise CoordinationError(f"{self._what}: lost {self._lost}")
        raise AssertionError  # the pauses have no end

    @contextlib.contextmanager
    def _told_as_unknown(self) -> Iterator[None]:
        """What a process that has reported cannot hear of may have become of the save, or not."""
        try:
            yield
        except CoordinationError as error:
            if not self._reported or self._outcome is not None:
                raise
            raise CoordinationError(f"{error}. {UNKNOWN}") from error

    def _watch(self) -> None:
        pause = min(QUICK_SECONDS, self._channel.limits.beat)
        while not self._ended.wait(pause):
            self._renew()  # not from the pulse: where storage hangs, this process lives
            with contextlib.suppress(CoordinationError):  # who waits will notice
                self._listen()
                if not self._reported and self._outcome is not None:
                    if self._on_failure is not None:
                        self._stopped = True
                        self._on_failure()
                    return
            pause = self._channel.limits.beat

    def _listen(self) -> None:
        """Looks for an outcome, and for processes that show no life or progress."""
        if not self._reported and self._outcome is None and (decided := self._decided()) is not None:
            self._outcome = decided
        hung = self._channel.limits.hung
        if self._reported:  # nothing can be decided any more: to wait for a slow commit is better than not to know
            hung = max(hung, HUNG_SECONDS)
        others = [0] if self._index else range(1, self._count)
        lost = [each for each in self._channel.lost(others, hung=hung) if not self._has_reported(each.process)]
        self._lost = some([each.why for each in lost])
        if lost:
            self._decide(self._failed(f"it lost {self._lost}"))

    def _has_reported(self, process: int) -> bool:
        return process != 0 and self._channel.get("report", process) is not None


def _is_seen(file: Path) -> bool:
    if file.exists():
        return True
    for directory in (file.parent.parent, file.parent):  # opened, NFS asks its server anew
        with contextlib.suppress(OSError):
            os.close(os.open(directory, os.O_RDONLY | os.O_DIRECTORY))
    return file.exists()


def _brief(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
