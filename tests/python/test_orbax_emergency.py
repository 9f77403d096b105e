"""Orbax's emergency and multi-tier managers. They make their own handlers of the state, which stays in Orbax's format;
a registry serves the dataset beside it, and Ostraca's own arguments are refused by name."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from orbax.checkpoint.experimental.emergency import checkpoint_manager as emergency
from orbax.checkpoint.experimental.emergency import replicator_checkpoint_manager as multi_tier

import ostraca
import ostraca.orbax
from orbax_plugs import Composite, PyTreeRestore, PyTreeSave, StandardRestore, StandardSave, abstract, assert_same

DATASET = {"position": np.arange(3)}


def mesh(replicas: int) -> jax.sharding.Mesh:
    return jax.make_mesh((replicas, 8 // replicas), ("replica", "fsdp"))


def state(replicas: int) -> dict[str, Any]:
    sharding = jax.sharding.NamedSharding(mesh(replicas), jax.sharding.PartitionSpec("fsdp"))
    return {"w": jax.device_put(np.arange(64, dtype=np.float32).reshape(8, 8), sharding)}


def managed(directory: Path, replicas: int) -> emergency.CheckpointManager:
    for name in ("local", "persistent", "dataset"):
        (directory / name).mkdir()
    return emergency.CheckpointManager(
        directory / "local",
        directory / "persistent",
        mesh(replicas),
        abstract(state(replicas)),
        options=emergency.CheckpointManagerOptions(
            local=emergency.LocalCheckpointOptions(save_interval_steps=1),
            persistent=emergency.PersistentCheckpointOptions(save_interval_steps=1),
            enable_async_checkpointing=False,
        ),
        handler_registry=ostraca.orbax.registry(),
        persistent_non_replicated_directory=directory / "dataset",
    )


@pytest.mark.parametrize("replicas", [1, 2])
def test_the_dataset_is_ostracas_and_the_state_orbaxs(replicas: int, tmp_path: Path) -> None:
    with managed(tmp_path, replicas) as manager:
        manager.save(0, args=Composite(state=PyTreeSave(state(replicas)), dataset=StandardSave(DATASET)))
        manager.wait_until_finished()
        found = manager.restore(0, args=Composite(state=PyTreeRestore(), dataset=StandardRestore()))
        assert_same(found.state, state(replicas))
        assert_same(found.dataset, DATASET)
    (manifest,) = tmp_path.rglob("manifest.json")
    assert manifest.parent == tmp_path / "dataset" / "0" / "default"


def test_an_emergency_manager_refuses_ostracas_arguments(tmp_path: Path) -> None:
    with managed(tmp_path, 2) as manager, pytest.raises(ValueError, match=r"Save\(item"):
        manager.save(0, args=Composite(state=ostraca.orbax.Save(state(2))))
    assert not list(tmp_path.rglob("manifest.json"))


def test_a_multi_tier_manager_refuses_ostracas_arguments(tmp_path: Path) -> None:
    options = multi_tier.ReplicatorCheckpointManagerOptions(enable_async_checkpointing=False)
    registry = ostraca.orbax.registry()
    manager = multi_tier.ReplicatorCheckpointManager(
        tmp_path, options=options, global_mesh=mesh(2), handler_registry=registry
    )
    with pytest.raises(ValueError, match=r"ostraca.orbax.*Save.* is not supported by this CheckpointManager"):
        manager.save(0, args=Composite(state=ostraca.orbax.Save(state(2))))
    manager.close()
    assert not list(tmp_path.rglob("manifest.json"))
