"""Makes real trained weights: a small transformer learns the standard library's source, byte by byte, for a minute.

    python bench/train_weights.py [--force]

Writes snapshots of parameters and Adam moments (fp32, one .npy each) to build/bench-data/, once.
"""

import argparse
import json
import shutil
import sysconfig
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from workloads import DATA, trained_available

VOCABULARY, WIDTH, HEADS, LAYERS, CONTEXT, BATCH = 256, 384, 6, 6, 128, 8
STEPS, SNAPSHOT_EVERY, WARM_UP, LEARNING_RATE = 104, 13, 20, 1e-3
BETA1, BETA2, EPSILON, DECAY = 0.9, 0.95, 1e-8, 0.1
CORPUS_BYTES = 8_000_000
EMBEDDINGS = ("embedding", "position")

Params = dict[str, Any]


def corpus() -> np.ndarray:
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    return np.frombuffer(b"".join(file.read_bytes() for file in files)[:CORPUS_BYTES], dtype=np.uint8)


def small(name: str, shape: tuple[int, ...]) -> float:
    """GPT-2's standard deviations, made for a width of 768 and more."""
    return 0.02 / (2 * LAYERS) ** 0.5 if name.endswith((".out", ".down")) else 0.02


def fan_in(name: str, shape: tuple[int, ...]) -> float:
    """Flax's default: 1 / sqrt(inputs) for a matrix, 1 / sqrt(row length) for an embedding."""
    inputs = shape[1] if name in EMBEDDINGS else shape[0]
    return float(inputs**-0.5)


def initial(seed: int = 0, std: Callable[[str, tuple[int, ...]], float] = small) -> Params:
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {"embedding": (VOCABULARY, WIDTH), "position": (CONTEXT, WIDTH)}
    for layer in range(LAYERS):
        shapes[f"layer{layer}.qkv"] = (WIDTH, 3 * WIDTH)
        shapes[f"layer{layer}.out"] = (WIDTH, WIDTH)
        shapes[f"layer{layer}.up"] = (WIDTH, 4 * WIDTH)
        shapes[f"layer{layer}.down"] = (4 * WIDTH, WIDTH)
        shapes |= {f"layer{layer}.norm{i}": (WIDTH,) for i in (1, 2)}
    shapes["norm"] = (WIDTH,)

    def array(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if len(shape) == 1:
            return np.ones(shape, np.float32)
        return (rng.standard_normal(shape) * std(name, shape)).astype(np.float32)

    return {name: array(name, shape) for name, shape in shapes.items()}


def loss(params: Params, tokens: Any) -> Any:
    """Mean cross-entropy in nats of predicting each byte from those before it; tokens (batch, context + 1)."""
    import jax
    import jax.numpy as jnp

    def norm(x: Any, gain: Any) -> Any:
        return x * gain * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)

    inputs, labels = tokens[:, :-1], tokens[:, 1:]
    x = params["embedding"][inputs] + params["position"]
    causal = jnp.tril(jnp.ones((CONTEXT, CONTEXT), bool))
    for layer in range(LAYERS):
        weights = {key.split(".")[1]: value for key, value in params.items() if key.startswith(f"layer{layer}.")}
        qkv = norm(x, weights["norm1"]) @ weights["qkv"]
        q, k, v = (part.reshape(*x.shape[:2], HEADS, -1) for part in jnp.split(qkv, 3, -1))
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) * (WIDTH // HEADS) ** -0.5
        attention = jax.nn.softmax(jnp.where(causal, scores, -1e30))
        x = x + jnp.einsum("bhqk,bkhd->bqhd", attention, v).reshape(x.shape) @ weights["out"]
        x = x + jax.nn.gelu(norm(x, weights["norm2"]) @ weights["up"]) @ weights["down"]
    logits = norm(x, params["norm"]) @ params["embedding"].T
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], -1)
    return -jnp.mean(picked)


def adamw(params: Params, m: Params, v: Params, gradients: Params, step: Any, rate: Any) -> tuple[Params, ...]:
    """The next parameters and moments; `step` counts from 0."""
    import jax.numpy as jnp

    new: tuple[Params, Params, Params] = ({}, {}, {})
    for name, g in gradients.items():
        new[1][name] = BETA1 * m[name] + (1 - BETA1) * g
        new[2][name] = BETA2 * v[name] + (1 - BETA2) * g * g
        momentum = new[1][name] / (1 - BETA1 ** (step + 1))
        scale = jnp.sqrt(new[2][name] / (1 - BETA2 ** (step + 1))) + EPSILON
        new[0][name] = params[name] - rate * (momentum / scale + DECAY * params[name])
    return new


def train() -> None:
    import jax
    import jax.numpy as jnp

    @partial(jax.jit, donate_argnums=(0, 1, 2))
    def update(params: Params, m: Params, v: Params, tokens: Any, step: Any) -> Any:
        value, gradients = jax.value_and_grad(loss)(params, tokens)
        rate = LEARNING_RATE * jnp.minimum(1.0, (step + 1) / WARM_UP)
        return *adamw(params, m, v, gradients, step, rate), value

    text = corpus()
    rng = np.random.default_rng(1)
    params = {name: jnp.asarray(value) for name, value in initial().items()}
    m, v = ({name: jnp.zeros_like(value) for name, value in params.items()} for _ in range(2))
    snapshots = []
    begin = time.monotonic()
    for step in range(STEPS):
        starts = rng.integers(0, len(text) - CONTEXT - 1, BATCH)
        tokens = np.stack([text[start : start + CONTEXT + 1] for start in starts]).astype(np.int32)
        params, m, v, value = update(params, m, v, tokens, np.float32(step))
        if (step + 1) % SNAPSHOT_EVERY == 0:
            print(f"step {step + 1}: loss {float(value):.3f}, {time.monotonic() - begin:.0f} s", flush=True)
            snapshots.append(write(f"step{step + 1:05}", {"params": params, "m": m, "v": v}))
    arrays = {f"{kind}.{name}": value.shape for kind in ("params", "m", "v") for name, value in params.items()}
    (DATA / "trained.json").write_text(json.dumps({"snapshots": snapshots, "arrays": arrays}))  # last: now it is whole


def write(snapshot: str, state: dict[str, Params]) -> str:
    directory = DATA / snapshot
    directory.mkdir()
    for kind, params in state.items():
        for name, value in params.items():
            np.save(directory / f"{kind}.{name}.npy", np.asarray(value))
    return snapshot


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--force", action="store_true", help="train again")
    if trained_available() and not parser.parse_args().force:
        print(f"{DATA} has them already")
        return
    (DATA / "trained.json").unlink(missing_ok=True)
    for earlier in DATA.glob("step*"):
        shutil.rmtree(earlier)
    DATA.mkdir(parents=True, exist_ok=True)
    train()


if __name__ == "__main__":
    main()
