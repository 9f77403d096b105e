"""Loads of several processes: all return, or none does. This file is also the script of the processes."""

import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import ostraca  # noqa: E402
import ostraca.jax  # noqa: E402
from ostraca.jax import loading  # noqa: E402
from processes import Processes, join, leave  # noqa: E402


def test_agreed_loads(tmp_path: Path) -> None:
    with Processes(__file__, 2, tmp_path / "c") as run:
        outputs = run.wait()
    assert [process.returncode for process in run.all] == [0, 0], outputs
    assert all("done" in output for output in outputs), outputs


def program(path: Path, process: int) -> None:
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("x",))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    values = np.random.default_rng(0).standard_normal((4, 1 << 20), np.float32)
    tree: dict[str, Any] = {
        "w": jax.make_array_from_callback(values.shape, split, values.__getitem__),
        "loader": ostraca.PerProcess({"position": process * 10, "state": np.arange(process, process + 3)}),
    }
    ostraca.jax.save(path, tree)
    like = {"w": split, "loader": ostraca.PerProcess({"position": 0, "state": np.zeros(3, int)})}
    check(ostraca.jax.load(path, like=like), values, process)

    # One of them asks for what is not there: it is told so, and the other that it was so.
    wrong = {**like, "more": np.zeros(3)} if process == 1 else like
    expect(ostraca.MismatchError if process == 1 else ostraca.CoordinationError, path, wrong, "'more': not stored")

    # The other is told in the middle of its work.
    loading.GROUP_BYTES = 1 << 20
    more = {**like, "w": jax.sharding.SingleDeviceSharding(jax.local_devices()[0])} if process == 0 else wrong
    calls = iter([3.0])  # seconds
    kind = ostraca.MismatchError if process == 1 else ostraca.CoordinationError
    expect(kind, path, more, "'more': not stored", lambda *_: time.sleep(next(calls, 0.0)))
    assert process == 1 or next(calls, None) is None

    # One of them reads damage, while the other has all it needs.
    jax.experimental.multihost_utils.sync_global_devices("told")  # the other has stopped reading
    (file,) = path.glob("p00001-*.ostraca")
    if process == 1:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.with_suffix(".new").write_bytes(data)
        file.with_suffix(".new").rename(file)
    jax.experimental.multihost_utils.sync_global_devices("damaged")
    expect(ostraca.CorruptionError if process == 1 else ostraca.CoordinationError, path, like, "CRC|checksum")
    print("done", flush=True)


def check(out: Any, values: np.ndarray, process: int) -> None:
    for shard in out["w"].addressable_shards:
        assert np.array_equal(np.asarray(shard.data), values[shard.index])
    assert out["loader"].value["position"] == process * 10
    assert out["loader"].value["state"].tolist() == list(range(process, process + 3))


def expect(kind: type[Exception], path: Path, like: Any, words: str, progress: Any = None) -> None:
    try:
        ostraca.jax.load(path, like=like, timeout=20, progress=progress)
    except kind as error:
        assert re.search(words, str(error)), error
        assert kind is not ostraca.CoordinationError or "process 1" in str(error), error
    else:
        raise AssertionError("it was loaded")


if __name__ == "__main__":
    join(*map(int, sys.argv[1:4]))
    program(Path(sys.argv[4]), int(sys.argv[1]))
    jax.experimental.multihost_utils.sync_global_devices("end")
    leave()
