"""Ostraca and its peers side by side, with the machine's own limits beside them.

    python bench/compare.py --quick      fewer cases and peers, 256 MiB: three rounds, or as many as fit in 4 minutes
    python bench/compare.py              five rounds of 1 GiB: about an hour, and 40 GB of disk
    python bench/compare.py --check      and says which targets are met

Each measurement runs in a process of its own. A round runs every case with every contender once, in an order that turns
by one a round, so that what the machine does meanwhile falls on all alike, and the limit that a case is held against is
measured among them; ratios are taken within a round. Writes
results.json (every measurement, versions, the machine), results.md and results.png to --out. Real trained weights are
measured when `python bench/train_weights.py` made them. Peers that are not installed are reported as absent.
"""

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import report
import system
import targets
from cases import Case, cases
from contenders import CONTENDERS

HERE = Path(__file__).parent
MIB = system.MIB
TIMEOUT_SECONDS = 900
ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",
    "JAX_PLATFORMS": "cpu",
    "OPENBLAS_NUM_THREADS": "1",  # the training step's
    "PYTHONWARNINGS": "ignore",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
MODULES = {"orbax-checkpoint": "orbax.checkpoint", "tensorflow-cpu": "tensorflow"}  # where they differ from the package


class Failed(Exception):
    """A worker's last words."""


class Comparison:
    """One run: prepares what loads read, then measures round by round."""

    def __init__(
        self, chosen: list[Case], directory: Path, rounds: int, seconds: float, python: str = sys.executable
    ) -> None:
        """python: the interpreter of the workers."""
        self.python = python
        self.directory = directory
        self.rounds = rounds
        self.seconds = seconds
        self.absent = absent({name for case in chosen for name in case.contenders})
        self.cases = chosen
        self.rows: list[dict[str, Any]] = []
        self.unusable: dict[tuple[str, str, int], str] = {}  # (contender, workload, bytes) -> why

    def run(self) -> report.Results:
        end = time.monotonic() + self.seconds
        self.prepare()
        longest = 0.0
        for number in range(self.rounds):
            begin = time.monotonic()
            if begin + longest > end:
                print(f"another round would not fit in {self.seconds:.0f} s", file=sys.stderr)
                break
            for case in self.cases:
                self.measure_case(case, number)
            longest = max(longest, time.monotonic() - begin)
            print(f"round {number + 1} of {self.rounds}: {time.monotonic() - begin:.0f} s", file=sys.stderr)
        return report.Results(self.cases, self.rows, self.absent)

    def prepare(self) -> None:
        """Makes and checks the checkpoints that are read in every round."""
        for case in self.cases:
            for contender in self.present(case) if case.needs_source else []:
                key = (contender, case.workload, case.nbytes)
                if key in self.unusable or self.source(*key).exists():
                    continue
                try:
                    self.work(case, contender, "prepare")
                except Failed as failure:
                    self.unusable[key] = f"prepare: {failure}"
                    print(f"{contender}, {case.workload}: {failure}", file=sys.stderr)

    def measure_case(self, case: Case, number: int) -> None:
        names = self.present(case) + (["machine"] if case.limit else [])
        turn = number % len(names) if names else 0
        for contender in names[turn:] + names[:turn]:
            row: dict[str, Any] = {"case": case.label, "contender": contender, "round": number}
            try:
                unusable = self.unusable.get((contender, case.workload, case.nbytes))
                if unusable and case.needs_source:
                    raise Failed(unusable)
                operation = "limit" if contender == "machine" else case.operation
                row |= self.work(case, contender, operation)
            except Failed as failure:
                row["error"] = str(failure)
                print(f"{case.label}, {contender}: {failure}", file=sys.stderr)
            self.rows.append(row)

    def work(self, case: Case, contender: str, operation: str) -> dict[str, Any]:
        """Runs worker.py. Raises Failed."""
        spec = {
            "workload": case.workload,
            "bytes": case.nbytes,
            "directory": str(self.directory),
            "source": str(self.source(contender, case.workload, case.nbytes)),
            "options": case.options if contender != "machine" else {"limit": case.limit or case.options["limit"]},
        }
        spec_file = self.directory / "spec.json"
        spec_file.write_text(json.dumps(spec))
        command = [self.python, str(HERE / "worker.py"), contender, operation, str(spec_file)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, env=os.environ | ENVIRONMENT
            )
        except subprocess.TimeoutExpired:
            raise Failed(f"took longer than {TIMEOUT_SECONDS} s") from None
        if done.returncode:
            words = done.stderr.strip().splitlines()
            raise Failed(words[-1] if words else f"exit status {done.returncode}")
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result

    def present(self, case: Case) -> list[str]:
        return [name for name in case.contenders if name not in self.absent]

    def source(self, contender: str, workload: str, nbytes: int) -> Path:
        return self.directory / f"{contender}-{workload}-{nbytes}"


