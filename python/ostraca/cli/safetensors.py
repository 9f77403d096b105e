"""The safetensors format: 8 bytes with the header's length, a JSON header, the tensors' bytes without gaps.

Nothing in a file is believed: lengths are compared with the file's size, and offsets have to tile the data exactly, as
the format's own library demands. Tensors are views of the mapped file.
"""

import errno
import json
import math
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _core, dtypes
from ..errors import ExistsError, FormatError
from ..tree import quoted

MAX_HEADER_BYTES: Final = 100_000_000
MAX_RANK: Final = _core.RANK_MAX
MAX_SIZE: Final = (1 << 63) - 1
_LENGTH_BYTES: Final = 8
_METADATA: Final = "__metadata__"

# fmt: off
DTYPES: Final = {
    "BOOL": "bool", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64", "U8": "uint8", "U16": "uint16",
    "U32": "uint32", "U64": "uint64", "F16": "float16", "F32": "float32", "F64": "float64", "C64": "complex64",
    "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}
# fmt: on
NAMES: Final = {name: code for code, name in DTYPES.items()}
_PACKED_BITS: Final = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}  # valid, but numpy has no such elements


class Tensor(NamedTuple):
    name: str
    dtype: str  # safetensors' name of it
    shape: tuple[int, ...]
    begin: int  # in the data
    end: int


class Header(NamedTuple):
    tensors: list[Tensor]  # in the header's order
    metadata: dict[str, str] | None
    data_offset: int  # of the data, in the file


def read_header(path: Path) -> Header:
    """The header of a file, checked. Raises `FormatError` or OSError."""
    with path.open("rb") as file:
        file_bytes = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if file_bytes < _LENGTH_BYTES:
            raise _bad(path, f"{file_bytes} bytes are too few for a safetensors file")
        if length > min(MAX_HEADER_BYTES, file_bytes - _LENGTH_BYTES):
            limit = f"the file has {file_bytes} bytes and the limit is {MAX_HEADER_BYTES}"
            raise _bad(path, f"says that its header takes {length} bytes, but {limit}")
        text = file.read(length)
    members = _parsed(path, text)
    metadata = members.pop(_METADATA, None)
    if metadata is not None and not (isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())):
        raise _bad(path, f"{_METADATA} is not an object of strings")
    tensors = [_tensor(path, name, member) for name, member in members.items()]
    _check_tiling(path, tensors, file_bytes - _LENGTH_BYTES - length)
    return Header(tensors, metadata, _LENGTH_BYTES + length)


def views(path: Path, header: Header, tensors: Iterable[Tensor]) -> dict[str, NDArray[Any]]:
    """Name to array, read-only and lying in the mapped file."""
    data_bytes = max((tensor.end for tensor in header.tensors), default=0)
    data: NDArray[np.uint8] = np.zeros(0, np.uint8)
    if data_bytes:
        data = np.memmap(path, np.uint8, "r", header.data_offset, (data_bytes,))
    return {tensor.name: _view(data, tensor) for tensor in tensors}


def plan(leaves: Sequence[tuple[str, str, tuple[int, ...]]]) -> list[Tensor]:
    """Offsets for tensors given as (name, dtype, shape): wide elements first, so that all of them are aligned."""
    item_bytes = [dtypes.item_bytes(dtypes.CODES[DTYPES[dtype]], "") for _, dtype, _ in leaves]
    tensors: dict[int, Tensor] = {}
    position = 0
    for i in sorted(range(len(leaves)), key=lambda i: -item_bytes[i]):
        name, dtype, shape = leaves[i]
        end = position + math.prod(shape) * item_bytes[i]
        tensors[i] = Tensor(name, dtype, shape, position, end)
        position = end
    return [tensors[i] for i in range(len(leaves))]


def write(
    path: Path,
    tensors: Sequence[Tensor],
    metadata: Mapping[str, str] | None,
    blocks: Iterator[NDArray[Any]],
    *,
    overwrite: bool,
    on_bytes: Callable[[int], object],
) -> int:
    """Writes a file whose data are `blocks`, in the order of the offsets; returns its size. All of it, or nothing."""
    members: dict[str, Any] = {} if metadata is None else {_METADATA: dict(metadata)}
    for tensor in tensors:
        shape, offsets = list(tensor.shape), [tensor.begin, tensor.end]
        members[tensor.name] = {"dtype": tensor.dtype, "shape": shape, "data_offsets": offsets}
    text = json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise FormatError(f"the header would take {len(text)} bytes; safetensors allows {MAX_HEADER_BYTES}")
    data_bytes = max((tensor.end for tensor in tensors), default=0)
    written = 0
    with _published(path, overwrite) as file:
        file.write(len(text).to_bytes(_LENGTH_BYTES, "little") + text)
        for block in blocks:
            file.write(block.reshape(-1).view(np.uint8).data)
            written += block.nbytes
            on_bytes(written)
        assert written == data_bytes, "the blocks are not what was planned"
    return _LENGTH_BYTES + len(text) + data_bytes


