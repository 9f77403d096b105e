"""Casts: with cast=True nothing is lost but to rounding; "unsafe" is numpy's rule. Each leaf and index is named."""

import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import ostraca
from ostraca import MismatchError
from ostraca.dtypes import CODES

jax = pytest.importorskip("jax")
import ostraca.jax  # noqa: E402

DTYPES = {name: np.dtype(getattr(ml_dtypes, name, name)) for name in CODES}
ORDER = ("bool", "int", "float", "complex")
WITHOUT_X64 = {"int64": "int32", "uint64": "uint32", "float64": "float32", "complex128": "complex64"}


def test_integers_have_to_fit(path: Path) -> None:
    ostraca.save(path, {"ids": np.array([[1, 2], [3, 300]])})
    for like in (np.zeros((2, 2), np.uint8), jax.ShapeDtypeStruct((2, 2), np.uint8)):
        with pytest.raises(MismatchError, match=r"'ids': 300 at index \(1, 1\) does not fit uint8"):
            ostraca.jax.load(path, like={"ids": like}, cast=True)


def test_floats_do_not_become_integers(path: Path) -> None:
    ostraca.save(path, {"w": np.array([1.5, 2.0])})
    for like in (np.zeros(2, np.int32), jax.ShapeDtypeStruct((2,), np.int32)):
        with pytest.raises(MismatchError, match="'w': float64 cannot be cast to int32"):
            ostraca.jax.load(path, like={"w": like}, cast=True)


def test_finite_values_stay_finite(path: Path) -> None:
    ostraca.save(path, {"w": np.array([1.0, np.inf, 70_000.0], np.float32)})
    for like in (np.zeros(3, np.float16), jax.ShapeDtypeStruct((3,), np.float16)):
        with pytest.raises(MismatchError, match=r"'w': 70000.0 at index \(2,\) does not fit float16"):
            ostraca.jax.load(path, like={"w": like}, cast=True)


def test_the_index_is_that_of_the_whole_array(path: Path) -> None:
    values = np.zeros((1000, 600))
    values[997, 3] = 1e300
    ostraca.save(path, {"w": values})
    sharding = jax.NamedSharding(jax.make_mesh((jax.device_count(),), ("x",)), jax.P("x"))
    with pytest.raises(MismatchError, match=r"'w': 1e\+300 at index \(997, 3\) does not fit float32"):
        ostraca.jax.load(path, like={"w": jax.ShapeDtypeStruct((1000, 600), np.float32, sharding=sharding)}, cast=True)
    with ostraca.Reader(path) as reader, pytest.raises(MismatchError, match=r"at index \(997, 3\)"):
        reader.read_into([("w", (990, 0), np.zeros((10, 600), np.float32))], cast=True)


def test_into_is_left_as_it_was(path: Path) -> None:
    ostraca.save(path, {"a": np.arange(3.0), "b": np.array([1, 300, 2])})
    targets = {"a": np.full(3, -1.0), "b": np.zeros(3, np.uint8)}
    with pytest.raises(MismatchError, match=r"'b': 300 at index \(1,\)"):
        ostraca.load(path, into=targets, cast=True)
    with ostraca.Reader(path) as reader, pytest.raises(MismatchError, match=r"'b': 300 at index \(1,\)"):
        reader.read_into([(name, None, array) for name, array in targets.items()], cast=True)
    assert (targets["a"] == -1).all() and not targets["b"].any()
    strided = np.zeros((3, 2), np.float32)[:, 0]
    loaded = ostraca.load(path, into={"a": strided, "b": np.zeros(3, np.uint8)}, cast="unsafe")
    assert loaded["a"] is strided and (strided == np.arange(3)).all() and list(loaded["b"]) == [1, 44, 2]


def test_only_numbers_are_cast(path: Path) -> None:
    ostraca.save(path, {"t": np.array(["2026-11-28"], "M8[D]"), "s": np.array(["12", "x"])})
    with pytest.raises(MismatchError, match="cast=True is for numbers"):
        ostraca.load(path, like={"t": np.zeros(1, "M8[ns]"), "s": np.array(["12", "x"])}, cast=True)
    loaded = ostraca.load(path, like={"t": np.zeros(1, "M8[s]"), "s": np.zeros(2, "U3")}, cast="unsafe")
    assert loaded["t"].dtype == "M8[s]" and list(loaded["s"]) == ["12", "x"]
    with pytest.raises(MismatchError, match=r"'s': .* cannot be cast to float64"):
        ostraca.load(path, like={"t": np.zeros(1, "M8[D]"), "s": np.zeros(2)}, cast="unsafe")
    for cast in ("safe", "True"):
        with pytest.raises(ValueError, match="cast must be False, True or 'unsafe'"):
            ostraca.load(path, cast=cast)  # type: ignore[arg-type]


# --- Generated casts ------------------------------------------------------------------------------------------------


def kind(name: str) -> str:
    return next(each for each in ("bool", "complex", "int", "float") if each in name)


def limits(name: str) -> tuple[int, int]:
    info = (0, 1) if name == "bool" else None
    if info is None:
        found = ml_dtypes.iinfo(DTYPES[name])
        info = int(found.min), int(found.max)
    return info


