"""Memory that is on its way to the disk."""

import threading
from typing import Final

from .. import _core

# What the writer may keep until more is added or it is sealed: arrays of less than a batch, in two of them.
UNFINISHED_BYTES: Final = 2 * _core.BLOCK_BYTES
_POLL_SECONDS: Final = 0.1  # how often a wait looks whether the writer has failed


class Budget:
    """Bytes handed to a writer that it has not let go of. Thread-safe, for one that takes.

    What is more than all of it waits until the writer has let go of all that it can.
    """

    def __init__(self, limit: int) -> None:
        assert limit > UNFINISHED_BYTES  # else a wait might have no end
        self._limit = self._left = limit
        self._changed = threading.Condition()

    def has(self, count: int) -> bool:
        """Whether `take` would not wait."""
        return self._left >= min(count, self._limit - UNFINISHED_BYTES)

    def take(self, count: int, writer: _core.Writer) -> None:
        """Waits for them. Raises the writer's error: it would never let go."""
        with self._changed:
            while not self.has(count):
                if not self._changed.wait(_POLL_SECONDS):
                    writer.wait_copied(0)
            self._left -= count

    def give(self, count: int) -> None:
        with self._changed:
            self._left += count
            self._changed.notify()
