"""Stock, and on Ostraca: two processes of four devices save and one of eight loads, by v1 and in the way of MaxText."""

from pathlib import Path

import pytest

import ostraca
from processes import Processes

V1 = Path(__file__).with_name("orbax_v1_program.py")
MAXTEXT = Path(__file__).with_name("orbax_maxtext_program.py")


def run(program: Path, count: int, *arguments: object) -> None:
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={8 // count}"}
    with Processes(program, count, *arguments, environment=flags) as processes:
        outputs = processes.wait(120)
    assert all(process.returncode == 0 for process in processes.all), outputs


@pytest.mark.parametrize("plug", ["stock", "ours"])
@pytest.mark.parametrize(("program", "item"), [(V1, "state"), (MAXTEXT, "items")], ids=["v1", "maxtext"])
def test_two_processes_save_and_one_loads(program: Path, item: str, plug: str, tmp_path: Path) -> None:
    run(program, 2, tmp_path, plug, "save")
    run(program, 1, tmp_path, plug, "load")
    if plug == "ours":
        assert ostraca.verify(tmp_path / "2" / item, deep=True).ok
        assert len(list((tmp_path / "2" / item).glob("p0000[01]-*.ostraca"))) == 2