def _parsed(path: Path, text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) < len(pairs):
            seen: set[str] = set()
            twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            raise _bad(path, f"its header has {quoted(twice)} twice")
        return members

    if not text.startswith(b"{"):
        raise _bad(path, "its header does not begin with '{': this is not a safetensors file")
    try:
        members = json.loads(text.decode(), object_pairs_hook=unique)
    except FormatError:
        raise
    except (ValueError, RecursionError) as error:
        raise _bad(path, f"its header is not JSON: {error}") from None
    assert isinstance(members, dict)
    return members


def _tensor(path: Path, name: str, member: Any) -> Tensor:
    try:
        name.encode()
        dtype, shape, (begin, end) = member["dtype"], member["shape"], member["data_offsets"]
        if type(shape) is not list or any(type(size) is not int for size in (*shape, begin, end)):
            raise TypeError
    except UnicodeEncodeError:
        raise _bad(path, f"the name {name!r} is not valid Unicode") from None
    except (KeyError, TypeError, ValueError):
        raise _bad(
            path, f"the header says {quoted(name)} is {member!r:.80}: no dtype, shape and data_offsets"
        ) from None
    bits = _bits(dtype)
    if bits is None:
        raise _bad(path, f"{quoted(name)} has the unknown dtype {dtype!r:.40}")
    if len(shape) > MAX_RANK or not all(0 <= size <= MAX_SIZE for size in shape):
        raise _bad(path, f"{quoted(name)} has the impossible shape {shape!r:.80}")
    if math.prod(size or 1 for size in shape) * bits > MAX_SIZE:
        raise _bad(path, f"{quoted(name)} has the shape {shape!r:.80}, which is too large")
    if not 0 <= begin <= end or (end - begin) * 8 != math.prod(shape) * bits:
        needed = f"{math.prod(shape) * bits / 8:g} bytes"
        raise _bad(path, f"{quoted(name)}, {dtype} {shape!r:.80}, needs {needed}; its offsets are {begin} to {end}")
    return Tensor(name, dtype, tuple(shape), begin, end)


def _bits(dtype: Any) -> int | None:
    if not isinstance(dtype, str):
        return None
    if dtype in DTYPES:
        return 8 * dtypes.item_bytes(dtypes.CODES[DTYPES[dtype]], "")
    return _PACKED_BITS.get(dtype)


def _check_tiling(path: Path, tensors: Sequence[Tensor], data_bytes: int) -> None:
    position, before = 0, "the data's beginning"
    for tensor in sorted(tensors, key=lambda tensor: (tensor.begin, tensor.end)):
        if tensor.begin != position:
            what = "overlaps" if tensor.begin < position else "leaves a gap after"
            raise _bad(path, f"{quoted(tensor.name)}, at {tensor.begin}, {what} {before}, which ends at {position}")
        position, before = tensor.end, quoted(tensor.name)
    if position != data_bytes:
        raise _bad(path, f"its tensors take {position} bytes, but {data_bytes} follow the header")


def _view(data: NDArray[np.uint8], tensor: Tensor) -> NDArray[Any]:
    dtype = dtypes.decode(dtypes.CODES[DTYPES[tensor.dtype]], "")
    part = data[tensor.begin : tensor.end].view(np.ndarray)
    return np.ndarray(tensor.shape, dtype) if tensor.begin == tensor.end else part.view(dtype).reshape(tensor.shape)


@contextmanager
def _published(path: Path, overwrite: bool) -> Iterator[BinaryIO]:
    """A new file that gets its name when the block ends well, durably, and never in place of another unless told."""
    _refuse_existing(path, overwrite)
    temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            temporary.replace(path)
        else:
            _link(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _link(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError:
        _refuse_existing(path, False)
    except OSError:  # a file system without hard links
        _refuse_existing(path, False)
        temporary.replace(path)


def _refuse_existing(path: Path, overwrite: bool) -> None:
    if not path.parent.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "is no directory to write to", str(path.parent))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a directory", str(path))
    if os.path.lexists(path) and not overwrite:
        raise ExistsError(f"{str(path)!r} exists; --overwrite replaces it")


def _bad(path: Path, what: str) -> FormatError:
    return FormatError(f"{str(path)!r}: {what}")
