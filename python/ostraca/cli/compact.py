"""`ostraca compact`: makes checkpoints that have a base self-contained."""

import argparse
import dataclasses
import sys
from typing import Final

from .. import compacting
from ..errors import CorruptionError, OstracaError
from ..upkeep_reports import CompactReport
from . import text

NAME: Final = "compact"
SUMMARY: Final = "make incremental checkpoints self-contained"
DESCRIPTION: Final = """\
Writes all of a checkpoint that has a base (see `ostraca inspect`) again, in
its place, so that it needs no other checkpoint. Leaves, step and metadata stay
as they are; its id is a new one. When it is killed, the checkpoint is as it
was, or done. A checkpoint without a base stays as it is."""
EPILOG: Final = """\
examples:
  ostraca compact run/2000 --dry-run
  ostraca compact run/2000 && ostraca prune run/ --keep-step 2000
  ostraca compact run/* --json | jq '.compacted[] | {path, base}'

exit status: 0 ok, 1 a damaged checkpoint, 2 usage or I/O error (the others
were compacted)"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", type=text.path, metavar="PATH", nargs="+", help="a checkpoint")
    parser.add_argument("--dry-run", action="store_true", help="change nothing, say what would be written")


def run(arguments: argparse.Namespace) -> int:
    reports: list[CompactReport] = []
    errors: list[tuple[str, Exception]] = []
    for path in arguments.paths:
        try:
            reports.append(compacting.compact(path, dry_run=arguments.dry_run))
        except (OstracaError, OSError, ValueError) as error:
            if len(arguments.paths) == 1:
                raise
            errors.append((path, error))
    if arguments.json:
        failed = [{"path": path, "message": str(failure)} for path, failure in errors]
        text.show_json({"compacted": [dataclasses.asdict(report) for report in reports], "errors": failed})
    else:
        _show(reports)
    for path, failure in errors:
        sys.stderr.write(f"ostraca: error: {text.escaped(f'{path}: {failure}')}\n")
    if not errors:
        return 0
    return 1 if all(isinstance(failure, CorruptionError) for _, failure in errors) else 2


def _show(reports: list[CompactReport]) -> None:
    rows = [
        (
            report.path,
            report.base or "-",
            text.size(report.stored_bytes_before),
            _after(report),
            f"{report.seconds:.2f} s",
            _remark(report),
        )
        for report in reports
    ]
    if rows:
        text.show(text.table(("checkpoint", "base", "before", "after", "took", ""), "<<>>><", rows))


def _after(report: CompactReport) -> str:
    most = "at most " if report.dry_run and report.base is not None else ""
    return most + text.size(report.stored_bytes_after)


def _remark(report: CompactReport) -> str:
    if report.base is None:
        return "nothing to do: it has no base"
    if report.base_needed_by:
        return f"{report.base} is still the base of {', '.join(report.base_needed_by)}"
    return f"{report.base} ({text.size(report.base_bytes)}) is no other's base: prune may remove it"
