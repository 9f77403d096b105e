"""open: lazy arrays against numpy, reading no more chunks than are needed."""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import basic_indices

import ostraca
from trees import ALL_DTYPES, array, same

SHAPE = (60, 50, 40)
CUBE = np.arange(np.prod(SHAPE), dtype=np.int32).reshape(SHAPE)


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("open") / "cube"
    ostraca.save(path, {"cube": CUBE, "scalar": np.float32(5), "empty": np.zeros((3, 0, 2))}, chunk_shape=(16, 16, 16))
    with ostraca.open(path) as ckpt:
        yield ckpt


def check(lazy: Any, expected: np.ndarray, index: Any) -> None:
    found = lazy[index]
    wanted = expected[index]
    assert type(found) is type(wanted) and np.array_equal(found, wanted) and found.dtype == wanted.dtype
    if isinstance(found, np.ndarray):
        assert found.shape == wanted.shape and found.flags.writeable


@pytest.mark.parametrize(
    "index",
    [
        (), ..., 0, -1, (5, -7, 3), np.int64(3), slice(None), slice(10, 20), slice(None, None, -1), slice(50, 5, -7),
        (slice(2, 3), 4), (..., 4), (0, ..., slice(1, 9, 3)), (None, 3), (slice(0, 0),), (slice(70, 80), 5),
        (3, None, slice(4), ..., None), (slice(-5, None), slice(None, -45), slice(39, None, -40)), slice(5, 2),
    ],
    ids=str,
)  # fmt: skip
def test_basic_indices(cube: ostraca.Checkpoint, index: Any) -> None:
    check(cube["cube"], CUBE, index)


@given(data=st.data())
def test_any_basic_index(cube: ostraca.Checkpoint, data: st.DataObject) -> None:
    check(cube["cube"], CUBE, data.draw(basic_indices(SHAPE, allow_newaxis=True)))


@pytest.mark.parametrize(
    "index", [60, -61, (0, 0, 0, 0), (..., 0, ...), True, [1, 2], np.array([1]), np.array(1), "x", 1.0, (0, np.True_)]
)
def test_bad_indices(cube: ostraca.Checkpoint, index: Any) -> None:
    with pytest.raises(IndexError):
        cube["cube"][index]


def test_scalars_and_empty_arrays(cube: ostraca.Checkpoint) -> None:
    for index in ((), ..., None):
        check(cube["scalar"], np.array(5, np.float32), index)
    check(cube["empty"], np.zeros((3, 0, 2)), (1, slice(None), 0))
    with pytest.raises(TypeError, match="len"):
        len(cube["scalar"])
    with pytest.raises(TypeError, match="len"):
        iter(cube["scalar"])


def test_attributes(cube: ostraca.Checkpoint) -> None:
    lazy = cube["cube"]
    assert (lazy.name, lazy.kind, lazy.shape, lazy.ndim, lazy.size) == ("cube", "array", SHAPE, 3, CUBE.size)
    assert lazy.dtype == np.int32 and lazy.nbytes == CUBE.nbytes and 0 < lazy.stored_bytes <= CUBE.nbytes
    assert len(lazy) == 60 and "cube" in repr(lazy) and "(60, 50, 40)" in repr(lazy)
    assert sum(1 for _ in lazy) == 60
    assert np.array_equal(np.asarray(lazy), CUBE) and np.asarray(lazy, dtype=np.float64).dtype == np.float64
    with pytest.raises(ValueError, match="copy"):
        np.asarray(lazy, copy=False)


def test_only_needed_chunks_are_read(tmp_path: Path) -> None:
    whole = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    ostraca.save(tmp_path / "c", {"w": np.tile(whole, (16, 16)), "other": whole}, chunk_shape=(128, 128), codec="raw")
    for index, chunks in (
        ((0, 0), 1),
        ((slice(0, 128), slice(0, 128)), 1),
        ((slice(127, 129), slice(127, 129)), 4),
        ((slice(None), 5), 8),
        ((slice(1000, 0, -300), 0), 8),
        ((slice(3, 3), 0), 0),
    ):
        with ostraca.open(tmp_path / "c") as ckpt:
            check(ckpt["w"], np.tile(whole, (16, 16)), index)
            counts = ckpt.statistics()
            assert counts["chunks_read"] == counts["chunks_decoded"] <= chunks
            assert counts["bytes_read"] <= chunks * 128 * 128 * 4


