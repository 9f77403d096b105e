"""Snapshots of real training runs, some steps apart, for incremental.py: deterministic, on the CPU, made once.

    python bench/training_runs.py [--force]

dense      the transformer of train_weights.py: fp32 weights and AdamW moments, learning rate 4e-4
finetune   the same from where `dense` ends, with a fresh optimizer and learning rate 1e-5
lora       adapters of rank 4 beside that transformer's matrices, which are frozen: 96 % of the state
embedding  a bag of 4-grams predicts the next byte; rows of the table and their moments change only when they are used

Each is written to build/bench-data/incremental/<run>/<steps after the first snapshot>/, one .npy for each array.
"""

import argparse
import json
import shutil
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from train_weights import CONTEXT, LAYERS, Params, adamw, corpus, initial, loss
from workloads import DATA, Arrays

HERE = DATA / "incremental"
DISTANCES = (0, 1, 10, 50, 100, 190)  # steps from the first snapshot
STEPS_BEFORE = {"dense": 600, "finetune": 50, "lora": 50, "embedding": 3000}  # the first snapshot
RATES = {"dense": 4e-4, "finetune": 1e-5, "lora": 1e-3, "embedding": 1e-3}
BATCH, WARM_UP = 4, 20
RANK = 4
ADAPTED = ("qkv", "out", "up", "down")
GRAM_BYTES, GRAMS, ROWS, ROW_WIDTH, EMBEDDING_BATCH = 4, 4, 1 << 17, 64, 128
FROZEN = "frozen"

State = dict[str, Params]  # kind of array -> name -> array


def load(run: str, distance: int) -> dict[str, Arrays]:
    """A snapshot, by kind of array. What is frozen is stored with the first one only."""
    index = json.loads((HERE / run / "index.json").read_text())
    return {
        kind: {
            name: np.load(HERE / run / str(0 if kind == FROZEN else distance) / f"{kind}.{name}.npy") for name in names
        }
        for kind, names in index.items()
    }


def available(run: str) -> bool:
    return (HERE / run / "index.json").exists()


def make() -> None:
    """Trains what is not there yet."""
    for run, train in RUNS.items():
        if available(run):
            continue
        shutil.rmtree(HERE / run, ignore_errors=True)
        begin = time.monotonic()
        kinds = train(run)
        (HERE / run / "index.json").write_text(json.dumps(kinds))  # last: now it is whole
        print(f"{run}: trained in {time.monotonic() - begin:.0f} s", flush=True)


def write(run: str, distance: int, state: State) -> dict[str, list[str]]:
    """Returns the names of the arrays, by kind."""
    directory = HERE / run / str(distance)
    directory.mkdir(parents=True)
    for kind, arrays in state.items():
        for name, array in arrays.items():
            if kind != FROZEN or distance == 0:
                np.save(directory / f"{kind}.{name}.npy", np.asarray(array))
    return {kind: list(arrays) for kind, arrays in state.items()}


def follow(run: str, params: Params, fixed: Params, objective: Callable[[Params, Params, Any], Any]) -> State:
    """Trains `params` of the transformer with AdamW; the last state by kind of array."""
    import jax
    import jax.numpy as jnp

    @partial(jax.jit, donate_argnums=(0, 1, 2))
    def update(params: Params, m: Params, v: Params, fixed: Params, tokens: Any, step: Any) -> Any:
        value, gradients = jax.value_and_grad(objective)(params, fixed, tokens)
        rate = RATES[run] * jnp.minimum(1.0, (step + 1) / WARM_UP)
        return *adamw(params, m, v, gradients, step, rate), value

    text = corpus()
    rng = np.random.default_rng(len(run))
    params = {name: jnp.array(value) for name, value in params.items()}
    m, v = ({name: jnp.zeros_like(value) for name, value in params.items()} for _ in range(2))
    for step in range(STEPS_BEFORE[run] + max(DISTANCES) + 1):
        distance = step - STEPS_BEFORE[run]
        state = {"weights": params, "m": m, "v": v} | ({FROZEN: fixed} if fixed else {})
        if distance in DISTANCES:
            write(run, distance, state)
        if distance == max(DISTANCES):
            break
        starts = rng.integers(0, len(text) - CONTEXT - 1, BATCH)
        tokens = np.stack([text[start : start + CONTEXT + 1] for start in starts]).astype(np.int32)
        params, m, v, value = update(params, m, v, fixed, tokens, np.float32(step))
        if step % 100 == 0:
            print(f"{run}, step {step}: loss {float(value):.3f}", flush=True)
    return state


def dense(run: str) -> dict[str, list[str]]:
    return _names(follow(run, initial(), {}, lambda params, _, tokens: loss(params, tokens)))


def finetune(run: str) -> dict[str, list[str]]:
    trained = load("dense", max(DISTANCES))["weights"]
    return _names(follow(run, trained, {}, lambda params, _, tokens: loss(params, tokens)))


def lora(run: str) -> dict[str, list[str]]:
    body = load("dense", max(DISTANCES))["weights"]
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

    return _names(follow(run, adapters, body, objective))


def embedding(run: str) -> dict[str, list[str]]:
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
    before = STEPS_BEFORE[run]
    for step in range(before + max(DISTANCES) + 1):
        if step - before in DISTANCES:
            write(run, step - before, state)
        ends = rng.integers(GRAMS * GRAM_BYTES, len(ids) - 1, EMBEDDING_BATCH)
        wanted = ids[ends[:, None] - GRAM_BYTES * np.arange(GRAMS)]
        touched, places = np.unique(wanted, return_inverse=True)
        rows = np.zeros((wanted.size, ROW_WIDTH), np.float32)  # of one shape for all batches
        rows[: len(touched)] = weights["table"][touched]
        labels = text[ends + GRAM_BYTES].astype(np.int32)
        value, found = gradients(rows, weights["output"], places.reshape(wanted.shape), labels)
        for name, g, at in (("table", found[0][: len(touched)], touched), ("output", found[1], slice(None))):
            _adam_at(weights[name], m[name], v[name], np.asarray(g), at, RATES[run])
        if step % 1000 == 0:
            print(f"{run}, step {step}: loss {float(value):.3f}", flush=True)
    return _names(state)


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


def _names(state: State) -> dict[str, list[str]]:
    return {kind: list(arrays) for kind, arrays in state.items()}


RUNS: dict[str, Callable[[str], dict[str, list[str]]]] = {
    "dense": dense,
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
