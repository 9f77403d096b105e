"""`ostraca.jax.save` and `save_async` in one process, on 8 simulated devices."""

import gc
import itertools
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ostraca
from ostraca import CancelledError, UnsupportedError
from ostraca.sharded.budget import UNFINISHED_BYTES, Budget

jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402

import ostraca.jax  # noqa: E402
from ostraca.jax import collecting, staging  # noqa: E402

MESHES: dict[tuple[int, ...], tuple[str, ...]] = {(8,): ("x",), (4, 2): ("x", "y"), (2, 4): ("x", "y"),
                                                  (2, 2, 2): ("x", "y", "z"), (1,): ("x",)}  # fmt: skip


def mesh(shape: tuple[int, ...]) -> Mesh:
    """Skips the test where there are fewer devices: on a machine with one GPU, what needs no more runs on that."""
    count = int(np.prod(shape))
    if count > jax.device_count():
        pytest.skip(f"needs {count} devices; JAX has {jax.device_count()} of platform {jax.default_backend()}")
    return Mesh(np.array(jax.devices()[:count]).reshape(shape), MESHES[shape])


def specs(shape: tuple[int, ...]) -> list[Any]:
    """Rows, columns, mixed, replicated."""
    names = MESHES[shape]
    return [("x",), (None, names), (names[-1], names[0]) if len(names) > 1 else ("x", None), ()]


