"""`ostraca convert`: safetensors, .npz and Orbax to a checkpoint, a checkpoint to safetensors and Orbax."""

import argparse
import json
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import dtypes, matching, metadata, progress, saving
from ..errors import FormatError, UnsupportedError
from ..lowlevel import ArrayInfo, Reader
from ..options import CODECS
from ..sharded.boxes import BATCH_BYTES, boxes
from ..tree import Kind, quoted
from . import orbax, safetensors, text

NAME: Final = "convert"
SUMMARY: Final = "convert from and to safetensors and Orbax, from .npz"
DESCRIPTION: Final = """\
Converts, the direction following from the paths:
  X.safetensors -> checkpoint, X.npz -> checkpoint, checkpoint -> X.safetensors
  Orbax's checkpoint, or a step of its manager -> checkpoint
  with --to orbax: checkpoint, or a manager's step saved through ostraca.orbax
  -> the same as stock Orbax writes it
Bits stay as they are; nothing is pickled or unpickled. Memory is bounded, but
that arrays of an .npz are read whole, and all of an Orbax checkpoint."""
EPILOG: Final = """\
Names in safetensors and .npz become one key each, "/" and "." in them
included, and come back unchanged, unless --separator is given, which splits
them into a tree. The other way it joins a tree's keys. Orbax's trees stay
trees, but Orbax has no int keys: they become text there. __metadata__ becomes
the checkpoint's metadata and the other way round; what is not text, and the
step, are kept in entries "ostraca.metadata" and "ostraca.step".

examples:
  ostraca convert model.safetensors run/imported
  ostraca convert model.safetensors run/imported --separator .
  ostraca convert weights.npz run/imported --codec zstd
  ostraca convert run/1000 model.safetensors --skip-unsupported --separator .
  ostraca convert run/1000 params.safetensors --root params
  ostraca convert orbax_run/1000 run/1000 --step 1000
  ostraca convert run/1000 orbax_run/1000 --to orbax

exit status: 0 ok, 1 the checkpoint is damaged, 2 usage or I/O error"""

_METADATA_KEY: Final = "ostraca.metadata"
_STEP_KEY: Final = "ostraca.step"


class Skipped(NamedTuple):
    name: str
    what: str


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", type=text.path, metavar="SRC", help="X.safetensors, X.npz, or a checkpoint, Orbax's too"
    )
    parser.add_argument("destination", type=text.path, metavar="DST", help="a new checkpoint, or X.safetensors")
    parser.add_argument("--to", choices=("orbax",), help="write DST as Orbax does (needs orbax-checkpoint)")
    parser.add_argument("--overwrite", action="store_true", help="replace DST")
    parser.add_argument("--codec", choices=CODECS, help="of the new checkpoint (default: auto)")
    parser.add_argument("--step", type=int, help="of the new checkpoint")
    parser.add_argument(
        "--separator", metavar="TEXT", help="joins keys to names (default: /), splits names to keys (default: do not)"
    )
    parser.add_argument("--root", metavar="NAME", help="of a checkpoint, convert this subtree, such as params")
    parser.add_argument("--skip-unsupported", action="store_true", help="leave out what DST cannot hold")


def run(arguments: argparse.Namespace) -> int:
    source, destination = Path(arguments.source), Path(arguments.destination)
    convert = _conversion(source, destination, arguments)
    if convert in (_export, orbax.export) and (arguments.codec or arguments.step is not None):
        raise ValueError("--codec and --step are for new checkpoints of Ostraca")
    if convert in (orbax.export, orbax.load) and arguments.separator is not None:
        raise ValueError("--separator is for names in files; Orbax has trees")
    if convert not in (_export, orbax.export) and arguments.root is not None:
        raise ValueError("--root is for checkpoints of Ostraca that are converted to something else")
    started = time.perf_counter()
    result: dict[str, Any] = {"source": arguments.source, "destination": arguments.destination}
    result |= convert(source, destination, arguments)
    seconds = time.perf_counter() - started
    result["seconds"] = round(seconds, 6)
    if arguments.json:
        text.show_json(result)
        return 0
    sizes = f"{text.size(result['logical_bytes'])} logical, {text.size(result['stored_bytes'])} stored"
    speed = f"{seconds:.2f} s, {text.rate(result['logical_bytes'], seconds)}"
    text.show(text.escaped(f"{destination}: {text.counted(result['arrays'], 'array')}, {sizes}, {speed}"))
    for skipped in result["skipped"]:
        text.show(text.escaped(f"skipped: {skipped['name']} ({skipped['what']})"))
    return 0


