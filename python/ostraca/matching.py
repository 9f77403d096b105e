"""What a load is asked for against what is stored: `select`, `like` and `into`."""

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any, Final, NamedTuple

import numpy as np

from .casting import Cast
from .errors import MismatchError
from .fitting import Fit, fit
from .lowlevel import ArrayInfo
from .tree import Kind, Leaf, quoted

MAX_LISTED: Final = 10  # differences that a MismatchError spells out

Select = str | Callable[[str], object]


class Match(NamedTuple):
    """The stored leaf for a leaf of `like`."""

    info: ArrayInfo
    fit: Fit | None  # None: it is wanted as it is stored


def selected(stored: Sequence[ArrayInfo], select: Select | None) -> list[ArrayInfo]:
    """The leaves whose names a glob matches ("*" matches "/" too) or a predicate accepts. MismatchError if none."""
    if select is None:
        return list(stored)
    if not isinstance(select, str) and not callable(select):
        raise TypeError(f"select must be a glob or a callable on names, not {type(select).__name__}")
    accepts = select if callable(select) else lambda name: fnmatchcase(name, select)
    chosen = [info for info in stored if accepts(info.name)]
    if not chosen:
        some = ", ".join(quoted(info.name) for info in stored[:3])
        hint = "a glob matches whole names, as 'params/*' does"
        raise MismatchError(f"select={select!r} chose none of the {len(stored)} stored leaves, such as {some}; {hint}")
    return chosen


def matched(
    like: Iterable[Leaf], stored: Iterable[ArrayInfo], *, keep: bool, what: str, cast: Cast = False
) -> list[Match | None]:
    """What is stored for each leaf of `like`, by display name; None where nothing is and `keep`.

    Raises `MismatchError` with the names that differ, and shapes and dtypes as expected and found. Byte order is no
    difference.
    """
    rest = {info.name: info for info in stored}
    found: list[Match | None] = []
    differences = []
    for _, name, leaf in like:
        info = rest.pop(name, None)
        fitted = None if info is None else fit(leaf, info, name, cast)
        if isinstance(fitted, str):
            differences.append(f"{quoted(name)}: {fitted}")
        elif info is not None:
            found.append(Match(info, fitted))
        else:
            found.append(None)
            if not keep:
                differences.append(f"{quoted(name)}: not stored")
    differences += [f"{quoted(name)}: stored, but not in `{what}`" for name in rest]
    names_differ = bool(rest) or None in found
    advice = f"\n  (select= restores a part of what is stored; missing='keep' keeps what only `{what}` has)"
    check_differences(f"the checkpoint and `{what}` differ", differences, advice if names_differ else "")
    return found


def check_differences(heading: str, differences: Sequence[str], advice: str = "") -> None:
    """Raises `MismatchError` if there are any, one for each leaf."""
    if differences:
        listed = "".join(f"\n  {difference}" for difference in islice(differences, MAX_LISTED))
        more = f"\n  and {len(differences) - MAX_LISTED} more" if len(differences) > MAX_LISTED else ""
        count = "1 leaf" if len(differences) == 1 else f"{len(differences)} leaves"
        raise MismatchError(f"{heading} in {count}:{listed}{more}{advice}")


def is_filled(leaf: Any, match: Match) -> bool:
    """Whether a leaf of `into` is filled in place. `MismatchError`, before anything is, where it cannot be."""
    is_array = isinstance(leaf, np.ndarray)
    if match.info.kind not in (Kind.ARRAY, Kind.PRNG_KEY) and not is_array:
        return False
    if match.fit is not None and match.fit.kind is not None:  # a number, which is replaced
        return False
    if not is_array or not leaf.flags.writeable:
        kind = type(leaf).__name__
        raise MismatchError(f"into: {quoted(match.info.name)} is {kind}, not a numpy array that can be written to")
    return True