def absent(names: set[str]) -> dict[str, str]:
    """Of these contenders the ones that are not installed, and the package each needs."""
    missing = {}
    for name in sorted(names & CONTENDERS.keys()):
        package = CONTENDERS[name].package
        if importlib.util.find_spec(MODULES.get(package, package).split(".")[0]) is None:
            missing[name] = package
    return missing


def chosen_cases(args: argparse.Namespace) -> list[Case]:
    memory = system.machine(args.dir)["memory_bytes"]
    found = cases(nbytes=args.size * MIB, full=not args.quick, memory_bytes=memory)
    if args.only:
        found = [case for case in found if any(fnmatch(case.label, pattern) for pattern in args.only)]
    if args.contenders:
        wanted = {"machine", *args.contenders}
        found = [_only(case, wanted) for case in found if wanted & set(case.contenders)]
    return found


def _only(case: Case, wanted: set[str]) -> Case:
    values = {**vars(case), "contenders": tuple(name for name in case.contenders if name in wanted)}
    return Case(**values)


def heading(document: dict[str, Any]) -> str:
    machine, versions = document["machine"], document["versions"]
    state = f"{document['size_mib']} MiB a state, {document['rounds']} interleaved rounds"
    cpu = f"{machine['cores']} cores of {machine['cpu']}, {machine['memory_bytes'] / system.GIB:.0f} GiB"
    lines = [
        "# Ostraca and its peers",
        "",
        f"{document['date']}; `{document['command']}`; {state}.",
        f"{cpu}, {machine['file_system']}, Linux {machine['kernel']}. GB = 10^9 bytes of decoded arrays.",
        f"Versions: {', '.join(f'{name} {version}' for name, version in versions.items())}.",
    ]
    return "\n".join(lines) + "\n\n"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer cases and peers, 256 MiB, 3 rounds")
    parser.add_argument("--size", type=int, help="of a state, in MiB (default: 1024; quick: 256)")
    parser.add_argument("--rounds", type=int, help="(default: 5; quick: 3)")
    parser.add_argument("--seconds", type=float, help="start no round that would end later (default: none; quick: 240)")
    parser.add_argument("--only", nargs="+", help="cases, by glob: 'save/*' 'limit/*' row (see --list)")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS)
    parser.add_argument("--dir", type=Path, default=HERE.parent / "build", help="the disk to measure (default: build)")
    parser.add_argument(
        "--out", type=Path, default=HERE.parent / "build" / "bench-results", help="(default: %(default)s)"
    )
    parser.add_argument("--check", action="store_true", help="print each target as met or not met")
    parser.add_argument("--from-json", type=Path, help="measure nothing: report on an earlier results.json")
    parser.add_argument("--list", action="store_true", help="print the cases and end")
    args = parser.parse_args()
    args.size = args.size or (256 if args.quick else 1024)
    args.rounds = args.rounds or (3 if args.quick else 5)
    args.seconds = args.seconds or (240.0 if args.quick else float("inf"))
    return args


def measured(args: argparse.Namespace) -> tuple[report.Results, dict[str, Any]]:
    chosen = chosen_cases(args)
    args.dir.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"python bench/compare.py {' '.join(sys.argv[1:])}".strip(),
        "size_mib": args.size,
        "machine": system.machine(args.dir),
        "versions": system.versions(),
    }
    directory = Path(tempfile.mkdtemp(prefix="bench-", dir=args.dir))
    try:
        results = Comparison(chosen, directory, args.rounds, args.seconds).run()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    document["rounds"] = 1 + max((row["round"] for row in results.rows), default=-1)
    return results, document | results.as_json()


def earlier(path: Path) -> tuple[report.Results, dict[str, Any]]:
    document = json.loads(path.read_text())
    found = [Case(**{**case, "contenders": tuple(case["contenders"])}) for case in document["cases"]]
    return report.Results(found, document["measurements"], document["absent"]), document


def main() -> None:
    args = parse()
    if args.list:
        for case in chosen_cases(args):
            print(f"{case.label:28} {case.title}: {', '.join(case.contenders)}")
        return
    results, document = earlier(args.from_json) if args.from_json else measured(args)
    args.out.mkdir(parents=True, exist_ok=True)
    checked = targets.check(results)
    text = heading(document) + report.table(results)
    (args.out / "results.json").write_text(json.dumps(document, indent=1))
    (args.out / "results.md").write_text(text + "\n## Targets\n\n```\n" + checked + "```\n")
    try:
        report.plot(results, args.out / "results.png")
    except ImportError:
        print("no plot: matplotlib is absent (pip install matplotlib)", file=sys.stderr)
    print(text)
    if args.check:
        print(checked)
    print(f"written to {args.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
