"""Globs over the names of stored leaves.

"*" stands for any characters, "/" among them, "?" for one, "[abc]", "[a-z]" and "[!abc]" for one of a set or none of
it. A stored name that holds such text itself wins: "layer[0]/*" is what lies below a key "layer[0]", if there is one.
"""

import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from glob import escape
from typing import Final

_SET: Final = re.compile(r"\[!?\]?[^\]]*\]")


def acceptor(pattern: str, names: Sequence[str]) -> Callable[[str], bool]:
    """Which names a pattern means, among those that are stored."""
    if pattern in names:
        return lambda name: name == pattern
    literal = _literal_prefix(pattern, names)

    def text_or_set(found: re.Match[str]) -> str:
        return escape(found[0]) if any(found[0] in name for name in names) else found[0]

    resolved = escape(literal) + _SET.sub(text_or_set, pattern[len(literal) :])
    return lambda name: fnmatchcase(name, resolved)


def _literal_prefix(pattern: str, names: Sequence[str]) -> str:
    """The longest part of a pattern, up to a "/", with which a stored name begins."""
    end = pattern.rfind("/") + 1
    while end and not any(name.startswith(pattern[:end]) for name in names):
        end = pattern.rfind("/", 0, end - 1) + 1
    return pattern[:end]
