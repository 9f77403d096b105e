"""Snapshots of real training runs, some steps apart, for incremental.py: deterministic, on the CPU, made once.

    python bench/training_runs.py [--force]

dense      pre-training of the transformer of train_weights.py as one would do it, in the middle of its schedule
peak       the same training where its warm-up ends: the highest rate, the least settled weights
agitated   the same model as unquietly as it still learns: small initial weights, half the batch, a constant rate
finetune   from where `dense` ends, with a fresh optimizer, at 1e-5
lora       adapters of rank 4 beside that transformer's matrices, which are frozen: 96 % of the state
embedding  a bag of 4-grams predicts the next byte; rows of the table and their moments change only when they are used

Each is written to build/bench-data/incremental/<run>/<steps after the first snapshot>/, one .npy for each array. Why
these plans: docs/benchmarks.md.
"""

import argparse
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from train_weights import CONTEXT, LAYERS, Params, adamw, corpus, fan_in, initial, loss
from workloads import DATA, Arrays

HERE = DATA / "incremental"
DISTANCES = (0, 1, 10, 50, 100, 190)  # steps from the first snapshot
FINAL_RATE = 0.1  # of the peak, at the end of a cosine
LOSS_STEPS = 50  # the reported losses are means of so many
RANK = 4
ADAPTED = ("qkv", "out", "up", "down")
GRAM_BYTES, GRAMS, ROWS, ROW_WIDTH = 4, 4, 1 << 17, 64
FROZEN = "frozen"

State = dict[str, Params]  # kind of array -> name -> array
Made = tuple[State, list[float]]  # the last state, the loss of every step


@dataclass(frozen=True)
class Plan:
    """How a run is trained. The transformer's runs: AdamW of train_weights.py, `batch` x `CONTEXT` tokens a step."""

    rate: float  # after the warm-up
    before: int  # steps before the first snapshot
    batch: int = 4
    warm_up: int = 20
    end: int | None = None  # the step at which a cosine reaches `FINAL_RATE`; None: the rate stays
    clip: float | None = None  # global norm of the gradients
    start: str = ""  # the run whose last weights it begins with
    within: str = ""  # the run that it is a part of: trained there, looked at from another step on


DENSE = Plan(4e-4, before=200, batch=8, warm_up=40, end=400, clip=1.0)
PLANS = {
    "dense": DENSE,
    "peak": replace(DENSE, before=40, within="dense"),
    "agitated": Plan(4e-4, before=600),
    "finetune": Plan(1e-5, before=50, clip=1.0, start="dense"),
    "lora": Plan(1e-3, before=50, clip=1.0, start="dense"),
    "embedding": Plan(1e-3, before=3000, batch=128, warm_up=1),
}


def rate_at(plan: Plan, step: int) -> float:
    """The learning rate of a step, counted from 0."""
    warm = min(1.0, (step + 1) / plan.warm_up)
    if plan.end is None:
        return plan.rate * warm
    progress = min(max((step - plan.warm_up) / (plan.end - plan.warm_up), 0.0), 1.0)
    return plan.rate * warm * (FINAL_RATE + (1 - FINAL_RATE) * (1 + np.cos(np.pi * progress)) / 2)


def load(run: str, distance: int) -> dict[str, Arrays]:
    """A snapshot, by kind of array. What is frozen is stored with the first one only."""
    return {
        kind: {
            name: np.load(HERE / run / str(0 if kind == FROZEN else distance) / f"{kind}.{name}.npy") for name in names
        }
        for kind, names in _index(run)["arrays"].items()
    }


def losses(run: str) -> dict[int, float]:
    """The mean loss of the steps that end with each, in nats."""
    return {int(step): loss for step, loss in _index(run)["losses"].items()}


