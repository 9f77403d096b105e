"""Ostraca: lossless checkpoint I/O for training frameworks.

    ostraca.save("run/1000", state, step=1000)
    state = ostraca.load("run/1000")

See `save`, `save_async`, `load`, `open`, `verify`; `BaseSnapshot`, `prune`, `compact`; `Writer`, `commit`, `Reader` to
embed Ostraca elsewhere.
"""

from ._core import VERSION as __version__
from .base import BaseSnapshot
from .checkpoint import Checkpoint, StoredArray, open
from .compacting import compact
from .errors import (
    CancelledError,
    CommitUncertainError,
    CoordinationError,
    CorruptionError,
    ExistsError,
    FormatError,
    MismatchError,
    NotFoundError,
    OstracaError,
    UnsupportedError,
)
from .handles import SaveHandle
from .loading import load, verify
from .lowlevel import ArrayInfo, ChunkInfo, FileReport, Reader, Writer, commit
from .pruning import prune
from .reports import CheckpointRecord, CompactReport, Damage, Kept, PruneReport, Removed, SaveInfo, VerifyReport
from .saving import save, save_async

__all__ = [
    "ArrayInfo",
    "BaseSnapshot",
    "CancelledError",
    "Checkpoint",
    "CheckpointRecord",
    "ChunkInfo",
    "CommitUncertainError",
    "CompactReport",
    "CoordinationError",
    "CorruptionError",
    "Damage",
    "ExistsError",
    "FileReport",
    "FormatError",
    "Kept",
    "MismatchError",
    "NotFoundError",
    "OstracaError",
    "PruneReport",
    "Reader",
    "Removed",
    "SaveHandle",
    "SaveInfo",
    "StoredArray",
    "UnsupportedError",
    "VerifyReport",
    "Writer",
    "__version__",
    "commit",
    "compact",
    "load",
    "open",
    "prune",
    "save",
    "save_async",
    "verify",
]
