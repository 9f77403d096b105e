"""What `select=` and the command line's globs mean."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ostraca
from ostraca.cli import main

TREE = {"layer[0]": {"w": 1, "b[1]": 2}, "layer0": {"w": 3, "b1": 4}, "*": 5, "a?": {"x": 6}, "ab": {"x": 7}}


def names(tree: Any, above: str = "") -> list[str]:
    if not isinstance(tree, dict):
        return [above]
    return [name for key, child in tree.items() for name in names(child, f"{above}/{key}" if above else key)]


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ("layer[0]/*", ["layer[0]/w", "layer[0]/b[1]"]),
        ("layer[0]/w", ["layer[0]/w"]),
        ("layer[0]/b[1]", ["layer[0]/b[1]"]),
        ("layer[0]*", ["layer[0]/w", "layer[0]/b[1]"]),
        ("*b[1]", ["layer[0]/b[1]"]),
        ("*", ["*"]),
        ("a?/*", ["a?/x"]),
        ("layer[0-9]/w", ["layer0/w"]),
        ("layer[[]0]/w", ["layer[0]/w"]),
        ("layer?/[!b]*", ["layer0/w"]),
        ("*/w", ["layer[0]/w", "layer0/w"]),
        ("ab/x", ["ab/x"]),
    ],
)
def test_names_win_over_patterns(path: Path, select: str, expected: list[str]) -> None:
    ostraca.save(path, TREE)
    assert names(ostraca.load(path, select=select)) == expected


def test_without_the_name_it_is_a_pattern(path: Path) -> None:
    ostraca.save(path, {"layer0": {"w": 3}, "layer1": {"w": 4}})
    assert ostraca.load(path, select="layer[0]/*") == {"layer0": {"w": 3}}
    with pytest.raises(ostraca.MismatchError, match="chose none"):
        ostraca.load(path, select="layer[2]/*")


def test_the_command_line_means_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ostraca.save(tmp_path / "a", TREE)
    ostraca.save(tmp_path / "b", {**TREE, "layer0": {"w": 30, "b1": 4}})
    assert main(["inspect", str(tmp_path / "a"), "layer[0]/*"]) == 0
    output = capsys.readouterr().out
    assert "layer[0]/w" in output and "layer0/w" not in output
    assert main(["diff", str(tmp_path / "a"), str(tmp_path / "b"), "layer[0]/*"]) == 0


@given(st.dictionaries(st.text("ab[]*?!-0", min_size=1, max_size=6), st.integers(), min_size=1, max_size=4))
def test_every_name_selects_itself(tmp_path_factory: pytest.TempPathFactory, tree: dict[str, int]) -> None:
    path = tmp_path_factory.mktemp("patterns") / "checkpoint"
    ostraca.save(path, tree)
    for name, value in tree.items():
        assert ostraca.load(path, select=name) == {name: value}
