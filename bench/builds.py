"""Builds of Ostraca as they were at a commit, each in an environment of its own, beside the packages of this one."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent


def tree_of(commit: str | None) -> str:
    """The id of a commit's files; None: of the tracked files as they are now."""
    if commit is None:
        commit = _git("stash", "create") or "HEAD"  # makes a commit of them, and changes nothing
    return _git("rev-parse", "--verify", f"{commit}^{{tree}}")


def build(tree: str, where: Path) -> str:
    """The interpreter that imports the Ostraca of this tree; built below `where` unless it is there already."""
    place = where / tree
    source, python = place / "source", place / "environment" / "bin" / "python"
    if (place / "built").exists():
        return str(python)
    source.mkdir(parents=True, exist_ok=True)
    archive = subprocess.run(["git", "-C", REPOSITORY, "archive", tree], capture_output=True, check=True)
    subprocess.run(["tar", "-x", "-C", source], input=archive.stdout, check=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", place / "environment"], check=True)
    (site,) = (place / "environment" / "lib").glob("python*/site-packages")
    # Everything but Ostraca is shared; of a directory that is named here no .pth file counts, so no editable install.
    shared = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site / "shared.pth").write_text("".join(f"{path}\n" for path in shared))
    install = ["-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps", str(source)]
    subprocess.run([python, *install], check=True, stderr=subprocess.STDOUT)
    found = _output(python, "-c", "import ostraca; print(ostraca.__file__)")
    if not Path(found).is_relative_to(site):
        raise RuntimeError(f"{python} imports {found}, not the build of tree {tree} below {site}")
    (place / "built").touch()
    return str(python)


def _git(*arguments: str) -> str:
    return _output("git", "-C", REPOSITORY, *arguments)


def _output(*command: str | Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout.strip()
