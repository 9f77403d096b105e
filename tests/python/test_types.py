"""Types that say how a value behaves: of `like`, they are those of what is restored."""

import enum
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import ostraca
from ostraca import MismatchError

jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402

import ostraca.jax  # noqa: E402


def test_a_loss_scale_stays_weak(path: Path) -> None:
    """It must not turn bf16 gradients into float32 ones after a resume."""
    state = {"loss_scale": jnp.asarray(1024.0), "w": jnp.ones(2, jnp.bfloat16)}
    assert state["loss_scale"].weak_type
    ostraca.jax.save(path, state)
    loaded = ostraca.jax.load(path, like=state)
    assert loaded["loss_scale"].weak_type and not loaded["w"].weak_type
    assert (loaded["loss_scale"] * loaded["w"]).dtype == jnp.bfloat16


def _weak(values: Any) -> jax.Array:
    return jax.jit(lambda x: x * 2)(jnp.broadcast_to(jnp.asarray(values), (8,)))


@pytest.mark.parametrize("value", [2.0, 3, 1j])
@pytest.mark.parametrize("memory", ["device", "pinned_host"])
def test_weak_arrays_on_meshes(path: Path, value: Any, memory: str) -> None:
    array = _weak(value)
    sharding = jax.NamedSharding(jax.make_mesh((jax.device_count(),), ("x",)), jax.P("x"), memory_kind=memory)
    ostraca.jax.save(path, {"a": array, "b": array})
    like = {
        "a": jax.device_put(array, sharding),
        "b": jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding, weak_type=True),
    }
    assert like["a"].weak_type
    for loaded in ostraca.jax.load(path, like=like).values():
        assert loaded.weak_type and loaded.sharding == sharding and loaded.dtype == array.dtype
        np.testing.assert_array_equal(loaded, array)


def test_strong_ones_stay_strong(path: Path) -> None:
    ostraca.jax.save(path, {"x": jnp.asarray(2.0), "n": 3})
    loaded = ostraca.jax.load(path, like={"x": jnp.float32(0), "n": jnp.asarray(0)})
    assert not loaded["x"].weak_type and loaded["n"].weak_type and loaded["n"] == 3


SCALARS = [
    np.float64(0.1),
    np.float32(2.5),
    np.int16(-3),
    np.bool_(True),
    np.complex64(1j),
    np.str_("text"),
    np.datetime64("2026-11-28"),
    ml_dtypes.bfloat16(1.5),
]


@pytest.mark.parametrize("scalar", SCALARS, ids=lambda scalar: type(scalar).__name__)
def test_numpy_scalars(path: Path, scalar: Any) -> None:
    ostraca.save(path, {"x": scalar})
    for load in (ostraca.load, ostraca.jax.load):
        loaded = load(path, like={"x": scalar})["x"]
        assert type(loaded) is type(scalar) and loaded == scalar and hash(loaded) == hash(scalar)
        assert isinstance(loaded, float) == isinstance(scalar, float)
        assert type(load(path)["x"]) is np.ndarray
    assert type(ostraca.load(path, into={"x": scalar})["x"]) is type(scalar)


class Phase(enum.IntEnum):
    WARMUP = 0
    DECAY = 1


class Mode(enum.StrEnum):
    TRAIN = "train"


class Tokens(int):
    """A number with a unit."""

    unit = "tokens"


def test_subclasses_of_python_values(path: Path) -> None:
    tree = {"phase": Phase.DECAY, "mode": Mode.TRAIN, "seen": Tokens(5)}
    ostraca.save(path, tree)
    loaded = ostraca.load(path, like={"phase": Phase.WARMUP, "mode": Mode.TRAIN, "seen": Tokens(0)})
    assert loaded == tree and [type(value) for value in loaded.values()] == [Phase, Mode, Tokens]
    assert [type(value) for value in ostraca.load(path).values()] == [int, str, int]
    ostraca.save(path, {**tree, "phase": 7}, overwrite=True)
    with pytest.raises(MismatchError, match="'phase': 7 is not a valid Phase"):
        ostraca.load(path, like=tree)
