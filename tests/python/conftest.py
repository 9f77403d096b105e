"""What the tests share: their own helper modules, a place for a checkpoint, a library that strikes at calls."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")  # before anything imports jax

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves it out

SHIM_SOURCE = Path(__file__).parents[1] / "faults" / "interpose.c"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a checkpoint may be saved."""
    return tmp_path / "checkpoint"


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs Linux and a C compiler, for the library that interposes system calls")
    library = tmp_path_factory.mktemp("shim") / "interpose.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-w", SHIM_SOURCE, "-o", library, "-ldl", "-lpthread"], check=True
    )
    return library
