"""Leaves and arguments as stock Orbax takes them. Tests with a `plug` run with stock Orbax and with ours."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import ostraca
import ostraca.orbax
from orbax_plugs import Plug, PyTreeRestore, PyTreeSave, StandardRestore, StandardSave, assert_same, sharded, state

ARRAY = np.arange(8.0, dtype=np.float32)


def saved(plug: Plug, path: Path, tree: Any, save_args: Any = None) -> Any:
    checkpointer = plug.checkpointer()
    checkpointer.save(path, args=PyTreeSave(tree, save_args))
    return checkpointer


# --- Classes ------------------------------------------------------------------------------------------------------


class Mine(np.ndarray):
    """A subclass."""


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (type(jnp.ones(1)), jax.Array),
        (jax.Array, jax.Array),
        ("jax.Array", jax.Array),
        (np.ndarray, np.ndarray),
        ("np.ndarray", np.ndarray),
    ],
)
def test_a_restore_type_may_be_a_subclass(plug: Plug, tmp_path: Path, kind: Any, expected: type) -> None:
    array = sharded(ARRAY, (4,), "a")
    checkpointer = saved(plug, tmp_path / "x", {"x": array})
    for args in (
        ocp.RestoreArgs(restore_type=kind),
        ocp.RestoreArgs(restore_type=kind, dtype=np.float16),
        ocp.ArrayRestoreArgs(restore_type=kind, sharding=array.sharding),
    ):
        found = checkpointer.restore(tmp_path / "x", args=PyTreeRestore(restore_args={"x": args}))["x"]
        assert isinstance(found, expected)
        assert found.dtype == (args.dtype or np.float32)
        np.testing.assert_array_equal(found, ARRAY)
        if expected is jax.Array:
            assert found.sharding == array.sharding


def test_what_numpy_saved_may_come_back_to_the_device(ours: Plug, tmp_path: Path) -> None:
    """Stock Orbax wants to be told a sharding."""
    checkpointer = saved(ours, tmp_path / "x", {"x": ARRAY})
    args = {"x": ocp.RestoreArgs(restore_type=type(jnp.ones(1)))}
    found = checkpointer.restore(tmp_path / "x", args=PyTreeRestore(restore_args=args))
    assert_same(found, {"x": jnp.asarray(ARRAY)})


@pytest.mark.parametrize(
    ("leaf", "expected"),
    [
        (jax.Array, jnp.asarray(ARRAY)),
        (type(jnp.ones(1)), jnp.asarray(ARRAY)),
        (jax.ShapeDtypeStruct, jnp.asarray(ARRAY)),
        (np.ndarray, ARRAY),
        (Mine, ARRAY),
        (object, jnp.asarray(ARRAY)),
    ],
)
def test_classes_in_a_target(tmp_path: Path, leaf: type, expected: Any) -> None:
    """Of `Restore` alone: Orbax's version 1 has targets of classes."""
    handler = ostraca.orbax.Handler()
    handler.save(tmp_path / "x", {"x": jnp.asarray(ARRAY), "s": 3, "t": "text"})
    found = handler.restore(tmp_path / "x", args=ostraca.orbax.Restore({"x": leaf, "s": float, "t": str}))
    assert_same(found, {"x": expected, "s": 3.0, "t": "text"})
    assert_same(handler.restore(tmp_path / "x", {"x": leaf, "s": int, "t": object})["s"], 3)


def test_classes_beside_restore_args(plug: Plug, tmp_path: Path) -> None:
    array = sharded(ARRAY, (4,), "a")
    checkpointer = saved(plug, tmp_path / "x", {"x": array, "y": array, "s": 3})
    item = {"x": np.ndarray, "y": jax.Array, "s": int}
    args = {"x": ocp.RestoreArgs(), "y": ocp.ArrayRestoreArgs(sharding=array.sharding), "s": ocp.RestoreArgs()}
    found = checkpointer.restore(tmp_path / "x", args=PyTreeRestore(item, args))
    assert_same(found, {"x": array, "y": array, "s": 3})


