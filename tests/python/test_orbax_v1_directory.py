"""v1's saves while Orbax makes the directory: in the background, slowly or not at all."""

import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint.experimental.v1 as ocp
import pytest
from orbax.checkpoint._src.path import atomicity

import ostraca
import ostraca.orbax.v1
from orbax_plugs import assert_same, state

MakeContext = Callable[[], ocp.Context]


@pytest.fixture(params=["stock", "ours"])
def context(request: pytest.FixtureRequest) -> MakeContext:
    return ocp.Context if request.param == "stock" else ostraca.orbax.v1.context


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Orbax makes no directory before this is set."""
    make, event = atomicity._create_tmp_directory, threading.Event()

    async def made(*arguments: Any, **named: Any) -> Any:
        event.wait(60)
        return await make(*arguments, **named)

    monkeypatch.setattr(atomicity, "_create_tmp_directory", made)
    yield event
    event.set()


def test_a_save_returns_before_its_directory_is_there(
    context: MakeContext, allowed: threading.Event, tmp_path: Path
) -> None:
    tree = {**state(1), "mutable": np.arange(1000.0)}
    with context():
        saving = ocp.save_async(tmp_path / "x", tree)
        tree["mutable"][:] = -1  # copied by now
        allowed.set()
        saving.result()
        assert_same(ocp.load(tmp_path / "x"), {**state(1), "mutable": np.arange(1000.0)})


def test_a_checkpointers_save_returns_too(context: MakeContext, allowed: threading.Event, tmp_path: Path) -> None:
    with ocp.training.Checkpointer(tmp_path, context=context()) as checkpointer:
        saving = checkpointer.save_async(0, state(0))
        allowed.set()
        assert saving.result()
        assert_same(checkpointer.load(0), state(0))


def test_a_directory_that_cannot_be_made(context: MakeContext, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The error is Orbax's, from the future; the save's thread ends with it."""

    async def fail(*arguments: Any, **named: Any) -> None:
        raise PermissionError(13, "no directories here", str(tmp_path))

    monkeypatch.setattr(atomicity, "_create_tmp_directory", fail)
    handles = []
    start = ostraca.orbax.Handler.start
    monkeypatch.setattr(
        ostraca.orbax.Handler, "start", lambda *args, **named: handles.append(start(*args, **named)) or handles[-1]
    )
    with context():
        saving = ocp.save_async(tmp_path / "x", state(1))
        with pytest.raises(PermissionError, match="no directories here"):
            saving.result()
    del saving
    gc.collect()
    for handle in handles:
        with pytest.raises(ostraca.CancelledError):
            handle.result(20)
    assert not list(tmp_path.iterdir())


def test_a_save_beyond_its_staging_budget(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It needs the directory before all is copied, and Orbax would make it only when `save` has returned."""

    class Small(ostraca.orbax.Handler):
        def __init__(self) -> None:
            super().__init__(staging_bytes=1 << 20)

    context = ostraca.orbax.v1.context()
    monkeypatch.setattr(ostraca.orbax.v1, "Handler", Small)
    monkeypatch.setattr(ostraca.orbax.v1, "_COPYING_SECONDS", 0.1)
    tree = {"w": np.random.default_rng(0).standard_normal((64, 1 << 16))}
    with context:
        ocp.save_async(tmp_path / "x", tree).result()
    with context, ocp.training.Checkpointer(tmp_path / "run") as checkpointer:
        checkpointer.save(0, tree)
        assert_same(checkpointer.load(0), tree)
    assert ostraca.verify(tmp_path / "x" / "state", deep=True).ok
