"""`flax.training.checkpoints` over Orbax's checkpointers: stock, and on Ostraca."""

from pathlib import Path

import numpy as np
import optax
import pytest
from flax.training import checkpoints
from flax.training.train_state import TrainState

from orbax_plugs import Plug, assert_same, sharded, state

OPTIMIZER = optax.adam(1e-3)


def train_state(seed: int) -> TrainState:
    kernel = sharded(np.full((8, 4), seed, np.float32), (4, 2), "a", "b")
    return TrainState.create(apply_fn=None, params={"kernel": kernel}, tx=OPTIMIZER)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_train_state_comes_back(plug: Plug, asynchronous: bool, tmp_path: Path) -> None:
    checkpointer = plug.checkpointer(asynchronous=asynchronous)
    for step in range(3):
        checkpoints.save_checkpoint(tmp_path, train_state(step), step, keep=2, orbax_checkpointer=checkpointer)
    found = checkpoints.restore_checkpoint(tmp_path, train_state(9), orbax_checkpointer=checkpointer)
    assert_same(found, train_state(2))
    found = checkpoints.restore_checkpoint(tmp_path, train_state(9), step=1, orbax_checkpointer=checkpointer)
    assert_same(found, train_state(1))
    if not asynchronous:  # flax counts what is committed when it saves
        assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint_1", "checkpoint_2"]
    assert (tmp_path / "checkpoint_2" / "manifest.json").exists() == plug.ours


def test_without_a_target(plug: Plug, tmp_path: Path) -> None:
    checkpointer = plug.checkpointer()
    checkpoints.save_checkpoint(tmp_path, state(1), 1, orbax_checkpointer=checkpointer)
    found = checkpoints.restore_checkpoint(tmp_path, None, orbax_checkpointer=checkpointer)
    assert_same(found["params"], state(1)["params"])
    assert found["step"] == 1


def test_overwriting(plug: Plug, tmp_path: Path) -> None:
    checkpointer = plug.checkpointer()
    checkpoints.save_checkpoint(tmp_path, train_state(1), 1, orbax_checkpointer=checkpointer)
    with pytest.raises(Exception, match="checkpoint"):
        checkpoints.save_checkpoint(tmp_path, train_state(2), 1, orbax_checkpointer=checkpointer)
    checkpoints.save_checkpoint(tmp_path, train_state(2), 1, overwrite=True, orbax_checkpointer=checkpointer)
    found = checkpoints.restore_checkpoint(tmp_path, train_state(9), orbax_checkpointer=checkpointer)
    assert_same(found, train_state(2))
