"""The demo's training run: a byte-level transformer in plain JAX, checkpointed with Ostraca while it trains.

    python demo_training.py DIRECTORY --steps 60 --save-every 10

Resumes from the newest committed checkpoint in DIRECTORY, if there is one. Reports events on standard output, one JSON
object a line, for demo.py. The same state gives the same next state, bit for bit, on the same machine.
"""

import argparse
import hashlib
import json
import sysconfig
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import ostraca

WIDTH: Final = 256
HEADS: Final = 4
LAYERS: Final = 8
CONTEXT: Final = 128  # bytes of text
BATCH: Final = 4
VOCABULARY: Final = 256

LEARNING_RATE: Final = 1e-3
WARMUP_STEPS: Final = 20
WEIGHT_DECAY: Final = 0.1
DROPOUT: Final = 0.1

POLL_SECONDS: Final = 0.0005


class State(NamedTuple):
    """All that the next step depends on."""

    params: Any
    adam_m: Any
    adam_v: Any
    step: Any  # int32 scalar
    rng: Any  # jax.random.key
    position: Any  # int, in each of the BATCH streams of text


def initial_state(seed: int) -> State:
    key, rng = jax.random.split(jax.random.key(seed))
    keys = iter(jax.random.split(key, 6))

    def matrices(*shape: int) -> jax.Array:
        return jax.random.normal(next(keys), shape, jnp.float32) * shape[-2] ** -0.5

    params = {
        "embedding": matrices(VOCABULARY, WIDTH),
        "position": matrices(CONTEXT, WIDTH),
        "blocks": {  # stacked along the first axis
            "attention_norm": jnp.ones((LAYERS, WIDTH)),
            "qkv": matrices(LAYERS, WIDTH, 3 * WIDTH),
            "attention_out": matrices(LAYERS, WIDTH, WIDTH),
            "mlp_norm": jnp.ones((LAYERS, WIDTH)),
            "mlp_in": matrices(LAYERS, WIDTH, 4 * WIDTH),
            "mlp_out": matrices(LAYERS, 4 * WIDTH, WIDTH),
        },
        "norm": jnp.ones(WIDTH),
    }
    zeros = partial(jax.tree.map, jnp.zeros_like)
    return State(params, zeros(params), zeros(params), jnp.int32(0), rng, position=0)


def normalized(x: jax.Array, scale: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6) * scale


def dropout(x: jax.Array, key: jax.Array) -> jax.Array:
    return jnp.where(jax.random.bernoulli(key, 1 - DROPOUT, x.shape), x / (1 - DROPOUT), 0)


def block(x: jax.Array, layer: tuple[dict[str, jax.Array], jax.Array]) -> tuple[jax.Array, None]:
    """One pre-norm transformer block; x is (batch, context, width)."""
    weights, key = layer
    qkv = normalized(x, weights["attention_norm"]) @ weights["qkv"]
    q, k, v = jnp.moveaxis(qkv.reshape(*x.shape[:2], 3, HEADS, WIDTH // HEADS), 2, 0)
    attended = jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape)
    x += dropout(attended @ weights["attention_out"], key)
    x += jax.nn.gelu(normalized(x, weights["mlp_norm"]) @ weights["mlp_in"]) @ weights["mlp_out"]
    return x, None


def loss_of(params: Any, text: jax.Array, key: jax.Array) -> jax.Array:
    """Mean cross-entropy, in nats a byte, of predicting each next byte; text is (batch, context + 1)."""
    x = params["embedding"][text[:, :-1]] + params["position"]
    x, _ = jax.lax.scan(block, x, (params["blocks"], jax.random.split(key, LAYERS)), unroll=True)
    logits = normalized(x, params["norm"]) @ params["embedding"].T
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), text[:, 1:, None], axis=-1))