# --- SaveArgs and RestoreArgs ---------------------------------------------------------------------------------------

EMPTY: dict[str, Any] = {"dict": {}, "list": [], "tuple": (), "none": None, "masked": optax.MaskedNode()}


@pytest.mark.parametrize("kind", EMPTY)
def test_args_of_an_empty_container(plug: Plug, tmp_path: Path, kind: str) -> None:
    tree = {"a": EMPTY[kind], "b": [jnp.ones(3), EMPTY[kind]]}
    half, args = ocp.SaveArgs(dtype=np.dtype(np.float16)), ocp.RestoreArgs(restore_type=np.ndarray)
    checkpointer = saved(plug, tmp_path / "x", tree, {"a": half, "b": [half, half]})
    target = PyTreeRestore(tree, {"a": ocp.RestoreArgs(), "b": [args, ocp.RestoreArgs()]})
    expected = {"a": EMPTY[kind], "b": [np.ones(3, np.float16), EMPTY[kind]]}
    assert_same(checkpointer.restore(tmp_path / "x", args=target), expected)
    without = PyTreeRestore(tree, {"a": EMPTY[kind], "b": [args, EMPTY[kind]]})
    assert_same(checkpointer.restore(tmp_path / "x", args=without), expected)


@pytest.mark.parametrize(
    "args",
    [
        lambda one: {"a": one, "b": one},  # at a container
        lambda one: {"a": {"x": one}, "b": one},  # one leaf has none
        lambda one: {"b": one},
        lambda one: {"a": {"x": one, "y": one}, "b": one, "c": one},
        lambda one: one,
    ],
)
def test_args_of_another_structure_are_refused(plug: Plug, tmp_path: Path, args: Callable[[Any], Any]) -> None:
    """They would have no effect."""
    tree = {"a": {"x": jnp.ones(3), "y": np.ones(2)}, "b": 3}
    with pytest.raises(ValueError, match=r"structure|differ"):
        saved(plug, tmp_path / "x", tree, args(ocp.SaveArgs()))
    checkpointer = saved(plug, tmp_path / "y", tree)
    for item in (tree, None):
        with pytest.raises(ValueError, match=r"structure|differ"):
            checkpointer.restore(tmp_path / "y", args=PyTreeRestore(item, args(ocp.RestoreArgs())))


def test_args_that_are_none_and_args_beyond_a_part(plug: Plug, tmp_path: Path) -> None:
    tree = {"a": jnp.ones(3), "b": np.ones(2)}
    checkpointer = saved(plug, tmp_path / "x", tree, {"a": None, "b": ocp.SaveArgs(dtype=np.dtype(np.float16))})
    expected = {"a": tree["a"], "b": np.ones(2, np.float16)}
    assert_same(checkpointer.restore(tmp_path / "x"), expected)
    args = {"a": ocp.RestoreArgs(restore_type=np.ndarray), "b": ocp.RestoreArgs()}
    target = PyTreeRestore({"a": 0}, args, partial_restore=True)
    assert_same(checkpointer.restore(tmp_path / "x", args=target), {"a": np.ones(3, np.float32)})


# --- None, and what is empty ----------------------------------------------------------------------------------------

WAYS: dict[str, Callable[[Any], Any]] = {
    "standard": StandardRestore,
    "pytree": PyTreeRestore,
    "args": lambda tree: PyTreeRestore(tree, ocp.checkpoint_utils.construct_restore_args(tree)),
    "partial": lambda tree: PyTreeRestore(
        tree, ocp.checkpoint_utils.construct_restore_args(tree), partial_restore=True
    ),
}


def restored(plug: Plug, path: Path, way: str, target: Any) -> Any:
    if way == "standard":
        with plug.standard_checkpointer() as checkpointer:
            return checkpointer.restore(path, target)
    return plug.checkpointer().restore(path, args=WAYS[way](target))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", EMPTY)
