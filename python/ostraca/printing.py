"""Text for people: lists that are too long, and text from elsewhere on its way to a terminal."""

from collections.abc import Sequence
from typing import Final

LISTED_MAX: Final = 8  # things that a message names, unless it says otherwise


def some(items: Sequence[str], separator: str = ", ", *, most: int = LISTED_MAX) -> str:
    """The first items and how many more there are: "a, b and 4 more"."""
    joint = " " if separator == ", " else separator
    more = f"{joint}and {len(items) - most} more" if len(items) > most else ""
    return separator.join(items[:most]) + more


def escaped(text: str) -> str:
    """Text with all that a terminal would act upon, or not show, as Python escapes."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
