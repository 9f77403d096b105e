"""What a change did to Ostraca's own figures: this checkout against the build of an earlier commit.

    python bench/before_after.py c7fd84a --rounds 15              the working tree, tracked files only, against c7fd84a
    python bench/before_after.py main~5 --after main --only 'save/*' small/save --size 1024

Both are built in environments of their own, with the same packages. A round runs every case with each build once, one
after the other, in an order that turns by one a round; a third run, of the earlier build again, is the control, which
says what the machine makes of no change at all. A figure is the speed of the later build in that of the earlier one,
the median of the rounds' ratios with its 95 % interval (bootstrap). It fails where the interval's lower bound is below
0.95 and below the control's. Exit status: 0 none fails, 1 some fail or could not be measured. Leave the machine alone
meanwhile. Writes before_after.json to --out.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import builds
import numpy as np
import system
from cases import Case, cases
from compare import Comparison
from report import Results

HERE = Path(__file__).parent
SIDES = ("before", "after", "control")
LEAST_SPEED = 0.95  # of the earlier build's
RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """A median and its 95 % interval."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Figure:
    """Speeds in that of the earlier build, of one case; None where a measurement failed."""

    case: str
    after: Interval | None
    control: Interval | None
    error: str = ""

    @property
    def fails(self) -> bool:
        if self.after is None or self.control is None:
            return True
        return self.after.low < LEAST_SPEED and self.after.low < self.control.low


def interval(ratios: Sequence[float]) -> Interval:
    """Bootstrap by percentiles; the same ratios always have the same interval."""
    drawn = np.random.default_rng(0).choice(ratios, (RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return Interval(statistics.median(ratios), float(low), float(high))


def figure(case: Case, sides: dict[str, Results]) -> Figure:
    """A case's figure from the measurements of both builds and of the control."""
    (contender,) = case.contenders
    errors = [f"{name}: {error}" for name in SIDES if (error := sides[name].errors(case.label, contender))]
    before, after, control = (sides[name].values(case.label, contender) for name in SIDES)
    is_speed = case.unit == "GB/s"  # else a time, or a share of it

    def speeds(of: dict[int, float]) -> Interval | None:
        pairs = [(before[number], of[number]) for number in before if number in of]
        return interval([new / old if is_speed else old / new for old, new in pairs]) if pairs else None

    if errors:
        return Figure(case.label, None, None, "; ".join(errors))
    return Figure(case.label, speeds(after), speeds(control))


def own_cases(args: argparse.Namespace) -> list[Case]:
    """compare.py's cases that Ostraca takes part in, one for each of its contenders, without the machine's limits."""
    memory = system.machine(args.dir)["memory_bytes"]
    found = [
        replace(case, label=f"{case.label} {name}", contenders=(name,), limit=None)
        for case in cases(nbytes=args.size * system.MIB, full=args.full, memory_bytes=memory)
        for name in case.contenders
        if name.startswith("ostraca") and case.operation != "limit"
    ]
    return [case for case in found if any(fnmatch(case.label.split()[0], pattern) for pattern in args.only)]


def measured(chosen: list[Case], pythons: dict[str, str], directory: Path, rounds: int) -> dict[str, Results]:
    """The builds side by side."""
    sides = {}
    for name in SIDES:
        (directory / name).mkdir()
        sides[name] = Comparison(chosen, directory / name, rounds, float("inf"), pythons[name])
        sides[name].prepare()
    for number in range(rounds):
        turn = number % len(SIDES)
        for case in chosen:
            for name in SIDES[turn:] + SIDES[:turn]:
                sides[name].measure_case(case, number)
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return {name: Results(chosen, side.rows, side.absent) for name, side in sides.items()}


def table(figures: list[Figure]) -> str:
    width = max(len(each.case) for each in figures)
    lines = [f"{'case':{width}}  {'speed, after / before':24}  {'control / before':24}"]
    for each in figures:
        verdict = ("FAILS " + each.error).rstrip() if each.fails else ""
        lines.append(f"{each.case:{width}}  {each.after!s:24}  {each.control!s:24}  {verdict}".rstrip())
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", metavar="COMMIT", help="the earlier build")
    parser.add_argument("--after", metavar="COMMIT", help="the later build (default: the tracked files as they are)")
    parser.add_argument("--rounds", type=int, default=15, help="(default: 15)")
    parser.add_argument("--size", type=int, default=256, help="of a state, in MiB (default: 256)")
    parser.add_argument("--full", action="store_true", help="compare.py's long list of cases")
    parser.add_argument("--only", nargs="+", default=["*"], help="cases, by glob: 'save/*' row")
    parser.add_argument("--dir", type=Path, default=HERE.parent / "build", help="the disk to measure (default: build)")
    parser.add_argument(
        "--out", type=Path, default=HERE.parent / "build" / "bench-results", help="(default: %(default)s)"
    )
    return parser.parse_args()


def main() -> int:
    args = parse()
    args.dir.mkdir(parents=True, exist_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    chosen = own_cases(args)
    if not chosen:
        print(f"no case matches {' '.join(args.only)}; compare.py --list names them", file=sys.stderr)
        return 1
    trees = {"before": builds.tree_of(args.commit), "after": builds.tree_of(args.after)}
    pythons = {name: builds.build(tree, HERE.parent / "build" / "before-after") for name, tree in trees.items()}
    pythons["control"] = pythons["before"]
    directory = Path(tempfile.mkdtemp(prefix="bench-", dir=args.dir))
    try:
        sides = measured(chosen, pythons, directory, args.rounds)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    figures = [figure(case, sides) for case in chosen]
    document: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"python bench/before_after.py {' '.join(sys.argv[1:])}",
        "trees": trees,
        "machine": system.machine(args.dir),
        "rounds": args.rounds,
        "size_mib": args.size,
        "figures": [asdict(each) | {"fails": each.fails} for each in figures],
        "measurements": {name: side.rows for name, side in sides.items()},
    }
    (args.out / "before_after.json").write_text(json.dumps(document, indent=1))
    print(table(figures))
    failing = sum(each.fails for each in figures)
    print(f"{failing} of {len(figures)} figures fail" if failing else f"none of {len(figures)} figures fails")
    return 1 if failing else 0


if __name__ == "__main__":
    sys.exit(main())
