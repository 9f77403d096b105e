"""Trees and their leaves: containers to key paths and names, and back (docs/format.md, section 5).

Containers are dicts and other Mappings, lists, tuples, and objects: namedtuples and dataclass instances. Everything
else is a leaf, and so is a container without children. No walk recurses: depth is bounded by the key path's length.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from struct import Struct
from typing import Any, Final

from .errors import FormatError, UnsupportedError

MAX_PATH_BYTES: Final = 64 << 10
_INT64: Final = range(-(1 << 63), 1 << 63)

Path = tuple[tuple[int, str | int], ...]  # (part type, key) from the root
Leaf = tuple[bytes, str, Any]  # encoded key path, display name, value


class Kind(IntEnum):
    """What a leaf is (docs/format.md, section 6)."""

    ARRAY = 1
    PRNG_KEY = 2
    INT = 3
    FLOAT = 4
    BOOL = 5
    STR = 6
    BYTES = 7
    NONE = 8
    EMPTY_DICT = 9
    EMPTY_LIST = 10
    EMPTY_TUPLE = 11


class _Role(IntEnum):
    """What a node is; the values of the containers are the types of the parts below them."""

    LEAF = 0
    DICT = 1
    LIST = 3
    TUPLE = 4
    OBJECT = 5


_EMPTY: Final = {
    _Role.DICT: Kind.EMPTY_DICT,
    _Role.LIST: Kind.EMPTY_LIST,
    _Role.TUPLE: Kind.EMPTY_TUPLE,
    _Role.OBJECT: Kind.EMPTY_DICT,
}
_INT_KEY: Final = 2
_CONTAINERS: Final = {1: _Role.DICT, 2: _Role.DICT, 3: _Role.LIST, 4: _Role.TUPLE, 5: _Role.OBJECT}

_text_part: Final = Struct("<BI").pack
_int_part: Final = Struct("<Bq").pack
_index_part: Final = Struct("<BQ").pack


class _Roles(dict[type, _Role]):
    """Remembers what the types met on a walk are."""

    def __missing__(self, kind: type) -> _Role:
        role = self[kind] = _role_of(kind)
        return role


class _Flattener:
    """One walk: remembers what types are and how string keys are written."""

    def __init__(self) -> None:
        self._roles = _Roles()
        self._texts: dict[int, dict[str, tuple[bytes, str]]] = {1: {}, 5: {}}  # by the part's type

    def flatten(self, tree: Any) -> list[Leaf]:
        leaves: list[Leaf] = []
        above: set[int] = set()  # ids of the containers that the walk is in
        stack: list[Leaf | tuple[None, str, Any]] = [(b"", "", tree)]
        while stack:
            path, name, node = stack.pop()
            if path is None:  # the end of a container
                above.remove(id(node))
                continue
            if len(path) > MAX_PATH_BYTES:
                raise UnsupportedError(f"{quoted(name)}: its key path takes more than {MAX_PATH_BYTES} bytes")
            role = self._roles[type(node)]
            if not role:
                leaves.append((path, name, node))
                continue
            children = self._children(node, role, path, name)
            if not children:
                leaves.append((path, name, _EMPTY[role]))
                continue
            if id(node) in above:
                raise UnsupportedError(f"{quoted(name)} contains itself; a tree cannot have cycles")
            first = self._leading_leaves(children)
            leaves += children[:first]
            if first == len(children):
                continue
            above.add(id(node))
            stack.append((None, "", node))
            stack += reversed(children[first:])
        return leaves

    def _leading_leaves(self, children: list[Leaf]) -> int:
        """How many children need no visit before the first that does."""
        roles = self._roles
        for i, (path, _, child) in enumerate(children):
            if roles[type(child)] or len(path) > MAX_PATH_BYTES:
                return i
        return len(children)

    def _children(self, node: Any, role: _Role, path: bytes, name: str) -> list[Leaf]:
        prefix = name + "/" if path else ""
        if role is _Role.DICT:
            return self._dict_children(node, path, name, prefix)
        if role is _Role.OBJECT:
            parts = [(self._text(5, field, name), child) for field, child in _fields(node, name)]
            return [(path + part, prefix + label, child) for (part, label), child in parts]
        return [(path + _index_part(role, i), f"{prefix}{i}", child) for i, child in enumerate(node)]

    def _dict_children(self, node: Mapping[Any, Any], path: bytes, name: str, prefix: str) -> list[Leaf]:
        children: list[Leaf] = []
        has_ints = False
        texts = self._texts[1]
        for key, child in node.items():
            if type(key) is str:
                part, label = texts.get(key) or self._text(1, key, name)
            elif isinstance(key, str):
                part, label = self._text(1, str.__str__(key), name)
            else:
                part, label = _integer(key, name)
                has_ints = True
            children.append((path + part, prefix + label, child))
        if has_ints and len({label for _, label, _ in children}) < len(children):
            labels = [label for _, label, _ in children]
            twice = next(label for label in labels if labels.count(label) > 1)
            raise UnsupportedError(f"two leaves or more would be named {twice!r}: an int and a str key; rename one")
        return children

    def _text(self, kind: int, key: str, name: str) -> tuple[bytes, str]:
        known = self._texts[kind].get(key)
        if known is None:
            try:
                data = key.encode()
            except UnicodeEncodeError:
                raise UnsupportedError(f"{quoted(name)} has the key {key!r:.80}, which is not valid Unicode") from None
            label = key.replace("~", "~0").replace("/", "~1") if "~" in key or "/" in key else key
            known = self._texts[kind][key] = (_text_part(kind, len(data)) + data, label)
        return known


def flatten(tree: Any) -> list[Leaf]:
    """The leaves of a tree, in its order. An empty container's value is its `Kind`.

    Raises `UnsupportedError`, naming the place, for keys other than str and int (of 64 bits), for keys or names that
    collide, for cycles, and for paths that are too long.
    """
    return _Flattener().flatten(tree)


def encode_path(parts: Iterable[tuple[int, str | int]]) -> bytes:
    """A key path from its parts."""
    chunks = []
    for kind, key in parts:
        if isinstance(key, str):
            data = key.encode()
            chunks.append(_text_part(kind, len(data)) + data)
        else:
            chunks.append(_int_part(kind, key) if kind == _INT_KEY else _index_part(kind, key))
    return b"".join(chunks)


def quoted(name: str) -> str:
    """A leaf's or container's name for messages."""
    if not name:
        return "the tree"
    return repr(name if len(name) <= 200 else f"{name[:100]}...{name[-80:]}")


class _Node:
    """A container that is being filled."""

    __slots__ = ("children", "key", "parent", "role")

    def __init__(self, parent: "_Node | None", key: str | int) -> None:
        self.parent = parent
        self.key = key
        self.role = _Role.LEAF
        self.children: dict[str | int, Any] = {}

    def enter(self, kind: int, name: str) -> None:
        role = _CONTAINERS.get(kind, _Role.LEAF)
        if not role or self.role not in (_Role.LEAF, role):
            raise FormatError(f"{quoted(name)}: the leaves beside it disagree about what contains them")
        self.role = role

    def value(self) -> Any:
        if self.role in (_Role.LIST, _Role.TUPLE):
            indices = sorted(self.children)
            if indices[-1] == len(indices) - 1:
                items = [self.children[i] for i in indices]
                return items if self.role is _Role.LIST else tuple(items)
            return {i: self.children[i] for i in indices}
        return self.children


def unflatten(leaves: Sequence[tuple[Path, str, Any]]) -> Any:
    """A tree of dicts, lists and tuples from (parts, name, value) of its leaves.

    Objects come back as dicts, and so does a list or tuple of which items are missing: index -> value.
    """
    if len(leaves) == 1 and not leaves[0][0]:
        return leaves[0][2]
    root = _Node(None, "")
    nodes = [root]
    for parts, name, value in leaves:
        if not parts:
            raise FormatError("a leaf at the root, among others")
        node = root
        for kind, key in parts[:-1]:
            if node.role is not _CONTAINERS.get(kind):
                node.enter(kind, name)
            below = node.children.get(key)
            if below is None:
                below = node.children[key] = _Node(node, key)
                nodes.append(below)
            elif type(below) is not _Node:
                raise FormatError(f"{quoted(name)} lies below another leaf")
            node = below
        kind, key = parts[-1]
        if node.role is not _CONTAINERS.get(kind):
            node.enter(kind, name)
        if key in node.children:
            raise FormatError(f"{quoted(name)} is stored twice, or has leaves below it")
        node.children[key] = value
    for node in reversed(nodes[1:]):
        assert node.parent is not None
        node.parent.children[node.key] = node.value()
    return root.value()


def rebuild(tree: Any, values: Iterator[Any]) -> Any:
    """`tree` with its leaves replaced, in the order of `flatten`, in containers of the same classes.

    Dataclass instances are copied and filled without calling `__init__`. An empty container consumes a value and stays.
    """
    roles = _Roles()
    done: list[Any] = []
    stack: list[tuple[Any, _Role, int]] = [(tree, roles[type(tree)], -1)]  # a count of children: they are done
    while stack:
        node, role, count = stack.pop()
        if count >= 0:
            items = done[len(done) - count :]
            del done[len(done) - count :]
            done.append(_refilled(node, role, items))
            continue
        children = _values(node, role)
        if not children:
            value = next(values)
            done.append(_refilled(node, role, []) if role else value)
            continue
        stack.append((node, role, len(children)))
        stack.extend((child, roles[type(child)], -1) for child in reversed(children))
    return done[0]


def _role_of(kind: type) -> _Role:
    if issubclass(kind, tuple):
        return _Role.OBJECT if hasattr(kind, "_fields") else _Role.TUPLE
    if issubclass(kind, list):
        return _Role.LIST
    if issubclass(kind, Mapping):
        return _Role.DICT
    is_array = hasattr(kind, "__array_interface__") or hasattr(kind, "__dlpack__")
    return _Role.OBJECT if hasattr(kind, "__dataclass_fields__") and not is_array else _Role.LEAF


def _fields(node: Any, name: str) -> list[tuple[str, Any]]:
    if isinstance(node, tuple):
        return list(zip(node._fields, node, strict=True))  # type: ignore[attr-defined]
    import dataclasses

    try:
        return [(field.name, getattr(node, field.name)) for field in dataclasses.fields(node)]
    except AttributeError as error:
        raise UnsupportedError(f"{quoted(name)}: a field of {type(node).__name__} is not set ({error})") from None


def _integer(key: Any, name: str) -> tuple[bytes, str]:
    is_int = isinstance(key, int) and not isinstance(key, bool)
    if not is_int and not (hasattr(key, "__index__") and type(key).__module__ == "numpy"):
        raise UnsupportedError(
            f"{quoted(name)} has the key {key!r:.80} of type {type(key).__name__}; only str and int keys can be stored"
        )
    number = key.__index__()
    if number not in _INT64:
        raise UnsupportedError(f"{quoted(name)} has an int key beyond 64 bits; use its decimal digits as a str key")
    return _int_part(_INT_KEY, number), str(number)


def _values(node: Any, role: _Role) -> Sequence[Any]:
    if role is _Role.LEAF:
        return ()
    if role is _Role.DICT:
        return list(node.values())
    if role is _Role.OBJECT:
        return [value for _, value in _fields(node, "")]
    return list(node)


def _refilled(node: Any, role: _Role, items: list[Any]) -> Any:
    kind = type(node)
    if role is _Role.DICT:
        pairs = dict(zip(node, items, strict=True))
        if kind is dict:
            return pairs
        if isinstance(node, dict):  # OrderedDict, defaultdict: keeps what the class adds
            filled = copy.copy(node)
            filled.update(pairs)
            return filled
        return kind(pairs)
    if role is _Role.OBJECT:
        if isinstance(node, tuple):
            return kind(*items)
        filled = copy.copy(node)
        for (field, _), value in zip(_fields(node, ""), items, strict=True):
            object.__setattr__(filled, field, value)
        return filled
    return items if kind is list else kind(items)
