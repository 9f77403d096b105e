"""What a save or a restore through Orbax is asked for: Ostraca's own arguments, and Orbax's in the same terms."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final

import jax
import orbax.checkpoint as ocp

from ..errors import UnsupportedError
from .metadata import TreeMetadata


@dataclass
class Save(ocp.args.CheckpointArgs):  # type: ignore[misc]
    """What to save: as Orbax's `PyTreeSave`, of which `save_args` are read for `dtype` alone.

    `ocdbt_target_data_file_size` is taken for the sake of calls that pass it: it is of Orbax's format, and unused.
    """

    item: Any
    save_args: Any = None
    custom_metadata: Any = None
    ocdbt_target_data_file_size: int | None = field(default=None, kw_only=True)


@dataclass
class Restore(ocp.args.CheckpointArgs):  # type: ignore[misc]
    """What to restore.

    target: as in Orbax's `StandardRestore`: its leaves say what comes back. item: as in `PyTreeRestore`: its containers
    alone count, and arrays come back as they were saved, or as `restore_args` have it. With those a target is an item.

    partial_restore: the tree has a part of what is stored; `transforms={}` says the same. New entries of dicts and
    objects stay as they are in the tree, and a warning of the logger "ostraca" names them. strict: False truncates and
    pads arrays to the target's shapes. support_layout: device layouts of the target are honoured. fallback_sharding:
    where the target has none, and the one that was saved needs other devices. Arrays become the dtypes asked for as
    Orbax casts them: values that do not fit become what numpy makes of them (`cast="unsafe"` of `ostraca.load`).

    Raises TypeError where both `target` and `item` are given.
    """

    target: Any = None
    restore_args: Any = None
    item: Any = field(default=None, kw_only=True)
    partial_restore: bool = field(default=False, kw_only=True)
    strict: bool = field(default=True, kw_only=True)
    support_layout: bool = field(default=False, kw_only=True)
    fallback_sharding: Any = field(default=None, kw_only=True)
    transforms: Any = field(default=None, kw_only=True)
    transforms_default_to_original: bool = field(default=True, kw_only=True)
    legacy_transform_fn: Any = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.item is not None:
            if self.target is not None:
                raise TypeError("Restore takes a target or an item, not both")
            self.target, self.item = self.item, None
            if self.restore_args is None:
                self.restore_args = {}  # for no leaf
        if isinstance(self.target, TreeMetadata):
            self.target = self.target.tree


TREES: Final = (
    Save,
    Restore,
    ocp.args.StandardSave,
    ocp.args.StandardRestore,
    ocp.args.PyTreeSave,
    ocp.args.PyTreeRestore,
)


def asks_nothing(args: Any) -> bool:
    """Whether what was saved shall come back as it was, whatever it is."""
    return args is None or (isinstance(args, Restore) and args.target is None and args.restore_args is None)


def to_restore(args: Any) -> Restore:
    """Orbax's arguments as ours. UnsupportedError for transforms."""
    if isinstance(args, ocp.args.StandardRestore):
        return Restore(
            args.item,
            strict=args.strict,
            support_layout=args.support_layout,
            fallback_sharding=args.fallback_sharding,
        )
    if isinstance(args, ocp.args.PyTreeRestore):
        return Restore(args.item, args.restore_args or {}, partial_restore=_is_partial(args, args.item))
    assert isinstance(args, Restore)
    return replace(args, partial_restore=_is_partial(args, args.target))


def _is_partial(args: Any, item: Any) -> bool:
    """Whether a part of what is stored is asked for: programs say that by transforms that change nothing."""
    if args.transforms is None and args.legacy_transform_fn is None:
        return bool(args.partial_restore)
    if args.legacy_transform_fn is not None or jax.tree.leaves(args.transforms):
        raise UnsupportedError(
            "transforms: found some to apply; restore without them, and call ocp.apply_transformations on the result"
        )
    if item is None or not args.transforms_default_to_original:
        raise UnsupportedError(
            "transforms={}: expected an item, of which what is stored is restored, and transforms_default_to_original"
            f"=True; found {'no item' if item is None else 'False'}"
        )
    return True
