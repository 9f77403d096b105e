"""Trees to save: every dtype and layout, strategies for hypothesis, and what it means that two of them are the same."""

import dataclasses
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

from ostraca import dtypes

NUMPY_NAMES = [name for name in dtypes.CODES if not hasattr(ml_dtypes, name)]
ML_NAMES = [name for name in dtypes.CODES if hasattr(ml_dtypes, name)]
SWAPPED = [">i2", ">u4", ">f4", ">f8", ">c16", ">M8[us]", ">U3"]
SIZED = ["M8[ns]", "M8[25s]", "M8", "m8[D]", "m8", "S1", "S7", "U1", "U5", "V3", "V16"]
ALL_DTYPES = [
    *map(np.dtype, NUMPY_NAMES + SWAPPED + SIZED),
    *(np.dtype(getattr(ml_dtypes, name)) for name in ML_NAMES),
]
STRING_DTYPES = [
    *(
        np.dtypes.StringDType(coerce=coerce, **missing)
        for coerce in (True, False)
        for missing in ({}, {"na_object": np.nan}, {"na_object": None})
    ),
    np.dtype(object),  # of bytes
]
LAYOUTS = ["c", "fortran", "strided", "reversed", "broadcast", "read-only", "offset"]


class Point(NamedTuple):
    x: Any
    y: Any


class Nothing(NamedTuple):
    """Without fields, like optax's EmptyState."""


@dataclasses.dataclass(frozen=True)
class State:
    params: Any
    step: Any = 0


def array(dtype: Any, shape: tuple[int, ...] = (3, 4), seed: int = 0) -> np.ndarray:
    """Random bits, NaNs and denormals included; booleans are 0 or 1."""
    dtype = np.dtype(dtype)
    count = int(np.prod(shape)) * dtype.itemsize
    data = np.random.default_rng(seed).integers(0, 2 if dtype.kind == "b" else 256, count, np.uint8)
    if dtype.kind == "U":  # code points that Python can print
        data = (data.view(np.uint32) % 0xD800).astype(np.uint32)
        data = data.view(np.uint32).astype(dtype.str[0] + "u4").view(np.uint8)
    return data.view(dtype).reshape(shape)


def strings(dtype: Any, shape: tuple[int, ...], seed: int = 0, pool: Any = ("", "a", "tail\0", "naïve ☃", "𝄞")) -> Any:
    """Random ones of some texts; of StringDType, or objects that are their bytes; a third is missing where it can."""
    rng = np.random.default_rng(seed)
    array = np.empty(int(np.prod(shape)), dtype)
    if array.size:
        items = [text.encode() if dtype.kind == "O" else text for text in pool]
        array[...] = [items[i] for i in rng.integers(0, len(items), array.size)]
    if hasattr(dtype, "na_object"):
        array[rng.random(array.size) < 1 / 3] = dtype.na_object
    return array.reshape(shape)


def laid_out(values: np.ndarray, layout: str) -> np.ndarray:
    """The same values in other memory."""
    if layout == "fortran":
        return np.asfortranarray(values)
    if layout == "reversed" and values.ndim:
        return np.ascontiguousarray(values[::-1])[::-1]
    if layout == "strided" and values.ndim:
        wide = np.zeros((*values.shape[:-1], values.shape[-1] * 2), values.dtype)
        wide[..., ::2] = values
        return wide[..., ::2]
    if layout == "broadcast" and values.ndim:
        return np.broadcast_to(values[:1], values.shape)
    if layout == "offset":  # not aligned to the item
        memory = np.zeros(values.nbytes + 1, np.uint8)
        out = memory[1:].view(values.dtype).reshape(values.shape) if values.nbytes else values.copy()
        out[...] = values
        return out
    if layout == "read-only":
        values = values.copy()
        values.flags.writeable = False
    return values


def same(a: Any, b: Any, where: str = "") -> None:
    """Asserts equal structure, types, dtypes, shapes and bits; `b` is what `a` became in a checkpoint."""
    if dataclasses.is_dataclass(a) and not isinstance(a, type):
        a = {field.name: getattr(a, field.name) for field in dataclasses.fields(a)}
    elif hasattr(a, "_fields"):
        a = a._asdict()
    if isinstance(a, np.ndarray | np.generic):
        assert isinstance(b, np.ndarray), where
        a = np.asarray(a)
        assert a.shape == b.shape, where
        assert a.dtype == b.dtype and a.dtype.isnative == b.dtype.isnative, where
        if a.dtype.kind in "TO":
            for x, y in zip(a.reshape(-1).tolist(), b.reshape(-1).tolist(), strict=True):
                assert type(x) is type(y) and (x == y or x != x), where
            return
        assert a.tobytes() == b.tobytes(), where
    elif isinstance(a, dict):
        assert type(b) is dict and list(a) == list(b), where
        assert [type(key) for key in a] == [type(key) for key in b], where
        for key in a:
            same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple):
        assert type(a) is type(b) and len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{where}/{i}")
    else:
        assert type(a) is type(b) and (a == b or (a != a and b != b)), where


shapes = st.lists(st.sampled_from([0, 1, 2, 3, 5, 17]), max_size=4).map(tuple)
arrays = st.builds(
    lambda dtype, shape, seed, layout: laid_out(array(dtype, shape, seed), layout),
    st.sampled_from(ALL_DTYPES),
    shapes,
    st.integers(0, 999),
    st.sampled_from(LAYOUTS),
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
string_arrays = st.builds(
    strings,
    st.sampled_from(STRING_DTYPES),
    st.lists(st.sampled_from([0, 1, 2, 3, 7]), max_size=3).map(tuple),
    st.integers(0, 999),
    st.lists(texts, min_size=1, max_size=4),
)
values = st.one_of(
    arrays,
    arrays,
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**200), 2**200),
    st.floats(),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.binary(),
)
str_keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=5) | st.sampled_from(
    ["a", "a/b", "~", "..", "../x", ""]
)
int_keys = st.integers(-(2**63), 2**63 - 1)
trees = st.recursive(
    st.one_of(values, values, string_arrays),
    lambda below: st.one_of(
        st.lists(below, max_size=4),
        st.lists(below, max_size=4).map(tuple),
        st.dictionaries(str_keys, below, max_size=4),
        st.dictionaries(int_keys, below, max_size=4),
        st.builds(Point, below, below),
        st.builds(State, below, below),
        st.just(Nothing()).map(lambda _: {}),
    ),
    max_leaves=12,
)
