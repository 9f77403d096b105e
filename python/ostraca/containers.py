"""Containers: what one holds, and another of its class with other children.

A dict, list or tuple is read and filled through the builtin class that stores its items, and a dataclass instance
through its attributes: methods that a subclass overrides (`__new__`, `update`, `__setitem__`, `__copy__`) may mean
something else there. A class that cannot be made again like this is refused, before anything is written.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Collection, Mapping, Sequence
from enum import IntEnum
from functools import cached_property, lru_cache
from types import MemberDescriptorType
from typing import Any, Final, NamedTuple, Protocol

from .errors import UnsupportedError


class Role(IntEnum):
    """What a node is; up to OBJECT the values are the types of the parts below it."""

    LEAF = 0
    DICT = 1
    LIST = 3
    TUPLE = 4
    OBJECT = 5
    PER_PROCESS = 6
    FRAMEWORK = 7  # a framework's own container


class Nodes(Protocol):
    """What a framework knows of its own containers."""

    def __contains__(self, kind: type) -> bool:
        """Whether instances of a class are containers that are opened and refilled as follows."""

    def is_leaf(self, kind: type) -> bool:
        """Whether instances of a class stay closed, whatever they are."""

    def open(self, node: Any) -> tuple[Role, Sequence[str | int], Sequence[Any]]:
        """What a node resembles (DICT, LIST or OBJECT), and the keys (of a LIST unused) and values of its children."""

    def refill(self, node: Any, values: Sequence[Any]) -> Any:
        """A node like this one, with other children."""


class PerProcess:
    """In a tree that several processes save together: a value of which each process stores its own.

    It is stored as a dict: process index -> value.
    """

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return f"ostraca.PerProcess({self.value!r})"


class Opened(NamedTuple):
    """A container and its children."""

    node: Any
    role: Role
    named_as: Role  # DICT, LIST, TUPLE or OBJECT: the parts of its children's key paths
    keys: Collection[Any]  # of a LIST or TUPLE: indices
    values: Collection[Any]


_TRUSTED: Final = frozenset((dict, list, tuple, defaultdict, PerProcess))  # need no check, and have no attributes
_STORES: Final = (OrderedDict, defaultdict, dict, list, tuple)  # builtin classes that keep their subclasses' items
_PLAIN: Final = (int, float, str, bytes, type(None))
_ADVICE: Final = {
    Role.DICT: "put dict() of it into the tree",
    Role.LIST: "put list() of it into the tree",
    Role.TUPLE: "put tuple() of it into the tree",
    Role.OBJECT: "put a dict of its fields into the tree",
    Role.FRAMEWORK: "what its class is registered with has to make again what it took apart",
}


def role_of(kind: type, nodes: Nodes | None) -> Role:
    """What instances of a class are."""
    if nodes is not None and nodes.is_leaf(kind):
        return Role.LEAF
    if nodes is not None and kind in nodes:
        return Role.FRAMEWORK
    if issubclass(kind, tuple):
        return Role.OBJECT if _is_namedtuple(kind) else Role.TUPLE
    if issubclass(kind, list):
        return Role.LIST
    if issubclass(kind, Mapping):
        return Role.DICT
    if kind is PerProcess:
        return Role.PER_PROCESS
    is_array = hasattr(kind, "__array_interface__") or hasattr(kind, "__dlpack__")
    return Role.OBJECT if hasattr(kind, "__dataclass_fields__") and not is_array else Role.LEAF


def opened(node: Any, role: Role, nodes: Nodes | None, process_index: int = 0) -> Opened:
    """A container's children, as views of it where its class is plain.

    Raises `UnsupportedError` (without the container's name) where they cannot be had.
    """
    if role is Role.FRAMEWORK:
        assert nodes is not None
        return Opened(node, role, *nodes.open(node))
    if role is Role.PER_PROCESS:
        return Opened(node, role, Role.DICT, (process_index,), (node.value,))
    if role is Role.DICT:
        return Opened(node, role, role, *_items(node))
    if role is Role.OBJECT:
        return Opened(node, role, role, *_fields(node))
    if type(node) is not list and type(node) is not tuple:
        node_values = list((tuple if role is Role.TUPLE else list).__iter__(node))
        return Opened(node, role, role, range(len(node_values)), node_values)
    return Opened(node, role, role, range(len(node)), node)


def check(container: Opened, nodes: Nodes | None) -> None:
    """Raises `UnsupportedError` for a container that cannot be made again."""
    kind = type(container.node)
    if kind in _TRUSTED or _is_plain_tuple(kind):  # type: ignore[arg-type]
        return
    if issubclass(kind, _STORES):
        _check_view(container)
    if issubclass(kind, _STORES) or container.role is Role.OBJECT:
        _check_attributes(container)
    remade(container, container.values, nodes)


def remade(container: Opened, values: Collection[Any], nodes: Nodes | None) -> Any:
    """A container like this one, with other children. `UnsupportedError` where its class does not let that be."""
    kind = type(container.node)
    if kind in _TRUSTED or _is_plain_tuple(kind):  # type: ignore[arg-type]
        return _made(container, values, nodes)
    try:
        twin = _made(container, values, nodes)
        again = opened(twin, container.role, nodes) if type(twin) is kind else None
    except Exception as error:  # whatever the class raises
        raise _refusal(container, f"{type(error).__name__}: {error}") from None
    if again is None:
        raise _refusal(container, f"that gives a {_name(type(twin))}")
    if list(again.keys) != list(container.keys) or not _same(values, again.values, container, nodes):
        raise _refusal(container, "that gives other items")
    if container.role is Role.DICT and not isinstance(twin, dict):
        lost = [
            name for name, value in _plain_attributes(container.node) if (name, value) not in _plain_attributes(twin)
        ]
        if lost:
            raise _refusal(container, f"its attribute {lost[0]!r} would be lost")
    return twin


def _made(container: Opened, values: Collection[Any], nodes: Nodes | None) -> Any:
    node, role, _, keys, _ = container
    kind = type(node)
    if role is Role.PER_PROCESS:
        return PerProcess(*values)
    if role is Role.FRAMEWORK:
        assert nodes is not None
        return nodes.refill(node, list(values))
    if role is Role.DICT:
        return _made_dict(container, dict(zip(keys, values, strict=True)))
    if isinstance(node, tuple):
        if kind is tuple:
            return tuple(values)
        try:
            return _with_attributes(tuple.__new__(kind, values), node)
        except TypeError:  # a class made in C, such as time.struct_time, has to be called
            return kind(values)
    if role is Role.LIST:
        filled = _with_attributes(list.__new__(kind), node)
        list.extend(filled, values)
        return filled
    filled = _with_attributes(object.__new__(kind), node)
    for name, value in zip(keys, values, strict=True):
        object.__setattr__(filled, name, value)
    return filled


def _made_dict(container: Opened, pairs: dict[Any, Any]) -> Any:
    node = container.node
    kind = type(node)
    if kind is dict:
        return pairs
    if not isinstance(node, dict):
        return kind(pairs)
    store = _store(kind)
    filled = _with_attributes(store.__new__(kind), node)
    for key, value in pairs.items():
        store.__setitem__(filled, key, value)
    mirrors = _mirrors(container)
    if mirrors:
        _instance_dict(filled).update({name: pairs[name] for name in mirrors})
    return filled


def _with_attributes(twin: Any, node: Any) -> Any:
    """The twin, with the attributes of a node, but for those that a `cached_property` will make again."""
    kind = type(node)
    attributes = _instance_dict(node)
    if attributes is node:  # a dict that is its own namespace
        object.__setattr__(twin, "__dict__", twin)
    elif attributes:
        kept = {name: value for name, value in attributes.items() if not _is_cached(kind, name)}
        object.__getattribute__(twin, "__dict__").update(kept)
    for member in _members(kind):  # type: ignore[arg-type]
        try:
            member.__set__(twin, member.__get__(node, kind))
        except AttributeError:  # not set
            continue
    return twin


def _check_view(container: Opened) -> None:
    """Whether a dict, list or tuple shows what it stores."""
    node = container.node
    try:
        shown = [part for pair in node.items() for part in pair] if isinstance(node, dict) else list(node)
    except Exception as error:  # whatever the class raises
        raise _refusal(container, f"{type(error).__name__}: {error}") from None
    stored = list(container.values)
    if isinstance(node, dict):
        stored = [part for pair in zip(container.keys, container.values, strict=True) for part in pair]
    if len(shown) != len(stored) or any(a is not b for a, b in zip(shown, stored, strict=True)):
        raise _refusal(container, "it shows other items than it stores")


def _check_attributes(container: Opened) -> None:
    """Whether the attributes beside a container's items are independent of these: they are kept as they are."""
    node, role, _, keys, values = container
    attributes = _instance_dict(node)
    if not attributes or attributes is node:
        return
    known = {*_mirrors(container), *(keys if role is Role.OBJECT else ())}
    children = {id(value) for value in values if not isinstance(value, _PLAIN)}
    for name, attribute in attributes.items():
        if name in known or _is_cached(type(node), name):
            continue
        inside = list(attribute.values()) if type(attribute) in (dict, OrderedDict) else attribute
        inside = list(inside) if type(inside) in (list, tuple, set) else [attribute]
        is_copy = len(inside) == len(values) > 1 and all(a is b for a, b in zip(inside, values, strict=True))
        if is_copy or any(id(each) in children for each in inside):
            raise _refusal(container, f"its attribute {name!r} holds its items, too")


def _mirrors(container: Opened) -> list[str]:
    """The instance attributes of a dict that are its items of the same name."""
    attributes = _instance_dict(container.node)
    if not attributes or attributes is container.node or not isinstance(container.node, dict):
        return []
    pairs = zip(container.keys, container.values, strict=True)
    return [key for key, value in pairs if isinstance(key, str) and key in attributes and attributes[key] is value]


def _items(node: Any) -> tuple[Collection[Any], Collection[Any]]:
    kind = type(node)
    if kind is dict:
        return node.keys(), node.values()
    if isinstance(node, dict):
        keys = list(_store(kind).__iter__(node))
        return keys, [dict.__getitem__(node, key) for key in keys]
    pairs = list(node.items())
    return [key for key, _ in pairs], [value for _, value in pairs]


def _fields(node: Any) -> tuple[Sequence[str], Sequence[Any]]:
    if isinstance(node, tuple):
        values = list(tuple.__iter__(node))
        names: tuple[str, ...] = type(node)._fields  # type: ignore[attr-defined]
        if len(names) != len(values):
            raise UnsupportedError(f"a {_name(type(node))} has {len(values)} items and {len(names)} fields")
        return names, values
    import dataclasses

    names = tuple(field.name for field in dataclasses.fields(node))
    try:
        return names, [getattr(node, name) for name in names]
    except AttributeError as error:
        raise UnsupportedError(f"a field of {type(node).__name__} is not set ({error})") from None


def _same(values: Collection[Any], again: Collection[Any], container: Opened, nodes: Nodes | None) -> bool:
    """Whether a container that was made of these values holds them."""
    if len(values) != len(again):
        return False
    different = [(a, b) for a, b in zip(values, again, strict=True) if a is not b]
    if not different:
        return True
    # Some classes (flax's FrozenDict) make other objects of what they hold whenever they are asked.
    anew = opened(container.node, container.role, nodes).values
    is_made_anew = all(a is not b for a, b in zip(container.values, anew, strict=True) if not isinstance(a, _PLAIN))
    return is_made_anew and all(type(a) is type(b) for a, b in different)


def _plain_attributes(node: Any) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in _instance_dict(node).items() if isinstance(value, _PLAIN)]