def test_opening_reads_no_chunk(cube: ostraca.Checkpoint) -> None:
    with ostraca.open(cube.path) as ckpt:
        assert list(ckpt) and ckpt["cube"].shape and ckpt.info and ckpt["cube"].stored_bytes
        assert ckpt.statistics()["chunks_read"] == 0


def test_each_stored_chunk_is_read_once(tmp_path: Path) -> None:
    tree = {str(i): np.arange(i, i + 500) for i in range(1000)}
    ostraca.save(tmp_path / "c", tree)
    with ostraca.Reader(tmp_path / "c") as reader:
        requests = [(info.name, None, info.allocate()) for info in reader.arrays()]
        reader.read_into(requests)
        assert reader.statistics()["chunks_read"] == reader.manifest().info.chunks
        assert all((array == tree[name]).all() for name, _, array in requests)


def test_small_arrays_one_by_one_decode_their_pack_once(tmp_path: Path) -> None:
    tree = {str(i): np.arange(i, i + 50) for i in range(1000)}
    ostraca.save(tmp_path / "c", tree)
    with ostraca.open(tmp_path / "c") as ckpt:
        for name, lazy in ckpt.items():
            assert (lazy[:] == tree[name]).all()
        assert ckpt.statistics()["chunks_decoded"] <= 3


def test_mapping(path: Path) -> None:
    tree = {"params": {"w": np.ones(3), "b": np.zeros(2)}, "step": 2**70, "name": "é", "none": None, "list": []}
    ostraca.save(path, tree, step=4, metadata={"a": (1, 2)})
    with ostraca.open(path) as ckpt:
        assert list(ckpt) == ["params/w", "params/b", "step", "name"] == list(ckpt.keys())
        assert ckpt.names() == [*ckpt, "none", "list"]
        assert len(ckpt) == 4 and "params/w" in ckpt and "none" not in ckpt and "x" not in ckpt
        assert ckpt.get("x") is None and {name: lazy.kind for name, lazy in ckpt.items()}["step"] == "int"
        assert ckpt.value("step") == ckpt["step"].value() == 2**70 and ckpt.value("name") == "é"
        assert ckpt.value("none") is None and ckpt.value("list") == []
        same(tree["params"]["w"], ckpt.value("params/w"))  # type: ignore[index]
        assert ckpt.step == 4 and ckpt.metadata == {"a": [1, 2]} and len(ckpt.id) == 32 and ckpt.path == str(path)
        assert "params/w" in repr(ckpt)
        with pytest.raises(KeyError, match="it holds 'params/w'"):
            ckpt["param/w"]
        lazy = ckpt["params/w"]
    with pytest.raises(ValueError, match="closed"):
        lazy[0]


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_every_dtype(path: Path, dtype: np.dtype[Any]) -> None:
    tree = {"a": array(dtype, (9, 8)), "b": array(dtype, ())}
    ostraca.save(path, tree)
    with ostraca.open(path) as ckpt:
        same(tree["a"][2:8:3, ::-1], ckpt["a"][2:8:3, ::-1])
        same(tree["b"], ckpt["b"][...])
        same(tree["a"], np.asarray(ckpt["a"]))


def test_slices_own_their_memory(path: Path) -> None:
    ostraca.save(path, {"a": array("f4", (1000, 1000)), "b": array(ml_dtypes.bfloat16, (3,))})
    with ostraca.open(path) as ckpt:
        assert ckpt["a"][::100, ::100].base is None
        small = ckpt["b"][1:]
    small[:] = 0  # neither shared nor read-only