def _index(run: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((HERE / run / "index.json").read_text())
    return found


def _history(run: str) -> list[dict[str, Any]]:
    """All plans that led to a run's weights: other ones, other weights."""
    plan = PLANS[run]
    return [asdict(plan), *(_history(plan.start) if plan.start else [])]


def available(run: str) -> bool:
    return (HERE / run / "index.json").exists() and _index(run).get("plans") == _history(run)


def make() -> None:
    """Trains what is not there yet."""
    for run, train in RUNS.items():
        parts = _parts(run)
        if all(available(part) for part in parts):
            continue
        for part in parts:
            shutil.rmtree(HERE / part, ignore_errors=True)
        begin = time.monotonic()
        state, found = train(run)
        ends = range(LOSS_STEPS, len(found) + 1, LOSS_STEPS)
        means = {end: float(np.mean(found[end - LOSS_STEPS : end])) for end in ends}
        arrays = {kind: list(names) for kind, names in state.items()}
        for part in parts:
            index = {"plans": _history(part), "arrays": arrays, "losses": means}
            (HERE / part / "index.json").write_text(json.dumps(index))  # last: now it is whole
        print(f"{run}: trained in {time.monotonic() - begin:.0f} s", flush=True)


def _parts(run: str) -> list[str]:
    """The runs that one training makes."""
    return [run, *(name for name, plan in PLANS.items() if plan.within == run)]


def write(run: str, distance: int, state: State) -> None:
    directory = HERE / run / str(distance)
    directory.mkdir(parents=True)
    for kind, arrays in state.items():
        for name, array in arrays.items():
            if kind != FROZEN or distance == 0:
                np.save(directory / f"{kind}.{name}.npy", np.asarray(array))


def follow(run: str, params: Params, fixed: Params, objective: Callable[[Params, Params, Any], Any]) -> Made:
    """Trains `params` of the transformer with AdamW."""
    import jax
    import jax.numpy as jnp

    plan = PLANS[run]

    @partial(jax.jit, donate_argnums=(0, 1, 2))
    def update(params: Params, m: Params, v: Params, fixed: Params, tokens: Any, step: Any, rate: Any) -> Any:
        value, gradients = jax.value_and_grad(objective)(params, fixed, tokens)
        if plan.clip is not None:
            norm = jnp.sqrt(sum(jnp.sum(g * g) for g in gradients.values()))
            gradients = {name: g * jnp.minimum(1.0, plan.clip / norm) for name, g in gradients.items()}
        return *adamw(params, m, v, gradients, step, rate), value

    text = corpus()
    rng = np.random.default_rng(5)
    params = {name: jnp.array(value) for name, value in params.items()}
    m, v = ({name: jnp.zeros_like(value) for name, value in params.items()} for _ in range(2))
    found: list[float] = []
    for step in range(plan.before + max(DISTANCES) + 1):
        state = {"weights": params, "m": m, "v": v} | ({FROZEN: fixed} if fixed else {})
        for part in _parts(run):
            if step - PLANS[part].before in DISTANCES:
                write(part, step - PLANS[part].before, state)
        if step == plan.before + max(DISTANCES):
            break
        starts = rng.integers(0, len(text) - CONTEXT - 1, plan.batch)
        tokens = np.stack([text[start : start + CONTEXT + 1] for start in starts]).astype(np.int32)
        rate = np.float32(rate_at(plan, step))
        params, m, v, value = update(params, m, v, fixed, tokens, np.float32(step), rate)
        found.append(float(value))
        if step % 100 == 0:
            print(f"{run}, step {step}: loss {found[-1]:.3f}", flush=True)
    return state, found


def pretrain(run: str) -> Made:
    return follow(run, initial(std=fan_in), {}, lambda params, _, tokens: loss(params, tokens))


def agitate(run: str) -> Made:
    return follow(run, initial(), {}, lambda params, _, tokens: loss(params, tokens))


def finetune(run: str) -> Made:
    trained = load(PLANS[run].start, max(DISTANCES))["weights"]
    return follow(run, trained, {}, lambda params, _, tokens: loss(params, tokens))


def lora(run: str) -> Made:
    body = load(PLANS[run].start, max(DISTANCES))["weights"]
    rng = np.random.default_rng(2)
    adapters: Params = {}
    for layer in range(LAYERS):
        for kind in ADAPTED:
            rows, columns = body[f"layer{layer}.{kind}"].shape
            adapters[f"layer{layer}.{kind}.a"] = (rng.standard_normal((rows, RANK)) * rows**-0.5).astype(np.float32)
            adapters[f"layer{layer}.{kind}.b"] = np.zeros((RANK, columns), np.float32)

    def objective(adapters: Params, body: Params, tokens: Any) -> Any:
        pairs = {name: (adapters.get(f"{name}.a"), adapters.get(f"{name}.b")) for name in body}
        return loss({n: body[n] if a is None else body[n] + a @ b for n, (a, b) in pairs.items()}, tokens)

    return follow(run, adapters, body, objective)


def embedding(run: str) -> Made:
    """The table's rows are 4-grams, the most frequent first; Adam touches those of a batch alone."""
    import jax
    import jax.numpy as jnp

    @jax.jit
    def gradients(rows: Any, output: Any, places: Any, labels: Any) -> Any:
        def objective(rows: Any, output: Any) -> Any:
            logits = jnp.tanh(rows[places].reshape(len(places), -1)) @ output
            return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], -1))

        return jax.value_and_grad(objective, (0, 1))(rows, output)

    ids, text = _gram_ids(corpus())
    rng = np.random.default_rng(3)
    shapes = {"table": (ROWS, ROW_WIDTH), "output": (GRAMS * ROW_WIDTH, 256)}
    weights = {name: rng.normal(0, 0.05, shape).astype(np.float32) for name, shape in shapes.items()}
    m, v = ({name: np.zeros_like(value) for name, value in weights.items()} for _ in range(2))
    state: State = {"weights": weights, "m": m, "v": v}
    before, found = PLANS[run].before, []
    for step in range(before + max(DISTANCES) + 1):
        if step - before in DISTANCES:
            write(run, step - before, state)
        ends = rng.integers(GRAMS * GRAM_BYTES, len(ids) - 1, PLANS[run].batch)
        wanted = ids[ends[:, None] - GRAM_BYTES * np.arange(GRAMS)]
        touched, places = np.unique(wanted, return_inverse=True)
        rows = np.zeros((wanted.size, ROW_WIDTH), np.float32)  # of one shape for all batches
        rows[: len(touched)] = weights["table"][touched]
        labels = text[ends + GRAM_BYTES].astype(np.int32)
        value, slopes = gradients(rows, weights["output"], places.reshape(wanted.shape), labels)
        for name, g, at in (("table", slopes[0][: len(touched)], touched), ("output", slopes[1], slice(None))):
            _adam_at(weights[name], m[name], v[name], np.asarray(g), at, PLANS[run].rate)
        found.append(float(value))
        if step % 1000 == 0:
            print(f"{run}, step {step}: loss {found[-1]:.3f}", flush=True)
    return state, found


def _adam_at(weights: Any, m: Any, v: Any, g: Any, at: Any, rate: float) -> None:
    """Adam without bias correction, for some rows, in place."""
    m[at] = np.float32(0.9) * m[at] + np.float32(0.1) * g
    v[at] = np.float32(0.95) * v[at] + np.float32(0.05) * g * g
    weights[at] -= np.float32(rate) * m[at] / (np.sqrt(v[at]) + np.float32(1e-8))


def _gram_ids(text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The row of the 4-gram that begins at each byte: the rarest ones share the last row."""
    windows = np.lib.stride_tricks.sliding_window_view(text, GRAM_BYTES)
    values = np.ascontiguousarray(windows).view(np.uint32).reshape(-1)
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    rank = np.empty(len(counts), np.int64)
    rank[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    return np.minimum(rank[which], ROWS - 1), text


RUNS: dict[str, Callable[[str], Made]] = {  # a run after the one that it starts from
    "dense": pretrain,
    "agitated": agitate,
    "finetune": finetune,
    "lora": lora,
    "embedding": embedding,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--force", action="store_true", help="train again")
    if parser.parse_args().force:
        shutil.rmtree(HERE, ignore_errors=True)
    make()


if __name__ == "__main__":
    main()
