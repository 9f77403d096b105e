"""Orbax's manager and checkpointers: policies, metrics, items. Each test runs with stock Orbax and with ours."""

import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import pytest

import ostraca
import ostraca.orbax
from orbax_plugs import (
    Composite,
    JsonRestore,
    JsonSave,
    Plug,
    StandardRestore,
    StandardSave,
    abstract,
    assert_same,
    state,
)


def saved(manager: ocp.CheckpointManager, steps: Any, **further: Any) -> None:
    for step in steps:
        manager.save(step, args=StandardSave(state(step)), **further)
    manager.wait_until_finished()


def test_steps_are_listed_and_each_is_restored(plug: Plug, tmp_path: Path) -> None:
    with plug.manager(tmp_path) as manager:
        assert manager.latest_step() is None
        saved(manager, (0, 3, 10))
        assert (list(manager.all_steps()), manager.latest_step()) == ([0, 3, 10], 10)
        for step in (0, 3, 10):
            assert_same(manager.restore(step, args=StandardRestore(abstract(state(step)))), state(step))
        assert_same(manager.restore(None, args=StandardRestore(abstract(state()))), state(10))


def test_a_fresh_manager_restores_without_being_told_anything(plug: Plug, tmp_path: Path) -> None:
    with plug.manager(tmp_path) as manager:
        saved(manager, [4])
    with plug.manager(tmp_path) as manager:
        assert manager.latest_step() == 4
        assert_same(manager.restore(4), state(4))


def test_files_are_ostracas(tmp_path: Path) -> None:
    with Plug(True).manager(tmp_path) as manager:
        saved(manager, [4])
    assert ostraca.verify(tmp_path / "4" / "default", deep=True).ok
    loaded = ostraca.load(tmp_path / "4" / "default")
    np.testing.assert_array_equal(loaded["params"]["kernel"], np.asarray(state(4)["params"]["kernel"]))


def test_max_to_keep(plug: Plug, tmp_path: Path) -> None:
    with plug.manager(tmp_path, max_to_keep=2, keep_period=4) as manager:
        saved(manager, range(7))
        assert list(manager.all_steps()) == [0, 4, 5, 6]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0", "4", "5", "6"]


def test_best_fn(plug: Plug, tmp_path: Path) -> None:
    options = {"best_fn": lambda metrics: metrics["loss"], "best_mode": "min", "max_to_keep": 2}
    with plug.manager(tmp_path, **options) as manager:
        for step, loss in enumerate([3.0, 1.0, 2.0, 5.0]):
            manager.save(step, args=StandardSave(state(step)), metrics={"loss": loss})
        manager.wait_until_finished()
        assert (sorted(manager.all_steps()), manager.best_step()) == ([1, 2], 1)
        assert manager.metrics(1) == {"loss": 1.0}
    with plug.manager(tmp_path, **options) as manager:
        assert manager.best_step() == 1
        assert_same(manager.restore(1), state(1))


def test_should_save_and_save_interval_steps(plug: Plug, tmp_path: Path) -> None:
    with plug.manager(tmp_path, save_interval_steps=5) as manager:
        saved(manager, [0])
        assert (manager.should_save(3), manager.should_save(5)) == (False, True)
        assert not manager.save(3, args=StandardSave(state(3)))
        assert manager.save(5, args=StandardSave(state(5)))
        assert manager.save(6, args=StandardSave(state(6)), force=True)
        manager.wait_until_finished()
        assert list(manager.all_steps()) == [0, 5, 6]


def test_step_prefix_and_fixed_length(plug: Plug, tmp_path: Path) -> None:
    options = {"step_prefix": "step", "step_format_fixed_length": 6}
    with plug.manager(tmp_path, **options) as manager:
        saved(manager, [12])
    assert [p.name for p in tmp_path.iterdir()] == ["step_000012"]
    with plug.manager(tmp_path, **options) as manager:
        assert_same(manager.restore(12), state(12))


def test_delete(plug: Plug, tmp_path: Path) -> None:
    with plug.manager(tmp_path) as manager:
        saved(manager, (1, 2))
        manager.delete(1)
        assert list(manager.all_steps()) == [2]
        assert not (tmp_path / "1").exists()
        assert_same(manager.restore(2), state(2))