def fits(value: Any, result: Any, name: str) -> bool:
    """Whether a value may become one of a dtype, of which numpy makes `result`; by Python's arithmetic."""
    if kind(name) in ("bool", "int"):
        low, high = limits(name)
        return low <= int(value) <= high
    if kind(name) == "complex":
        part = {"complex64": "float32", "complex128": "float64"}[name]
        value, result = complex(value), complex(result)
        return fits(value.real, result.real, part) and fits(value.imag, result.imag, part)
    value, result = float(value), float(result)
    if math.isnan(value) or math.isinf(value):
        return math.isnan(value) == math.isnan(result) and math.isinf(value) == math.isinf(result)
    if not math.isfinite(result):
        return False
    if name.startswith(("float4", "float6")):  # these have no inf: what is beyond their last step would become that
        info = ml_dtypes.finfo(DTYPES[name])
        last = float(info.max)
        return abs(value) < last + (last - float(np.nextafter(info.max, DTYPES[name].type(0)))) / 2
    return True


@st.composite
def casts(draw: st.DrawFn) -> tuple[np.ndarray, str]:
    """Values of a dtype, extreme ones among them, and another dtype."""
    stored, wanted = draw(st.sampled_from(sorted(DTYPES))), draw(st.sampled_from(sorted(DTYPES)))
    dtype = DTYPES[stored]
    count = draw(st.integers(1, 5))
    if kind(stored) in ("bool", "int"):
        low, high = limits(stored)
        near = st.sampled_from([-129, -128, -9, -8, -1, 0, 1, 7, 8, 127, 255, 256, 65_504, 65_520, 2**31, 2**53 + 1])
        numbers = draw(st.lists(near | st.integers(low, high), min_size=count, max_size=count))
        return np.array([min(max(low, n), high) for n in numbers]).astype(dtype), wanted
    special = [0.0, -0.0, 1.5, 6.5, 7.0, 7.75, 29.9, 30.0, 240.0, 448.0, 464.0, 6.5e4, 65520.0, 3.4e38, 3.5e38, 1e300]
    numbers = st.sampled_from([*special, -1.0, -8.0, -1e39, 1e-50, math.inf, -math.inf, math.nan]) | st.floats()
    values = np.array(draw(st.lists(numbers, min_size=count, max_size=count)))
    if kind(stored) == "complex":
        values = values + 1j * np.array(draw(st.lists(numbers, min_size=count, max_size=count)))
    with np.errstate(all="ignore"):
        return values.astype(dtype), wanted


def cast_by_numpy(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if not (values.dtype.isbuiltin == 1 or dtype.isbuiltin == 1):
        values = values.astype(np.int64 if "int" in values.dtype.name else np.float32)
    with np.errstate(all="ignore"):
        return (values if dtype.kind in "cb" else values.real).astype(dtype)


def load(how: str, path: Path, values: np.ndarray, wanted: np.dtype, cast: Any) -> np.ndarray:
    if how == "jax":
        loaded = ostraca.jax.load(path, like={"x": jax.ShapeDtypeStruct(values.shape, wanted)}, cast=cast)["x"]
        assert isinstance(loaded, jax.Array) and loaded.dtype == wanted
        return np.asarray(loaded)
    target = np.zeros(values.shape, wanted)
    if how == "jax, on the host":
        return ostraca.jax.load(path, like={"x": target}, cast=cast)["x"]
    if how == "like":
        return ostraca.load(path, like={"x": target}, cast=cast)["x"]
    if how == "into":
        ostraca.load(path, into={"x": target}, cast=cast)
    else:
        with ostraca.Reader(path) as reader:
            reader.read_into([("x", None, target)], cast=cast)
    return target


@pytest.mark.parametrize("how", ["jax", "jax, on the host", "like", "into", "read_into"])
@settings(max_examples=150, deadline=None)
@example((np.array([300]), "uint8"))
@example((np.array([1e300]), "float32"))
@given(case=casts())
def test_generated_casts(tmp_path_factory: pytest.TempPathFactory, how: str, case: tuple[np.ndarray, str]) -> None:
    values, name = case
    if how == "jax":
        name = WITHOUT_X64.get(name, name)
        name = name if name not in ("float6_e2m3fn", "float6_e3m2fn", "int1", "uint1") else "int4"  # unknown to JAX
    wanted = DTYPES[name]
    path = tmp_path_factory.mktemp("cast") / "checkpoint"
    ostraca.save(path, {"x": values})
    expected = cast_by_numpy(values, wanted)
    loaded = load(how, path, values, wanted, "unsafe") if values.dtype != wanted else expected
    assert loaded.tobytes() == expected.tobytes() and loaded.dtype == wanted
    is_allowed = ORDER.index(kind(values.dtype.name)) <= ORDER.index(kind(name)) or (
        kind(name) == "bool" and kind(values.dtype.name) == "int"
    )
    lost = (
        [i for i, (a, b) in enumerate(zip(values, expected, strict=True)) if not fits(a, b, name)] if is_allowed else []
    )
    if values.dtype != wanted and (not is_allowed or lost):
        where = rf"'x': .* at index \({lost[0]},\)" if lost else "'x': .* cannot be cast"
        with pytest.raises(MismatchError, match=where):
            load(how, path, values, wanted, True)
    else:
        assert load(how, path, values, wanted, True).tobytes() == expected.tobytes()
