"""Descriptors: a checkpoint may have more files than the process may open."""

import gc
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest

import ostraca

FILES = 300
ROWS = 20  # of each process


def save(path: Path, files: int, plus: int = 0, base: Path | None = None) -> None:
    """As so many processes do; each has rows of "w", and all have arrays of their own."""
    attempt = f"{plus:032x}"
    reports = []
    for i in range(files):
        writer = ostraca.Writer(path, process_index=i, process_count=files, attempt=attempt, base=base, threads=1)
        rows = np.arange(i * ROWS, (i + 1) * ROWS, dtype=np.float64)[:, None] + np.zeros(1 << 10)
        rows[3:5] += plus
        shape = (files * ROWS, 1 << 10)
        writer.add("w", rows, dtype="float64", shape=rows.shape, global_shape=shape, offset=(i * ROWS, 0))
        writer.add(f"own{i}", np.full(7, i + plus), dtype="int64", shape=(7,))
        reports.append(writer.finish())
        del writer
    ostraca.commit(path, reports)


LIMITED = """
import contextlib, os, resource, sys
import numpy as np
import ostraca

path, kind, limit, files = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

def opened():
    return len(os.listdir("/proc/self/fd"))

def right(tree, plus):
    expected = np.repeat(np.arange(files * 20.0)[:, None], 1 << 10, 1)
    for i in range(files):
        expected[20 * i + 3 : 20 * i + 5] += plus
    return np.array_equal(tree["w"], expected) and all((tree[f"own{i}"] == i + plus).all() for i in range(files))

full, delta = path + "/full", path + "/delta"
if kind == "load":
    assert right(ostraca.load(full), 0)
elif kind == "load a delta":
    assert right(ostraca.load(delta), 1)
elif kind == "verify":
    for where in (full, delta):
        report = ostraca.verify(where, deep=True)
        assert report.ok, report
elif kind == "compact":
    ostraca.compact(delta)
    assert right(ostraca.load(delta), 1)
elif kind == "delta":
    ostraca.save(path + "/new", ostraca.load(full), base=full, overwrite=True)
    assert right(ostraca.load(path + "/new"), 0)
elif kind == "readers":
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(ostraca.open(full)) for _ in range(8)]
        for i in range(files):
            for reader in readers:
                assert (reader["w"][20 * i : 20 * i + 2] == [[20 * i], [20 * i + 1]]).all()
            assert opened() < limit * 3 // 4, opened()
elif kind == "beside others":  # the program itself has nearly all
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(limit - opened() - 12)]
    assert right(ostraca.load(full), 0)
"""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("many")
    save(path / "full", FILES)
    save(path / "delta", FILES, 1, path / "full")
    return path


KINDS = ["load", "load a delta", "verify", "delta", "readers", "beside others"]


@pytest.mark.parametrize(("kind", "limit"), [*product(KINDS, [64, 256]), ("compact", 64)])
def test_more_files_than_descriptors(checkpoints: Path, kind: str, limit: int) -> None:
    command = [sys.executable, "-c", LIMITED, str(checkpoints), kind, str(limit), str(FILES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


OVERWRITTEN = """
import resource, sys, numpy as np, ostraca
path = sys.argv[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]), int(sys.argv[3])))
tree = ostraca.load(path)
reader = ostraca.open(path)
for name in reader:
    reader[name][:1]
ostraca.save(path, {"another": 1}, overwrite=True)
read, gone = 0, 0
for name in reader:
    try:
        assert np.array_equal(reader[name][...], tree[name])
        read += 1
    except ostraca.NotFoundError as error:
        assert "was overwritten or removed while it was read" in str(error) and "again" in str(error), error
        gone += 1
print(read, gone)
"""


@pytest.mark.parametrize(("soft", "hard", "files"), [(64, 64, 40), (64, 1024, 40), (1024, 1024, 200)])
def test_a_reader_whose_checkpoint_is_overwritten(tmp_path: Path, soft: int, hard: int, files: int) -> None:
    """What it held open it reads, within the hard limit; of what it did not the error says so."""
    save(tmp_path / "c", files)
    command = [sys.executable, "-c", OVERWRITTEN, str(tmp_path / "c"), str(soft), str(hard)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    read, gone = map(int, done.stdout.split())
    assert read + gone == files + 1
    assert (gone == 0) == (files <= hard // 4)


def test_what_is_damaged_keeps_no_directory_open(tmp_path: Path) -> None:
    """Errors that are remembered hold no frames: nothing waits for the garbage collector."""
    for name in "ab":
        ostraca.save(tmp_path / name, {"x": np.arange(3)})
    (tmp_path / "a" / "manifest.json").write_text("{")
    gc.disable()
    try:
        report = ostraca.prune(tmp_path, keep=1, dry_run=True)
        open_ones = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    finally:
        gc.enable()
    assert report.errors
    assert not [path for path in open_ones if path.startswith(str(tmp_path))]