def test_reload_sees_what_another_manager_saved(plug: Plug, tmp_path: Path) -> None:
    with plug.manager(tmp_path) as reader, plug.manager(tmp_path) as writer:
        saved(writer, [1])
        assert reader.latest_step() is None
        reader.reload()
        assert reader.latest_step() == 1
        assert_same(reader.restore(1), state(1))


def test_a_step_is_saved_once(plug: Plug, tmp_path: Path) -> None:
    with plug.manager(tmp_path) as manager:
        saved(manager, [1])
        with pytest.raises(ocp.checkpoint_manager.StepAlreadyExistsError):
            manager.save(1, args=StandardSave(state(1)), force=True)
        assert_same(manager.restore(1), state(1))


def test_no_asynchronous_saves(plug: Plug, tmp_path: Path) -> None:
    with plug.manager(tmp_path, enable_async_checkpointing=False) as manager:
        manager.save(1, args=StandardSave(state(1)))
        assert not manager.is_saving_in_progress()
        assert_same(manager.restore(1), state(1))


def test_directories_made_before_the_handler_is_called(plug: Plug, tmp_path: Path) -> None:
    options = ocp.AsyncOptions(create_directories_asynchronously=False)
    with plug.manager(tmp_path, async_options=options) as manager:
        saved(manager, [1, 2])
        assert_same(manager.restore(1), state(1))


def test_an_asynchronous_save_holds_what_was_there(plug: Plug, tmp_path: Path) -> None:
    finished = threading.Event()
    with plug.manager(tmp_path, async_options=ocp.AsyncOptions(post_finalization_callback=finished.set)) as manager:
        numbers = np.arange(1 << 20, dtype=np.float32)
        manager.save(1, args=StandardSave({"x": numbers}))
        numbers[:] = -1
        manager.wait_until_finished()
        assert finished.is_set()
        manager.check_for_errors()
        np.testing.assert_array_equal(manager.restore(1)["x"], np.arange(1 << 20, dtype=np.float32))


def test_saves_that_follow_each_other(plug: Plug, tmp_path: Path) -> None:
    with plug.manager(tmp_path, max_to_keep=3) as manager:
        for step in range(10):
            manager.save(step, args=StandardSave(state(step)))
        manager.wait_until_finished()
        for step in (7, 8, 9):
            assert_same(manager.restore(step), state(step))


def test_composite_items(plug: Plug, tmp_path: Path) -> None:
    with plug.manager(tmp_path) as manager:
        items = Composite(state=StandardSave(state(1)), ema=StandardSave(state(2)), notes=JsonSave({"epoch": 3}))
        manager.save(7, args=items, custom_metadata={"run": "a"})
        manager.wait_until_finished()
        chosen = manager.restore(7, args=Composite(ema=StandardRestore(abstract(state(2))), notes=JsonRestore()))
        assert_same(chosen["ema"], state(2))
        assert chosen["notes"] == {"epoch": 3}
        assert manager.metadata(7).custom_metadata == {"run": "a"}
    with plug.manager(tmp_path) as manager:  # which restores all, knowing nothing
        everything = manager.restore(7)
        assert_same(everything["state"], state(1))
        assert_same(everything["ema"], state(2))
        assert everything["notes"] == {"epoch": 3}
        with pytest.raises(KeyError):
            manager.restore(7, args=Composite(missing=StandardRestore()))


def test_custom_metadata_of_an_item(plug: Plug, tmp_path: Path) -> None:
    with plug.manager(tmp_path) as manager:
        manager.save(0, args=StandardSave(state(), custom_metadata={"layers": [1, 2], "name": "x"}))
        manager.wait_until_finished()
        assert manager.item_metadata(0).custom_metadata == {"layers": [1, 2], "name": "x"}


def test_restore_from_another_directory(plug: Plug, tmp_path: Path) -> None:
    with plug.manager(tmp_path / "a") as manager:
        saved(manager, [1])
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "a")
    with plug.manager(tmp_path / "c") as manager:
        assert_same(manager.restore(1, args=StandardRestore(abstract(state(1))), directory=tmp_path / "b"), state(1))


