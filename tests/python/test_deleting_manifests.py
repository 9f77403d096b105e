"""Nothing that was not checked is acted upon: what readers refuse is no checkpoint, and spoils its own place only."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import format_writer
import ostraca
from deleting import content, error, holds, keyframe_and_delta, members_of, names, reseal, state

TIMEOUT_SECONDS = 60.0  # for a command that takes a fraction of a second
MEMORY_BYTES = 3 << 30  # of addresses: fifty times the largest document below
HUGE_BYTES = 57 << 20
WHOLE = ("committed", "ok")  # what `ls` calls a checkpoint that it can read, now and formerly


def command(*arguments: object) -> tuple[int, str, str]:
    """Exit status, output and errors of `ostraca ...`, in a process that must not hang, nor take all memory."""
    line = [sys.executable, "-m", "ostraca", *map(str, arguments)]
    try:
        done = subprocess.run(
            line,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES)),
        )
    except subprocess.TimeoutExpired:
        pytest.fail(f"`ostraca {arguments[0]}` hangs")
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three checkpoints."""
    for step in (1, 2, 3):
        ostraca.save(tmp_path / "run" / str(step), state(step), step=step)
    return tmp_path / "run"


# --- An id is not a path


@pytest.mark.parametrize(
    ("attempt", "victim"),
    [
        ("../../../../home/settings", "home/settings.json"),
        ("../../../3/manifest", "run/3/manifest.json"),
        ("../../../2/manifest", "run/2/manifest.json"),
        ("/../../../../home/settings", "home/settings.json"),
        ("../manifest", "run/1/manifest.json"),
    ],
)
def test_an_id_that_is_a_path_leads_nowhere(run: Path, attempt: str, victim: str) -> None:
    """A default `prune`, with directories that make the path whole."""
    home = run.parent / "home"
    home.mkdir()
    (home / "settings.json").write_text("mine")
    for prefix in ("tombstone", "manifest", "intent", "index"):
        (run / "1" / f"{prefix}-..").mkdir()
        (run / "1" / f"{prefix}-").mkdir()
    reseal(run / "1", id=attempt)
    before = content(run.parent)
    report = ostraca.prune(run, keep=["2", "3"])
    after = content(run.parent)
    assert after.get(victim) == before[victim], f"{victim} was replaced or renamed"
    assert after == before and names(run) == ["1", "2", "3"]
    assert error(report, "1"), "nobody was told"
    assert holds(run / "2", 2) and holds(run / "3", 3)


def test_ids_in_a_base_and_in_an_intent_are_no_paths_either(run: Path) -> None:
    keyframe_and_delta(run)
    reseal(run / "delta", base={"directory": "base", "id": "../../../../home/settings"})
    members = {"format": "ostraca-intent", "version": 1, "id": "../../x", "process_count": 1, "pid": 1, "host": "x"}
    members |= {"base": {"directory": "../run/base", "id": "../x"}, "created": "2026-11-20T12:00:00Z"}
    (run / "dead").mkdir()
    (run / "dead" / f"intent-{'ab' * 16}.json").write_bytes(format_writer.manifest_bytes(members))
    before = content(run)
    report = ostraca.prune(run, keep=["1", "2", "3"])
    assert error(report, "delta") and content(run / "delta") == {
        name.removeprefix("delta/"): raw for name, raw in before.items() if name.startswith("delta/")
    }
    assert {name for name in before if name.startswith("base/p")} <= content(run).keys(), "it may be delta's base"


# --- What readers refuse is no checkpoint

