"""The errors Ostraca raises. The operating system's own errors stay `OSError`, with their errno and path.

Memory that cannot be had is `MemoryError`, with how much it was and what takes less.

Each is made from one message and can be pickled. Those that are also one of Python's I/O errors carry its errno.
"""

import errno


class OstracaError(Exception):
    """Base of all errors below."""


class CorruptionError(OstracaError):
    """Stored bytes differ from what was written: a checksum or a content hash does not match, or bytes are missing."""


class FormatError(OstracaError, ValueError):
    """Not an Ostraca checkpoint, a malformed one, or one that needs a newer version."""


class NotFoundError(OstracaError, FileNotFoundError):
    """There is no checkpoint at this path. (One of whose files some are missing is a `CorruptionError`.)"""

    errno = errno.ENOENT


class ExistsError(OstracaError, FileExistsError):
    """There is a checkpoint at this path already; `overwrite=True` replaces it."""

    errno = errno.EEXIST


class MismatchError(OstracaError, ValueError):
    """Names, shapes or dtypes differ from the `like` or `into` tree, `select` chose nothing, or a base is unfit."""


class CoordinationError(OstracaError, TimeoutError):
    """Another process failed, or did not answer in time."""

    errno = errno.ETIMEDOUT


class CommitUncertainError(OstracaError, OSError):
    """Published, but perhaps not durable: the checkpoint may or may not survive a crash. Nothing was deleted."""

    errno = errno.EIO


class UnsupportedError(OstracaError, TypeError):
    """A leaf, key or option that cannot be stored or served, with its name and what to do instead."""


class CancelledError(OstracaError):
    """The save was cancelled before its checkpoint was published. (Not asyncio's error of that name.)"""
