"""Notices of preemption: SIGTERM, which schedulers send before they end a job.

With jax.distributed its own service catches the signal, in C, and finds a step that all processes have yet to reach: no
handler of ours then, which would take the signal from it. Otherwise a Python handler sets a flag, and calls the
handler that was there before.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, SupportsIndex

import jax

from ..errors import UnsupportedError
from ..options import checked_int

_installed = _noticed = False
_reached: int | None = None  # the step for which a notice was reported
_previous: Callable[[int, FrameType | None], Any] | None = None


def reached_preemption(step: SupportsIndex) -> bool:
    """Whether to save at this step, because the job is about to be ended: a SIGTERM came.

    To be called at every step, with jax.distributed in every process; all get True for the same step, once. Without
    it the first call installs the handler, which then is the main thread's to make. Raises `UnsupportedError` where
    notices cannot be received.
    """
    global _noticed, _reached
    step = checked_int("step", step, 0)
    if jax.distributed.is_initialized():
        return _reached_sync_point(step)
    install_preemption_handler()
    if _noticed:
        _noticed, _reached = False, step
    return step == _reached


def install_preemption_handler() -> None:
    """Catches SIGTERM from now on. Does nothing with jax.distributed, nor a second time. Call it in the main thread.

    Without it the signal ends a program that gets it before its first step. The handler that is there now is called
    too; one that is installed later has to call this one.
    """
    global _installed, _previous
    if _installed or jax.distributed.is_initialized():
        return
    if threading.current_thread() is not threading.main_thread():
        raise UnsupportedError(
            "signals are caught in the main thread: let that be the first to call ostraca.jax.reached_preemption(step)."
            " A program of several processes calls jax.distributed.initialize() before, and needs no handler of ours"
        )
    previous = signal.getsignal(signal.SIGTERM)
    if previous is None:
        raise UnsupportedError(
            "a handler for SIGTERM that was not installed by Python is there, which ours could not call: notice"
            " preemption by it, or do not install it"
        )
    _previous = previous if callable(previous) else None
    signal.signal(signal.SIGTERM, _notice)
    _installed = True


def _notice(number: int, frame: FrameType | None) -> None:
    global _noticed
    _noticed = True
    if _previous is not None:
        _previous(number, frame)


def _reached_sync_point(step: int) -> bool:
    from jax.experimental import multihost_utils

    try:
        return bool(multihost_utils.reached_preemption_sync_point(step))
    except RuntimeError as error:
        raise UnsupportedError(
            "jax's preemption service is off: set JAX_ENABLE_PREEMPTION_SERVICE=true, or the option"
            " jax_enable_preemption_service, before jax.distributed.initialize()"
        ) from error
