"""A checkpoint's metadata as JSON (docs/format.md, section 8).

JSON of the value, except: integers of magnitude 2^53 or more are `{"$int": "<decimal>"}`, non-finite floats
`{"$float": "nan" | "inf" | "-inf"}`, and string keys that begin with `$` get one more.
"""

import math
from typing import Any, Final

import numpy as np

from . import _core
from .errors import FormatError, UnsupportedError

EXACT_INT: Final = 1 << 53  # the first integer that not every JSON reader keeps exactly
MAX_BYTES: Final = _core.DOCUMENT_BYTES_MAX // 2  # of metadata, so that a manifest stays under its limit
MAX_DEPTH: Final = 100
_FLOATS: Final = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def encode(metadata: Any) -> str | None:
    """JSON text of None, bool, int, float, str, numpy scalars, and lists, tuples and dicts (string keys) of these.

    Tuples come back as lists, numpy scalars as Python's. Raises `UnsupportedError` that says where the trouble is.
    """
    if metadata is None:
        return None
    import json  # late, for the sake of import time

    text = json.dumps(_encode(metadata, "metadata", 0), allow_nan=False, separators=(", ", ": "))
    if len(text) > MAX_BYTES:
        raise UnsupportedError(f"metadata takes {len(text)} bytes; the limit is {MAX_BYTES}: store arrays in the tree")
    return text


def decode(value: Any) -> Any:
    """The inverse, for parsed JSON."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    try:
        if value.keys() == {"$int"}:
            return int(value["$int"])
        if value.keys() == {"$float"}:
            return _FLOATS[value["$float"]]
    except (KeyError, TypeError, ValueError):
        raise FormatError(f"metadata holds a malformed tag: {value!r:.80}") from None
    return {key[1:] if key.startswith("$") else key: decode(item) for key, item in value.items()}


def _encode(value: Any, where: str, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise UnsupportedError(f"{where[:80]}...: metadata is nested deeper than {MAX_DEPTH} levels, or holds itself")
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, where)
    if isinstance(value, int):
        return _integer(int(value), where)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": repr(float(value))}
    if isinstance(value, list | tuple):
        return [_encode(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(value)]
    if isinstance(value, dict):
        return {_key(key, where): _encode(item, f"{where}[{key!r}]", depth + 1) for key, item in value.items()}
    raise UnsupportedError(f"{where} is {type(value).__name__}, which JSON cannot hold; {_advice(value)}")


def _advice(value: Any) -> str:
    """What to do with arrays of numpy, JAX and others, and with anything else."""
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        return "use None, bool, int, float, str, list or dict"
    if tuple(value.shape):
        return "store it in the tree, or use x.tolist()"
    name = str(value.dtype).rpartition(".")[2]  # torch's has its module's name before it
    number = "bool" if name.startswith("bool") else "int" if name.startswith(("int", "uint")) else "float"
    return f"use {number}(x)"


def _text(value: str, where: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UnsupportedError(f"{where} is not valid Unicode ({error.reason} at {error.start})") from None
    return str.__str__(value)  # of an enumeration too


def _integer(value: int, where: str) -> Any:
    if -EXACT_INT < value < EXACT_INT:
        return value
    try:
        return {"$int": str(value)}
    except ValueError as error:  # Python's limit on decimal digits
        raise UnsupportedError(f"{where}: {error}") from None


def _key(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise UnsupportedError(f"{where} has the key {key!r:.80} of type {type(key).__name__}; keys must be strings")
    text = _text(key, f"a key of {where}")
    return "$" + text if text.startswith("$") else text
