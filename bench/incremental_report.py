"""incremental.py's tables, and the targets of incremental saves."""

from collections.abc import Callable, Iterator
from typing import Any

import incremental_measure as measure
import training_runs
from contenders import CONTENDERS
from system import GIB
from targets import Target

Row = dict[str, Any]

RUNS = {
    "dense": "Transformer, learning rate 4e-4",
    "finetune": "The same, fine-tuned at 1e-5",
    "lora": "LoRA: adapters of a frozen body",
    "embedding": "Sparse embedding",
}
COLUMNS: dict[str, Callable[[Row], str]] = {
    "steps apart": lambda row: str(row["steps"]),
    "MB": lambda row: f"{row['logical_bytes'] / 1e6:.1f}",
    "full": lambda row: f"{row['full_bytes'] / row['logical_bytes']:.3f}",
    "delta": lambda row: f"{row['delta_bytes'] / row['logical_bytes']:.4f}",
    "delta / full": lambda row: f"{row['delta_bytes'] / row['full_bytes']:.3f}",
    "read / keyframe": lambda row: f"{row['restore_bytes']:.2f}",
    "encode": lambda row: _figure(row, "encode_gb_s", ".2f"),
    "decode": lambda row: _figure(row, "decode_gb_s", ".2f"),
    "durable": lambda row: _figure(row, "durable_gb_s", ".2f"),
    "stall ms": lambda row: _figure(row, "stall_ms", ".1f"),
}


def _figure(row: Row, name: str, form: str) -> str:
    return format(row[name], form) if name in row else ""


def line(row: Row) -> str:
    """One measurement, for those who wait."""
    return f"{row['run']}, {row['part']}: " + ", ".join(f"{name} {cell(row)}" for name, cell in COLUMNS.items())


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
        "Full and delta: stored / logical bytes of the later snapshot; read / keyframe: bytes read for a whole",
        "restore, of those for the keyframe's. GB/s of decoded bytes. Encode: one thread, tmpfs, the base in memory.",
        "Decode: one thread, tmpfs, into warm arrays. Durable: all threads, the disk, the base in memory. Stall:",
        "`save_async` of numpy arrays.",
    ]
    for run, title in RUNS.items():
        rows = [row for row in document["rows"] if row["run"] == run]
        if rows:
            lines += ["", f"## {title}", "", *_table(rows)]
    return "\n".join(lines + _totals(document["totals"]) + _unchanged(document["unchanged"])) + "\n"


def _table(rows: list[Row]) -> list[str]:
    order = {part: number for number, part in reversed(list(enumerate(row["part"] for row in rows)))}
    lines = [f"| | {' | '.join(COLUMNS)} |", "|---|" + "---|" * len(COLUMNS)]
    for row in sorted(rows, key=lambda row: (order[row["part"]], row["steps"])):
        lines.append(f"| {row['part']} | {' | '.join(cell(row) for cell in COLUMNS.values())} |")
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
        f"| | {' | '.join(titles[name] for name in names)} |",
        "|---|" + "---|" * len(names),
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
    return "".join(f"{target}\n" for target in _targets(document))


def _targets(document: Row) -> Iterator[Target]:
    rows = {(row["run"], row["part"], row["steps"]): row for row in document["rows"]}

    def ratio(run: str, part: str, steps: int, above: str, below: str = "logical_bytes") -> float | None:
        row = rows.get((run, part, steps))
        return row[above] / row[below] if row else None

    bounds = {"bf16 weights": (0.16, 0.33, 0.46), "fp32 weights": (0.58, 0.67, 0.73)}
    for part, limits in bounds.items():
        for steps, limit in zip((1, 10, 100), limits, strict=True):
            what = f"dense, {part}, {steps} steps apart: stored / logical"
            yield Target(what, limit, ratio("dense", part, steps, "delta_bytes"), at_most=True)
    figure = ratio("finetune", "bf16 weights", 1, "delta_bytes")
    yield Target("fine-tuning at 1e-5, bf16 weights, one step: stored / logical", 0.06, figure, at_most=True)
    for run in ("dense", "finetune"):
        figure = ratio(run, "whole state", 10, "delta_bytes", "full_bytes")
        yield Target(f"{run}, whole state, 10 steps apart: delta / full", None, figure)
    worst = max(document["rows"], key=lambda row: row["delta_bytes"] / row["full_bytes"])
    note = f"{worst['run']}, {worst['part']}, {worst['steps']} steps"
    figure = worst["delta_bytes"] / worst["full_bytes"]
    yield Target("any delta / its full coding", 1.001, figure, at_most=True, note=note)
    yield from _frozen(rows)
    yield Target("unchanged bytes recognized", 12, document["unchanged"]["gb_s"], "GB/s")
    for what, bound in (("encode", 1.2), ("decode", 2.0)):
        found = {(r["run"], r["part"], r["steps"]): r[f"{what}_gb_s"] for r in _dense_weights(document["rows"])}
        slowest = min(found, key=found.__getitem__) if found else None
        note = f"{slowest[1]}, {slowest[2]} steps: the slowest of the weights" if slowest else ""
        yield Target(f"delta {what}, one core", bound, found[slowest] if slowest else None, "GB/s", note=note)
    for part, limit, most in (("bf16 weights", 1.5, (1, 10)), ("fp32 weights", 1.9, training_runs.DISTANCES)):
        read = [row["restore_bytes"] for k, row in rows.items() if k[1] == part and k[2] in most]
        what = f"{part}: bytes read to restore a delta / its keyframe's"
        yield Target(what, limit, max(read, default=None), at_most=True)


def _dense_weights(rows: list[Row]) -> list[Row]:
    return [r for r in rows if r["run"] == "dense" and r["part"].endswith("weights") and "encode_gb_s" in r]


def _frozen(rows: dict[tuple[str, str, int], Row]) -> Iterator[Target]:
    for steps in (1, 10, 100):
        whole, changed = rows.get(("lora", "whole state", steps)), rows.get(("lora", "changed", steps))
        if whole and changed:
            share = 1 - changed["logical_bytes"] / whole["logical_bytes"]
            what = f"LoRA, {share:.1%} frozen, {steps} steps apart: written / the changed share's full coding"
            yield Target(what, 1.02, whole["delta_bytes"] / changed["full_bytes"], at_most=True)
