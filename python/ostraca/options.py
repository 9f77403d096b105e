"""Checks of the arguments that the public functions share, made before anything is opened or written."""

import operator
import os
import re
from collections.abc import Sequence
from typing import Any, Final, SupportsIndex

from .errors import UnsupportedError

StrPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]

CODECS: Final = ("auto", "raw", "zstd")
IO_MODES: Final = ("auto", "direct", "buffered")
MAX_INT: Final = (1 << 63) - 1
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")  # of a URL's slashes pathlib leaves one


def checked_path(path: StrPath) -> str:
    """The path of a directory as a str, in which bytes that are no text are surrogates (`os.fsdecode`).

    `~` and `~user` at its beginning are home directories. Of URLs those of files are taken; any other scheme is an
    `UnsupportedError`. Raises TypeError and ValueError for what names no directory.
    """
    if not isinstance(path, str | bytes | os.PathLike):
        raise TypeError(f"the path, which comes first, must be a str, bytes or os.PathLike, not {type(path).__name__}")
    text = os.fsdecode(path)
    if (scheme := _SCHEME.match(text)) is not None:
        text = _path_of_url(text, scheme[1])
    if not text or "\0" in text:
        raise ValueError(f"path {text!r} names no directory")
    return _from_home(text) if text.startswith("~") else text


def _path_of_url(url: str, scheme: str) -> str:
    if scheme.lower() != "file":
        raise UnsupportedError(
            f"path {url!r}: checkpoints lie in file systems, and {scheme}:// is none that Ostraca knows: there are no"
            f" object stores yet. Use a directory, and copy that; one of this very name is {'./' + url!r}"
        )
    from urllib.parse import unquote_to_bytes  # late, for the sake of import time

    rest = url[len("file:") :]
    host, slash, path = rest[2:].partition("/") if rest.startswith("//") else ("", "/", rest[1:])
    if host not in ("", "localhost") or not slash or set(path) & set("?#"):
        raise ValueError(
            f"path {url!r}: a file's URL is 'file:///', then an absolute path of this machine, in which '?' and '#' are"
            " '%3F' and '%23'"
        )
    return os.fsdecode(unquote_to_bytes(os.fsencode(slash + path)))


def _from_home(path: str) -> str:
    expanded = os.path.expanduser(path)  # noqa: PTH111
    if expanded == path:
        user = path.partition("/")[0]
        raise ValueError(f"path {path!r}: {user!r} is no home directory here; one of this very name is {'./' + path!r}")
    return expanded


def checked_choice(name: str, value: str, choices: Sequence[str]) -> str:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")
    return value


def checked_int(name: str, value: SupportsIndex, least: int) -> int:
    """`value` as an int of at least `least` and 63 bits; numpy's integers are welcome, bool is not."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    number = operator.index(value)
    if not least <= number <= MAX_INT:
        raise ValueError(f"{name} must be between {least} and 2**63 - 1, not {number}")
    return number


def checked_step(step: SupportsIndex | None) -> int | None:
    return None if step is None else checked_int("step", step, 0)


def checked_parent(parent: str | None) -> str | None:
    """A checkpoint's id."""
    if parent is None:
        return None
    if not isinstance(parent, str):
        raise TypeError(f"parent must be a checkpoint's id, a str, not {type(parent).__name__}")
    if not re.fullmatch(r"[0-9a-f]{32}", parent):
        raise ValueError(f"parent must be a checkpoint's id, 32 lower-case hexadecimal digits, not {parent!r}")
    return parent


def worker_options(
    threads: SupportsIndex | None, coding_bytes: SupportsIndex | None = None, io: str = "auto"
) -> dict[str, Any]:
    """What readers and writers have in common, as the engine takes it: 0 means its default."""
    return {
        "threads": 0 if threads is None else checked_int("threads", threads, 1),
        "coding_bytes": 0 if coding_bytes is None else checked_int("coding_bytes", coding_bytes, 1),
        "io": checked_choice("io", io, IO_MODES),
    }


def writer_options(
    *,
    codec: str,
    chunk_shape: Sequence[SupportsIndex] | None,
    overwrite: bool,
    staging_bytes: SupportsIndex | None = None,
    keep_bytes: SupportsIndex = 0,
    **workers: Any,
) -> dict[str, Any]:
    """The engine's arguments for a `_core.Writer`."""
    if chunk_shape is not None:
        if isinstance(chunk_shape, str) or not isinstance(chunk_shape, Sequence):
            raise TypeError(f"chunk_shape must be a sequence of ints, not {type(chunk_shape).__name__}")
        chunk_shape = [checked_int(f"chunk_shape[{axis}]", size, 1) for axis, size in enumerate(chunk_shape)]
    return {
        "codec": checked_choice("codec", codec, CODECS),
        "chunk_shape": chunk_shape,
        "overwrite": bool(overwrite),
        "staging_bytes": None if staging_bytes is None else checked_int("staging_bytes", staging_bytes, 1),
        "keep_bytes": checked_int("keep_bytes", keep_bytes, 0),
        **worker_options(**workers),
    }
