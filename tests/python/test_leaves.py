"""Leaves to what the engine stores: memory is handed on as it is, and what cannot be stored is refused by name."""

import array
import ctypes
import decimal
import mmap
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ostraca import UnsupportedError, dtypes, leaves
from ostraca.leaves import piece
from ostraca.tree import Kind
from trees import values


def memory(leaf: Any) -> np.ndarray:
    found = piece(leaf).memory
    assert found is not None
    return found


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


@given(values)
def test_values_come_back(value: Any) -> None:
    one = piece(value)
    back = leaves.restored(one.kind, one.detail, np.empty(0) if one.memory is None else one.memory)
    if isinstance(value, np.ndarray):
        assert (
            back is one.memory
            and back.tobytes() == value.tobytes()
            and np.shares_memory(back, value) == bool(value.size)
        )
    else:
        assert type(back) is type(value) and (back == value or back != back)


@given(st.integers(-(2**70), 2**70))
def test_integers_are_as_short_as_they_can_be(value: int) -> None:
    data = memory(value)
    assert data.dtype == np.uint8 and data.size >= 1
    if data.size > 1:
        with pytest.raises(OverflowError):
            value.to_bytes(data.size - 1, "little", signed=True)


def test_containers_without_leaves() -> None:
    for kind, empty in ((Kind.NONE, None), (Kind.EMPTY_DICT, {}), (Kind.EMPTY_LIST, []), (Kind.EMPTY_TUPLE, ())):
        assert piece(None if kind is Kind.NONE else kind)[:5] == (kind, dtypes.NONE, "", False, None)
        assert leaves.restored(kind, "", np.empty(0)) == empty


@pytest.mark.parametrize(
    "scalar", [np.float32(1.5), np.bool_(True), np.str_("äb"), np.datetime64("2020", "25s"), ml_dtypes.bfloat16(2)]
)
def test_numpy_scalars_are_arrays_without_dimensions(scalar: Any) -> None:
    one = piece(scalar)
    assert one.kind is Kind.ARRAY and one.memory is not None
    assert one.memory.shape == () and one.memory.dtype == scalar.dtype and one.memory[()] == scalar and one.immutable


def test_numpy_arrays_are_viewed_and_never_immutable(tmp_path: Path) -> None:
    plain = np.arange(12.0).reshape(3, 4)
    plain.flags.writeable = False
    assert memory(plain) is plain or np.shares_memory(memory(plain), plain)
    assert not piece(plain).immutable
    mapped = np.memmap(tmp_path / "m", np.int32, "w+", shape=(4,))
    assert type(memory(mapped)) is np.ndarray and np.shares_memory(memory(mapped), mapped)
    swapped = piece(plain.astype(">f4")[::-1])
    assert swapped.big_endian and swapped.memory is not None and swapped.memory.strides == (-16, 4)


def test_buffers() -> None:
    data = bytearray(b"abcdef")
    view = memory(data)
    assert view.dtype == np.uint8 and view.tobytes() == b"abcdef"
    data[0] = 0
    assert view[0] == 0  # the same memory
    with pytest.raises(BufferError):
        data.append(1)
    assert memory(memoryview(b"abcdef")[::2]).tobytes() == b"ace"
    assert memory(array.array("d", [1, 2])).dtype == np.float64
    assert memory((ctypes.c_int32 * 3)(1, 2, 3)).tolist() == [1, 2, 3]
    assert memory(mmap.mmap(-1, 16)).nbytes == 16
    assert not piece(data).immutable


def test_array_interface_and_dlpack() -> None:
    class Interface:
        def __init__(self, values: np.ndarray) -> None:
            self.held = values
            self.__array_interface__ = values.__array_interface__

    class DLPack:
        def __init__(self, values: np.ndarray, device: int = 1) -> None:
            self.held, self.device = values, device

        def __dlpack__(self, **options: Any) -> Any:
            return self.held.__dlpack__(**options)

        def __dlpack_device__(self) -> tuple[int, int]:
            return self.device, 0

    values = np.arange(6, dtype=np.int16).reshape(2, 3)
    for wrapped in (Interface(values), DLPack(values)):
        assert np.shares_memory(memory(wrapped), values) and memory(wrapped).shape == (2, 3)
    with pytest.raises(UnsupportedError, match="device 2"):
        piece(DLPack(values, device=2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.uint16, torch.complex64, torch.int64])
def test_torch(dtype: torch.dtype) -> None:
    tensor = torch.ones(4, 3).to(dtype).t()[::2]
    one = piece(tensor)
    assert one.memory is not None and one.memory.shape == (2, 4) and address(one.memory) == tensor.data_ptr()
    assert dtypes.NAMES[one.dtype_code] == str(dtype).removeprefix("torch.") and not one.immutable


