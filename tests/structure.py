"""The structure of the code, from its syntax: python tests/structure.py; `make lint` calls it. 1: something is wrong.

Layers of C++ include no layer above them, and of Python's rooms none imports another framework's. Files and functions
stay short. Names of files are looked up, renamed, removed and locked behind the door to bytes at rest, nowhere else.
What breaks a rule knowingly stands in a list, with the reason; a name on a list that breaks no rule any more is an
error, too.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
CPP: Final = ROOT / "cpp"
PYTHON: Final = ROOT / "python" / "ostraca"
FILE_LINES: Final = 400
FUNCTION_LINES: Final = 70

# What each layer of C++ may include, beside itself and the public headers' types.
LAYERS: Final = {
    "base": set(),
    "checksum": {"base"},
    "transform": {"base"},
    "codec": {"base", "checksum", "transform"},
    "container": {"base", "checksum"},
    "storage": {"base"},
    "engine": {"base", "checksum", "transform", "codec", "container", "storage"},
    "include": {"include"},
}
PUBLIC: Final = {"status.h", "options.h", "types.h", "dims.h", "object_client.h"}  # public headers without the engine's

# Frameworks, and the rooms of Python that may import them.
FRAMEWORKS: Final = {
    "jax": {"jax", "orbax"},
    "orbax": {"orbax"},
    "etils": {"orbax"},
    "flax": set(),
    "tensorflow": set(),
    "torch": set(),
    "keras": set(),
    "safetensors": set(),
}
IMPORTING: Final = {"leaves.py": "what leaves of a framework that was imported already are"}  # frameworks, in functions
ADAPTERS: Final = {"jax", "orbax"}
ROOM_MAY_IMPORT: Final = {"jax": set(), "orbax": {"jax"}, "cli": {"orbax"}}  # of the adapters' rooms

# Methods of pathlib that do so too, and that nothing else has.
PATH_METHODS: Final = {
    *("unlink", "rename", "rmdir", "mkdir", "touch", "symlink_to", "hardlink_to", "iterdir", "rglob", "is_file"),
    *("is_dir", "is_symlink", "exists", "resolve", "readlink", "lstat", "stat", "write_text", "write_bytes"),
    *("read_text", "read_bytes"),
}
# Calls that look names up, rename, remove, lock or resolve, by module.
PATH_CALLS: Final = {
    "os": {
        *("open", "rename", "replace", "unlink", "remove", "rmdir", "mkdir", "makedirs", "link", "symlink", "listdir"),
        *("scandir", "stat", "lstat", "utime", "fsync", "truncate", "walk", "removedirs"),
    },
    "os.path": {"realpath", "exists", "isdir", "isfile", "islink", "lexists", "getmtime", "getsize"},
    "fcntl": {"flock", "lockf"},
    "shutil": {"rmtree", "copytree", "copy", "copyfile", "move"},
}

LONG_FILES: Final = {
    "python/ostraca/reference.py": "a reader of the format that stands alone, on purpose",
}
LONG_FUNCTIONS: Final[dict[str, str]] = {}
TOUCH_PATHS: Final = {
    "sharded/agreement.py": "asks a file server anew",
    "cli/__init__.py": "standard output",
    "cli/bench.py": "measures a disk",
    "cli/convert.py": "other projects' files",
    "cli/orbax.py": "other projects' files",
    "cli/safetensors.py": "other projects' files",
    "orbax/converting.py": "other projects' files",
    "orbax/directory.py": "directories that Orbax makes",
    "orbax/handler.py": "directories that Orbax makes",
    "orbax/stock.py": "other projects' files",
    "orbax/v1.py": "directories that Orbax makes",
    "reference.py": "stands alone",
}


def main() -> int:
    faults = sorted([*_cpp_includes(), *_python_imports(), *_lengths(), *_paths()])
    print("\n".join(faults) or "the structure is as it should be", file=sys.stderr if faults else sys.stdout)
    return 1 if faults else 0


def _relative(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def _sources(root: Path, *suffixes: str) -> list[Path]:
    return sorted(file for file in root.rglob("*") if file.suffix in suffixes)


# --- Who knows whom -------------------------------------------------------------------------------------------------


def _cpp_includes() -> Iterator[str]:
    for file in _sources(CPP, ".h", ".cc"):
        layer = file.relative_to(CPP).parts[0]
        for included in re.findall(r'^#include "([^"]+)"', file.read_text(), re.MULTILINE):
            other, _, name = included.partition("/")
            if other == "ostraca":
                if layer not in ("engine", "include") and name not in PUBLIC:
                    yield f"{_relative(file)}: includes {included}, which is the engine's"
            elif other != layer and other not in LAYERS[layer]:
                yield f"{_relative(file)}: {layer} includes {included}"
            elif included.startswith("storage/posix/") and "storage/posix" not in _relative(file):
                yield f"{_relative(file)}: includes {included}, which is the POSIX storage's own"


def _python_imports() -> Iterator[str]:
    for file in _sources(PYTHON, ".py"):
        parts = file.relative_to(PYTHON).parts
        room = parts[0] if len(parts) > 1 else ""
        for node in ast.walk(ast.parse(file.read_text())):
            for module, level in _imported(node):
                first = module.split(".")[0]
                foreign = level == 0 and first in FRAMEWORKS and room not in FRAMEWORKS[first]
                if foreign and not (parts[-1] in IMPORTING and node.col_offset):
                    yield f"{_relative(file)}:{node.lineno}: imports {module} outside its room"
                target = first if level > len(parts) - 1 else room
                if level and target in ADAPTERS and target != room and target not in ROOM_MAY_IMPORT.get(room, set()):
                    yield f"{_relative(file)}:{node.lineno}: imports the room {target!r}"


def _imported(node: ast.AST) -> Iterator[tuple[str, int]]:
    if isinstance(node, ast.Import):
        yield from ((alias.name, 0) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from ((node.module or alias.name, node.level) for alias in node.names)


# --- How long -------------------------------------------------------------------------------------------------------


def _lengths() -> Iterator[str]:
    long_files, long_functions = set(), set()
    for file in [*_sources(PYTHON, ".py"), *_sources(CPP, ".h", ".cc"), *_sources(ROOT / "python/bindings", ".cc")]:
        name, lines = _relative(file), file.read_text().splitlines()
        if len(lines) > FILE_LINES:
            long_files.add(name)
            if name not in LONG_FILES:
                yield f"{name}: {len(lines)} lines, more than {FILE_LINES}"
        for function, line, length in _functions(file, lines):
            if length > FUNCTION_LINES:
                long_functions.add(f"{name}:{function}")
                if f"{name}:{function}" not in LONG_FUNCTIONS:
                    yield f"{name}:{line}: {function} has {length} lines, more than {FUNCTION_LINES}"
    yield from (f"{name}: is on the list of long files and is not long" for name in LONG_FILES.keys() - long_files)
    for name in LONG_FUNCTIONS.keys() - long_functions:
        yield f"{name}: is on the list of long functions and is not long"


def _functions(file: Path, lines: list[str]) -> Iterator[tuple[str, int, int]]:
    """The name, first line and length of each; a docstring does not count."""
    if file.suffix == ".py":
        for node in ast.walk(ast.parse("\n".join(lines))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                first = node.body[1] if ast.get_docstring(node) is not None and len(node.body) > 1 else node.body[0]
                yield node.name, node.lineno, node.end_lineno - first.lineno + 1
        return
    # clang-format puts the end of a function at namespace level, and of one in a class, in the column of its beginning.
    start: tuple[str, int, str] | None = None
    for number, line in enumerate(lines, 1):
        opening = re.match(r"^(  )?(?!namespace|class|struct|enum|union|extern|using|#)\S.*\b(~?\w+)\(.*\{$", line)
        if start is None and opening is not None and " = " not in line.split("(")[0]:
            start = opening[2], number, opening[1] or ""
        elif start is not None and line.rstrip(";") == start[2] + "}":
            yield start[0], start[1], number - start[1] + 1
            start = None


# --- Who touches files ----------------------------------------------------------------------------------------------


def _paths() -> Iterator[str]:
    touching = set()
    for file in _sources(PYTHON, ".py"):
        name = file.relative_to(PYTHON).as_posix()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                module = ast.unparse(node.func.value)
                if node.func.attr in PATH_CALLS.get(module, ()) or node.func.attr in PATH_METHODS:
                    touching.add(name)
                    if name not in TOUCH_PATHS:
                        yield f"{_relative(file)}:{node.lineno}: {module}.{node.func.attr} outside the door"
    yield from (
        f"{name}: is on the list of files that touch paths, and does not" for name in TOUCH_PATHS.keys() - touching
    )


if __name__ == "__main__":
    sys.exit(main())
