"""save and load: whole trees, bit for bit, and loading parts of them, into templates and in place."""

import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings

import ostraca
from trees import ALL_DTYPES, LAYOUTS, Nothing, Point, State, array, laid_out, same, trees

slow = settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@given(tree=trees)
@slow
def test_any_tree(tmp_path: Path, tree: Any) -> None:
    path = tmp_path / "checkpoint"
    ostraca.save(path, tree, overwrite=True)
    same(tree, ostraca.load(path))
    assert ostraca.verify(path, deep=True).ok


@given(tree=trees)
@slow
def test_any_tree_into_its_like(tmp_path: Path, tree: Any) -> None:
    path = tmp_path / "checkpoint"
    ostraca.save_async(path, tree, overwrite=True).result()
    if tree is not None:
        assert type(ostraca.load(path, like=tree, verify="deep")) in (type(tree), np.ndarray)


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_every_dtype(path: Path, dtype: np.dtype[Any]) -> None:
    shapes = [(), (1,), (0,), (3, 0, 2), (7,), (5, 4, 3), (700, 900)]
    tree = {f"{shape} {layout}": laid_out(array(dtype, shape), layout) for shape in shapes for layout in LAYOUTS}
    ostraca.save(path, tree)
    same(tree, ostraca.load(path))


@pytest.mark.parametrize("dtype", ["f4", "u1", ">f8", "c16", "bool"])
@pytest.mark.parametrize("codec", ["auto", "raw", "zstd"])
@pytest.mark.parametrize("io", ["auto", "direct", "buffered"])
def test_options(path: Path, dtype: str, codec: str, io: str) -> None:
    tree = [array(dtype, (333, 1111)), np.zeros((1000, 500), dtype), np.asfortranarray(array(dtype, (40, 50, 60)))]
    info = ostraca.save(path, tree, codec=codec, io=io, threads=1, coding_bytes=32 << 20)
    assert info.arrays == 3 and info.logical_bytes == sum(leaf.nbytes for leaf in tree)
    same(tree, ostraca.load(path, threads=1))


def test_what_save_reports(path: Path) -> None:
    tree = {"w": weights(1 << 20), "n": 3, "e": {}, "none": None}
    info = ostraca.save(path, tree, step=np.int64(7), metadata={"loss": 0.5})
    assert info.path == str(path) and info.step == 7 and info.arrays == 2 and info.logical_bytes == (4 << 20) + 1
    assert info.stored_bytes == sum(file.stat().st_size for file in path.glob("p*.ostraca")) + sum(
        file.stat().st_size for file in path.glob("index*")
    )
    assert info.stored_bytes < 0.85 * info.logical_bytes
    assert info.seconds >= info.stall_seconds > 0 and info.referenced_bytes == 0 and info.chunks >= 2
    with ostraca.open(path) as ckpt:
        assert ckpt.info == info and ckpt.step == 7 and ckpt.metadata == {"loss": 0.5}


def test_special_names(path: Path) -> None:
    tree = {
        "a/b": 1,
        "a": {"b": 2, "": 3},
        "../x": weights(3),
        "..": {"..": 4},
        "/etc": 5,
        "é\0ü": 6,
        3: {-7: 7},
        "": 8,
    }
    ostraca.save(path, tree)
    same(tree, ostraca.load(path))
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["checkpoint"]


def test_many_leaves(path: Path) -> None:
    tree = {f"layer {i}": {"w": np.full((3, i % 7), i, "f4"), "b": np.int32(i), "n": i} for i in range(4000)}
    ostraca.save(path, tree)
    same(tree, ostraca.load(path))
    assert ostraca.verify(path).ok


def test_deep_tree(path: Path) -> None:
    tree: Any = weights(3)
    for i in range(2000):
        tree = {"k": tree} if i % 2 else [tree]
    ostraca.save(path, tree)
    back = ostraca.load(path, like=tree)
    plain = ostraca.load(path)
    for i in reversed(range(2000)):
        back, plain = (back["k"], plain["k"]) if i % 2 else (back[0], plain[0])
    same(back, plain)


