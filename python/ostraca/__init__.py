"""Ostraca: lossless checkpoint I/O for training frameworks.

    ostraca.save("run/1000", state, step=1000)
    state = ostraca.load("run/1000")

See `save`, `save_async`, `load`, `open`, `verify`; `BaseSnapshot`, `prune`, `compact`; `Writer`, `commit`, `Reader` to
embed Ostraca elsewhere.
"""

from typing import TYPE_CHECKING, Any

from ._core import VERSION as __version__
from .base import BaseSnapshot
from .containers import PerProcess
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
from .reports import Damage, SaveInfo, VerifyReport
from .saving import save, save_async

if TYPE_CHECKING:
    from .checkpoint import Checkpoint, StoredArray, open
    from .compacting import compact
    from .loading import load, verify
    from .lowlevel import ArrayInfo, ChunkInfo, Reader
    from .noting import annotate, notes
    from .pruning import prune
    from .recency import newest
    from .upkeep_reports import CheckpointRecord, CompactReport, Kept, PruneReport, Removed
    from .writing import FileReport, Writer, commit

# These are imported when first asked for: `import ostraca` is to be quick, and a program seldom needs all of them.
_LATER = {
    "compact": "compacting",
    "newest": "recency",
    "prune": "pruning",
    **dict.fromkeys(("Checkpoint", "StoredArray", "open"), "checkpoint"),
    **dict.fromkeys(("load", "verify"), "loading"),
    **dict.fromkeys(("ArrayInfo", "ChunkInfo", "Reader"), "lowlevel"),
    **dict.fromkeys(("FileReport", "Writer", "commit"), "writing"),
    **dict.fromkeys(("annotate", "notes"), "noting"),
    **dict.fromkeys(("CheckpointRecord", "CompactReport", "Kept", "PruneReport", "Removed"), "upkeep_reports"),
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = globals()[name] = getattr(importlib.import_module(f".{_LATER[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})


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
    "PerProcess",
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
    "annotate",
    "commit",
    "compact",
    "load",
    "newest",
    "notes",
    "open",
    "prune",
    "save",
    "save_async",
    "verify",
]
