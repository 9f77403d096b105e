"""Orbax's v1 API on Ostraca, beside stock: abstract leaves, options, contexts, names, leaf handlers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint.experimental.v1 as ocp
import pytest

import ostraca
import ostraca.orbax.v1
from orbax_plugs import assert_same, sharded, state
from ostraca.handles import SaveHandle

MakeContext = Callable[[], ocp.Context]


@pytest.fixture(params=["stock", "ours"])
def context(request: pytest.FixtureRequest) -> MakeContext:
    return ocp.Context if request.param == "stock" else ostraca.orbax.v1.context


@dataclass
class Described:
    """An abstract array that is nobody's class but this test's."""

    shape: tuple[int, ...] | None
    dtype: Any


def leaves() -> dict[str, Any]:
    """One of each kind that both can hold."""
    return {
        "jax": sharded(np.arange(32, dtype=np.float32).reshape(8, 4), (4, 2), "a", "b"),
        "numpy": np.arange(6, dtype=np.int16),
        "int": 7,
        "float": 0.5,
        "str": "text",
    }


def test_classes_as_abstract_leaves(context: MakeContext, tmp_path: Path) -> None:
    kinds = {"jax": jax.Array, "numpy": np.ndarray, "int": int, "float": float, "str": str}
    with context():
        ocp.save(tmp_path / "x", leaves())
        assert_same(ocp.load(tmp_path / "x", kinds), leaves())
        assert_same(ocp.load(tmp_path / "x", {**kinds, "jax": jax.ShapeDtypeStruct}), leaves())
        assert_same(ocp.load(tmp_path / "x", {**kinds, "jax": ..., "int": ...}), {**leaves(), "jax": ..., "int": ...})


def test_classes_ask_for_another_kind(context: MakeContext, tmp_path: Path) -> None:
    kinds = {"jax": np.ndarray, "numpy": Described, "int": float, "float": int, "str": str}
    expected = {**leaves(), "jax": np.asarray(leaves()["jax"]), "int": 7.0, "float": 0}
    with context():
        ocp.save(tmp_path / "x", leaves())
        assert_same(ocp.load(tmp_path / "x", kinds), expected)


def test_instances_ask_for_kind_shape_and_dtype(context: MakeContext, tmp_path: Path) -> None:
    """What has a sharding becomes a jax.Array, what has none a numpy array."""
    target = {
        "jax": Described((8, 4), np.float64),
        "numpy": np.zeros(0, np.int64),  # of an array of numpy's the dtype alone counts
        "int": 1.0,
        "float": 0.0,
        "str": "",
    }
    expected = {
        "jax": np.asarray(leaves()["jax"], np.float64),
        "numpy": np.arange(6),
        "int": 7.0,
        "float": 0.5,
        "str": "text",
    }
    with context():
        ocp.save(tmp_path / "x", leaves())
        assert_same(ocp.load(tmp_path / "x", target), expected)
        struct = jax.ShapeDtypeStruct((8, 4), np.float32)  # as it was sharded
        assert_same(ocp.load(tmp_path / "x", {**target, "jax": struct}), {**expected, "jax": leaves()["jax"]})


def test_a_numpy_array_becomes_a_jax_array(context: MakeContext, tmp_path: Path) -> None:
    expected = sharded(leaves()["numpy"], (2,), "a")
    struct = jax.ShapeDtypeStruct(expected.shape, expected.dtype, sharding=expected.sharding)
    with context():
        ocp.save(tmp_path / "x", {"numpy": leaves()["numpy"]})
        assert_same(ocp.load(tmp_path / "x", {"numpy": struct}), {"numpy": expected})


def test_without_a_sharding_it_goes_to_the_default_device(tmp_path: Path) -> None:
    """Stock says that it needs one."""
    with ostraca.orbax.v1.context():
        ocp.save(tmp_path / "x", {"numpy": leaves()["numpy"]})
        for target in (jax.Array, jax.ShapeDtypeStruct((6,), np.int16)):
            found = ocp.load(tmp_path / "x", {"numpy": target})
            assert_same(found, {"numpy": jax.device_put(leaves()["numpy"])})


def test_other_abstract_leaves_are_refused(context: MakeContext, tmp_path: Path) -> None:
    with context():
        ocp.save(tmp_path / "x", leaves())
        with pytest.raises(TypeError, match="abstract leaf"):
            ocp.load(tmp_path / "x", dict.fromkeys(leaves(), object))
        with pytest.raises(ValueError, match="abstract leaf"):
            ocp.load_checkpointables(tmp_path / "x", {"state": dict.fromkeys(leaves(), object)})


def test_metadata_is_a_target(context: MakeContext, tmp_path: Path) -> None:
    with context():
        ocp.save(tmp_path / "x", leaves(), custom_metadata={"run": 3})
        described = ocp.metadata(tmp_path / "x")
        assert_same(ocp.load(tmp_path / "x", described), leaves())
    assert described.custom_metadata == {"run": 3}
    assert (described.metadata["jax"].shape, described.metadata["jax"].dtype) == ((8, 4), np.float32)
    assert described.metadata["jax"].sharding == leaves()["jax"].sharding
    assert (described.metadata["numpy"].shape, described.metadata["numpy"].dtype) == ((6,), np.int16)
    assert not hasattr(described.metadata["numpy"], "sharding")
    values = {name: described.metadata[name] for name in ("int", "float", "str")}
    assert_same(values, {"int": 0, "float": 0.0, "str": "string"})


def test_partial_loading(context: MakeContext, tmp_path: Path) -> None:
    chosen = context()
    chosen.pytree.loading.partial_load = True
    with chosen:
        ocp.save(tmp_path / "x", state(1))
        kernel = ocp.load(tmp_path / "x", {"params": {"kernel": jax.Array}})
    assert_same(kernel, {"params": {"kernel": state(1)["params"]["kernel"]}})


def test_partial_loading_keeps_abstract_leaves_that_are_not_stored(context: MakeContext, tmp_path: Path) -> None:
    new = {"struct": jax.ShapeDtypeStruct((3,), np.float32), "class": int, "value": 7, "array": np.zeros(2)}
    new |= {"described": Described((3,), np.dtype("float32")), "none": None}
    chosen = context()
    chosen.pytree.loading.partial_load = True
    with chosen:
        ocp.save(tmp_path / "x", state(1))
        found = ocp.load(tmp_path / "x", {"step": int, "params": {"bias": jax.Array, "new": new}})
    assert all(found["params"]["new"][name] is leaf for name, leaf in new.items())
    assert_same((found["step"], found["params"]["bias"]), (1, state(1)["params"]["bias"]))


def test_padding_and_truncation(context: MakeContext, tmp_path: Path) -> None:
    values = leaves()["jax"]
    longer = jax.ShapeDtypeStruct((12, 2), np.float32, sharding=values.sharding)
    with context():
        ocp.save(tmp_path / "x", {"w": values})
        with pytest.raises(ValueError, match=r"12, 2"):
            ocp.load(tmp_path / "x", {"w": longer})
    chosen = context()
    chosen.array.loading.enable_padding_and_truncation = True
    with chosen:
        found = ocp.load(tmp_path / "x", {"w": longer})
    assert_same(found, {"w": sharded(np.pad(np.asarray(values), ((0, 4), (0, 0)))[:, :2], (4, 2), "a", "b")})


def test_dtypes_that_are_saved(context: MakeContext, tmp_path: Path) -> None:
    """For all arrays, and for a leaf by its key path."""

    def of_leaf(path: Any, value: Any) -> ocp.options.ArrayOptions.Saving.StorageOptions | None:
        name = jax.tree_util.keystr(path)
        return ocp.options.ArrayOptions.Saving.StorageOptions(dtype=np.float64) if "numpy" in name else None

    tree = {"jax": leaves()["jax"], "numpy": np.arange(6, dtype=np.float32)}
    chosen = context()
    chosen.array.saving.storage_options.dtype = np.float16
    chosen.array.saving.scoped_storage_options_creator = of_leaf
    with chosen:
        ocp.save(tmp_path / "x", tree)
        found = ocp.load(tmp_path / "x")
    assert_same(found, {"jax": tree["jax"].astype(np.float16), "numpy": tree["numpy"].astype(np.float64)})


def test_options_of_an_inherited_context(tmp_path: Path) -> None:
    own = ocp.Context()
    own.pytree.loading.partial_load = True
    with ostraca.orbax.v1.context(own):
        ocp.save(tmp_path / "x", state(1))
        assert_same(ocp.load(tmp_path / "x", {"step": int}), {"step": 1})
    assert ostraca.verify(tmp_path / "x" / "state").ok


def test_a_save_that_takes_too_long(context: MakeContext, tmp_path: Path) -> None:
    chosen = context()
    chosen.asynchronous.timeout_secs = 0
    with chosen, pytest.raises(TimeoutError):
        ocp.save(tmp_path / "x", {"w": np.ones((1 << 22,), np.float32)})
    assert not (tmp_path / "x").exists()


def test_a_save_is_cancelled(context: MakeContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cancel, told = SaveHandle.cancel, []
    monkeypatch.setattr(SaveHandle, "cancel", lambda handle: told.append(handle) or cancel(handle))
    with ocp.training.Checkpointer(tmp_path, context=context()) as checkpointer:
        checkpointer.save(0, state(0))
        checkpointer.save_async(1, {"w": np.ones((1 << 24,), np.float32)})
        checkpointer.cancel(1)
        assert bool(told) == (context is ostraca.orbax.v1.context)  # the engine's save, too
        checkpointer.reload()
        assert [checkpoint.step for checkpoint in checkpointer.checkpoints] == [0]
        checkpointer.save(2, state(2), force=True)  # the cancelled one may be ending still
        assert_same(checkpointer.load(2), state(2))


def kinds_of(run: Path) -> set[bool]:
    """Whether each step is Ostraca's."""
    return {(step / "state" / "manifest.json").exists() for step in run.iterdir() if step.is_dir()}


