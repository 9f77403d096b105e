"""Containers of any class: `load(like=t)` gives `t` in value and type, or `t` is refused before a byte is written.

Methods that a class overrides have another meaning there; no walk relies on them.
"""

import collections
import dataclasses
import functools
import time
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ostraca
from ostraca import UnsupportedError


def back(path: Path, tree: Any) -> Any:
    ostraca.save(path, tree, overwrite=True)
    return ostraca.load(path, like=tree)


# --- The classes that were met first --------------------------------------------------------------------------------


def test_counter_does_not_double(path: Path) -> None:
    milestones = collections.Counter({30: 1, 80: 2})  # as in torch's MultiStepLR
    loaded = back(path, {"milestones": milestones})["milestones"]
    assert loaded == milestones and type(loaded) is collections.Counter
    assert ostraca.load(path, into={"milestones": milestones})["milestones"] == milestones


class Scaled(tuple):
    """Its __new__ takes other arguments than tuple's."""

    def __new__(cls, scale: int, *items: Any) -> "Scaled":
        return super().__new__(cls, [scale * item for item in items])


class Interval(collections.namedtuple("Interval", "low high")):
    """A namedtuple whose __new__ takes a middle and a width."""

    def __new__(cls, middle: float, width: float) -> "Interval":
        return super().__new__(cls, middle - width / 2, middle + width / 2)


def test_tuples_with_their_own_new(path: Path) -> None:
    tree = {"scaled": Scaled(10, 1, 2, 3), "interval": Interval(5.0, 2.0)}
    loaded = back(path, tree)
    assert loaded == tree and type(loaded["scaled"]) is Scaled and type(loaded["interval"]) is Interval


