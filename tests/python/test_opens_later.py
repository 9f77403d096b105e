"""A writer whose directory somebody else makes: it copies before, and writes after it was opened."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ostraca
from ostraca import _core
from ostraca.leaves import specs
from ostraca.tree import flatten

MIB = 1 << 20
SECONDS = 60.0


def later(path: Path, tree: dict[str, Any], **options: Any) -> _core.Writer:
    """A writer that was given all of a tree."""
    writer = _core.Writer(str(path), opens_later=True, **options)
    writer.add(specs(flatten(tree)))
    writer.seal()
    return writer


def test_what_may_change_is_copied_before(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    numbers = {"large": np.arange(3 * MIB), "small": np.arange(7.0)}
    expected = {name: array.copy() for name, array in numbers.items()}
    writer = later(path, numbers, staging_bytes=128 * MIB)
    assert writer.wait_copied(SECONDS)
    assert not path.parent.exists()
    for array in numbers.values():
        array[:] = 0
    writer.open()
    assert [file.name.partition("-")[0] for file in sorted(path.iterdir())] == ["intent", "p00000"]
    _core.commit(str(path), [writer.finish()])
    for name, array in expected.items():
        np.testing.assert_array_equal(ostraca.load(path)[name], array)
    assert ostraca.verify(path, deep=True).ok


def test_what_the_budget_does_not_hold_waits(tmp_path: Path) -> None:
    tree = {"x": np.arange(8 * MIB)}
    writer = later(tmp_path / "x", tree, staging_bytes=16 * MIB)
    assert not writer.wait_copied(0.2)
    writer.open()
    assert writer.wait_copied(SECONDS)
    _core.commit(str(tmp_path / "x"), [writer.finish()])
    np.testing.assert_array_equal(ostraca.load(tmp_path / "x")["x"], tree["x"])


def test_the_file_is_the_same(tmp_path: Path) -> None:
    """Of a writer without a stage, too."""
    tree = {"x": np.random.default_rng(0).standard_normal(3 * MIB), "y": np.zeros(5), "z": np.float32(3)}
    attempt = "0" * 32
    for name, options in (("a", {}), ("b", {"opens_later": True}), ("c", {"opens_later": True, "staging_bytes": MIB})):
        writer = _core.Writer(str(tmp_path / name), attempt=attempt, **options)
        writer.add(specs(flatten(tree)))
        writer.seal()
        if options:
            writer.open()
        writer.finish()
    first, *others = ((tmp_path / name / f"p00000-{attempt}.ostraca").read_bytes() for name in "abc")
    assert all(other == first for other in others)


@pytest.mark.parametrize("how", ["abort", "cancel", "drop"])
def test_given_up_before_it_leaves_nothing(tmp_path: Path, how: str) -> None:
    writer = later(tmp_path / "x", {"x": np.arange(3 * MIB)}, staging_bytes=64 * MIB)
    if how == "cancel":
        writer.cancel()
        with pytest.raises(ostraca.CancelledError):
            writer.open()
    if how == "abort":
        writer.abort()
        with pytest.raises(ValueError, match="not after abort"):
            writer.open()
    del writer
    assert not list(tmp_path.iterdir())


def test_it_is_opened_once_and_before_it_is_finished(tmp_path: Path) -> None:
    writer = later(tmp_path / "x", {"x": np.ones(3)})
    with pytest.raises(ValueError, match="was not opened"):
        writer.finish()
    writer.open()
    with pytest.raises(ValueError, match="opened once"):
        writer.open()
    writer.finish()
    with pytest.raises(ValueError, match="opened once"):
        _core.Writer(str(tmp_path / "y")).open()


def test_where_there_is_a_checkpoint(tmp_path: Path) -> None:
    ostraca.save(tmp_path / "x", {"x": np.zeros(3)})
    writer = later(tmp_path / "x", {"x": np.ones(3)})
    with pytest.raises(ostraca.ExistsError):
        writer.open()
    writer.abort()
    np.testing.assert_array_equal(ostraca.load(tmp_path / "x")["x"], np.zeros(3))
