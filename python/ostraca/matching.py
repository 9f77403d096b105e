"""What a load is asked for against what is stored: `root`, `select`, `like` and `into`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from . import leaves, options
from .casting import Cast, checked_cast
from .errors import MismatchError
from .fitting import Fit, fit
from .lowlevel import ArrayInfo
from .printing import some
from .tree import Leaf, Path, quoted, unflatten

MAX_LISTED: Final = 10  # differences that a MismatchError spells out

Select = str | Callable[[str], object]


class Match(NamedTuple):
    """The stored leaf for a leaf of `like`."""

    info: ArrayInfo
    fit: Fit | None  # None: it is wanted as it is stored


class Terms(NamedTuple):
    """What of a checkpoint a load is asked for, and how strictly it has to match `like` or `into`."""

    root: str | None
    select: Select | None
    keeps_missing: bool
    ignores_extra: bool
    cast: Cast

    @classmethod
    def checked(
        cls, *, root: str | None, select: Select | None, missing: str, extra: str, cast: Cast, has_tree: bool
    ) -> Terms:
        """Of the arguments of `load`. Raises ValueError, TypeError."""
        options.checked_choice("missing", missing, ("error", "keep"))
        options.checked_choice("extra", extra, ("error", "ignore"))
        if root is not None and not isinstance(root, str):
            raise TypeError(f"root must be the name of a subtree, such as 'params', not {type(root).__name__}")
        if select is not None and not isinstance(select, str) and not callable(select):
            raise TypeError(f"select must be a glob or a callable on names, not {type(select).__name__}")
        if missing == "keep" and not has_tree:
            raise ValueError("missing='keep' keeps leaves of like= or into=; give a tree of them")
        if extra == "ignore" and not has_tree:
            raise ValueError("extra='ignore' passes over what is not in like= or into=; give a tree of leaves")
        return cls(root, select, missing == "keep", extra == "ignore", checked_cast(cast))

    def chosen(self, stored: Sequence[ArrayInfo]) -> list[ArrayInfo]:
        """The leaves below the root that `select` accepts. MismatchError if none."""
        return selected(below(self.root, stored), self.select)


def below(root: str | None, stored: Sequence[ArrayInfo]) -> list[ArrayInfo]:
    """The leaf that is the root, or those below it. MismatchError if there are none."""
    if root is None:
        return list(stored)
    found = [info for info in stored if info.name == root or info.name.startswith(root + "/")]
    if not found:
        raise MismatchError(f"root={root!r}: nothing of this name is stored; {_tops(stored)}")
    return found


def paths_below(root: str | None, stored: Sequence[ArrayInfo]) -> list[Path]:
    """The leaves' key paths from the root on."""
    if root is None:
        return [info.path for info in stored]
    depth = root.count("/") + 1
    return [info.path[depth:] for info in stored]


def tree_below(root: str | None, stored: Sequence[ArrayInfo], values: Sequence[Any]) -> Any:
    """The plain tree of leaves below the root."""
    if root is None:
        return unflatten([(info.path, info.name, value) for info, value in zip(stored, values, strict=True)])
    return unflatten(list(zip(paths_below(root, stored), [info.name for info in stored], values, strict=True)))


def named_from(root: str | None, tree: Sequence[Leaf]) -> list[Leaf]:
    """The leaves of a tree that hangs at the root, with their names in the checkpoint."""
    if root is None:
        return list(tree)
    return [(path, f"{root}/{name}" if path else root, leaf) for path, name, leaf in tree]


def selected(stored: Sequence[ArrayInfo], select: Select | None) -> list[ArrayInfo]:
    """The leaves whose names a glob (see `patterns`) or a predicate accepts. MismatchError if none."""
    if select is None:
        return list(stored)
    from .patterns import acceptor  # late: few loads have one

    accepts = select if callable(select) else acceptor(select, [info.name for info in stored])
    chosen = [info for info in stored if accepts(info.name)]
    if not chosen:
        hint = "a glob matches whole names, as 'params/*' does"
        examples = ", ".join(quoted(info.name) for info in stored[:3])
        raise MismatchError(
            f"select={select!r} chose none of the {len(stored)} stored leaves, such as {examples}; {hint}"
        )
    return chosen


def matched(like: Sequence[Leaf], stored: Sequence[ArrayInfo], terms: Terms, what: str) -> list[Match | None]:
    """What is stored for each leaf of `like`, by display name; None where nothing is and such leaves are kept.

    Raises `MismatchError` with the names that differ, and shapes and dtypes as expected and found. Byte order is no
    difference.
    """
    rest = {info.name: info for info in stored}
    found: list[Match | None] = []
    differences = []
    for _, name, leaf in like:
        info = rest.pop(name, None)
        fitted = None if info is None else fit(leaf, info, name, terms.cast)
        if isinstance(fitted, str):
            differences.append(f"{quoted(name)}: {fitted}")
        elif info is not None:
            found.append(Match(info, fitted))
        else:
            found.append(None)
            if not terms.keeps_missing:
                differences.append(f"{quoted(name)}: not stored")
            elif leaves.is_abstract(leaf):
                differences.append(f"{quoted(name)}: not stored, and a {type(leaf).__name__} is no value to keep")
    if not terms.ignores_extra:
        differences += [f"{quoted(name)}: stored, but not in `{what}`" for name in rest]
    names_differ = bool(rest) or None in found
    advice = _advice(like, stored, what) if differences and names_differ else ""
    check_differences(f"the checkpoint and `{what}` differ", differences, advice)
    return found


def _advice(like: Sequence[Leaf], stored: Sequence[ArrayInfo], what: str) -> str:
    """How to restore a part, for names that differ."""
    wanted = {name for _, name, _ in like}
    end = "/" + next(iter(wanted), "")
    names = {info.name for info in stored}
    for name in names:
        root = name.removesuffix(end)
        if root != name and all(f"{root}/{each}" in names for each in wanted):
            return f"\n  (`{what}` fits what is stored below {root!r}: pass root={root!r})"
    return (
        f"\n  (root= or select= restore a part of what is stored; extra='ignore' passes over what only the checkpoint"
        f" has, missing='keep' keeps what only `{what}` has)"
    )


def _tops(stored: Sequence[ArrayInfo]) -> str:
    tops = list(dict.fromkeys(info.name.partition("/")[0] for info in stored))
    return f"the checkpoint holds {some(list(map(quoted, tops)), most=MAX_LISTED)}"


def check_differences(heading: str, differences: Sequence[str], advice: str = "") -> None:
    """Raises `MismatchError` if there are any, one for each leaf."""
    if differences:
        listed = some(differences, "\n  ", most=MAX_LISTED)
        count = "1 leaf" if len(differences) == 1 else f"{len(differences)} leaves"
        raise MismatchError(f"{heading} in {count}:\n  {listed}{advice}")


def is_filled(leaf: Any, match: Match) -> bool:
    """Whether a leaf of `into` is filled in place. `MismatchError`, before anything is, where it cannot be."""
    if match.fit is not None and match.fit.kind is not None:  # a number, which is replaced
        return False
    is_array = isinstance(leaf, np.ndarray)
    if is_array and leaf.flags.writeable:
        return True
    if is_array or not match.info.kind.is_value:
        kind = type(leaf).__name__
        raise MismatchError(f"into: {quoted(match.info.name)} is {kind}, not a numpy array that can be written to")
    return False
