"""`ostraca.jax.save` of three processes with one device each: whose leaves are stored, and what must be alike.

This file is also the script of the processes.
"""

import functools
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import ostraca  # noqa: E402
import ostraca.jax  # noqa: E402
from processes import join, run_all  # noqa: E402

COUNT = 3
LATE_SECONDS = 3.0
ROWS = np.arange(6 * 4, dtype=np.float32).reshape(6, 4)


run = functools.partial(run_all, __file__, COUNT)


def test_all_kinds_of_leaves(path: Path) -> None:
    run("kinds", path)
    back = ostraca.load(path)
    assert " ".join(back) == "z rows replicated last keys own empty local numpy strings python"
    for name in ("rows", "replicated"):
        assert back[name].tobytes() == ROWS.tobytes()
    assert back["last"].tobytes() == (ROWS + 1).tobytes()  # which process 0 holds nothing of
    assert (jax.random.key_data(back["keys"]) == jax.random.key_data(jax.random.split(jax.random.key(0), 6))).all()
    assert [own.pop("seen").tolist() for own in back["own"].values()] == [[b"seen", b"x" * i] for i in range(COUNT)]
    assert back["own"] == {i: {"rank": i, "rng": i * 10} for i in range(COUNT)}
    assert back["strings"].tolist() == [b"a", b"", b"b\0"]
    assert back["empty"].shape == (0, 3) and back["local"] == 7 and back["z"] == 1
    assert back["numpy"].tolist() == [1, 2] and back["python"] == [None, "text", {}]
    assert ostraca.verify(path, deep=True).ok


@pytest.mark.parametrize("what", ["value", "name", "dtype"])
def test_trees_that_differ(path: Path, what: str) -> None:
    for output in run("differ", path, what):
        assert output.startswith("MismatchError"), output
        assert "'a/b'" in output and "PerProcess" in output if what == "value" else "'a/" in output
    assert not path.exists()


def test_an_error_of_one_is_the_error_of_all(path: Path) -> None:
    outputs = run("refused", path)
    assert outputs[2].startswith("UnsupportedError: cannot store 'a'")
    for output in outputs[:2]:
        assert output.startswith("CoordinationError") and "process 2" in output and "cannot store 'a'" in output
    assert ostraca.load(path) == {"after": 5}  # and the next save is one of all again


def test_each_process_has_its_own_stall(path: Path) -> None:
    """Process 0 comes late; the others wait for it."""
    first, *others = (float(output.split()[1]) for output in run("stall", path))
    assert first < LATE_SECONDS / 2
    assert all(seconds > LATE_SECONDS / 2 for seconds in others), others


# --- In the processes -------------------------------------------------------------------------------------------------


def kinds(path: Path) -> None:
    index = jax.process_index()
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("x",))
    last = jax.sharding.Mesh(np.array(jax.devices()[1:]), ("x",))

    def put(values: Any, mesh: Any, *spec: Any) -> Any:
        sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
        return jax.make_array_from_callback(values.shape, sharding, values.__getitem__, dtype=values.dtype)

    keys = jax.random.key_data(jax.random.split(jax.random.key(0), 6))
    tree = {
        "z": 1,
        "rows": put(ROWS, mesh, "x"),
        "replicated": put(ROWS, mesh),
        "last": put(ROWS + 1, last, "x"),
        "keys": jax.random.wrap_key_data(put(np.asarray(keys), mesh, "x")),
        "own": ostraca.PerProcess(
            {
                "rank": index,
                "seen": np.array([b"seen", b"x" * index], object),
                "rng": jax.numpy.int32(index * 10),
            }
        ),
        "empty": put(np.zeros((0, 3), np.int8), mesh),
        "local": jax.numpy.int32(7),
        "numpy": np.array([1, 2]),
        "strings": np.array([b"a", b"", b"b\0"], object),
        "python": [None, "text", {}],
    }
    ostraca.jax.save_async(path, tree).result()


def differ(path: Path, what: str) -> None:
    other = jax.process_index() == 1
    leaf = np.arange(4, dtype=np.int16 if other and what == "dtype" else np.int32)
    leaf[0] += other and what == "value"
    try:
        ostraca.jax.save(path, {"a": {"c" if other and what == "name" else "b": leaf}})
    except ostraca.OstracaError as error:
        print(f"{type(error).__name__}: {error}")


def refused(path: Path) -> None:
    try:
        ostraca.jax.save(path, {"a": object() if jax.process_index() == 2 else 3})
    except ostraca.OstracaError as error:
        print(f"{type(error).__name__}: {error}")
    ostraca.jax.save(path, {"after": 5})


def stall(path: Path) -> None:
    ostraca.jax.save(path / "0", {"a": 1})  # what is loaded at first takes no time now
    if jax.process_index() == 0:
        time.sleep(LATE_SECONDS)
    print("stalled", ostraca.jax.save_async(path / "1", {"a": 1}).result().stall_seconds)


if __name__ == "__main__":
    join(*map(int, sys.argv[1:4]))
    {"kinds": kinds, "differ": differ, "refused": refused, "stall": stall}[sys.argv[4]](
        Path(sys.argv[5]), *sys.argv[6:]
    )
    jax.distributed.shutdown()