def test_what_is_empty_in_the_target_stays_so(plug: Plug, tmp_path: Path, kind: str, way: str) -> None:
    for number, stored in enumerate((jnp.asarray(ARRAY), ARRAY, 3, {}, None)):
        saved(plug, tmp_path / str(number), {"a": stored, "b": jnp.ones(2)})
        target = {"a": EMPTY[kind], "b": jnp.zeros(2)}
        assert_same(restored(plug, tmp_path / str(number), way, target), {"a": EMPTY[kind], "b": jnp.ones(2)})


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", EMPTY)
def test_what_is_empty_in_the_checkpoint_comes_back(plug: Plug, tmp_path: Path, kind: str, way: str) -> None:
    saved(plug, tmp_path / "x", {"a": EMPTY[kind], "b": jnp.ones(2)})
    expected = None if kind == "masked" else EMPTY[kind]
    for leaf in (jnp.asarray(ARRAY), ARRAY, 3):
        target = {"a": leaf, "b": jnp.zeros(2)}
        assert_same(restored(plug, tmp_path / "x", way, target), {"a": expected, "b": jnp.ones(2)})
    assert_same(plug.checkpointer().restore(tmp_path / "x"), {"a": expected, "b": jnp.ones(2)})
    metadata = plug.checkpointer().metadata(tmp_path / "x").item_metadata
    assert (metadata["a"], type(metadata["a"])) == (expected, type(expected))


@pytest.mark.parametrize("way", WAYS)
def test_a_container_is_no_leaf(plug: Plug, tmp_path: Path, way: str) -> None:
    full = {"x": jnp.ones(2), "y": jnp.ones(3)}
    saved(plug, tmp_path / "full", {"a": full, "b": jnp.ones(2)})
    saved(plug, tmp_path / "none", {"a": None, "b": jnp.ones(2)})
    with pytest.raises((ValueError, TypeError)):
        restored(plug, tmp_path / "full", way, {"a": jnp.ones(2), "b": jnp.zeros(2)})
    with pytest.raises((ValueError, TypeError)):
        restored(plug, tmp_path / "none", way, {"a": full, "b": jnp.zeros(2)})


def test_masked_optimizers(plug: Plug, tmp_path: Path) -> None:
    """Saved with a mask, restored to a state without, and the other way."""
    params = {"w": jnp.ones(3), "b": jnp.ones(2)}
    whole = optax.masked(optax.trace(0.9), {"w": True, "b": True}).init(params)
    masked = optax.masked(optax.trace(0.9), {"w": True, "b": False}).init(params)
    with plug.standard_checkpointer() as checkpointer:
        checkpointer.save(tmp_path / "masked", masked)
        checkpointer.save(tmp_path / "whole", whole)
        checkpointer.wait_until_finished()
        found = checkpointer.restore(tmp_path / "masked", whole)
        assert found.inner_state.trace["b"] is None
        assert_same(found.inner_state.trace["w"], masked.inner_state.trace["w"])
        assert_same(checkpointer.restore(tmp_path / "whole", masked), masked)


# --- What Orbax lets programs register, and what it cannot read -----------------------------------------------------


@dataclass
class Point:
    """A leaf of a program's."""

    x: int
    y: int


class PointHandler(ocp.type_handlers.TypeHandler):  # type: ignore[misc]
    """Stores nothing."""

    def typestr(self) -> str:
        return "Point"

    async def metadata(self, infos: Any) -> Any:
        raise NotImplementedError

    async def serialize(self, values: Any, infos: Any, args: Any = None) -> Any:
        raise NotImplementedError

    async def deserialize(self, infos: Any, args: Any = None) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize(("kind", "leaf"), [(Point, Point(1, 2)), (np.ndarray, ARRAY)])
