"""What a save through Orbax stores: the tree, cast where that is asked for, and what the manifest keeps for Orbax."""

from __future__ import annotations

from typing import Any, Final

import orbax.checkpoint as ocp

from ..errors import UnsupportedError
from ..jax.nodes import Registered
from ..tree import flatten, quoted
from . import metadata
from .targets import ORBAX, args_by_name, mapped, names


def to_save(args: Any) -> tuple[Any, dict[str, Any]]:
    """The tree, and the manifest's metadata. UnsupportedError for leaves that a TypeHandler of the program's is for."""
    tree = args.item
    if args.save_args is not None:
        wanted = args_by_name("save_args", args.save_args, names(tree))
        tree = mapped(tree, lambda name, leaf: _cast(leaf, wanted.get(name)))
    leaves = [(name, leaf) for _, name, leaf in flatten(tree, _NODES)]
    for name, leaf in leaves:
        if _has_own_handler(type(leaf)):
            handler = type(ocp.type_handlers.get_type_handler(type(leaf))).__qualname__
            raise UnsupportedError(
                f"cannot store {quoted(name)}: its class {type(leaf).__qualname__} has the TypeHandler {handler}, and"
                " Ostraca calls none. Put arrays in its place; or save it as an item of its own through Orbax:"
                " registry.add(item, ocp.args.PyTreeSave, ocp.PyTreeCheckpointHandler()), PyTreeRestore likewise"
            )
    return tree, metadata.manifest_entry(leaves, args.custom_metadata)


def _cast(leaf: Any, args: Any) -> Any:
    dtype = getattr(args, "dtype", None)
    return leaf if dtype is None or not hasattr(leaf, "astype") else leaf.astype(dtype)


class _Nodes(Registered):
    """JAX's containers. What a TypeHandler of the program's is for is a leaf, and so is what the manifest names."""

    def is_leaf(self, kind: type) -> bool:
        if metadata.is_empty_tuple(kind):
            return True
        return not issubclass(kind, dict | list | tuple) and kind not in self and _has_own_handler(kind)


_NODES: Final = _Nodes()


def _has_own_handler(kind: type) -> bool:
    """Whether the program has registered a TypeHandler for a class, beside Orbax's or in place of one."""
    handlers = ocp.type_handlers
    return handlers.has_type_handler(kind) and not _is_orbaxs(type(handlers.get_type_handler(kind)))


def _is_orbaxs(kind: type) -> bool:
    return kind.__module__.startswith(ORBAX)
