"""The engine serves one interpreter of a process."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
{first}
import _xxsubinterpreters as interpreters
interpreters.run_string(interpreters.create(), '''
try:
    import ostraca
except ImportError as error:
    print("refused:", error)
''')
"""


@pytest.mark.parametrize("first", ["", "import ostraca"])
def test_a_subinterpreter_is_refused(first: str) -> None:
    pytest.importorskip("_xxsubinterpreters")
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM.format(first=first)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    assert "refused: ostraca cannot be imported in a subinterpreter" in done.stdout
