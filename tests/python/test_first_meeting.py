"""What a user meets first: each is a message with the place's name and what to do instead."""

import copy
import json
import pickle
import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ostraca
import ostraca.jax
from ostraca.cli import main as command

TREE = {"w": np.arange(6.0)}


class TestWhereNoCheckpointIs:
    @pytest.fixture(
        params=[ostraca.load, ostraca.open, ostraca.verify, ostraca.Reader, ostraca.jax.load, ostraca.BaseSnapshot]
    )
    def ask(self, request: pytest.FixtureRequest) -> Any:
        return request.param

    def test_a_directory_of_checkpoints(self, tmp_path: Path, ask: Any) -> None:
        for step in (5, 100, 20):
            ostraca.save(tmp_path / f"{step}", TREE, step=step)
        (tmp_path / "other").mkdir()
        (tmp_path / "999").mkdir()
        (tmp_path / "999" / "manifest.json").write_text("{}")
        with pytest.raises(ostraca.NotFoundError, match="3 checkpoints") as caught:
            ask(tmp_path)
        assert repr(str(tmp_path / "20")) in str(caught.value)  # the last one that was saved

    def test_one_by_links(self, tmp_path: Path, ask: Any) -> None:
        ostraca.save(tmp_path / "elsewhere" / "1", TREE, step=1)
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "latest").symlink_to("../elsewhere/1")
        with pytest.raises(ostraca.NotFoundError, match="run/latest"):
            ask(tmp_path / "run")

    def test_a_link_that_leads_nowhere(self, tmp_path: Path, ask: Any) -> None:
        (tmp_path / "latest").symlink_to("gone/900")
        with pytest.raises(ostraca.NotFoundError, match=r"symbolic link to 'gone/900'"):
            ask(tmp_path / "latest")

    def test_nothing_else_is_said_of_an_empty_one(self, tmp_path: Path, ask: Any) -> None:
        with pytest.raises(ostraca.NotFoundError, match=r"it has no manifest\.json$"):
            ask(tmp_path)


class TestLinks:
    @pytest.fixture
    def farm(self, tmp_path: Path) -> Path:
        """A directory of links to a checkpoint's files."""
        ostraca.save(tmp_path / "stored", TREE)
        farm = tmp_path / "farm"
        farm.mkdir()
        for file in (tmp_path / "stored").iterdir():
            (farm / file.name).symlink_to(file)
        return farm

    def test_a_farm_is_a_checkpoint(self, farm: Path) -> None:
        assert np.array_equal(ostraca.load(farm)["w"], TREE["w"]) and ostraca.verify(farm).ok
        with pytest.raises(ostraca.ExistsError):
            ostraca.save(farm, TREE)
        ostraca.save(farm, {"w": TREE["w"] + 1}, overwrite=True)
        assert np.array_equal(ostraca.load(farm.parent / "stored")["w"], TREE["w"])

    @pytest.mark.parametrize("pattern", ["manifest.json", "index-*", "p0*"])
    def test_of_which_a_link_leads_nowhere(self, farm: Path, pattern: str) -> None:
        (target,) = farm.parent.glob(f"stored/{pattern}")
        target.rename(farm.parent / "unmounted")
        with pytest.raises(OSError, match=f"symbolic link to '{re.escape(str(target))}'"):
            ostraca.load(farm)

    def test_the_list_of_such(self, farm: Path, capfd: pytest.CaptureFixture[str]) -> None:
        (farm.parent / "stored" / "manifest.json").rename(farm.parent / "unmounted")
        assert command(["ls", "--json", str(farm)]) == 2
        (entry,) = json.loads(capfd.readouterr().out)["checkpoints"]
        assert entry["status"] == "unreadable" and "symbolic link to" in entry["detail"]

    def test_a_link_in_the_way_of_a_save(self, farm: Path) -> None:
        """It is refused at once, not when all is written."""
        (farm.parent / "stored" / "manifest.json").unlink()
        before = sorted(farm.iterdir())
        with pytest.raises(OSError, match="symbolic link"):
            ostraca.Writer(farm)
        assert sorted(farm.iterdir()) == before
        (farm.parent / "latest").symlink_to("gone/900")
        with pytest.raises(OSError, match="symbolic link to 'gone/900'"):
            ostraca.save(farm.parent / "latest", TREE)


