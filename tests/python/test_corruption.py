"""Every flipped bit, every truncation: found by verify, refused by load, with the file and the array named.

The exhaustive part runs in processes of its own (this file as a script), so that a crash would be a failure.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import ostraca
from ostraca import _core, reference
from ostraca.errors import CorruptionError, FormatError

WORKERS = 2
REFERENCE_EVERY = 211  # flips: the reference reader is slower, so it sees a sample
PACKED = {"w": ("w", "bias"), "bias": ("w", "bias")}  # two float32 arrays share a chunk


def state() -> dict[str, object]:
    rng = np.random.default_rng(0)
    return {
        "w": (rng.normal(size=150) * 0.02).astype(np.float32),
        "bias": (rng.normal(size=(3, 20)) * 0.02).astype(np.float32),
        "ids": (np.arange(60) // 7).astype(np.int64),
        "noise": rng.integers(0, 256, 150, dtype=np.uint8),
        "text": np.frombuffer(b"to be, or not to be, that is the question: " * 6, np.int8),
        "none": None,
    }


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corruption") / "pristine"
    ostraca.save(path, state(), step=7, metadata={"note": "small", "list": [1, 2.5, None]}, io="buffered")
    return path


class Target:
    """A checkpoint to damage, what is where in it, and the memory that loads go to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = {f.name: f.read_bytes() for f in sorted(path.iterdir())}
        self.extents: dict[tuple[str, int, int], set[str]] = {}  # file, first byte, end -> arrays
        self.codecs: set[int] = set()
        self.requests: list[tuple[int, None, np.ndarray]] = []
        reader = _core.Reader(str(path))
        tree = state()
        for number, _, name, kind, *_, shape, _ in reader.leaves(tuple, tuple(range(1, 12))):
            if kind >= 8:
                continue
            self.requests.append((number, None, np.empty(shape, tree[name].dtype)))  # type: ignore[attr-defined]
            for file, offset, stored, _, codec, *_ in reader.chunks(number):
                self.extents.setdefault((file, offset, offset + stored), set()).add(name)
                self.codecs.add(codec)

    def arrays_at(self, file: str, offset: int) -> set[str]:
        return next((a for (f, start, end), a in self.extents.items() if f == file and start <= offset < end), set())

    def load(self) -> None:
        _core.Reader(str(self.path)).read_into(self.requests)

    def problem(self, file: str, arrays: set[str]) -> str:
        """What verify or load fail to say about damage in `file`; empty when all is well."""
        try:
            damaged = _core.verify(str(self.path))[2]
            found = "; ".join(" ".join(map(str, d)) for d in damaged)
            if {d[0] for d in damaged} != {file}:
                return f"verify reports {found or 'nothing'}"
        except (CorruptionError, FormatError) as error:
            found = str(error)
        try:
            self.load()
            return "load returned data"
        except (CorruptionError, FormatError) as error:
            for text, who in ((found, "verify"), (str(error), "load")):
                named = all(f"'{a}'" in text or f" {a} " in text or f" {a}:" in text for a in arrays)
                if file not in text or not named:
                    return f"{who} names not all of {file}, {arrays}: {text}"
        return ""


def flips(target: Target, worker: int) -> Iterator[str]:
    for file, good in target.files.items():
        with (target.path / file).open("r+b", buffering=0) as f:
            for offset in range(worker, len(good), WORKERS):
                arrays = target.arrays_at(file, offset)
                for bit in range(8):
                    os.pwrite(f.fileno(), bytes([good[offset] ^ 1 << bit]), offset)
                    if problem := target.problem(file, arrays):
                        yield f"{file} byte {offset} bit {bit}: {problem}"
                    if (8 * offset + bit) % REFERENCE_EVERY == 0 and not reference.verify(target.path):
                        yield f"{file} byte {offset} bit {bit}: the reference reader sees nothing"
                os.pwrite(f.fileno(), good[offset : offset + 1], offset)


def truncations(target: Target, worker: int) -> Iterator[str]:
    for file, good in target.files.items():
        with (target.path / file).open("r+b", buffering=0) as f:
            for size in range(len(good) - 1 - worker, -1, -WORKERS):
                os.truncate(f.fileno(), size)
                if problem := target.problem(file, set()):
                    yield f"{file} cut to {size}: {problem}"
                if size % REFERENCE_EVERY == 0 and not reference.verify(target.path):
                    yield f"{file} cut to {size}: the reference reader sees nothing"
            for more in (b"\0", b"\n", good[-1:]):
                os.truncate(f.fileno(), 0)
                os.pwrite(f.fileno(), good + more, 0)
                if problem := target.problem(file, set()):
                    yield f"{file} with {more!r} appended: {problem}"
            os.truncate(f.fileno(), len(good))
    target.load()  # restored: the test damaged what it meant to


@pytest.mark.parametrize("what", ["flips", "truncations"])
def test_no_single_damage_goes_unnoticed(pristine: Path, tmp_path: Path, what: str) -> None:
    target = Target(pristine)
    assert target.codecs == {0, 1, 2}  # raw, zstd, planes
    assert sum(map(len, target.files.values())) < 7000
    target.load()
    assert _core.verify(str(pristine), deep=True)[2] == []
    workers = []
    for worker in range(WORKERS):
        copy = shutil.copytree(pristine, tmp_path / str(worker))
        command = [sys.executable, __file__, what, str(worker), str(copy)]
        workers.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    for process in workers:
        output = process.communicate()[0]
        assert process.returncode == 0, output


