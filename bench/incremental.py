"""What incremental saves cost on real training runs, by kind of array, and against peers that have none.

    python bench/incremental.py            trains what training_runs.py has not made yet (minutes), then measures
    python bench/incremental.py --check    and says which targets are met

Writes incremental.json (every measurement, versions, the machine) and incremental.md to --out: its first table is the
one in docs/benchmarks.md. What the columns mean is in incremental_measure.py, what the runs are in training_runs.py.
"""

import argparse
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}  # before anything imports jax

import incremental_measure as measure
import incremental_report as report
import incremental_training as training
import system
import training_runs

HERE = Path(__file__).parent
TIMED = (1, 10, 100)  # steps apart; the others are measured for the whole state, in bytes only


def measured(runs: list[str], disk: Path) -> dict[str, Any]:
    rows = []
    separate = [run for run in runs if not training_runs.PLANS[run].within]  # of the others, bytes only
    for run in runs:
        key = measure.parts(run, 0)
        for steps in training_runs.DISTANCES[1:]:
            now = measure.parts(run, steps)
            for part in now if steps in TIMED else ["whole state"]:
                row = {"run": run, "part": part, "steps": steps}
                timed = steps in TIMED and run in separate
                rows.append(row | measure.pair(key[part], now[part], disk, timed=timed))
                print(report.line(rows[-1]), file=sys.stderr, flush=True)
    totals = [measure.totals(run, [row for row in rows if row["run"] == run], disk) for run in separate]
    accounts = [training.account(run) for run in runs]
    return {"training": accounts, "rows": rows, "totals": totals, "unchanged": measure.unchanged()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="print each target as met or not met")
    parser.add_argument("--runs", nargs="+", choices=training_runs.PLANS, default=list(training_runs.PLANS))
    parser.add_argument("--dir", type=Path, default=HERE.parent / "build", help="the disk to measure (default: build)")
    parser.add_argument(
        "--out", type=Path, default=HERE.parent / "build" / "bench-results", help="(default: %(default)s)"
    )
    parser.add_argument("--from-json", type=Path, help="measure nothing: report on an earlier incremental.json")
    args = parser.parse_args()
    if args.from_json:
        document = json.loads(args.from_json.read_text())
    else:
        training_runs.make()
        document = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": f"python bench/incremental.py {' '.join(sys.argv[1:])}".strip(),
            "machine": system.machine(args.dir),
            "versions": system.versions(),
        } | measured(args.runs, args.dir)
    args.out.mkdir(parents=True, exist_ok=True)
    text, checked = report.text(document), report.check(document)
    (args.out / "incremental.json").write_text(json.dumps(document, indent=1))
    (args.out / "incremental.md").write_text(text + "\n## Targets\n\n```\n" + checked + "```\n")
    print(text)
    if args.check:
        print(checked)
    print(f"written to {args.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
