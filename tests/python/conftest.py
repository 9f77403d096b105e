"""What the tests share: their own helper modules, and a place for a checkpoint."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves it out


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a checkpoint may be saved."""
    return tmp_path / "checkpoint"