def flip(path: Path, offset: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[offset] ^= 1
    path.write_bytes(raw)


@pytest.fixture
def damaged(pristine: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pristine, tmp_path / "damaged")


@pytest.mark.parametrize("deep", [False, True])
def test_all_damage_is_reported(damaged: Path, deep: bool) -> None:
    target = Target(damaged)
    for file, start, end in target.extents:
        flip(damaged / file, (start + end) // 2)
    data = next(file for file in target.files if file.startswith("p"))
    flip(damaged / data, 0)  # the header
    flip(damaged / data, len(target.files[data]) - 300)  # the data file's directory, or its padding
    expected = {(file, start) for file, start, _ in target.extents} | {(data, 0)}
    files = {data}
    for more in ("", "index", "manifest"):
        if more:
            files.add(next(file for file in target.files if file.startswith(more)))
            flip(damaged / max(files - {data}, key=lambda f: f.startswith(more)), 150)
        found = _core.verify(str(damaged), deep=deep)[2]
        assert expected <= {d[:2] for d in found}, (more, found)
        assert {d[0] for d in found} == files, (more, found)
        assert len(found) > len(expected) + len(files) - 1, (more, found)
        for names in target.extents.values():
            assert any(all(n in d[2] + d[3] for n in names) for d in found), (more, names, found)


def test_a_missing_file_is_named(pristine: Path, tmp_path: Path) -> None:
    for file in Target(pristine).files:
        copy = shutil.copytree(pristine, tmp_path / file)
        target = Target(copy)
        (copy / file).unlink()
        if file == "manifest.json":
            with pytest.raises(ostraca.NotFoundError, match="did not finish"):
                target.load()
            continue
        assert [d[0] for d in _core.verify(str(copy))[2]] == [file]
        with pytest.raises(CorruptionError, match=file):
            target.load()


def test_files_of_another_checkpoint_are_refused(pristine: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    ostraca.save(other, {**state(), "noise": np.zeros(150, np.uint8)}, step=7, io="buffered")
    mine, theirs = (sorted(f.name for f in p.iterdir()) for p in (pristine, other))
    for name, foreign in zip(mine, theirs, strict=True):
        if name == "manifest.json":
            continue
        copy = shutil.copytree(pristine, tmp_path / name)
        target = Target(copy)
        shutil.copyfile(other / foreign, copy / name)
        assert target.problem(name, set()) == ""


def test_several_files_are_checked_each(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    attempt = "00112233445566778899aabbccddeeff"
    reports = []
    for process in range(3):
        writer = ostraca.Writer(path, process_index=process, process_count=3, attempt=attempt, codec="raw")
        rows = np.full((2, 4), process, np.int32)
        writer.add("w", rows, dtype="int32", shape=(2, 4), global_shape=(6, 4), offset=(2 * process, 0))
        reports.append(writer.finish())
    ostraca.commit(path, reports)
    names = [report.file for report in reports]
    flip(path / names[0], 64)
    (path / names[1]).unlink()
    found = _core.verify(str(path))[2]
    assert [d[0] for d in found] == names[:2]
    assert all("w" in d[2] + d[3] for d in found)
    with ostraca.open(path) as checkpoint:
        np.testing.assert_array_equal(checkpoint["w"][4:], np.full((2, 4), 2))  # what is intact can be read
        with pytest.raises(CorruptionError, match=names[0]):
            checkpoint["w"][:1]
        with pytest.raises(CorruptionError, match=names[1]):
            checkpoint["w"][2:]


def test_a_failed_load_names_the_arrays_it_touched(damaged: Path) -> None:
    target = Target(damaged)
    file, start, _ = next(extent for extent, names in target.extents.items() if names == {"noise"})
    flip(damaged / file, start)
    for _, _, array in target.requests:
        array.view(np.uint8)[...] = 0xA5
    reader = _core.Reader(str(damaged))
    touched: list[int] = []
    with pytest.raises(CorruptionError, match=r"'noise'"):
        reader.read_into(target.requests, modified=touched)
    assert touched
    for i, (_, _, array) in enumerate(target.requests):
        if i not in touched:
            assert (array.view(np.uint8) == 0xA5).all()


def test_metadata_of_a_manifest_is_covered(damaged: Path) -> None:
    """A manifest edited by hand is refused, even where it is still good JSON."""
    manifest = damaged / "manifest.json"
    text = manifest.read_text()
    assert json.loads(text)["step"] == 7
    manifest.write_text(text.replace('"step": 7', '"step": 8'))
    with pytest.raises(CorruptionError, match=r"manifest\.json"):
        ostraca.load(damaged)
    assert [d.file for d in ostraca.verify(damaged).damaged] == ["manifest.json"]


if __name__ == "__main__":
    problems = {"flips": flips, "truncations": truncations}[sys.argv[1]](Target(Path(sys.argv[3])), int(sys.argv[2]))
    shown = [problem for problem, _ in zip(problems, range(20), strict=False)]
    print("\n".join(shown))
    sys.exit(bool(shown))
