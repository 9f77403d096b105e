"""The built-in progress bar, on a terminal and elsewhere."""

import io
import sys

import pytest

from ostraca import progress


class Stream(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def show(monkeypatch: pytest.MonkeyPatch, terminal: bool, fail: bool = False) -> str:
    stream = Stream(terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    try:
        with progress.reporting(True, "saving x") as bar:
            assert bar is not None
            for done in range(0, 2_000_000_001, 1_000_000):
                bar(done, 2_000_000_000)
                if fail:
                    raise KeyError
    except KeyError:
        pass
    return stream.getvalue()


def test_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "REDRAW_SECONDS", 0.0)
    frames = show(monkeypatch, True).split("\r")
    assert (
        len(frames) > 1000 and "50%" in frames[1001] and "ETA 0:00" in frames[1001] and "1.00/2.00 GB" in frames[1001]
    )
    assert all(len(frame) < 90 for frame in frames) and frames[-1].endswith("\n") and "100%" in frames[-1]
    monkeypatch.setattr(progress, "REDRAW_SECONDS", 3600.0)
    assert show(monkeypatch, True).count("\r") <= 2  # rate-limited


def test_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    text = show(monkeypatch, False)
    assert (
        text.count("\n") == 1 and "saving x" in text and "100%" in text and "2.00/2.00 GB" in text and "\r" not in text
    )


def test_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    assert show(monkeypatch, False, fail=True) == ""
    assert "100%" not in show(monkeypatch, True, fail=True)


def test_no_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with progress.reporting(True, "x") as bar:
        assert bar is not None
        bar(1, 2)


def test_others() -> None:
    with progress.reporting(None, "x") as none:
        assert none is None
    with progress.reporting(print, "x") as given:
        assert given is print
