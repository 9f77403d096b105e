"""What JAX's users meet first: meshes in `like`, keys under a transfer guard, a donation that came too soon."""

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402

import ostraca  # noqa: E402
import ostraca.jax  # noqa: E402
from ostraca.jax import collecting, staging  # noqa: E402

VALUES = np.arange(16, dtype=np.float32).reshape(4, 4)


@pytest.fixture
def mesh() -> Any:
    return Mesh(np.array(jax.devices()[:1]), ("x",))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "saved"
    ostraca.jax.save(path, {"w": VALUES, "key": jax.random.key(3), "step": 5})
    return path


@pytest.mark.parametrize("like", [PartitionSpec(), {"w": PartitionSpec("x"), "key": PartitionSpec(), "step": 0}])
def test_partition_specs_are_of_the_mesh_that_is_set(saved: Path, mesh: Any, like: Any) -> None:
    with jax.set_mesh(mesh):
        back = ostraca.jax.load(saved, like=like)
    spec = like["w"] if isinstance(like, dict) else like
    assert back["w"].sharding == NamedSharding(mesh, spec) and np.array_equal(back["w"], VALUES)
    assert (jax.random.key_data(back["key"]) == jax.random.key_data(jax.random.key(3))).all() and back["step"] == 5


@pytest.mark.parametrize("like", [PartitionSpec("x"), {"w": PartitionSpec("x"), "key": PartitionSpec(), "step": 0}])
def test_partition_specs_without_a_mesh_are_refused_by_name(saved: Path, like: Any) -> None:
    with pytest.raises(ostraca.MismatchError, match=r"'w': a PartitionSpec is of a mesh, and none is set: load under"):
        ostraca.jax.load(saved, like=like)


def test_a_mesh_is_refused_with_what_to_give_instead(saved: Path, mesh: Any) -> None:
    for like in (mesh, {"w": mesh, "key": mesh, "step": 0}, {"w": mesh.abstract_mesh, "key": mesh, "step": 0}):
        with pytest.raises(ostraca.MismatchError, match=r"'w': a mesh says which .* give jax.sharding.NamedSharding"):
            ostraca.jax.load(saved, like=like)


def test_keys_are_loaded_where_implicit_transfers_are_not_allowed(saved: Path) -> None:
    expected = np.asarray(jax.random.key_data(jax.random.key(3)))
    with jax.transfer_guard("disallow"):
        found = [load(saved)["key"] for load in (ostraca.jax.load, ostraca.load)]
    assert all((np.asarray(jax.random.key_data(key)) == expected).all() for key in found)


GUARDED = """
import sys
import jax, numpy as np
import ostraca, ostraca.jax
mesh = jax.sharding.Mesh(np.array(jax.devices()), ("x",))
sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
tree = {"w": jax.device_put(np.arange(8.0, dtype=np.float32), sharding), "key": jax.random.key(3),
        "keys": jax.device_put(jax.random.split(jax.random.key(0), 8), sharding), "n": 3}
jax.config.update("jax_transfer_guard", "disallow")  # in all threads
ostraca.jax.save(sys.argv[1], tree)
for like in tree, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()), None:
    back = ostraca.jax.load(sys.argv[1], like=like)
    for name in ("key", "keys"):
        assert (np.asarray(jax.random.key_data(back[name])) == np.asarray(jax.random.key_data(tree[name]))).all()
print("same")
"""


def test_a_guard_for_all_threads(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", GUARDED, str(tmp_path / "c")], capture_output=True, text=True)
    assert done.stdout == "same\n", done.stderr


def test_a_donation_that_came_too_soon_names_the_leaf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "is_staged", lambda array: True)
    gate, start = threading.Event(), staging.start_copy

    def late(data: Any, pinned: bool = False) -> Any:
        assert gate.wait(60)
        return start(data, pinned)

    monkeypatch.setattr(staging, "start_copy", late)
    tree = {"layer": {"bias": jnp.ones(100_000), "kernel": jnp.ones((300, 1000))}}
    handle = ostraca.jax.save_async(tmp_path / "c", tree, return_early=True)
    jax.jit(lambda x: x + 1, donate_argnums=0)(tree["layer"]["kernel"])
    assert tree["layer"]["kernel"].is_deleted()
    gate.set()
    error = handle.exception(60)
    assert isinstance(error, ostraca.UnsupportedError) and "'layer/kernel'" in str(error), repr(error)
    assert "wait_copied()" in str(error)
    assert not (tmp_path / "c").exists()
