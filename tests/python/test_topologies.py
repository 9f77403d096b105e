"""Saved by four processes, loaded by four others with other shardings, by two and by one; each with one device.

This file is also the script of the processes. Their arrays say where each element is from.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")
pytest.importorskip("ostraca.jax.saving")
pytest.importorskip("ostraca.jax.loading")

import ostraca  # noqa: E402
from processes import Processes, join  # noqa: E402

READ_SHARE_MAX = 1.25  # of the checkpoint, by all processes together, where rows were written and columns are read
SHAPE = (2048, 1024)  # 8 MiB: enough for chunks that fit other meshes
NAMES = ["rows", "columns", "both", "replicated"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("topologies") / "checkpoint"
    with Processes(__file__, 4, "save", path) as run:
        outputs = run.wait()
    assert [process.returncode for process in run.all] == [0] * 4, outputs
    return path


def test_plain_arrays_without_jax(saved: Path) -> None:
    tree = ostraca.load(saved)
    for name in NAMES:
        assert tree[name].tobytes() == expected(name).tobytes()
    assert tree["host"].tolist() == [1, 2, 3] and tree["step"] == 7 and tree["scalar"] == 2.5
    assert ostraca.verify(saved, deep=True).ok


@pytest.mark.parametrize("count", [4, 2, 1])
def test_any_number_of_processes_loads_it(saved: Path, count: int) -> None:
    with Processes(__file__, count, "load", saved) as run:
        outputs = run.wait()
    assert [process.returncode for process in run.all] == [0] * count, outputs
    read = sum(int(line.split()[1]) for output in outputs for line in output.splitlines() if line.startswith("read "))
    stored = sum(file.stat().st_size for file in saved.glob("p0*.ostraca"))
    print(f"{count} processes read {read / stored:.3f} of the checkpoint")
    assert 0 < read <= READ_SHARE_MAX * stored


# --- In the processes -------------------------------------------------------------------------------------------------


def expected(name: str) -> np.ndarray:
    return np.random.default_rng(NAMES.index(name)).normal(size=SHAPE).astype(np.float32)


def sharding(kind: str) -> Any:
    """Over all devices of all processes, in a mesh as square as it gets."""
    devices = np.array(jax.devices())
    square = devices.reshape(2, -1) if len(devices) > 1 else devices.reshape(1, 1)
    mesh = jax.sharding.Mesh(square, ("x", "y"))
    specs = {"rows": (("x", "y"), None), "columns": (None, ("x", "y")), "both": ("x", "y"), "replicated": ()}
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*specs[kind]))


def save(path: Path) -> None:
    import ostraca.jax.saving

    tree: dict[str, Any] = {
        name: jax.make_array_from_callback(SHAPE, sharding(name), expected(name).__getitem__) for name in NAMES
    }
    tree |= {"host": np.array([1, 2, 3]), "step": 7, "scalar": jax.numpy.float32(2.5)}
    info = ostraca.jax.saving.save(path, tree, step=7)
    assert info.step == 7 and info.logical_bytes >= 4 * expected("rows").nbytes


def load(path: Path) -> None:
    """With another sharding for each than it was saved with."""
    from ostraca.jax import loading

    read: list[int] = []

    class Counting(loading.Reader):  # type: ignore[misc, name-defined]
        def close(self) -> None:
            read.append(self.statistics()["bytes_read"])
            super().close()

    loading.Reader = Counting  # type: ignore[misc]
    kinds = dict(zip(NAMES, NAMES[1:] + NAMES[:1], strict=True))
    kinds["replicated"], kinds["both"] = "columns", "rows"  # a replicated target would have all read all
    like: dict[str, Any] = {
        name: jax.ShapeDtypeStruct(SHAPE, np.float32, sharding=sharding(kind)) for name, kind in kinds.items()
    }
    like |= {"host": np.zeros(3, int), "step": 0, "scalar": jax.ShapeDtypeStruct((), np.float32)}
    tree = loading.load(path, like=like)
    for name in NAMES:
        assert tree[name].sharding == like[name].sharding
        for shard in tree[name].addressable_shards:
            assert np.array_equal(np.asarray(shard.data), expected(name)[shard.index]), name
    assert tree["host"].tolist() == [1, 2, 3] and tree["step"] == 7 and float(tree["scalar"]) == 2.5
    print("read", sum(read))


if __name__ == "__main__":
    if int(sys.argv[2]) > 1:
        join(*map(int, sys.argv[1:4]))
    {"save": save, "load": load}[sys.argv[4]](Path(sys.argv[5]))
    jax.distributed.shutdown()
