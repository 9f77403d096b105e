"""Runs several processes of a script, as a jax program has them, and strikes at them."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

WAIT_SECONDS = 60.0


class Process:
    """One of them. It prints lines; the last says how it ended."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.lines: list[str] = []
        self._said = threading.Condition()
        self._ended = False
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def output(self) -> str:
        return "".join(self.lines)

    @property
    def returncode(self) -> int:
        assert self._process.returncode is not None
        return self._process.returncode

    def wait_for(self, text: str) -> None:
        """Until it has printed a line that begins so."""
        with self._said:
            found = self._said.wait_for(
                lambda: self._ended or any(line.startswith(text) for line in self.lines), WAIT_SECONDS
            )
        assert found and any(line.startswith(text) for line in self.lines), f"no {text!r} in: {self.output}"

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, seconds: float = WAIT_SECONDS) -> str:
        """Its output, when it has ended."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.end()
            raise AssertionError(f"it did not end within {seconds} s, and said: {self.output}") from None
        self._listener.join()
        return self.output

    def end(self) -> None:
        self._process.kill()
        self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            for line in stdout:
                with self._said:
                    self.lines.append(line)
                    self._said.notify_all()
        with self._said:
            self._ended = True
            self._said.notify_all()


class Processes:
    """`count` processes of a script, called with index, count, port and `arguments`. Leaving the block ends them."""

    def __init__(self, script: str | Path, count: int, *arguments: object, environment: dict[str, str] | None = None):
        variables = {**os.environ, "JAX_PLATFORMS": "cpu", **(environment or {})}
        variables.pop("XLA_FLAGS", None) if "XLA_FLAGS" not in (environment or {}) else None
        port = free_port()
        tail = [str(argument) for argument in arguments]
        self.all = [
            Process([sys.executable, "-u", str(script), str(i), str(count), str(port), *tail], variables)
            for i in range(count)
        ]

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.all:
            process.end()

    def __getitem__(self, index: int) -> Process:
        return self.all[index]

    def wait(self, seconds: float = WAIT_SECONDS) -> list[str]:
        """The outputs, when all have ended."""
        end = time.monotonic() + seconds
        return [process.wait(max(0.1, end - time.monotonic())) for process in self.all]


def run_all(script: str | Path, count: int, *arguments: object) -> list[str]:
    """The outputs of processes that all have to succeed."""
    with Processes(script, count, *arguments) as processes:
        outputs = processes.wait()
    assert [process.returncode for process in processes.all] == [0] * count, outputs
    return outputs


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def join(index: int, count: int, port: int) -> None:
    """In a process: makes it one of the program's."""
    import jax

    jax.distributed.initialize(f"127.0.0.1:{port}", count, index, initialization_timeout=int(WAIT_SECONDS))


def leave(status: int = 0) -> None:
    """In a process: ends it at once, without jax's wait for the others, of which some are gone."""
    sys.stdout.flush()
    os._exit(status)
