"""incremental.py's account of the training runs: how they were trained, how far a step moves their weights.

What a difference costs follows from that: a bf16 number is kept to 1 part in 256 or 512 of itself, so a step that moves
a weight by less leaves most of them as they are.
"""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import ml_dtypes
import numpy as np
import training_runs
from train_weights import CONTEXT, EMBEDDINGS
from training_runs import PLANS
from workloads import Arrays

STEPS = (1, 10, 100)
TRANSFORMERS = ("dense", "peak", "agitated", "finetune")

Row = dict[str, Any]


def account(run: str) -> Row:
    plan = PLANS[run]
    return {
        "run": run,
        "plan": asdict(plan),
        "tokens": plan.batch * CONTEXT if run != "embedding" else None,
        "rates": {str(d): training_runs.rate_at(plan, plan.before + d) for d in (0, *STEPS)},
        "losses": training_runs.losses(run),
        "moves": list(_moves(run)) if run in TRANSFORMERS else [],
    }


def _moves(run: str) -> Iterator[Row]:
    """For each group of weights, and all: their size, how far the first step moves them, what differences cost."""
    snapshots = {steps: training_runs.load(run, steps)["weights"] for steps in (0, *STEPS)}
    groups = {"all weights": list(snapshots[0])}
    for name, array in snapshots[0].items():
        group = "embeddings" if name in EMBEDDINGS else "norm gains" if array.ndim == 1 else "matrices"
        groups.setdefault(group, []).append(name)
    for group, names in groups.items():
        flat = {steps: np.concatenate([s[name].ravel() for name in names]) for steps, s in snapshots.items()}
        start, step = flat[0], np.abs(flat[1] - flat[0])
        row: Row = {"group": group, "elements": start.size, "mean": float(start.mean()), "std": float(start.std())}
        row["median_relative_step"] = float(np.median(step / np.maximum(np.abs(start), np.finfo(np.float32).tiny)))
        narrow = {steps: array.astype(ml_dtypes.bfloat16) for steps, array in flat.items()}
        row["bf16_changed"] = float(np.mean(narrow[0].view(np.uint16) != narrow[1].view(np.uint16)))
        row["entropy"] = {"bf16": {}, "fp32": {}}
        for steps in STEPS:
            row["entropy"]["bf16"][str(steps)] = entropy({"": narrow[0]}, {"": narrow[steps]})
            row["entropy"]["fp32"][str(steps)] = entropy({"": flat[0]}, {"": flat[steps]})
        yield row


def entropy(key: Arrays, arrays: Arrays) -> float:
    """Bits of the zigzagged differences for each bit of `arrays`, every byte given the one above it.

    For 2-byte elements that is the entropy of the differences themselves. A coder that knows how often each value
    occurs, and nothing of an element's place, cannot store less.
    """
    counts: dict[tuple[int, int], Any] = {}  # (element bytes, byte) -> of the pairs (byte above, byte)
    for name, array in arrays.items():
        width = array.dtype.itemsize
        unsigned = np.dtype(f"u{width}")
        d = (array.reshape(-1).view(unsigned) - key[name].reshape(-1).view(unsigned)).view(f"i{width}")
        z = ((d << 1) ^ (d >> (8 * width - 1))).view(unsigned)
        for byte in range(width):
            pairs = (z >> unsigned.type(8 * byte)).astype(np.uint16)
            counts[width, byte] = counts.get((width, byte), 0) + np.bincount(pairs, minlength=1 << 16)
    bits = 0.0
    for counted in counts.values():
        pairs = counted.reshape(256, 256).astype(float)
        bits += _self_information(pairs) - _self_information(pairs.sum(1))
    return bits / (8 * sum(array.nbytes for array in arrays.values()))


def _self_information(counts: Any) -> float:
    """Bits of all that was counted, together."""
    seen = counts[counts > 0]
    return float(-(seen * np.log2(seen / counts.sum())).sum())