def test_tied_arrays_are_stored_once(path: Path) -> None:
    w = weights(1 << 20)
    info = ostraca.save(path, {"a": w, "b": w, "c": [w[:], w.reshape(-1)]}, codec="raw")
    assert info.logical_bytes == 4 * w.nbytes and info.stored_bytes < 1.1 * w.nbytes
    same({"a": w, "b": w, "c": [w, w]}, ostraca.load(path))


def test_equal_content_is_stored_once(path: Path) -> None:
    w = weights(1 << 20)
    assert ostraca.save(path, [w, w.copy()], codec="raw").stored_bytes < 1.1 * w.nbytes
    same([w, w], ostraca.load(path))


@pytest.mark.parametrize("chunk_shape", [(64, 64), (1, 4096), (4096, 1), (700, 300), (5000, 5)])
def test_chunk_shape(path: Path, chunk_shape: tuple[int, int]) -> None:
    tree = {"matrix": weights(700, 300), "vector": weights(50), "transposed": weights(300, 700).T}
    ostraca.save(path, tree, chunk_shape=chunk_shape)
    same(tree, ostraca.load(path))
    with ostraca.Reader(path) as reader:
        shapes = {chunk.shape for chunk in reader.chunks("matrix")}
    assert max(shapes) == tuple(map(min, chunk_shape, (700, 300)))


def test_jax_state(path: Path) -> None:
    tree = {
        "w": jnp.arange(12.0, dtype=jnp.bfloat16).reshape(3, 4),
        "int4": jnp.array([1, -8, 7], jnp.int4),
        "key": jax.random.split(jax.random.key(1, impl="rbg"), 3),
    }
    ostraca.save(path, tree)
    back = ostraca.load(path)
    assert (back["w"] == np.asarray(tree["w"])).all() and back["w"].dtype == ml_dtypes.bfloat16
    assert back["int4"].tolist() == [1, -8, 7]
    assert (jax.random.key_data(back["key"]) == jax.random.key_data(tree["key"])).all()
    shapes = jax.eval_shape(lambda: tree)
    again = ostraca.load(path, like=shapes)
    assert again["key"].dtype == tree["key"].dtype
    with pytest.raises(ostraca.MismatchError, match="expected PRNG keys key<fry>"):
        ostraca.load(path, like={**shapes, "key": jax.random.split(jax.random.key(1), 3)})
    with pytest.raises(ostraca.MismatchError, match=r"'key': expected shape \(2,\), found \(3,\)"):
        ostraca.load(path, like={**shapes, "key": tree["key"][:2]})
    with pytest.raises(ostraca.MismatchError, match="'key': expected array, found PRNG key"):
        ostraca.load(path, like={**shapes, "key": tree["w"]})


def test_sharded_jax_array(path: Path) -> None:
    code = f"""
import jax, numpy as np, ostraca
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
x = np.arange(32.0, dtype=np.float32).reshape(8, 4)
mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("a", "b"))
tree = {{str(spec): jax.device_put(x, NamedSharding(mesh, spec)) for spec in (P("a", "b"), P("b"), P())}}
ostraca.save({str(path)!r}, tree)
for value in ostraca.load({str(path)!r}).values(): assert (value == x).all()
"""
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_torch_state(path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3)).to(torch.bfloat16)
    ostraca.save(path, model.state_dict())
    back = ostraca.load(path, like=model.state_dict())
    for name, tensor in model.state_dict().items():
        assert back[name].shape == tuple(tensor.shape)
        assert back[name].tobytes() == tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def test_large_arrays_are_aligned_and_writable(path: Path) -> None:
    ostraca.save(path, {"large": weights(1 << 19), "small": weights(5)})
    back = ostraca.load(path)
    assert back["large"].__array_interface__["data"][0] % 64 == 0
    assert all(value.flags.writeable and value.flags.c_contiguous for value in back.values())