@pytest.mark.parametrize("what", ["SaveHandle", "Checkpoint", "StoredArray", "Reader", "Writer", "BaseSnapshot"])
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps, lambda thing: copy.copy([thing])[0]])
def test_what_cannot_be_copied(path: Path, what: str, copied: Callable[[Any], Any]) -> None:
    handle = ostraca.save_async(path, TREE)
    handle.result()
    things: dict[str, Callable[[], Any]] = {
        "SaveHandle": lambda: handle,
        "Checkpoint": lambda: ostraca.open(path),
        "StoredArray": lambda: ostraca.open(path)["w"],
        "Reader": lambda: ostraca.Reader(path),
        "Writer": lambda: ostraca.Writer(path, overwrite=True),
        "BaseSnapshot": lambda: ostraca.BaseSnapshot(path),
    }
    thing = things[what]()
    if copied not in (copy.copy, copy.deepcopy, pickle.dumps):
        assert copied(thing) is thing  # a list of them can be copied
        return
    with pytest.raises(TypeError, match=rf"ostraca\.{what} cannot be copied or pickled.*; "):
        copied(thing)


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (np.array(1.5), r"float\(x\)"),
        (np.array(3), r"int\(x\)"),
        (np.array(True), r"bool\(x\)"),
        (jnp.float32(1), r"float\(x\)"),
        (jnp.bfloat16(1), r"float\(x\)"),
        (jnp.int8(1), r"int\(x\)"),
        (jnp.array(False), r"bool\(x\)"),
        (torch.tensor(1.5), r"float\(x\)"),
        (torch.tensor(2), r"int\(x\)"),
        (np.ones(2), r"x\.tolist\(\)"),
    ],
    ids=repr,
)
def test_arrays_in_metadata(path: Path, value: Any, advice: str) -> None:
    with pytest.raises(ostraca.UnsupportedError, match=rf"metadata\['loss'\]\['mean'\].*{advice}"):
        ostraca.save(path, TREE, metadata={"loss": {"mean": value}})
    assert not path.exists()


class Proxy:
    """As of libraries that make objects when they are first looked at."""

    @property
    def __class__(self) -> Any:
        raise RuntimeError("working outside of context")

    @__class__.setter
    def __class__(self, value: Any) -> None: ...


class Interface:
    @property
    def __array_interface__(self) -> Any:
        raise KeyError("lazy")


class Attributes:
    def __getattr__(self, name: str) -> Any:
        raise LookupError(f"no {name}")


class Exporter:
    def __dlpack_device__(self) -> Any:
        raise NotImplementedError("not on this device")

    def __dlpack__(self, **_: Any) -> Any:
        raise NotImplementedError("not on this device")


RECORDS = np.rec.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f4")])
LEAVES: dict[str, tuple[Callable[[], Any], str]] = {
    "structured": (lambda: np.zeros(3, [("a", "f4"), ("b", "i8")]), r"x\[name\] for name in x\.dtype\.names"),
    "record array": (lambda: RECORDS, r"x\[name\] for name in x\.dtype\.names"),
    "record": (lambda: RECORDS[0], r"x\[name\] for name in x\.dtype\.names"),
    "float0": (lambda: np.zeros(3, jax.dtypes.float0), r"float0.*None"),
    "float0 of a gradient": (lambda: jax.grad(lambda x: 1.0, allow_int=True)(jnp.int32(3)), r"float0.*None"),
    "jax.Ref": (lambda: jax.new_ref(jnp.ones(3)), r"ref\[\.\.\.\]"),
    "nested tensor": (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), r"nested.*unbind\(\)"),
    "jagged tensor": (
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
        r"nested.*unbind\(\)",
    ),
    "proxy": (Proxy, r"Proxy raises.*working outside of context"),
    "lazy interface": (Interface, r"Interface raises.*lazy"),
    "attributes": (Attributes, r"Attributes raises.*no __array_interface__"),
    "exporter": (Exporter, r"Exporter does not let.*not on this device"),
}


@pytest.mark.parametrize("save", [ostraca.save, ostraca.save_async, ostraca.jax.save])
@pytest.mark.parametrize("kind", LEAVES)
def test_leaves_that_are_refused(path: Path, kind: str, save: Callable[..., Any]) -> None:
    make, words = LEAVES[kind]
    with pytest.raises(ostraca.UnsupportedError, match=rf"'model/layers/0'.*{words}"):
        save(path, {"model": {"layers": [make(), np.ones(2)]}, "step": 1})
    assert not path.exists()


ESCAPES = "e\x1b[31m\x1b]0;title\x07\x9bred\r\n\u202e\x7f"


def acts(text: str) -> list[str]:
    """What of a text a terminal would act upon, lines' ends aside."""
    return [c for c in text.replace("\n", "") if unicodedata.category(c) in ("Cc", "Cf")]


