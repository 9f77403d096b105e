"""Progress: a callable of the caller's, or the built-in bar on standard error."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from .printing import escaped

ProgressCallback = Callable[[int, int], object]  # bytes done, bytes total
Progress = bool | ProgressCallback | None

REDRAW_SECONDS: Final = 0.1
_BAR_CELLS: Final = 24
_UNITS: Final = ("B", "kB", "MB", "GB", "TB")  # each a thousand of the one before


@contextmanager
def reporting(progress: Progress, label: str) -> Iterator[ProgressCallback | None]:
    """What to hand to the engine for `progress=`: None, the caller's callable, or a bar that ends with the block."""
    if progress is None or progress is False:
        yield None
    elif progress is True:
        bar = Bar(label)
        try:
            yield bar
        except BaseException:
            bar.leave()
            raise
        bar.close()
    else:
        yield progress


def check_progress(progress: Progress) -> None:
    if progress is not None and not isinstance(progress, bool) and not callable(progress):
        raise TypeError(f"progress must be True or a callable of (bytes done, bytes total), not {progress!r:.80}")


class Bar:
    """One line that is redrawn on a terminal; elsewhere a single line at the end."""

    def __init__(self, label: str) -> None:
        self._label = escaped(label)
        self._started = time.monotonic()
        self._drawn = 0.0
        self._done = self._total = 0
        self._on_terminal = sys.stderr is not None and sys.stderr.isatty()

    def __call__(self, done: int, total: int) -> None:
        self._done, self._total = done, total
        now = time.monotonic()
        if self._on_terminal and now - self._drawn >= REDRAW_SECONDS:
            self._drawn = now
            self._draw(now, "")

    def close(self) -> None:
        """The work is done."""
        self._draw(time.monotonic(), "\n")

    def leave(self) -> None:
        """The work failed: an error will say so."""
        if self._drawn and sys.stderr is not None:
            sys.stderr.write("\n")

    def _draw(self, now: float, end: str) -> None:
        line = self._line(now)
        if self._on_terminal:
            line = f"\r{line[: _columns() - 1]}\x1b[K"
        if sys.stderr is not None:
            sys.stderr.write(line + end)
            sys.stderr.flush()

    def _line(self, now: float) -> str:
        seconds = max(now - self._started, 1e-9)
        done, total = self._done, self._total
        share = done / total if total else 1.0
        filled = int(share * _BAR_CELLS)
        rate = done / seconds
        unit = _unit(total)
        tail = f"{seconds:.1f} s" if done >= total else f"ETA {_clock((total - done) / rate) if rate else '?'}"
        return (
            f"{self._label} [{'#' * filled}{'.' * (_BAR_CELLS - filled)}] {share:4.0%}"
            f" {_in(unit, done)}/{_in(unit, total)} {_UNITS[unit]}, {_in(_unit(rate), rate)} {_UNITS[_unit(rate)]}/s,"
            f" {tail}"
        )


def _unit(nbytes: float) -> int:
    """The largest of which there is one at least; its place in _UNITS."""
    return next((unit for unit in range(len(_UNITS) - 1, 0, -1) if nbytes >= 1000**unit), 0)


def _in(unit: int, nbytes: float) -> str:
    return f"{nbytes / 1000**unit:.2f}" if unit else f"{nbytes:.0f}"


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds + 0.5), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
