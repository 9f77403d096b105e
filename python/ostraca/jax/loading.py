"""`load`: what is read together, and what becomes of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Literal, NamedTuple, SupportsIndex

import jax
import numpy as np

from .. import _core, history, options
from ..casting import Cast
from ..lowlevel import ArrayInfo, Reader
from ..matching import Select, Terms, matched, named_from, tree_below
from ..options import StrPath
from ..progress import Progress, ProgressCallback, check_progress, reporting
from ..sharded.calls import Call
from ..tree import Flattener, Leaf
from . import service
from .nodes import REGISTERED
from .placing import STAGING_BYTES, Box, Placement, Placer, Staged, staged_bytes
from .targets import Targets, is_sharding

GROUP_BYTES: Final = 32 << 20  # read in one call, so that the engine's threads have work
SMALL_BYTES: Final = _core.PACK_BYTES_MAX  # arrays up to here may be in packs, of which the reader keeps the last ones
CODING_BYTES: Final = 64 << 20


def load(
    path: StrPath,
    *,
    like: Any = None,
    root: str | None = None,
    select: Select | None = None,
    missing: Literal["error", "keep"] = "error",
    extra: Literal["error", "ignore"] = "error",
    into: Any = None,
    cast: Cast = False,
    verify: Literal["crc", "deep"] = "crc",
    threads: SupportsIndex | None = None,
    max_bytes: SupportsIndex | None = None,
    timeout: float | None = None,
    progress: Progress = None,
) -> Any:
    """Loads a checkpoint, or what `select` chooses of it, as jax.Arrays with the shardings of `like`.

    like: a tree of jax.Arrays, `jax.ShapeDtypeStruct`s (without a sharding: the default device), shardings or
    `jax.experimental.layout.Format`s, numpy arrays (which come back as such) and Python values, in any registered
    containers; or one sharding for all arrays of the checkpoint. Shardings over an abstract mesh, which
    `jax.eval_shape` makes, are put on the mesh of `jax.set_mesh`. The mesh need not be the one that was saved from:
    each process reads what its devices need, once. Memory kinds, layouts and weak types are honoured, and the arrays
    can be donated. Without `like`, plain containers of numpy arrays come back, as from `ostraca.load`; a sharding alone
    makes arrays that are not weakly typed.
    root, select, missing, extra, verify, threads, progress: as of `ostraca.load`. `into` is only there.
    cast: as of `ostraca.load`; also from 64 bits to 32 where jax_enable_x64 is off, which otherwise is an error.
    max_bytes: as of `ostraca.load`; it counts what comes to lie in the host's memory (on CPU devices each array once,
    where there is one process).
    timeout: seconds after which a process that lives, but does not make this call or no progress in it, counts as lost;
    None is `OSTRACA_TIMEOUT`, or 300. One that shows no sign of life is lost after 60.

    With several processes all must call it, with a `like` of the same global arrays: none returns before all can. An
    `ostraca.PerProcess` in `like` takes what the process of this index had stored.
    Raises `NotFoundError`, `FormatError`, `CorruptionError`, `MismatchError`, `CoordinationError`, OSError.
    """
    # First of all, as a process that fails has to tell the others.
    choices = {"root": root, "missing": missing != "error" and missing, "extra": extra != "error" and extra}
    call = Call.of_load(path, **choices, cast=cast)
    agreement = service.group().meet(call, timeout=timeout, consequence="No process has restored anything")
    try:
        where = options.checked_path(path)
        has_tree = like is not None and not is_sharding(like)
        terms = Terms.checked(root=root, select=select, missing=missing, extra=extra, cast=cast, has_tree=has_tree)
        options.checked_choice("verify", verify, ("crc", "deep"))
        check_progress(progress)
        if into is not None:
            raise ValueError(
                "jax.Arrays cannot be filled in place: use like= here, or ostraca.load(into=) on numpy arrays"
            )
        with (
            Reader(where, threads=threads, coding_bytes=CODING_BYTES, max_bytes=max_bytes) as reader,
            reporting(progress, f"loading {where}") as callback,
            history.loading(reader),
        ):
            fetch = _Fetch(reader, verify == "deep", callback)
            agreement.writing(lambda: fetch.done_bytes, fetch.stop)
            result = _loaded(fetch, like, terms.chosen(reader.leaves()), terms)
        agreement.agree()
    except BaseException as error:
        agreement.fail(error)
        cause = agreement.cause(error)
        if cause is error:
            raise
        raise cause from None
    return result


def _loaded(fetch: _Fetch, like: Any, stored: Sequence[ArrayInfo], terms: Terms) -> Any:
    targets = Targets(terms.cast)
    if like is None or is_sharding(like):
        values = fetch.run([(info, targets.placement(info, like)) for info in stored], targets)
        return tree_below(terms.root, stored, values)
    walk = Flattener(REGISTERED, jax.process_index())
    given, stored = _given(walk, like, stored, terms)
    by_name = {info.name: info for info in stored}
    described = [(path, name, targets.described(leaf, by_name.get(name))) for path, name, leaf in given]
    found = matched(described, stored, terms, "like")
    present = [(match, leaf) for match, (_, _, leaf) in zip(found, given, strict=True) if match is not None]
    wanted = [(match.info, targets.placement(match.info, leaf)) for match, leaf in present]
    values = [
        value if placement is not None or match.fit is None else targets.fitted(match.fit.value(value), match, leaf)
        for value, (_, placement), (match, leaf) in zip(fetch.run(wanted, targets), wanted, present, strict=True)
    ]
    targets.check()
    fresh = iter(values)
    result = (leaf if match is None else next(fresh) for match, (_, _, leaf) in zip(found, given, strict=True))
    return walk.rebuild(result)


def _given(walk: Flattener, like: Any, stored: Sequence[ArrayInfo], terms: Terms) -> tuple[list[Leaf], list[ArrayInfo]]:
    """The leaves of `like`, and of the stored ones those that are not another process's own."""
    process = jax.process_index()
    given = named_from(terms.root, walk.flatten(like))
    if not walk.per_process:
        return given, list(stored)
    # The names differ in the process index alone.
    others = named_from(terms.root, Flattener(REGISTERED, process + 1).flatten(like))
    prefixes = set()
    for (_, name, _), (_, other, _) in zip(given, others, strict=True):
        if name != other:
            parts = name.split("/")
            at = next(i for i, (part, theirs) in enumerate(zip(parts, other.split("/"), strict=True)) if part != theirs)
            prefixes.add("".join(part + "/" for part in parts[:at]))
    own = tuple(prefix + str(process) for prefix in prefixes)

    def is_ours(name: str) -> bool:
        return not name.startswith(tuple(prefixes)) or name in own or name.startswith(tuple(each + "/" for each in own))

    return given, [info for info in stored if is_ours(info.name)]


