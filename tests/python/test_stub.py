"""The stub of the compiled module says what the module has."""

import os
import subprocess
import sys
from pathlib import Path

import ostraca

# What a stub cannot say, or says for people only: aliases, pybind11's metaclass and the constructor it never offers.
ALLOWED = r"""
ostraca\._core\.(Child|ChunkInfo|Description|Dims|LeafInfo|LeafSpec|Place|ProgressCallback|ScannedFile)
ostraca\._core\.(BaseSnapshot|CommitProgress|FileReport|Lease|Reader|Run|Storage|Writer)
ostraca\._core\.(FileReport|Lease|Storage)\.__init__
"""


def test_the_stub_has_not_drifted(tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"
    allowed.write_text(ALLOWED)
    command = [sys.executable, "-m", "mypy.stubtest", "ostraca._core", "--allowlist", str(allowed)]
    environment = {**os.environ, "MYPYPATH": str(Path(ostraca.__file__).parents[1])}  # an editable install hides it
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert run.returncode == 0, run.stdout + run.stderr
