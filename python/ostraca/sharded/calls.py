"""What a process asks for in a save or a load, as far as all processes have to ask for the same."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any, Final, NamedTuple, Self

from .. import metadata, options
from ..base import BaseSnapshot
from ..errors import OstracaError

ALL_METADATA: Final = "(all of it)"  # in place of a key, where metadata is no dict


class Call(NamedTuple):
    """Two processes make the same call when their texts are alike."""

    text: str  # as somebody would type it: "save('/run/3', step=3)"
    what: str  # for messages: "the save to '/run/3'"
    is_distinct: bool  # no two calls of a program have this text, or it does not matter which of them is meant
    metadata: Mapping[str, str] = {}  # digests by key; process 0's is stored, so a difference is no error

    @classmethod
    def of_save(cls, arguments: Mapping[str, Any]) -> Self:
        """`arguments`: of `save` or `save_async`, unchecked: a process that gives others has to say so first."""
        step = arguments.get("step")
        text = f"save({', '.join(_save_arguments(arguments))})"
        return cls(text, f"the save to {_shown(arguments['path'])}", step is not None, _digests(arguments))

    @classmethod
    def of_load(cls, path: Any, **choices: Any) -> Self:
        """`choices`: what else must be alike, with None or False for what was not asked for."""
        named = [f"{name}={value!r}" for name, value in choices.items() if value]
        return cls(f"load({', '.join([_place(path), *named])})", f"the load of {_shown(path)}", True)


def _save_arguments(arguments: Mapping[str, Any]) -> Iterator[str]:
    yield _place(arguments["path"])
    for name in ("step", "base", "parent", "codec", "chunk_shape", "overwrite"):
        value = arguments.get(name)
        if value is None or value is False or (name == "codec" and value == "auto"):
            continue
        if name == "base":
            yield f"{name}={_beside(value)}"
        elif name == "chunk_shape" and isinstance(value, list | tuple):
            yield f"{name}=({', '.join(map(_number, value))})"
        else:
            yield f"{name}={_number(value)}"


def _place(path: Any) -> str:
    """A directory by its absolute path. Links stay: they may lead elsewhere on another host, and mean the same."""
    try:
        return repr(os.path.abspath(options.checked_path(path)))  # noqa: PTH100
    except (TypeError, ValueError, OSError, OstracaError):  # the call will say so, when all have made it
        return repr(path)


def _beside(base: Any) -> str:
    """A base by its name alone: it lies beside the checkpoint, and a snapshot has resolved the links before it."""
    try:
        path = base.path if isinstance(base, BaseSnapshot) else options.checked_path(base)
        return repr(os.path.basename(os.path.abspath(path)))  # noqa: PTH100, PTH119
    except (TypeError, ValueError, OSError, OstracaError):
        return repr(base)


def _shown(path: Any) -> str:
    return repr(os.fspath(path)) if isinstance(path, os.PathLike) else repr(path)


def _number(value: Any) -> str:
    """numpy's numbers as Python's."""
    try:
        return repr(value if isinstance(value, bool) else operator.index(value))
    except TypeError:  # also of an array of floats, which has __index__
        return repr(value)


def _digests(arguments: Mapping[str, Any]) -> dict[str, str]:
    notes = arguments.get("metadata")
    members = notes if isinstance(notes, dict) else {ALL_METADATA: notes}
    try:
        return {str(key): _digest(value) for key, value in members.items()}
    except Exception:  # metadata that cannot be stored: the call will say so, when all have made it
        return {}


def _digest(value: Any) -> str:
    return blake2b((metadata.encode(value) or "").encode(), digest_size=8).hexdigest()
