"""Metadata to JSON and back."""

import enum
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostraca import FormatError, UnsupportedError, metadata

text = st.text(st.characters(exclude_categories=["Cs"]))
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(text | st.sampled_from(["$int", "$float", "$$"]), below, max_size=3)
    ),
)


def through(value: Any) -> Any:
    encoded = metadata.encode(value)
    return metadata.decode(json.loads(encoded or "null", parse_constant=pytest.fail))


def same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@given(documents)
def test_round_trip(value: Any) -> None:
    assert same(value, through(value))


def test_what_is_written() -> None:
    assert metadata.encode(None) is None
    assert metadata.encode({"a": 2**53 - 1, "b": 2**53, "$c": -math.inf, "d": (1, "é")}) == (
        '{"a": 9007199254740991, "b": {"$int": "9007199254740992"}, "$$c": {"$float": "-inf"}, "d": [1, "\\u00e9"]}'
    )


def test_numpy_scalars_and_enumerations() -> None:
    class Mode(enum.StrEnum):
        FAST = "fast"

    given_values = [np.float32(1.5), np.int64(7), np.bool_(True), np.str_("x"), Mode.FAST, np.float64("nan")]
    assert same(through(given_values), [1.5, 7, True, "x", "fast", math.nan])


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"a": [1, {"b": object()}]}, r"metadata\['a'\]\[1\]\['b'\] is object"),
        ({"a": {1: 2}}, r"metadata\['a'\] has the key 1 of type int"),
        ({"a": b"x"}, r"metadata\['a'\] is bytes"),
        ({"a": np.zeros(2)}, r"metadata\['a'\] is ndarray"),
        ({"a": "\ud800"}, r"metadata\['a'\] is not valid Unicode"),
        ({"\ud800": 1}, "a key of metadata is not valid Unicode"),
        (1j, "metadata is complex"),
        pytest.param(10**5000, "metadata: .*digits", id="digits"),
        pytest.param("x" * (33 << 20), "limit", id="long"),
    ],
)
def test_refused(value: Any, where: str) -> None:
    with pytest.raises(UnsupportedError, match=where):
        metadata.encode(value)


def test_cycles_are_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(UnsupportedError, match="deeper"):
        metadata.encode(loop)


@pytest.mark.parametrize("value", [{"$int": 5.5j}, {"$int": "x"}, {"$int": None}, {"$float": "1"}, {"$float": []}])
def test_malformed(value: Any) -> None:
    with pytest.raises(FormatError):
        metadata.decode(value)
