"""One leaf to what the engine stores, and back (docs/format.md, section 6).

An array's memory is handed on as a view, which is held until it was read. Nothing is copied but Python's own values and
what does not lie in memory as it is stored: JAX's packed 4-bit integers, its arrays over several devices and its PRNG
keys, and conjugated torch views. Frameworks are recognized only when they were imported already.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from . import dtypes
from .errors import FormatError, UnsupportedError
from .tree import MAX_PATH_BYTES, Kind, Leaf, quoted

if TYPE_CHECKING:  # numpy.typing costs more than all of this module
    from numpy.typing import NDArray

    from ._core import Description, LeafSpec

Shape = tuple[int, ...]

_CPU_DEVICES: Final = (1, 3)  # DLPack's kDLCPU, kDLCUDAHost
_CONVERTERS_MAX: Final = 256  # classes that are remembered, else generated ones would stay for ever
_encode: Final = lru_cache(maxsize=256)(dtypes.encode)


class Piece(NamedTuple):
    """One leaf, as the engine wants to know it."""

    kind: Kind
    dtype_code: int
    detail: str
    big_endian: bool
    memory: NDArray[Any] | None
    immutable: bool = False  # nobody can change the memory while it is held
    data: NDArray[np.uint8] | None = None  # of strings, which end where `memory` says

    @property
    def description(self) -> Description:
        return int(self.kind), self.dtype_code, self.detail, self.big_endian, self.immutable

    def specs(self, path: bytes) -> list[LeafSpec]:
        """What the engine stores for it, at a key path."""
        specs: list[LeafSpec] = [(path, self.description, self.memory, None, None, None)]
        if self.data is not None:
            from . import strings

            below = path + strings.DATA_PART
            if len(below) > MAX_PATH_BYTES:
                raise UnsupportedError(f"the key path of its data takes more than {MAX_PATH_BYTES} bytes")
            specs.append((below, (int(Kind.ARRAY), dtypes.UINT8, "", False, True), self.data, None, None, None))
        return specs


def specs(leaves: Iterable[Leaf]) -> list[LeafSpec]:
    """What the engine stores for the leaves. Raises `UnsupportedError`, naming the leaf, for what it cannot."""
    # Tuples of what the collector does not track are not tracked for long either: no Kind here.
    result: list[LeafSpec] = []
    dtype = description = None
    for path, name, leaf in leaves:
        try:
            if type(leaf) is not np.ndarray:
                result += piece(leaf).specs(path)
                continue
            if leaf.dtype is not dtype or description is None:
                found = _array(leaf)
                if found.kind is not Kind.ARRAY:
                    result += found.specs(path)
                    continue
                description, dtype = found.description, leaf.dtype
            result.append((path, description, leaf, None, None, None))
        except UnsupportedError as error:
            raise UnsupportedError(f"cannot store {quoted(name)}: {error}") from None
    return result


def mutable_bytes(specs: Iterable[LeafSpec]) -> int:
    """Bytes of memory that an asynchronous save has to copy before its caller may go on."""
    return sum(memory.nbytes for _, (*_, immutable), memory, *_ in specs if memory is not None and not immutable)


def piece(leaf: Any) -> Piece:
    """One leaf. Raises `UnsupportedError` for what cannot be stored."""
    return _converter(leaf)(leaf)


_converters: dict[type, Callable[[Any], Piece]] = {}


def is_jax(leaf: Any) -> bool:
    """Whether it is a jax.Array; JAX was imported."""
    return _converter(leaf) is _jax


def _converter(leaf: Any) -> Callable[[Any], Piece]:
    """What makes a leaf of this class a piece."""
    converter = _converters.get(type(leaf))
    if converter is None:
        converter = _found_converter(leaf)
        # Not of what a framework that is imported later may know, and not of proxies.
        if converter is not _foreign and leaf.__class__ is type(leaf) and len(_converters) < _CONVERTERS_MAX:
            _converters[type(leaf)] = converter
    return converter


def _found_converter(leaf: Any) -> Callable[[Any], Piece]:
    if leaf is None or type(leaf) is Kind:  # an empty container
        return _without_data
    try:
        if isinstance(leaf, np.ndarray | np.generic):
            return _numpy
        if isinstance(leaf, int | float | str | bytes):
            return _scalar
        if isinstance(leaf, _imported("jax", "Array")):
            return _jax
        if isinstance(leaf, _imported("torch", "Tensor")):
            return _torch
        if isinstance(leaf, _imported("tensorflow", "Tensor")):
            return _tensorflow
    except Exception as error:  # of a proxy's __class__
        raise _raised(leaf, error) from error
    return _foreign


def restored(kind: Kind, detail: str, data: NDArray[Any]) -> Any:
    """A leaf's value from its stored array, which the value may keep. Strings have two: see strings.py.

    A PRNG key comes back as a JAX key array when JAX was imported before, otherwise as its uint32 key data.
    """
    try:
        match kind:
            case Kind.ARRAY:
                return data
            case Kind.PRNG_KEY:
                jax = sys.modules.get("jax")
                return data if jax is None else jax.random.wrap_key_data(jax.device_put(data), impl=detail)
            case Kind.INT:
                return int.from_bytes(data.tobytes(), "little", signed=True)
            case Kind.FLOAT | Kind.BOOL:
                return data.item()
            case Kind.STR:
                return data.tobytes().decode()
            case Kind.BYTES:
                return data.tobytes()
        return {Kind.NONE: None, Kind.EMPTY_DICT: {}, Kind.EMPTY_LIST: [], Kind.EMPTY_TUPLE: ()}[kind]
    except ValueError as error:
        raise FormatError(f"a malformed leaf of kind {kind}: {error}") from None


def is_prng_key(dtype: Any) -> bool:
    """Whether a dtype is that of JAX's key arrays."""
    jax = sys.modules.get("jax")
    return jax is not None and getattr(dtype, "type", None) is jax.dtypes.prng_key


