"""The README's Python examples run as they stand, one after the other."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ostraca

README = Path(__file__).parents[2] / "README.md"


def test_python_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 3
    names: dict[str, Any] = {}
    exec(compile(blocks[0], str(README), "exec"), names)
    assert names["rows"].shape == (128, 512)
    assert (names["restored"]["params"]["kernel"] != names["state"]["params"]["kernel"]).all()  # saved before += 1
    assert names["restored"]["step"] == 1000
    exec(compile(blocks[1], str(README), "exec"), names)
    assert names["info"].referenced_bytes > 0
    assert np.allclose(ostraca.load("run/0000001040")["params"]["bias"], 0.4)
    assert ostraca.open("run/0000001020").info.referenced_bytes == 0
    with pytest.raises(ostraca.NotFoundError):
        ostraca.load("run/0000001000")
    pytest.importorskip("jax")
    exec(compile(blocks[2], str(README), "exec"), names)
    assert names["state"]["kernel"].sharding == names["rows"] and names["state"]["step"] == 1000
