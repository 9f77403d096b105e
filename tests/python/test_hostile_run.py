"""Anything in place of any file of a run, and any text in place of any member of its manifests and intents.

`ls`, prune, compact and overwriting saves touch nothing outside the run and no other checkpoint, go on with the rest,
and end. Each case runs in forked processes, so that one that hangs or dies is told; this file is also the script that
forks. By default members are replaced in one of the places by turns; `OSTRACA_STRESS=1` (make stress) does so in all.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

STRESS = os.environ.get("OSTRACA_STRESS", "") not in ("", "0")
TIMEOUT_SECONDS = 3600 if STRESS else 280
HANGS_SECONDS = 100.0 if STRESS else 30.0  # a case takes a tenth of a second, one of 57 MiB more
TOLD = 60  # wrong cases that are told
SECOND_EVERY = 1 if STRESS else 7  # so many cases of members, compact and overwrites are tried too
BY_TURNS = {"manifest": 4, "intent": 1, "tombstone": 4}  # one in so many cases of members, but all of ids
TYPES = (
    "FIFO",
    "directory",
    "link to a file outside",
    "link to a manifest outside",
    "link to a directory outside",
    "loop",
    "socket",
    "device",
    "empty",
    "57 MiB",
)


@pytest.mark.timeout(TIMEOUT_SECONDS + 20)
@pytest.mark.parametrize("kind", TYPES)
def test_any_file_is_something_else(tmp_path: Path, kind: str) -> None:
    if kind == "device" and os.geteuid() != 0:
        pytest.skip("only root makes devices")
    run_script(tmp_path, "types", kind)


@pytest.mark.timeout(TIMEOUT_SECONDS + 20)
@pytest.mark.parametrize("document", ["manifest", "intent", "tombstone"])
def test_any_member_is_something_else(tmp_path: Path, document: str) -> None:
    run_script(tmp_path, "members", document)


def run_script(tmp_path: Path, *arguments: str) -> None:
    command = [sys.executable, "-W", "ignore", __file__, str(tmp_path), *arguments]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT_SECONDS
    )
    assert done.returncode == 0, done.stdout
    print(done.stdout)


# --- In the script ---------------------------------------------------------------------------------------------------


def by_type(original: Path, kind: str) -> Iterator[tuple[Any, bool]]:
    """Culprits of one type, in place of every file and in the run itself; whether to compact and overwrite, too."""
    import hostile_run

    if kind != "57 MiB":
        put = hostile_run.TYPES[kind]
        for name in hostile_run.PLACES:
            for what, file in hostile_run.files_of(original / "run" / name).items():
                yield hostile_run.Culprit(name, file.name, f"{kind} as {what}", put), True
        yield hostile_run.Culprit("5", "", f"{kind} as a place", put), True
        return
    for large, source in hostile_run.large_files(original).items():
        for name in hostile_run.PLACES if STRESS else (hostile_run.PLAIN, hostile_run.DELTA, hostile_run.DEAD):
            for what, file in hostile_run.files_of(original / "run" / name).items():
                wanted = STRESS or file.suffix == ".json"
                if "empty" in large:  # readable, so that every look at it costs gigabytes and seconds
                    wanted = STRESS and (name, what) == (hostile_run.PLAIN, "manifest")
                if wanted:
                    put = functools.partial(os.link, source)
                    yield hostile_run.Culprit(name, file.name, f"{large} as {what}", put), True


def by_member(original: Path, document: str) -> Iterator[tuple[Any, bool]]:
    """Culprits with one member replaced."""
    import hostile_run as h
    import small_run

    run = original / "run"
    places = {"manifest": (h.OTHER_PLAIN, h.KEYFRAME, h.PLAIN, h.DELTA), "intent": (h.DEAD,), "tombstone": (h.GONE,)}
    other_id = h.attempt_of(run / h.PLAIN)
    turn = 0
    for name in places[document]:
        file = h.files_of(run / name)[document]
        if document == "intent":
            file = next((run / name).glob("intent-*"))
        members = small_run.members(file)
        for path in h.paths_in(members):
            for number, value in enumerate(h.values(other_id)):
                turn += 1
                mine = (places[document].index(name) + number + len(path)) % BY_TURNS[document] == 0
                if not (mine or path == ("id",) or STRESS):
                    continue
                raw = h.replaced(members, path, value)
                frees = name == h.DELTA and path == ("base", "id") and value in ("0" * 32, other_id)

                def put(target: Path, raw: bytes = raw) -> None:
                    target.write_bytes(raw)
                    h.make_paths_whole(target.parent)

                shown = "missing" if value is h.MISSING else repr(value)[:60]
                what = f"{document} with {'.'.join(map(str, path))} {shown}"
                yield h.Culprit(name, file.name, what, put, frees), turn % SECOND_EVERY == 0


class Cases:
    """Runs cases, each on a copy of its own."""

    def __init__(self, scratch: Path) -> None:
        import hostile_run

        self._scratch, self.original = scratch, scratch / "original"
        self.wrong: list[str] = []
        self.outcomes: Counter[str] = Counter()
        self.original.mkdir()
        hostile_run.make(self.original)

    def both(self, culprit: Any, with_second: bool) -> None:
        import hostile_run as h

        self._case(culprit, lambda run: h.first(run), h.check_first)
        if with_second:
            self._case(culprit, lambda run: h.second(run, culprit.place), h.check_second)

    def _case(self, culprit: Any, do: Any, check: Any) -> None:
        import hostile_run
        import stopped

        top = self._scratch / "case"
        shutil.copytree(self.original, top, symlinks=True)
        try:
            culprit.into(top / "run")
            before = hostile_run.snapshot(top)
            child = stopped.Child(lambda: do(top / "run"), self._scratch / "said")
            child.wait(HANGS_SECONDS)
            check(before, top, culprit, child.said)
            self.outcomes["as it must be"] += 1
        except Exception as error:
            how = str(error) if isinstance(error, AssertionError) else traceback.format_exc()
            how = how if len(how) < 500 else f"{how[:100]} ... {how[-300:]}"
            self.wrong.append(f"WRONG {culprit.place!r}, {culprit.what}: {how}".replace(f"{top}/", ""))
        finally:
            shutil.rmtree(top)


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    scratch, what, kind = sys.argv[1:]
    cases = Cases(Path(scratch))
    for culprit, with_second in (by_type if what == "types" else by_member)(cases.original, kind):
        cases.both(culprit, with_second)
    print(f"{kind}: {dict(cases.outcomes)}, {len(cases.wrong)} wrong", *cases.wrong[:TOLD], sep="\n")
    sys.exit(1 if cases.wrong or not cases.outcomes else 0)


if __name__ == "__main__":
    main()