def _conversion(source: Path, destination: Path, arguments: argparse.Namespace) -> Callable[..., dict[str, Any]]:
    """What converts the one to the other."""
    is_file = source.suffix.lower() in (".safetensors", ".npz") and not source.is_dir()
    to_file = destination.suffix.lower() in (".safetensors", ".npz")
    if arguments.to == "orbax":
        if is_file or to_file:
            raise ValueError(f"cannot convert {source} to {destination} with --to orbax: both must be directories")
        return orbax.export
    if is_file and not to_file:
        return _import_npz if source.suffix.lower() == ".npz" else _import_safetensors
    if not is_file and not to_file and orbax.is_orbax(source):
        return orbax.load
    if not is_file and destination.suffix.lower() == ".safetensors":
        return _export
    raise ValueError(
        f"cannot convert {arguments.source} to {arguments.destination}: one of them must be a checkpoint, the other"
        " X.safetensors, or to convert from X.npz or a checkpoint of Orbax's"
    )


# --- To a checkpoint ----------------------------------------------------------------------------------------------


def _import_safetensors(source: Path, destination: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    header = safetensors.read_header(source)
    skipped = [Skipped(t.name, t.dtype) for t in header.tensors if t.dtype not in safetensors.DTYPES]
    _refuse(skipped, "a checkpoint", arguments)
    kept = [tensor for tensor in header.tensors if tensor.dtype in safetensors.DTYPES]
    step, document = _imported_metadata(source, header.metadata)
    arrays = safetensors.views(source, header, kept)
    return _save(destination, arrays, document, step if arguments.step is None else arguments.step, skipped, arguments)


def _import_npz(source: Path, destination: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    arrays: dict[str, NDArray[Any]] = {}
    skipped: list[Skipped] = []
    try:
        opened = np.load(source, allow_pickle=False)
        if not isinstance(opened, np.lib.npyio.NpzFile):
            raise FormatError(f"{str(source)!r} is not an .npz file")
        with opened as file:
            if len(set(file.files)) < len(file.files):
                raise FormatError(f"{str(source)!r} holds two arrays of one name")
            for name in file.files:
                _read_member(source, file, name, arrays, skipped)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise FormatError(f"{str(source)!r} is not an intact .npz file: {error}") from None
    except ValueError as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{str(source)!r} is not an .npz file: {error}") from None
    _refuse(skipped, "a checkpoint", arguments)
    return _save(destination, arrays, None, arguments.step, skipped, arguments)


def _read_member(source: Path, file: Any, name: str, arrays: dict[str, NDArray[Any]], skipped: list[Skipped]) -> None:
    try:
        array = file[name]
    except ValueError as error:
        if "allow_pickle" in str(error):
            skipped.append(Skipped(name, "an object array, which only unpickling can read"))
            return
        raise FormatError(f"{str(source)!r}: cannot read {quoted(name)}: {error}") from None
    if not isinstance(array, np.ndarray):
        skipped.append(Skipped(name, "not an array"))
        return
    try:
        dtypes.encode(array.dtype)
        arrays[name] = array
    except UnsupportedError as error:
        skipped.append(Skipped(name, str(error)))


def _save(
    destination: Path,
    arrays: dict[str, NDArray[Any]],
    document: Any,
    step: int | None,
    skipped: Sequence[Skipped],
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    info = saving.save(
        destination,
        _nested(arrays, arguments.separator) if arguments.separator else arrays,
        step=step,
        metadata=document,
        codec=arguments.codec or "auto",
        overwrite=arguments.overwrite,
        progress=sys.stderr.isatty() or None,
    )
    return _result("ostraca", info.arrays, info.logical_bytes, info.stored_bytes, skipped)


def _nested(arrays: dict[str, NDArray[Any]], separator: str) -> dict[str, Any]:
    root: dict[str, Any] = {}
    for name, array in arrays.items():
        *above, last = name.split(separator)
        node = root
        for key in above:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                break
        if not isinstance(node, dict) or last in node:
            raise UnsupportedError(f"{quoted(name)} is an array and lies above another, split at {separator!r}")
        node[last] = array
    return root


def _imported_metadata(source: Path, entries: dict[str, str] | None) -> tuple[int | None, Any]:
    """Step and metadata from `__metadata__`."""
    if entries is None:
        return None, None
    rest = {key: value for key, value in entries.items() if key not in (_METADATA_KEY, _STEP_KEY)}
    try:
        step = int(entries[_STEP_KEY]) if _STEP_KEY in entries else None
        if _METADATA_KEY not in entries:
            return step, rest or (None if step is not None else {})
        document = metadata.decode(json.loads(entries[_METADATA_KEY]))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{str(source)!r}: its entries ostraca.* are malformed: {error}") from None
    return step, document | rest if isinstance(document, dict) else document


# --- From a checkpoint --------------------------------------------------------------------------------------------


def _export(source: Path, destination: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    with Reader(source) as reader:
        chosen = matching.below(arguments.root, reader.leaves())
        unsupported = [(info, what) for info in chosen if (what := _unsupported(info))]
        skipped = [Skipped(info.name, what) for info, what in unsupported]
        _refuse(skipped, "safetensors", arguments)
        left_out = {info.number for info, _ in unsupported}
        infos = [info for info in chosen if info.number not in left_out]
        names = _names(infos, "/" if arguments.separator is None else arguments.separator, arguments.root)
        codes = [safetensors.NAMES[dtypes.describe(info.dtype_code, "")] for info in infos]
        tensors = safetensors.plan(list(zip(names, codes, (info.shape for info in infos), strict=True)))
        in_order = [infos[i] for i in sorted(range(len(infos)), key=lambda i: (tensors[i].begin, tensors[i].end))]
        logical = sum(info.nbytes for info in infos)
        show = sys.stderr.isatty() or None
        with progress.reporting(show, "writing") as report:
            stored = safetensors.write(
                destination,
                tensors,
                _exported_metadata(reader),
                _blocks(reader, in_order),
                overwrite=arguments.overwrite,
                on_bytes=lambda done: report(done, logical) if report else None,
            )
    return _result("safetensors", len(infos), logical, stored, skipped)


def _unsupported(info: ArrayInfo) -> str | None:
    if info.kind is not Kind.ARRAY:
        return text.dtype_text(info)
    name = dtypes.describe(info.dtype_code, info.detail)
    return None if name in safetensors.NAMES else text.dtype_text(info)


def _names(infos: Sequence[ArrayInfo], separator: str, root: str | None) -> list[str]:
    names: dict[str, ArrayInfo] = {}
    for info, below in zip(infos, matching.paths_below(root, infos), strict=True):
        name = separator.join(str(key) for _, key in below or info.path[-1:])
        if name in names:
            raise UnsupportedError(
                f"{quoted(names[name].name)} and {quoted(info.name)} would both be named {name!r}; choose a --separator"
            )
        if name == "__metadata__":
            raise UnsupportedError("safetensors reserves the name '__metadata__'")
        names[name] = info
    return list(names)


def _exported_metadata(reader: Reader) -> dict[str, str] | None:
    manifest = reader.manifest()
    document, step = manifest.metadata, manifest.info.step
    entries: dict[str, str] = {}
    if isinstance(document, dict):
        entries = {key: value for key, value in document.items() if isinstance(value, str)}
    reserved = entries.keys() & {_METADATA_KEY, _STEP_KEY}
    if reserved:
        raise UnsupportedError(f"metadata has the key {reserved.pop()!r}, which convert uses itself")
    is_text = isinstance(document, dict) and len(entries) == len(document)
    if document is not None and (not is_text or (not entries and step is not None)):  # {} beside a step, not None
        entries[_METADATA_KEY] = metadata.encode(document) or "null"
    if step is not None:
        entries[_STEP_KEY] = str(step)
    return entries if entries or document is not None else None


def _blocks(reader: Reader, infos: Iterable[ArrayInfo]) -> Iterator[NDArray[Any]]:
    """The arrays' data, little-endian and in C order, a bounded number of bytes at a time."""
    batch: list[tuple[int, tuple[int, ...], NDArray[Any]]] = []
    batch_bytes = 0
    for info in infos:
        dtype = dtypes.decode(info.dtype_code, info.detail)
        for start, shape in boxes(info.shape, dtype.itemsize):
            batch.append((info.number, start, np.ndarray(shape, dtype)))
            batch_bytes += batch[-1][2].nbytes
            if batch_bytes >= BATCH_BYTES:
                yield from _filled(reader, batch)
                batch_bytes = 0
    yield from _filled(reader, batch)


def _filled(reader: Reader, batch: list[tuple[int, tuple[int, ...], NDArray[Any]]]) -> Iterator[NDArray[Any]]:
    reader.fill(batch)
    for _, _, array in batch:
        yield array
    batch.clear()


def _refuse(skipped: Sequence[Skipped], target: str, arguments: argparse.Namespace) -> None:
    if skipped and not arguments.skip_unsupported:
        raise text.refusal(target, skipped)


def _result(kind: str, arrays: int, logical: int, stored: int, skipped: Sequence[Skipped]) -> dict[str, Any]:
    return {
        "format": kind,
        "arrays": arrays,
        "logical_bytes": logical,
        "stored_bytes": stored,
        "skipped": [entry._asdict() for entry in skipped],
    }
