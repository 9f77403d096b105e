"""`ostraca convert` from Orbax and to it."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

import ostraca
from orbax_plugs import Composite, JsonSave, Plug, PyTreeSave, StandardRestore, StandardSave, assert_same, state
from ostraca.cli import main
from trees import ALL_DTYPES, array


def convert(capsys: pytest.CaptureFixture[str], *arguments: Any, status: int = 0) -> dict[str, Any]:
    assert main(["convert", *map(str, arguments), "--json"]) == status, capsys.readouterr()
    output = capsys.readouterr()
    return {"error": output.err} if status else json.loads(output.out)


def on_host(tree: Any) -> Any:
    is_plain = lambda x: isinstance(x, jax.Array) and not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda leaf: np.asarray(leaf) if is_plain(leaf) else leaf, tree)


TREE = {
    **state(3),
    "key": jax.random.split(jax.random.key(1, impl="rbg"), 3),
    "uint32": jnp.arange(3, dtype=jnp.uint32),
    "name": "run",
    "none": None,
    "empty": {"a": {}, "b": []},
}


def test_an_orbax_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        checkpointer.save(tmp_path / "x", args=PyTreeSave(TREE, custom_metadata={"layers": 3}))
    result = convert(capsys, tmp_path / "x", tmp_path / "y", "--step", 7, "--codec", "raw")
    assert (result["format"], result["arrays"], result["skipped"]) == ("ostraca", 9, [])
    assert_same(ostraca.load(tmp_path / "y"), on_host(TREE))
    with ostraca.open(tmp_path / "y") as checkpoint:
        assert (checkpoint.step, checkpoint.metadata) == (7, {"layers": 3})
    convert(capsys, tmp_path / "x", tmp_path / "y", status=2)
    convert(capsys, tmp_path / "x", tmp_path / "y", "--overwrite")


def test_a_step_of_stock_orbax(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Plug(False).manager(tmp_path / "run", best_fn=lambda metrics: metrics["loss"]) as manager:
        items = Composite(state=StandardSave(state(1)), ema=StandardSave(state(2)), notes=JsonSave({"epoch": 3}))
        manager.save(5, args=items, metrics={"loss": 1.5}, custom_metadata={"by": "me"})
    with Plug(False).manager(tmp_path / "single") as manager:
        manager.save(5, args=StandardSave(state(4)))
    convert(capsys, tmp_path / "run" / "5", tmp_path / "y")
    assert_same(ostraca.load(tmp_path / "y"), on_host({"ema": state(2), "state": state(1)}))
    with ostraca.open(tmp_path / "y") as checkpoint:
        expected = {"notes": {"epoch": 3}, "metrics": {"loss": 1.5}, "custom_metadata": {"by": "me"}}
        assert checkpoint.metadata == expected
    convert(capsys, tmp_path / "single" / "5", tmp_path / "z")
    assert_same(ostraca.load(tmp_path / "z"), on_host(state(4)))


def test_to_orbax_bit_for_bit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = {f"{i}": array(dtype, seed=i) for i, dtype in enumerate(ALL_DTYPES)}
    ostraca.save(tmp_path / "x", {"arrays": arrays, "state": TREE}, metadata={"layers": 3})
    refused = convert(capsys, tmp_path / "x", tmp_path / "y", "--to", "orbax", status=2)
    assert "--skip-unsupported" in refused["error"]
    assert not (tmp_path / "y").exists()
    result = convert(capsys, tmp_path / "x", tmp_path / "y", "--to", "orbax", "--skip-unsupported")
    skipped = {leaf["name"].split("/")[1] for leaf in result["skipped"]}
    assert len(skipped) < len(arrays) / 2
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        restored = checkpointer.restore(tmp_path / "y")
        assert checkpointer.metadata(tmp_path / "y").item_metadata.custom_metadata == {"layers": 3}
    assert restored["arrays"].keys() == arrays.keys() - skipped
    for name, found in restored["arrays"].items():
        native = arrays[name].astype(arrays[name].dtype.newbyteorder("="))
        assert (found.dtype, found.tobytes()) == (native.dtype, native.tobytes())
    assert_same(restored["state"], on_host(TREE))


def test_a_step_to_orbax(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run goes on with stock Orbax, in the directory that it had."""
    options = {"best_fn": lambda metrics: metrics["loss"], "best_mode": "min"}
    with Plug(True).manager(tmp_path / "run", **options) as manager:
        for step in (1, 2):
            items = Composite(state=StandardSave(state(step)), notes=JsonSave({"epoch": step}))
            manager.save(step, args=items, metrics={"loss": float(step)}, custom_metadata={"by": "me"})
        manager.wait_until_finished()
    for step in (1, 2):
        convert(capsys, tmp_path / "run" / f"{step}", tmp_path / "new" / f"{step}", "--to", "orbax")
    with ocp.CheckpointManager(tmp_path / "new", options=ocp.CheckpointManagerOptions(**options)) as manager:
        assert (list(manager.all_steps()), manager.best_step()) == ([1, 2], 1)
        assert manager.metrics(2) == {"loss": 2.0}
        assert manager.metadata(2).custom_metadata == {"by": "me"}
        everything = manager.restore(2)
        assert_same(everything["state"], on_host(state(2)))
        assert everything["notes"] == {"epoch": 2}
    with ocp.CheckpointManager(tmp_path / "new") as manager:
        args = Composite(state=StandardRestore(state(1)))
        assert_same(manager.restore(1, args=args)["state"], state(1))
    assert list((tmp_path / "new").rglob("*.ostraca")) == []