@pytest.mark.parametrize("made", ["inside", "with context="])
def test_a_checkpointers_context_lasts(made: str, tmp_path: Path) -> None:
    """Orbax's own context is lost with the first call; later ones would write stock's format, and nobody would know."""
    mine = ostraca.orbax.v1.context()
    if made == "inside":
        with mine, ocp.training.Checkpointer(tmp_path) as checkpointer:
            for step in range(3):
                checkpointer.save(step, state(step))
            ocp.save(tmp_path / "3", state(3))
    else:
        with ocp.training.Checkpointer(tmp_path, context=mine) as checkpointer:
            for step in range(3):
                checkpointer.save(step, state(step))
    assert kinds_of(tmp_path) == {True}
    ocp.save(tmp_path / "4", state(4))
    assert kinds_of(tmp_path) == {True, False}  # outside nothing changes


def test_contexts_within_contexts() -> None:
    one, other = ostraca.orbax.v1.context(), ostraca.orbax.v1.context()

    def active() -> ocp.Context:
        return ocp.handlers.PyTreeHandler()._context

    with one:
        with other, one:
            assert active() is one
        assert active() is one
        with pytest.raises(KeyError), other:
            raise KeyError
        assert active() is one
    assert active() is not one


def test_what_a_context_of_stocks_own_loses(tmp_path: Path) -> None:
    """The reason for a context of ours. When this fails, Orbax has mended it, and `_Context` can go."""
    context = ocp.Context()

    def active() -> ocp.Context:
        return ocp.handlers.PyTreeHandler()._context

    with context, ocp.training.Checkpointer(tmp_path) as checkpointer:
        assert active() is context
        checkpointer.save(0, state(0))
        assert active() is not context


