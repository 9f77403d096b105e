"""What an item may be, and the ways to give Orbax a handler. Each test runs with stock Orbax and with ours."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
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
    PyTreeRestore,
    PyTreeSave,
    StandardRestore,
    StandardSave,
    assert_same,
    sharded,
    state,
)

ARRAY = np.arange(12.0, dtype=np.float32).reshape(3, 4)


class Kind:
    """A kind of item: what is saved, the arguments, and whether what came back is that."""

    def __init__(self, value: Any, save: Any, restore: Any) -> None:
        self.value, self._save, self.restore = value, save, restore

    def save(self) -> Any:
        return self._save(self.value)

    def check(self, found: Any) -> None:
        if isinstance(self.value, tuple):  # numpy's random state
            found, value = dict(enumerate(found)), dict(enumerate(self.value))
            assert found.keys() == value.keys()
            assert all(np.array_equal(found[i], value[i]) for i in value)
        elif hasattr(self.value, "dtype") and jax.dtypes.issubdtype(self.value.dtype, jax.dtypes.prng_key):
            assert_same(found, self.value)
        else:
            jax.tree.map(np.testing.assert_array_equal, found, self.value)


KINDS = {
    "tree": lambda: Kind(state(3), StandardSave, StandardRestore()),
    "json": lambda: Kind({"epoch": 3, "notes": ["a", {"b": None}]}, JsonSave, JsonRestore()),
    "array": lambda: Kind(ARRAY, ocp.args.ArraySave, ocp.args.ArrayRestore()),
    "sharded": lambda: Kind(sharded(ARRAY, (4,), None, "a"), ocp.args.ArraySave, ocp.args.ArrayRestore()),
    "key": lambda: Kind(jax.random.key(5), ocp.args.JaxRandomKeySave, ocp.args.JaxRandomKeyRestore()),
    "numpy's": lambda: Kind(
        np.random.RandomState(7).get_state(), ocp.args.NumpyRandomKeySave, ocp.args.NumpyRandomKeyRestore()
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_unnamed_item_may_be_anything(plug: Plug, tmp_path: Path, kind: str) -> None:
    item = KINDS[kind]()
    with plug.manager(tmp_path) as manager:
        for step in (0, 1):
            manager.save(step, args=item.save())
        manager.wait_until_finished()
        item.check(manager.restore(0, args=item.restore))
        item.check(manager.restore(1))
    with plug.manager(tmp_path) as manager:
        item.check(manager.restore(1))
    with plug.manager(tmp_path) as manager:
        item.check(manager.restore(1, args=item.restore))
        manager.save(2, args=item.save())
        manager.wait_until_finished()
        item.check(manager.restore(2))


@pytest.mark.parametrize("listed", [True, False])
def test_named_items_may_be_anything(plug: Plug, tmp_path: Path, listed: bool) -> None:
    items = {name.replace("'", ""): kind() for name, kind in KINDS.items()}
    with plug.manager(tmp_path, items=tuple(items) if listed else ()) as manager:
        for step in (0, 1):
            manager.save(step, args=Composite(**{name: item.save() for name, item in items.items()}))
        manager.wait_until_finished()
        found = manager.restore(0, args=Composite(**{name: item.restore for name, item in items.items()}))
        for name, item in items.items():
            item.check(found[name])
    with plug.manager(tmp_path) as manager:  # which knows nothing
        found = manager.restore(1)
        for name, item in items.items():
            item.check(found[name])


@pytest.mark.parametrize("name", ["default", "state", "other"])
@pytest.mark.parametrize(("first", "then"), [("tree", "json"), ("json", "tree"), ("array", "json"), ("tree", "array")])
def test_an_item_keeps_its_kind(ours: Plug, tmp_path: Path, name: str, first: str, then: str) -> None:
    """Stock Orbax refuses that where it noticed; for ours it is the call of save that raises, always."""
    one, other = KINDS[first](), KINDS[then]()
    wrapped = (lambda args: args) if name == "default" else (lambda args: Composite(**{name: args}))
    with ours.manager(tmp_path, items=("state",)) as manager:
        manager.save(0, args=wrapped(one.save()))
        manager.wait_until_finished()
        with pytest.raises(ValueError, match=rf"item '{name}'.*save this one under another name"):
            manager.save(1, args=wrapped(other.save()))
        manager.save(2, args=wrapped(one.save()))
        manager.wait_until_finished()
        assert list(manager.all_steps()) == [0, 2]
        found = manager.restore(2, args=wrapped(one.restore))
        one.check(found if name == "default" else found[name])


def test_one_registry_serves_several_managers(tmp_path: Path) -> None:
    registry = ostraca.orbax.registry()
    for directory, kind in (("a", "tree"), ("b", "json"), ("c", "array")):
        item = KINDS[kind]()
        with ocp.CheckpointManager(tmp_path / directory, handler_registry=registry) as manager:
            manager.save(0, args=item.save())
            manager.wait_until_finished()
            item.check(manager.restore(0, args=item.restore))


def test_several_items_of_a_kind(plug: Plug, tmp_path: Path) -> None:
    """Orbax's handlers of keys keep state while they save."""
    items = {f"{name}{i}": KINDS[name]() for name in ("key", "array", "json", "tree") for i in range(3)}
    with plug.manager(tmp_path) as manager:
        manager.save(0, args=Composite(**{name: item.save() for name, item in items.items()}))
        manager.wait_until_finished()
        found = manager.restore(0)
        for name, item in items.items():
            item.check(found[name])


