"""Strings: arrays whose elements vary in length come back as they were, whole and in parts."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ostraca
import trees
from ostraca import compacting, reference
from ostraca import strings as module
from ostraca.cli import main
from ostraca.errors import MismatchError, UnsupportedError
from trees import STRING_DTYPES, laid_out, same, strings

StringDType = np.dtypes.StringDType
WORDS = np.array([["", "a", "naïve ☃"], ["𝄞" * 40, "tail\0", "\0"]], StringDType())
RAW = np.array([[b"", b"\xff\0", b"b"], [b"x" * 5000, b"tail\0", b"\0"]], object)
LONG_BYTES = (4 << 20) + 7


def check(path: Path, tree: Any) -> None:
    """A checkpoint holds a tree, whoever reads it."""
    assert ostraca.verify(path, deep=True).ok and reference.verify(path) == []
    same(tree, ostraca.load(path, verify="deep"))
    same(tree, reference.load(path))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    trees.string_arrays,
    st.sampled_from(["auto", "raw", "zstd"]),
    st.sampled_from(["c", "fortran", "strided", "reversed", "broadcast"]),
)
def test_any_array(array: Any, codec: str, layout: str) -> None:
    tree = {"x": laid_out(array, layout), "beside": np.arange(5), "y": [array]}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "c")
        ostraca.save(path, tree, codec=codec)
        check(path, tree)
        with ostraca.open(path) as checkpoint:
            same(tree["x"], checkpoint["x"][...])
            same(tree["x"], checkpoint.value("x"))
            assert (checkpoint["x"].shape, checkpoint["x"].dtype) == (tree["x"].shape, array.dtype)
            assert list(checkpoint) == ["x", "beside", "y/0"]


@pytest.mark.parametrize(
    "tree", [WORDS, RAW, WORDS[0, 2:3].reshape(()), RAW[:0]], ids=["text", "bytes", "0-d", "empty"]
)
def test_a_tree_that_is_strings(path: Path, tree: Any) -> None:
    ostraca.save(path, tree)
    check(path, tree)


def test_what_has_a_fixed_size_keeps_it(path: Path) -> None:
    fixed = {"S": np.array([b"a", b"bc"]), "U": np.array(["ä", "bc"]), "str": "text", "bytes": b"\0raw"}
    ostraca.save(path, fixed | {"x": WORDS})
    check(path, fixed | {"x": WORDS})


def test_strings_longer_than_a_chunk(path: Path) -> None:
    text, rng = "lang" * (LONG_BYTES // 4), np.random.default_rng(0)
    tree = {"text": np.array(["a", text, "b"], StringDType()), "raw": np.array([b"", rng.bytes(LONG_BYTES)], object)}
    ostraca.save(path, tree)
    check(path, tree)
    with ostraca.open(path) as checkpoint:
        assert checkpoint["text"][2] == "b" and checkpoint["raw"][1] == tree["raw"][1]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_part(data: Any) -> None:
    array = data.draw(trees.string_arrays)
    indices = [
        data.draw(st.one_of(st.slices(size), *([st.integers(-size, size - 1)] if size else []))) for size in array.shape
    ]
    index = tuple(indices[: data.draw(st.integers(0, array.ndim))])
    with tempfile.TemporaryDirectory() as directory:
        ostraca.save(Path(directory, "c"), {"x": array})
        with ostraca.open(Path(directory, "c")) as checkpoint:
            found, expected = checkpoint["x"][index], array[index]
            assert type(found) is type(expected)
            if isinstance(expected, np.ndarray):
                same(expected, found)
            else:
                assert found is expected or found == expected or found != found


def test_rows_are_read_alone(path: Path) -> None:
    words = np.array([f"word {i} " + "x" * 100 for i in range(200_000)], StringDType()).reshape(-1, 2)
    ostraca.save(path, {"x": words}, codec="raw", chunk_shape=(1 << 16,))
    with ostraca.open(path) as checkpoint:
        before = checkpoint.statistics()
        same(words[1000:1010], checkpoint["x"][1000:1010])
        same(words[1000:1010, 1], checkpoint["x"][1000:1010, 1])
        after = checkpoint.statistics()
        assert after["bytes_read"] - before["bytes_read"] < checkpoint["x"].nbytes / 4
        assert checkpoint["x"].nbytes == sum(map(len, words.ravel())) + 8 * words.size
        assert checkpoint["x"].stored_bytes >= checkpoint["x"].nbytes


@pytest.mark.parametrize("dtype", STRING_DTYPES, ids=str)
def test_like_and_into(path: Path, dtype: Any) -> None:
    array = strings(dtype, (4, 3), seed=1)
    tree = {"x": array, "n": np.arange(4)}
    ostraca.save(path, {"top": tree})
    like = {"n": np.zeros(4, int), "x": strings(dtype, (4, 3), seed=2)}
    same({"n": tree["n"], "x": array}, ostraca.load(path, root="top", like=like))
    same({"n": tree["n"], "x": array}, ostraca.load(path, root="top", like=like, cast=True))
    places = {"n": np.zeros(4, int), "x": strings(dtype, (8, 3), seed=3)[::2]}
    assert ostraca.load(path, root="top", into=places)["x"] is places["x"]
    same({"n": tree["n"], "x": array}, places)
    same({"top": {"x": array}}, ostraca.load(path, select="*/x"))
    assert ostraca.load(path, like={"top": like, "y": 1}, missing="keep")["y"] == 1


def test_what_does_not_fit(path: Path) -> None:
    ostraca.save(path, {"x": WORDS, "f": np.zeros((2, 3))})
    other = np.zeros((2, 3))
    cases: list[tuple[dict[str, Any], str]] = [
        ({"x": WORDS[:1], "f": other}, r"'x': expected shape \(1, 3\), found \(2, 3\)"),
        ({"x": other, "f": other}, "'x': expected dtype float64, found dtype string"),
        ({"x": RAW, "f": other}, "'x': expected dtype bytes, found dtype string"),
        (
            {"x": WORDS.astype(StringDType(na_object=None)), "f": other},
            r"expected dtype string \(na=none\), found string",
        ),
        ({"x": WORDS, "f": WORDS}, "'f': expected dtype string, found dtype float64"),
    ]
    for like, words in cases:
        for cast in (False, True):
            with pytest.raises(MismatchError, match=words):
                ostraca.load(path, like=like, cast=cast)
    frozen = WORDS.copy()
    frozen.flags.writeable = False
    with pytest.raises(MismatchError, match="'x' is ndarray, not a numpy array that can be written to"):
        ostraca.load(path, into={"x": frozen, "f": other})


@pytest.mark.parametrize(
    ("leaf", "words"),
    [
        (np.array(["a", 1], object), r"\(1,\) is int: nothing is pickled|\(0,\) is str: nothing is pickled"),
        (np.array([[b"a", None]], object), r"\(0, 1\) is NoneType: nothing is pickled.*store bytes"),
        (np.array(["a"], object), "is str: nothing is pickled.*StringDType"),
        (np.array(["a"], StringDType(na_object="?")), "missing element is '\\?': only None and nan"),
        (np.array(["a"], StringDType(na_object=3)), "missing element is 3: only None and nan"),
        (np.array([("a", 1)], [("s", object), ("n", int)]), "structured"),
    ],
    ids=["mixed", "None", "str", "na str", "na int", "structured"],
)
def test_refused_by_name(path: Path, leaf: Any, words: str) -> None:
    with pytest.raises(UnsupportedError, match=f"cannot store 'a/x': .*({words})"):
        ostraca.save(path, {"a": {"x": leaf}})
    assert not path.exists()


def test_numpy_refuses_surrogates() -> None:
    with pytest.raises(UnicodeEncodeError):
        np.array(["\ud800"], StringDType())


def test_a_key_path_with_no_room_for_the_data(path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"cannot store 'xxx.*key path"):
        ostraca.save(path, {"x" * ((64 << 10) - 6): WORDS})


def test_deltas(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    words = np.array([rng.bytes(rng.integers(1, 60)).hex() for _ in range(50_000)], StringDType())
    ostraca.save(tmp_path / "base", {"x": words, "n": 1})
    same_again = ostraca.save(tmp_path / "same", {"x": words, "n": 2}, base=tmp_path / "base")
    assert same_again.stored_bytes < 20_000
    one = words.copy()
    one[10] = one[10] + "longer"
    for name, changed in {"one": one, "more": np.concatenate([words, one[:9]]), "fewer": words[:7]}.items():
        ostraca.save(tmp_path / name, {"x": changed, "n": 2}, base=tmp_path / "base")
        check(tmp_path / name, {"x": changed, "n": 2})
    ostraca.compact(tmp_path / "one")
    check(tmp_path / "one", {"x": one, "n": 2})


def test_compact_parts_them_between_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compacting, "HELD_BYTES", 48 << 10)
    tree = {f"x{i}": np.array([bytes([i]) * 9000, b"", b"end"], object) for i in range(40)}
    ostraca.save(tmp_path / "0", {"n": 1})
    ostraca.save(tmp_path / "1", tree, base=tmp_path / "0")
    ostraca.compact(tmp_path / "1")
    firsts = [directory_of(tmp_path / "1", file)[0] for file in sorted((tmp_path / "1").glob("p*"))]
    assert any(leaf.path[-1] == (5, "data") for leaf in firsts)
    check(tmp_path / "1", tree)


def directory_of(path: Path, file: Path) -> list[Any]:
    """The leaves of one data file."""
    checkpoint = reference._Checkpoint(path, reference._Guard(collect=False))
    return reference._Directory(checkpoint.files[0, int(file.name[1:6])], checkpoint).leaves


def test_tied_arrays_are_stored_once(tmp_path: Path) -> None:
    words = np.array([np.random.default_rng(i).bytes(40) for i in range(20_000)], object)
    alone = ostraca.save(tmp_path / "alone", {"x": words})
    tied = ostraca.save(tmp_path / "tied", {"x": words, "y": words, "z": words.copy()})
    assert tied.stored_bytes < alone.stored_bytes * 1.01 + 8192
    check(tmp_path / "tied", {"x": words, "y": words, "z": words})


def test_numpy_before_version_2_has_no_text(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ostraca.save(path, {"text": WORDS, "raw": RAW})
    monkeypatch.delattr(np.dtypes, "StringDType")
    monkeypatch.setattr(module, "dtype_of", module.dtype_of.__wrapped__)
    for read in (ostraca.load, lambda path: ostraca.open(path)["text"]):
        with pytest.raises(UnsupportedError, match="need numpy 2"):
            read(path)
    with pytest.raises(reference.ReferenceReaderError, match="'text': text needs numpy 2"):
        reference.load(path)
    same(RAW, ostraca.load(path, select="raw")["raw"])


def test_save_async_takes_a_copy(path: Path) -> None:
    words = WORDS.copy()
    handle = ostraca.save_async(path, {"x": words})
    words[...] = "changed"
    handle.result()
    check(path, {"x": WORDS})


def test_each_process_has_its_own(path: Path) -> None:
    ostraca.save(path, {"loader": ostraca.PerProcess(WORDS), "n": 1})
    check(path, {"loader": {0: WORDS}, "n": 1})
    out = ostraca.load(path, like={"loader": ostraca.PerProcess(WORDS), "n": 0})
    same(WORDS, out["loader"].value)


def test_the_low_level_sees_two_arrays(path: Path) -> None:
    ostraca.save(path, {"words": WORDS, "n": np.arange(3)})
    with ostraca.Reader(path) as reader:
        assert [info.name for info in reader.arrays()] == ["words", "words/data", "n"]
        assert [info.name for info in reader.leaves()] == ["words", "n"]
        found = [info.allocate() for info in reader.arrays()]
        reader.read_into([(info.name, None, array) for info, array in zip(reader.arrays(), found, strict=True)])
    ends, data, _ = found
    assert ends.shape == WORDS.shape and ends.dtype == np.uint64
    assert data.tobytes().decode() == "".join(WORDS.ravel())
    assert ends.ravel().tolist() == np.cumsum([len(word.encode()) for word in WORDS.ravel()]).tolist()


def test_a_data_key_beside_strings_is_another_leaf(path: Path) -> None:
    tree = {"x": WORDS, "x/data": 1, "x~1data": np.arange(2), "y": {"data": WORDS, "ends": np.arange(3)}}
    ostraca.save(path, tree)
    check(path, tree)


class TestCommands:
    """inspect, diff and convert."""

    @pytest.fixture
    def saved(self, tmp_path: Path) -> Path:
        tree = {"words": WORDS, "raw": RAW, "w": np.ones(3, np.float32)}
        ostraca.save(tmp_path / "saved", tree)
        return tmp_path / "saved"

    def told(self, capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> Any:
        assert main([*map(str, arguments), "--json"]) == status
        return json.loads(capsys.readouterr().out)

    def test_inspect(self, saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
        leaves = {leaf["name"]: leaf for leaf in self.told(capsys, "inspect", saved, "--chunks")["leaves"]}
        assert list(leaves) == ["words", "raw", "w"]
        assert leaves["words"]["dtype"] == "string" and leaves["words"]["kind"] == "strings"
        assert leaves["raw"]["dtype"] == "bytes" and leaves["raw"]["shape"] == [2, 3]
        assert leaves["raw"]["logical_bytes"] == sum(map(len, RAW.ravel())) + 8 * RAW.size
        assert sum(leaves["raw"]["codecs"].values()) == pytest.approx(1)
        assert leaves["raw"]["chunks"] == 2 == len(leaves["raw"]["chunk_list"])
        assert main(["inspect", str(saved)]) == 0
        assert "string" in capsys.readouterr().out

    def test_diff(self, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        words, raw = WORDS.copy(), RAW.copy()
        ostraca.save(tmp_path / "same", {"words": words, "raw": raw, "w": np.ones(3, np.float32)})
        assert self.told(capsys, "diff", saved, tmp_path / "same")["identical"]
        words[0, 1], words[1, 2], raw[1, 0] = "other", "", b"y" * 5000
        ostraca.save(tmp_path / "other", {"words": words, "raw": raw, "w": np.ones(3, np.float32)})
        rows = self.told(capsys, "diff", saved, tmp_path / "other", status=1)["differences"]
        assert {row["name"]: (row["reason"], row["elements_differing"], row["elements"]) for row in rows} == {
            "words": ("content", 2, 6),
            "raw": ("content", 1, 6),
        }
        assert main(["diff", str(saved), str(tmp_path / "other")]) == 1
        assert "2 (33.33%)" in capsys.readouterr().out
        ostraca.save(tmp_path / "na", {"words": WORDS.astype(StringDType(na_object=None)), "raw": words})
        rows = self.told(capsys, "diff", saved, tmp_path / "na", status=1)["differences"]
        assert [row["reason"] for row in rows] == ["dtype", "kind"]

    def test_convert(self, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        target = tmp_path / "x.safetensors"
        assert main(["convert", str(saved), str(target)]) == 2
        assert "safetensors cannot hold 'words' (string), 'raw' (bytes)" in capsys.readouterr().err
        result = self.told(capsys, "convert", saved, target, "--skip-unsupported")
        assert [entry["name"] for entry in result["skipped"]] == ["words", "raw"] and result["arrays"] == 1

    def test_convert_to_orbax(self, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        pytest.importorskip("orbax.checkpoint")
        assert main(["convert", str(saved), str(tmp_path / "orbax"), "--to", "orbax"]) == 2
        assert "Orbax cannot hold 'words' (string), 'raw' (bytes)" in capsys.readouterr().err
        result = self.told(capsys, "convert", saved, tmp_path / "orbax", "--to", "orbax", "--skip-unsupported")
        assert [entry["name"] for entry in result["skipped"]] == ["words", "raw"] and result["arrays"] == 1


def test_jax(path: Path) -> None:
    jax = pytest.importorskip("jax")
    import ostraca.jax

    tree = {"words": WORDS, "w": jax.numpy.arange(8.0), "raw": RAW}
    ostraca.jax.save(path, tree)
    check(path, {"words": WORDS, "w": np.arange(8, dtype=np.float32), "raw": RAW})
    like = {"words": np.empty((2, 3), StringDType()), "w": jax.ShapeDtypeStruct((8,), "float32"), "raw": RAW}
    out = ostraca.jax.load(path, like=like)
    same(WORDS, out["words"])
    same(RAW, out["raw"])
    assert isinstance(out["w"], jax.Array)
    out = ostraca.jax.load(path, like=jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    same(WORDS, out["words"])
    with pytest.raises(MismatchError, match="'words': expected dtype float32, found dtype string"):
        ostraca.jax.load(path, like=like | {"words": jax.ShapeDtypeStruct((2, 3), "float32")})


@pytest.mark.parametrize("dtype", [StringDType(), np.dtype(object)], ids=str)
def test_processes_compare_ends_and_data(dtype: Any) -> None:
    pytest.importorskip("jax")
    from ostraca.jax.collecting import Collector

    def fact(*texts: str) -> Any:
        collector = Collector(process_index=1, process_count=2)
        array = np.array([text.encode() for text in texts] if dtype.kind == "O" else texts, dtype)
        assert not collector.collect({"x": array}).specs  # process 0 stores them
        return collector.facts[0]

    assert fact("ab", "c") == fact("ab", "c")
    assert len({fact("ab", "c"), fact("ab", "d"), fact("a", "bc")}) == 3
    assert fact("ab", "c").description.endswith("[2]")


def test_through_orbax(tmp_path: Path) -> None:
    ocp = pytest.importorskip("orbax.checkpoint")
    import ostraca.orbax

    tree = {"words": WORDS, "raw": RAW, "n": 3}
    with ocp.CheckpointManager(tmp_path / "run", handler_registry=ostraca.orbax.registry()) as manager:
        manager.save(1, args=ocp.args.StandardSave(tree))
        manager.wait_until_finished()
        for args in (None, ocp.args.StandardRestore(tree)):
            same(tree, manager.restore(1, args=args))
        assert manager.item_metadata(1)["words"].shape == (2, 3)


def test_tensors_of_strings(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As TensorFlow's behave: of a scalar numpy() is bytes, which numpy would take for an array of a fixed size."""

    class Tensor:
        dtype, device = SimpleNamespace(name="string"), "/device:CPU:0"

        def __init__(self, array: Any) -> None:
            self._array = array

        def numpy(self) -> Any:
            return self._array if self._array.shape else self._array.item()

        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return np.array(self.numpy(), dtype)

    monkeypatch.setitem(sys.modules, "tensorflow", SimpleNamespace(Tensor=Tensor))
    scalar = np.empty((), object)
    scalar[()] = b"tail\0"
    ostraca.save(path, {"vocabulary": Tensor(RAW), "scalar": Tensor(scalar)})
    check(path, {"vocabulary": RAW, "scalar": scalar})
