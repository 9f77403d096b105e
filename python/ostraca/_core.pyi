"""The compiled engine. Every call that moves bytes releases the GIL, and polls signals when it runs in the main thread.

Failures raise the classes of `ostraca.errors`; the operating system's errors are `OSError` with errno and filename, and
memory that cannot be had is `MemoryError`.
Sizes are bytes unless said otherwise; 0 for `threads`, `coding_bytes` means the default.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

# Kind, dtype code, detail, big-endian, immutable.
Description = tuple[int, int, str, bool, bool]
# Key path as stored (docs/format.md, section 5), description, the shard's memory (any strides; None for kinds without
# data), global shape and offset (None: the array is the whole leaf), chunk shape (None: the writer's). Fastest where
# leaves share their description.
Dims = tuple[int, ...]
LeafSpec = tuple[bytes, Description, NDArray[Any] | None, Dims | None, Dims | None, Dims | None]
# File name, offset in it, stored and decoded bytes, codec, content hash (hex), offset in the decoded extent, whether
# the file is the base's, stored bytes of a delta's base extent, origin and shape of the box in the leaf.
ChunkInfo = tuple[str, int, int, int, int, str, int, bool, int, tuple[int, ...], tuple[int, ...]]
Place = tuple[str, int, str, str]  # file, offset in it, array ("" when unknown), reason
LeafInfo = TypeVar("LeafInfo", bound=tuple[Any, ...])
ProgressCallback = Callable[[int, int], object]  # bytes done, bytes total

VERSION: str

# The engine's limits and sizes, in bytes (cpp/base/limits.h).
CHUNK_BYTES_MAX: int  # decoded, of a chunk
PACK_BYTES_MAX: int  # decoded, of a pack of small arrays
PACK_MEMBER_BYTES_MAX: int  # arrays up to here are packed
BLOCK_BYTES: int  # of an output buffer, and of a batch
ALIGNMENT_MAX: int
DOCUMENT_BYTES_MAX: int  # of a manifest, an intent, a tombstone
KEY_PATH_BYTES_MAX: int
ITEM_BYTES_MAX: int  # of one element
RANK_MAX: int
HUGE_PAGE_BYTES_MIN: int  # from here on new arrays come from `allocate`

CODEC_NAMES: tuple[str, ...]  # by number

class FileReport:
    """What one process wrote: enough for the committer to find and check its file. At most 1 KiB as bytes."""

    @property
    def process_index(self) -> int: ...
    @property
    def attempt(self) -> str: ...
    @property
    def file(self) -> str: ...
    @property
    def file_bytes(self) -> int: ...
    @property
    def logical_bytes(self) -> int: ...
    def to_bytes(self) -> bytes: ...
    @staticmethod
    def from_bytes(data: bytes) -> FileReport: ...

class BaseSnapshot:
    """The keyframe at `path`, or of the delta there, leased; keeps up to `budget_bytes` of its decoded chunks."""

    def __init__(self, path: str, budget_bytes: int) -> None: ...
    @property
    def path(self) -> str: ...  # the keyframe's
    @property
    def id(self) -> str: ...
    @property
    def kept_bytes(self) -> int: ...

class Writer:
    """Writes one process's data files. Holds arrays added with `on_copied` until it calls that, others to the end."""

    def __init__(
        self,
        path: str,
        *,
        process_index: int = 0,
        process_count: int = 1,
        attempt: str | None = None,
        codec: str = "auto",
        io: str = "auto",
        threads: int = 0,
        coding_bytes: int = 0,
        staging_bytes: int | None = None,  # None: read mutable arrays in place (synchronous); else stage them
        keep_bytes: int = 0,  # memory for decoded chunks that stay, for snapshot()
        base: BaseSnapshot | None = None,  # for an incremental save
        chunk_shape: Sequence[int] | None = None,
        overwrite: bool = False,
        opens_later: bool = False,
        file_bytes: int | None = None,  # beyond which the process begins another file; None: as the store likes it
    ) -> None: ...
    @property
    def attempt(self) -> str: ...
    def open(self) -> None: ...  # with opens_later, once: the directory and its files; until then memory is staged only
    def add(self, leaves: Sequence[LeafSpec], on_copied: Callable[[], object] | None = None) -> None: ...
    def seal(self) -> None: ...  # nothing more will be added: small arrays start to be packed and written
    def copied(self) -> bool: ...
    def wait_copied(self, timeout: float | None = None) -> bool: ...  # raises the writer's error, if it has one
    def renew(self) -> None: ...  # tells those who prune that the save lives, where that is due; from any thread
    def finish(self, progress: ProgressCallback | None = None) -> FileReport: ...  # seals; durable on return
    def snapshot(self) -> BaseSnapshot: ...  # after commit(): with what was kept, the first one
    def cancel(self) -> None: ...  # from any thread; finish() then raises CancelledError
    def abort(self) -> None: ...  # cancels, waits, removes what was written; the writer is dead afterwards
    def progress(self) -> tuple[int, int]: ...

