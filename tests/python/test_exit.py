"""The end of a process: whatever way it ends, its exit code is its own, and a save is committed or reported."""

import multiprocessing
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import ostraca

OLD, ITEMS = np.zeros(5), 1 << 18

# Ends in `way` while a save of `kind` runs, or with one in an exit handler.
PROGRAM = """
import _thread, atexit, os, signal, sys, threading, time

way, kind, path = sys.argv[1:]
begun = threading.Event()

def begin():
    def slow(done, total):
        begun.set()
        time.sleep(0.3)
    save = getattr(ostraca.jax if "jax" in kind else ostraca, "save_async" if "async" in kind else "save")
    save(path, tree, progress=slow, overwrite=True)
    if way in ("os._exit", "signal"):
        time.sleep(60)

def refuse_threads(*arguments, **options):
    raise RuntimeError("can't create new thread at interpreter shutdown")

def become_3_12():
    _thread.start_new_thread = threading._start_new_thread = refuse_threads

if way.startswith("before"):
    atexit.register(begin)
import numpy as np
import ostraca
tree = np.arange(1 << 18)
if "jax" in kind:
    import jax, ostraca.jax
    tree = jax.numpy.arange(1 << 18)
if way.startswith("after"):
    atexit.register(begin)
if way.endswith("on 3.12"):
    atexit.register(become_3_12)  # before the other handlers
if way in ("return", "sys.exit", "exception"):
    begin()
elif not way.startswith(("before", "after")):
    threading.Thread(target=begin, daemon=way != "thread").start()
    begun.wait()
if way == "exception":
    raise ValueError("the program's own")
if way == "os._exit":
    os._exit(5)
if way == "signal":
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
if way != "return":
    sys.exit(3)
"""
CODES = {"return": 0, "exception": 1, "os._exit": 5, "signal": -signal.SIGTERM}  # of all other ways: 3
WAYS = [*CODES, "sys.exit", "before", "after", "before, on 3.12", "after, on 3.12", "daemon thread", "thread"]


def run(program: str, *arguments: object, seconds: float = 100) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds)


@pytest.mark.parametrize("kind", ["sync", "async", "jax", "jax async"])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_end(path: Path, way: str, kind: str) -> None:
    if "jax" in kind:
        pytest.importorskip("jax")
    ostraca.save(path, OLD)
    done = run(PROGRAM, way, kind, path)
    assert done.returncode == CODES.get(way, 3), done.stderr
    assert "terminate" not in done.stderr
    found = ostraca.load(path)
    if way in ("os._exit", "signal"):  # nobody is asked: the one checkpoint or the other
        assert np.array_equal(found, OLD) or np.array_equal(found, np.arange(ITEMS))
    else:
        assert np.array_equal(found, np.arange(ITEMS)), done.stderr
    assert ostraca.verify(path, deep=True).ok


DAEMONS = """
import itertools, sys, threading, time
import numpy as np
import ostraca

kind, path = sys.argv[1:]
tree = {"w": np.random.default_rng(0).standard_normal(1 << 20), "s": [np.arange(i) for i in range(50)]}
ostraca.save(f"{path}/base", tree)

def slowly(*_):
    time.sleep(0.01)

def work(base):
    for i in itertools.count():
        where = f"{path}/{threading.get_ident()}-{i % 3}"
        if kind == "save":
            ostraca.save(where, tree, overwrite=True)
        elif kind == "save with a callback":
            ostraca.save(where, tree, overwrite=True, progress=slowly)
        elif kind == "save_async":
            ostraca.save_async(where, tree, overwrite=True).result()
        elif kind == "load":
            ostraca.load(f"{path}/base")
        elif kind == "load with a callback":
            ostraca.load(f"{path}/base", progress=slowly)
        elif kind == "slices":
            base["w"][i % 1000 : 2000]
        elif kind == "open":
            ostraca.open(f"{path}/base").close()
        elif kind == "verify":
            ostraca.verify(f"{path}/base")
        elif kind == "BaseSnapshot":
            ostraca.BaseSnapshot(f"{path}/base").close()
        elif kind == "Writer":
            writer = ostraca.Writer(f"{path}/writer{threading.get_ident()}")
            writer.add("w", tree["w"], dtype="float64", shape=(1 << 20,), on_copied=slowly)
            writer.wait_copied()
            writer.abort()
        elif kind == "errors":
            try:
                ostraca.load(f"{path}/none")
            except ostraca.NotFoundError:
                pass

base = ostraca.open(f"{path}/base")
for _ in range(3):
    threading.Thread(target=work, args=(base,), daemon=True).start()
time.sleep(0.2)
sys.exit(3)
"""
KINDS = ["save", "save with a callback", "save_async", "load", "load with a callback", "slices", "open", "verify"]


@pytest.mark.parametrize("kind", [*KINDS, "BaseSnapshot", "Writer", "errors"])
def test_daemon_threads_end_with_the_process(tmp_path: Path, kind: str) -> None:
    """Python ends a thread that wants the GIL after it has begun to end: nothing of the engine may stand in the way."""
    done = run(DAEMONS, kind, tmp_path)
    assert (done.returncode, "terminate" in done.stderr) == (3, False), done.stderr
    for saved in tmp_path.iterdir():
        if (saved / "manifest.json").exists():
            assert ostraca.verify(saved).ok


def test_a_thread_that_has_not_started_cancels_no_other_save(path: Path) -> None:
    done = run(
        """
import _thread, sys, threading, time, ostraca
start = _thread.start_new_thread
def start_late(*arguments, **options):
    if threading.current_thread() is not threading.main_thread():
        time.sleep(3)  # the machine is busy
    return start(*arguments, **options)
_thread.start_new_thread = threading._start_new_thread = start_late
handle = ostraca.save_async(sys.argv[1], "first", progress=lambda *_: time.sleep(1))
threading.Thread(target=ostraca.save_async, args=(sys.argv[2], "second"), daemon=True).start()
time.sleep(0.5)
""",
        path,
        path.with_name("second"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert ostraca.load(path) == "first" and ostraca.load(path.with_name("second")) == "second"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_of_multiprocessing(path: Path, method: str) -> None:
    """They run no exit handlers."""
    context = multiprocessing.get_context(method)
    child = context.Process(target=save_slowly, args=(str(path),))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert ostraca.load(path) == 7


def save_slowly(path: str) -> None:
    ostraca.save_async(path, 7, progress=lambda *_: time.sleep(0.5))


def test_a_save_that_begins_too_late_is_refused(path: Path) -> None:
    """In a thread that the exit does not wait for."""
    done = run(
        """
import atexit, sys, threading, time
def exit_handler():  # runs after ostraca's
    exiting.set()
    time.sleep(1)
atexit.register(exit_handler)
import ostraca
exiting = threading.Event()
def work():
    exiting.wait()
    ostraca.save(sys.argv[1], 1)
threading.Thread(target=work, daemon=True).start()
""",
        path,
    )
    assert done.returncode == 0
    assert "was not begun: the interpreter is exiting" in done.stderr
    assert not path.exists()


def test_no_destructor_that_takes_the_gil() -> None:
    """pybind11's guards end the process where Python ends the thread; ours are in gil.h."""
    bindings = Path(__file__).parents[2] / "python" / "bindings"
    assert [file.name for file in bindings.iterdir() if "gil_scoped" in file.read_text()] == []
