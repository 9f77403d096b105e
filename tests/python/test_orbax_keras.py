"""Keras's own Orbax callback and `load_model` (`make test-keras`), stock and, by a registered name, on Ostraca."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import numpy as np
import orbax.checkpoint.experimental.v1 as ocp
import pytest

import ostraca
import ostraca.orbax.v1

keras = pytest.importorskip("keras", reason="make test-keras has it")

ROWS = np.random.default_rng(0).standard_normal((64, 8), np.float32)


@pytest.fixture(autouse=True)
def no_distribution() -> Iterator[None]:
    yield
    keras.distribution.set_distribution(None)


def model() -> Any:
    """With moments and counters, and names for all layers: Keras finds stored variables by them."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8,), name="rows")
    hidden = keras.layers.Dense(16, activation="relu", name="first")(inputs)
    outputs = keras.layers.Dense(1, name="second")(keras.layers.BatchNormalization(name="norm")(hidden))
    result = keras.Model(inputs, outputs, name="small")
    result.compile("adam", "mse", metrics=["mae"])
    return result


def fitted(directory: Path, epochs: int, **options: Any) -> Any:
    result = model()
    callback = keras.callbacks.OrbaxCheckpoint(str(directory), max_to_keep=2, **options)
    result.fit(ROWS, ROWS.sum(axis=1), batch_size=16, epochs=epochs, verbose=0, callbacks=[callback])
    return result


def assert_same_state(found: Any, expected: Any) -> None:
    """Weights, moments and counters, bit for bit. Metrics begin anew with each epoch."""
    found, expected = found.get_state_tree(), expected.get_state_tree()
    for part in ("trainable_variables", "non_trainable_variables", "optimizer_variables"):
        assert jax.tree.structure(found[part]) == jax.tree.structure(expected[part])
        for (path, one), other in zip(
            jax.tree.leaves_with_path(found[part]), jax.tree.leaves(expected[part]), strict=True
        ):
            assert np.asarray(one).tobytes() == np.asarray(other).tobytes(), jax.tree_util.keystr(path)


def test_stocks_own_format_is_loaded_after_registering(tmp_path: Path) -> None:
    """The first test: nothing is registered yet. A run can change over in the middle."""
    assert not ocp.handlers.global_registry().has("pytree")
    straight = fitted(tmp_path, 2)
    assert not (tmp_path / "1" / "pytree" / "manifest.json").exists()
    ostraca.orbax.v1.register("pytree")
    assert_same_state(keras.saving.load_model(str(tmp_path)), straight)


@pytest.fixture
def registered() -> None:
    ostraca.orbax.v1.register("pytree")


@pytest.mark.parametrize("options", [{}, {"save_on_background": False}, {"save_freq": 4}], ids=str)
def test_the_callback_saves_and_load_model_loads(registered: None, options: dict[str, Any], tmp_path: Path) -> None:
    straight = fitted(tmp_path, 3, **options)
    steps = sorted(int(path.name) for path in tmp_path.iterdir() if path.name.isdigit())
    assert steps == ([8, 12] if "save_freq" in options else [1, 2])
    for step in steps:
        assert ostraca.verify(tmp_path / str(step) / "pytree", deep=True).ok
    found = keras.saving.load_model(str(tmp_path))
    assert_same_state(found, straight)
    np.testing.assert_array_equal(found.predict(ROWS, verbose=0), straight.predict(ROWS, verbose=0))


def test_weights_alone(registered: None, tmp_path: Path) -> None:
    straight = fitted(tmp_path, 2, save_weights_only=True)
    found = model()
    found.load_weights(str(tmp_path))
    np.testing.assert_array_equal(found.predict(ROWS, verbose=0), straight.predict(ROWS, verbose=0))


def distributed() -> Any:
    """Eight devices: the kernels sharded over four of them, the batch over two."""
    mesh = keras.distribution.DeviceMesh((2, 4), ["batch", "model"], keras.distribution.list_devices())
    layout = keras.distribution.LayoutMap(mesh)
    layout[".*first.*kernel"] = (None, "model")
    return keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")


@pytest.mark.parametrize("from_one", [False, True], ids=["same mesh", "one device to eight"])
def test_a_distribution(registered: None, from_one: bool, tmp_path: Path) -> None:
    keras.distribution.set_distribution(None if from_one else distributed())
    straight = fitted(tmp_path, 2)
    keras.distribution.set_distribution(distributed())
    found = keras.saving.load_model(str(tmp_path))
    assert_same_state(found, straight)
    kernel = found.get_layer("first").kernel.value
    assert kernel.sharding.spec == jax.sharding.PartitionSpec(None, "model")
    assert kernel.sharding.mesh.shape == {"batch": 2, "model": 4}
