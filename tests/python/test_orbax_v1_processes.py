"""Orbax's v1 API, stock and on Ostraca: two processes of four devices save, and one of eight loads what they saved."""

from pathlib import Path

import pytest

import ostraca
from processes import Processes

PROGRAM = Path(__file__).with_name("orbax_v1_program.py")


def run(count: int, *arguments: object) -> None:
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={8 // count}"}
    with Processes(PROGRAM, count, *arguments, environment=flags) as processes:
        outputs = processes.wait(120)
    assert all(process.returncode == 0 for process in processes.all), outputs


@pytest.mark.parametrize("plug", ["stock", "ours"])
def test_two_processes_save_and_one_loads(plug: str, tmp_path: Path) -> None:
    run(2, tmp_path, plug, "save")
    run(1, tmp_path, plug, "load")
    if plug == "ours":
        assert ostraca.verify(tmp_path / "2" / "state", deep=True).ok
        assert len(list((tmp_path / "2" / "state").glob("p0000[01]-*.ostraca"))) == 2
