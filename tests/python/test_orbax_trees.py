"""Trees through Orbax: what is saved, and all the ways to ask for it. Each test runs with stock Orbax and with ours."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx, struct
from jax.sharding import NamedSharding, PartitionSpec

import ostraca
import ostraca.orbax
from orbax_plugs import (
    Plug,
    PyTreeRestore,
    PyTreeSave,
    StandardRestore,
    StandardSave,
    abstract,
    assert_same,
    mesh,
    sharded,
    state,
)


def roundtrip(plug: Plug, path: Path, saved: Any, restored: Any = None) -> Any:
    checkpointer = plug.checkpointer()
    if not path.exists():
        checkpointer.save(path, args=PyTreeSave(saved))
    return checkpointer.restore(path, args=PyTreeRestore() if restored is None else restored)


class Moments(NamedTuple):
    mean: Any
    square: Any


@struct.dataclass
class TrainState:
    params: Any
    moments: Moments
    step: Any
    name: str = struct.field(pytree_node=False, default="run")


LEAVES = {
    "jax": lambda: jnp.arange(12.0).reshape(3, 4),
    "numpy": lambda: np.arange(12).reshape(3, 4),
    "0-d": lambda: jnp.float32(2.5),
    "bfloat16": lambda: jnp.arange(5, dtype=jnp.bfloat16),
    "int4": lambda: jnp.arange(-3, 4).astype(jnp.int4),
    "fp8": lambda: jnp.arange(4.0).astype(jnp.float8_e4m3fn),
    "bool": lambda: np.array([True, False]),
    "complex": lambda: np.array([1 + 2j], np.complex64),
    "fortran": lambda: np.asfortranarray(np.arange(12).reshape(3, 4)),
    "sharded": lambda: sharded(np.arange(64.0, dtype=np.float32).reshape(8, 8), (4, 2), "a", "b"),
    "replicated": lambda: sharded(np.arange(6), (4, 2)),
    "key": lambda: jax.random.key(3),
    "keys": lambda: jax.random.split(jax.random.key(4, impl="rbg"), 4),
    "int": lambda: 3,
    "float": lambda: 0.1,
    "true": lambda: True,
    "str": lambda: "text",
}


@pytest.mark.parametrize("kind", LEAVES)
def test_leaves_come_back(plug: Plug, tmp_path: Path, kind: str) -> None:
    tree = {"a": LEAVES[kind](), "b": {"c": [LEAVES[kind]()]}}
    assert_same(roundtrip(plug, tmp_path / "x", tree), tree)


@pytest.mark.parametrize("kind", [kind for kind in LEAVES if kind != "str"])
def test_leaves_come_back_to_a_target(plug: Plug, tmp_path: Path, kind: str) -> None:
    tree = {"a": LEAVES[kind]()}
    with plug.standard_checkpointer() as checkpointer:
        checkpointer.save(tmp_path / "x", tree)
        assert_same(checkpointer.restore(tmp_path / "x", tree), tree)
        assert_same(checkpointer.restore(tmp_path / "x", abstract(tree)), tree)


def test_containers_come_back_to_a_target(plug: Plug, tmp_path: Path) -> None:
    params = {"kernel": jnp.ones((4, 2)), "empty": {}, "none": None}
    optimizer = optax.chain(optax.clip(1.0), optax.adamw(1e-3))
    tree = {
        "state": TrainState(params, Moments(jnp.zeros(3), np.ones(2)), 5),
        "optimizer": optimizer.init({"kernel": params["kernel"]}),
        "tuple": (1, [jnp.ones(2), ()]),
    }
    restore_args = ocp.checkpoint_utils.construct_restore_args(tree)
    target = PyTreeRestore(item=tree, restore_args=restore_args)
    assert_same(roundtrip(plug, tmp_path / "x", tree, target), tree)


def test_flax_nnx_state(plug: Plug, tmp_path: Path) -> None:
    class Model(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.layer = nnx.Linear(4, 3, rngs=rngs)
            self.layers = nnx.List([nnx.Linear(3, 3, rngs=rngs), nnx.BatchNorm(3, rngs=rngs)])
            self.dropout = nnx.Dropout(0.5, rngs=rngs)

    graph, saved = nnx.split(Model(nnx.Rngs(0)))
    target = nnx.state(nnx.eval_shape(lambda: Model(nnx.Rngs(1))))
    with plug.standard_checkpointer() as checkpointer:
        checkpointer.save(tmp_path / "x", saved)
        restored = checkpointer.restore(tmp_path / "x", target)
    assert_same(restored, saved)
    nnx.merge(graph, restored)


def test_the_root_is_an_array(plug: Plug, tmp_path: Path) -> None:
    tree = jnp.arange(3.0)
    assert_same(roundtrip(plug, tmp_path / "x", tree), tree)


# --- What a restore may ask for -----------------------------------------------------------------------------------


def resharded(tree: dict[str, Any]) -> dict[str, Any]:
    """Its kernel on another mesh, by columns."""
    kernel = sharded(np.asarray(tree["params"]["kernel"]), (2, 2, 2), None, ("b", "c"))
    return {**tree, "params": {**tree["params"], "kernel": kernel}}


@pytest.mark.parametrize("concrete", [True, False])
def test_another_sharding(plug: Plug, tmp_path: Path, concrete: bool) -> None:
    expected = resharded(state())
    with plug.standard_checkpointer() as checkpointer:
        checkpointer.save(tmp_path / "x", state())
        assert_same(checkpointer.restore(tmp_path / "x", expected if concrete else abstract(expected)), expected)


def restored_kernel(plug: Plug, path: Path, args: Any, **further: Any) -> Any:
    restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(), state())
    restore_args["params"]["kernel"] = args
    return roundtrip(plug, path, state(), PyTreeRestore(restore_args=restore_args, **further))["params"]["kernel"]


def test_array_restore_args(plug: Plug, tmp_path: Path) -> None:
    kernel = np.asarray(state()["params"]["kernel"])
    target = NamedSharding(mesh(2, 4), PartitionSpec("b", "a"))
    path = tmp_path / "x"
    found = restored_kernel(plug, path, ocp.ArrayRestoreArgs(sharding=target))
    assert_same(found, jax.device_put(kernel, target))
    found = restored_kernel(plug, path, ocp.ArrayRestoreArgs(mesh=target.mesh, mesh_axes=target.spec))
    assert_same(found, jax.device_put(kernel, target))
    found = restored_kernel(plug, path, ocp.ArrayRestoreArgs(sharding=target, dtype=jnp.bfloat16))
    assert_same(found, jax.device_put(kernel.astype(jnp.bfloat16), target))
    described = ocp.metadata.NamedShardingMetadata.from_jax_sharding(target)
    found = restored_kernel(plug, path, ocp.ArrayRestoreArgs(sharding=described))
    assert_same(found, jax.device_put(kernel, target))
    assert_same(restored_kernel(plug, path, ocp.ArrayRestoreArgs()), state()["params"]["kernel"])


def test_restore_types_and_casts(plug: Plug, tmp_path: Path) -> None:
    kernel = np.asarray(state()["params"]["kernel"])
    path = tmp_path / "x"
    found = restored_kernel(plug, path, ocp.RestoreArgs(restore_type=np.ndarray))
    assert_same(found, kernel)
    found = restored_kernel(plug, path, ocp.RestoreArgs(restore_type=np.ndarray, dtype=np.float16))
    assert_same(found, kernel.astype(np.float16))
    found = restored_kernel(plug, path, ocp.RestoreArgs(dtype=jnp.float16))
    assert_same(found, state()["params"]["kernel"].astype(jnp.float16))
    with pytest.raises(ValueError, match=r"scalar|kernel"):
        restored_kernel(plug, path, ocp.RestoreArgs(restore_type=int))


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (ocp.RestoreArgs(restore_type=float), 5.0),
        (ocp.RestoreArgs(dtype=np.float32), 5.0),
        (ocp.RestoreArgs(restore_type=np.ndarray), np.array(5)),
        (ocp.RestoreArgs(restore_type=np.ndarray, dtype=np.int8), np.array(5, np.int8)),
    ],
)
def test_numbers_become_others(plug: Plug, tmp_path: Path, args: Any, expected: Any) -> None:
    restored = roundtrip(plug, tmp_path / "x", {"step": 5}, PyTreeRestore(restore_args={"step": args}))
    assert_same(restored, {"step": expected})


def test_a_number_becomes_a_jax_array(plug: Plug, tmp_path: Path) -> None:
    target = NamedSharding(mesh(8), PartitionSpec())
    args = {"step": ocp.ArrayRestoreArgs(sharding=target)}
    restored = roundtrip(plug, tmp_path / "x", {"step": 5}, PyTreeRestore(restore_args=args))
    assert_same(restored, {"step": jax.device_put(jnp.int32(5), target)})


def test_casts_to_the_target(plug: Plug, tmp_path: Path) -> None:
    target = jax.tree.map(lambda x: x, state())
    target["params"]["bias"] = jax.ShapeDtypeStruct((8,), jnp.float32, sharding=state()["params"]["bias"].sharding)
    target["moments"][0] = np.zeros((3, 5), np.float32)
    with plug.standard_checkpointer() as checkpointer:
        checkpointer.save(tmp_path / "x", state())
        restored = checkpointer.restore(tmp_path / "x", target)
    expected = state()
    expected["params"]["bias"] = expected["params"]["bias"].astype(jnp.float32)
    expected["moments"][0] = expected["moments"][0].astype(np.float32)
    assert_same(restored, expected)


def test_numpy_targets_of_jax_arrays(plug: Plug, tmp_path: Path) -> None:
    target = jax.tree.map(lambda leaf: np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf, state())
    with plug.standard_checkpointer() as checkpointer:
        checkpointer.save(tmp_path / "x", state())
        assert_same(checkpointer.restore(tmp_path / "x", target), target)


def test_save_args_cast(plug: Plug, tmp_path: Path) -> None:
    tree = {"a": jnp.arange(4.0), "b": np.arange(4.0), "c": jnp.arange(4.0)}
    args = {
        "a": ocp.SaveArgs(dtype=jnp.dtype("bfloat16")),
        "b": ocp.SaveArgs(dtype=np.dtype("float16")),
        "c": ocp.SaveArgs(),
    }
    checkpointer = plug.checkpointer()
    checkpointer.save(tmp_path / "x", args=PyTreeSave(tree, save_args=args))
    expected = {"a": tree["a"].astype(jnp.bfloat16), "b": tree["b"].astype(np.float16), "c": tree["c"]}
    assert_same(checkpointer.restore(tmp_path / "x"), expected)


def test_truncation_and_padding_when_asked_for(plug: Plug, tmp_path: Path) -> None:
    kernel = np.asarray(state()["params"]["kernel"])
    target = NamedSharding(mesh(4, 2), PartitionSpec("a", "b"))
    found = restored_kernel(
        plug, tmp_path / "x", ocp.ArrayRestoreArgs(sharding=target, global_shape=(20, 4), strict=False)
    )
    assert_same(found, jax.device_put(np.pad(kernel[:, :4], ((0, 4), (0, 0))), target))
    with pytest.raises(ValueError, match=r"\(20, 4\)"):
        restored_kernel(plug, tmp_path / "x", ocp.ArrayRestoreArgs(sharding=target, global_shape=(20, 4)))
    smaller = abstract(state())
    smaller["params"]["kernel"] = jax.ShapeDtypeStruct((8, 8), jnp.float32, sharding=target)
    checkpointer = plug.standard_checkpointer()
    checkpointer.save(tmp_path / "y", state())
    checkpointer.wait_until_finished()
    found = checkpointer.restore(tmp_path / "y", smaller, strict=False)
    assert_same(found["params"]["kernel"], jax.device_put(kernel[:8], target))
    with pytest.raises(ValueError, match=r"\(8, 8\)"):
        checkpointer.restore(tmp_path / "y", smaller)


def test_partial_restore(plug: Plug, tmp_path: Path) -> None:
    item = {"params": {"bias": 0}, "step": 0}
    found = roundtrip(plug, tmp_path / "x", state(), PyTreeRestore(item=item, partial_restore=True))
    assert_same(found, {"params": {"bias": state()["params"]["bias"]}, "step": 0})
    target = NamedSharding(mesh(8), PartitionSpec(None, "a"))
    item = {"params": {"kernel": 0}}
    args = {"params": {"kernel": ocp.ArrayRestoreArgs(sharding=target)}}
    found = roundtrip(plug, tmp_path / "x", None, PyTreeRestore(item=item, restore_args=args, partial_restore=True))
    assert_same(found, {"params": {"kernel": jax.device_put(np.asarray(state()["params"]["kernel"]), target)}})


@pytest.mark.parametrize("leaf", [jax.ShapeDtypeStruct((3,), np.float32), np.zeros(3), 5, None])
@pytest.mark.parametrize("asked", [{"partial_restore": True}, {"transforms": {}}])
def test_a_partial_restore_keeps_what_is_not_stored(plug: Plug, tmp_path: Path, leaf: Any, asked: Any) -> None:
    item = {"params": {"bias": 0, "scale": leaf, "block": {"new": leaf}}, "step": 0, "ema": leaf}
    args = jax.tree.map(lambda _: ocp.RestoreArgs(), item)  # which stock needs beside transforms
    found = roundtrip(plug, tmp_path / "x", state(3), PyTreeRestore(item, args, **asked))
    assert found["params"]["scale"] is leaf
    assert found["params"]["block"]["new"] is leaf
    assert found["ema"] is leaf
    assert_same((found["params"]["bias"], found["step"]), (state(3)["params"]["bias"], 3))


@pytest.mark.parametrize(
    "item",
    [
        {"moments": [0, 0, 0]},  # a list is of the length that is stored
        {"step": {"count": 0}},  # a container in place of a leaf
        {"extra": {"new": 0}},  # or of an empty one
        {"params": 0},  # a leaf in place of a container
    ],
)
def test_a_partial_restore_of_another_structure_fails(plug: Plug, tmp_path: Path, item: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        roundtrip(plug, tmp_path / "x", {**state(), "extra": {}}, PyTreeRestore(item=item, partial_restore=True))


def test_a_partial_restore_says_what_is_not_restored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    new = {f"block{i}": 0 for i in range(10)}
    args = PyTreeRestore(item={"step": 0, "none": None, "later": ocp.PLACEHOLDER, **new}, partial_restore=True)
    with caplog.at_level("WARNING", "ostraca"):
        roundtrip(Plug(True), tmp_path / "x", state(3), args)
        roundtrip(Plug(True), tmp_path / "x", None, PyTreeRestore(item={"step": 0}, partial_restore=True))
    (record,) = (record for record in caplog.records if record.name == "ostraca")
    assert "10 of the target's 13 leaves are not stored" in record.message
    assert "'block0', 'block1'" in record.message
    assert record.message.endswith("'block7' and 2 more")
    assert "none" not in record.message
    assert "later" not in record.message


def test_placeholders(plug: Plug, tmp_path: Path) -> None:
    item = {**state(), "moments": [ocp.PLACEHOLDER, 0]}
    found = roundtrip(plug, tmp_path / "x", state(), PyTreeRestore(item=item))
    assert found["moments"][0] is ...
    assert_same({**found, "moments": found["moments"][1:]}, {**state(), "moments": state()["moments"][1:]})
    found = roundtrip(plug, tmp_path / "x", None, PyTreeRestore(item={**state(), "new": ocp.PLACEHOLDER}))
    assert found.pop("new") is ...
    assert_same(found, state())


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: tree.pop("step"),
        lambda tree: tree.update(more=1),
        lambda tree: tree["params"].pop("bias"),
        lambda tree: tree.update(params=3),
        lambda tree: tree["moments"].append(1),
    ],
)
def test_a_target_of_another_structure_is_refused(plug: Plug, tmp_path: Path, change: Any) -> None:
    target = state()
    change(target)
    with plug.standard_checkpointer() as checkpointer:
        checkpointer.save(tmp_path / "x", state())
        with pytest.raises(ValueError, match=r"differ|not match|structure"):
            checkpointer.restore(tmp_path / "x", target)


# --- Metadata -----------------------------------------------------------------------------------------------------


def test_item_metadata(plug: Plug, tmp_path: Path) -> None:
    tree = {**state(), "name": "run", "none": None, "empty": {}}
    with plug.manager(tmp_path) as manager:
        manager.save(3, args=PyTreeSave(tree))
        manager.wait_until_finished()
        metadata = manager.item_metadata(3)
        kernel = metadata["params"]["kernel"]
        assert isinstance(kernel, ocp.metadata.ArrayMetadata)
        assert (kernel.name, kernel.shape, kernel.dtype) == ("params.kernel", (16, 8), np.float32)
        assert kernel.sharding == ocp.metadata.NamedShardingMetadata.from_jax_sharding(
            tree["params"]["kernel"].sharding
        )
        assert kernel.sharding.to_jax_sharding() == tree["params"]["kernel"].sharding
        assert metadata["params"]["bias"].dtype == jnp.bfloat16
        assert metadata["moments"][0].sharding is None
        assert isinstance(metadata["step"], ocp.metadata.ScalarMetadata)
        assert (metadata["step"].dtype, metadata["rate"].dtype) == (np.int64, np.float64)
        assert isinstance(metadata["name"], ocp.metadata.StringMetadata)
        assert (metadata["none"], metadata["empty"]) == (None, {})
        assert sorted(metadata.keys()) == sorted(tree)
        assert len(metadata) == len(tree)
        assert "step" in metadata
        assert metadata.get("nothing") is None
        assert jax.tree.structure(metadata.tree) == jax.tree.structure(tree)
        shapes = jax.tree.map(lambda leaf: getattr(leaf, "shape", None), metadata)
        assert shapes["params"]["kernel"] == (16, 8)
        assert shapes.custom_metadata is None


def test_restore_from_metadata(plug: Plug, tmp_path: Path) -> None:
    checkpointer = plug.checkpointer()
    checkpointer.save(tmp_path / "x", args=PyTreeSave(state()))
    metadata = checkpointer.metadata(tmp_path / "x").item_metadata
    args = ocp.checkpoint_utils.construct_restore_args(metadata.tree)
    args = jax.tree.map(lambda a: a, args)
    assert_same(checkpointer.restore(tmp_path / "x", args=PyTreeRestore(item=metadata, restore_args=args)), state())


def test_metadata_on_one_cpu(plug: Plug, tmp_path: Path) -> None:
    """Of a checkpoint that was sharded over eight devices, and no way to restore it is needed for that."""
    with plug.manager(tmp_path) as manager:
        manager.save(3, args=StandardSave(state()))
        manager.wait_until_finished()
    registry = (
        "handler_registry=ostraca.orbax.registry()" if plug.ours else "item_handlers=ocp.StandardCheckpointHandler()"
    )
    code = f"""
