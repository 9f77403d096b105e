"""`load` and `verify`."""

from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Any, Literal, SupportsIndex

import numpy as np

from . import _core, leaves, options
from .errors import OstracaError
from .lowlevel import ArrayInfo, Reader
from .matching import Select, check_target, matched, selected
from .options import StrPath
from .progress import Progress, ProgressCallback, check_progress, reporting
from .reports import Damage, VerifyReport
from .tree import Kind, flatten, rebuild, unflatten

_path, _name, _nbytes = attrgetter("path"), attrgetter("name"), attrgetter("nbytes")


def load(
    path: StrPath,
    *,
    like: Any = None,
    select: Select | None = None,
    missing: Literal["error", "keep"] = "error",
    into: Any = None,
    max_bytes: SupportsIndex | None = None,
    verify: Literal["crc", "deep"] = "crc",
    threads: SupportsIndex | None = None,
    progress: Progress = None,
) -> Any:
    """Loads a checkpoint, or what `select` chooses of it, as a tree of new numpy arrays and Python values.

    Containers come back as dict, list and tuple, namedtuples and dataclass instances as dicts, and a list or tuple of
    which `select` leaves out items as a dict: index -> value. Arrays keep their byte order. JAX PRNG keys come back as
    key arrays when JAX was imported before, otherwise as their uint32 key data.

    select: a glob over display names ("params/*"; "*" matches "/" too), or a predicate on them.
    like: a tree to restore to, of arrays, anything else with shape and dtype (`jax.ShapeDtypeStruct`), and values.
    Leaves are matched by display name, so that containers may be of other classes than those saved; the result has
    `like`'s classes. All stored names must be in `like` unless `select` leaves them out, and all of `like`'s must be
    stored unless `missing="keep"`, which returns those as they are given.
    into: like `like`, but a tree of writable numpy arrays (any strides, either byte order), filled in place and
    returned; Python values are replaced. Nothing is written before all names, shapes and dtypes were compared. When
    reading fails later, the error names the arrays already modified.
    max_bytes: of memory that new arrays may take together; None means the memory that is available to the process
    (MemAvailable, or less where its control group leaves less). More is a MemoryError, before anything is read.
    verify: "deep" compares content hashes too; checksums are verified always. threads: that decode; None means all
    usable cores. progress: True for a bar on standard error, or a callable of (bytes done, bytes total).

    Raises `NotFoundError`, `FormatError`, `CorruptionError`, `MismatchError`, OSError, MemoryError.
    """
    options.checked_choice("missing", missing, ("error", "keep"))
    options.checked_choice("verify", verify, ("crc", "deep"))
    check_progress(progress)
    if like is not None and into is not None:
        raise ValueError("like= and into= exclude each other: into is a like that is filled in place")
    if missing == "keep" and like is None and into is None:
        raise ValueError("missing='keep' keeps leaves of like= or into=; give one of them")
    with (
        Reader(path, threads=threads, max_bytes=max_bytes) as reader,
        reporting(progress, f"loading {reader.path}") as callback,
    ):
        stored = selected(reader.arrays(), select)
        deep = verify == "deep"
        if like is None and into is None:
            values = _read(reader, stored, [None] * len(stored), deep, callback)
            return unflatten(list(zip(map(_path, stored), map(_name, stored), values, strict=True)))
        target = like if into is None else into
        given = flatten(target)
        found = matched(given, stored, keep=missing == "keep", what="like" if into is None else "into")
        places: list[Any] = [None] * len(given)
        if into is not None:
            places = [leaf for _, _, leaf in given]
            for leaf, info in zip(places, found, strict=True):
                if info is not None:
                    check_target(leaf, info)
        present = [(info, place) for info, place in zip(found, places, strict=True) if info is not None]
        values = _read(reader, [info for info, _ in present], [place for _, place in present], deep, callback)
        fresh = iter(values)
        result = (leaf if info is None else next(fresh) for (_, _, leaf), info in zip(given, found, strict=True))
        return rebuild(target, result)


def verify(path: StrPath, *, deep: bool = False, progress: Progress = None) -> VerifyReport:
    """Checks every stored byte of a checkpoint, and with `deep` that every chunk decodes to what was saved.

    Reports all damage. Raises `NotFoundError` where there is no checkpoint.
    """
    where = options.checked_path(path)
    check_progress(progress)
    with reporting(progress, f"verifying {where}") as callback:
        chunks, checked_bytes, damaged = _core.verify(where, deep=deep, progress=callback)
    return VerifyReport(not damaged, chunks, checked_bytes, [Damage(*damage) for damage in damaged])


def _read(
    reader: Reader, infos: Sequence[ArrayInfo], places: Sequence[Any], deep: bool, callback: ProgressCallback | None
) -> list[Any]:
    """The leaves' values; arrays are read into `places` where there are some."""
    placed = sum(info.nbytes for info, place in zip(infos, places, strict=True) if place is not None)
    reader.allow(sum(map(_nbytes, infos)) - placed)
    requests = [
        (info.number, None, info.dtype if place is None or info.kind is not Kind.ARRAY else place)
        for info, place in zip(infos, places, strict=True)
        if info.nbytes
    ]
    try:
        arrays = reader.fill(requests, deep=deep, progress=callback)
    except BaseException as error:
        modified = reader.modified()
        if modified and any(place is not None for place in places):
            text = f"arrays already modified: {', '.join(map(repr, modified))}"
            if isinstance(error, OstracaError):
                error.args = (f"{error}; {text}",)
            else:
                error.add_note(text)
        raise
    filled = iter(arrays)
    return [
        next(filled) if info.nbytes and info.kind is Kind.ARRAY else _value(info, place, filled)
        for info, place in zip(infos, places, strict=True)
    ]


def _value(info: ArrayInfo, place: Any, filled: Iterator[Any]) -> Any:
    """Of a leaf that is no array, or an array without bytes."""
    if info.kind is Kind.ARRAY:
        return info.allocate() if place is None else place
    array = next(filled) if info.nbytes else info.allocate() if info.has_data else np.empty(0)
    return leaves.restored(info.kind, info.detail, array)
