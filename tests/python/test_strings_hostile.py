"""Strings whose two arrays do not agree: every reader says so, before it makes anything of the data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import format_writer as writer
import ostraca
from format_writer import TwoArrays
from ostraca import reference
from ostraca.errors import FormatError
from trees import STRING_DTYPES, same, strings

TEXT, RAW = 12, 13
MISSING = 1 << 63
HUGE = (1 << 63) - 1


def stored(path: Path, kind: int, detail: str, ends: Any, data: bytes, **options: Any) -> None:
    ends = np.array(ends, "<u8")
    writer.write(path, {"a": {"x": TwoArrays(kind, detail, ends, np.frombuffer(data, np.uint8))}, "n": 1}, **options)


def refused(path: Path, words: str, *parts: Any) -> None:
    """By all readers, naming the leaf; and by those that read a part."""
    for read in (ostraca.load, lambda path: ostraca.open(path).value("a/x"), lambda path: ostraca.open(path)["a/x"][:]):
        with pytest.raises(FormatError, match=f"'a/x': .*{words}"):
            read(path)
    for part in parts:
        with ostraca.open(path) as checkpoint, pytest.raises(FormatError, match="'a/x': "):
            checkpoint["a/x"][part]
    with pytest.raises(reference.ReferenceReaderError, match="'a/x'"):
        reference.load(path)
    assert any("'a/x'" in problem for problem in reference.verify(path))


@pytest.mark.parametrize("dtype", STRING_DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0, 3), (7, 5)], ids=str)
def test_what_was_written_by_hand_is_read(path: Path, dtype: Any, shape: tuple[int, ...]) -> None:
    array = strings(dtype, shape, seed=4)
    writer.write(path, {"x": array, "n": 1})
    assert reference.verify(path) == [] and ostraca.verify(path, deep=True).ok
    same({"x": array, "n": 1}, reference.load(path))
    same({"x": array, "n": 1}, ostraca.load(path))


@pytest.mark.parametrize(
    ("kind", "detail", "ends", "data", "words"),
    [
        (TEXT, "", [1, 3, 2, 4], b"abcd", "element 2 .* ends at byte 2, the one before it at 3"),
        (RAW, "", [1, 3, 2, 4], b"abcd", "element 2 .* ends at byte 2"),
        (TEXT, "", [1, 2, 3, 5], b"abcd", "element 3 .* ends at byte 5.* of 4 bytes of data"),
        (RAW, "", [HUGE, HUGE, HUGE, HUGE], b"abcd", f"element 0 .* ends at byte {HUGE}"),
        (TEXT, "", [1, 2, 3, 3], b"abcd", "end at byte 3 of 4 bytes of data"),
        (TEXT, "", [0, 0, 0, 0], b"abcd", "end at byte 0 of 4 bytes of data"),
        (TEXT, "", [], b"abcd", "end at byte 0 of 4 bytes of data"),
        (TEXT, "", [1, 1 | MISSING, 3, 4], b"abcd", "element 1 .* is missing"),
        (RAW, "", [1, 1 | MISSING, 3, 4], b"abcd", "element 1 .* is missing"),
        (TEXT, "na=nan", [1, 2 | MISSING, 3, 4], b"abcd", "element 1 .* is missing"),
        (TEXT, "", [1, 2, 3, 4], b"ab\xffd", "element 2 .* is not UTF-8"),
        (TEXT, "", [1, 2, 4, 4], "aä☃"[:2].encode() + b"b", "element 1 .* is not UTF-8"),  # cut within a character
        (TEXT, "", [3, 3, 3, 3], "\ud800".encode("utf-8", "surrogatepass"), "element 0 .* is not UTF-8"),
    ],
)
def test_contents_that_do_not_agree(path: Path, kind: int, detail: str, ends: Any, data: bytes, words: str) -> None:
    stored(path, kind, detail, ends, data)
    if ends:
        refused(path, words)
    else:
        with pytest.raises(FormatError, match=f"'a/x': .*{words}"):
            ostraca.load(path)
        assert any("'a/x'" in problem for problem in reference.verify(path))


def test_a_part_is_checked_alone(path: Path) -> None:
    stored(path, TEXT, "", [1, 3, 2, 4, HUGE, 5], b"abcd\xff")
    with ostraca.open(path) as checkpoint:
        assert checkpoint["a/x"][:2].tolist() == ["a", "bc"]
        assert checkpoint["a/x"][3] == "cd"
        for part in (2, 4, 5, slice(1, 3), slice(None, None, 3)):
            with pytest.raises(FormatError, match="'a/x': element"):
                checkpoint["a/x"][part]


def described(change: Callable[[bytearray, int], None]) -> Any:
    """Changes the strings' leaf in the index, of which the other leaf is the data."""

    def hook(stage: str, part: Any) -> None:
        if stage in ("index:directory", "p0:directory"):
            change(part, 64 + 40 * int.from_bytes(part[:8], "little"))

    return hook


