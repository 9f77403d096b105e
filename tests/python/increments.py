"""What the tests of incremental saves share: states that change a little, and what two readers say of them."""

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

import ostraca
import trees
from ostraca import reference


def weights(shape: tuple[int, ...], dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) / 30).astype(dtype)


def stepped(values: np.ndarray, size: float = 1e-5, seed: int = 1) -> np.ndarray:
    """What an optimizer's step leaves of them."""
    noise = np.random.default_rng(seed).standard_normal(values.shape) * size
    return (values.astype(np.float64) + noise).astype(values.dtype)


def state() -> dict[str, Any]:
    """Packs, arrays of a chunk and of several, floats and others."""
    return {
        "w": weights((1500, 1000)),
        "half": weights((700, 512), ml_dtypes.bfloat16, 2),
        "frozen": weights((1200, 1000), seed=3),
        "ids": np.arange(100_000, dtype=np.int32),
        "small": {f"b{i}": weights((100 + i,), seed=i) for i in range(20)},
        "count": 10,
        "text": "what it is about",
        "nothing": None,
    }


def changed(tree: dict[str, Any]) -> dict[str, Any]:
    """The same names a step later; `frozen` and all of `small` are as they were."""
    w = stepped(tree["w"])
    ids = tree["ids"].copy()
    ids[7] += 1
    return tree | {"w": w, "half": stepped(tree["half"], 1e-4), "ids": ids, "count": tree["count"] + 1}


def check(path: Path, tree: Any) -> None:
    """A checkpoint loads to the bits of `tree`, by both readers, and both find it whole."""
    trees.same(tree, ostraca.load(path, verify="deep"))
    report = ostraca.verify(path, deep=True)
    assert report.ok, report.damaged
    assert reference.verify(path) == []
    trees.same(tree, reference.load(path))


def kinds(path: Path, name: str) -> set[str]:
    """How the chunks of a leaf are stored."""
    with ostraca.Reader(path) as reader:
        return {"reference" if c.in_base else "delta" if c.codec == 3 else "full" for c in reader.chunks(name)}


def base_of(path: Path) -> str | None:
    base = json.loads((path / "manifest.json").read_text())["base"]
    return base and base["directory"]


def data_file(path: Path) -> Path:
    return next(path.glob("p00000-*.ostraca"))


def flip(file: Path, *offsets: int) -> None:
    raw = bytearray(file.read_bytes())
    for offset in offsets:
        raw[offset] ^= 0x10
    file.write_bytes(raw)
