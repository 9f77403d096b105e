"""`ostraca.sharded.calls`: which arguments make two calls alike. Whatever they are, a process can say its call."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ostraca
from ostraca.sharded.calls import ALL_METADATA, Call

NAMES = ("step", "base", "parent", "codec", "chunk_shape", "overwrite", "metadata")
JUNK = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.lists(st.integers()))


def save(path: Any = "run/1", **options: Any) -> Call:
    return Call.of_save({"path": path, "codec": "auto", **options})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"path": "run/1"}, {"path": Path("run/1")}),
        ({"path": "run/1"}, {"path": os.path.abspath("run/1") + "/"}),  # noqa: PTH100
        ({"step": 3}, {"step": np.int64(3)}),
        ({"chunk_shape": [4, 5]}, {"chunk_shape": (np.int32(4), 5)}),
        ({"base": "run/0"}, {"base": Path("run/0/")}),
        ({"threads": 1, "io": "direct", "coding_bytes": 5, "progress": True}, {}),
        ({"metadata": {"loss": 1.0}}, {"metadata": {"loss": 2.0}}),
    ],
)
def test_alike(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert save(**one).text == save(**other).text


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"path": "run/1"}, {"path": "run/2"}),
        ({"step": 0}, {}),
        ({"step": 1}, {"step": 2}),
        ({"base": "run/0"}, {"base": "run/2"}),
        ({"base": "run/0"}, {}),
        ({"codec": "raw"}, {}),
        ({"chunk_shape": (4, 5)}, {"chunk_shape": (5, 4)}),
        ({"overwrite": True}, {}),
        ({"parent": "1" * 32}, {}),
    ],
)
def test_not_alike(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert save(**one).text != save(**other).text
    assert save(**one).text != Call.of_load(one.get("path", "run/1")).text


def test_a_snapshot_is_the_base_that_it_is_of(tmp_path: Path) -> None:
    ostraca.save(tmp_path / "0", {"a": 1})
    with ostraca.BaseSnapshot(tmp_path / "0") as snapshot:
        assert save(base=snapshot).text == save(base=tmp_path / "0").text
        assert "base='0'" in save(base=snapshot).text


def test_metadata_by_key() -> None:
    one, other = (save(metadata={"loss": loss, "epoch": 3}).metadata for loss in (1.0, 2.0))
    assert one["epoch"] == other["epoch"] and one["loss"] != other["loss"]
    assert save(metadata=None).metadata.keys() == save(metadata=[1]).metadata.keys() == {ALL_METADATA}


@given(path=JUNK, values=st.lists(JUNK, min_size=len(NAMES), max_size=len(NAMES)))
def test_a_call_can_always_be_said(path: Any, values: list[Any]) -> None:
    """What is wrong with it is an error when all have made it."""
    call = Call.of_save({"path": path, **dict(zip(NAMES, values, strict=True))})
    assert call.text.startswith("save(") and call.what.startswith("the save to ")
    assert Call.of_load(path, cast=values[0], missing=values[1]).text.startswith("load(")


def test_an_array_of_floats_is_no_step() -> None:
    assert "step=" in save(step=np.array(1.5)).text
