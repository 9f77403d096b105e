"""`ostraca verify`: checks every stored byte of a checkpoint."""

import argparse
import dataclasses
import sys
import time
from typing import Final

from .. import loading
from ..progress import reporting
from ..reports import VerifyReport
from . import text

NAME: Final = "verify"
SUMMARY: Final = "check every stored byte"
DESCRIPTION: Final = """\
Reads all of a checkpoint and compares the checksum of every chunk, table and
file. With --deep it also decodes every chunk and compares the hash of its
content with that of the array that was saved. Lists all damage."""
EPILOG: Final = """\
examples:
  ostraca verify run/1000
  for c in run/*/; do ostraca verify --deep "$c" || echo "damaged: $c"; done
  ostraca verify --json run/1000 | jq -r '.damaged[].array' | sort -u

exit status: 0 ok, 1 damage, 2 usage or I/O error"""


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
    return 0 if report.ok else 1


def _show(report: VerifyReport, seconds: float) -> None:
    checked = f"{text.counted(report.chunks, 'chunk')}, {report.bytes:,} bytes ({text.size(report.bytes)})"
    speed = f"{seconds:.2f} s, {text.rate(report.bytes, seconds)}"
    if report.ok:
        text.show(f"ok: {checked}, {speed}")
        return
    rows = [(damage.file, text.number(damage.offset), damage.array or "-", damage.reason) for damage in report.damaged]
    text.show(text.table(("file", "offset", "array", "reason"), "<><<", rows))
    files = {damage.file for damage in report.damaged}
    places = f"{text.counted(len(rows), 'place')} in {text.counted(len(files), 'file')}"
    text.show(f"DAMAGED: {places}; checked {checked}, {speed}")
