"""Writer, commit and Reader: named arrays, for embedding in other checkpointers."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import ostraca
from trees import array, same


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_two_processes(path: Path) -> None:
    whole = weights(8, 6)
    attempt = "0123456789abcdef" * 2
    reports = []
    for process in (1, 0):
        writer = ostraca.Writer(path, process_index=process, process_count=2, attempt=attempt)
        assert writer.attempt == attempt
        rows = whole[process * 4 : process * 4 + 4]
        writer.add("a~1b/w", rows, dtype="float32", shape=(4, 6), global_shape=(8, 6), offset=(process * 4, 0))
        if process == 0:
            writer.add("half", b"\x80\x3f" * 5, dtype="bfloat16", shape=(5,))
        report = writer.finish()
        reports.append(ostraca.FileReport.from_bytes(report.to_bytes()))
        assert len(report.to_bytes()) <= 1024
    info = ostraca.commit(path, reports, step=3, metadata={"x": 2**60})
    assert info.step == 3 and info.logical_bytes == whole.nbytes + 10
    same({"a/b": {"w": whole}, "half": np.ones(5, ml_dtypes.bfloat16)}, ostraca.load(path))
    with ostraca.open(path) as ckpt:
        assert ckpt.id == attempt and ckpt.metadata == {"x": 2**60}


def test_copied_is_called(path: Path) -> None:
    copied: list[int] = []
    writer = ostraca.Writer(path, staging_bytes=1 << 20)
    for i in range(5):
        writer.add(f"{i}", weights(100 * i), dtype=np.float32, shape=[100 * i], on_copied=lambda i=i: copied.append(i))
    assert writer.wait_copied(60)
    writer.finish()
    assert sorted(copied) == [0, 1, 2, 3, 4]
    writer.abort()
    assert not path.exists()


def test_wrong_buffers(path: Path) -> None:
    writer = ostraca.Writer(path)
    for buffer in (b"123", np.zeros(3, "f4"), np.zeros((2, 2), "f8"), memoryview(bytes(32))[::2]):
        with pytest.raises(ostraca.MismatchError):
            writer.add("x", buffer, dtype="float32", shape=(2, 2))
    writer.abort()


def test_reader(path: Path) -> None:
    tree = {"a": {"b": array(">f4", (30, 20))}, "n": 5, "none": None}
    ostraca.save(path, tree)
    with ostraca.Reader(path) as reader:
        assert [info.name for info in reader.arrays()] == ["a/b", "n", "none"]
        info = reader.arrays()[0]
        assert info.shape == (30, 20) and info.dtype == np.dtype(">f4") and info.nbytes == 2400 and info.kind == 1
        native, swapped = np.zeros((5, 6), "<f4"), np.zeros((30, 20), ">f4")
        reader.read_into([("a/b", (3, 4), native), ("a/b", None, swapped)])
        assert native.astype(">f4").tobytes() == tree["a"]["b"][3:8, 4:10].tobytes()  # type: ignore[index]
        same(tree["a"]["b"], swapped)  # type: ignore[index]
        assert reader.statistics()["chunks_read"] == 1
        with pytest.raises(ostraca.MismatchError, match="stored as float32, asked for as float64"):
            reader.read_into([("a/b", None, np.zeros((30, 20)))])
        with pytest.raises(ostraca.MismatchError, match="past"):
            reader.read_into([("a/b", (29, 0), native)])
        with pytest.raises(KeyError, match="'a/b'"):
            reader.array("a/c")
        native.flags.writeable = False
        modified: list[str] = []
        with pytest.raises(ostraca.MismatchError, match="read-only"):
            reader.read_into([("a/b", None, native)], modified=modified)
        assert modified == []
    with pytest.raises(ValueError, match="closed"):
        reader.statistics()


def test_the_arrays_own_byte_order_counts(tmp_path: Path) -> None:
    values = np.arange(3, dtype=">f4")
    writer = ostraca.Writer(tmp_path / "c")
    writer.add("x", values, dtype="float32", shape=(3,))
    ostraca.commit(tmp_path / "c", [writer.finish()])
    assert np.array_equal(ostraca.load(tmp_path / "c")["x"], values)