def test_progress(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    calls: list[tuple[int, int]] = []
    tree = weights(1 << 20)
    ostraca.save(path, tree, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (tree.nbytes, tree.nbytes) and sorted(calls) == calls
    calls.clear()
    ostraca.load(path, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1][0] == calls[-1][1] > 0
    ostraca.load(path, progress=True)
    ostraca.verify(path, progress=True)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2 and "100%" in lines[0] and "loading" in lines[0] and re.search("[KMG]B/s", lines[0])
    with pytest.raises(ZeroDivisionError):
        ostraca.load(path, progress=lambda done, total: 1 / 0)
    with pytest.raises(TypeError, match="progress"):
        ostraca.load(path, progress=3)  # type: ignore[arg-type]


def test_modes_honour_the_umask(path: Path) -> None:
    before = os.umask(0o027)
    try:
        ostraca.save(path, weights(3))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o750
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()} == {0o640}


def test_overwrite(path: Path) -> None:
    ostraca.save(path, {"old": weights(100)}, step=1)
    with pytest.raises(ostraca.ExistsError, match="checkpoint"):
        ostraca.save(path, {"new": 1}, step=2)
    with ostraca.open(path) as before:
        ostraca.save(path, {"new": 1}, step=2, overwrite=True)
        same(weights(100), before["old"][...])  # an open reader keeps what it opened
    assert ostraca.load(path) == {"new": 1}
    assert len(list(path.iterdir())) == 3


class TestSelect:
    @pytest.fixture(autouse=True)
    def saved(self, path: Path) -> None:
        self.path = path
        self.tree = {"params": {"w": weights(4), "b": weights(2)}, "opt": [weights(1), (weights(3), 5)], "step": 7}
        ostraca.save(path, self.tree)

    def test_glob(self) -> None:
        same({"params": self.tree["params"]}, ostraca.load(self.path, select="params/*"))
        same({"step": 7}, ostraca.load(self.path, select="step"))
        same({"params": {"w": weights(4)}}, ostraca.load(self.path, select="*/[w]"))

    def test_predicate_and_holes(self) -> None:
        same({"opt": {1: {1: 5}}}, ostraca.load(self.path, select=lambda name: name.endswith("1/1")))
        same({"opt": {1: (weights(3), 5)}}, ostraca.load(self.path, select="opt/1/*"))

    def test_nothing(self) -> None:
        with pytest.raises(ostraca.MismatchError, match="chose none of the 6 stored leaves, such as 'params/w'"):
            ostraca.load(self.path, select="parms/*")
        with pytest.raises(TypeError, match="select"):
            ostraca.load(self.path, select=["a"])  # type: ignore[arg-type]

    def test_with_like(self) -> None:
        like = {"params": {"w": np.zeros(4, "f4"), "b": np.zeros(2, "f4")}}
        same(self.tree["params"], ostraca.load(self.path, like=like, select="params/*")["params"])
        with pytest.raises(ostraca.MismatchError, match="'opt/0': stored, but not in `like`"):
            ostraca.load(self.path, like=like)
        with pytest.raises(ostraca.MismatchError, match="'params/b': not stored"):
            ostraca.load(self.path, like=like, select="*w")
        kept = ostraca.load(self.path, like=like, select="*w", missing="keep")
        same(weights(4), kept["params"]["w"])
        assert kept["params"]["b"] is like["params"]["b"]


def test_like_keeps_classes(path: Path) -> None:
    tree = {"p": Point(weights(3), Nothing()), "s": State([weights(2), None], "x")}
    ostraca.save(path, tree)
    like = {"p": Point(np.zeros(3, "f4"), Nothing()), "s": State([np.zeros(2, "f4"), None], "")}
    back = ostraca.load(path, like=like)
    assert type(back["p"]) is Point and back["p"].y == Nothing() and type(back["s"]) is State and back["s"].step == "x"
    assert (back["p"].x == weights(3)).all() and (back["s"].params[0] == weights(2)).all()
    same(tree, ostraca.load(path, like=ostraca.load(path)))  # by names, whatever the classes


def test_like_differences(path: Path) -> None:
    ostraca.save(path, {"a": weights(3), "b": weights(2, 2), "c": 1, "d": weights(1), "e": None, "f": weights(2)})
    like = {
        "a": np.zeros(4, "f4"),
        "b": np.zeros((2, 2), "f8"),
        "c": 1.0,
        "x": np.zeros(1),
        "e": {},
        "f": np.zeros(2, ">f4"),
    }
    with pytest.raises(ostraca.MismatchError) as caught:
        ostraca.load(path, like=like)
    for line in (
        "'a': expected shape (4,), found (3,)",
        "'b': expected dtype float64, found float32",
        "'c': expected float, found int",
        "'x': not stored",
        "'d': stored, but not in `like`",
        "'e': expected empty dict, found None",
        "in 6 leaves",
    ):
        assert line in str(caught.value)
    assert "'f'" not in str(caught.value)


def test_differences_are_bounded(path: Path) -> None:
    ostraca.save(path, {str(i): i for i in range(1000)})
    with pytest.raises(ostraca.MismatchError, match="and 990 more") as caught:
        ostraca.load(path, like={str(i): None for i in range(1000)})
    assert len(str(caught.value)) < 1000


def test_like_of_other_frameworks(path: Path) -> None:
    tree = {"a": array(ml_dtypes.bfloat16, (3, 2)), "b": array("f4", (2,)), "c": 1}
    ostraca.save(path, tree)
    for like in (
        {"a": jax.ShapeDtypeStruct((3, 2), jnp.bfloat16), "b": jax.ShapeDtypeStruct((2,), "float32"), "c": 0},
        {"a": jnp.zeros((3, 2), jnp.bfloat16), "b": jnp.zeros(2), "c": 0},
        {"a": torch.zeros(3, 2, dtype=torch.bfloat16), "b": torch.zeros(2), "c": 0},
    ):
        same(tree, ostraca.load(path, like=like))
    with pytest.raises(ostraca.UnsupportedError, match="'b' says nothing"):
        ostraca.load(path, like={**tree, "b": object()})


class TestInto:
    def test_filled_in_place(self, path: Path) -> None:
        tree = {"a": weights(700, 900), "b": [weights(3), 5], "t": weights(4, 5), "s": array(">f8", (6,)), "n": None}
        ostraca.save(path, tree)
        into = {
            "a": np.zeros((700, 900), "f4"),
            "b": (np.zeros(6, "f4")[::2], 0),
            "t": np.zeros((5, 4), "f4").T,
            "s": np.zeros(6, "<f8"),
            "n": None,
        }
        back = ostraca.load(path, into=into)
        assert (
            back["a"] is into["a"] and back["b"][0] is into["b"][0] and type(back["b"]) is tuple and back["b"][1] == 5
        )
        for name in ("a", "t", "s"):
            assert (into[name] == tree[name]).all()
        assert (into["b"][0] == tree["b"][0]).all()  # type: ignore[index]

    def test_nothing_is_written_before_all_was_compared(self, path: Path) -> None:
        ostraca.save(path, {"a": weights(3), "b": weights(4)})
        a = np.zeros(3, "f4")
        read_only = np.zeros(4, "f4")
        read_only.flags.writeable = False
        for b in (np.zeros(5, "f4"), np.zeros(4), read_only, jnp.zeros(4), np.float32(1)):
            with pytest.raises(ostraca.MismatchError, match="'b'"):
                ostraca.load(path, into={"a": a, "b": b})
        with pytest.raises(ostraca.MismatchError):
            ostraca.load(path, into={"a": a})
        assert not a.any()

    def test_missing_kept(self, path: Path) -> None:
        ostraca.save(path, {"a": weights(3)})
        into = {"a": np.zeros(3, "f4"), "b": np.ones(2)}
        back = ostraca.load(path, into=into, missing="keep")
        assert (back["a"] == weights(3)).all() and back["b"] is into["b"]

    def test_failure_names_what_was_modified(self, path: Path) -> None:
        ostraca.save(path, {"first": weights(1 << 20), "second": weights(1 << 20, seed=1)}, codec="raw")
        (file,) = path.glob("p*")
        with file.open("r+b") as f:
            f.seek(6 << 20)
            f.write(b"damage")
        into = {"first": np.zeros(1 << 20, "f4"), "second": np.zeros(1 << 20, "f4")}
        with pytest.raises(ostraca.CorruptionError, match="second") as caught:
            ostraca.load(path, into=into, threads=1)
        assert ("already modified" in str(caught.value)) == bool(into["first"].any() or into["second"].any())
        if into["first"].any():
            assert "'first'" in str(caught.value).split("already modified")[1]

    def test_not_with_like(self, path: Path) -> None:
        with pytest.raises(ValueError, match="exclude each other"):
            ostraca.load(path, into={}, like={})
        with pytest.raises(ValueError, match="missing='keep'"):
            ostraca.load(path, missing="keep")
