"""What was saved from one mesh comes back on any other: exactly, and each chunk decoded once."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

jax = pytest.importorskip("jax")
if len(jax.devices()) < 8:
    pytest.skip("needs 8 devices", allow_module_level=True)

from jax.sharding import PartitionSpec as P  # noqa: E402

import ostraca  # noqa: E402
import ostraca.jax  # noqa: E402
import topologies  # noqa: E402
from ostraca.jax import loading  # noqa: E402


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "Reader", topologies.Counted)


def test_every_pair_of_meshes(tmp_path: Path) -> None:
    pairs = list(topologies.measure(tmp_path, (512, 384), (40, 100)))
    assert len(pairs) == len(list(topologies.topologies())) ** 2
    assert [pair for pair in pairs if not (pair.exact and pair.once)] == []
    assert max(pair.one_process for pair in pairs) <= 1.05
    aligned = [pair for pair in pairs if pair.is_aligned]
    assert len(aligned) > len(pairs) // 4
    assert max(pair.each_alone for pair in aligned) <= 1.05


@pytest.mark.parametrize("chunk_shape", [None, (48, 4096), (64, 64)], ids=["default", "across", "tiles"])
def test_a_large_array_is_read_in_parts(
    tmp_path: Path, chunk_shape: tuple[int, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Boxes without a common chunk may be read apart; with one they may not."""
    monkeypatch.setattr(loading, "GROUP_BYTES", 64 << 10)
    monkeypatch.setattr(loading, "STAGING_BYTES", 128 << 10)
    monkeypatch.setattr(loading, "SMALL_BYTES", 4 << 10)
    values = np.random.default_rng(0).standard_normal((512, 256), np.float32)
    ostraca.save(tmp_path / "c", {"a": values, "b": values + 1}, chunk_shape=chunk_shape)
    for mesh, spec in (((8,), P("x")), ((8,), P(None, "x")), ((4, 2), P("x", "y")), ((4, 2), P("x"))):
        target = topologies.sharding(mesh, spec)
        result = ostraca.jax.load(tmp_path / "c", like=target)
        np.testing.assert_array_equal(np.asarray(result["a"]), values)
        np.testing.assert_array_equal(np.asarray(result["b"]), values + 1)
        assert topologies.Counted.last["chunks_decoded"] == topologies.stored_extents(tmp_path / "c")


@pytest.mark.parametrize("is_sharded", [False, True])
def test_packs_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_sharded: bool) -> None:
    """Though there are arrays in more than one group, and among them some that are in no pack."""
    monkeypatch.setattr(loading, "GROUP_BYTES", 4 << 20)
    rng = np.random.default_rng(0)
    dtypes = [np.float32, np.float16]
    names = [f"{i:04}" for i in rng.permutation(700)]  # packs are by name, whatever the tree's order
    tree = {name: rng.standard_normal(8 * int(rng.integers(1, 4000))).astype(dtypes[int(name) % 2]) for name in names}
    target = topologies.sharding((8,), P("x"))
    if is_sharded:
        ostraca.jax.save(tmp_path / "c", jax.device_put(tree, target))
    else:
        ostraca.save(tmp_path / "c", tree)
    result = ostraca.jax.load(tmp_path / "c", like=target)
    assert all((np.asarray(result[name]) == tree[name]).all() for name in tree)
    assert topologies.stored_extents(tmp_path / "c") > 10
    assert topologies.Counted.last["chunks_decoded"] == topologies.stored_extents(tmp_path / "c")


@st.composite
def cases(draw: st.DrawFn) -> tuple[tuple[int, ...], list[tuple[tuple[int, ...], P]], tuple[int, ...] | None]:
    """A shape, two meshes with specs for it, and the chunks' shape."""
    shape = tuple(8 * draw(st.integers(0, 5)) for _ in range(draw(st.integers(1, 3))))
    placed = []
    for _ in range(2):
        mesh = draw(st.sampled_from(topologies.MESHES))
        names = draw(st.permutations(topologies.AXES[: len(mesh)]))
        cuts = sorted(draw(st.lists(st.integers(0, len(mesh)), min_size=len(shape), max_size=len(shape))))
        axes = [tuple(names[a:b]) or None for a, b in zip([0, *cuts], cuts, strict=False)]
        placed.append((mesh, P(*axes)))
    chunk = draw(st.none() | st.just(tuple(draw(st.integers(1, 40)) for _ in shape)))
    return shape, placed, chunk


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases(), dtype=st.sampled_from(["float32", "int8", "complex64", "bfloat16"]), number=st.integers(0, 10**9))
def test_any_to_any(tmp_path: Path, case: tuple, dtype: str, number: int) -> None:
    shape, ((mesh, spec), (other_mesh, other_spec)), chunk = case
    values = np.random.default_rng(number).integers(-99, 99, shape).astype(jax.numpy.dtype(dtype))
    source, target = topologies.sharding(mesh, spec), topologies.sharding(other_mesh, other_spec)
    path = tmp_path / f"{number}-{len(list(tmp_path.iterdir()))}"
    ostraca.jax.save(path, {"w": jax.device_put(values, source)}, chunk_shape=chunk)
    result = ostraca.jax.load(path, like={"w": jax.ShapeDtypeStruct(shape, dtype, sharding=target)})["w"]
    assert result.sharding == target and result.dtype == dtype
    assert np.asarray(result).tobytes() == values.tobytes()
    if math.prod(shape):
        assert topologies.Counted.last["chunks_decoded"] == topologies.stored_extents(path)
