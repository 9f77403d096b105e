"""Peak memory of a save and a load, for an array larger than 2^32 bytes and larger than every budget."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ARRAY_BYTES = 2**32 + 2**22  # past 32 bits, in bytes and in the last chunk's offset
EXTRA_MIB_MAX = 200

SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
import ostraca

def mib(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))

def extra(work):
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = mib("VmRSS")
    result = work()
    return mib("VmHWM") - before, result

path, nbytes = sys.argv[1], int(sys.argv[2])
block = (np.random.default_rng(0).standard_normal(2**20) * 0.02).astype(np.float32)  # 4 MiB
array = np.empty(nbytes // 4, np.float32)
for i, part in enumerate(array.reshape(-1, block.size)):
    np.multiply(block, np.float32(1 + i / 1024), out=part)
saved, info = extra(lambda: ostraca.save(path, {"w": array}, coding_bytes=2**26))
loaded, tree = extra(lambda: ostraca.load(path))
figures = {
    "save": saved,
    "load": loaded - nbytes / 2**20,
    "logical": info.logical_bytes,
    "equal": bool(np.array_equal(array, tree["w"])),
}
print(json.dumps(figures))
"""


def available_bytes() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def test_an_array_past_32_bits_within_the_memory_limit(tmp_path: Path) -> None:
    if available_bytes() < 3 * ARRAY_BYTES or shutil.disk_usage(tmp_path).free < 2 * ARRAY_BYTES:
        pytest.skip(f"needs {3 * ARRAY_BYTES >> 30} GiB of memory and {2 * ARRAY_BYTES >> 30} GiB of disk")
    try:
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(tmp_path / "big"), str(ARRAY_BYTES)],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert run.returncode == 0, run.stderr
        figures = json.loads(run.stdout)
    finally:
        shutil.rmtree(tmp_path / "big", ignore_errors=True)
    assert figures["equal"]
    assert figures["logical"] == ARRAY_BYTES
    assert figures["save"] <= EXTRA_MIB_MAX
    assert figures["load"] <= EXTRA_MIB_MAX