@pytest.fixture(scope="module")
def registered() -> str:
    """A name that no other test takes: Orbax has no way to give one back."""
    ostraca.orbax.v1.register("ostraca_weights")
    ostraca.orbax.v1.register("ostraca_weights", "ostraca_weights")
    return "ostraca_weights"


def test_registered_names(registered: str, tmp_path: Path) -> None:
    """Without a context; other names, and other checkpointables, stay stock's."""
    with ocp.training.Checkpointer(tmp_path) as checkpointer:
        items = {registered: state(1), "ema": state(2), "notes": {"epoch": "three"}}
        checkpointer.save_checkpointables(1, items)
        loaded = checkpointer.load_checkpointables(1)
        assert_same(loaded[registered], state(1))
        assert_same(loaded["ema"], state(2))
        assert loaded["notes"] == {"epoch": "three"}
        assert_same(checkpointer.load(1, checkpointable_name=registered), state(1))
    assert ostraca.verify(tmp_path / "1" / registered, deep=True).ok
    assert not (tmp_path / "1" / "ema" / "manifest.json").exists()


def test_registered_names_load_what_stock_wrote(registered: str, tmp_path: Path) -> None:
    ocp.save_checkpointables(tmp_path / "x", {"other": state(1)})
    (tmp_path / "x" / "other").rename(tmp_path / "x" / registered)
    assert_same(ocp.load_checkpointables(tmp_path / "x")[registered], state(1))


def test_registered_names_within_a_context(registered: str, tmp_path: Path) -> None:
    with ostraca.orbax.v1.context():
        ocp.save_checkpointables(tmp_path / "x", {registered: state(1), "ema": state(2)})
    assert ostraca.verify(tmp_path / "x" / registered).ok
    assert ostraca.verify(tmp_path / "x" / "ema").ok


def test_names_that_cannot_be_registered() -> None:
    with pytest.raises(ostraca.UnsupportedError, match=r"'state' is registered already.*context\(\)"):
        ostraca.orbax.v1.register("ostraca_never", "state")
    assert not ocp.handlers.global_registry().has("ostraca_never")
    with pytest.raises(TypeError, match="without a name"):
        ostraca.orbax.v1.register()
