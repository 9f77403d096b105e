"""The examples run, and training goes on as if it had not been stopped."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("jax")
pytest.importorskip("flax")
pytest.importorskip("optax")

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, *arguments: object) -> str:
    command = [sys.executable, EXAMPLES / name, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=dict(os.environ)).stdout


def test_nnx_training_resumes(tmp_path: Path) -> None:
    straight = run("jax_nnx.py", tmp_path / "a", 20)
    assert "goes on" not in straight
    run("jax_nnx.py", tmp_path / "b", 12)
    resumed = run("jax_nnx.py", tmp_path / "b", 20)
    assert "goes on from step 10" in resumed
    assert resumed.splitlines()[-1] == straight.splitlines()[-1]  # the loss: dropout and moments went on too


def test_fsdp_and_tensor_parallelism() -> None:
    output = run("jax_fsdp_tp.py")
    assert output.count("trained on to step 4") == 3
