"""Leaves of `like` that describe a value without being one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ostraca
from ostraca import MismatchError

jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402

import ostraca.jax  # noqa: E402

NOTHING = ("ShapeDtypeStruct", "NamedSharding", "Format", "deleted")


def mesh(kind: str = "Explicit") -> Any:
    return jax.make_mesh((jax.device_count(),), ("x",), axis_types=(getattr(jax.sharding.AxisType, kind),))


def abstract(what: str) -> Any:
    sharding = jax.NamedSharding(mesh(), jax.P())
    if what == "ShapeDtypeStruct":
        return jax.eval_shape(lambda: jnp.zeros(3))
    if what == "NamedSharding":
        return sharding
    if what == "Format":
        return jnp.zeros(3).format
    array = jnp.zeros(3)
    array.delete()
    return array


@pytest.mark.parametrize("what", NOTHING)
def test_only_values_are_kept(path: Path, what: str) -> None:
    ostraca.save(path, {"w": np.ones(2)})
    like = {"w": np.zeros(2), "new": {"bias": abstract(what)}}
    with pytest.raises(MismatchError, match=r"'new/bias': not stored, and a .* is no value to keep"):
        ostraca.jax.load(path, like=like, missing="keep")
    if what != "Format":
        with pytest.raises(MismatchError, match=r"'new/bias': not stored, and a .* is no value to keep"):
            ostraca.load(path, like=like, missing="keep")
    kept = ostraca.jax.load(path, like={"w": np.zeros(2), "new": jnp.ones(2), "n": 1, "e": {}}, missing="keep")
    assert kept["new"][0] == 1 and kept["n"] == 1 and kept["e"] == {}


def test_meta_tensors_are_not_kept(path: Path) -> None:
    torch = pytest.importorskip("torch")
    ostraca.save(path, {"w": np.ones(2)})
    with pytest.raises(MismatchError, match="'t': not stored, and a Tensor is no value to keep"):
        ostraca.load(path, like={"w": np.zeros(2), "t": torch.empty(2, device="meta")}, missing="keep")
    assert ostraca.load(path, like={"w": np.zeros(2), "t": torch.ones(2)}, missing="keep")["t"][0] == 1


@pytest.mark.parametrize("kind", ["Explicit", "Auto"])
def test_shapes_under_a_mesh(path: Path, kind: str) -> None:
    def init() -> Any:
        w = jnp.zeros((8, 4))
        spread = jax.sharding.reshard if kind == "Explicit" else jax.lax.with_sharding_constraint
        return {"w": spread(w, jax.P("x")), "b": jnp.zeros(4, jnp.bfloat16), "key": jax.random.key(0), "step": 0}

    devices = mesh(kind)
    with jax.set_mesh(devices):
        state = jax.jit(init)()
        ostraca.jax.save(path, state)
        like = jax.eval_shape(init)
        loaded = ostraca.jax.load(path, like=like)
        if kind == "Explicit":
            assert all(loaded[name].sharding == state[name].sharding for name in ("w", "b"))
        assert (loaded["w"] + state["w"]).sharding == state["w"].sharding
        one = ostraca.jax.load(path, like=jax.NamedSharding(jax.sharding.get_abstract_mesh(), jax.P()))
        assert one["w"].sharding == jax.NamedSharding(devices, jax.P())
    if kind == "Explicit":
        with pytest.raises(MismatchError, match=r"'w': .* abstract mesh of .*no mesh is set; load under jax.set_mesh"):
            ostraca.jax.load(path, like=like)


def test_unknown_errors_stay_what_they_are(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Strange(Exception):
        pass

    def boxes(*_: Any) -> Any:
        raise Strange("nobody knows what this is")

    ostraca.save(path, {"w": np.ones(8)})
    monkeypatch.setattr("ostraca.jax.targets.boxes", boxes)
    with pytest.raises(Strange):
        ostraca.jax.load(path, like={"w": jax.ShapeDtypeStruct((8,), np.float64)}, cast=True)


def test_a_sharding_for_what_is_no_array(path: Path) -> None:
    ostraca.save(path, {"step": 3})
    for cast in (False, True, "unsafe"):
        with pytest.raises(MismatchError, match="'step': expected array, found int"):
            ostraca.jax.load(path, like={"step": jax.NamedSharding(mesh(), jax.P())}, cast=cast)
