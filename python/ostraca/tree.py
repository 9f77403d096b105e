"""Trees and their leaves: containers to key paths and names, and back (docs/format.md, section 5).

Containers are dicts and other Mappings, lists, tuples, and objects: namedtuples and dataclass instances; and what a
framework says are containers of its own (`Nodes`). Everything else is a leaf, and so is a container without children.
No walk recurses: depth is bounded by the key path's length.
"""

from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from itertools import islice
from struct import Struct
from typing import Any, Final

from . import _core
from .containers import Nodes, Role, check, opened, remade, role_of
from .errors import FormatError, UnsupportedError

MAX_PATH_BYTES: Final = _core.KEY_PATH_BYTES_MAX
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
    STRINGS = 12
    BYTE_STRINGS = 13

    @property
    def has_data(self) -> bool:
        """Whether there is an array; None and empty containers have none."""
        return not Kind.NONE <= self <= Kind.EMPTY_TUPLE

    @property
    def is_strings(self) -> bool:
        """Whether it is an array whose elements vary in length, and another one that holds them."""
        return self >= Kind.STRINGS

    @property
    def is_value(self) -> bool:
        """Whether it is one of Python's values, not an array."""
        return Kind.INT <= self <= Kind.EMPTY_TUPLE


_EMPTY: Final = {
    Role.DICT: Kind.EMPTY_DICT,
    Role.LIST: Kind.EMPTY_LIST,
    Role.TUPLE: Kind.EMPTY_TUPLE,
    Role.OBJECT: Kind.EMPTY_DICT,
}
_INT_KEY: Final = 2
_CONTAINERS: Final = {1: Role.DICT, 2: Role.DICT, 3: Role.LIST, 4: Role.TUPLE, 5: Role.OBJECT}

_text_part: Final = Struct("<BI").pack
_int_part: Final = Struct("<Bq").pack
_index_part: Final = Struct("<BQ").pack


class _Roles(dict[type, Role]):
    """Remembers what the types met on a walk are."""

    def __init__(self, nodes: Nodes | None) -> None:
        self._nodes = nodes

    def __missing__(self, kind: type) -> Role:
        role = self[kind] = role_of(kind, self._nodes)
        return role


