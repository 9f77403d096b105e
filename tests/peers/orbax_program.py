"""Runs one of Orbax's test files in this process and writes each test's outcome, one JSON object a line. The last line
counts the saves that Ostraca began.

    python tests/peers/orbax_program.py CHECKOUT FILE OUTCOMES [--ostraca] [--only PATTERN]

FILE is relative to the checkout's folder `checkpoint/orbax/checkpoint`. The package that is installed serves the
imports; the checkout serves test files and their helpers, which the package leaves out.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib
import importlib.util
import json
import os
import signal
import socket
import sys
import unittest
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, NoReturn, TextIO

TEST_SECONDS = 120


class FromCheckout:
    """Finds the modules of Orbax that only its repository has; the last in sys.meta_path, so that the package leads."""

    def __init__(self, checkout: Path) -> None:
        self._root = checkout / "checkpoint"

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        file = self._root.joinpath(*name.split(".")).with_suffix(".py")
        if not name.startswith("orbax.") or not file.exists():
            return None
        return importlib.util.spec_from_file_location(name, file)


class Outcomes(unittest.TestResult):
    """Writes a line when a test ends. Its message is that of the test's first failure, sub-tests' among them."""

    def __init__(self, out: TextIO) -> None:
        super().__init__()
        self._out = out
        self._outcome, self._message = "passed", ""

    def write(self, name: str, outcome: str, message: str = "") -> None:
        print(json.dumps({"test": name, "outcome": outcome, "message": message}), file=self._out, flush=True)

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self._outcome, self._message = "passed", ""
        print(f"== {named(test)}", file=sys.stderr, flush=True)
        signal.alarm(TEST_SECONDS)

    def stopTest(self, test: unittest.TestCase) -> None:
        signal.alarm(0)
        super().stopTest(test)
        self.write(named(test), self._outcome, self._message)

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        super().addSkip(test, reason)
        if self._outcome == "passed":
            self._outcome, self._message = "skipped", reason

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        self.addError(test, err)

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        if err is not None:
            self.addError(test, err)

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        super().addError(test, err)
        print(self.errors[-1][1], file=sys.stderr, flush=True)
        message = f"{err[0].__name__}: {err[1]}"
        if not isinstance(test, unittest.TestCase):  # a class or a module that could not be set up
            self.write(str(test), "failed", message)
        elif self._outcome != "failed":
            self._outcome, self._message = "failed", message


def named(test: unittest.TestCase) -> str:
    return f"{type(test).__qualname__}.{test._testMethodName}"


def out_of_time(signal_number: int, frame: FrameType | None) -> NoReturn:
    raise TimeoutError(f"not done within {TEST_SECONDS} s")


def tests(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for each in suite:
        if isinstance(each, unittest.TestSuite):
            yield from tests(each)
        else:
            yield each


def load(module: ModuleType, only: str) -> unittest.TestSuite:
    """The module's tests; of a module that has only bases for others' tests, those of the bases."""
    loader = unittest.defaultTestLoader
    found = list(tests(loader.loadTestsFromModule(module)))
    if not found:
        nested = [inner for outer in vars(module).values() if isinstance(outer, type) for inner in vars(outer).values()]
        cases = [inner for inner in nested if isinstance(inner, type) and issubclass(inner, unittest.TestCase)]
        found = [test for case in cases for test in tests(loader.loadTestsFromTestCase(case))]
    return loader.suiteClass([test for test in found if fnmatch.fnmatch(named(test), only)])


def start_distributed() -> None:
    """One process under jax.distributed: Orbax's tests wait at its barriers."""
    import jax

    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    jax.distributed.initialize(f"localhost:{port}", num_processes=1, process_id=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("outcomes", type=Path)
    parser.add_argument("--ostraca", action="store_true", help="with Ostraca's handlers in the place of Orbax's")
    parser.add_argument("--only", default="*", help="of the tests, those whose `Class.test` matches this pattern")
    arguments = parser.parse_args()

    from absl import flags

    flags.FLAGS.mark_as_parsed()
    start_distributed()
    sys.meta_path.append(FromCheckout(arguments.checkout))  # type: ignore[arg-type]
    saves: list[str] = []
    if arguments.ostraca:
        import orbax_swap

        saves = orbax_swap.install()
    name = ".".join(("orbax", "checkpoint", *arguments.file.with_suffix("").parts))
    module = importlib.import_module(name)
    suite = load(module, arguments.only)
    signal.signal(signal.SIGALRM, out_of_time)
    with arguments.outcomes.open("w") as out:
        outcomes = Outcomes(out)
        for test in tests(suite):
            outcomes.write(named(test), "unfinished")  # which is what remains of it when the process is killed
        suite.run(outcomes)
        print(json.dumps({"saves": len(saves)}), file=out, flush=True)
    os._exit(0)  # threads that a failed test left behind would keep the process


if __name__ == "__main__":
    main()
