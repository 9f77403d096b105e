"""The directory of a save, which Orbax makes in threads that it has started before it calls the handler."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import jax
import orbax.checkpoint as ocp

from ..errors import CancelledError, OstracaError

_NAME: Final = "ostraca_directory"


class Directory:
    """Waits for the directory for as long as Orbax itself would. To be made where the handler is called."""

    def __init__(self, path: Path) -> None:
        self._path = path
        before = frozenset(threading.enumerate())
        self._made = ocp.future.CommitFutureAwaitingContractedSignals(_nothing(), name=_NAME)
        waiting = (each for each in threading.enumerate() if each not in before and each.name == _NAME)
        self._waiting = next(waiting, None)  # None: it is there already

    def __call__(self, seconds: float) -> bool:
        """Waits at most so long; whether the directory is there. Raises `OstracaError` when it will not be."""
        started = time.monotonic()
        try:
            self._made.result(seconds)
        except Exception as error:
            if isinstance(error, TimeoutError) and time.monotonic() - started >= seconds:
                self._raise_if_nobody_makes_it()
                return False
            raise OstracaError(f"Orbax did not make the directory {str(self._path)!r} in time: {error}") from error
        return True

    def _raise_if_nobody_makes_it(self) -> None:
        """Raises `CancelledError`: what went wrong is told by Orbax's own future.

        A thread of Orbax's that fails ends, and its signal never comes. Which thread sends which signal are private
        names of Orbax's; without them a failure shows when the time is over.
        """
        awaited = _of(self._waiting, "_receive_signals")
        operation = getattr(self._waiting, "_operation_id", None)
        at_work = [each for each in threading.enumerate() if getattr(each, "_operation_id", None) == operation]
        promised = {signal for each in at_work for signal in _of(each, "_send_signals")}
        if not promised and jax.process_count() > 1:
            return  # another process may be the one that makes directories
        # The item's directory is in the step's. Looked for after the threads: one that succeeded has made it.
        for signal, place in zip(reversed(awaited), (self._path, self._path.parent), strict=False):
            if signal not in promised and not place.exists():
                raise CancelledError(f"the save was given up: Orbax failed to make the directory {str(place)!r}")


def _of(thread: Any, name: str) -> list[Any]:
    signals: Iterable[Any] = getattr(thread, name, ())
    return list(signals)


async def _nothing() -> None: ...
