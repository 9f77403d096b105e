"""Runs Orbax's own tests on stock and with Ostraca in its place, and compares.

    python tests/peers/orbax.py --src CHECKOUT [FILE ...] [--only PATTERN]

FILE is one of `files` in orbax_differences.toml, which also lists the differences that are meant to be. Exit status: 0
where Ostraca passes all that stock passes, but for those; 1 for any other difference, one listed in vain, and a test
file of the checkout that the list does not know.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE.parent.parent / "build" / "peers-orbax" / "results"
PACKAGE = Path("checkpoint", "orbax", "checkpoint")
FILE_SECONDS = 1800


@dataclass(frozen=True)
class Outcome:
    outcome: str  # passed, failed, skipped; unfinished where the process ended before
    message: str


@dataclass
class Listed:
    """Differences that are meant to be, and which of the patterns were of use."""

    entries: list[dict[str, Any]]  # kind, why, says (found in the failure's message), tests (patterns)
    used: set[str] = field(default_factory=set)

    def kind(self, test: str, outcome: Outcome) -> str | None:
        """Of a difference, unless it is another than the one that is listed."""
        for entry in self.entries:
            matching = [pattern for pattern in entry["tests"] if fnmatch.fnmatchcase(test, pattern)]
            if matching and re.search(entry["says"], outcome.message, re.DOTALL):
                self.used.update(matching)
                return str(entry["kind"])
        return None

    def in_vain(self, files: list[str]) -> Iterator[str]:
        for pattern in (pattern for entry in self.entries for pattern in entry["tests"]):
            if pattern.split("::")[0] in files and pattern not in self.used:
                yield pattern


def run(arguments: argparse.Namespace, file: str, ostraca: bool) -> tuple[dict[str, Outcome], int]:
    """The outcome of each test of a file, and how often Ostraca saved; what the tests print is beside the outcomes."""
    place = arguments.results / ("ostraca" if ostraca else "stock") / file
    place.parent.mkdir(parents=True, exist_ok=True)
    outcomes, log = place.with_suffix(".jsonl"), place.with_suffix(".log")
    outcomes.unlink(missing_ok=True)
    command = [sys.executable, HERE / "orbax_program.py", arguments.src, file, outcomes, "--only", arguments.only]
    with tempfile.TemporaryDirectory() as scratch, log.open("w") as out:
        environment = os.environ | {
            "TEST_TMPDIR": scratch,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        }
        try:
            subprocess.run(
                [*command, *(["--ostraca"] if ostraca else [])],
                env=environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                timeout=FILE_SECONDS,
            )
        except subprocess.TimeoutExpired:
            print(f"not done within {FILE_SECONDS} s", file=out)
    if not outcomes.exists():
        raise SystemExit(f"{file} ran no test on {'Ostraca' if ostraca else 'stock'}; {log} says why")
    lines = [json.loads(line) for line in outcomes.read_text().splitlines()]
    found = {line["test"]: Outcome(line["outcome"], line["message"]) for line in lines if "test" in line}
    return found, lines[-1].get("saves", 0)  # of a test's lines, the last counts


def differences(stock: dict[str, Outcome], ours: dict[str, Outcome]) -> Iterator[tuple[str, Outcome]]:
    missing = Outcome("missing", "stock has this test, Ostraca does not")
    for test, outcome in stock.items():
        found = ours.get(test, missing)
        if outcome.outcome == "passed" and found.outcome != "passed":
            yield test, found


def unknown_files(checkout: Path, known: list[str]) -> list[str]:
    """Test files of the checkout that are neither chosen nor left out."""
    root = checkout / PACKAGE
    found = sorted(str(file.relative_to(root)) for file in root.rglob("*_test*.py"))
    return [file for file in found if not any(fnmatch.fnmatchcase(file, pattern) for pattern in known)]


def release(checkout: Path) -> str:
    """The release that a checkout's tests belong to."""
    file = checkout / PACKAGE / "version.py"
    found = re.search(r"^__version__ = '(.*)'", file.read_text(), re.MULTILINE) if file.exists() else None
    return found[1] if found else "no known release"


def counted(outcomes: dict[str, Outcome]) -> str:
    count = Counter(outcome.outcome for outcome in outcomes.values())
    failed = len(outcomes) - count["passed"] - count["skipped"]
    return f"{count['passed']:5} {failed:5} {count['skipped']:5}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--src", type=Path, required=True, help="a checkout of Orbax's repository")
    parser.add_argument("--only", default="*", help="of the tests, those whose `Class.test` matches this pattern")
    parser.add_argument("--book", type=Path, default=HERE / "orbax_differences.toml", help="files and differences")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where outcomes and logs go")
    parser.add_argument("files", nargs="*", metavar="FILE", help="default: all that are chosen")
    arguments = parser.parse_args()
    book = tomllib.loads(arguments.book.read_text())
    files = arguments.files or book["files"]
    if not (arguments.src / PACKAGE).is_dir():
        raise SystemExit(f"{arguments.src} is no checkout of Orbax's repository: it has no {PACKAGE}")
    listed = Listed(book["differences"])

    print(f"orbax-checkpoint {version('orbax-checkpoint')} (differences are those of {book['release']}), ", end="")
    print(f"tests of {release(arguments.src)}")
    print(f"{'':88} {'stock':^17}   {'Ostraca':^17}\n{'':88}" + "  pass  fail  skip  " * 2 + " saves")
    unknown = unknown_files(arguments.src, [*book["files"], *book["left_out"]])
    wrong = [f"{file}: neither among the files to run nor left out" for file in unknown]
    kinds: Counter[str] = Counter()
    for file in files:
        (stock, _), (ours, saves) = (run(arguments, file, ostraca) for ostraca in (False, True))
        print(f"{file:88} {counted(stock)}   {counted(ours)}   {saves:5}", flush=True)
        for test, outcome in differences(stock, ours):
            name = f"{file}::{test}"
            kind = listed.kind(name, outcome)
            kinds[kind or "not listed"] += 1
            if kind is None:
                wrong.append(f"{name}: {outcome.outcome}: {outcome.message[:300]}")
    if arguments.only == "*":
        wrong += [f"{pattern}: listed, and there is no such difference" for pattern in listed.in_vain(files)]
    print("differences:", ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "none")
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
