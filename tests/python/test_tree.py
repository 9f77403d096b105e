"""Trees to leaves and back: identities, names, and what is refused."""

import collections
import dataclasses
import types
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from ostraca import FormatError, UnsupportedError
from ostraca.tree import Flattener, Kind, encode_path, flatten, unflatten
from trees import Nothing, Point, State, same, trees

VALUES = {Kind.EMPTY_DICT: {}, Kind.EMPTY_LIST: [], Kind.EMPTY_TUPLE: ()}


def parts(path: bytes) -> tuple[tuple[int, str | int], ...]:
    """Decodes a key path as docs/format.md, section 5, says."""
    out: list[tuple[int, str | int]] = []
    while path:
        kind, path = path[0], path[1:]
        if kind in (1, 5):
            size = int.from_bytes(path[:4], "little")
            out.append((kind, path[4 : 4 + size].decode()))
            path = path[4 + size :]
        else:
            out.append((kind, int.from_bytes(path[:8], "little", signed=kind == 2)))
            path = path[8:]
    return tuple(out)


def through(tree: Any) -> Any:
    leaves = flatten(tree)
    return unflatten(
        [(parts(path), name, VALUES[leaf] if isinstance(leaf, Kind) else leaf) for path, name, leaf in leaves]
    )


def rebuild(tree: Any, values: Any) -> Any:
    walk = Flattener()
    walk.flatten(tree)
    return walk.rebuild(values)


@given(trees)
def test_round_trip(tree: Any) -> None:
    same(tree, through(tree))
    for path, _, _ in flatten(tree):
        assert encode_path(parts(path)) == path


@given(trees)
def test_names_are_unique(tree: Any) -> None:
    names = [name for _, name, _ in flatten(tree)]
    assert len(set(names)) == len(names)


def test_names() -> None:
    tree = {"a/b": 1, "a": {"b": 2, "~": 3}, 7: [4, (5,)], "p": Point(6, {}), "s": State(8), "": {"": 9}, "é": 10}
    assert {name: leaf for _, name, leaf in flatten(tree)} == {
        "a~1b": 1, "a/b": 2, "a/~0": 3, "7/0": 4, "7/1/0": 5, "p/x": 6, "p/y": Kind.EMPTY_DICT,
        "s/params": 8, "s/step": 0, "/": 9, "é": 10,
    }  # fmt: skip


def test_one_leaf_is_a_tree() -> None:
    assert flatten(3) == [(b"", "", 3)]
    assert flatten({}) == [(b"", "", Kind.EMPTY_DICT)]
    assert unflatten([((), "", 3)]) == 3


def test_other_containers() -> None:
    tree = {
        "ordered": collections.OrderedDict(b=1, a=2),
        "default": collections.defaultdict(list, x=1),
        "proxy": types.MappingProxyType({"k": 1}),
        "numpy key": {np.int32(5): 1},
    }
    back = through(tree)
    assert back == {"ordered": {"b": 1, "a": 2}, "default": {"x": 1}, "proxy": {"k": 1}, "numpy key": {5: 1}}
    assert list(back["ordered"]) == ["b", "a"]


def test_deep_tree() -> None:
    deep: dict[str, Any] = {}
    node = deep
    for _ in range(5_000):
        node["k"] = [{}]
        node = node["k"][0]
    node["leaf"] = 1
    with pytest.raises(UnsupportedError, match="65536 bytes"):
        flatten(deep)
    deep = {"leaf": 1}
    for _ in range(4_000):
        deep = {"k": [deep]}
    leaves = flatten(deep)
    assert leaves[0][1].count("/") == 8_000
    node = unflatten([(parts(leaves[0][0]), leaves[0][1], 1)])
    for _ in range(4_000):
        node = node["k"][0]
    assert node == {"leaf": 1}
    node = rebuild(deep, iter([2]))
    for _ in range(4_000):
        node = node["k"][0]
    assert node == {"leaf": 2}


@pytest.mark.parametrize("key", [True, 1.5, None, b"x", (1, 2), frozenset()])
def test_other_keys_are_refused(key: Any) -> None:
    with pytest.raises(UnsupportedError, match=rf"'top' has the key .* of type {type(key).__name__}"):
        flatten({"top": {key: 1}})


def test_large_and_broken_keys_are_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"'x'.* beyond 64 bits"):
        flatten({"x": {1 << 63: 1}})
    with pytest.raises(UnsupportedError, match="not valid Unicode"):
        flatten({"\ud800": 1})
    assert flatten({-(1 << 63): 1})[0][1] == str(-(1 << 63))


def test_colliding_names_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="'a/1'"):
        flatten({"a": {1: 0, "1": 0}})
    flatten({"a": {1: 0, "01": 0}})


def test_cycles_are_refused() -> None:
    loop: dict[str, Any] = {"x": [1]}
    loop["x"].append(loop)
    with pytest.raises(UnsupportedError, match="'x/1' contains itself"):
        flatten(loop)
    shared = [1]
    assert len(flatten({"a": shared, "b": shared})) == 2


def test_unset_dataclass_field_is_refused() -> None:
    @dataclasses.dataclass
    class Late:
        x: int = dataclasses.field(init=False)

    with pytest.raises(UnsupportedError, match="'a': a field of Late is not set"):
        flatten({"a": Late()})


def test_holes_become_dicts() -> None:
    leaves = [(((1, "l"), (3, 2)), "l/2", "c"), (((1, "t"), (4, 0)), "t/0", "a"), (((1, "t"), (4, 3)), "t/3", "d")]
    assert unflatten(leaves) == {"l": {2: "c"}, "t": {0: "a", 3: "d"}}
    assert unflatten([(((3, 1),), "1", "b"), (((3, 0),), "0", "a")]) == ["a", "b"]


@pytest.mark.parametrize(
    "leaves",
    [
        [((), "", 1), (((1, "a"),), "a", 2)],
        [(((1, "a"),), "a", 1), ((), "", 2)],
        [(((1, "a"),), "a", 1), (((3, 0),), "0", 2)],
        [(((1, "a"),), "a", 1), (((1, "a"), (1, "b")), "a/b", 2)],
        [(((1, "a"), (1, "b")), "a/b", 2), (((1, "a"),), "a", 1)],
        [(((9, "a"),), "a", 1)],
    ],
)
def test_contradicting_paths(leaves: list[Any]) -> None:
    with pytest.raises(FormatError):
        unflatten(leaves)


def test_rebuild_keeps_classes() -> None:
    default = collections.defaultdict(list, x=1)
    tree = {"p": Point(1, Nothing()), "s": State([1, ()]), "d": default, "m": types.MappingProxyType({"k": 1})}
    built = rebuild(tree, iter(range(10)))
    assert built["p"] == Point(0, Nothing()) and type(built["p"].y) is Nothing
    assert built["s"] == State([2, ()], 4)
    assert built["d"] == {"x": 5} and built["d"].default_factory is list and default == {"x": 1}
    assert built["m"] == {"k": 6} and type(built["m"]) is types.MappingProxyType
