"""Orbax's manager on Ostraca in several processes of jax.distributed."""

from pathlib import Path

import ostraca
from processes import Processes

PROGRAM = Path(__file__).with_name("orbax_program.py")


def run(directory: Path, count: int, task: str, devices: int = 2) -> list[str]:
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    with Processes(PROGRAM, count, directory, task, environment=flags) as processes:
        outputs = processes.wait(120)
    assert all(process.returncode == 0 for process in processes.all), outputs
    return outputs


def test_two_processes_save_and_one_restores(tmp_path: Path) -> None:
    run(tmp_path, 2, "save")
    item = tmp_path / "2" / "state"
    assert ostraca.verify(item, deep=True).ok
    assert len(list(item.glob("p0000[01]-*.ostraca"))) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2"]
    run(tmp_path, 1, "restore", devices=4)


def test_saves_begin_before_there_is_a_directory(tmp_path: Path) -> None:
    outputs = run(tmp_path, 2, "late", devices=4)
    assert all("done" in output for output in outputs)
    assert ostraca.verify(tmp_path / "3" / "state", deep=True).ok


def test_a_directory_that_cannot_be_made_fails_the_save_of_all(tmp_path: Path) -> None:
    zero, one = run(tmp_path, 2, "nowhere", devices=4)
    assert "raised OSError" in zero
    assert "no more for you" in zero
    assert "raised OstracaError" in one
    assert "process 0" in one
    assert "failed to make the directory" in one
    assert "Orbax still waits" in one


def test_a_process_that_cannot_write_fails_the_save_of_all(tmp_path: Path) -> None:
    """At once, and not when Orbax's barriers give up."""
    zero, one = run(tmp_path, 2, "fail")
    assert "raised OstracaError" in zero
    assert "process 1" in zero
    assert "raised OSError" in one