def is_abstract(leaf: Any) -> bool:
    """Whether a leaf of `like` describes an array without having its data: a ShapeDtypeStruct, a sharding."""
    if isinstance(leaf, (_imported("jax.sharding", "Sharding"), _imported("jax.experimental.layout", "Format"))):
        return True
    if isinstance(leaf, _imported("jax", "Array")):
        return bool(leaf.is_deleted())
    if isinstance(leaf, _imported("torch", "Tensor")):
        return bool(leaf.is_meta)
    has_data = any(hasattr(leaf, name) for name in ("__array__", "__array_interface__", "__dlpack__", "__buffer__"))
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype") and not has_data


def is_torch_dtype(dtype: Any) -> bool:
    return isinstance(dtype, _imported("torch", "dtype"))


def torch_code(dtype: Any) -> dtypes.Coded | None:
    """The code of a torch.dtype, None for those that numpy and ml_dtypes do not have."""
    code = dtypes.CODES.get(str(dtype).removeprefix("torch."), dtypes.NONE)
    is_packed = code >= dtypes.CODES["float4_e2m1fn"]  # torch packs these, or leaves them without operations
    return None if code == dtypes.NONE or is_packed else dtypes.Coded(code, "", False)


def _imported(module: str, name: str) -> Any:
    """A class of a module that was imported already; otherwise one without instances."""
    return getattr(sys.modules.get(module), name, ())


def described(dtype: np.dtype[Any], kind: Kind = Kind.ARRAY, detail: str = "") -> Piece:
    """An array of immutable memory, which is still to come."""
    coded = _encode(dtype)
    return Piece(kind, coded.code, detail or coded.detail, coded.big_endian, None, immutable=True)


def _without_data(leaf: Kind | None) -> Piece:
    return Piece(Kind.NONE if leaf is None else leaf, dtypes.NONE, "", False, None)


def _array(memory: NDArray[Any], *, immutable: bool = False) -> Piece:
    if dtypes.varies(memory.dtype):
        from . import strings  # late, for the sake of import time

        kind, detail, ends, data = strings.taken_apart(memory)
        return Piece(kind, dtypes.UINT64, detail, False, ends, True, data)
    return Piece(Kind.ARRAY, *_encode(memory.dtype), memory, immutable=immutable)


def _numpy(leaf: np.ndarray[Any, Any] | np.generic) -> Piece:
    if isinstance(leaf, np.generic):
        return _array(np.asarray(leaf), immutable=True)
    found = _array(leaf.view(np.ndarray))  # first: why a dtype is refused says more than that a class is
    if type(leaf) not in (np.ndarray, np.memmap):
        raise UnsupportedError(f"{_type(leaf)} holds more than its array; store its parts, or numpy.asarray of it")
    return found


