"""`ostraca verify`: checks every stored byte of a checkpoint."""

import argparse
import dataclasses
import sys
import time
from typing import Final

from .. import loading
from ..progress import reporting
from ..reports import Damage, VerifyReport
from . import text

NAME: Final = "verify"
SUMMARY: Final = "check every stored byte"
DESCRIPTION: Final = """\
Reads all of a checkpoint and compares the checksum of every chunk, table and
file. With --deep it also decodes every chunk and compares the hash of its
content with that of the array that was saved. Lists all damage, and what could
not be read."""
EPILOG: Final = """\
examples:
  ostraca verify run/1000
  for c in run/*/; do ostraca verify --deep "$c" || echo "damaged: $c"; done
  ostraca verify --json run/1000 | jq -r '.damaged[].array' | sort -u

exit status: 0 ok, 1 damage, 2 usage error, or something that could not be read
and may be sound (and no damage beside it)"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=text.path, metavar="PATH", help="a checkpoint")
    parser.add_argument("--deep", action="store_true", help="decode too, and compare content hashes")


def run(arguments: argparse.Namespace) -> int:
    started = time.perf_counter()
    with reporting(sys.stderr.isatty(), "verifying") as callback:
        report = loading.verify(arguments.path, deep=arguments.deep, progress=callback)
    seconds = time.perf_counter() - started
    if arguments.json:
        result = {"path": arguments.path, "deep": arguments.deep, "seconds": round(seconds, 6)}
        text.show_json(result | dataclasses.asdict(report))
    else:
        _show(report, seconds)
    return 0 if report.ok else 1 if report.damaged else 2


def _show(report: VerifyReport, seconds: float) -> None:
    checked = f"{text.counted(report.chunks, 'chunk')}, {report.bytes:,} bytes ({text.size(report.bytes)})"
    speed = f"{seconds:.2f} s, {text.rate(report.bytes, seconds)}"
    if report.ok:
        text.show(f"ok: {checked}, {speed}")
        return
    found = report.damaged + report.unreadable
    rows = [(place.file, text.number(place.offset), place.array or "-", place.reason) for place in found]
    text.show(text.table(("file", "offset", "array", "reason"), "<><<", rows))
    words = [f"{word}: {_places(places)}" for word, places in _found(report) if places]
    text.show(f"{'; '.join(words)}; checked {checked}, {speed}")


def _found(report: VerifyReport) -> list[tuple[str, list[Damage]]]:
    return [("DAMAGED", report.damaged), ("UNREADABLE", report.unreadable)]


def _places(places: list[Damage]) -> str:
    files = {place.file for place in places}
    return f"{text.counted(len(places), 'place')} in {text.counted(len(files), 'file')}"