class CommitProgress:
    """How far a commit is, for any thread."""

    def __init__(self) -> None: ...
    @property
    def files(self) -> int: ...  # of those reported, checked so far

def commit(
    path: str,
    reports: Sequence[FileReport],
    *,
    step: int | None = None,
    metadata: str | None = None,  # JSON text
    overwrite: bool = False,
    seconds: float = 0.0,
    stall_seconds: float = 0.0,
    replaces: str | None = None,  # an id: with `overwrite`, only over this checkpoint
    parent: str | None = None,  # an id, for the manifest
    created_ns: int = 0,  # nanoseconds since 1970; 0: now, but later than `created_after_ns`
    created_after_ns: int = 0,
    progress: CommitProgress | None = None,
) -> str:
    """Checks the reported files, writes index and manifest, publishes. Returns the manifest's JSON text."""

class Reader:
    """A committed checkpoint. Keeps its files open, so a later overwrite does not pull them away."""

    def __init__(self, path: str, *, threads: int = 0, coding_bytes: int = 0, io: str = "auto") -> None: ...
    @property
    def manifest(self) -> str: ...
    # Instances of `make`, a class of tuples: number, key path as (type, value) parts, display name, kinds[kind - 1],
    # dtype code, detail, big-endian, global shape, decoded bytes. Without a call of its __new__.
    def leaves(self, make: type[LeafInfo], kinds: tuple[object, ...]) -> list[LeafInfo]: ...
    def chunks(self, leaf: int) -> list[ChunkInfo]: ...
    def stored_bytes(self, leaf: int) -> int: ...  # of the extents it uses; of a pack its share
    # (leaf, start, array): fills `array` with the box of its shape that begins at `start` (None: at the origin).
    # (leaf, None, dtype): makes an array of the leaf's shape, and fills it. Returns the arrays.
    def read_into(
        self,
        requests: Sequence[tuple[int, Sequence[int] | None, NDArray[Any] | np.dtype[Any]]],
        deep: bool = False,
        progress: ProgressCallback | None = None,
        modified: list[int] | None = None,  # gets the numbers of the requests whose array was written to, failed or not
    ) -> list[NDArray[Any]]: ...
    def statistics(self) -> dict[str, int]: ...  # chunks_read, bytes_read, chunks_decoded, bytes_decoded
    def close(self) -> None: ...

def verify(
    path: str, *, deep: bool = False, threads: int = 0, progress: ProgressCallback | None = None
) -> tuple[int, int, list[Place], list[Place]]:
    """Returns chunks, bytes, the damage found, and the places that the system did not let be read."""

# Name, kind ("plain", "link", "other"), bytes, when it changed (nanoseconds since 1970, by the store's clock), version
# and contents of a document that was not seen before, why it could not be read.
ScannedFile = tuple[str, str, int, int, bytes, bytes | None, Exception | None]
# Name, whether it is a link, the child to which or into which that leads, whether to that itself, whether it can hold
# files, identity, when the directory itself changed, files without links and manifest, the children that links in it
# lead to, the manifest, why not all of this is known.
Child = tuple[
    str, bool, str, bool, bool, bytes, int, list[ScannedFile], list[str], ScannedFile | None, Exception | None
]

class Lease:
    """Held in a with block."""

    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...

class Storage:
    """A checkpoint's directory that a scan saw. Errors are `OSError`, and BlockingIOError where another has a lease."""

    def read(self, name: str) -> tuple[bytes, bytes]: ...  # contents and version
    def facts(self, id: str) -> tuple[str, bool]: ...  # noted about a checkpoint: see facts_among
    def retire(self, name: str, version: bytes, retired: str) -> None: ...  # ExistsError: another version is there
    def restore(self, retired: str, name: str) -> None: ...
    def remove(self, name: str) -> None: ...  # absent is fine
    def sync(self) -> None: ...  # names
    def lease_exclusive(self, name: str) -> Lease: ...  # against readers
    def lease_removing(self, name: str) -> Lease: ...  # against those who replace it