class Frozen(dict):
    """A dict that nobody changes."""

    def update(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("a Frozen does not change")

    def __setitem__(self, key: Any, value: Any) -> None:
        raise TypeError("a Frozen does not change")


def test_dict_that_refuses_changes(path: Path) -> None:
    tree = Frozen(a=1, b=Frozen(c=2))
    loaded = back(path, tree)
    assert loaded == tree and type(loaded) is Frozen and type(loaded["b"]) is Frozen


class Namespace(dict):
    """A dict whose items are its attributes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.__dict__ = self


class Output(collections.OrderedDict):
    """An OrderedDict whose items are attributes, too."""

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        self.__dict__[key] = value


def test_items_that_are_attributes(path: Path) -> None:
    tree = {"namespace": Namespace(x=np.zeros(2)), "output": Output(logits=np.ones(3))}
    tree["output"].move_to_end("logits")
    ostraca.save(path, {"namespace": {"x": np.full(2, 5.0)}, "output": {"logits": np.full(3, 7.0)}})
    loaded = ostraca.load(path, like=tree)
    assert loaded["namespace"].x is loaded["namespace"]["x"] and loaded["namespace"].x[0] == 5
    assert loaded["output"].logits is loaded["output"]["logits"] and loaded["output"].logits[0] == 7
    assert tree["namespace"].x[0] == 0


def test_order_and_attributes_are_kept(path: Path) -> None:
    tree = collections.OrderedDict(a=1, b=2, c=3)
    tree._metadata = {"version": 1}  # as torch's state_dict has
    assert back(path, tree)._metadata == {"version": 1}
    tree.move_to_end("a")
    assert list(back(path, tree).items()) == [("b", 2), ("c", 3), ("a", 1)]


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    value: Any
    twice: Any = dataclasses.field(init=False, default=0)


@dataclasses.dataclass
class Cached:
    scale: dataclasses.InitVar[int]
    value: Any = None

    def __post_init__(self, scale: int) -> None:
        self.value = self.value * scale

    @functools.cached_property
    def total(self) -> Any:
        return self.value.sum()


def test_dataclasses(path: Path) -> None:
    slotted = Slotted(1)
    object.__setattr__(slotted, "twice", 2)
    assert back(path, {"s": slotted})["s"] == slotted
    cached = Cached(2, np.ones(3))
    assert cached.total == 6
    ostraca.save(path, {"c": {"value": np.full(3, 10.0)}}, overwrite=True)
    loaded = ostraca.load(path, like={"c": cached})["c"]
    assert type(loaded) is Cached and loaded.total == 30 and cached.total == 6


def test_classes_made_in_c(path: Path) -> None:
    now = time.gmtime(0)
    loaded = back(path, {"now": now, "proxy": types.MappingProxyType({"a": 1})})
    assert loaded["now"] == now and type(loaded["now"]) is time.struct_time
    assert loaded["proxy"] == {"a": 1} and type(loaded["proxy"]) is types.MappingProxyType


class Settings(Mapping[str, Any]):
    """A Mapping that is made of other things than its items."""

    def __init__(self, name: str, **items: Any) -> None:
        self.name, self._items = name, items

    def __getitem__(self, key: str) -> Any:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)


class Tagged(collections.UserDict):
    tag = "none"


class Listed(list):
    """A list that keeps its items in another place, too."""

    def __init__(self, items: Any) -> None:
        super().__init__(items)
        self.storage = list(items)


class Backwards(list):
    def __iter__(self) -> Iterator[Any]:
        return reversed([*super().__iter__()])


class Extended(NamedTuple("Extended", [("a", int), ("b", int)])):
    def __new__(cls, *items: int) -> "Extended":
        return tuple.__new__(cls, items)


def _with_alias() -> collections.OrderedDict:
    node = collections.OrderedDict(a=np.ones(1))
    node.alias = node["a"]
    return node


def _tagged() -> Tagged:
    node = Tagged(a=1)
    node.tag = "mine"
    return node


@pytest.mark.parametrize(
    "node",
    [Settings("s", a=1), _tagged(), _with_alias(), Listed([np.ones(1), 2]), Backwards([1, 2]), Extended(1, 2, 3)],
    ids=lambda node: type(node).__name__,
)
@pytest.mark.parametrize("save", [ostraca.save, ostraca.save_async])
def test_what_cannot_be_made_again_is_refused_by_name(path: Path, node: Any, save: Callable[..., Any]) -> None:
    with pytest.raises(UnsupportedError, match=rf"'top/node': a .*{type(node).__name__}"):
        save(path, {"top": {"node": node}})
    assert not path.exists()


# --- Generated classes ----------------------------------------------------------------------------------------------


def _raises(*_: Any, **__: Any) -> Any:
    raise TypeError("this class does not want that")


def _nothing(*_: Any, **__: Any) -> Any:
    return None


def _twice(self: Any, *args: Any, **kwargs: Any) -> Any:
    return [*args, *args]


def _own_new(cls: type, *, of: Any = ()) -> Any:
    raise TypeError("call another constructor")


OVERRIDES: dict[str, list[Any]] = {
    "__init__": [_raises, _nothing],
    "__new__": [_own_new, _raises],
    "__copy__": [_raises, _twice],
    "__deepcopy__": [_raises],
    "__reduce__": [_raises],
    "__reduce_ex__": [_raises, _twice],
    "__setattr__": [_raises, _nothing],
    "__setitem__": [_raises, _nothing],
    "__setstate__": [_raises],
    "__eq__": [_raises],
    "__len__": [lambda self: 0],
    "__bool__": [lambda self: False, _raises],
    "__contains__": [_raises],
    "__repr__": [_raises],
    "__getitem__": [_raises],
    "__iter__": [_raises, lambda self: iter(())],
    "items": [_raises, lambda self: [("x", 1)]],
    "keys": [_raises],
    "values": [_raises, lambda self: [0]],
    "update": [_raises, _nothing],
    "append": [_raises],
    "extend": [_raises, _twice],
    "copy": [_raises, _twice],
    "_replace": [_raises],
    "_make": [_raises],
    "_asdict": [_raises],
}
STORES: dict[type, Any] = {
    dict: dict,
    collections.OrderedDict: collections.OrderedDict,
    collections.defaultdict: collections.defaultdict,
    collections.Counter: dict,
    list: list,
    tuple: tuple,
}
children = st.one_of(st.integers(), st.text(max_size=3), st.integers(1, 3).map(np.arange))


@st.composite
def nodes(draw: st.DrawFn) -> Any:
    """An instance of a new class: a builtin one, namedtuple or dataclass, with methods overridden, and attributes."""
    overrides = draw(st.lists(st.sampled_from(sorted(OVERRIDES)), max_size=4, unique=True))
    namespace = {name: draw(st.sampled_from(OVERRIDES[name])) for name in overrides}
    items = draw(st.lists(children, min_size=1, max_size=3))
    base = draw(st.sampled_from([*STORES, "namedtuple", "dataclass"]))
    if base == "namedtuple":
        plain = collections.namedtuple("plain", [f"f{i}" for i in range(len(items))])
        return tuple.__new__(type("Generated", (plain,), namespace), items)
    if base == "dataclass":
        options = draw(st.fixed_dictionaries({"frozen": st.booleans(), "slots": st.booleans(), "eq": st.booleans()}))
        fields = [(f"f{i}", Any, dataclasses.field(init=draw(st.booleans()), default=None)) for i in range(len(items))]
        clash = {"__init__", "__eq__", "__repr__", "__setattr__", "__reduce__", "__reduce_ex__", "__setstate__"}
        kind = dataclasses.make_dataclass(
            "Generated",
            fields,
            namespace={name: value for name, value in namespace.items() if name not in clash},
            **options,
        )
        node = object.__new__(kind)
        for (name, *_), item in zip(fields, items, strict=True):
            object.__setattr__(node, name, item)
        return node
    kind = type("Generated", (base,), namespace)
    store = STORES[base]
    if store is tuple:
        node = tuple.__new__(kind, items)
    elif store is list:
        node = list.__new__(kind)
        list.extend(node, items)
    else:
        node = store.__new__(kind)
        for i, item in enumerate(items):
            store.__setitem__(node, f"k{i}", item)
    for name, value in draw(st.dictionaries(st.sampled_from(["tag", "k0", "f9"]), children, max_size=2)).items():
        object.__setattr__(node, name, value)
    return node


def held(node: Any) -> list[Any]:
    """What a node holds, by its builtin class: keys, items, attributes."""
    if isinstance(node, dict):
        store = next(store for store in (collections.OrderedDict, dict) if isinstance(node, store))
        keys = list(store.__iter__(node))
        parts = [*keys, *(dict.__getitem__(node, key) for key in keys)]
    elif isinstance(node, list | tuple):
        parts = list((list if isinstance(node, list) else tuple).__iter__(node))
    else:
        parts = [object.__getattribute__(node, field.name) for field in dataclasses.fields(node)]
    attributes = getattr(node, "__dict__", {})
    return [*parts, *sorted(attributes), *(attributes[name] for name in sorted(attributes))]


def alike(a: Any, b: Any) -> bool:
    return type(a) is type(b) and (np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b)


@settings(max_examples=200, deadline=None)
@given(node=nodes())
def test_generated_classes(tmp_path_factory: pytest.TempPathFactory, node: Any) -> None:
    path = tmp_path_factory.mktemp("generated") / "checkpoint"
    try:
        ostraca.save(path, {"node": node})
    except UnsupportedError as error:
        assert "'node': a " in str(error) and not path.exists()
        return
    loaded = ostraca.load(path, like={"node": node})["node"]
    assert type(loaded) is type(node) and loaded is not node
    assert len(held(loaded)) == len(held(node))
    assert all(map(alike, held(loaded), held(node)))
