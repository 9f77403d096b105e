"""Arrays of which one process holds all, and the others a handle alone: saved from there, restored there.

Three processes with one device each. This file is also their script.
"""

import functools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import ostraca  # noqa: E402
import ostraca.jax  # noqa: E402
from processes import join, run_all  # noqa: E402

COUNT = 3
VALUES = np.random.default_rng(0).standard_normal((6, 1 << 16), np.float32)


run = functools.partial(run_all, __file__, COUNT)


def test_they_are_saved_and_restored(path: Path) -> None:
    run("saved", path)
    assert ostraca.verify(path, deep=True).ok
    back = ostraca.load(path)
    names = ["first", "before", "on 0", "on 1", "on 2", "single", "scalar", "keys", "local", "shared", "last"]
    assert [name for name in back if name != "scalar"] == [name for name in names if name != "scalar"]
    for process in range(COUNT):
        assert np.array_equal(back[f"on {process}"], VALUES + process)
    assert np.array_equal(back["single"], VALUES * 2) and back["scalar"] == 5 and back["local"] == 7
    assert (jax.random.key_data(back["keys"]) == jax.random.key_data(jax.random.split(jax.random.key(3), 4))).all()
    for name in ("before", "shared", "last"):
        assert np.array_equal(back[name], VALUES)
    with ostraca.Reader(path) as reader:  # each by the process that holds it, and nothing twice
        assert sum(file.stat().st_size for file in path.iterdir()) < 1.1 * sum(a.nbytes for a in reader.arrays())


@pytest.mark.parametrize("what", ["handle", "value"])
def test_what_is_not_alike_is_named(path: Path, what: str) -> None:
    for output in run("differ", path, what):
        assert output.startswith("MismatchError") and "'x'" in output, output
        assert ("of process 1 in process 0" if what == "handle" else "PerProcess") in output
    assert not path.exists()


# --- In the processes -------------------------------------------------------------------------------------------------


def on(process: int, values: np.ndarray) -> Any:
    """In all processes: a global array on devices of one of them."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[process : process + 1]), ("x",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return jax.make_array_from_callback(values.shape, sharding, values.__getitem__, dtype=values.dtype)


def everywhere(values: np.ndarray) -> Any:
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("x",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return jax.make_array_from_callback(values.shape, sharding, values.__getitem__)


def saved(path: Path) -> None:
    single = jax.sharding.SingleDeviceSharding(jax.devices()[2])
    keys = np.asarray(jax.random.key_data(jax.random.split(jax.random.key(3), 4)))
    doubled = VALUES * 2
    tree = {
        "first": 1,
        "before": everywhere(VALUES),
        **{f"on {process}": on(process, VALUES + np.float32(process)) for process in range(COUNT)},
        "single": jax.make_array_from_callback(VALUES.shape, single, doubled.__getitem__, dtype=np.float32),
        "scalar": on(1, np.array(5, np.int32)),
        "keys": jax.random.wrap_key_data(on(2, keys)),
        "local": jax.numpy.int32(7),
        "shared": everywhere(VALUES),  # whose shares all have to see alike
        "last": everywhere(VALUES),
    }
    ostraca.jax.save_async(path, tree).result()
    back = ostraca.jax.load(path, like=tree)
    elsewhere = ostraca.jax.load(path, like={**tree, "on 1": tree["on 2"], "single": tree["on 0"]})
    for out, holder, values in ((back, 1, VALUES + 1), (elsewhere, 2, VALUES + 1)):
        assert {device.process_index for device in out["on 1"].devices()} == {holder}
        shards = out["on 1"].addressable_shards
        assert len(shards) == (jax.process_index() == holder)
        assert all(np.array_equal(shard.data, values) for shard in shards)


def differ(path: Path, what: str) -> None:
    leaf = on(1, VALUES)  # in process 2 one of its own; or in process 1 alone another value of what each has
    if what == "value":
        leaf = jax.numpy.int32(jax.process_index() == 1)
    elif jax.process_index() == 2:
        leaf = jax.numpy.asarray(VALUES)
    try:
        ostraca.jax.save(path, {"x": leaf})
    except ostraca.OstracaError as error:
        print(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    join(*map(int, sys.argv[1:4]))
    {"saved": saved, "differ": differ}[sys.argv[4]](Path(sys.argv[5]), *sys.argv[6:])
    jax.distributed.shutdown()
