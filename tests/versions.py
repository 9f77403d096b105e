"""Runs JAX's tests with every release that is supported, each in an environment of its own below build/versions.

    python tests/versions.py [--python INTERPRETER ...] [--jax RELEASE ...] [PYTEST ARGUMENT ...]

A release that cannot be had for an interpreter is passed over, and said. Exit status: 0 where all others pass.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
PLACE = REPOSITORY / "build" / "versions"
RELEASES = ("0.8", "0.9", "0.10", "0.11", "0.12")
PACKAGES = ("crc32c", "equinox", "flax", "hypothesis", "ml_dtypes", "optax", "pytest", "pytest-timeout", "zstandard")
TESTS = ("test_jax_load.py", "test_jax_nodes.py", "test_jax_saving.py", "test_jax_shards.py", "test_jax_together.py")
PIP = ("-m", "pip", "--disable-pip-version-check", "--quiet")


def wheel(python: str) -> Path:
    """Ostraca for an interpreter."""
    wheels = PLACE / "wheels" / version(python)
    subprocess.run([python, *PIP, "wheel", "--no-deps", "--wheel-dir", wheels, REPOSITORY], check=True)
    return max(wheels.glob("ostraca-*.whl"), key=lambda file: file.stat().st_mtime)


def environment(python: str, release: str, built: Path) -> str | None:
    """The interpreter of an environment with Ostraca and a release of JAX; None where there is no such release."""
    place = PLACE / f"python{version(python)}-jax{release}"
    own = str(place / "bin" / "python")
    if not Path(own).exists():
        subprocess.run([python, "-m", "venv", place], check=True)
    wanted = [*PIP, "install", f"jax=={release}.*", *PACKAGES]
    done = subprocess.run([own, *wanted], stderr=subprocess.PIPE, text=True)
    if re.search(r"No matching distribution found for jax(lib)?[=<>~]", done.stderr):
        return None
    if done.returncode:
        raise SystemExit(done.stderr)
    subprocess.run([own, *PIP, "install", "--no-deps", "--force-reinstall", built], check=True)
    return own


def version(python: str) -> str:
    code = "import sys; print('{}.{}'.format(*sys.version_info))"
    return subprocess.run([python, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def outcomes(arguments: argparse.Namespace) -> Iterator[tuple[str, str, bool]]:
    """What was tried, what became of it, and whether that is well."""
    tests = [str(REPOSITORY / "tests" / "python" / name) for name in TESTS]
    for python in arguments.python:
        built = wheel(python)
        for release in arguments.jax:
            what = f"Python {version(python)}, jax {release}"
            print(f"== {what}", flush=True)
            own = environment(python, release, built)
            if own is None:
                yield what, "not to be had", True
                continue
            command = [own, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(arguments.pytest or tests)]
            status = subprocess.run(command, cwd=REPOSITORY).returncode
            yield what, "passed" if status == 0 else f"FAILED (pytest's status {status})", status == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", help="an interpreter (default: this one); may be repeated")
    parser.add_argument("--jax", action="append", help=f"a release (default: each of {', '.join(RELEASES)})")
    parser.add_argument("pytest", nargs="*", help="tests and options (default: the tests of ostraca.jax)")
    arguments = parser.parse_args()
    arguments.python = arguments.python or [sys.executable]
    arguments.jax = arguments.jax or list(RELEASES)
    found = list(outcomes(arguments))
    print("\n".join(f"{what}: {outcome}" for what, outcome, _ in found))
    return 0 if all(well for _, _, well in found) else 1


if __name__ == "__main__":
    sys.exit(main())
