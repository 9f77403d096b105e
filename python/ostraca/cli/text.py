"""How the commands take paths, and print: sizes, tables, names, JSON.

What comes from a checkpoint never reaches a terminal raw.
"""

import argparse
import json
import math
import sys
import unicodedata
from collections.abc import Sequence
from typing import Any, Final

from .. import options
from ..errors import UnsupportedError
from ..lowlevel import ArrayInfo
from ..patterns import acceptor
from ..printing import escaped as escaped
from ..printing import some
from ..tree import Kind, quoted

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_VALUE_CHARACTERS: Final = 60
_REFUSED_MAX: Final = 5  # leaves that an error names


def path(argument: str) -> str:
    """A path that was given as an argument, for argparse."""
    try:
        return options.checked_path(argument)
    except (TypeError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def size(count: int | None) -> str:
    """Bytes for people: "512 B", "1.50 KiB"."""
    if count is None:
        return "-"
    value, unit = float(count), 0
    while value >= 1023.995 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.2f} {_UNITS[unit]}" if unit else f"{count} B"


def number(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """ "1 array", "2 arrays"."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def rate(count: int, seconds: float) -> str:
    return f"{count / max(seconds, 1e-9) / 1e9:.2f} GB/s"


def ratio(stored: int, logical: int) -> float | None:
    """Stored by logical bytes, as JSON has it."""
    return round(stored / logical, 6) if logical else None


def ratio_text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def table(headings: Sequence[str], alignment: str, rows: Sequence[Sequence[str]], indent: str = "") -> list[str]:
    """Aligned lines; `alignment` has "<" or ">" for each column. Cells are escaped."""
    cells = [[escaped(cell) for cell in row] for row in (headings, *rows)]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    return [(indent + "  ".join(map(_padded, row, alignment, widths))).rstrip() for row in cells]


def show(lines: Sequence[str] | str = "") -> None:
    sys.stdout.write((lines if isinstance(lines, str) else "\n".join(lines)) + "\n")


def show_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")


def json_float(value: float | None) -> float | str | None:
    """JSON has no inf and nan: they are strings."""
    return value if value is None or math.isfinite(value) else str(value)


def brief(value: Any) -> str:
    """A value on one short line."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _VALUE_CHARACTERS else text[: _VALUE_CHARACTERS - 3] + "..."


def kind_text(kind: Kind) -> str:
    return {Kind.PRNG_KEY: "PRNG key", Kind.NONE: "None"}.get(kind) or kind.name.lower().replace("_", " ")


def dtype_text(info: ArrayInfo) -> str:
    """A leaf's dtype, or what it is when it is no array."""
    if info.kind.is_value:
        return kind_text(info.kind)
    if info.kind is Kind.PRNG_KEY:
        return f"PRNG key {info.detail}"
    name = info.dtype_name.lstrip("|<")
    return f"{name} (big-endian)" if info.big_endian else name


def shape_text(info: ArrayInfo) -> str:
    return "" if info.kind.is_value else str(list(info.shape))


def leaf_text(info: ArrayInfo) -> str:
    return f"{dtype_text(info)} {shape_text(info)}".rstrip()


def chosen(stored: Sequence[Sequence[ArrayInfo]], glob: str | None) -> list[list[ArrayInfo]]:
    """Of each of several checkpoints the leaves whose names match; a glob means the same in all of them."""
    if glob is None:
        return [list(infos) for infos in stored]
    accepts = acceptor(glob, [info.name for infos in stored for info in infos])
    return [[info for info in infos if accepts(info.name)] for infos in stored]


def refusal(target: str, leaves: Sequence[tuple[str, str]]) -> UnsupportedError:
    """The error for leaves, each a name and what it is, that a conversion's target cannot hold."""
    listed = some([f"{quoted(name)} ({what})" for name, what in leaves], most=_REFUSED_MAX)
    return UnsupportedError(f"{target} cannot hold {listed}; --skip-unsupported leaves them out")


def described(info: ArrayInfo) -> dict[str, Any]:
    """A leaf, as all commands' JSON has it."""
    return {
        "name": info.name,
        "kind": info.kind.name.lower(),
        "dtype": info.dtype_name if info.has_data else None,
        "detail": info.detail,
        "big_endian": info.big_endian,
        "shape": list(info.shape) if info.has_data else None,
    }


def _width(text: str) -> int:
    """Columns on a terminal."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _padded(text: str, alignment: str, width: int) -> str:
    fill = " " * (width - _width(text))
    return fill + text if alignment == ">" else text + fill
