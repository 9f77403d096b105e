"""incremental.py's tables, and the targets of incremental saves."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import incremental_measure as measure
import incremental_training as training
from contenders import CONTENDERS
from system import GIB
from targets import Target

Row = dict[str, Any]
Rows = dict[tuple[str, str, int], Row]  # run, part, steps apart

RUNS = {
    "dense": "Pre-training, in the middle",
    "peak": "The same, at its peak rate",
    "agitated": "Small weights and batch, constant rate",
    "finetune": "Fine-tuning at 1e-5",
    "lora": "LoRA: adapters of a frozen body",
    "embedding": "Sparse embedding",
}
COLUMNS: dict[str, Callable[[Row], str]] = {
    "full": lambda row: f"{row['full_bytes'] / row['logical_bytes']:.3f}",
    "delta": lambda row: f"{row['delta_bytes'] / row['logical_bytes']:.3f}",
    "entropy": lambda row: f"{row['entropy']:.3f}",
    "restore reads": lambda row: f"{row['restore_bytes']:.2f}",
    "encode": lambda row: _figure(row, "encode_gb_s", ".2f"),
    "load": lambda row: _figure(row, "load_gb_s", ".2f"),
    "decode": lambda row: _figure(row, "decode_gb_s", ".2f"),
    "load, all cores": lambda row: _figure(row, "load_all_gb_s", ".2f"),
    "durable": lambda row: _figure(row, "durable_gb_s", ".2f"),
    "stall ms": lambda row: _figure(row, "stall_ms", ".1f"),
}
SUMMARY_COLUMNS = ("full", "delta", "entropy", "restore reads", "encode", "load", "decode")
SUMMARY = {  # run -> parts, in the table of docs/benchmarks.md
    "dense": ("bf16 weights", "fp32 weights", "adam m", "adam v", "whole state"),
    "peak": ("bf16 weights", "fp32 weights"),
    "agitated": ("bf16 weights", "fp32 weights"),
    "finetune": ("bf16 weights", "fp32 weights", "whole state"),
    "lora": ("whole state",),
    "embedding": ("whole state",),
}
LEGEND = """\
- **full**, **delta**: stored / logical bytes of the later snapshot, saved in full and as a delta to the earlier one
- **entropy**: of the differences, of their logical bytes: what a coder could reach that knows how often each occurs.
  Where a difference would not pay (Adam m), a delta stores the array itself, in fewer bytes than that
- **restore reads**: bytes read for a whole restore of the delta, of those for its keyframe
- **encode**, **load**: GB/s of decoded bytes with one thread on tmpfs, of a whole save with its base in memory and a
  whole load, which decodes delta and base, into arrays that were there; of the part, again and again, rolled by some
  rows each time, until there are 128 MiB
