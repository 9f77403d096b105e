"""compare.py's results: medians, ratios paired by round, the Markdown table and the plot."""

import statistics
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cases import MAIN, Case
from contenders import CONTENDERS
from limits import LIMITS
from system import MIB

KINDS = ("fp32", "bf16", "trained")
SCALES = {"s": 1.0, "ms": 1e3}


class Results:
    """Every measurement, a dict each: case, contender, round, and the figures or an error."""

    def __init__(self, cases: list[Case], rows: list[dict[str, Any]], absent: dict[str, str]) -> None:
        self.cases = {case.label: case for case in cases}
        self.rows = rows
        self.absent = absent  # contender -> the package to install
        self._figures: dict[tuple[str, str], dict[int, dict[str, Any]]] = defaultdict(dict)
        for row in rows:
            if "error" not in row:
                self._figures[row["case"], row["contender"]][row["round"]] = row

    def figures(self, label: str, contender: str) -> dict[int, dict[str, Any]]:
        """Round -> what was measured."""
        return self._figures.get((label, contender), {})

    def values(self, label: str, contender: str, field: str | None = None) -> dict[int, float]:
        """Round -> the figure in the case's unit, or one of the measured fields."""
        case = self.cases.get(label)
        if case is None:
            return {}
        read: Callable[[dict[str, Any]], Any] = (lambda row: row.get(field)) if field else (lambda r: _figure(case, r))
        found = {number: read(row) for number, row in self.figures(label, contender).items()}
        return {number: value for number, value in found.items() if value is not None}

    def speeds(self, label: str, contender: str) -> dict[int, float]:
        """Round -> GB/s of decoded bytes, whatever the case's unit."""
        rows = self.figures(label, contender)
        return {number: row["logical_bytes"] / row["seconds"] / 1e9 for number, row in rows.items()}

    def limit(self, label: str) -> dict[int, float]:
        """Round -> GB/s of the limit that was measured beside a case."""
        return self.speeds(label, "machine")

    def median(self, label: str, contender: str, field: str | None = None) -> float | None:
        values = self.values(label, contender, field)
        return statistics.median(values.values()) if values else None

    def errors(self, label: str, contender: str) -> str | None:
        found = [r["error"] for r in self.rows if (r["case"], r["contender"]) == (label, contender) and "error" in r]
        return found[0] if found else None

    def summary(self) -> list[dict[str, Any]]:
        lines = []
        for case in self.cases.values():
            for contender in (*case.contenders, "machine") if case.limit else case.contenders:
                values = self.values(case.label, contender)
                if values:
                    line = {"case": case.label, "contender": contender, "unit": case.unit, "rounds": len(values)}
                    low, high = min(values.values()), max(values.values())
                    line |= {"median": statistics.median(values.values()), "min": low, "max": high}
                    lines.append(line)
        return lines

    def as_json(self) -> dict[str, Any]:
        cases = [asdict(case) for case in self.cases.values()]
        return {"cases": cases, "absent": self.absent, "summary": self.summary(), "measurements": self.rows}


def paired_ratio(above: dict[int, float], below: dict[int, float]) -> float | None:
    """The median over the rounds of the ratio within a round."""
    ratios = [above[number] / below[number] for number in above if below.get(number)]
    return statistics.median(ratios) if ratios else None


def title(contender: str) -> str:
    return CONTENDERS[contender].title if contender in CONTENDERS else contender


def table(results: Results) -> str:
    """The medians, with minimum and maximum, as Markdown: first all contenders side by side, then case by case."""
    limits = [case for case in results.cases.values() if case.operation == "limit"]
    lines = [line for kind in KINDS for line in _overview(results, kind)]
    if limits:
        lines += ["## The machine's limits", "", "| limit | GB/s, median (min to max) |", "|---|---|"]
        lines += [f"| {case.title} | {_spread(results, case, 'machine')} |" for case in limits]
    for case in results.cases.values():
        if case.operation != "limit":
            lines += ["", f"## {_heading(case)}", "", *_case_table(results, case)]
    if results.absent:
        lines += ["", "Absent: " + ", ".join(f"{title(n)} (pip install {p})" for n, p in results.absent.items())]
    return "\n".join(lines) + "\n"


def _overview(results: Results, kind: str) -> list[str]:
    """What is done with one kind of data, a contender a row, and the limits last; the table of the README."""
    chosen = [results.cases[f"{name}/{kind}"] for name in MAIN if f"{name}/{kind}" in results.cases]
    if not chosen:
        return []
    contenders = {name: None for case in chosen for name in case.contenders if results.values(case.label, name)}
    rows = [["", *(case.title.removesuffix(f", {kind}") for case in chosen), "stored / logical"]]
    rows.append(["---"] * len(rows[0]))
    for name in contenders:
        cells = [_spread(results, case, name) if results.values(case.label, name) else "" for case in chosen]
        logical, stored = (results.median(f"save/{kind}", name, f"{what}_bytes") for what in ("logical", "stored"))
        rows.append([title(name), *cells, f"{stored / logical:.3f}" if stored and logical else ""])
    rows.append(
        ["the machine", *(_limit_text(results, case) if results.limit(case.label) else "" for case in chosen), ""]
    )
    return [f"## All, {kind} (GB/s)", "", *(f"| {' | '.join(cells)} |" for cells in rows), ""]