@pytest.mark.parametrize(
    "name", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"]
)
def test_torch_floats_that_numpy_lacks(name: str) -> None:
    tensor = torch.tensor([[1.0, 2.0, 4.0], [0.5, 8.0, 1.0]]).to(getattr(torch, name)).t()
    one = piece(tensor)
    assert one.memory is not None and address(one.memory) == tensor.data_ptr()
    assert dtypes.NAMES[one.dtype_code] == name
    assert (one.memory.view(getattr(ml_dtypes, name)).astype(float) == tensor.float().numpy()).all()
    assert memory(tensor[0, 0]).shape == ()


def test_torch_parameters_and_views() -> None:
    parameter = torch.nn.Parameter(torch.ones(2, 3))
    assert address(memory(parameter)) == parameter.data_ptr()
    conjugated = torch.tensor([1 + 2j]).conj()
    assert memory(conjugated)[0] == 1 - 2j
    assert memory(torch.ones(0, 3)).shape == (0, 3)


def test_jax() -> None:
    x = jnp.arange(12.0).reshape(3, 4)
    one = piece(x)
    assert one.immutable and one.memory is not None and address(one.memory) == x.unsafe_buffer_pointer()
    assert memory(jnp.ones((2,), jnp.bfloat16)).dtype == ml_dtypes.bfloat16
    assert memory(jnp.array([1, -8, 7], jnp.int4)).tolist() == [1, -8, 7]
    assert memory(jnp.zeros((0, 3))).shape == (0, 3) and memory(jnp.float32(3)).shape == ()


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_jax_keys(impl: str) -> None:
    keys = jax.random.split(jax.random.key(3, impl=impl), 5)
    one = piece(keys)
    assert one.kind is Kind.PRNG_KEY and one.detail == impl and one.memory is not None
    back = leaves.restored(one.kind, one.detail, one.memory)
    assert back.dtype == keys.dtype and (jax.random.key_data(back) == jax.random.key_data(keys)).all()


def test_donated_and_traced_jax_arrays_are_refused() -> None:
    x = jnp.ones(3)
    x.delete()
    with pytest.raises(UnsupportedError, match=r"'a': .*deleted or donated"):
        leaves.specs([(b"", "a", x)])

    @jax.jit
    def step(x: Any) -> Any:
        with pytest.raises(UnsupportedError, match="traced"):
            piece(x)
        return x

    step(1.0)


def test_donation_does_not_reach_what_is_held() -> None:
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = step(jnp.zeros(1 << 16))
    view = memory(x)
    before = view.copy()
    step(step(x))
    assert (view == before).all()


def test_sharded_jax_arrays() -> None:
    code = """
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from ostraca import leaves
x = np.arange(32.0, dtype=np.float32).reshape(8, 4)
mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("a", "b"))
def stored(value, spec): return leaves.piece(jax.device_put(value, NamedSharding(mesh, spec)))
for spec in (P("a", "b"), P("b"), P(None, ("a", "b")), P()):
    assert (stored(x, spec).memory == x).all() and stored(x, spec).immutable
assert stored(x[:0], P("a")).memory.shape == (0, 4)
keys = jax.random.split(jax.random.key(0), 4)
assert (stored(keys, P("a")).memory == jax.random.key_data(keys)).all() and stored(keys, P("a")).kind == 2
"""
    flags = "--xla_force_host_platform_device_count=4"
    subprocess.run([sys.executable, "-c", code], check=True, env={**__import__("os").environ, "XLA_FLAGS": flags})


class Convertible:
    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise AssertionError("must not be called")


@pytest.mark.parametrize(
    ("leaf", "words"),
    [
        (object(), "object is no array"),
        (Convertible(), "convert it with numpy.asarray"),
        (len, "functions"),
        (int, "functions and classes"),
        (1j, "complex128"),
        ({1}, "make it a list"),
        (range(3), "make it a list"),
        (decimal.Decimal(1), "metadata="),
        ("\ud800", "not valid Unicode"),
        (np.ma.zeros(3), "MaskedArray holds more"),
        (np.zeros(3, "O"), "nothing is pickled"),
        (np.zeros(3, "f4,i4"), "structured"),
        (np.longdouble(1), "fixed size"),
        (torch.ones(3).to_sparse(), "sparse"),
        (torch.ones(3, device="meta"), "device meta"),
        (torch.empty(2, dtype=torch.bits8), "bits8"),
        (torch.nn.UninitializedParameter(), "more than its data"),
        (jax.ShapeDtypeStruct((3,), "float32"), "no data"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_refused_by_name(leaf: Any, words: str) -> None:
    with pytest.raises(UnsupportedError, match=f"cannot store 'params/x': .*{words}"):
        leaves.specs([(b"", "params/x", leaf)])


def test_numpy_alone_is_enough() -> None:
    code = """
import sys
import ostraca
from ostraca.leaves import specs
specs([(b"", "", leaf) for leaf in (1, 1.5, "x", None, b"", ostraca.leaves.np.ones(3))])
print(sorted({"jax", "torch", "tensorflow", "ml_dtypes", "asyncio", "concurrent.futures"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