- **decode**: the same of the time beyond what a load of the keyframe takes, where that is a tenth or more
- **load, all cores**: the load with as many threads as there are cores
- **durable**: GB/s of decoded bytes saved to the disk by all threads, the base in memory
- **stall ms**: until `save_async` of numpy arrays, which have to be copied, returns"""


def _figure(row: Row, name: str, form: str) -> str:
    return format(row[name], form) if name in row else ""


def line(row: Row) -> str:
    """One measurement, for those who wait."""
    figures = ((name, cell(row)) for name, cell in COLUMNS.items())
    return f"{row['run']}, {row['part']}, {row['steps']} steps: " + ", ".join(f"{n} {f}" for n, f in figures if f)


def text(document: Row) -> str:
    """Everything as Markdown."""
    machine = document["machine"]
    cpu = f"{machine['cores']} cores of {machine['cpu']}, {machine['memory_bytes'] / GIB:.0f} GiB"
    lines = [
        "# Incremental saves",
        "",
        f"{document['date']}; `{document['command']}`. {cpu}, {machine['file_system']}, Linux {machine['kernel']}.",
        f"Versions: {', '.join(f'{name} {version}' for name, version in document['versions'].items())}.",
        "",
        "Snapshots 1 / 10 / 100 steps apart (one figure: all three alike):",
        "",
        *_summary(document["rows"]),
        "",
        LEGEND,
        *_training(document["training"]),
        *_moves(document["training"]),
        *_totals(document["totals"]),
        *_unchanged(document["unchanged"]),
        "",
        "# Every part, at every distance",
    ]
    for run, title in RUNS.items():
        rows = [row for row in document["rows"] if row["run"] == run]
        if rows:
            lines += ["", f"## {title}", "", *_table(rows)]
    return "\n".join(lines) + "\n"


def _header(columns: Iterable[str]) -> list[str]:
    names = list(columns)
    return [f"| | {' | '.join(names)} |", "|---|" + "---|" * len(names)]


def _summary(rows: list[Row]) -> list[str]:
    lines = _header(["", *SUMMARY_COLUMNS])
    for run, parts in SUMMARY.items():
        for part in parts:
            found = {row["steps"]: row for row in rows if (row["run"], row["part"]) == (run, part)}
            chosen = [found[steps] for steps in training.STEPS if steps in found]
            if chosen:
                cells = (_once([COLUMNS[c](row) for row in chosen]) for c in SUMMARY_COLUMNS)
                lines.append(f"| {RUNS[run]} | {part} | {' | '.join(cells)} |")
    return lines


def _once(cells: list[str]) -> str:
    """One of them where all are alike."""
    return cells[0] if len(set(cells)) == 1 else " / ".join(cell or "-" for cell in cells)


def _training(accounts: list[Row]) -> list[str]:
    lines = [
        "",
        "## How they were trained",
        "",
        "Loss: nats a byte, the mean of the 50 steps that end with that one.",
        "",
    ]
    lines += _header(["examples a step", "learning rate", "of the first snapshot", "100 steps on", "loss"])
    for found in accounts:
        plan, losses = found["plan"], {int(step): loss for step, loss in found["losses"].items()}
        every = 100 if max(losses) < 1000 else 1000
        shown = [step for step in sorted(losses) if step % every == 0 or step == max(losses)]
        course = "constant" if plan["end"] is None else f"cosine to a tenth at step {plan['end']}"
        warm_up = f" after {plan['warm_up']} steps" if plan["warm_up"] > 1 else ""
        cells = [
            f"{found['tokens']:,} tokens" if found["tokens"] else str(plan["batch"]),
            f"{_rate(plan['rate'])}{warm_up}, {course}",
            f"{_rate(found['rates']['0'])} (step {plan['before']})",
            _rate(found["rates"]["100"]),
            ", ".join(f"{step}: {losses[step]:.2f}" for step in shown),
        ]
        lines.append(f"| {RUNS[found['run']]} | {' | '.join(cells)} |")
    return lines


def _rate(rate: float) -> str:
    return f"{rate:.1e}".replace(".0e", "e").replace("e-0", "e-")


def _moves(accounts: list[Row]) -> list[str]:
    lines = [
        "",
        "## How far a step moves the weights",
        "",
        "Relative step: the median of |difference| / |weight| over one step. Changed: elements whose bf16 value one",
        "step changes. Entropy: of the differences 1, 10 and 100 steps apart, of their bytes. The model has no biases.",
        "",
    ]
    lines += _header(["elements", "mean", "std", "relative step", "bf16 changed", "entropy, bf16", "entropy, fp32"])
    for found in accounts:
        for row in found["moves"]:
            cells = [f"{row['elements']:,}", f"{round(row['mean'], 3) + 0:.3f}", f"{row['std']:.4f}"]
            cells += [_rate(row["median_relative_step"]), f"{row['bf16_changed']:.1%}"]
            cells += [" / ".join(f"{e:.3f}" for e in row["entropy"][kind].values()) for kind in ("bf16", "fp32")]
            lines.append(f"| {RUNS[found['run']]}: {row['group']} | {' | '.join(cells)} |")
    return lines


def _table(rows: list[Row]) -> list[str]:
    order = {part: number for number, part in reversed(list(enumerate(row["part"] for row in rows)))}
    columns = {"steps apart": lambda row: str(row["steps"]), "MB": lambda row: f"{row['logical_bytes'] / 1e6:.1f}"}
    columns |= COLUMNS
    lines = _header(columns)
    for row in sorted(rows, key=lambda row: (order[row["part"]], row["steps"])):
        lines.append(f"| {row['part']} | {' | '.join(cell(row) for cell in columns.values())} |")
    return lines


def _totals(totals: list[Row]) -> list[str]:
    names = ["logical", "ostraca", "ostraca-full", *measure.PEERS]
    titles = {"logical": "Arrays", "ostraca": "Ostraca, incremental", "ostraca-full": "Ostraca, full"}
    titles |= {peer: CONTENDERS[peer].title for peer in measure.PEERS}
    lines = [
        "",
        f"## {measure.CHECKPOINTS} checkpoints of the whole state, {measure.STEPS_BETWEEN} steps apart, in GB",
        "",
        f"Ostraca: a keyframe every {measure.EVERY}; one keyframe and deltas 10 to 190 steps from it were measured,",
        "those between them are interpolated in the logarithm of the steps. The peers: one checkpoint, times 100.",
        "",
        *_header(titles[name] for name in names),
    ]
    for found in totals:
        cells = ["absent" if found[name] is None else f"{found[name] / 1e9:.2f}" for name in names]
        lines.append(f"| {RUNS[found['run']]} | {' | '.join(cells)} |")
    return lines


def _unchanged(found: Row) -> list[str]:
    logical = found["logical_bytes"]
    what = f"{logical / GIB:g} GiB of fp32 arrays that did not change: saved in {found['seconds'] * 1e3:.0f} ms"
    cost = f"{found['gb_s']:.1f} GB/s on all cores, tmpfs, {found['delta_bytes']} bytes written"
    return ["", "## Unchanged state", "", f"{what} ({cost})."]


def check(document: Row) -> str:
    rows = {(row["run"], row["part"], row["steps"]): row for row in document["rows"]}
    lines = [str(target) for target in _targets(document, rows)]
    lines += ["", "The same limits at the highest learning rate, and on the agitated run:", ""]
    lines += [str(t) for run in ("peak", "agitated") for t in (*_ratios(rows, run), *_restores(rows, run))]
    return "\n".join(lines) + "\n"


def _ratio(rows: Rows, run: str, part: str, steps: int, above: str, below: str = "logical_bytes") -> float | None:
    row = rows.get((run, part, steps))
    return row[above] / row[below] if row else None


def _ratios(rows: Rows, run: str) -> Iterator[Target]:
    for part, limits in (("bf16 weights", (0.16, 0.33, 0.46)), ("fp32 weights", (0.58, 0.67, 0.73))):
        for steps, limit in zip(training.STEPS, limits, strict=True):
            figure = _ratio(rows, run, part, steps, "delta_bytes")
            note = f"entropy {rows[run, part, steps]['entropy']:.3f}" if figure else ""
            what = f"{run}, {part}, {_apart(steps)}: stored / logical"
            yield Target(what, limit, figure, at_most=True, note=note)


def _apart(steps: int) -> str:
    return f"{steps} step{'s' * (steps > 1)} apart"


def _restores(rows: Rows, run: str) -> Iterator[Target]:
    for part, limit, apart in (("bf16 weights", 1.5, (1, 10)), ("fp32 weights", 1.9, training.STEPS)):
        read = {k[2]: row["restore_bytes"] for k, row in rows.items() if k[:2] == (run, part) and k[2] in apart}
        most = max(read, key=read.__getitem__, default=0)
        what = f"{run}, {part}, up to {_apart(max(apart))}: bytes read to restore a delta / its keyframe's"
        yield Target(what, limit, read.get(most), at_most=True, note=f"most at {most}")


def _targets(document: Row, rows: Rows) -> Iterator[Target]:
    yield from _ratios(rows, "dense")
    figure = _ratio(rows, "finetune", "bf16 weights", 1, "delta_bytes")
    yield Target("fine-tuning at 1e-5, bf16 weights, 1 step apart: stored / logical", 0.06, figure, at_most=True)
    for run in ("dense", "finetune"):
        figure = _ratio(rows, run, "whole state", 10, "delta_bytes", "full_bytes")
        yield Target(f"{run}, whole state, 10 steps apart: delta / full", None, figure)
    worst = max(document["rows"], key=lambda row: row["delta_bytes"] / row["full_bytes"])
    note = f"{worst['run']}, {worst['part']}, {worst['steps']} steps"
    figure = worst["delta_bytes"] / worst["full_bytes"]
    yield Target("any delta / its full coding", 1.001, figure, at_most=True, note=note)
    yield from _frozen(rows)
    yield Target("unchanged bytes recognized", 12, document["unchanged"]["gb_s"], "GB/s")
    weights = [row for row in document["rows"] if row["run"] == "dense" and row["part"].endswith("weights")]
    alone = [row | row["alone"] for row in weights if "alone" in row]
    yield _slowest("delta encode, one core", 1.2, weights, "encode_gb_s")
    yield _slowest("delta decode, one core", 2.0, weights, "decode_gb_s")
    yield _slowest("whole loads, delta and base, all cores", 2.0, weights, "load_all_gb_s")
    yield _slowest("whole loads, delta and base, one core", 2.0, weights, "load_gb_s")
    yield _slowest("whole saves of a part by itself, one core", 1.2, alone, "encode_gb_s")
    yield _slowest("whole loads of a part by itself, one core", 2.0, alone, "load_gb_s")
    for run in ("dense", "finetune"):
        yield from _restores(rows, run)


def _slowest(what: str, bound: float, rows: list[Row], name: str) -> Target:
    found = min((row for row in rows if name in row), key=lambda row: row[name], default=None)
    note = f"{found['part']}, {found['steps']} steps: the slowest of the weights" if found else ""
    return Target(what, bound, found and found[name], "GB/s", note=note)


def _frozen(rows: Rows) -> Iterator[Target]:
    for steps in training.STEPS:
        whole, changed = rows.get(("lora", "whole state", steps)), rows.get(("lora", "changed", steps))
        if whole and changed:
            share = 1 - changed["logical_bytes"] / whole["logical_bytes"]
            what = f"LoRA, {share:.1%} frozen, {_apart(steps)}: written / the changed share's full coding"
            yield Target(what, 1.02, whole["delta_bytes"] / changed["full_bytes"], at_most=True)