def _figure(case: Case, row: dict[str, Any]) -> float | None:
    figure: float | None = row.get("ratio" if case.unit == "ratio" else "seconds")
    if figure is None or case.unit == "ratio":
        return figure
    return float(row["logical_bytes"] / figure / 1e9 if case.unit == "GB/s" else figure * SCALES[case.unit])


def _heading(case: Case) -> str:
    return case.title[0].upper() + case.title[1:] + (f" ({case.unit})" if case.unit != "ratio" else "")


def _case_table(results: Results, case: Case) -> list[str]:
    columns = ["", f"{'ratio' if case.unit == 'ratio' else case.unit}, median (min to max)"]
    rows = []
    against = results.limit(case.label) if case.limit else {}
    if against:
        columns.append(f"of the limit: {_limit_text(results, case)}")
    columns += ["stored/logical", "CPU s", "peak extra MiB", "further"]
    for contender in case.contenders:
        cells = [title(contender), _spread(results, case, contender)]
        if against:
            cells.append(_against(results, case, contender, against))
        logical = results.median(case.label, contender, "logical_bytes")
        stored = results.median(case.label, contender, "stored_bytes")
        cells.append(f"{stored / logical:.3f}" if stored and logical else "")
        cells.append(_number(results.median(case.label, contender, "cpu_seconds"), ".2f"))
        extra = results.median(case.label, contender, "peak_extra_bytes")
        cells.append("" if extra is None else f"{extra / MIB:.0f}")
        cells.append(_further(results, case, contender))
        rows.append(cells)
    used = [i for i in range(len(columns)) if i < 2 or any(cells[i] for cells in rows)]
    lines = [[columns[i] for i in used], ["---"] * len(used), *([cells[i] for i in used] for cells in rows)]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _spread(results: Results, case: Case, contender: str) -> str:
    values = results.values(case.label, contender).values()
    if values:
        return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"
    if contender in results.absent:
        return f"absent (pip install {results.absent[contender]})"
    error = results.errors(case.label, contender)
    return "not measured" if error is None else f"failed: {error.splitlines()[-1][:80]}"


def _against(results: Results, case: Case, contender: str, limit: dict[int, float]) -> str:
    """The speed over the limit's speed."""
    return _number(paired_ratio(results.speeds(case.label, contender), limit), ".2f")


def _limit_text(results: Results, case: Case) -> str:
    limit = statistics.median(results.limit(case.label).values())
    return f"{LIMITS[case.limit or ''][0]}, {limit:.3g} GB/s"


def _further(results: Results, case: Case, contender: str) -> str:
    def median(field: str) -> float | None:
        return results.median(case.label, contender, field)

    notes = []
    for field, text in (("again_seconds", "again"), ("decode_seconds", "decode")):
        seconds, logical = median(field), median("logical_bytes")
        if seconds and logical and case.unit == "GB/s":
            notes.append(f"{text} {logical / seconds / 1e9:.3g} GB/s")
    if (first := median("first_seconds")) is not None:
        notes.append(f"first {first * 1e3:.0f} ms")
    if (chunks := median("chunks_read")) is not None:
        notes.append(f"{chunks:.0f} chunks read")
    if case.operation in ("row", "cold_load") and (read := median("disk_read_bytes")) is not None:
        notes.append(f"{read / MIB:.0f} MiB from disk")
    if (cached := median("cached_share")) is not None and cached > 0.01:
        notes.append(f"{cached:.0%} still cached")
    if (ratio := median("median_ratio")) is not None:
        notes.append(f"of median steps {ratio:.2f}")
    return ", ".join(notes)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def plot(results: Results, path: Path) -> None:
    """The main operations as bars, one panel each; raises ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = [case for case in results.cases.values() if case.limit and case.unit == "GB/s"]
    panels = [case for case in panels if any(results.values(case.label, c) for c in case.contenders)]
    if not panels:
        return
    heights = [1.2 + 0.28 * len(case.contenders) for case in panels]
    figure, axes = pyplot.subplots(
        len(panels), 1, figsize=(9, sum(heights)), height_ratios=heights, squeeze=False, layout="constrained"
    )
    for case, axis in zip(panels, axes[:, 0], strict=True):
        _panel(results, case, axis)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _panel(results: Results, case: Case, axis: Any) -> None:
    names = [contender for contender in case.contenders if results.values(case.label, contender)]
    for place, contender in enumerate(reversed(names)):
        values = results.values(case.label, contender).values()
        middle = statistics.median(values)
        spread = [[middle - min(values)], [max(values) - middle]]
        color = "#c4622d" if contender.startswith("ostraca") else "#8a94a6"
        axis.barh(place, middle, height=0.7, color=color, xerr=spread, error_kw={"lw": 0.8, "ecolor": "#333333"})
        axis.annotate(f"{middle:.2f}", (0, place), (4, 0), textcoords="offset points", va="center", fontsize=7)
    axis.set_yticks(range(len(names)), [title(name) for name in reversed(names)], fontsize=8)
    limit = results.limit(case.label)
    if limit:
        middle = statistics.median(limit.values())
        axis.axvline(middle, color="#1f6f5c", lw=1.2, ls="--")
        text = _limit_text(results, case)
        where = {"xytext": (-3, 0), "textcoords": "offset points", "ha": "right", "va": "bottom"}
        axis.annotate(text, (middle, len(names) - 0.45), fontsize=7, color="#1f6f5c", **where)
        axis.set_ylim(-0.6, len(names) + 0.1)
    axis.set_title(f"{case.title}, GB/s of decoded bytes", fontsize=9, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(axis="x", labelsize=8)
