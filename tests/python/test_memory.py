"""Memory that cannot be had: a MemoryError that says how much was wanted and what takes less; nobody waits for ever."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ostraca

MIB = 1 << 20


def run(program: str, *arguments: object, seconds: float = 100) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds)


@pytest.fixture
def tied(path: Path) -> Path:
    """A few bytes on disk that load as 64 times the machine's memory."""
    array = np.zeros(4 * MIB, np.uint8)
    lines = Path("/proc/meminfo").read_text().splitlines()
    kib = next(int(line.split()[1]) for line in lines if line.startswith("MemTotal:"))
    ostraca.save(path, [array] * (kib * 64 // 4096))
    return path


def test_more_than_the_memory_there_is_is_refused(tied: Path) -> None:
    program = """
import sys, ostraca
try:
    ostraca.load(sys.argv[1], progress=lambda *_: sys.exit("it was begun"))
except MemoryError as error:
    print(error)
"""
    done = run(program, tied)
    assert done.returncode == 0, done.stderr
    assert re.search(r"new arrays would take [\d,]+ bytes of memory, and [\d,]+ are available", done.stdout)
    assert "max_bytes=" in done.stdout and "select=" in done.stdout and str(tied) in done.stdout


def test_what_is_there_already_counts_for_nothing(tied: Path) -> None:
    place = np.ones(4 * MIB, np.uint8)
    assert not ostraca.load(tied, into={0: place}, select="0")[0].any()


LIMITED = """
import resource, sys, numpy as np, ostraca
before = next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, (before + (40 << 20), before + (40 << 20)))
path, kind = sys.argv[1:]
try:
    if kind == "load":
        ostraca.load(path)
    elif kind == "save":
        ostraca.save(path + "2", [np.arange(20 << 17)] * 2, threads=1)
    elif kind == "slice":
        ostraca.open(path)["w"][1:]
    else:
        from ostraca import _core
        _core.allocate(1 << 40)
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(("kind", "wanted"), [("load", 100 * MIB), ("slice", 100 * MIB - 8), ("allocate", 1 << 40)])
def test_what_the_system_refuses_is_a_memory_error(path: Path, kind: str, wanted: int) -> None:
    ostraca.save(path, {"w": np.zeros(100 * MIB // 8)})
    done = run(LIMITED, path, kind)
    assert done.stdout.startswith(
        f"MemoryError an array (load less at a time, or into= memory that is there): {wanted}"
    )


def bound(path: Path, max_bytes: int) -> Any:
    with ostraca.open(path, max_bytes=max_bytes) as checkpoint:
        return checkpoint["w"]


def test_max_bytes_of_load_and_open(path: Path) -> None:
    tree = {"w": np.arange(1000.0).reshape(10, 100), "n": 1}
    ostraca.save(path, tree)
    with pytest.raises(MemoryError, match=r"take 8,0.. bytes of memory, more than max_bytes=8,000: raise it"):
        ostraca.load(path, max_bytes=8000)
    assert ostraca.load(path, max_bytes=8100)["n"] == 1
    assert ostraca.load(path, max_bytes=8, into={"w": tree["w"].copy(), "n": 0})["n"] == 1
    with ostraca.open(path, max_bytes=800) as checkpoint:  # opening refuses nothing
        stored = checkpoint["w"]
        assert stored[3].shape == (100,) and stored[:, 5].shape == (10,)
        for read in (
            lambda: stored[...],
            lambda: stored[2:4],
            lambda: np.asarray(stored),
            lambda: checkpoint.value("w"),
        ):
            with pytest.raises(MemoryError, match=r"more than max_bytes=800"):
                read()


def test_max_bytes_of_jax(path: Path) -> None:
    jax = pytest.importorskip("jax")
    import ostraca.jax

    tree = {"w": jax.numpy.arange(1000, dtype="float32"), "n": np.arange(3)}
    ostraca.save(path, tree)
    with pytest.raises(MemoryError, match="4,024 bytes of memory, more than max_bytes=4,023"):
        ostraca.jax.load(path, like=tree, max_bytes=4023)
    assert ostraca.jax.load(path, like=tree, max_bytes=4024)["w"].sum() == tree["w"].sum()


SWEEP = """
import os, resource, signal, sys, numpy as np, ostraca
path, kind, mebibytes = sys.argv[1:]
tree = {f"w{i}": np.random.default_rng(i).standard_normal(1 << 18) for i in range(8)} | {"s": list(range(99))}
if kind == "save the base":
    sys.exit(ostraca.save(path + "/base", tree) is None)
def work(n):
    if kind == "save":
        ostraca.save(f"{path}/{n}", tree)
    elif kind == "save_async":
        ostraca.save_async(f"{path}/{n}", tree).result()
    elif kind == "delta":
        ostraca.save(f"{path}/d{n}", tree, base=f"{path}/base")
    elif kind == "load":
        ostraca.load(f"{path}/base")
    elif kind == "verify":
        assert ostraca.verify(f"{path}/base", deep=True).ok
with open("/proc/self/status") as file:
    size = next(int(line.split()[1]) << 10 for line in file if line.startswith("VmSize"))
for n in map(int, mebibytes.split()):
    child = os.fork()
    if child == 0:
        signal.alarm(30)  # it hangs
        resource.setrlimit(resource.RLIMIT_AS, (size + (n << 20),) * 2)
        try:
            work(n)
        except MemoryError:
            os._exit(1)
        except OSError as error:
            os._exit(1 if "no thread could be started" in str(error) else 2)
        except BaseException as error:
            os._exit(3)
        os._exit(0)
    print(n, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize("kind", ["save", "save_async", "delta", "load", "verify"])
def test_nobody_waits_for_who_died_for_want_of_memory(tmp_path: Path, kind: str) -> None:
    """Under every limit it ends: done, or with an error that is about memory."""
    assert run(SWEEP, tmp_path, "save the base", "").returncode == 0
    limits = [*range(20), *range(20, 200, 9)]
    done = run(SWEEP, tmp_path, kind, " ".join(map(str, limits)), seconds=300)
    codes = dict(map(int, line.split()) for line in done.stdout.splitlines())
    assert list(codes) == limits and set(codes.values()) <= {0, 1}, codes


def test_a_thread_that_dies_at_birth_keeps_nobody_waiting(path: Path) -> None:
    program = """
import _thread, sys, threading, ostraca
_thread.start_new_thread = threading._start_new_thread = lambda *arguments, **options: 0
assert ostraca.save_async(sys.argv[1], 1).result().arrays == 1
assert ostraca.save(sys.argv[1], 2, overwrite=True).arrays == 1
"""
    done = run(program, path, seconds=30)
    assert done.returncode == 0, done.stderr
    assert ostraca.load(path) == 2