class Run:
    """A directory of checkpoints. Remembers which documents it has handed over: those come without contents again."""

    def __init__(self, path: str) -> None: ...
    @property
    def path(self) -> str: ...
    def scan(self) -> list[Child | str]: ...  # by name; the name alone: it is as it was in the scan before
    def changed_ns(self) -> int: ...  # when a child last came, went or was renamed; 0: the store does not say
    def itself(self) -> Child: ...  # as if it were a child
    def now(self, may_write: bool) -> int: ...  # nanoseconds since 1970, by the store's clock
    def child(self, name: str, identity: bytes) -> Storage: ...  # NotFoundError: another has its name now
    def remove_directory(self, name: str) -> None: ...  # if it is empty
    def created_last(self) -> int: ...  # when its newest checkpoint was, nanoseconds since 1970; 0: there is none
    # What `check` says, for each name and identity; many at a time.
    def check(self, children: Sequence[tuple[str, bytes]]) -> list[Exception | None]: ...

MANIFEST: str  # the name of a manifest
GRACE_SECONDS: float  # longer than any save is silent, and than readers go on that the server gives no lease

def real_path(path: str) -> str:
    """Links followed as far as they lead; the place need not be there."""

def check(path: str) -> Exception | None:
    """Why a checkpoint's manifest or index cannot be used, or its files are not there in their sizes."""

def facts_among(documents: Sequence[tuple[int, bytes | None]], id: str) -> tuple[str, bool]:
    """The facts, as JSON text, in the newest numbered notes about a checkpoint; whether a newer one is unreadable."""

def life(intent: bytes | None, age_seconds: float, grace_seconds: float) -> str:
    """Whether an attempt to save may go on, by its intent and the age of its newest file: the one answer.

    "runs": its process does, here. "recent": somebody wrote to it, or it came here, within the grace period. "gone":
    the same, but its process is gone. "over": none of it.
    """

def wrap_stores(wrapper: int) -> None:
    """For tests: the address of a StoreWrapper (cpp/engine/stores.h), in which all stores are from now on. 0: none."""

def base_of(text: bytes) -> tuple[str, str] | None:
    """Verifies a manifest or an intent of any features, and returns the base it names: directory and id.

    CorruptionError: not what was written. FormatError: not a document of ours, or of a later version.
    """

def manifest_of(text: bytes) -> dict[str, Any]:
    """The members of a manifest (docs/format.md, section 8), decoded as readers do it; raises what they would.

    base: directory and id. metadata: as JSON text. files: name and size of each, the index first.
    """

# Its id, its base (directory and id), when it was created, host, pid, and its process: "runs", "gone" or "unknown".
def note_of(text: bytes) -> tuple[str, str]:
    """Decodes notes: the checkpoint's id, the facts' JSON text. Raises `CorruptionError` or `FormatError`."""

def notes_number(name: bytes) -> int:
    """The number of a file of notes, by its name; 0: it is none."""

def notes_at(path: str, about: str | None = None) -> tuple[str, str, int, int, bool]:
    """The id of the checkpoint in place, or of `about`; the facts noted about it, their notes' number (0: none), the
    highest number of any notes, and whether newer ones cannot be read.
    """

def write_notes_at(path: str, id: str, after: int, facts: str, *, ahead: bool = False) -> None:
    """Writes notes number `after` + 1 about checkpoint `id`, which is in place, or `ahead` of its commit.

    ExistsError: somebody else was faster. NotFoundError: another checkpoint is in place.
    """

def intent_of(text: bytes) -> tuple[str, tuple[str, str] | None, str, str, int, str]:
    """Decodes an intent. Raises `CorruptionError` or `FormatError`."""

def allocate(nbytes: int) -> NDArray[np.uint8]:
    """Fresh, 64-byte aligned memory, backed by huge pages when large. Contents are unspecified."""

def content_hash(array: NDArray[Any]) -> bytes:
    """16 bytes that name what a C-ordered array holds: the format's content hash. Guards against accidents only."""

def release_free_memory() -> None:
    """Gives back to the system what the process's allocator keeps for later, where it can be told to (glibc)."""

def usable_cores() -> int: ...
def available_memory_bytes() -> int: ...
def cpu_features() -> list[str]: ...
