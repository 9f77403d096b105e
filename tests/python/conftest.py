"""What the tests share: their own helper modules, a place for a checkpoint, a library that strikes at calls."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from orbax_plugs import Plug

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")  # before anything imports jax

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves it out

FAULTS = Path(__file__).parents[1] / "faults"


@pytest.fixture(autouse=True)
def patience_of_orbax(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a save that failed, Orbax's threads may wait so long for a directory, and hold up the exit."""
    if request.module.__name__.rpartition(".")[2].startswith("test_orbax"):
        from orbax.checkpoint._src.multihost import multihost

        monkeypatch.setattr(multihost, "_DEFAULT_BARRIER_TIMEOUT", 20)


@pytest.fixture(params=["stock", "ours"])
def plug(request: pytest.FixtureRequest) -> "Plug":
    """Stock Orbax, or Orbax on Ostraca."""
    from orbax_plugs import Plug

    return Plug(request.param == "ours")


@pytest.fixture
def ours() -> "Plug":
    from orbax_plugs import Plug

    return Plug(True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a checkpoint may be saved."""
    return tmp_path / "checkpoint"


def preloaded(name: str, directory: Path) -> Path:
    """A library of ../faults, built."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs Linux and a C compiler, for a library that is preloaded into processes")
    library = directory / f"{name}.so"
    source = FAULTS / f"{name}.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-w", source, "-o", library, "-ldl", "-lpthread"], check=True)
    return library


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that strikes at calls."""
    return preloaded("interpose", tmp_path_factory.mktemp("shim"))


@pytest.fixture(scope="session")
def clock(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The library that steps a process's clock."""
    return str(preloaded("clock", tmp_path_factory.mktemp("clock")))
