"""Writes golden checkpoints with the engine, and what they hold, made without it.

    python tests/golden/make_golden.py tests/golden/v1 [name ...]

Each is a directory `<name>/` and a file `<name>.json` with the expected tree, metadata and step: arrays as dtype, shape
and base64 of their bytes (`same`: the tree of another one). Golden checkpoints are written once, when a version of the
format is released or the engine learns to write more of it, and never again: later releases have to read these bytes.
The trees are the same each time; ids and times are not.
"""

from __future__ import annotations

import base64
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

RANDOM = np.random.default_rng(1)
ML_DTYPES = (
    "bfloat16 float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e4m3b11fnuz float8_e3m4 float8_e4m3 "
    "float8_e8m0fnu float4_e2m1fn float6_e2m3fn float6_e3m2fn int2 uint2 int4 uint4 int1 uint1"
)
NUMPY = (
    "i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8 c8 c16 >i2 >i8 >u4 >f2 >f4 >f8 >c8 >c16 M8[ns] M8[25s] M8 >M8[D] m8[us] m8 "
    ">m8[h] S1 S7 V3 V16"
)
LARGE_BYTES, PERIOD = 1 << 20, 401  # a large array repeats so many elements
STRINGS = {
    "T": np.dtypes.StringDType(),
    "Tnan": np.dtypes.StringDType(na_object=math.nan),
    "TNone": np.dtypes.StringDType(na_object=None),
    "Tstrict": np.dtypes.StringDType(coerce=False, na_object=None),
    "O": np.dtype(object),
}