def test_leaves_with_a_type_handler_are_refused(
    ours: Plug, tmp_path: Path, kind: type, leaf: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = ocp.type_handlers.create_type_handler_registry((kind, PointHandler()))
    for name in ("has_type_handler", "get_type_handler"):
        monkeypatch.setattr(ocp.type_handlers, name, getattr(registry, name.split("_")[0]))
    with pytest.raises(ostraca.UnsupportedError, match=r"'a/0'.*TypeHandler PointHandler.*PyTreeCheckpointHandler"):
        saved(ours, tmp_path / "x", {"a": [leaf]})
    saved(ours, tmp_path / "y", {"a": [3, jnp.ones(3)]})


def test_an_item_of_its_own_goes_through_orbax(tmp_path: Path) -> None:
    """What the refusal says."""
    registry = ostraca.orbax.registry()
    for args in (PyTreeSave, PyTreeRestore):
        registry.add("theirs", args, ocp.PyTreeCheckpointHandler())
    with ocp.CheckpointManager(tmp_path, handler_registry=registry) as manager:
        manager.save(0, args=ocp.args.Composite(theirs=PyTreeSave(state(1)), state=StandardSave(state(2))))
        manager.wait_until_finished()
        found = manager.restore(0, args=ocp.args.Composite(theirs=PyTreeRestore(), state=StandardRestore()))
    assert_same(found["theirs"], state(1))
    assert_same(found["state"], state(2))
    assert ostraca.verify(tmp_path / "0" / "state", deep=True).ok
    assert not (tmp_path / "0" / "theirs" / "manifest.json").exists()


@pytest.mark.parametrize("key", [(1, 2), 1.5, b"k", None, frozenset("a")])
def test_keys_that_cannot_be_stored_are_named(ours: Plug, tmp_path: Path, key: Any) -> None:
    tree = {"params": {key: jnp.ones(3)}}
    with pytest.raises(ostraca.UnsupportedError) as raised:
        saved(ours, tmp_path / "x", tree)
    assert repr(key) in str(raised.value)
    assert "'params'" in str(raised.value)
    saved(ours, tmp_path / "y", {"params": {"k": jnp.ones(3)}})
    for target in (StandardRestore(tree), PyTreeRestore(tree), PyTreeRestore(restore_args=tree)):
        with pytest.raises(ostraca.UnsupportedError) as raised:
            ours.checkpointer().restore(tmp_path / "y", args=target)
        assert repr(key) in str(raised.value)
    with pytest.raises(ostraca.UnsupportedError, match="params"):
        saved(ours, tmp_path / "z", {"params": {"k": jnp.ones(3)}}, tree)


ADVICE = r"saved by Ostraca.*handler_registry=ostraca\.orbax\.registry\(\)"


def test_stock_handlers_that_read_ours_say_what_to_do(tmp_path: Path) -> None:
    with Plug(True).manager(tmp_path / "run") as manager:
        manager.save(0, args=StandardSave(state()))
        manager.wait_until_finished()
    saved(Plug(True), tmp_path / "x", state())
    for args in (StandardRestore(), StandardRestore(state()), PyTreeRestore(), PyTreeRestore(state())):
        with ocp.CheckpointManager(tmp_path / "run") as manager, pytest.raises(ValueError, match=ADVICE):
            manager.restore(0, args=args)
    stock = ocp.StandardCheckpointHandler()
    with ocp.CheckpointManager(tmp_path / "run", item_handlers=stock) as manager:
        for ask in (manager.restore, manager.item_metadata):
            with pytest.raises(ValueError, match=ADVICE):
                ask(0)
    for checkpointer in (ocp.StandardCheckpointer(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler())):
        with pytest.raises(ValueError, match=ADVICE):
            checkpointer.restore(tmp_path / "x")
    assert ostraca.verify(tmp_path / "x", deep=True).ok
    assert_same(Plug(True).checkpointer().restore(tmp_path / "x"), state())
