"""MaxText's way to checkpoint (examples/orbax_maxtext.py), with stock handlers and on Ostraca, on eight devices."""

import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import ostraca.orbax
from orbax_plugs import assert_same

EXAMPLE = Path(__file__).parents[2] / "examples" / "orbax_maxtext.py"


def imported() -> ModuleType:
    spec = importlib.util.spec_from_file_location("orbax_maxtext", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["orbax_maxtext"] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


example = imported()


class Own:
    """The example's own iterator."""

    Batches, Handler = example.Batches, example.BatchesHandler
    Save, Restore = example.BatchesSave, example.BatchesRestore


class Grain:
    """Grain's, with its handler, as MaxText registers it."""

    def __init__(self) -> None:
        grain = pytest.importorskip("grain.python", reason="make test-keras has it")

        class Handler(grain.PyGrainCheckpointHandler, ocp.CheckpointHandler):  # type: ignore[misc, name-defined]
            pass

        @ocp.args.register_with_handler(Handler, for_save=True)
        @dataclass
        class Save(ocp.args.CheckpointArgs):  # type: ignore[misc]
            item: Any

        @ocp.args.register_with_handler(Handler, for_restore=True)
        @dataclass
        class Restore(ocp.args.CheckpointArgs):  # type: ignore[misc]
            item: Any

        def rows(index: int) -> np.ndarray:
            return np.random.default_rng(index).standard_normal(example.ROWS, np.float32)

        rows_of = grain.MapDataset.range(1000).shuffle(seed=3).map(rows).to_iter_dataset()
        self.Handler, self.Save, self.Restore = Handler, Save, Restore
        self.Batches = lambda: iter(rows_of.batch(example.BATCH))


@pytest.fixture(scope="module", params=[Own, Grain], ids=["own", "grain"])
def data(request: pytest.FixtureRequest) -> Any:
    return request.param()


@pytest.fixture(params=["stock", "ours"])
def ours(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "ours")


def managed(directory: Path, ours: bool, data: Any) -> ocp.CheckpointManager:
    if ours:
        return example.managed(directory)
    handlers = {"items": ocp.PyTreeCheckpointHandler(), "iter": data.Handler()}
    return example.managed(directory, item_names=("items", "iter"), item_handlers=handlers)


def mesh(*shape: int) -> jax.sharding.Mesh:
    return jax.make_mesh(shape, ("replica", "fsdp"))


@pytest.fixture
def saved(ours: bool, data: Any, tmp_path: Path) -> tuple[Path, Any, np.ndarray]:
    """A run of steps 0, 2 and 4, the state of step 4, and the batch that follows it."""
    batches, state = data.Batches(), example.initial(mesh(2, 4))
    with managed(tmp_path, ours, data) as manager:
        for step in range(6):
            is_saved = example.save(manager, step, state, data.Save(batches))
            batch = next(batches)
            if is_saved:
                last, following = state, batch
            state, _ = example.trained(state, batch)
        manager.wait_until_finished()
        assert list(manager.all_steps()) == [0, 2, 4]
    assert (tmp_path / "4" / "items" / "manifest.json").exists() == ours
    return tmp_path, last, following


@pytest.mark.parametrize("shape", [(2, 4), (1, 8), (4, 2)])
def test_a_run_goes_on(saved: tuple[Path, Any, np.ndarray], ours: bool, data: Any, shape: tuple[int, int]) -> None:
    directory, last, following = saved
    batches = data.Batches()
    with managed(directory, ours, data) as manager:
        found = example.restore(manager, example.abstract_state(mesh(*shape)), data.Restore(batches))
    assert_same(found, last, shardings=shape == (2, 4))
    assert found.params["params"]["dense"]["kernel"].sharding == jax.sharding.NamedSharding(
        mesh(*shape), jax.sharding.PartitionSpec("fsdp", None)
    )
    np.testing.assert_array_equal(next(batches), following)


def test_parameters_alone(saved: tuple[Path, Any, np.ndarray], ours: bool) -> None:
    directory, last, _ = saved
    abstract = example.abstract_state(mesh(1, 8)).params
    handler = None if ours else ocp.PyTreeCheckpointHandler()
    found = example.restore_parameters(directory / "4" / "items", abstract, handler)
    assert_same(found, last.params, shardings=False)
    kernel = abstract["params"]["dense"]["kernel"]
    assert found["params"]["dense"]["kernel"].sharding == kernel.sharding


def test_parameters_alone_by_transforms(saved: tuple[Path, Any, np.ndarray], ours: bool) -> None:
    directory, last, _ = saved
    abstract = example.abstract_state(mesh(1, 8)).params
    handler = ostraca.orbax.Handler() if ours else ocp.PyTreeCheckpointHandler()
    found = ocp.Checkpointer(handler).restore(
        directory / "4" / "items",
        item={"params": abstract},
        restore_args={"params": ocp.checkpoint_utils.construct_restore_args(abstract)},
        transforms={},
    )
    assert_same(found["params"], last.params, shardings=False)


@pytest.mark.parametrize("registered", [False, True])
def test_arguments_of_a_single_replica_restore(
    saved: tuple[Path, Any, np.ndarray], ours: bool, data: Any, registered: bool
) -> None:
    """With and without Orbax's handler for them, which is registered for the whole process."""
    directory, last, following = saved
    if not (ours or registered):
        pytest.skip("stock wants its handler registered")
    former = ocp.type_handlers.get_type_handler(jax.Array)
    if registered:
        handler = ocp.type_handlers.SingleReplicaArrayHandler(replica_axis_index=0)
        ocp.type_handlers.register_type_handler(jax.Array, handler, override=True)
    batches = data.Batches()
    try:
        with managed(directory, ours, data) as manager:
            restored = data.Restore(batches)
            found = example.restore(manager, example.abstract_state(mesh(2, 4)), restored, one_replica=True)
    finally:
        ocp.type_handlers.register_type_handler(jax.Array, former, override=True)
    assert_same(found, last)
    np.testing.assert_array_equal(next(batches), following)


def test_the_example_resumes(tmp_path: Path) -> None:
    def run(directory: Path, steps: int) -> list[str]:
        command = [sys.executable, EXAMPLE, directory, str(steps)]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        return done.stdout.splitlines()

    straight = run(tmp_path / "a", 6)
    run(tmp_path / "b", 3)
    resumed = run(tmp_path / "b", 6)
    assert resumed == ["goes on from step 2", *straight[-4:]]