def _instance_dict(node: Any) -> dict[str, Any]:
    try:
        found = object.__getattribute__(node, "__dict__")
    except AttributeError:
        return {}
    return found if isinstance(found, dict) else {}


@lru_cache(maxsize=256)
def _members(kind: type) -> tuple[MemberDescriptorType, ...]:
    """The slots of a class, and what defaultdict keeps."""
    classes = [each for each in kind.__mro__ if "__slots__" in vars(each) or each is defaultdict]
    return tuple(member for each in classes for member in vars(each).values() if type(member) is MemberDescriptorType)


def _store(kind: type) -> Any:
    return next(store for store in _STORES if issubclass(kind, store))


def _is_namedtuple(kind: type) -> bool:
    fields = getattr(kind, "_fields", None)
    return isinstance(fields, tuple) and all(isinstance(name, str) for name in fields)


@lru_cache(maxsize=256)
def _is_plain_tuple(kind: type) -> bool:
    """Whether instances of a class are tuples and no more than that, as those of a namedtuple are."""
    if not issubclass(kind, tuple) or kind.__iter__ is not tuple.__iter__ or kind.__dictoffset__:
        return False
    try:
        return type(tuple.__new__(kind, ())) is kind
    except TypeError:
        return False


def _is_cached(kind: type, name: str) -> bool:
    return isinstance(getattr(kind, name, None), cached_property)


def _refusal(container: Opened, why: str) -> UnsupportedError:
    kind = _name(type(container.node))
    return UnsupportedError(f"a {kind} cannot be made again of its items ({why}); {_ADVICE[container.role]}")


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