def test_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ostraca.save(tmp_path / "x", on_host(TREE), metadata={"a": [1, "b"]})
    convert(capsys, tmp_path / "x", tmp_path / "y", "--to", "orbax")
    convert(capsys, tmp_path / "y", tmp_path / "z")
    assert_same(ostraca.load(tmp_path / "z"), ostraca.load(tmp_path / "x"))
    assert main(["diff", str(tmp_path / "x"), str(tmp_path / "z")]) == 0


@pytest.mark.parametrize(
    ("tree", "name"),
    [
        ({"a": b"bytes", "b": 1}, "'a' (bytes)"),
        ({"a": np.zeros((0, 3)), "b": 1}, "'a' (no elements"),
        ({"a": 1 << 70, "b": 1}, "'a' (an int beyond"),
        ({"a": np.array(["x"]), "b": 1}, "'a' (<U1"),
    ],
)
def test_what_orbax_cannot_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str], tree: Any, name: str) -> None:
    ostraca.save(tmp_path / "x", tree)
    assert name in convert(capsys, tmp_path / "x", tmp_path / "y", "--to", "orbax", status=2)["error"]
    convert(capsys, tmp_path / "x", tmp_path / "y", "--to", "orbax", "--skip-unsupported")
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        assert checkpointer.restore(tmp_path / "y") == {"b": 1}


@pytest.mark.parametrize(
    "arguments", [("x", "y.safetensors", "--to", "orbax"), ("x", "y"), ("nowhere", "y", "--to", "orbax")]
)
def test_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: Any) -> None:
    ostraca.save(tmp_path / "x", {"a": 1})
    source, destination, *further = arguments
    convert(capsys, tmp_path / source, tmp_path / destination, *further, status=2)


def test_a_subtree_to_orbax(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ostraca.save(tmp_path / "x", {"params": {"w": np.arange(3), "n": 1 << 70}, "step": 2})
    refused = convert(capsys, tmp_path / "x", tmp_path / "y", "--to", "orbax", "--root", "params", status=2)
    assert "'params/n' (an int beyond" in refused["error"]
    arguments = ("--to", "orbax", "--root", "params", "--skip-unsupported")
    assert convert(capsys, tmp_path / "x", tmp_path / "y", *arguments)["arrays"] == 1
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        restored = checkpointer.restore(tmp_path / "y")
    assert list(restored) == ["w"] and list(restored["w"]) == [0, 1, 2]
