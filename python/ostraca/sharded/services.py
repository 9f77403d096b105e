"""What an agreement of processes runs on: a key-value service that all of them reach."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from ..errors import CoordinationError

Answer = TypeVar("Answer")


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


def answer(service: Service, seconds: float, call: Callable[..., Answer], *arguments: Any) -> Answer:
    """What a call of `service` returns. Raises its error, and `CoordinationError` when it has none after `seconds`.

    The call runs in a thread of its own, as it hangs where the process that runs the service is stopped.
    """
    if service.process_count == 1:
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
    thread.join(seconds)
    if answers:
        return answers[0]
    if errors:
        raise errors[0]
    raise CoordinationError(
        f"the coordination service, which process 0 runs, has not answered process {service.process_index} for"
        f" {seconds:g} s: process 0 hangs, or was stopped"
    )
