"""Bad input: each its own clear error, before anything is written."""

import errno
import json
import pickle
from pathlib import Path
from typing import Any

import crc32c
import numpy as np
import pytest

import ostraca

WEIGHTS = np.random.default_rng(0).standard_normal(1 << 20).astype(np.float32)


def files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def names(directory: Path) -> list[str]:
    return [entry.name for entry in directory.iterdir()]


def seal(data: bytes) -> bytes:
    return crc32c.crc32c(data).to_bytes(4, "little")


def edit_manifest(path: Path, **members: Any) -> None:
    """Changes members and makes the checksum right again."""
    text = (path / "manifest.json").read_text()
    manifest = json.loads(text)
    manifest.pop("crc32c")
    manifest.update(members)
    body = json.dumps(manifest, indent=2)[:-2] + ',\n"crc32c": "'
    (path / "manifest.json").write_text(f'{body}{crc32c.crc32c(body.encode()):08x}"\n}}\n')


def edit_index(path: Path, offset: int, data: bytes) -> None:
    """Changes bytes of the index's header, and makes all checksums right again up to the manifest."""
    (file,) = path.glob("index*")
    content = bytearray(file.read_bytes())
    content[offset : offset + len(data)] = data
    content[60:64] = seal(content[:60])
    content[-8:-4] = content[60:64]
    content[-4:] = seal(content[-96:-4])
    file.write_bytes(content)
    manifest = json.loads((path / "manifest.json").read_text())
    crc = f"{int.from_bytes(content[-4:], 'little'):08x}"
    edit_manifest(path, index={**manifest["index"], "footer_crc32c": crc})


@pytest.mark.parametrize(
    ("cls", "builtin", "code"),
    [
        (ostraca.CorruptionError, Exception, None),
        (ostraca.FormatError, ValueError, None),
        (ostraca.NotFoundError, FileNotFoundError, errno.ENOENT),
        (ostraca.ExistsError, FileExistsError, errno.EEXIST),
        (ostraca.MismatchError, ValueError, None),
        (ostraca.CoordinationError, TimeoutError, errno.ETIMEDOUT),
        (ostraca.CommitUncertainError, OSError, errno.EIO),
        (ostraca.UnsupportedError, TypeError, None),
        (ostraca.CancelledError, Exception, None),
    ],
)
def test_error_classes(cls: type[Exception], builtin: type[Exception], code: int | None) -> None:
    error = cls("what happened where")
    assert isinstance(error, ostraca.OstracaError) and isinstance(error, builtin)
    assert str(error) == "what happened where" and getattr(error, "errno", None) == code
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls and str(again) == str(error)


class TestNotACheckpoint:
    @pytest.fixture(params=[ostraca.load, ostraca.open, ostraca.verify, ostraca.Reader], ids=lambda f: f.__name__)
    def ask(self, request: pytest.FixtureRequest) -> Any:
        return request.param

    def test_nothing_there(self, path: Path, ask: Any) -> None:
        with pytest.raises(ostraca.NotFoundError, match=str(path)):
            ask(path)

    def test_empty_directory(self, path: Path, ask: Any) -> None:
        path.mkdir()
        with pytest.raises(ostraca.NotFoundError, match=str(path)):
            ask(path)

    def test_half_written(self, path: Path, ask: Any) -> None:
        writer = ostraca.Writer(path)
        writer.add("w", WEIGHTS, dtype="f4", shape=WEIGHTS.shape)
        writer.finish()  # and the process dies before the commit
        with pytest.raises(ostraca.NotFoundError, match=str(path)):
            ask(path)
        writer.abort()

    def test_a_file(self, path: Path, ask: Any) -> None:
        path.write_text("not a directory")
        with pytest.raises((ostraca.NotFoundError, ostraca.FormatError, NotADirectoryError), match=str(path)):
            ask(path)

    @pytest.mark.parametrize("text", ["", "{}", "[]", "x" * 1000, '{"format": "other"}', "\0"])
    def test_foreign_manifest(self, path: Path, ask: Any, text: str) -> None:
        path.mkdir()
        (path / "manifest.json").write_text(text)
        with pytest.raises((ostraca.FormatError, ostraca.CorruptionError), match=r"manifest\.json"):
            report = ask(path)
            assert not report.ok  # verify reports
            raise ostraca.FormatError(report.damaged[0].file)


class TestNewer:
    @pytest.fixture(autouse=True)
    def saved(self, path: Path) -> None:
        self.path = path
        ostraca.save(path, {"w": WEIGHTS[:100]})

    def test_edits_keep_it_readable(self) -> None:
        edit_manifest(self.path, extra=1)
        edit_index(self.path, 0, b"\x89")
        assert (ostraca.load(self.path)["w"] == WEIGHTS[:100]).all()

    def test_manifest_version(self) -> None:
        edit_manifest(self.path, version=2)
        with pytest.raises(ostraca.FormatError, match=r"version.*expected 1, found 2"):
            ostraca.load(self.path)

    def test_manifest_features(self) -> None:
        edit_manifest(self.path, features="0000000000000080")
        with pytest.raises(ostraca.FormatError, match="feature"):
            ostraca.load(self.path)

    def test_file_version(self) -> None:
        edit_index(self.path, 8, b"\x02")
        with pytest.raises(ostraca.FormatError, match=r"version.*expected 1, found 2"):
            ostraca.load(self.path)

    def test_file_features(self) -> None:
        edit_index(self.path, 17, b"\x01")
        with pytest.raises(ostraca.FormatError, match="feature"):
            ostraca.load(self.path)


