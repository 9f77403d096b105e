"""Arrays to fill that share memory: a MismatchError before anything is written, unless they shall hold the same."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided

import ostraca
from ostraca import MismatchError


def saved(path: Path, **arrays: Any) -> None:
    ostraca.save(path, arrays)


def read(path: Path, how: str, **targets: np.ndarray) -> None:
    if how == "into":
        ostraca.load(path, into=targets)
        return
    with ostraca.Reader(path) as reader:
        reader.read_into([(name, None, array) for name, array in targets.items()])


both = pytest.mark.parametrize("how", ["into", "read_into"])


@both
def test_one_array_for_two_leaves(path: Path, how: str) -> None:
    saved(path, a=np.arange(4.0), b=np.arange(4.0) + 10)
    x = np.full(4, -1.0)
    with pytest.raises(MismatchError, match="'a' and 'b' share memory"):
        read(path, how, a=x, b=x)
    assert (x == -1).all()


@both
def test_tied_leaves_may_share(path: Path, how: str) -> None:
    saved(path, a=np.arange(4.0), b=np.arange(4.0), c=np.zeros(0))
    x, empty = np.zeros(4), np.zeros(0)
    read(path, how, a=x, b=x.view(), c=empty)
    assert (x == np.arange(4)).all()
    large = np.arange(300_000.0)
    ostraca.save(path, {"a": large, "b": large, "c": large + 1}, overwrite=True)
    x = np.zeros(300_000)
    read(path, how, a=x, b=x, c=np.zeros(300_000))
    assert (x == large).all()
    with pytest.raises(MismatchError, match="'b' and 'c' share memory"):
        read(path, how, a=np.zeros(300_000), b=x, c=x)


@both
def test_part_of_another(path: Path, how: str) -> None:
    saved(path, a=np.arange(6.0), b=np.arange(3.0))
    x = np.full(6, -1.0)
    for part in (x[:3], x[3:], x[::2], x[::-2]):
        with pytest.raises(MismatchError, match="'a' and 'b' share memory"):
            read(path, how, a=x, b=part)
    assert (x == -1).all()
    y = np.zeros((6, 2))
    read(path, how, a=y[:, 0], b=y[::2, 1])
    assert (y[:, 0] == np.arange(6)).all() and (y[::2, 1] == np.arange(3)).all() and (y[1::2, 1] == 0).all()


@both
def test_elements_of_one_array(path: Path, how: str) -> None:
    saved(path, a=np.arange(6.0).reshape(3, 2))
    memory = np.full(4, -1.0)
    for strides in ((8, 8), (0, 8), (16, 0)):
        with pytest.raises(MismatchError, match=r"'a'.*share memory"):
            read(path, how, a=as_strided(memory, (3, 2), strides)[...])
    assert (memory == -1).all()


def test_boxes_of_one_array(path: Path) -> None:
    saved(path, a=np.arange(6.0))
    x = np.full(3, -1.0)
    with ostraca.Reader(path) as reader:
        with pytest.raises(MismatchError, match="share memory"):
            reader.read_into([("a", (0,), x), ("a", (3,), x)])
        assert (x == -1).all()
        reader.read_into([("a", (3,), x), ("a", (3,), x)])
    assert (x == [3, 4, 5]).all()


@st.composite
def views(draw: st.DrawFn) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """Offset, shape and strides of an int8 array in 64 bytes, which may go backwards, repeat and interleave."""
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    strides = tuple(draw(st.integers(-6, 6)) for _ in shape)
    low = sum(min(0, stride * (size - 1)) for size, stride in zip(shape, strides, strict=True))
    high = sum(max(0, stride * (size - 1)) for size, stride in zip(shape, strides, strict=True))
    return draw(st.integers(-low, 63 - high)), shape, strides


def addresses(view: tuple[int, tuple[int, ...], tuple[int, ...]]) -> list[int]:
    begin, shape, strides = view
    return [begin + sum(i * s for i, s in zip(index, strides, strict=True)) for index in np.ndindex(shape)]


@settings(max_examples=200, deadline=None)
@example([(0, (4,), (2,)), (1, (4,), (2,))], False)
@example([(0, (3, 3), (2, 3))], False)
@given(st.lists(views(), min_size=1, max_size=4), st.booleans())
def test_generated_overlaps(tmp_path_factory: pytest.TempPathFactory, cuts: list[Any], by_load: bool) -> None:
    path = tmp_path_factory.mktemp("overlap") / "checkpoint"
    stored = {f"x{i}": np.full(shape, i + 1, np.int8) for i, (_, shape, _) in enumerate(cuts)}
    ostraca.save(path, stored)
    memory = np.zeros(64, np.int8)
    targets = {
        name: as_strided(memory[begin:], shape, strides)
        for name, (begin, shape, strides) in zip(stored, cuts, strict=True)
    }
    used = [address for view in cuts for address in addresses(view)]
    if len(set(used)) == len(used):
        read(path, "into" if by_load else "read_into", **targets)
        for name, array in stored.items():
            np.testing.assert_array_equal(targets[name], array)
    else:
        with pytest.raises(MismatchError, match="share memory"):
            read(path, "into" if by_load else "read_into", **targets)
        assert not memory.any()
