"""A path as people write it: any bytes, `~`, file: URLs; and the schemes that name what is not there yet."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import ostraca

TREE = {"w": np.arange(6, dtype="f4").reshape(2, 3)}
NOT_UTF8 = b"run-\xff\xfe"


def same(loaded: Any) -> bool:
    return list(loaded) == ["w"] and np.array_equal(loaded["w"], TREE["w"])


def cli(*arguments: str | bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "ostraca", *arguments], capture_output=True)


class TestNotUtf8:
    """A directory's name is any bytes; Python shows those that are no text as surrogates."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        return tmp_path / os.fsdecode(NOT_UTF8)

    def test_every_function(self, place: Path) -> None:
        first, second, third, fourth = (str(place / name) for name in "1234")
        assert ostraca.save(first, TREE, step=1).path == first
        assert ostraca.save_async(second, TREE, base=first, step=2).result().path == second
        with ostraca.BaseSnapshot(Path(first)) as base:
            assert base.path == first
            ostraca.save(third, TREE, base=base, step=3)
        assert same(ostraca.load(second)) and same(ostraca.load(Path(third)))
        assert ostraca.verify(second, deep=True).ok
        with ostraca.open(second) as opened, ostraca.Reader(second) as reader:
            assert opened.path == reader.path == second and opened.step == 2
        assert ostraca.compact(second).path == second
        writer = ostraca.Writer(fourth)
        writer.add("w", TREE["w"], dtype="f4", shape=(2, 3))
        ostraca.commit(fourth, [writer.finish()])
        assert "4" in [removed.name for removed in ostraca.prune(place, keep=["1", "2", "3"], grace_seconds=0).removed]

    @pytest.mark.parametrize("kind", [bytes, Path, str])
    def test_as_a_name_of_a_checkpoint(self, place: Path, kind: type) -> None:
        given = kind(place)
        ostraca.save(given, TREE)
        assert NOT_UTF8 in os.listdir(bytes(place.parent))  # noqa: PTH208
        assert same(ostraca.load(given)) and ostraca.verify(given).ok

    def test_errors_name_it(self, place: Path) -> None:
        with pytest.raises(ostraca.NotFoundError, match="run-\udcff\udcfe"):
            ostraca.load(place)
        ostraca.save(place / "w", TREE)
        with pytest.raises(ostraca.ExistsError, match="run-\udcff\udcfe"):
            ostraca.save(place / "w", TREE)
        (place / "loop").symlink_to("loop")
        with pytest.raises(OSError, match="run-\udcff\udcfe") as caught:
            ostraca.load(place / "loop")
        assert caught.value.filename == str(place / "loop")

    def test_damage_names_it(self, place: Path) -> None:
        ostraca.save(place, TREE)
        (data,) = place.glob("p*")
        data.unlink()
        assert not ostraca.verify(place).ok
        (place / "manifest.json").write_text("{}")
        (place / os.fsdecode(b"p\xff.ostraca")).write_bytes(b"x" * 300)
        assert "p\udcff.ostraca" in [damage.file for damage in ostraca.verify(place).damaged]

    def test_as_a_base_it_is_refused_by_name(self, place: Path) -> None:
        ostraca.save(place, TREE)
        with pytest.raises(ostraca.MismatchError, match=r"run-.*UTF-8.*rename"):
            ostraca.save(place.parent / "2", TREE, base=place)
        assert os.listdir(bytes(place.parent)) == [NOT_UTF8]  # noqa: PTH208

    @pytest.mark.parametrize("command", ["verify", "inspect", "ls"])
    def test_command_line(self, place: Path, command: str) -> None:
        ostraca.save(place, TREE)
        for more in ([], ["--json"]):
            done = cli(command, bytes(place), *more)
            assert done.returncode == 0, done.stderr
            assert b"\xff" not in done.stdout and b"Traceback" not in done.stderr
        done = cli("ls", "--json", bytes(place.parent))
        assert json.loads(done.stdout)["checkpoints"][0]["path"] == str(place)

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.binary(min_size=1, max_size=40))
    def test_any_name(self, tmp_path: Path, name: bytes) -> None:
        assume(not set(name) & set(b"\0/") and name not in (b".", b".."))
        where = bytes(tmp_path) + b"/" + name
        info = ostraca.save(where, TREE, overwrite=True)
        assert os.fsencode(info.path) == where and same(ostraca.load(where)) and same(ostraca.load(info.path))