class TestEscapeSequences:
    @pytest.fixture
    def saved(self, tmp_path: Path) -> Path:
        """A checkpoint whose name, leaves and metadata are all escape sequences."""
        place = tmp_path / ESCAPES / ESCAPES
        ostraca.save(place, {ESCAPES: {ESCAPES: np.arange(6.0), "n": 3}}, step=1, metadata={ESCAPES: ESCAPES})
        return place

    def test_in_messages(self, saved: Path, tmp_path: Path) -> None:
        (data,) = saved.glob("p0*")
        like = {ESCAPES: {ESCAPES: np.arange(7.0)}}
        asked: list[Callable[[], Any]] = [
            lambda: ostraca.load(tmp_path / ESCAPES / "missing"),
            lambda: ostraca.load(saved.parent),
            lambda: ostraca.load(data),
            lambda: ostraca.save(saved, TREE),
            lambda: ostraca.save(data / "x", TREE),
            lambda: ostraca.load(saved, like=like),
            lambda: ostraca.load(saved, select="nothing"),
            lambda: ostraca.open(saved)["nothing"],
            lambda: ostraca.save(tmp_path / "x", {ESCAPES: {ESCAPES: object()}}),
            lambda: ostraca.save(tmp_path / "x", TREE, metadata={ESCAPES: object()}),
            lambda: ostraca.save(tmp_path / "x", TREE, base=saved),
        ]
        for number, ask in enumerate(asked):
            with pytest.raises((ostraca.OstracaError, OSError, KeyError, ValueError)) as caught:
                ask()
                pytest.fail(f"number {number} raised nothing")
            assert not acts(str(caught.value)), f"number {number}: {caught.value!s}"
        for shown in (ostraca.open(saved), ostraca.open(saved)[f"{ESCAPES}/{ESCAPES}"], ostraca.BaseSnapshot(saved)):
            assert not acts(repr(shown))
        content = bytearray(data.read_bytes())
        content[64] ^= 1  # where the first chunk begins
        data.write_bytes(content)
        (damage,) = ostraca.verify(saved).damaged
        assert damage.array.startswith(f"{ESCAPES}/") and not acts(damage.reason)  # a name stays as it is
        with pytest.raises(ostraca.CorruptionError) as damaged:
            ostraca.load(saved)
        assert not acts(str(damaged.value)) and r"\x1b[31m" in str(damaged.value)

    @pytest.mark.parametrize(
        "arguments",
        [
            ["ls", "{run}"],
            ["ls", "{run}/missing"],
            ["inspect", "{path}"],
            ["inspect", "{path}", "--chunks"],
            ["inspect", "{path}", "{name}"],
            ["verify", "{path}"],
            ["verify", "{run}"],
            ["diff", "{path}", "{other}"],
            ["prune", "{run}", "--keep", "0", "--dry-run"],
            ["prune", "{run}", "--keep-step", "7"],
            ["compact", "{path}"],
            ["compact", "{path}", "{run}"],
            ["convert", "{path}", "{run}/{name}.safetensors"],
            ["convert", "{run}/missing.npz", "{run}/x"],
            ["{name}"],
        ],
        ids=" ".join,
    )
    def test_in_what_commands_print(
        self, saved: Path, tmp_path: Path, arguments: list[str], capfd: pytest.CaptureFixture[str]
    ) -> None:
        ostraca.save(tmp_path / "other", {ESCAPES: {ESCAPES: np.arange(7.0)}}, metadata={ESCAPES: 2})
        places = {"run": saved.parent, "path": saved, "other": tmp_path / "other", "name": ESCAPES}
        command([argument.format(**places) for argument in arguments])
        shown = capfd.readouterr()
        assert shown.out + shown.err and not acts(shown.out) and not acts(shown.err)

    def test_in_progress(self, saved: Path, capfd: pytest.CaptureFixture[str]) -> None:
        ostraca.load(saved, progress=True)
        ostraca.verify(saved, progress=True)
        ostraca.save(saved, TREE, overwrite=True, progress=True)
        shown = capfd.readouterr().err
        assert shown.count("100%") == 3 and not acts(shown)

    @settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(name=st.text(min_size=1, max_size=30).filter(lambda text: "\0" not in text and text.isprintable() is False))
    def test_any_name(self, tmp_path: Path, name: str) -> None:
        tree = {name: np.ones(3)}
        try:
            ostraca.save(tmp_path / "any", tree, overwrite=True)
        except ostraca.UnsupportedError as error:  # of a lone surrogate
            assert not acts(str(error))
            return
        with pytest.raises(ostraca.MismatchError) as caught:
            ostraca.load(tmp_path / "any", like={name: np.ones(4)})
        assert not acts(str(caught.value)) and not acts(repr(ostraca.open(tmp_path / "any")))


@pytest.mark.parametrize(
    ("nbytes", "shown"),
    [(300, "300/300 B"), (4 << 20, "4.19/4.19 MB"), (70_000, "70.00/70.00 kB")],
)
def test_a_bar_for_little(path: Path, nbytes: int, shown: str) -> None:
    code = "import sys, numpy, ostraca; ostraca.save(sys.argv[1], numpy.zeros(int(sys.argv[2]), 'u1'), progress=True)"
    done = subprocess.run([sys.executable, "-c", code, path, str(nbytes)], capture_output=True, text=True, check=True)
    assert f" {shown}, " in done.stderr and re.search(r"[0-9.]+ (B|kB|MB|GB)/s", done.stderr)


def test_the_command_line_names_the_newest(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ostraca.save(tmp_path / "1", TREE, step=1)
    assert command(["inspect", str(tmp_path)]) == 2
    assert repr(str(tmp_path / "1")) in capfd.readouterr().err
    assert command(["ls", "--json", str(tmp_path)]) == 0
    assert json.loads(capfd.readouterr().out)["checkpoints"]