def _scalar(leaf: int | float | str | bytes) -> Piece:
    if isinstance(leaf, bool | float):
        kind, code = (Kind.BOOL, dtypes.BOOL) if isinstance(leaf, bool) else (Kind.FLOAT, dtypes.FLOAT64)
        return Piece(kind, code, "", False, np.array(leaf), immutable=True)
    if isinstance(leaf, int):
        kind, data = Kind.INT, leaf.to_bytes((leaf + (leaf < 0)).bit_length() // 8 + 1, "little", signed=True)
    elif isinstance(leaf, bytes):
        kind, data = Kind.BYTES, leaf
    else:
        try:
            kind, data = Kind.STR, leaf.encode()
        except UnicodeEncodeError:
            raise UnsupportedError("a str that is not valid Unicode; store bytes") from None
    return Piece(kind, dtypes.UINT8, "", False, np.frombuffer(data, np.uint8), immutable=True)


def check_jax(leaf: Any) -> None:
    """Whether a jax.Array has data."""
    import jax

    if isinstance(leaf, jax.core.Tracer):
        raise UnsupportedError("a value being traced; save outside of jit, grad and vmap")
    if leaf.is_deleted():
        raise UnsupportedError("a jax.Array that was deleted or donated")


def _jax(leaf: Any) -> Piece:
    import jax

    check_jax(leaf)
    if not leaf.is_fully_addressable:
        raise UnsupportedError("a jax.Array that other processes hold parts of; all call ostraca.jax.save")
    if any(device.platform != "cpu" for device in leaf.devices()):
        raise UnsupportedError("a jax.Array on an accelerator; use ostraca.jax.save")
    if is_prng_key(leaf.dtype):
        impl = str(jax.random.key_impl(leaf))
        return _jax(jax.random.key_data(leaf))._replace(kind=Kind.PRNG_KEY, detail=impl)
    first = np.asarray(leaf.addressable_shards[0].data)
    if first.shape == leaf.shape:
        return _array(first, immutable=True)
    whole = np.empty(leaf.shape, first.dtype)  # np.asarray(leaf) would stay in memory as long as the leaf
    for shard in leaf.addressable_shards:
        if shard.replica_id == 0:
            whole[shard.index] = np.asarray(shard.data)
    return _array(whole, immutable=True)


def _torch(leaf: Any) -> Piece:
    import torch

    if leaf.is_nested:
        raise UnsupportedError("a nested torch.Tensor; store the tensors it is made of: tensor.unbind()")
    if type(leaf) not in (torch.Tensor, torch.nn.Parameter):
        raise UnsupportedError(f"{_type(leaf)} is more than its data; store the plain tensors it is made of")
    if leaf.device.type != "cpu":
        raise UnsupportedError(f"a torch.Tensor on device {leaf.device}; pass tensor.cpu()")
    coded = torch_code(leaf.dtype)
    if coded is None or leaf.layout is not torch.strided or leaf.is_quantized:
        raise UnsupportedError(f"a torch.Tensor of {leaf.dtype} and {leaf.layout}; store its dense parts")
    tensor = leaf.detach().resolve_conj().resolve_neg()
    if coded.code >= dtypes.CODES["bfloat16"]:  # unknown to numpy: hand on the bits
        tensor = tensor.view(torch.uint8 if tensor.element_size() == 1 else torch.int16)
    return Piece(Kind.ARRAY, *coded, tensor.numpy())


def _tensorflow(leaf: Any) -> Piece:
    if not hasattr(leaf, "numpy"):
        raise UnsupportedError("a symbolic tf.Tensor; save outside of tf.function")
    if "CPU" not in leaf.device:
        raise UnsupportedError(f"a tf.Tensor on {leaf.device}; copy it to the host first")
    # Of a scalar numpy would otherwise make an array of a fixed size, which knows no zeros at its end.
    return _array(np.asarray(leaf, np.object_ if leaf.dtype.name == "string" else None))


def _foreign(leaf: Any) -> Piece:
    """Anything else that exports its memory: the buffer protocol, `__array_interface__`, DLPack, in this order."""
    try:
        try:
            return _array(np.asarray(memoryview(leaf)))
        except TypeError:  # no buffer
            pass
        if hasattr(leaf, "__array_interface__"):
            return _array(np.asarray(leaf))
        if hasattr(leaf, "__dlpack__"):
            device = int(leaf.__dlpack_device__()[0])
            if device not in _CPU_DEVICES:
                raise UnsupportedError(f"{_type(leaf)} lies on DLPack device {device}; copy it to the host")
            return _array(np.from_dlpack(leaf))
        advice = _advice(leaf)
    except (UnsupportedError, MemoryError):
        raise
    except (BufferError, RuntimeError, ValueError) as error:
        raise UnsupportedError(f"{_type(leaf)} does not let numpy see its memory: {error}") from None
    except Exception as error:
        raise _raised(leaf, error) from error
    raise UnsupportedError(f"{_type(leaf)} is no array, number, str, bytes or None; {advice}")


def _raised(leaf: Any, error: Exception) -> UnsupportedError:
    what = f"{type(error).__name__}: {error}"
    return UnsupportedError(f"{_type(leaf)} raises when it is looked at ({what:.200}); take it out of the tree")


def _type(leaf: Any) -> str:
    kind = type(leaf)
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")


def _advice(leaf: Any) -> str:
    if callable(leaf):
        advice = "keep functions and classes out of the tree"
        if "equinox" not in sys.modules:
            return advice
        return (
            f"{advice}: of an equinox module, save and restore eqx.filter(model, eqx.is_array), or the first of"
            " eqx.partition(model, eqx.is_array); eqx.combine puts functions and arrays together again"
        )
    if isinstance(leaf, complex):
        return "use numpy.complex128 of it"
    if isinstance(leaf, _imported("jax", "Ref")):
        return "computations change its memory: store a copy, ref[...]"
    if hasattr(leaf, "__array__"):
        return "convert it with numpy.asarray yourself, which may copy"
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        return "it has a shape and a dtype but no data"
    if isinstance(leaf, set | frozenset | Sequence):
        return "make it a list"
    return "put what JSON can hold into metadata=, and take the rest out of the tree (nothing is pickled)"