def test_arguments_for_another_kind_are_refused(plug: Plug, tmp_path: Path) -> None:
    with plug.manager(tmp_path) as manager:
        manager.save(0, args=Composite(state=StandardSave(state()), notes=JsonSave({"a": 1})))
        manager.wait_until_finished()
        for args in (Composite(state=JsonRestore()), Composite(notes=StandardRestore())):
            with pytest.raises(ValueError, match=r"item 'state'|item 'notes'|does not match"):
                manager.restore(0, args=args)
        assert manager.restore(0, args=Composite(notes=None))["notes"] == {"a": 1}


def test_without_metadata_of_the_step(plug: Plug, tmp_path: Path) -> None:
    """Where nothing says which handler saved an item, the one that saved it knows."""

    def composite() -> Any:
        if not plug.ours:
            return ocp.CompositeCheckpointHandler("state", "notes")
        return ocp.CompositeCheckpointHandler(handler_registry=ostraca.orbax.registry("state", "notes"))

    handler = composite()
    checkpointer = ocp.Checkpointer(handler)
    checkpointer.save(tmp_path / "x", args=Composite(state=StandardSave(state()), notes=JsonSave({"a": 1})))
    (tmp_path / "x" / "_CHECKPOINT_METADATA").unlink()
    assert handler.restore(tmp_path / "x", Composite(notes=None))["notes"] == {"a": 1}
    assert_same(handler.restore(tmp_path / "x", Composite(state=None))["state"], state())
    with pytest.raises(ValueError, match=r"notes.*handler|had an undetermined"):
        composite().restore(tmp_path / "x")


def test_metadata_of_other_items(plug: Plug, tmp_path: Path) -> None:
    with plug.manager(tmp_path) as manager:
        manager.save(0, args=Composite(state=StandardSave(state()), notes=JsonSave({"a": 1})))
        manager.wait_until_finished()
        metadata = manager.item_metadata(0)
        assert metadata["state"]["params"]["kernel"].shape == (16, 8)
        assert metadata["notes"] is None
    stored = ocp.CompositeCheckpointHandler().metadata(tmp_path / "0").item_handlers
    assert stored["notes"] == ocp.JsonCheckpointHandler.typestr()


# --- The ways to give Orbax a handler -----------------------------------------------------------------------------