@partial(jax.jit, donate_argnums=(0, 1, 2, 3, 4))
def train_step(params: Any, m: Any, v: Any, step: jax.Array, rng: jax.Array, text: jax.Array) -> Any:
    """AdamW (Loshchilov and Hutter, 2019, algorithm 2) with a linear warm-up."""
    rng, key = jax.random.split(rng)
    loss, gradients = jax.value_and_grad(loss_of)(params, text, key)
    step += 1
    rate = LEARNING_RATE * jnp.minimum(1.0, step / WARMUP_STEPS)
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, gradients)
    v = jax.tree.map(lambda v, g: 0.99 * v + 0.01 * g * g, v, gradients)

    def updated(p: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
        direction = m / (1 - 0.9**step) / (jnp.sqrt(v / (1 - 0.99**step)) + 1e-8)
        return p - rate * (direction + (WEIGHT_DECAY * p if p.ndim > 1 else 0))

    return jax.tree.map(updated, params, m, v), m, v, step, rng, loss


def corpus() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The Python standard library's source, cut into BATCH streams: (BATCH, bytes)."""
    root = Path(sysconfig.get_path("stdlib"))
    skipped = {"site-packages", "dist-packages", "test", "tests"}
    files = (path for path in root.rglob("*.py") if not skipped.intersection(path.relative_to(root).parts))
    text = b"".join(path.read_bytes() for path in sorted(files))
    length = len(text) // BATCH
    return np.frombuffer(text, np.uint8, BATCH * length).reshape(BATCH, length)


def advance(state: State, text: np.ndarray[Any, np.dtype[np.uint8]]) -> tuple[State, jax.Array]:
    window = text[:, state.position : state.position + CONTEXT + 1]
    params, m, v, step, rng, loss = train_step(*state[:5], window.astype(np.int32))
    following = state.position + CONTEXT
    return State(params, m, v, step, rng, following if following + CONTEXT < text.shape[1] else 0), loss


def report(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


def watch(handle: ostraca.SaveHandle, step: int) -> None:
    """Reports when a save's bytes flow, and when it is committed. A failure is for the trainer to see."""
    done, total = handle.progress()
    while not done and not handle.done():
        time.sleep(POLL_SECONDS)
        done, total = handle.progress()
    report("flowing", step=step, done=done, total=total)
    if handle.exception() is None:
        info = handle.result()
        numbers = {name: getattr(info, name) for name in ("logical_bytes", "stored_bytes", "stall_seconds", "seconds")}
        report("committed", step=step, arrays=info.arrays, **numbers)


def committed_checkpoints(directory: Path) -> list[Path]:
    """Oldest first. A directory without a manifest is what a killed save left; it is no checkpoint."""
    return sorted(path.parent for path in directory.glob("*/manifest.json"))


def resumed(path: Path, seed: int, fingerprint: str) -> State:
    with ostraca.open(path) as checkpoint:
        if checkpoint.metadata["text"] != fingerprint:
            raise SystemExit(f"{path} was trained on other text; start in an empty directory")
    like = jax.eval_shape(partial(initial_state, seed))._replace(position=0)
    state: State = ostraca.load(path, like=like)
    # Copied, because on CPU JAX would use numpy's memory as it is, and can donate only its own.
    copied: State = jax.tree.map(partial(jnp.array, copy=True), state._replace(position=None))
    return copied._replace(position=state.position)


def fingerprints(state: State) -> dict[str, str]:
    """SHA-256 of every array, taken from JAX's memory: the demo's evidence that does not pass through Ostraca."""
    leaves = jax.tree_util.tree_leaves_with_path(state._replace(rng=jax.random.key_data(state.rng)))
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest()
        for path, leaf in leaves
        if not isinstance(leaf, int)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--save-every", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    text = corpus()
    fingerprint = hashlib.sha256(text.tobytes()).hexdigest()
    checkpoints = committed_checkpoints(arguments.directory)
    if checkpoints:
        state = resumed(checkpoints[-1], arguments.seed, fingerprint)
    else:
        state = jax.jit(initial_state)(arguments.seed)._replace(position=0)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    report("started", step=int(state.step), parameters=parameters, text_bytes=text.size)

    saving: ostraca.SaveHandle | None = None
    watcher: threading.Thread | None = None
    for step in range(int(state.step) + 1, arguments.steps + 1):
        started = time.perf_counter()
        state, loss = advance(state, text)
        report("trained", step=step, loss=float(loss), seconds=time.perf_counter() - started)
        if step % arguments.save_every and step != arguments.steps:
            continue
        if saving and watcher:
            saving.result()  # one save at a time; raises if it failed
            watcher.join()
        # Nobody can write to JAX arrays, so there is no copy to wait for: Ostraca's views keep their memory while the
        # next step, which donates them, computes into other memory.
        saving = ostraca.save_async(
            arguments.directory / f"{step:010d}",
            state,
            step=step,
            metadata={"loss": float(loss), "text": fingerprint},
        )
        watcher = threading.Thread(target=watch, args=(saving, step))
        watcher.start()
    if saving and watcher:
        saving.result()
        watcher.join()
    report("ended", step=int(state.step), sha256=fingerprints(state))


if __name__ == "__main__":
    main()
