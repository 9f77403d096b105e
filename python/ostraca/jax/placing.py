"""Decoded buffers to jax.Arrays with the sharding, memory kind and layout that were asked for.

Boxes are read into a ring of staging memory, from where `jax.device_put` copies them to the devices while the next ones
are read. On CPU, XLA would rather keep memory that is aligned to 64 bytes than copy it, and could never donate it then:
so a box lies as badly aligned as its dtype allows.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import jax
import numpy as np
from jax.experimental.layout import Format
from jax.extend.core.primitives import convert_element_type_p

from .. import _core
from ..casting import Cast, convert
from ..lowlevel import ArrayInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray

STAGING_BYTES: Final = 128 << 20  # unless boxes that must be read together are larger
_ALIGNMENT: Final = 64

Shape = tuple[int, ...]


class Box(NamedTuple):
    """A part of an array that one or more devices hold."""

    start: Shape
    shape: Shape
    targets: tuple[Any, ...]  # shardings over one device each; none: the default device, uncommitted


def boxes(sharding: Any, shape: Shape, inner: Shape = ()) -> list[Box]:
    """The distinct parts of an array of `shape` that devices of this process hold, whole in further dimensions `inner`.

    Raises what jax does where the sharding does not fit the shape.
    """
    if sharding is None:
        return [Box((0,) * len(shape + inner), shape + inner, ())]
    holders: dict[tuple[tuple[int, int], ...], list[Any]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        bounds = tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))
        target = jax.sharding.SingleDeviceSharding(device, memory_kind=sharding.memory_kind)
        holders.setdefault(bounds, []).append(target)
    origin = (0,) * len(inner)
    return [
        Box(tuple(a for a, _ in bounds) + origin, tuple(b - a for a, b in bounds) + inner, tuple(targets))
        for bounds, targets in holders.items()
    ]


class Placement:
    """An array on its way to the devices."""

    __slots__ = (
        "_parts",
        "array",
        "boxes",
        "cast",
        "dtype",
        "key_impl",
        "layout",
        "name",
        "number",
        "shape",
        "sharding",
        "stored_dtype",
        "weak_type",
    )

    def __init__(
        self,
        info: ArrayInfo,
        shape: Shape,
        boxes: Sequence[Box],
        stored_dtype: np.dtype[Any],
        dtype: np.dtype[Any],
        cast: Cast,
        sharding: Any,
        layout: Any = None,
        key_impl: str | None = None,
        weak_type: bool = False,
    ) -> None:
        """Of a leaf. It is cast to `dtype` where that is not the stored one. Of PRNG keys the boxes are those of
        their data. weak_type: its dtype yields to others', as that of a Python number does."""
        self.number = info.number
        self.name = info.name
        self.cast = cast
        self.shape = shape
        self.boxes = boxes
        self.stored_dtype = stored_dtype
        self.dtype = dtype
        self.sharding = sharding
        self.layout = layout
        self.key_impl = key_impl
        self.weak_type = weak_type
        self.array: Any = None  # when all boxes are on all their devices
        self._parts: list[Any] = []
        if not boxes:  # all of it is on devices of other processes
            held = dtype if key_impl is None else _key_dtype(key_impl)
            self.array = jax.make_array_from_single_device_arrays(shape, sharding, [], dtype=held)

    def nbytes(self, box: Box) -> int:
        """As stored."""
        return math.prod(box.shape) * self.stored_dtype.itemsize

    def put(self, boxes: Mapping[Shape, NDArray[Any]]) -> Any:
        """Starts to copy boxes, by where they start, to their devices. Returns arrays to wait for."""
        with jax.transfer_guard_host_to_device("allow"):  # JAX guards against copies that nobody asked for
            return self._put(boxes)

    def _put(self, boxes: Mapping[Shape, NDArray[Any]]) -> Any:
        if len(boxes) < len(self.boxes):
            return self._put_some(boxes)
        rank = len(self.shape)
        if self.sharding is None:
            self.array = jax.device_put(self._keys(next(iter(boxes.values()))))
        else:
            by_start = {start[:rank]: data for start, data in boxes.items()}
            self.array = jax.make_array_from_callback(
                self.shape,
                self.sharding,
                lambda index: self._keys(by_start[tuple([part.start or 0 for part in index])]),
            )
        return self._laid_out()

    def _put_some(self, boxes: Mapping[Shape, NDArray[Any]]) -> Any:
        """Of an array that is read bit by bit."""
        pairs = [(boxes[box.start], target) for box in self.boxes if box.start in boxes for target in box.targets]
        parts = jax.device_put([data for data, _ in pairs], [target for _, target in pairs])
        self._parts += parts
        if len(self._parts) < sum(len(box.targets) for box in self.boxes):
            return parts
        self.array = jax.make_array_from_single_device_arrays(self.shape, self.sharding, self._parts)
        return self._laid_out()

    def _keys(self, data: NDArray[Any]) -> Any:
        return data if self.key_impl is None else jax.random.wrap_key_data(data, impl=self.key_impl)

    def _laid_out(self) -> Any:
        if self.weak_type:
            sharding = self.array.sharding
            self.array = convert_element_type_p.bind(
                self.array, new_dtype=self.array.dtype, weak_type=True, sharding=None
            )
            if self.array.sharding != sharding:  # JAX computes in the devices' default memory
                self.array = jax.device_put(self.array, sharding)
        if self.layout is not None and self.array.format.layout != self.layout:
            self.array = jax.device_put(self.array, Format(self.layout, self.array.sharding))
        return self.array


