"""The containers that are registered with JAX (flax's, equinox's, yours), for the walk of `ostraca.tree`.

Of JAX's own containers the walk knows more than JAX does: None, empty ones and the kind of a key survive it.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any, Final

from jax import tree_util

from ..containers import Role
from .versions import is_tree_node

_KEYED: Final = ((tree_util.DictKey, Role.DICT, "key"), (tree_util.GetAttrKey, Role.OBJECT, "name"))
_OWN: Final = (tuple, list, dict, collections.OrderedDict, collections.defaultdict, type(None))


class Registered:
    """All that is registered when it is met."""

    def is_leaf(self, kind: type) -> bool:
        return False

    def __contains__(self, kind: type) -> bool:
        return is_tree_node(kind) and kind not in _OWN and not _is_namedtuple(kind)

    def open(self, node: Any) -> tuple[Role, Sequence[str | int], Sequence[Any]]:
        pairs, _ = tree_util.tree_flatten_with_path(node, is_leaf=lambda child: child is not node)
        values = [child for _, child in pairs]
        for kind, role, attribute in _KEYED:
            if all(isinstance(key, kind) for (key,), _ in pairs):
                keys = [getattr(key, attribute) for (key,), _ in pairs]
                if len(set(keys)) == len(keys):
                    return role, keys, values
        return Role.LIST, range(len(values)), values  # without keys, with several kinds, or they tell nothing apart

    def refill(self, node: Any, values: Sequence[Any]) -> Any:
        return tree_util.tree_structure(node, is_leaf=lambda child: child is not node).unflatten(values)


def _is_namedtuple(kind: type) -> bool:
    return issubclass(kind, tuple) and hasattr(kind, "_fields")


REGISTERED: Final = Registered()
