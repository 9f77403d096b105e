"""The project's targets, each with the figure that was reached beside it."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from report import Results, paired_ratio, title
from system import GIB, MIB

AUTO, RAW = "ostraca-auto", "ostraca-raw"
MET, NOT_MET, NOT_MEASURED, REPORTED = "met", "NOT MET", "not measured", "reported"


@dataclass(frozen=True)
class Target:
    what: str
    bound: float | None  # None: to be reported only
    figure: float | None  # None: not measured
    unit: str = "x"
    at_most: bool = False
    aim: float | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        if self.figure is None:
            return NOT_MEASURED
        if self.bound is None:
            return REPORTED
        return MET if (self.figure <= self.bound if self.at_most else self.figure >= self.bound) else NOT_MET

    def __str__(self) -> str:
        figure = "-" if self.figure is None else f"{self.figure:.3g} {self.unit}"
        aim = f", aim {self.aim:g}" if self.aim else ""
        wanted = (
            "" if self.bound is None else f"at {'most' if self.at_most else 'least'} {self.bound:g} {self.unit}{aim}"
        )
        return f"{self.verdict:13} {figure:>12}  {wanted:26} {self.what}" + (f" ({self.note})" if self.note else "")


def check(results: Results) -> str:
    return "".join(f"{target}\n" for target in all_targets(results))


def all_targets(results: Results) -> Iterator[Target]:
    yield from _saves(results)
    yield from _loads(results)
    yield from _stalls(results)
    yield from _small(results)
    yield from _row(results)
    yield from _growth(results)
    yield Target("import ostraca beyond numpy", 30, results.median("import/ostraca", AUTO), "ms", at_most=True)
    for pinning in ("free", "pinned"):
        what = f"step time while one thread saves, steps {pinning}"
        yield Target(what, 1.10, results.median(f"training/{pinning}", AUTO), at_most=True)


def _saves(results: Results) -> Iterator[Target]:
    raw = results.values("save/fp32", RAW)
    limit = results.limit("save/fp32")
    yield Target("durable save, raw, of O_DIRECT at queue depth 8", 0.90, paired_ratio(raw, limit))
    for peer, bound in (("safetensors", 1.5), ("orbax", 5), ("tensorflow", 7)):
        figure = paired_ratio(raw, results.values("save/fp32", peer))
        yield Target(f"durable save, raw, of {title(peer)}", bound, figure)
    for kind, bound, aim in (("fp32", 1.05, 1.2), ("bf16", 0.85, 1.1)):
        figure = paired_ratio(results.values(f"save/{kind}", AUTO), results.limit(f"save/{kind}"))
        yield Target(f"durable save, auto, {kind}, logical bytes, of the raw limit", bound, figure, aim=aim)


def _loads(results: Results) -> Iterator[Target]:
    for kind in ("fp32", "bf16", "trained"):
        if kind == "trained" and f"cold_load/{kind}" not in results.cases:
            continue
        cold = results.values(f"cold_load/{kind}", AUTO)
        stored = results.median(f"cold_load/{kind}", AUTO, "stored_bytes")
        logical = results.median(f"cold_load/{kind}", AUTO, "logical_bytes")
        limit = results.limit(f"cold_load/{kind}")
        possible = {n: v * logical / stored for n, v in limit.items()} if stored and logical else {}
        yield Target(f"cold load, auto, {kind}, of read limit / stored ratio", 0.9, paired_ratio(cold, possible))
        figure, note = _of_best_peer(results, f"cold_load/{kind}", AUTO)
        yield Target(f"cold load, auto, {kind}, of the best peer", 2.5, figure, note=note)
    figure = paired_ratio(results.values("warm_into/fp32", RAW), results.limit("warm_into/fp32"))
    yield Target("warm load, raw, into=, of a two-thread memcpy", 0.6, figure)
    for contender in (RAW, AUTO):
        figure, note = _of_best_peer(results, "warm_load/fp32", contender)
        yield Target(f"first warm load, {title(contender)}, of the best peer", 1.5, figure, note=note)


def _stalls(results: Results) -> Iterator[Target]:
    jax = results.median("stall/jax", "ostraca-jax")
    yield Target("async save of ready JAX CPU arrays returns", 20, jax, "ms", at_most=True)
    figure = paired_ratio(results.limit("stall/numpy"), results.speeds("stall/numpy", AUTO))
    yield Target("async save of numpy arrays, time over a two-thread memcpy's", 1.3, figure, at_most=True)
    for label in ("stall/full", "stall/quarter"):
        case = results.cases.get(label)
        if case:
            yield Target(case.title, None, results.median(label, AUTO), "ms")


def _small(results: Results) -> Iterator[Target]:
    for operation in ("save", "warm_load", "iterate"):
        label = f"small/{operation}"
        ours = results.values(label, AUTO)
        reached = statistics.median(ours.values()) if ours else None
        yield Target(f"100,000 arrays of 1 KiB: {operation}", 0.5, reached, "s", at_most=True)
        figure = paired_ratio(results.values(label, "safetensors"), ours)
        yield Target(f"100,000 arrays of 1 KiB: {operation}, safetensors' time over ours", 1.0, figure)


def _row(results: Results) -> Iterator[Target]:
    chunks = results.median("row", AUTO, "chunks_read")
    yield Target("one row, cold: chunks read", 2, chunks, "chunks", at_most=True)
    figure = paired_ratio(results.values("row", AUTO), results.values("row/whole", AUTO))
    yield Target("one row, cold, of the full load's time", 0.02, figure, at_most=True)


def _growth(results: Results) -> Iterator[Target]:
    sizes = sorted(case.nbytes for label, case in results.cases.items() if label.startswith("growth/"))
    if len(sizes) < 2:
        yield Target("growth: GB/s of the large state, of the small one's", 0.9, None)
        return
    small, large = sizes[0], sizes[-1]
    for contender in (AUTO, RAW):
        what = f"growth, {title(contender)}: {large / GIB:g} GiB of {small / GIB:g} GiB"
        figure = paired_ratio(*(results.values(f"growth/{size}", contender) for size in (large, small)))
        yield Target(f"{what}, GB/s", 0.9, figure)
        peaks = [results.median(f"growth/{size}", contender, "peak_extra_bytes") for size in (small, large)]
        more = None if None in peaks else (peaks[1] - peaks[0]) / MIB  # type: ignore[operator]
        yield Target(f"{what}, more peak extra memory", 16, more, "MiB", at_most=True)


def _of_best_peer(results: Results, label: str, contender: str) -> tuple[float | None, str]:
    """Our figure over that of the peer with the best median, and its name."""
    case = results.cases.get(label)
    peers = [c for c in (case.contenders if case else ()) if not c.startswith("ostraca") and results.values(label, c)]
    if not peers:
        return None, ""
    best = max(peers, key=lambda peer: results.median(label, peer) or 0.0)
    return paired_ratio(results.values(label, contender), results.values(label, best)), title(best)
