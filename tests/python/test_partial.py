"""Parts of a checkpoint: a subtree by `root`, and what is stored beyond `like` by `extra`."""

import collections
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ostraca
from ostraca import MismatchError
from ostraca.cli import main

PARAMS = {"dense": {"kernel": np.arange(6.0).reshape(2, 3), "bias": np.zeros(3)}, "layers": [np.ones(2), np.zeros(1)]}
TREE = {"params": PARAMS, "opt": {"params": {"dense": 1}}, "step": 7, "a/b": {"x": 1}, "": {"y": 2}}


def loads() -> list[Any]:
    """`ostraca.load`, and ostraca.jax's where there is JAX."""
    try:
        import ostraca.jax
    except ImportError:
        return [ostraca.load]
    return [ostraca.load, ostraca.jax.load]


def alike(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, dict | list):
        assert list(a) == list(b) if isinstance(a, dict) else len(a) == len(b)
        for key in a if isinstance(a, dict) else range(len(a)):
            alike(a[key], b[key])
    else:
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("load", loads())
def test_the_error_names_the_root(path: Path, load: Any) -> None:
    """`like=params` alone, or with `select="params/*"`, is matched from the tree's own root."""
    ostraca.save(path, TREE)
    for select in (None, "params/*"):
        with pytest.raises(MismatchError, match="fits what is stored below 'params': pass root='params'"):
            load(path, like=PARAMS, select=select)
    with pytest.raises(MismatchError, match="extra='ignore' passes over what only the checkpoint has"):
        load(path, like={"params": PARAMS})


@pytest.mark.parametrize("load", loads())
def test_root(path: Path, load: Any) -> None:
    ostraca.save(path, TREE)
    alike(load(path, root="params", like=PARAMS), PARAMS)
    alike(load(path, root="params"), PARAMS)
    ordered = collections.OrderedDict(PARAMS["dense"])
    alike(load(path, root="params/dense", like=ordered), ordered)
    alike(load(path, root="params/layers"), PARAMS["layers"])
    alike(load(path, root="params/dense/bias", like=np.zeros(3)), np.zeros(3))
    assert load(path, root="step") == 7 and load(path, root="step", like=0) == 7
    assert load(path, root="a~1b") == {"x": 1} and load(path, root="") == {"y": 2}
    alike(load(path, root="params", select="*/bias"), {"dense": {"bias": np.zeros(3)}})
    for wrong in ("param", "params/", "dense", "params/dense/bia"):
        with pytest.raises(MismatchError, match=f"root='{wrong}': nothing of this name .* holds 'params', 'opt'"):
            load(path, root=wrong)
    with pytest.raises(MismatchError, match="'params/layers/1': stored, but not in `like`"):
        load(path, root="params", like={**PARAMS, "layers": [np.ones(2)]})
    with pytest.raises(TypeError, match="root must be the name of a subtree"):
        load(path, root=["params"])


@pytest.mark.parametrize("load", loads())
def test_extra(path: Path, load: Any) -> None:
    ostraca.save(path, TREE)
    like = {"params": {"dense": {"bias": np.ones(3)}}, "step": 0}
    alike(load(path, like=like, extra="ignore"), {"params": {"dense": {"bias": np.zeros(3)}}, "step": 7})
    with pytest.raises(MismatchError, match="'new': not stored"):
        load(path, like={**like, "new": 1}, extra="ignore")
    kept = load(path, like={**like, "new": 1}, extra="ignore", missing="keep")
    assert kept["new"] == 1 and kept["step"] == 7
    assert load(path, root="params", like={"dense": {"bias": np.ones(3)}}, extra="ignore")["dense"]["bias"][0] == 0
    with pytest.raises(ValueError, match="give a tree of leaves"):
        load(path, extra="ignore")
    with pytest.raises(ValueError, match="extra must be one of 'error', 'ignore'"):
        load(path, like=like, extra="keep")


def test_into_and_read_into(path: Path) -> None:
    ostraca.save(path, TREE)
    bias, kernel = np.ones(3), np.zeros((2, 3))
    ostraca.load(path, into={"bias": bias}, root="params/dense", extra="ignore")
    assert not bias.any()
    with ostraca.Reader(path) as reader:
        reader.read_into([("kernel", None, kernel)], root="params/dense")
        whole = np.zeros((2, 3))
        reader.read_into([("", None, whole)], root="params/dense/kernel")
        with pytest.raises(KeyError, match="params/kernel"):
            reader.read_into([("kernel", None, kernel)], root="params")
    assert (kernel == PARAMS["dense"]["kernel"]).all() and (whole == kernel).all()


def test_per_process_below_a_root(path: Path) -> None:
    jax_load = loads()[-1]
    if jax_load is ostraca.load:
        pytest.skip("needs jax")
    ostraca.jax.save(path, {"train": {"rng": ostraca.PerProcess({"seed": 3}), "w": np.ones(2)}, "step": 1})
    loaded = jax_load(path, root="train", like={"rng": ostraca.PerProcess({"seed": 0}), "w": np.zeros(2)})
    assert loaded["rng"].value == {"seed": 3} and loaded["w"][0] == 1


def test_convert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ostraca.save(tmp_path / "x", TREE)
    out = tmp_path / "params.safetensors"
    assert main(["convert", str(tmp_path / "x"), str(out), "--root", "params"]) == 0
    assert main(["convert", str(out), str(tmp_path / "y"), "--separator", "/"]) == 0
    alike(ostraca.load(tmp_path / "y")["dense"], PARAMS["dense"])
    one = tmp_path / "one.safetensors"
    assert main(["convert", str(tmp_path / "x"), str(one), "--root", "params/dense/bias"]) == 0
    assert main(["convert", str(one), str(tmp_path / "z")]) == 0
    assert list(ostraca.load(tmp_path / "z")) == ["bias"]
    assert main(["convert", str(tmp_path / "x"), str(tmp_path / "no.safetensors"), "--root", "parms"]) == 2
    assert main(["convert", str(out), str(tmp_path / "no"), "--root", "dense"]) == 2
    assert "--root is for checkpoints" in capsys.readouterr().err
