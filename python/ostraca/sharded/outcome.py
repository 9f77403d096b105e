"""What became of a save or a load that several processes make, as they tell each other."""

from __future__ import annotations

import json
from typing import NamedTuple

from ..errors import CommitUncertainError, CoordinationError, MismatchError


class Outcome(NamedTuple):
    """Set once, for all of them."""

    kind: str  # "done", "failed", "mismatch", "uncertain"
    text: str  # what `commit` returned, or why not

    def encode(self) -> bytes:
        return json.dumps(self).encode()

    @staticmethod
    def decode(data: bytes) -> Outcome:
        return Outcome(*json.loads(data))

    def result(self) -> str:
        """The text. Raises the error that it is of, where it failed."""
        if self.kind == "done":
            return self.text
        if self.kind == "uncertain":
            raise CommitUncertainError(self.text)
        raise (MismatchError if self.kind == "mismatch" else CoordinationError)(self.text)