def ways(tmp_path: Path) -> dict[str, Any]:
    handler, args = ostraca.orbax.Handler, (ostraca.orbax.Save, ostraca.orbax.Restore)
    mine, extended = ocp.handlers.DefaultCheckpointHandlerRegistry(), ostraca.orbax.registry()
    for each in args:
        mine.add("state", each)
    extended.add("config", JsonSave, ocp.JsonCheckpointHandler("config.json"))
    manager = ocp.CheckpointManager
    return {
        "item_handlers": lambda: manager(tmp_path, item_handlers={"state": handler()}),
        "item_names": lambda: manager(tmp_path, item_names=("state",), item_handlers={"state": handler()}),
        "only names": lambda: manager(tmp_path, item_names=("state",)),
        "nothing": lambda: manager(tmp_path),
        "a registry": lambda: manager(tmp_path, handler_registry=mine),
        "ours, with more": lambda: manager(tmp_path, handler_registry=extended),
        "checkpointers": lambda: manager(tmp_path, {"state": ocp.AsyncCheckpointer(handler())}),
    }


@pytest.mark.parametrize("way", ways(Path()))
def test_our_arguments_every_way(tmp_path: Path, way: str) -> None:
    Save, Restore = ostraca.orbax.Save, ostraca.orbax.Restore
    with ways(tmp_path)[way]() as manager:
        manager.save(0, args=Composite(state=Save(state(1))))
        manager.wait_until_finished()
        assert_same(manager.restore(0, args=Composite(state=Restore()))["state"], state(1))
        assert_same(manager.restore(0, args=Composite(state=Restore(state(2))))["state"], state(1))
        assert_same(manager.restore(0)["state"], state(1))
        assert manager.item_metadata(0)["state"]["params"]["kernel"].shape == (16, 8)
    assert ostraca.verify(tmp_path / "0" / "state", deep=True).ok


def test_our_arguments_of_the_unnamed_item(tmp_path: Path) -> None:
    with ocp.CheckpointManager(tmp_path, item_handlers=ostraca.orbax.Handler()) as manager:
        manager.save(0, args=ostraca.orbax.Save(state(1)))
        manager.save(1, state(2))  # the legacy call
        manager.wait_until_finished()
        assert_same(manager.restore(0, args=ostraca.orbax.Restore(state(2))), state(1))
        assert_same(manager.restore(1), state(2))
        assert_same(manager.restore(1, items=state(1)), state(2))
    assert ostraca.verify(tmp_path / "1" / "default", deep=True).ok


def test_a_composite_handler(tmp_path: Path) -> None:
    for number, handler in enumerate(
        (
            ocp.CompositeCheckpointHandler(state=ostraca.orbax.Handler()),
            ocp.CompositeCheckpointHandler(handler_registry=ostraca.orbax.registry()),
        )
    ):
        path = tmp_path / str(number)
        with ocp.Checkpointer(handler) as checkpointer:
            checkpointer.save(path, args=Composite(state=ostraca.orbax.Save(state(1))))
            found = checkpointer.restore(path, args=Composite(state=ostraca.orbax.Restore()))
        assert_same(found["state"], state(1))
        assert ostraca.verify(path / "state", deep=True).ok


def test_orbaxs_arguments_by_a_registry_of_the_programs(tmp_path: Path) -> None:
    registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
    for args in (StandardSave, StandardRestore):
        registry.add("state", args, ostraca.orbax.Handler)
    with ocp.CheckpointManager(tmp_path, handler_registry=registry) as manager:
        manager.save(0, args=Composite(state=StandardSave(state(1))))
        manager.wait_until_finished()
        assert_same(manager.restore(0, args=Composite(state=StandardRestore()))["state"], state(1))
    assert ostraca.verify(tmp_path / "0" / "state", deep=True).ok


def test_where_orbax_refuses_its_arguments_the_error_has_the_line(tmp_path: Path) -> None:
    manager = ocp.CheckpointManager(tmp_path / "a", item_handlers=ostraca.orbax.Handler())
    with manager, pytest.raises(ValueError, match=r"handler_registry=ostraca\.orbax\.registry\(\)"):
        manager.save(0, args=StandardSave(state()))
    manager = ocp.CheckpointManager(tmp_path / "b", item_handlers={"state": ostraca.orbax.Handler()})
    with manager, pytest.raises(ValueError, match=r"handler_registry=ostraca\.orbax\.registry\(\)"):
        manager.save(0, args=Composite(state=StandardSave(state())))