class Flattener:
    """Walks a tree for the process of an index: takes it apart into leaves, and puts it together again with others.

    Meanwhile it notes the key paths of `PerProcess` values.
    """

    def __init__(self, nodes: Nodes | None = None, process_index: int = 0) -> None:
        self.per_process: list[bytes] = []
        self._nodes = nodes
        self._process_index = process_index
        self._roles = _Roles(nodes)
        self._tried: set[tuple[type, int]] = set()  # classes of the framework's containers, and numbers of children
        self._texts: dict[int, dict[str, tuple[bytes, str]]] = {1: {}, 5: {}}  # by the part's type
        # Of each container in the order of their ends: itself, its name, how many leaves precede its end. Three lists,
        # since as many tuples would keep the garbage collector busy.
        self._containers: list[Any] = []
        self._names: list[str] = []
        self._ends: list[int] = []

    def flatten(self, tree: Any) -> list[Leaf]:
        """The tree's leaves, in its order."""
        leaves: list[Leaf] = []
        self._containers, self._names, self._ends = [], [], []
        above: set[int] = set()  # ids of the containers that the walk is in
        stack: list[Leaf | tuple[None, str, Any]] = [(b"", "", tree)]
        while stack:
            path, name, node = stack.pop()
            if path is None:
                above.remove(id(node))
                self._close(node, name, len(leaves))
                continue
            if len(path) > MAX_PATH_BYTES:
                raise UnsupportedError(f"{quoted(name)}: its key path takes more than {MAX_PATH_BYTES} bytes")
            role = self._roles[type(node)]
            if not role:
                leaves.append((path, name, node))
                continue
            children = self._children(node, role, path, name)
            if not children:
                leaves.append((path, name, _EMPTY.get(role, Kind.EMPTY_DICT)))
                self._close(node, name, len(leaves))
                continue
            if id(node) in above:
                raise UnsupportedError(f"{quoted(name)} contains itself; a tree cannot have cycles")
            first = self._leading_leaves(children)
            leaves += children[:first]
            if first == len(children):
                self._close(node, name, len(leaves))
                continue
            above.add(id(node))
            stack.append((None, name, node))
            stack += reversed(children[first:])
        return leaves

    def _close(self, node: Any, name: str, end: int) -> None:
        self._containers.append(node)
        self._names.append(name)
        self._ends.append(end)

    def rebuild(self, values: Iterator[Any]) -> Any:
        """The tree last flattened with other leaves, in their order, in containers of the same classes.

        An empty container consumes a value and stays.
        """
        done: list[Any] = []
        taken = 0
        for node, name, end in zip(self._containers, self._names, self._ends, strict=True):
            done += islice(values, end - taken)
            taken = end
            container = opened(node, self._roles[type(node)], self._nodes, self._process_index)
            count = len(container.values)
            items = done[len(done) - count :] if count else []
            del done[len(done) - max(count, 1) :]
            try:
                done.append(remade(container, items, self._nodes))
            except UnsupportedError as error:
                raise UnsupportedError(f"{quoted(name)}: {error}") from None
        return done[0] if done else next(values)

    def _leading_leaves(self, children: list[Leaf]) -> int:
        """How many children need no visit before the first that does."""
        roles = self._roles
        for i, (path, _, child) in enumerate(children):
            if roles[type(child)] or len(path) > MAX_PATH_BYTES:
                return i
        return len(children)

    def _children(self, node: Any, role: Role, path: bytes, name: str) -> list[Leaf]:
        """The children of a container that can be made again."""
        prefix = name + "/" if path else ""
        kind = type(node)
        if kind is dict:
            return self._dict_children(node.items(), path, name, prefix)
        if kind is list or kind is tuple:
            return [(path + _index_part(role, i), f"{prefix}{i}", child) for i, child in enumerate(node)]
        try:
            container = opened(node, role, self._nodes, self._process_index)
            # What a class is registered with is tried once: large states have thousands of instances.
            sort = (kind, len(container.values))
            if role is not Role.FRAMEWORK or sort not in self._tried:
                check(container, self._nodes)
                self._tried.add(sort)
        except UnsupportedError as error:
            raise UnsupportedError(f"{quoted(name)}: {error}") from None
        if role is Role.PER_PROCESS:
            self.per_process.append(path)
        pairs = zip(container.keys, container.values, strict=True)
        if container.named_as is Role.DICT:
            return self._dict_children(pairs, path, name, prefix)
        if container.named_as is Role.OBJECT:
            return self._object_children(pairs, path, name, prefix)
        part = container.named_as
        return [(path + _index_part(part, i), f"{prefix}{i}", child) for i, (_, child) in enumerate(pairs)]

    def _object_children(self, fields: Iterable[tuple[Any, Any]], path: bytes, name: str, prefix: str) -> list[Leaf]:
        parts = [(self._text(5, field, name), child) for field, child in fields]
        return [(path + part, prefix + label, child) for (part, label), child in parts]

    def _dict_children(self, items: Iterable[tuple[Any, Any]], path: bytes, name: str, prefix: str) -> list[Leaf]:
        children: list[Leaf] = []
        has_ints = False
        texts = self._texts[1]
        for key, child in items:
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


def flatten(tree: Any, nodes: Nodes | None = None) -> list[Leaf]:
    """The leaves of a tree, in its order. An empty container's value is its `Kind`.

    Raises `UnsupportedError`, naming the place, for keys other than str and int (of 64 bits), for keys or names that
    collide, for cycles, and for paths that are too long.
    """
    return Flattener(nodes).flatten(tree)


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
        self.role = Role.LEAF
        self.children: dict[str | int, Any] = {}

    def enter(self, kind: int, name: str) -> None:
        role = _CONTAINERS.get(kind, Role.LEAF)
        if not role or self.role not in (Role.LEAF, role):
            raise FormatError(f"{quoted(name)}: the leaves beside it disagree about what contains them")
        self.role = role

    def value(self) -> Any:
        if self.role in (Role.LIST, Role.TUPLE):
            indices = sorted(self.children)
            if indices[-1] == len(indices) - 1:
                items = [self.children[i] for i in indices]
                return items if self.role is Role.LIST else tuple(items)
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
    above: Path = ()
    node = root
    for parts, name, value in leaves:
        if not parts:
            raise FormatError("a leaf at the root, among others")
        if parts[:-1] != above:  # leaves of one container follow each other
            above = parts[:-1]
            node = _container(root, above, name, nodes)
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


def _container(root: _Node, path: Path, name: str, nodes: list[_Node]) -> _Node:
    """The node at a path; those that are not there yet are made, and join `nodes`."""
    node = root
    for kind, key in path:
        if node.role is not _CONTAINERS.get(kind):
            node.enter(kind, name)
        below = node.children.get(key)
        if below is None:
            below = node.children[key] = _Node(node, key)
            nodes.append(below)
        elif type(below) is not _Node:
            raise FormatError(f"{quoted(name)} lies below another leaf")
        node = below
    return node


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
