"""What the system does not let us read is neither damaged nor missing: it is said, with exit status 2."""

import contextlib
import errno
import json
import os
import resource
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ostraca
from ostraca.cli import main as command

TREE = {"w": np.random.default_rng(0).standard_normal((300, 300)), "b": np.arange(5)}
NOBODY = 65534


@pytest.fixture
def run() -> Iterator[Path]:
    """A keyframe and a delta, where another user may look."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o777)
    ostraca.save(place / "key", TREE, step=0)
    ostraca.save(place / "delta", {"w": TREE["w"] * (1 + 1e-12), "b": TREE["b"]}, step=1, base=place / "key")
    yield place
    shutil.rmtree(place)


def data_file(checkpoint: Path) -> Path:
    return next(checkpoint.glob("p0*.ostraca"))


def index_file(checkpoint: Path) -> Path:
    return next(checkpoint.glob("index-*.ostraca"))


def asked_by_nobody(ask: Callable[[], Any]) -> Any:
    """What `ask` returns in a process of a user whom the mode of files keeps out."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        answer: Any
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(NOBODY, NOBODY, NOBODY)
                os.setresuid(NOBODY, NOBODY, NOBODY)
            answer = ask()
        except BaseException as error:
            answer = [type(error).__name__, getattr(error, "errno", None), "".join(traceback.format_exception(error))]
        os.write(write, json.dumps(answer).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        answer = json.loads(stream.read() or b"null")
    os.waitpid(child, 0)
    return answer


@pytest.fixture(params=["data", "index", "base's data", "base's manifest"])
def closed(request: pytest.FixtureRequest, run: Path) -> Path:
    """A file that the delta needs and that others may not read."""
    place = {
        "data": data_file(run / "delta"),
        "index": index_file(run / "delta"),
        "base's data": data_file(run / "key"),
        "base's manifest": run / "key" / "manifest.json",
    }[request.param]
    place.chmod(0)
    return place


class TestVerify:
    @pytest.mark.parametrize("deep", [False, True])
    def test_report(self, run: Path, closed: Path, deep: bool) -> None:
        def ask() -> list[Any]:
            report = ostraca.verify(run / "delta", deep=deep)
            return [
                report.ok,
                [d.file for d in report.damaged],
                [[d.file, d.reason] for d in getattr(report, "unreadable", [])],
            ]

        ok, damaged, unreadable = asked_by_nobody(ask)
        assert not ok and not damaged, damaged
        assert unreadable and all(closed.name in file + reason for file, reason in unreadable)
        assert all("Permission denied" in reason for _, reason in unreadable)
        closed.chmod(0o644)
        assert asked_by_nobody(ask) == [True, [], []]

    def test_command(self, run: Path, closed: Path, capfd: pytest.CaptureFixture[str]) -> None:
        ask = lambda: command(["verify", str(run / "delta")])  # noqa: E731
        assert asked_by_nobody(ask) == 2
        shown = capfd.readouterr().out
        assert "UNREADABLE" in shown and "DAMAGED" not in shown and closed.name in shown
        closed.chmod(0o644)
        damaged = index_file(run / "delta")
        damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
        if closed != damaged:
            closed.chmod(0)
            assert asked_by_nobody(ask) == 1  # damage is a finding, whatever else could not be read

    def test_descriptors_that_are_used_up(self, run: Path) -> None:
        """A limit that leaves room for the first files only."""

        def ask() -> list[Any]:
            found = []
            held = []
            with contextlib.suppress(OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
                while True:
                    held.append(os.open(os.devnull, os.O_RDONLY))
            while held:
                os.close(held.pop())
                try:
                    report = ostraca.verify(run / "delta")
                except OSError as error:
                    found.append(error.errno)
                else:
                    found.append(len(report.damaged))
                    if report.ok:
                        return found
            return [*found, "never ok"]

        found = asked_by_nobody(ask)
        assert found[-1] == 0 and {*found} <= {errno.EMFILE, 0}, found


class TestSaves:
    def test_a_base_that_cannot_be_read(self, run: Path) -> None:
        (run / "key" / "manifest.json").chmod(0)

        def ask() -> list[Any]:
            found = []
            for base in ("key", "delta"):
                try:
                    ostraca.save(run / "next", TREE, base=run / base)
                except OSError as error:
                    found.append([error.errno, str(error), (run / "next").exists()])
            return found

        for code, message, left in asked_by_nobody(ask):
            assert code == errno.EACCES and "Permission denied" in message and not left
            assert "not there" not in message and "without a base" not in message

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_a_manifest_in_the_way(self, run: Path, overwrite: bool) -> None:
        """The save is refused before it has read an array."""
        (run / "key").chmod(0o777)
        (run / "key" / "manifest.json").chmod(0)
        before = sorted(entry.name for entry in (run / "key").iterdir())

        def ask() -> list[Any]:
            try:
                ostraca.Writer(run / "key", overwrite=overwrite)
            except OSError as error:
                return [error.errno, str(error)]
            return ["it began", ""]

        code, message = asked_by_nobody(ask)
        assert code == errno.EACCES and "manifest.json" in message
        assert sorted(entry.name for entry in (run / "key").iterdir()) == before

    def test_a_directory_that_vanished(self, run: Path) -> None:
        """Of a single process: nobody has to share anything."""
        writer = ostraca.Writer(run / "new")
        writer.add("w", TREE["w"], dtype="f8", shape=(300, 300))
        report = writer.finish()
        shutil.rmtree(run / "new")
        (run / "new").mkdir()
        with pytest.raises(ostraca.NotFoundError, match="removed") as caught:
            ostraca.commit(run / "new", [report])
        assert "share" not in str(caught.value)


class TestList:
    def test_committed_is_not_verified(self, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with data_file(run / "key").open("r+b") as file:
            file.seek(5000)
            file.write(b"changed")
        assert command(["ls", str(run)]) == 0  # sizes are as they should be
        shown = capsys.readouterr().out
        assert " committed\n" in shown and " ok\n" not in shown

    def test_what_cannot_be_read(self, run: Path, capfd: pytest.CaptureFixture[str]) -> None:
        (run / "key" / "manifest.json").chmod(0)
        assert asked_by_nobody(lambda: command(["ls", "--json", str(run)])) == 2
        entries = json.loads(capfd.readouterr().out)["checkpoints"]
        assert {entry["status"] for entry in entries} == {"unreadable"}
