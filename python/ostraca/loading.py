"""`load` and `verify`."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, SupportsIndex

from . import _core, history, options
from .casting import Cast
from .errors import OstracaError
from .instead import explained
from .lowlevel import ArrayInfo, Reader, requested
from .matching import Match, Select, Terms, is_filled, matched, named_from, tree_below
from .options import StrPath
from .overlap import check_targets
from .progress import Progress, ProgressCallback, check_progress, reporting
from .reports import Damage, VerifyReport
from .tree import Flattener, Kind


def load(
    path: StrPath,
    *,
    like: Any = None,
    root: str | None = None,
    select: Select | None = None,
    missing: Literal["error", "keep"] = "error",
    extra: Literal["error", "ignore"] = "error",
    cast: Cast = False,
    into: Any = None,
    max_bytes: SupportsIndex | None = None,
    verify: Literal["crc", "deep"] = "crc",
    threads: SupportsIndex | None = None,
    progress: Progress = None,
) -> Any:
    """Loads a checkpoint, or what `select` chooses of it, as a tree of new numpy arrays and Python values.

    Containers come back as dict, list and tuple, namedtuples and dataclass instances as dicts, and a list or tuple of
    which `select` leaves out items as a dict: index -> value. Arrays keep their byte order. Strings of varying length
    come back as numpy's `StringDType`, or as object arrays of bytes, whichever they were. numpy's scalars come back
    as 0-d arrays, members of an `enum` and other subclasses of int, float, str and bytes as these. JAX PRNG keys come
    back as key arrays when JAX was imported before, otherwise as their uint32 key data. `like` has its say in all this.

    root: the name of a subtree, such as "params": that is restored, and `like` is matched from there.
    select: a glob over display names, from the whole tree on, or a predicate on them. "*" stands for any characters,
    "/" among them ("params/*"), "?" for one, "[abc]", "[a-z]" and "[!abc]" for one of a set or none of it; a stored
    name that holds such text itself wins: "layer[0]/*" is what lies below a key "layer[0]", if there is one.
    like: a tree to restore to, of arrays, anything else with shape and dtype (`jax.ShapeDtypeStruct`), and values.
    Leaves are matched by display name, so that containers may be of other classes than those saved; the result has
    `like`'s classes. All stored names must be in `like`, unless `root` or `select` leave them out or `extra="ignore"`
    passes over them, and all of `like`'s must be stored, unless `missing="keep"` returns those as they are given; these
    must be values then, not descriptions. A Python int, float or bool is restored where `like` has an array of one such
    value, and the reverse, with the value unchanged (flax's `TrainState.step` is both).
    cast: brings numbers to the dtypes of `like` or `into`, which otherwise have to be the stored ones. True rounds
    floats, and loses nothing else: a `MismatchError` names the leaf and the index of an integer that does not fit, or
    of a finite value that would become inf, and floats do not become integers. "unsafe" takes what numpy makes of it.
    into: like `like`, but a tree of writable numpy arrays (any strides, either byte order), filled in place and
    returned; Python values are replaced. Nothing is written before all names, shapes and dtypes were compared, and what
    is cast was read. Arrays must not share memory, unless the same whole memory shall hold the same stored content
    (tied weights). When reading fails later, the error names the arrays already modified.
    max_bytes: of memory that new arrays may take together; None means the memory that is available to the process
    (MemAvailable, or less where its control group leaves less). More is a MemoryError, before anything is read.
    verify: "deep" compares content hashes too; checksums are verified always. threads: that decode; None means all
    usable cores. progress: True for a bar on standard error, or a callable of (bytes done, bytes total).

    Raises `NotFoundError`, `FormatError`, `CorruptionError`, `MismatchError`, OSError, MemoryError.
    """
    if like is not None and into is not None:
        raise ValueError("like= and into= exclude each other: into is a like that is filled in place")
    target = like if into is None else into
    terms = Terms.checked(
        root=root, select=select, missing=missing, extra=extra, cast=cast, has_tree=target is not None
    )
    deep = options.checked_choice("verify", verify, ("crc", "deep")) == "deep"
    check_progress(progress)
    with (
        Reader(path, threads=threads, max_bytes=max_bytes) as reader,
        reporting(progress, f"loading {reader.path}") as callback,
        history.loading(reader),
    ):
        stored = terms.chosen(reader.leaves())
        if target is None:
            return tree_below(root, stored, _read(reader, stored, [None] * len(stored), deep, callback))
        walk = Flattener()
        given = named_from(root, walk.flatten(target))
        found = matched(given, stored, terms, "like" if into is None else "into")
        present = [(match, leaf) for match, (_, _, leaf) in zip(found, given, strict=True) if match is not None]
        values = (_fitted if into is None else _filled)(reader, present, deep, callback)
        fresh = iter(values)
        result = (leaf if match is None else next(fresh) for match, (_, _, leaf) in zip(found, given, strict=True))
        return walk.rebuild(result)


def _fitted(
    reader: Reader, present: Sequence[tuple[Match, Any]], deep: bool, callback: ProgressCallback | None
) -> list[Any]:
    """The values of `like`."""
    values = _read(reader, [match.info for match, _ in present], [None] * len(present), deep, callback)
    for i, (match, _) in enumerate(present):
        if match.fit is not None:
            values[i] = match.fit.value(values[i])
    return values


def _filled(
    reader: Reader, present: Sequence[tuple[Match, Any]], deep: bool, callback: ProgressCallback | None
) -> list[Any]:
    """The values of `into`. What has to be converted is read first: a value that does not fit leaves all as it was."""
    in_place = [is_filled(leaf, match) for match, leaf in present]
    targets = [(match.info, leaf) for (match, leaf), is_target in zip(present, in_place, strict=True) if is_target]
    check_targets(
        [(info.name, leaf) for info, leaf in targets], lambda i, j: reader.same_content(targets[i][0], targets[j][0])
    )
    infos = [match.info for match, _ in present]
    places: list[Any] = [leaf if is_target else None for (_, leaf), is_target in zip(present, in_place, strict=True)]
    fits = {i: match.fit for i, (match, _) in enumerate(present) if match.fit is not None}
    if not fits:
        return _read(reader, infos, places, deep, callback)
    rest = [i for i in range(len(present)) if i not in fits]
    values: list[Any] = [None] * len(present)
    read = _read(reader, [infos[i] for i in fits], [None] * len(fits), deep, None if rest else callback)
    for (i, fit), value in zip(fits.items(), read, strict=True):
        values[i] = fit.value(value)
    read = _read(reader, [infos[i] for i in rest], [places[i] for i in rest], deep, callback)
    for i, value in zip(rest, read, strict=True):
        values[i] = value
    for i in fits:
        if places[i] is not None:
            places[i][...] = values[i]
            values[i] = places[i]
    return values


def verify(path: StrPath, *, deep: bool = False, progress: Progress = None) -> VerifyReport:
    """Checks every stored byte of a checkpoint, and with `deep` that every chunk decodes to what was saved.

    Reports all damage, and apart from it what the system did not let be read. Raises `NotFoundError` where there is no
    checkpoint, OSError where its manifest cannot be read.
    """
    where = options.checked_path(path)
    check_progress(progress)
    with explained(where), reporting(progress, f"verifying {where}") as callback:
        chunks, checked_bytes, *found = _core.verify(where, deep=deep, progress=callback)
    damaged, unreadable = ([Damage(*place) for place in places] for places in found)
    return VerifyReport(not (damaged or unreadable), chunks, checked_bytes, damaged, unreadable)


def _read(
    reader: Reader, infos: Sequence[ArrayInfo], places: Sequence[Any], deep: bool, callback: ProgressCallback | None
) -> list[Any]:
    """The leaves' values; arrays are read into `places` where there are some."""
    requests, fresh_bytes = requested(infos, places)
    reader.allow(fresh_bytes)
    modified: list[str] = []
    try:
        arrays = reader.fill(requests, deep=deep, progress=callback, modified=modified)
    except BaseException as error:
        if modified and any(place is not None for place in places):
            text = f"arrays already modified: {', '.join(map(repr, modified))}"
            if isinstance(error, OstracaError):
                error.args = (f"{error}; {text}",)
            else:
                error.add_note(text)
        raise
    filled = iter(arrays)
    array = Kind.ARRAY  # outside the loop, which is a large tree's
    return [
        next(filled) if info.kind is array and info.nbytes else _value(info, place, filled)
        for info, place in zip(infos, places, strict=True)
    ]


def _value(info: ArrayInfo, place: Any, filled: Iterator[Any]) -> Any:
    """Of a leaf that is no array, or an array without bytes."""
    if info.kind is Kind.ARRAY:
        return info.allocate() if place is None else place
    return info.value(filled)
