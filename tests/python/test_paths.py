"""A path as people write it: any bytes, `~`, file: URLs; and the schemes that name what is not there yet."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import ostraca
from ostraca.cli import main as ostraca_command

TREE = {"w": np.arange(6, dtype="f4").reshape(2, 3)}
NOT_UTF8 = b"run-\xff\xfe"


def same(loaded: Any) -> bool:
    return list(loaded) == ["w"] and np.array_equal(loaded["w"], TREE["w"])


def names(place: str | Path) -> list[str]:
    return sorted(entry.name for entry in Path(place).iterdir())


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
        with pytest.raises(ostraca.NotFoundError, match=r"run-\\udcff\\udcfe"):
            ostraca.load(place)
        ostraca.save(place / "w", TREE)
        with pytest.raises(ostraca.ExistsError, match=r"run-\\udcff\\udcfe"):
            ostraca.save(place / "w", TREE)
        (place / "loop").symlink_to("loop")
        with pytest.raises(OSError, match=r"run-\\udcff\\udcfe") as caught:
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


def every_function(path: Any) -> list[Callable[[], Any]]:
    """All that take a path, with this one."""
    return [
        lambda: ostraca.save(path, TREE),
        lambda: ostraca.save_async(path, TREE),
        lambda: ostraca.load(path),
        lambda: ostraca.open(path),
        lambda: ostraca.verify(path),
        lambda: ostraca.prune(path, keep=1),
        lambda: ostraca.compact(path),
        lambda: ostraca.BaseSnapshot(path),
        lambda: ostraca.save("there/base", TREE, base=path),
        lambda: ostraca.Writer(path),
        lambda: ostraca.Reader(path),
        lambda: ostraca.commit(path, []),
    ]


COMMANDS = [
    ["ls"],
    ["inspect"],
    ["verify"],
    ["diff", "there"],
    ["prune", "--keep", "1"],
    ["compact"],
    ["bench", "--dir"],
    ["convert", "there"],
    ["convert", "--to", "orbax", "there"],
]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home directory, while the current one is another; there is a checkpoint in each."""
    home, current = tmp_path / "home", tmp_path / "current"
    current.mkdir()
    monkeypatch.chdir(current)
    monkeypatch.setenv("HOME", str(home))
    ostraca.save(home / "run" / "1", TREE, step=1)
    ostraca.save("there", TREE)
    return home


@pytest.mark.parametrize("url", ["gs://b/run/1", "S3://b/run/1", "hdfs://b/1", "abfs+x.y://b", "memory://x", "http:/x"])
class TestSchemes:
    """A URL is no directory, nor what pathlib makes of it."""

    def test_functions(self, home: Path, url: str) -> None:
        for given_path in (url, Path(url), url.encode()):
            for number, ask in enumerate(every_function(given_path)):
                with pytest.raises(ostraca.UnsupportedError, match=re.escape(url.partition(":")[0])):
                    ask()
                    pytest.fail(f"function {number} took it")
        assert names(".") == ["there"]

    def test_jax_and_orbax(self, home: Path, url: str) -> None:
        jax = pytest.importorskip("ostraca.jax")
        for ask in (lambda: jax.save(url, TREE), lambda: jax.save_async(url, TREE), lambda: jax.load(url)):
            with pytest.raises(ostraca.UnsupportedError, match=re.escape(url.partition(":")[0])):
                ask()
        assert names(".") == ["there"]

    @pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
    def test_commands(self, home: Path, url: str, command: list[str], capfd: pytest.CaptureFixture[str]) -> None:
        status = ostraca_command([*command, url])
        errors = capfd.readouterr().err
        assert status == 2 and "object stores" in errors and url.partition(":")[0] in errors
        assert names(".") == ["there"]


class TestWhatPeopleMean:
    @pytest.mark.parametrize(
        "form", ["~/run/1", "file://{home}/run/1", "file://localhost{home}/run/1", "FILE:{home}/run/1"]
    )
    def test_everywhere(self, home: Path, form: str, capfd: pytest.CaptureFixture[str]) -> None:
        path = form.format(home=home)
        for kind in (str, Path, os.fsencode):
            if kind is Path and "localhost" in path:
                continue  # pathlib leaves nothing that tells a host from a directory
            for ask in (
                ostraca.load,
                ostraca.open,
                ostraca.verify,
                ostraca.compact,
                ostraca.BaseSnapshot,
                ostraca.Reader,
            ):
                ask(kind(path))
            assert same(ostraca.load(kind(path)))
            info = ostraca.save(kind(path), TREE, overwrite=True)
            assert info.path == ostraca.open(kind(path)).path == str(home / "run" / "1")
            assert ostraca.save_async(kind(path.replace("run/1", "run/2")), TREE, overwrite=True).result().step is None
        ostraca.prune(path.removesuffix("/1"), keep=[path.replace("run/1", "run/2")], grace_seconds=0)
        assert names(home / "run") == ["2"] and not ostraca_command(["verify", path[:-1] + "2"])
        for command in ("ls", "inspect", "verify"):
            assert not ostraca_command([command, path[:-1] + "2"]), capfd.readouterr().err
        assert names(".") == ["there"]

    def test_one_that_is_nobodys_home(self, home: Path) -> None:
        for ask in every_function("~no-such-user/run"):
            with pytest.raises(ValueError, match=r"~no-such-user.*\./~no-such-user"):
                ask()
        assert names(".") == ["there"]

    @pytest.mark.parametrize("name", ["./gs://b/1", "./~/1", "./~no-such-user/1", "a:b", "x:/1", "gs:b"])
    def test_names_that_look_like_it(self, home: Path, name: str) -> None:
        assert ostraca.save(name, TREE).path == name
        assert same(ostraca.load(name)) and (home.parent / "current" / name / "manifest.json").exists()

    @pytest.mark.parametrize("url", ["file://", "file://elsewhere/run", "file:///a?b", "file:///a#b", "file:///%00"])
    def test_urls_that_name_no_file(self, home: Path, url: str) -> None:
        with pytest.raises(ValueError, match="path"):
            ostraca.save(url, TREE)
        assert names(".") == ["there"]

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.binary(min_size=1, max_size=40))
    def test_any_file_has_a_url(self, tmp_path: Path, name: bytes) -> None:
        assume(not set(name) & set(b"\0/") and name not in (b".", b".."))
        where = tmp_path / os.fsdecode(name)
        assert ostraca.save(where.as_uri(), TREE, overwrite=True).path == str(where)
        assert same(ostraca.load(where))
