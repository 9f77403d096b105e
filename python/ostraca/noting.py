"""Facts about a checkpoint that change after its commit: tags, metrics that come later, when it was verified.

They lie in small files beside the manifest (docs/format.md, section 8), name the id of the checkpoint that they are
about, and are never needed to read data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from . import _core, metadata, options
from .errors import ExistsError, FormatError
from .options import StrPath

TAGS: Final = "tags"  # a list of names
PROTECTED: Final = "protected"  # the tag of a checkpoint that no prune removes
_TRIES: Final = 100  # each but the last one lost to somebody faster


def notes(path: StrPath) -> dict[str, Any]:
    """The facts that were noted about the checkpoint at `path`; {} where there are none.

    The newest notes that can be read count, and of those only the ones about this very checkpoint: what was noted about
    one that was overwritten is forgotten. Raises `NotFoundError` where there is no checkpoint.
    """
    return decoded(_core.notes_at(options.checked_path(path))[1])


def annotate(path: StrPath, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Merges facts into the notes about the checkpoint at `path`, durably, and returns all that is noted then.

    facts: by name, what JSON can hold, as metadata. Each replaces the one of its name; None removes it. "tags" is a
    list of names; `prune` keeps what has the tag "protected", whatever else it is told.

    Several processes may annotate one checkpoint at a time, and none of them loses anything. Raises `NotFoundError`
    where there is no checkpoint, or another one has taken its place meanwhile; `UnsupportedError` for what cannot be
    stored; `FormatError` where the newest notes cannot be read: what they say would be lost.
    """
    changes = _checked(facts)
    return changed(path, lambda noted: noted | changes)


def changed(path: StrPath, change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """What `change` makes of the facts noted, and of those that somebody else notes first."""
    where = options.checked_path(path)
    for left in reversed(range(_TRIES)):
        attempt, text, _, last, unknown = _core.notes_at(where)
        if unknown:
            raise FormatError(
                f"{where!r}: its newest notes, number {last}, cannot be read, and would be lost: repair or remove"
                f" notes-{last}.json first"
            )
        noted = decoded(text)
        facts = {name: value for name, value in change(noted).items() if value is not None}
        if facts == noted:
            return facts
        try:
            _core.write_notes_at(where, attempt, last, metadata.encode(facts) or "{}")
            return facts
        except ExistsError:
            if not left:
                raise
    raise AssertionError


def decoded(text: str) -> dict[str, Any]:
    """The facts of a note's JSON text."""
    import json  # late, for the sake of a process's first save, which looks at what lies beside it

    facts = metadata.decode(json.loads(text))
    if not isinstance(facts, dict):
        raise FormatError(f"notes hold no facts by name: {text:.80}")
    return facts


def tags_of(facts: Mapping[str, Any]) -> list[str]:
    """The names in the list of tags; what is no such list is none."""
    tags = facts.get(TAGS)
    return [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []


def _checked(facts: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(facts, Mapping):
        raise TypeError(f"facts must be a mapping from names to values, not {type(facts).__name__}")
    for name in facts:
        if not isinstance(name, str):
            raise TypeError(f"the facts' names must be text, not {name!r:.80}")
    tags = facts.get(TAGS)
    named = isinstance(tags, list | tuple) and all(isinstance(tag, str) and tag for tag in tags)
    if tags is not None and not named:
        raise TypeError(f'facts["{TAGS}"] must be a list of names, not {tags!r:.80}')
    return decoded(metadata.encode(dict(facts)) or "{}")
