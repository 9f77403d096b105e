"""jax.distributed's coordination service as what `ostraca.sharded.services` asks for.

Beside `versions` the only module that touches private names of jax: its public face has no key-value store. They are
looked at when they are first used, and an error says which jax lacks them.
"""

from __future__ import annotations

import atexit
from typing import Any, Final

import jax

from .. import exiting
from ..errors import CoordinationError
from ..sharded.agreement import Group
from ..sharded.services import Alone
from . import versions

_CALLS: Final = ("key_value_set_bytes", "key_value_try_get_bytes", "key_value_delete")

_group: Group | None = None
_client: Any = None  # that `_group` is for


def group() -> Group:
    """The processes of this jax program. Raises `CoordinationError` when they cannot reach each other."""
    global _group, _client
    client = _find_client()
    if _group is None or client is not _client:  # jax.distributed was started, or ended, since
        if _group is not None:
            _group.pulse.close()
        _group, _client = Group(Alone() if client is None else JaxService(client)), client
    return _group


def _leave() -> None:
    """At exit: saves end, and then the others are told that this process has."""
    exiting.wait_at_exit()
    if _group is not None:
        _group.pulse.close()


# jax shuts its service down at exit: ours comes before that, in the reverse order of registration.
atexit.register(_leave)


class JaxService:
    """Calls hang while process 0, which runs the service, is stopped; they have no timeouts."""

    def __init__(self, client: Any) -> None:
        self.process_index, self.process_count = jax.process_index(), jax.process_count()
        self._client = client

    def set(self, key: str, value: bytes, *, overwrite: bool = False) -> bool:
        try:
            self._client.key_value_set_bytes(key, value, allow_overwrite=overwrite)
        except jax.errors.JaxRuntimeError as error:
            if str(error).startswith("ALREADY_EXISTS"):
                return False
            raise _lost(error) from error
        return True

    def try_get(self, key: str) -> bytes | None:
        try:
            value: bytes = self._client.key_value_try_get_bytes(key)
        except jax.errors.JaxRuntimeError as error:
            if str(error).startswith("NOT_FOUND"):
                return None
            raise _lost(error) from error
        return value

    def delete(self, key: str) -> None:
        try:
            self._client.key_value_delete(key)
        except jax.errors.JaxRuntimeError as error:
            raise _lost(error) from error


def _find_client() -> Any:
    """None for a single process."""
    try:
        from jax._src.distributed import global_state

        client, count = global_state.client, global_state.num_processes
    except (ImportError, AttributeError) as error:
        raise _unknown(str(error)) from error
    if client is None:
        if jax.process_count() == 1:
            return None
        raise CoordinationError(
            f"there are {jax.process_count()} jax processes, and no way for them to agree: call"
            " jax.distributed.initialize() first"
        )
    if count != jax.process_count():
        raise CoordinationError(
            f"jax.distributed has {count} processes, but jax.process_count() is {jax.process_count()}"
        )
    missing = [name for name in _CALLS if not hasattr(client, name)]
    if missing:
        raise _unknown(f"its client has no {', '.join(missing)}")
    return client


def _unknown(why: str) -> CoordinationError:
    return CoordinationError(
        f"jax {jax.__version__} keeps the coordination service elsewhere than Ostraca knows ({why}): install a jax that"
        f" this release of Ostraca was tested with ({versions.SUPPORTED}), or a newer Ostraca"
    )


def _lost(error: Exception) -> CoordinationError:
    first_line = str(error).partition("\n")[0]
    return CoordinationError(f"jax's coordination service, which process 0 runs, failed: {first_line}")