class _Stopped(Exception):
    """Another process failed."""


class _Atom(NamedTuple):
    """What is read in one call, lest a chunk be read twice."""

    at: int  # in the list of what is wanted
    info: ArrayInfo
    placement: Placement | None  # None: a value on the host
    boxes: Sequence[Box]
    nbytes: int

    def staged_bytes(self) -> int:
        return 0 if self.placement is None else sum(staged_bytes(self.placement, box) for box in self.boxes)


class _Fetch:
    """Reads leaves, group by group, while those before are copied to the devices."""

    def __init__(self, reader: Reader, deep: bool, callback: ProgressCallback | None) -> None:
        self.done_bytes = 0
        self._reader = reader
        self._deep = deep
        self._callback = callback
        self._stopped = False

    def stop(self) -> None:
        """From any thread: makes `run` raise `_Stopped`."""
        self._stopped = True

    def run(self, wanted: Sequence[tuple[ArrayInfo, Placement | None]], targets: Targets) -> list[Any]:
        """The values of leaves, with their placements."""
        targets.check()
        on_host = jax.process_count() == 1 and jax.default_backend() == "cpu"
        self._reader.allow(sum(info.nbytes for info, placement in wanted if placement is None or on_host))
        values: list[Any] = [None] * len(wanted)
        groups = list(_groups(self._atoms(wanted)))
        total = sum(atom.nbytes for group in groups for atom in group)
        staged_bytes = [sum(atom.staged_bytes() for atom in group) for group in groups]
        with Placer(max(min(STAGING_BYTES, sum(staged_bytes)), max(staged_bytes, default=0))) as placer:
            for group in groups:
                boxes = [(atom, box) for atom in group for box in atom.boxes]
                staged = placer.stage([(atom.placement, box) for atom, box in boxes if atom.placement is not None])
                self._read(group, staged, values, total)
                placer.place(staged)
            placer.finish()
        return [
            value if placement is None else placement.array
            for value, (_, placement) in zip(values, wanted, strict=True)
        ]

    def _read(self, group: Sequence[_Atom], staged: Sequence[Staged], values: list[Any], total: int) -> None:
        host = [atom for atom in group if atom.placement is None]
        requests: list[Any] = [request for atom in host for request in atom.info.requests()]
        requests += [(each.placement.number, each.box.start, each.memory) for each in staged if each.memory.size]
        begun = self.done_bytes
        nbytes = sum(atom.nbytes for atom in group)

        def progress(done: int, whole: int) -> None:
            if self._stopped:
                raise _Stopped
            self.done_bytes = begun + nbytes * done // whole if whole else begun
            if self._callback is not None:
                self._callback(self.done_bytes, total)

        arrays = iter(self._reader.fill(requests, deep=self._deep, progress=progress))
        for atom in host:
            values[atom.at] = atom.info.value(arrays)
        self.done_bytes = begun + nbytes

    def _atoms(self, wanted: Sequence[tuple[ArrayInfo, Placement | None]]) -> Iterator[_Atom]:
        """In the order of the files: large arrays as they are in the tree, packs of small ones by dtype and name."""
        small = []
        for at, (info, placement) in enumerate(wanted):
            if info.nbytes <= SMALL_BYTES:
                small.append(at)
            elif placement is None:
                yield _Atom(at, info, None, (), info.nbytes)
            else:
                for boxes in self._together(info, placement):
                    yield _Atom(at, info, placement, boxes, sum(map(placement.nbytes, boxes)))
        for at in sorted(small, key=lambda at: (wanted[at][0].dtype_code, wanted[at][0].name)):
            info, placement = wanted[at]
            boxes = placement.boxes if placement is not None else ()
            yield _Atom(at, info, placement, boxes, info.nbytes)

    def _together(self, info: ArrayInfo, placement: Placement) -> Sequence[Sequence[Box]]:
        """The boxes of a large array, apart where they have no chunk in common."""
        if (
            len(placement.boxes) < 2
            or placement.key_impl is not None
            or sum(map(placement.nbytes, placement.boxes)) <= GROUP_BYTES
        ):
            return [placement.boxes]
        chunks = self._reader.chunks(info.name)
        low = np.array([chunk.origin for chunk in chunks])
        high = low + np.array([chunk.shape for chunk in chunks])
        sets: list[tuple[Any, list[Box]]] = []  # chunks, and the boxes that touch them
        for box in placement.boxes:
            touched = ((low < np.add(box.start, box.shape)) & (high > box.start)).all(axis=1)
            members = [box]
            apart = []
            for other, others in sets:
                if (other & touched).any():
                    touched |= other
                    members = others + members
                else:
                    apart.append((other, others))
            sets = [*apart, (touched, members)]
        return [members for _, members in sets]


def _groups(atoms: Iterable[_Atom]) -> Iterator[list[_Atom]]:
    group: list[_Atom] = []
    size = 0
    for atom in atoms:
        if group and size + atom.nbytes > GROUP_BYTES:
            yield group
            group, size = [], 0
        group.append(atom)
        size += atom.nbytes
    if group:
        yield group
