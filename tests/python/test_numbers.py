"""Python numbers and scalar arrays: either is restored where `like` has the other, with the value unchanged."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ostraca
from ostraca import MismatchError

jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402

import ostraca.jax  # noqa: E402


def train_state(step: Any) -> Any:
    optax = pytest.importorskip("optax")
    state = pytest.importorskip("flax.training.train_state").TrainState
    made = state.create(apply_fn=len, params={"w": jnp.ones(2)}, tx=optax.sgd(0.1))
    return made.replace(step=step)


@pytest.mark.parametrize(("saved", "like"), [(0, jnp.int32(7)), (jnp.int32(0), 7)], ids=["int", "array"])
def test_flax_train_state(path: Path, saved: Any, like: Any) -> None:
    """`TrainState.create` has the step 0, and after a jitted step it is an array."""
    ostraca.jax.save(path, train_state(saved))
    loaded = ostraca.jax.load(path, like=train_state(like))
    assert type(loaded.step) is type(like) and loaded.step == 0
    if isinstance(like, jax.Array):
        assert loaded.step.dtype == jnp.int32 and jax.jit(lambda x: x + 1)(loaded.step) == 1


@pytest.mark.parametrize(
    ("array", "number"),
    [
        (np.int32(-5), 0),
        (np.uint64(2**63 + 1), 0),
        (np.array(7, ">i2"), 0),
        (np.float32(0.1), 0.0),
        (jnp.bfloat16(1.5), 0.0),
        (np.bool_(True), False),
    ],
    ids=str,
)
def test_a_number_for_an_array(path: Path, array: Any, number: Any) -> None:
    ostraca.save(path, {"x": array})
    for load in (ostraca.load, ostraca.jax.load):
        loaded = load(path, like={"x": number})["x"]
        assert type(loaded) is type(number) and loaded == type(number)(array)
    assert ostraca.load(path, into={"x": number})["x"] == type(number)(array)


@pytest.mark.parametrize(
    ("number", "dtype"), [(-5, "int8"), (2**64 - 1, "uint64"), (0.5, "float16"), (0.1, "float64"), (True, "bool")]
)
def test_an_array_for_a_number(path: Path, number: Any, dtype: str) -> None:
    ostraca.save(path, {"x": number})
    for load in (ostraca.load, ostraca.jax.load):
        loaded = load(path, like={"x": np.zeros((), dtype)})["x"]
        assert type(loaded) is np.ndarray and loaded.dtype == dtype and loaded.shape == () and loaded == number
    target = np.zeros((), dtype)
    assert ostraca.load(path, into={"x": target})["x"] is target and target == number


def test_an_array_on_devices_for_a_number(path: Path) -> None:
    ostraca.save(path, {"step": 3, "rate": 0.25})
    mesh = jax.make_mesh((jax.device_count(),), ("x",))
    sharding = jax.NamedSharding(mesh, jax.P())
    like = {
        "step": jax.ShapeDtypeStruct((), jnp.int32, sharding=sharding),
        "rate": jax.device_put(jnp.bfloat16(0), sharding),
    }
    loaded = ostraca.jax.load(path, like=like)
    assert loaded["step"].sharding == sharding and loaded["step"] == 3 and loaded["step"].dtype == jnp.int32
    assert loaded["rate"].sharding == sharding and loaded["rate"] == 0.25 and loaded["rate"].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("number", "like", "message"),
    [
        (300, np.uint8(0), "300 .*does not fit uint8"),
        (2**70, np.int64(0), "does not fit int64"),
        (0.1, np.float32(0), "would be rounded to 0.1.* pass cast=True"),
        (1e300, np.float32(0), "does not fit float32"),
        (3, np.float32(0), "expected array, found int"),
        (0.5, np.int32(0), "expected array, found float"),
        (True, np.int32(0), "expected array, found bool"),
        (3, np.zeros(1, int), "expected array, found int"),
        (3, 0.5, "expected float, found int"),
        (np.float32(3), 0, "expected int, found array"),
        (np.zeros(1, int), 0, "expected int, found array"),
        (np.array(b"x"), 0, "expected int, found array"),
    ],
)
def test_other_values_are_refused(path: Path, number: Any, like: Any, message: str) -> None:
    ostraca.save(path, {"x": number})
    with pytest.raises(MismatchError, match=f"'x': .*{message}"):
        ostraca.load(path, like={"x": like})


def test_casts_of_numbers(path: Path) -> None:
    ostraca.save(path, {"rate": 0.1, "step": 3, "loss": np.float32(2.5)})
    loaded = ostraca.load(path, like={"rate": np.float32(0), "step": 0.0, "loss": 0.0}, cast=True)
    assert loaded == {"rate": np.float32(0.1), "step": 3.0, "loss": 2.5}
    assert [type(value) for value in loaded.values()] == [np.float32, float, float]
    with pytest.raises(MismatchError, match="expected int, found array"):
        ostraca.load(path, like={"rate": 0.0, "step": 0, "loss": 0}, cast=True)
    assert ostraca.load(path, like={"rate": 0.0, "step": 0, "loss": 0}, cast="unsafe")["loss"] == 2