@pytest.mark.parametrize("asynchronous", [False, True])
def test_checkpointers(plug: Plug, tmp_path: Path, asynchronous: bool) -> None:
    with plug.checkpointer(asynchronous=asynchronous) as checkpointer:
        checkpointer.save(tmp_path / "x", state(1))
        if asynchronous:
            checkpointer.wait_until_finished()
        assert_same(checkpointer.restore(tmp_path / "x"), state(1))
        with pytest.raises(ValueError, match="exists"):
            checkpointer.save(tmp_path / "x", state(2))
        checkpointer.save(tmp_path / "x", state(2), force=True)
        assert_same(checkpointer.restore(tmp_path / "x"), state(2))
        with pytest.raises(FileNotFoundError):
            checkpointer.restore(tmp_path / "nowhere")


def test_standard_checkpointer(plug: Plug, tmp_path: Path) -> None:
    with plug.standard_checkpointer() as checkpointer:
        checkpointer.save(tmp_path / "x", state(1))
        checkpointer.wait_until_finished()
        assert_same(checkpointer.restore(tmp_path / "x", abstract(state(1))), state(1))
        assert_same(checkpointer.restore(tmp_path / "x", state(2)), state(1))
        shapes = checkpointer.metadata(tmp_path / "x").item_metadata
        assert shapes["params"]["kernel"].shape == (16, 8)


def test_what_crashed_is_not_listed_and_is_swept(plug: Plug, tmp_path: Path) -> None:
    with plug.manager(tmp_path) as manager:
        saved(manager, [1])
    shutil.copytree(tmp_path / "1", tmp_path / "2.orbax-checkpoint-tmp")
    with plug.manager(tmp_path, cleanup_tmp_directories=True) as manager:
        assert list(manager.all_steps()) == [1]
        saved(manager, [2])
        assert_same(manager.restore(2), state(2))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2"]


def test_stock_steps_in_the_same_directory(tmp_path: Path) -> None:
    """Whoever switches in the middle of a run goes on from what stock Orbax wrote."""
    with Plug(False).manager(tmp_path) as manager:
        manager.save(1, args=StandardSave(state(1)))
        manager.wait_until_finished()
    with Plug(True).manager(tmp_path, max_to_keep=2) as manager:
        assert_same(manager.restore(None, args=StandardRestore(abstract(state(1)))), state(1))
        assert_same(manager.restore(1), state(1))
        assert manager.item_metadata(1)["params"]["kernel"].shape == (16, 8)
        saved(manager, (2, 3))
        assert sorted(manager.all_steps()) == [2, 3]
        assert_same(manager.restore(3), state(3))


def test_stock_items_in_the_same_directory(tmp_path: Path) -> None:
    with Plug(False).manager(tmp_path) as manager:
        manager.save(1, args=Composite(state=StandardSave(state(1)), notes=JsonSave({"epoch": 3})))
        manager.wait_until_finished()
    with Plug(True).manager(tmp_path) as manager:
        everything = manager.restore(1)
        assert_same(everything["state"], state(1))
        assert everything["notes"] == {"epoch": 3}
    with Plug(True).manager(tmp_path) as manager:
        chosen = manager.restore(1, args=Composite(state=StandardRestore(abstract(state(1)))))
        assert_same(chosen["state"], state(1))


def test_a_stock_manager_restores_ours_where_ostraca_orbax_is_imported(tmp_path: Path) -> None:
    with Plug(True).manager(tmp_path) as manager:
        saved(manager, [1])
    with Plug(False).manager(tmp_path) as manager:
        assert_same(manager.restore(1), state(1))


def test_a_base_is_refused() -> None:
    with pytest.raises(ostraca.UnsupportedError, match="retention"):
        ostraca.orbax.registry(base="run/0")
    with pytest.raises(TypeError, match="staging_bytes"):
        ostraca.orbax.registry(staging_byte=1)


@pytest.mark.parametrize("call", ["async_save", "save", "restore", "metadata"])
def test_object_stores_are_refused(call: str) -> None:
    handler = ostraca.orbax.Handler()
    values = () if call in ("restore", "metadata") else (state(),)
    with pytest.raises(ostraca.UnsupportedError, match="gs://bucket"):
        result = getattr(handler, call)("gs://bucket/run/1", *values)
        if call == "async_save":
            result.send(None)