def test_damage_is_found_and_named(path: Path) -> None:
    ostraca.save(path, {"a": WEIGHTS, "b": WEIGHTS[::-1]}, codec="raw")
    (file,) = path.glob("p*")
    content = bytearray(file.read_bytes())
    content[5 << 20] ^= 1
    file.write_bytes(content)
    with pytest.raises(ostraca.CorruptionError, match=rf"'b'.*{file.name}"):
        ostraca.load(path)
    with ostraca.open(path) as ckpt:
        assert (ckpt["a"][...] == WEIGHTS).all()
    content[2 << 20] ^= 1
    file.write_bytes(content)
    report = ostraca.verify(path)
    assert not report.ok and {(damage.file, damage.array) for damage in report.damaged} == {
        (file.name, "a"),
        (file.name, "b"),
    }
    assert all(damage.reason and damage.offset for damage in report.damaged)


def test_missing_file(path: Path) -> None:
    ostraca.save(path, WEIGHTS)
    (file,) = path.glob("p*")
    file.unlink()
    with pytest.raises((ostraca.NotFoundError, ostraca.CorruptionError), match=file.name):
        ostraca.load(path)
    assert [damage.file for damage in ostraca.verify(path).damaged] == [file.name]


def test_existing_path(path: Path) -> None:
    ostraca.save(path, 1)
    before = files(path)
    for save in (ostraca.save, ostraca.save_async):
        with pytest.raises(ostraca.ExistsError, match=str(path)):
            save(path, 2)
    with pytest.raises(ostraca.ExistsError):
        ostraca.Writer(path)
    assert files(path) == before


def test_existing_file(path: Path) -> None:
    path.write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(OSError, match=str(path)):
            ostraca.save(path, 1, overwrite=overwrite)
    assert path.read_text() == "mine"


def test_other_files_are_left_alone(path: Path) -> None:
    path.mkdir()
    (path / "notes.txt").write_text("mine")
    ostraca.save(path, 1)
    ostraca.save(path, 2, overwrite=True)
    assert (path / "notes.txt").read_text() == "mine" and ostraca.load(path) == 2


def test_unsupported_leaf(path: Path) -> None:
    with pytest.raises(ostraca.UnsupportedError, match=r"'layers/3/fn'.*function"):
        ostraca.save(path, {"layers": [WEIGHTS, 1, 2, {"fn": len}]})
    with pytest.raises(ostraca.UnsupportedError, match=r"metadata\['x'\]"):
        ostraca.save(path, 1, metadata={"x": object()})
    assert not path.exists()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"base": "other"}, ostraca.NotFoundError, "other"),
        ({"base": 3}, TypeError, "a base is a path or a BaseSnapshot, not int"),
        ({"codec": "lz4"}, ValueError, "codec must be one of 'auto', 'raw', 'zstd'"),
        ({"io": "mmap"}, ValueError, "io must be"),
        ({"threads": 0}, ValueError, "threads"),
        ({"threads": 1.5}, TypeError, "threads"),
        ({"threads": True}, TypeError, "threads"),
        ({"coding_bytes": -1}, ValueError, "coding_bytes"),
        ({"chunk_shape": (0, 5)}, ValueError, r"chunk_shape\[0\]"),
        ({"chunk_shape": 5}, TypeError, "chunk_shape"),
        ({"chunk_shape": "ab"}, TypeError, "chunk_shape"),
        ({"step": -1}, ValueError, "step"),
        ({"step": 1 << 63}, ValueError, "step"),
        ({"step": "1"}, TypeError, "step"),
        ({"progress": 5}, TypeError, "progress"),
    ],
)
def test_bad_options(path: Path, options: dict[str, Any], error: type[Exception], words: str) -> None:
    for save in (ostraca.save, ostraca.save_async):
        with pytest.raises(error, match=words):
            save(path, WEIGHTS, **options)
    assert not path.exists()


def test_chunks_that_are_too_large(path: Path) -> None:
    with pytest.raises(ValueError, match="chunk_shape"):
        ostraca.save(path, WEIGHTS.reshape(1024, 1024, 1).repeat(4, 2), chunk_shape=(1024, 1024, 2))
    assert not path.exists()


@pytest.mark.parametrize("bad", ["", "a\0b", b"", b"a\0b", bytearray(b"a"), 5, None])
def test_bad_paths(bad: Any) -> None:
    for ask in (
        lambda: ostraca.save(bad, 1),
        lambda: ostraca.load(bad),
        lambda: ostraca.open(bad),
        lambda: ostraca.verify(bad),
    ):
        with pytest.raises((TypeError, ValueError)):
            ask()


def test_bad_load_options(path: Path) -> None:
    ostraca.save(path, 1)
    for options in ({"verify": "no"}, {"missing": "maybe"}, {"threads": 0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            ostraca.load(path, **options)


def test_names_never_become_paths(path: Path) -> None:
    tree = {"../x": WEIGHTS[:5], "..": {"x": 1}, "/etc/passwd": 2, "a\\b": 3, ".": 4, "manifest.json": 5}
    ostraca.save(path, tree)
    assert names(path.parent) == ["checkpoint"] and len(names(path)) == 3
    assert ostraca.load(path)["/etc/passwd"] == 2


def test_path_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError) as caught:
        ostraca.save(tmp_path / "file" / "checkpoint", 1)
    assert caught.value.errno == errno.ENOTDIR and str(tmp_path) in str(caught.value)