@pytest.fixture(params=[False, True], ids=["host", "device"])
def devices(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether arrays take the way of accelerators' memory."""
    if request.param:
        monkeypatch.setattr(collecting, "is_staged", lambda array: True)
    return bool(request.param)


@pytest.mark.parametrize("shape", MESHES)
def test_meshes_and_specs(tmp_path: Path, shape: tuple[int, ...], devices: bool) -> None:
    values = np.random.default_rng(0).normal(size=(64, 48)).astype(np.float32)
    for i, spec in enumerate(specs(shape)):
        array = jax.device_put(values, NamedSharding(mesh(shape), PartitionSpec(*spec)))
        info = ostraca.jax.save(tmp_path / str(i), {"a": array, "b": array.astype(jnp.bfloat16)})
        assert info.logical_bytes == values.nbytes * 3 // 2  # each box once, replicas not at all
        back = ostraca.load(tmp_path / str(i))
        assert back["a"].tobytes() == values.tobytes()
        assert back["b"].tobytes() == np.asarray(jnp.asarray(values, jnp.bfloat16)).tobytes()


def test_all_kinds_of_leaves_in_their_order(path: Path, devices: bool) -> None:
    rows = NamedSharding(mesh((8,)), PartitionSpec("x"))
    columns = NamedSharding(mesh((8,)), PartitionSpec(None, "x"))
    tree = {
        "numpy": np.arange(5.0),
        "int4": jnp.arange(-8, 8, dtype=jnp.int4),
        "int4 sharded": jax.device_put(jnp.arange(-8, 8, dtype=jnp.int4), rows),
        "float8": jnp.arange(4, dtype=jnp.float8_e4m3fn),
        "scalar": jnp.float32(2.5),
        "empty": jnp.zeros((0, 4), jnp.int8),
        "empty sharded": jax.device_put(np.zeros((0, 8), np.int8), columns),
        "key": jax.random.key(1),
        "keys": jax.device_put(jax.random.split(jax.random.key(2, impl="rbg"), 8), rows),
        "python": [1, (2.5, "text", b"bytes", True, None), {}],
        "own": ostraca.PerProcess({"seed": 3}),
        7: jnp.ones(3),
    }
    ostraca.jax.save(path, tree)
    back = ostraca.load(path)
    assert list(back) == list(tree)
    for name in ("numpy", "int4", "int4 sharded", "float8", "scalar", "empty", "empty sharded", 7):
        expected = np.asarray(tree[name])
        assert back[name].dtype == expected.dtype and back[name].shape == expected.shape
        assert back[name].tobytes() == expected.tobytes(), name
    for name in ("key", "keys"):
        assert back[name].dtype == tree[name].dtype
        assert (jax.random.key_data(back[name]) == jax.random.key_data(tree[name])).all()
    assert back["python"] == tree["python"] and back["own"] == {0: {"seed": 3}}
    assert ostraca.verify(path, deep=True).ok


def test_what_cannot_be_stored_is_named(path: Path) -> None:
    deleted = jnp.ones(3)
    deleted.delete()
    for leaf, match in [(deleted, "deleted"), (object(), "no array"), (jax.nn.relu, "functions")]:
        with pytest.raises(UnsupportedError, match=f"'a/b'.*{match}"):
            ostraca.jax.save(path, {"a": {"b": leaf}})
    assert not path.exists()


def test_errors_are_those_of_plain_saves(path: Path) -> None:
    ostraca.jax.save(path, {"a": 1}, step=3)
    with pytest.raises(ostraca.ExistsError):
        ostraca.jax.save_async(path, {"a": jnp.ones(3)})
    with pytest.raises(ValueError, match="codec"):
        ostraca.jax.save(path, {"a": 1}, codec="zip")
    assert ostraca.jax.save(path, {"a": 2}, overwrite=True).step is None


def test_arguments_are_those_of_plain_saves() -> None:
    import inspect

    for name, more in (("save", []), ("save_async", ["ready"])):
        plain = inspect.signature(getattr(ostraca, name)).parameters
        ours = inspect.signature(getattr(ostraca.jax, name)).parameters
        assert list(ours.values())[: len(plain)] == list(plain.values())
        assert list(ours)[len(plain) :] == ["timeout", "pinned_host", *more]


def test_what_a_save_keeps(tmp_path: Path) -> None:
    state = {"w": jnp.arange(4 << 20, dtype=jnp.float32), "n": np.arange(1 << 20)}
    handle = ostraca.jax.save_async(tmp_path / "0", state, keep_bytes=64 << 20)
    with handle.snapshot() as base:
        assert base.kept_bytes == (16 << 20) + (8 << 20)
        info = ostraca.jax.save(tmp_path / "1", state | {"w": state["w"] + 1}, base=base)
    assert info.referenced_bytes > 0
    np.testing.assert_array_equal(ostraca.load(tmp_path / "1")["w"], np.arange(4 << 20, dtype=np.float32) + 1)


def test_a_donating_loop(tmp_path: Path) -> None:
    """Every checkpoint holds its step's values, though their memory is offered to the next step at once."""
    state = {"w": jnp.zeros((64, 2048)), "n": jnp.int32(0), "b": jnp.zeros((8, 8), jnp.bfloat16)}
    specs = {"w": PartitionSpec("x", "y"), "n": PartitionSpec(), "b": PartitionSpec("y")}
    shardings = {name: NamedSharding(mesh((4, 2)), spec) for name, spec in specs.items()}
    state = jax.device_put(state, shardings)
    step = jax.jit(lambda state: {name: x + 1 for name, x in state.items()}, donate_argnums=0, out_shardings=shardings)
    handles = []
    for number in range(200):
        handles.append(ostraca.jax.save_async(tmp_path / str(number), state, step=number))
        state = step(state)
        if len(handles) > 3:
            handles[-4].result()
    for number, handle in enumerate(handles):
        assert handle.result().step == number
        back = ostraca.load(tmp_path / str(number))
        assert back["n"] == number and (back["w"] == number).all()
        assert (back["b"] == np.float32(number).astype(back["b"].dtype)).all()


def test_nothing_holds_the_arrays_afterwards(tmp_path: Path, devices: bool) -> None:
    """So that a step after the save may take their memory."""
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    for spec in (("x",), ()):
        state = jax.jit(lambda x: x * 2)(jax.device_put(np.ones((8, 4096), np.float32), NamedSharding(
            mesh((8,)), PartitionSpec(*spec))))  # fmt: skip
        places = {shard.data.unsafe_buffer_pointer() for shard in state.addressable_shards}
        ostraca.jax.save_async(tmp_path / f"{spec}", {"a": state}).result()
        gc.collect()
        state = step(state)
        assert {shard.data.unsafe_buffer_pointer() for shard in state.addressable_shards} == places


def test_the_callers_chunk_shape(path: Path) -> None:
    array = jax.device_put(np.ones((64, 1024), np.float32), NamedSharding(mesh((8,)), PartitionSpec(None, "x")))
    ostraca.jax.save(path, {"a": array}, chunk_shape=(16, 1000))
    with ostraca.Reader(path) as reader:
        assert {chunk.shape for chunk in reader.chunks("a")} == {(16, 128)}
    ostraca.jax.save(path, {"a": jnp.ones((64, 1024))}, chunk_shape=(16, 1000), overwrite=True)
    with ostraca.Reader(path) as reader:
        assert {chunk.shape for chunk in reader.chunks("a")} == {(16, 1000), (16, 24)}


# --- Arrays on accelerators -------------------------------------------------------------------------------------------


class Watched:
    """Counts the bytes of copies that are alive, as `Budget` is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.most = self.now = 0
        self._lock = threading.Lock()
        take, give = Budget.take, Budget.give

        def counted_take(budget: Budget, count: int, writer: Any) -> None:
            take(budget, count, writer)
            with self._lock:
                self.now += count
                self.most = max(self.most, self.now)

        def counted_give(budget: Budget, count: int) -> None:
            with self._lock:
                self.now -= count
            give(budget, count)

        monkeypatch.setattr(Budget, "take", counted_take)
        monkeypatch.setattr(Budget, "give", counted_give)


@pytest.fixture
def staged(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(collecting, "is_staged", lambda array: True)
    yield


@pytest.mark.parametrize("sizes", [[12] * 12, [100, 100], [1] * 100, [0.03] * 300 + [70, 5, 70]], ids=str)
def test_the_budget_bounds_what_is_copied(
    path: Path, staged: None, monkeypatch: pytest.MonkeyPatch, sizes: list[float]
) -> None:
    """Sizes in MiB. An array that is larger than the budget goes alone."""
    watched = Watched(monkeypatch)
    rng = np.random.default_rng(0)
    tree = [jax.device_put(rng.integers(0, 256, int(size * (1 << 20)), np.uint8)) for size in sizes]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        handle = ostraca.jax.save_async(path, tree, staging_bytes=1)
    info = handle.result(60)
    assert watched.now == 0
    limit, largest = 64 << 20, int(max(sizes) * (1 << 20))
    assert watched.most <= max(limit, largest + UNFINISHED_BYTES)
    assert info.logical_bytes == sum(array.nbytes for array in tree)
    for array, back in zip(tree, ostraca.load(path), strict=True):
        assert np.array_equal(array, back)


def test_copies_are_started_ahead(path: Path, staged: None, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    start = staging.start_copy

    def noted(data: Any, pinned: bool = False) -> Any:
        events.append("start")
        return start(data, pinned)

    monkeypatch.setattr(staging, "start_copy", noted)
    spec = staging.Staged.spec
    monkeypatch.setattr(
        staging.Staged, "spec", lambda leaf, memory: (events.append("add"), spec(leaf, memory))[1]  # type: ignore[func-returns-value]
    )  # fmt: skip
    ostraca.jax.save(path, {str(i): jnp.full((1 << 20,), i, jnp.float32) for i in range(10)})
    assert events == ["start"] * 10 + ["add"] * 10


def test_copied_means_that_all_copies_were_made(path: Path, staged: None, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    start = staging.start_copy
    monkeypatch.setattr(staging, "start_copy", lambda *arguments: (go.wait(), start(*arguments))[1])
    handle = ostraca.jax.save_async(path, {"a": jnp.ones(1 << 20), "b": np.ones(3)}, return_early=True)
    with pytest.raises(TimeoutError):
        handle.wait_copied(0.05)
    assert not handle.copied() and not handle.done()
    go.set()
    handle.wait_copied(10)
    assert handle.result(10).arrays == 2


def test_a_feed_that_fails_fails_the_save(path: Path, staged: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> Any:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(staging, "start_copy", failing)
    with pytest.raises(RuntimeError, match="gone"):
        ostraca.jax.save_async(path, {"a": jnp.ones(3)})
    with pytest.raises(RuntimeError, match="gone"):
        ostraca.jax.save(path, {"a": jnp.ones(3)})
    assert not path.exists()


def test_cancel_while_copies_wait(path: Path, staged: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Budget, "give", lambda budget, count: None)  # the disk is stuck
    tree = [jnp.full((10 << 20,), i, jnp.uint8) for i in range(20)]
    handle = ostraca.jax.save_async(path, tree, staging_bytes=1, return_early=True)
    assert handle.cancel()
    with pytest.raises(CancelledError):
        handle.result(10)
    assert not path.exists()


def test_training_arrays_keep_no_host_copies(path: Path, staged: None) -> None:
    arrays = [jax.jit(lambda i=i: jnp.full((64, 4096), i, jnp.int4))() for i in range(3)]  # unpacked: a copy
    ostraca.jax.save(path, arrays)
    assert all(array._npy_value is None for array in arrays)


def test_pinned_host_memory(path: Path, staged: None) -> None:
    kinds = {memory.kind for memory in jax.devices()[0].addressable_memories()}
    if "pinned_host" not in kinds:
        pytest.skip(f"this device has memories {sorted(kinds)} only")
    array = jax.device_put(np.arange(64.0), NamedSharding(mesh((8,)), PartitionSpec("x")))
    ostraca.jax.save(path, {"a": array}, pinned_host=True)
    assert np.array_equal(ostraca.load(path)["a"], array)


def test_progress_while_copies_are_made(path: Path, staged: None) -> None:
    seen: list[tuple[int, int]] = []
    tree = [jnp.full((1 << 20,), i, jnp.float32) for i in range(10)]
    ostraca.jax.save(path, tree, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == 40 << 20 and {total for _, total in seen} == {40 << 20}
    assert all(a <= b for (a, _), (b, _) in itertools.pairwise(seen))