def field(offset: int, value: bytes) -> Any:
    def change(part: bytearray, leaf: int) -> None:
        part[leaf + offset : leaf + offset + len(value)] = value

    return described(change)


DATA = 48  # the second leaf
LEAVES = {
    "data of another kind": field(DATA + 12, b"\x06"),
    "data of another dtype": field(DATA + 13, b"\x02"),
    "ends of another dtype": field(13, b"\x05"),
    "big-endian ends": field(14, b"\x01"),
    "unknown kind": field(12, b"\x0e"),
    "no strings": field(12, b"\x01"),  # then the data lie below another leaf
    "data that are strings": field(DATA + 12, b"\x0d"),
}


@pytest.mark.parametrize("name", LEAVES)
def test_leaves_that_do_not_agree(path: Path, name: str) -> None:
    stored(path, TEXT, "", [1, 2], b"ab", hook=LEAVES[name])
    with pytest.raises(FormatError):
        ostraca.load(path)
    with pytest.raises(reference.ReferenceReaderError):
        reference.load(path)
    assert reference.verify(path)


@pytest.mark.parametrize("detail", ["nan", "na=", "na=nan ", "strict  na=nan", "na=pd", "x"])
def test_unknown_details(path: Path, detail: str) -> None:
    stored(path, TEXT, detail, [1, 2], b"ab")
    with pytest.raises(FormatError, match="detail"):
        ostraca.load(path)
    with pytest.raises(reference.ReferenceReaderError, match="detail"):
        reference.load(path)


def test_byte_strings_have_no_detail(path: Path) -> None:
    stored(path, RAW, "na=nan", [1, 2], b"ab")
    with pytest.raises(FormatError, match="detail"):
        ostraca.load(path)
    with pytest.raises(reference.ReferenceReaderError, match="detail"):
        reference.load(path)


@pytest.mark.parametrize("order", ["without data", "data first", "another between", "a leaf below"])
def test_data_follow_their_strings(path: Path, order: str) -> None:
    ends, data = np.array([1, 2], "<u8"), np.frombuffer(b"ab", np.uint8)
    strings_leaf = ((1, "x"),), (TEXT, 9, 0, "", ends)
    data_leaf = ((1, "x"), (5, "data")), (1, 6, 0, "", data)
    other, below = (((1, "n"),), (1, 6, 0, "", data)), (((1, "x"), (5, "more")), (1, 6, 0, "", data))
    leaves = {
        "without data": [strings_leaf, other],
        "data first": [data_leaf, strings_leaf],
        "another between": [strings_leaf, other, data_leaf],
        "a leaf below": [strings_leaf, data_leaf, below],
    }[order]
    writer.write(path, writer.Leaves(leaves))
    with pytest.raises(FormatError):
        ostraca.load(path)
    with pytest.raises(reference.ReferenceReaderError):
        reference.load(path)
    assert reference.verify(path)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from([(TEXT, ""), (TEXT, "na=none"), (RAW, "")]),
    st.lists(st.one_of(st.integers(0, 9), st.integers(0, (1 << 64) - 1), st.just(2 | MISSING)), max_size=5),
    st.binary(max_size=9),
    st.slices(5),
)
def test_any_two_arrays(
    tmp_path_factory: Any, kind: tuple[int, str], ends: list[int], data: bytes, part: slice
) -> None:
    """Either all readers take them and agree, or all refuse them."""
    path = tmp_path_factory.mktemp("any") / "c"
    stored(path, *kind, ends, data)
    try:
        expected = reference.load(path)["a"]["x"]
    except reference.ReferenceReaderError:
        with pytest.raises(FormatError):
            ostraca.load(path)
        with ostraca.open(path) as checkpoint:
            try:
                checkpoint["a/x"][part]  # what is wrong may lie elsewhere
            except FormatError:
                return
    else:
        same(expected, ostraca.load(path)["a"]["x"])
        with ostraca.open(path) as checkpoint:
            same(expected[part], checkpoint["a/x"][part])
