"""`ostraca prune`: removes the checkpoints that are not to be kept, and what killed saves left."""

import argparse
import dataclasses
import sys
from typing import Final

from .. import pruning
from ..upkeep_reports import PruneReport
from . import text

NAME: Final = "prune"
SUMMARY: Final = "remove checkpoints that are not kept"
DESCRIPTION: Final = """\
Removes the checkpoints directly below DIR but the newest N, or but those of
the given steps, and what killed saves left there. A checkpoint with an open
reader stays. Bytes go when the grace period is over, in the first prune after
it, and while another checkpoint has them as its base not at all."""
EPILOG: Final = """\
Within the grace period this undoes a removal:
  mv DIR/NAME/tombstone-ID.json DIR/NAME/manifest.json

examples:
  ostraca prune run/ --keep 3 --dry-run
  ostraca prune run/ --keep-step 1000 2000
  ostraca prune run/ --keep 3 --json | jq .freed_bytes

exit status: 0 ok, 2 usage error, or something that could not be read or
removed (the rest was)"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=text.path, metavar="DIR", help="a directory of checkpoints")
    keep = parser.add_mutually_exclusive_group(required=True)
    keep.add_argument("--keep", metavar="N", type=int, help="keep the newest N, by step")
    keep.add_argument("--keep-step", metavar="STEP", type=int, nargs="+", action="extend", help="keep these")
    parser.add_argument("--dry-run", action="store_true", help="change nothing, say what would be removed")
    parser.add_argument(
        "--grace",
        metavar="SECONDS",
        type=float,
        default=pruning.GRACE_SECONDS,
        help="how long bytes stay after their checkpoint, and unfinished saves after their last write (default: 3600)",
    )


def run(arguments: argparse.Namespace) -> int:
    report = pruning.prune(
        arguments.directory,
        keep=arguments.keep if arguments.keep_step is None else arguments.keep_step,
        dry_run=arguments.dry_run,
        grace_seconds=arguments.grace,
    )
    if arguments.json:
        errors = [{"name": name, "message": message} for name, message in report.errors]
        text.show_json(dataclasses.asdict(report) | {"errors": errors})
    else:
        _show(report)
    for warning in report.warnings:
        sys.stderr.write(f"ostraca: warning: {text.escaped(warning)}\n")
    for name, message in report.errors:
        sys.stderr.write(f"ostraca: error: {text.escaped(f'{name}: {message}')}\n")
    return 0 if report.ok else 2


def _show(report: PruneReport) -> None:
    would = "would be " if report.dry_run else ""
    rows = [(r.name, _step(r.step), f"{would}removed", text.size(r.bytes), r.reason) for r in report.removed]
    rows += [(k.name, _step(k.step), "kept", "-", k.reason) for k in report.kept]
    if rows:
        rows.sort(key=lambda row: row[0])
        text.show(text.table(("name", "step", "what", "freed", "why"), "<><><", rows))
    freed = f"{report.freed_bytes:,} bytes ({text.size(report.freed_bytes)})"
    text.show(f"{freed} {would}freed, {text.counted(len(report.removed), 'entry', 'entries')} {would}removed")


def _step(step: int | None) -> str:
    return "-" if step is None else str(step)