REFUSED: dict[str, dict[str, Any]] = {
    "id": {"id": "not an id"},
    "id in capitals": {"id": "AB" * 16},
    "no index": {"index": None},
    "index is a path": {"index": {"file": "../1/index", "bytes": 1, "footer_crc32c": "00000000"}},
    "no files": {"files": []},
    "files are text": {"files": "all"},
    "process_count": {"process_count": -1},
    "created": {"created": 5},
    "writer": {"writer": None},
    "chunks": {"chunks": "many"},
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_readers_refuse_is_not_the_newest(run: Path, what: str) -> None:
    """It would be with its high step: then keep=1 removes all that can be loaded."""
    ostraca.save(run / "refused", state(9), step=1_000_000)
    reseal(run / "refused", **REFUSED[what])
    with pytest.raises((ostraca.OstracaError, ValueError)):
        ostraca.load(run / "refused")
    before = content(run / "refused")
    report = ostraca.prune(run, keep=1, grace_seconds=0)
    assert (run / "3" / "manifest.json").exists(), f"all that can be loaded was removed: {report}"
    assert holds(run / "3", 3) and error(report, "refused"), "nobody was told"
    assert not (run / "1" / "manifest.json").exists() and not (run / "2" / "manifest.json").exists()
    assert content(run / "refused") == before


def test_what_readers_refuse_is_not_given_to_a_keep_function(run: Path) -> None:
    reseal(run / "3", files=[])
    seen: list[str] = []
    ostraca.prune(run, keep=lambda record: seen.append(record.name) or True)
    assert sorted(seen) == ["1", "2"], f"keep() was asked about {seen}"


# --- Each spoils its own place only


def huge(path: Path, member: str, text: str) -> None:
    """Writes a manifest of 57 MiB, closed with the right checksum: `text` is what the member holds."""
    members = {name: value for name, value in members_of(path).items() if name != "crc32c"} | {member: "here"}
    raw = format_writer.manifest_bytes(members).decode()
    (path / "manifest.json").write_bytes(sealed(raw.replace(f'"{member}": "here"', f'"{member}": {text}')))


def sealed(text: str) -> bytes:
    import crc32c

    body = text[: text.rindex('"crc32c": "') + len('"crc32c": "')].encode()
    return body + f'{crc32c.crc32c(body):08x}"\n}}\n'.encode()


def loop(run: Path) -> None:
    (run / "loop").symlink_to("loop")


def manifest_loop(run: Path) -> None:
    (run / "1" / "manifest.json").unlink()
    (run / "1" / "manifest.json").symlink_to("manifest.json")


def fifo(run: Path) -> None:
    (run / "1" / "manifest.json").unlink()
    os.mkfifo(run / "1" / "manifest.json")


def fifo_intent(run: Path) -> None:
    os.mkfifo(run / "1" / f"intent-{'ab' * 16}.json")


def step_is_text(run: Path) -> None:
    reseal(run / "1", step="1")


def created_is_a_number(run: Path) -> None:
    reseal(run / "1", step=3, created=20261120)


def intent_of_numbers(run: Path) -> None:
    members = {"format": "ostraca-intent", "version": 1, "id": "ab" * 16, "process_count": 1, "base": None}
    members |= {"created": 7, "host": ["x"], "pid": 1e300}
    (run / "1" / f"intent-{'ab' * 16}.json").write_bytes(format_writer.manifest_bytes(members))


def many_lists(run: Path) -> None:
    huge(run / "1", "metadata", "[" + ",".join(["[]"] * (HUGE_BYTES // 3)) + "]")


def deep_lists(run: Path) -> None:
    huge(run / "1", "metadata", "[" * (HUGE_BYTES // 2) + "]" * (HUGE_BYTES // 2))


def deep_intent(run: Path) -> None:
    (run / "1" / f"intent-{'ab' * 16}.json").write_bytes(b"[" * HUGE_BYTES)


SPOILERS: list[Callable[[Path], None]] = [
    loop,
    manifest_loop,
    fifo,
    fifo_intent,
    step_is_text,
    created_is_a_number,
    intent_of_numbers,
    many_lists,
    deep_lists,
    deep_intent,
]


@pytest.mark.parametrize("spoil", SPOILERS, ids=lambda spoil: str(spoil.__name__))
def test_one_place_spoils_no_other(run: Path, spoil: Callable[[Path], None]) -> None:
    spoil(run)
    status, said, errors = command("prune", run, "--keep-step", 3, "--grace", 0, "--json")
    assert status in (0, 2) and said, f"prune stopped for the whole run: {errors}"
    removed = {entry["name"] for entry in json.loads(said)["removed"]}
    assert "2" in removed and not (run / "2" / "manifest.json").exists(), f"what was to go stays: {errors}"
    assert holds(run / "3", 3)
    status, said, errors = command("ls", run, "--json")
    assert said, f"ls stopped for the whole run: {errors}"
    shown = {Path(entry["path"]).name: entry["status"] for entry in json.loads(said)["checkpoints"]}
    assert shown.get("3") in WHOLE, f"ls says of what is whole that it is {shown.get('3')}"


@pytest.mark.parametrize("spoil", SPOILERS, ids=lambda spoil: str(spoil.__name__))
def test_one_place_hinders_no_overwrite_beside_it(run: Path, spoil: Callable[[Path], None]) -> None:
    spoil(run)
    code = "import sys, numpy as np, ostraca; ostraca.save(sys.argv[1], {'x': np.zeros(3)}, overwrite=True)"
    line = [sys.executable, "-c", code, run / "3"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    assert done.returncode == 0, f"refused: {done.stderr.strip().splitlines()[-1]}"
    assert ostraca.load(run / "3")["x"].shape == (3,)
