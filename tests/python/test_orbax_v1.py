"""Orbax's v1 API on Ostraca, beside stock."""

import contextlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint.experimental.v1 as ocp
import pytest

import ostraca
import ostraca.orbax.v1
from orbax_plugs import assert_same, sharded, state


@pytest.fixture(params=["stock", "ours"])
def context(request: pytest.FixtureRequest) -> Any:
    return contextlib.nullcontext if request.param == "stock" else ostraca.orbax.v1.context


def abstract(tree: Any) -> Any:
    """numpy arrays and numbers stay: a ShapeDtypeStruct means a jax.Array here."""
    describe = jax.ShapeDtypeStruct
    return jax.tree.map(
        lambda x: describe(x.shape, x.dtype, sharding=x.sharding) if isinstance(x, jax.Array) else x, tree
    )


def test_save_and_load(context: Any, tmp_path: Path) -> None:
    with context():
        ocp.save(tmp_path / "x", state(1))
        assert_same(ocp.load(tmp_path / "x"), state(1))
        assert_same(ocp.load(tmp_path / "x", abstract(state(1))), state(1))
        ocp.save_async(tmp_path / "y", state(2)).result()
        assert_same(ocp.load(tmp_path / "y"), state(2))


def test_files_are_ostracas(tmp_path: Path) -> None:
    with ostraca.orbax.v1.context():
        ocp.save(tmp_path / "x", state(1))
    assert ostraca.verify(tmp_path / "x" / "state", deep=True).ok


def test_another_sharding_dtype_and_placeholders(context: Any, tmp_path: Path) -> None:
    target = abstract(state(1))
    kernel = sharded(np.asarray(state(1)["params"]["kernel"]), (8,), None, "a").astype(np.float16)
    target["params"]["kernel"] = jax.ShapeDtypeStruct(kernel.shape, kernel.dtype, sharding=kernel.sharding)
    target["rate"] = ...
    with context():
        ocp.save(tmp_path / "x", state(1))
        restored = ocp.load(tmp_path / "x", target)
    assert restored.pop("rate") is ...
    expected = state(1)
    del expected["rate"]
    expected["params"]["kernel"] = kernel
    assert_same(restored, expected)


def test_leaves_as_they_were_saved(tmp_path: Path) -> None:
    """Orbax's documentation has it so; its own handler wants classes there."""
    tree = {**state(1), "none": None, "empty": {}}
    with ostraca.orbax.v1.context():
        ocp.save(tmp_path / "x", tree)
        assert_same(ocp.load(tmp_path / "x", jax.tree.map(lambda _: None, tree)), tree)


def test_a_target_of_another_structure_is_refused(context: Any, tmp_path: Path) -> None:
    target = abstract(state(1))
    del target["step"]
    with context():
        ocp.save(tmp_path / "x", state(1))
        with pytest.raises(ValueError, match="step"):
            ocp.load(tmp_path / "x", target)


def test_checkpointables(context: Any, tmp_path: Path) -> None:
    with context():
        ocp.save_checkpointables(tmp_path / "x", {"state": state(1), "ema": state(2), "notes": {"epoch": "three"}})
        loaded = ocp.load_checkpointables(tmp_path / "x")
        assert_same(loaded["state"], state(1))
        assert_same(loaded["ema"], state(2))
        assert loaded["notes"] == {"epoch": "three"}
        assert_same(ocp.load_checkpointables(tmp_path / "x", {"ema": abstract(state(2))})["ema"], state(2))


def test_metadata(context: Any, tmp_path: Path) -> None:
    with context():
        ocp.save(tmp_path / "x", state(1))
        kernel = ocp.metadata(tmp_path / "x").metadata["params"]["kernel"]
    assert (kernel.shape, kernel.dtype) == ((16, 8), np.float32)


def test_training_checkpointer(context: Any, tmp_path: Path) -> None:
    policy = ocp.training.preservation_policies.LatestN(2)
    with context(), ocp.training.Checkpointer(tmp_path, preservation_policy=policy) as checkpointer:
        for step in range(4):
            checkpointer.save(step, state(step), metrics={"loss": float(step)})
        assert [checkpoint.step for checkpoint in checkpointer.checkpoints] == [2, 3]
        assert checkpointer.latest.step == 3
        for step in (2, 3):
            assert_same(checkpointer.load(step), state(step))


def test_what_stock_wrote_is_loaded(tmp_path: Path) -> None:
    ocp.save(tmp_path / "x", state(1))
    with ostraca.orbax.v1.context():
        assert_same(ocp.load(tmp_path / "x"), state(1))
        assert_same(ocp.load(tmp_path / "x", abstract(state(1))), state(1))
        assert ocp.metadata(tmp_path / "x").metadata["params"]["kernel"].shape == (16, 8)


def test_v0_and_v1_read_each_other(tmp_path: Path) -> None:
    import orbax.checkpoint as v0

    with v0.CheckpointManager(tmp_path / "run", handler_registry=ostraca.orbax.registry()) as manager:
        manager.save(1, args=v0.args.Composite(state=v0.args.StandardSave(state(1))))
        manager.wait_until_finished()
    with ostraca.orbax.v1.context():
        loaded = ocp.load_checkpointables(tmp_path / "run" / "1", {"state": abstract(state(1))})
        assert_same(loaded["state"], state(1))
        ocp.save(tmp_path / "run" / "2", state(2))
    with v0.CheckpointManager(tmp_path / "run", handler_registry=ostraca.orbax.registry()) as manager:
        assert_same(manager.restore(2, args=v0.args.Composite(state=v0.args.StandardRestore()))["state"], state(2))