def described(value: Any) -> Any:
    """A tree as JSON that says types, dtypes and bits."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "TO":
        name = next(name for name, dtype in STRINGS.items() if dtype == value.dtype)
        return {"strings": name, "shape": value.shape, "items": [described(x) for x in value.reshape(-1).tolist()]}
    if isinstance(value, np.ndarray) and value.nbytes > LARGE_BYTES:
        period = value[:PERIOD]
        assert np.array_equal(np.resize(period, value.shape), value)
        return {"repeated": value.dtype.str, "shape": value.shape, "bytes": base64.b64encode(period.tobytes()).decode()}
    if isinstance(value, np.ndarray):
        name = value.dtype.name if hasattr(ml_dtypes, value.dtype.name) else value.dtype.str
        return {"array": name, "shape": value.shape, "bytes": base64.b64encode(value.tobytes()).decode()}
    if isinstance(value, dict):
        return {"dict": [[key, described(child)] for key, child in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [described(child) for child in value]}
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, float):
        return {"float": value.hex()}
    return {"int": str(value)} if type(value) is int else {"plain": value}


def expected(node: dict[str, Any]) -> Any:
    """The inverse of `described`."""
    kind = next(iter(node))
    if kind == "array":
        dtype = np.dtype(getattr(ml_dtypes, node["array"], node["array"]))
        return np.frombuffer(base64.b64decode(node["bytes"]), dtype).reshape(node["shape"])
    if kind == "repeated":
        period = np.frombuffer(base64.b64decode(node["bytes"]), node["repeated"])
        return np.resize(period, node["shape"])
    if kind == "strings":
        array = np.empty(len(node["items"]), STRINGS[node["strings"]])
        array[...] = [expected(item) for item in node["items"]]
        return array.reshape(node["shape"])
    if kind == "dict":
        return {key: expected(child) for key, child in node["dict"]}
    if kind in ("list", "tuple"):
        return {"list": list, "tuple": tuple}[kind](map(expected, node[kind]))
    if kind == "bytes":
        return base64.b64decode(node["bytes"])
    return {"float": float.fromhex, "int": int, "plain": lambda v: v}[kind](node[kind])


def contents(directory: Path, name: str) -> tuple[int | None, Any, Any]:
    """Step, metadata and tree that the checkpoint `name` should have."""
    content = json.loads((directory / f"{name}.json").read_text())
    tree = content["tree"]
    found = contents(directory, tree["same"])[2] if "same" in tree else expected(tree)
    return content["step"], expected(content["metadata"]), found


def bits(dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    dtype = np.dtype(dtype)
    return RANDOM.integers(0, 256, math.prod(shape) * dtype.itemsize, np.uint8).view(dtype).reshape(shape)


def dtypes() -> Any:
    tree = {"bool": np.array([[True, False, True]])}
    tree |= {name: bits(name, (2, 3)) for name in NUMPY.split()}
    tree |= {name: bits(getattr(ml_dtypes, name), (2, 3)) for name in ML_DTYPES.split()}
    return tree | {"U3": np.array(["ab", "ç☃", ""]), ">U2": np.array(["ñ", "ab"], ">U2")}


def values() -> Any:
    floats = {"nan": math.nan, "-inf": -math.inf, "-0": -0.0, "tiny": 5e-324, "third": 1 / 3}
    ints = [0, 1, -1, 127, 128, -128, -129, 1 << 63, -(1 << 200)]
    return {
        "floats": floats, "ints": ints, "bools": (True, False), "None": None, "strings": ["", "naïve ☃ 𝄞", "a\0b\n"],
        "bytes": [b"", bytes(range(256))], "empties": [{}, [], ()], "a/b~c": 1, "": {"": 2}, "..": {"../x": 3},
        "ключ": 4, "x" * 300: 5, "int keys": {0: "a", -(1 << 63): "b", (1 << 63) - 1: "c"}, "mixed": {"k": 1, 1: 2},
        "deep": [[[[(1, (2, [3]))]]]], "shapes": [bits("f4", ()), bits("i2", (0, 3)), bits("u1", (1,) * 30)],
    }  # fmt: skip


def strings() -> Any:
    texts, rare = ["", "a", "naïve ☃ 𝄞", "tail\0", "long" * 30, "\0"], RANDOM.permutation(np.arange(12) % 6)
    tree: dict[str, Any] = {}
    for name, dtype in STRINGS.items():
        tree[name] = np.empty(12, dtype)
        tree[name][...] = [texts[i].encode() if name == "O" else texts[i] for i in rare]
        if hasattr(dtype, "na_object"):
            tree[name][rare == 1] = dtype.na_object
    nested = {"data": tree["T"].reshape(3, 4), "none": tree["T"][:0], "one": tree["O"][2:3].reshape(())}
    return tree | {"nested": nested, "fixed": np.array(["a", "bc"]), "text": "text"}


def compressible() -> dict[str, Any]:
    weights = (RANDOM.standard_normal((40, 50)) / 30).astype("f4")
    counter = np.arange(500)
    return {
        "weights": weights, "tied": weights, "bfloat16": weights.astype(ml_dtypes.bfloat16), "counter": counter,
        "zeros": np.zeros((25, 20)), "noise": bits("u1", (1000,)), "text": "golden " * 200,
        "sparse": counter * (counter % 97 == 0), "small": [np.full(3, i, "i2") for i in range(12)],
    }  # fmt: skip


def keyframe() -> dict[str, Any]:
    """Arrays of chunks of their own, for each element width, and packs."""
    chunked: dict[str, Any] = {name: bits(name, (40, 25)) for name in ("u1", "i2", "f4", "f8")}
    chunked |= {
        "bfloat16": bits(ml_dtypes.bfloat16, (40, 25)),
        "frozen": bits("f4", (40, 25)),
        "redrawn": bits("u1", (2000,)),
    }
    return {
        "chunked": chunked,
        "moving": [bits("f4", (150,)) for _ in range(3)],
        "kept": [bits("i8", (60,))] * 2,
        "n": 1,
    }


def delta() -> dict[str, Any]:
    """What some steps make of it: most elements move by a few units in the last place."""
    tree = keyframe()
    tree["chunked"] |= {name: moved(tree["chunked"][name]) for name in ("u1", "i2", "f4", "f8", "bfloat16")}
    tree["chunked"]["redrawn"] = bits("u1", (2000,))
    return tree | {"moving": [moved(array) for array in tree["moving"]], "fresh": bits("f2", (10, 10)), "n": 2}


def moved(array: np.ndarray) -> np.ndarray:
    integers = array.view(f"u{array.itemsize}")
    return (integers + RANDOM.integers(-2, 3, array.shape).astype(integers.dtype)).view(array.dtype)


METADATA = {
    "big": [1 << 53, -(1 << 70), (1 << 53) - 1], "odd": [math.nan, math.inf, -math.inf, 1e-300], "$tag": {"$$": "$"},
    "text": "ü\u2028\"\\", "none": None, "nested": [[], {}, [True, False]],
}  # fmt: skip
SAVES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "dtypes": (dtypes, {}),
    "strings": (strings, {"step": 15}),
    "values": (values, {"metadata": METADATA, "step": 123456789012}),
    "auto": (compressible, {"step": 0}),
    "raw": (compressible, {"codec": "raw"}),
    "zstd": (compressible, {"codec": "zstd", "chunk_shape": (7, 50)}),
    "chunks": (compressible, {"chunk_shape": (16, 7)}),
    "keyframe": (keyframe, {"step": 100, "chunk_shape": (16, 25)}),
    "delta": (delta, {"step": 101, "chunk_shape": (16, 25), "base": "keyframe"}),
    "one-leaf": (lambda: np.arange(3.0), {}),
    "no-leaf": (dict, {}),
}


def processes(path: Path) -> Any:
    """Two processes: one array of both, one of each."""
    import ostraca

    whole, first, second = bits("f4", (12, 10)), bits("i8", (5,)), bits(">u2", (6, 4))
    writers = [ostraca.Writer(path, process_index=i, process_count=2, attempt="c0de" * 8) for i in range(2)]
    for writer, part in zip(writers, [slice(0, 5), slice(5, 12)], strict=True):
        piece = whole[part]
        offset = (part.start, 0)
        writer.add("whole", piece, dtype="float32", shape=piece.shape, global_shape=whole.shape, offset=offset)
    writers[0].add("own/first", first, dtype="int64", shape=first.shape)
    writers[1].add("own/second", second, dtype=">u2", shape=second.shape)
    ostraca.commit(path, [writer.finish() for writer in writers], step=1)
    return {"whole": whole, "own": {"first": first, "second": second}}


def parts(path: Path) -> Any:
    """A process of several files: one for each block."""
    large = np.resize(bits("u1", (PERIOD,)), 21 << 20)
    return in_small_files(path, {"large": large, "small": bits("i4", (3, 4)), "tied": large})


def parts_delta(path: Path) -> Any:
    """Against that, of more: chunks that are references, deltas, and its own."""
    before = contents(path.parent, "parts")[2]
    moved_on = np.resize(before["large"][:PERIOD] + RANDOM.integers(0, 2, PERIOD, np.uint8), before["large"].size)
    tree = {"large": before["large"], "tied": moved_on, "fresh": np.resize(bits("u1", (PERIOD,)), 9 << 20)}
    return in_small_files(path, tree, base=path.parent / "parts")


def in_small_files(path: Path, tree: Any, **options: Any) -> Any:
    import functools

    import ostraca
    from ostraca import _core

    writer = _core.Writer
    try:
        _core.Writer = functools.partial(writer, file_bytes=1)  # type: ignore[assignment, misc]
        ostraca.save(path, tree, codec="zstd", **options)
    finally:
        _core.Writer = writer  # type: ignore[misc]
    return tree


def tiny(path: Path) -> Any:
    """The one of docs/format.md, section 11."""
    import ostraca

    array = np.array([[1, 2, 3], [256, 512, 65535]], "<u2")
    writer = ostraca.Writer(path, attempt="000102030405060708090a0b0c0d0e0f", codec="raw")
    writer.add("x", array, dtype="uint16", shape=array.shape)
    ostraca.commit(path, [writer.finish()], step=7)
    return {"x": array}


OTHERS = {"processes": processes, "tiny": tiny, "parts": parts, "parts-delta": parts_delta}


def write(directory: Path, name: str) -> None:
    import ostraca

    global RANDOM
    RANDOM = np.random.default_rng(1)
    options: dict[str, Any] = {"step": {"processes": 1, "tiny": 7}.get(name)}
    if name in SAVES:
        make, options = SAVES[name]
        tree = make()
        beside = {"base": directory / options["base"]} if "base" in options else {}
        ostraca.save(directory / name, tree, **options | beside)
    else:
        tree = OTHERS[name](directory / name)
    same = name in ("raw", "zstd", "chunks")
    content = {
        "step": options.get("step"),
        "metadata": described(options.get("metadata")),
        "tree": {"same": "auto"} if same else described(tree),
    }
    (directory / f"{name}.json").write_text(json.dumps(content) + "\n")


if __name__ == "__main__":
    for chosen in sys.argv[2:] or [*SAVES, *OTHERS]:
        write(Path(sys.argv[1]), chosen)