import json, jax, orbax.checkpoint as ocp, ostraca.orbax
metadata = ocp.CheckpointManager({str(tmp_path)!r}, {registry}).item_metadata(3)
kernel = metadata["params"]["kernel"]
print(json.dumps([jax.device_count(), kernel.shape, str(kernel.dtype), kernel.sharding.axis_names]))
"""
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    output = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(output.stdout.splitlines()[-1]) == [1, [16, 8], "float32", ["a", "b"]]


def test_what_was_saved_without_orbax_is_restored_through_it(ours: Plug, tmp_path: Path) -> None:
    tree = {"a": np.arange(3.0), "b": [1, None]}
    ostraca.save(tmp_path / "x", tree)
    checkpointer = ours.checkpointer()
    assert_same(checkpointer.restore(tmp_path / "x"), tree)
    target = {"a": sharded(np.arange(3.0, dtype=np.float32), (2,)), "b": [0, None]}
    restored = checkpointer.restore(tmp_path / "x", args=StandardRestore(target))
    assert_same(restored, {"a": target["a"], "b": [1, None]})


@dataclass
class Schedule:
    """A dataclass that JAX knows nothing about."""

    milestones: Counter[int]
    scale: Any


def test_targets_with_containers_that_jax_does_not_open(ours: Plug, tmp_path: Path) -> None:
    tree = {"schedule": Schedule(Counter({30: 1, 80: 2}), np.ones(2)), "w": jnp.ones(3)}
    for restored in (StandardRestore(tree), PyTreeRestore(item=tree)):
        loaded = roundtrip(ours, tmp_path / "x", tree, restored)["schedule"]
        assert type(loaded) is Schedule and type(loaded.milestones) is Counter
        assert loaded.milestones == tree["schedule"].milestones
        np.testing.assert_array_equal(loaded.scale, 1)