def _key_dtype(impl: str) -> Any:
    """Without a key, for which JAX would move a number to a device."""
    return jax.eval_shape(lambda: jax.random.key(0, impl=impl)).dtype


class Staged(NamedTuple):
    """A box and its place in staging memory."""

    placement: Placement
    box: Box
    memory: NDArray[Any]
    cast: NDArray[Any]  # the same, or where it becomes another dtype


class Placer:
    """A ring of staging memory, and the thread that empties it. Use it in a `with` block."""

    def __init__(self, nbytes: int) -> None:
        """REQUIRES: `nbytes` is enough for all that is staged at one time."""
        self._memory = _core.allocate(max(nbytes, _ALIGNMENT))
        self._at = 0
        self._busy: deque[tuple[int, int, Future[None]]] = deque()  # in the order in which they will be free
        self._thread = ThreadPoolExecutor(1, "ostraca-placing")
        # Of jax's options some are a thread's own.
        self._enable_x64 = jax.config.jax_enable_x64
        self._default_device = jax.config.jax_default_device

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._thread.shutdown(cancel_futures=kind is not None)

    def stage(self, items: Iterable[tuple[Placement, Box]]) -> list[Staged]:
        """Memory to read boxes into; waits for what has to leave it."""
        items = list(items)
        nbytes = sum(staged_bytes(*item) for item in items)
        if self._at + nbytes > len(self._memory):
            self._at = 0
        begin, end = self._at, self._at + nbytes
        while any(begin < other_end and other < end for other, other_end, _ in self._busy):
            self._busy.popleft()[2].result()
        staged = []
        for placement, box in items:
            memory = cast = self._array(box.shape, placement.stored_dtype)
            if placement.dtype != placement.stored_dtype:
                cast = self._array(box.shape, placement.dtype)
            staged.append(Staged(placement, box, memory, cast))
        assert self._at == end
        return staged

    def place(self, staged: Sequence[Staged]) -> None:
        """Copies boxes that have been read to their devices, in the background."""
        nbytes = sum(staged_bytes(each.placement, each.box) for each in staged)
        self._busy.append((self._at - nbytes, self._at, self._thread.submit(self._place, staged)))

    def finish(self) -> None:
        """Returns when all is on the devices."""
        while self._busy:
            self._busy.popleft()[2].result()

    def _place(self, staged: Sequence[Staged]) -> None:
        with jax.enable_x64(self._enable_x64), jax.default_device(self._default_device):
            arrays = []
            for _, group in itertools.groupby(staged, lambda each: each.placement.number):
                boxes = list(group)
                arrays.append(boxes[0].placement.put({each.box.start: _cast(each) for each in boxes}))
            jax.block_until_ready(arrays)

    def _array(self, shape: Shape, dtype: np.dtype[Any]) -> NDArray[Any]:
        begin, self._at = self._at, self._at + _slot_bytes(shape, dtype)
        return np.ndarray(shape, dtype, self._memory, begin + dtype.itemsize)


def staged_bytes(placement: Placement, box: Box) -> int:
    """What a box takes in staging memory."""
    nbytes = _slot_bytes(box.shape, placement.stored_dtype)
    return nbytes if placement.dtype == placement.stored_dtype else nbytes + _slot_bytes(box.shape, placement.dtype)


def _slot_bytes(shape: Shape, dtype: np.dtype[Any]) -> int:
    """Of an array that begins one item after a multiple of the alignment."""
    return -(-(math.prod(shape) + 1) * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT


def _cast(staged: Staged) -> NDArray[Any]:
    if staged.cast is not staged.memory:
        placement = staged.placement
        convert(staged.memory, staged.cast, placement.name, placement.cast, staged.box.start)
    return staged.cast