def test_orbaxs_global_table_is_as_it_was() -> None:
    for args in (StandardSave, StandardRestore):
        assert ocp.args.get_registered_handler_cls(args) is ocp.StandardCheckpointHandler
    for args in (PyTreeSave, PyTreeRestore):
        assert ocp.args.get_registered_handler_cls(args) is ocp.PyTreeCheckpointHandler


# --- Legacy calls -------------------------------------------------------------------------------------------------


def other_than(tree: dict[str, Any]) -> dict[str, Any]:
    """Of the same structure, and everything else differs."""
    changed = jax.tree.map(lambda leaf: leaf, tree)
    changed["params"]["kernel"] = np.zeros((2, 3), np.int8)
    changed["params"]["bias"] = jnp.zeros(8, jnp.float32)
    changed["moments"][1] = 5
    return changed


def test_an_item_gives_the_structure_alone(plug: Plug, tmp_path: Path) -> None:
    with plug.checkpointer() as checkpointer:
        checkpointer.save(tmp_path / "x", state(1))
        assert_same(checkpointer.restore(tmp_path / "x", item=other_than(state(2))), state(1))
        args = jax.tree.map(lambda _: ocp.RestoreArgs(), state())
        args["params"]["kernel"] = ocp.RestoreArgs(restore_type=np.ndarray)
        found = checkpointer.restore(tmp_path / "x", item=state(2), restore_args=args)
        expected = state(1)
        expected["params"]["kernel"] = np.asarray(expected["params"]["kernel"])
        assert_same(found, expected)
        with pytest.raises(ValueError, match="step"):
            checkpointer.restore(tmp_path / "x", item={k: v for k, v in state().items() if k != "step"})


def test_empty_transforms_are_a_partial_restore(plug: Plug, tmp_path: Path) -> None:
    item = {"params": state(2)["params"]}
    args = ocp.checkpoint_utils.construct_restore_args(item)
    with plug.checkpointer() as checkpointer:
        checkpointer.save(tmp_path / "x", state(1))
        found = checkpointer.restore(tmp_path / "x", item=item, restore_args=args, transforms={})
        assert_same(found, {"params": state(1)["params"]})
        found = checkpointer.restore(tmp_path / "x", args=PyTreeRestore(item, args, transforms={}))
        assert_same(found, {"params": state(1)["params"]})


def test_transforms_that_do_something_are_refused_with_advice(ours: Plug, tmp_path: Path) -> None:
    with ours.checkpointer() as checkpointer:
        checkpointer.save(tmp_path / "x", state(1))
        for further in (
            {"transforms": {"a": ocp.Transform(original_key="b")}},
            {"legacy_transform_fn": lambda *_: None},
            {"transforms": {}, "transforms_default_to_original": False},
        ):
            with pytest.raises(ostraca.UnsupportedError, match="transforms"):
                checkpointer.restore(tmp_path / "x", item=state(), **further)
            with pytest.raises(ostraca.UnsupportedError, match="transforms"):
                checkpointer.restore(tmp_path / "x", args=PyTreeRestore(state(), **further))
        with pytest.raises(ostraca.UnsupportedError, match="no item"):
            checkpointer.restore(tmp_path / "x", transforms={})
        with pytest.raises(TypeError, match="not both"):
            checkpointer.restore(tmp_path / "x", state(), item=state())


def test_options_of_orbaxs_format_are_taken(plug: Plug, tmp_path: Path) -> None:
    args = jax.tree.map(lambda _: ocp.SaveArgs(), state())
    with plug.checkpointer() as checkpointer:
        checkpointer.save(tmp_path / "x", state(1), save_args=args, ocdbt_target_data_file_size=1 << 20)
        assert_same(checkpointer.restore(tmp_path / "x"), state(1))
        checkpointer.save(tmp_path / "y", args=PyTreeSave(state(2), ocdbt_target_data_file_size=0))
        assert_same(checkpointer.restore(tmp_path / "y"), state(2))
