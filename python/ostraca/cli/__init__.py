"""The command line: `ostraca COMMAND ...`, also `python -m ostraca`.

Exit status: 0 ok, 1 a finding (damage, a difference), 2 usage or I/O error, 130 interrupted.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from .._core import VERSION
from ..errors import CorruptionError, OstracaError
from . import bench, compact, convert, diff, inspect, listing, prune, tag, text, verify

OK: Final = 0
FINDING: Final = 1
FAILED: Final = 2
INTERRUPTED: Final = 130  # as a shell says of a process that SIGINT ended
BROKEN_PIPE: Final = 141  # the same of SIGPIPE

_COMMANDS: Final = (listing, inspect, verify, diff, prune, compact, tag, convert, bench)
_EPILOG: Final = """\
exit status: 0 ok, 1 a finding (damage, a difference), 2 usage or I/O error
OSTRACA_DEBUG=1 shows tracebacks."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name the terminal's encoding lacks is no error
    try:
        parser = _parser()
        arguments = parser.parse_args(argv)
        if "run" not in arguments:
            parser.print_help(sys.stderr)
            return FAILED
        status = _run(arguments)
        sys.stdout.flush()
        return status
    except SystemExit as stop:  # argparse's
        return stop.code if isinstance(stop.code, int) else OK
    except BrokenPipeError:  # the reader of our output left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter fails to flush at its end
        return BROKEN_PIPE
    except KeyboardInterrupt:
        sys.stderr.write("ostraca: interrupted\n")
        return INTERRUPTED


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"ostraca: error: {text.escaped(message)}; try '{self.prog} --help'\n")
        raise SystemExit(FAILED)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="ostraca",
        description="Look after Ostraca checkpoints.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ostraca {VERSION}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in _COMMANDS:
        sub = commands.add_parser(
            command.NAME,
            help=command.SUMMARY,
            description=command.DESCRIPTION,
            epilog=command.EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.configure(sub)
        sub.add_argument("--json", action="store_true", help="print JSON to standard output")
        sub.set_defaults(run=command.run)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    try:
        status: int = arguments.run(arguments)
        return status
    except BrokenPipeError:
        raise
    except Exception as error:
        if os.environ.get("OSTRACA_DEBUG", "0") not in ("", "0"):
            raise
        sys.stdout.flush()
        sys.stderr.write(f"ostraca: error: {_message(error)}\n")
        return FINDING if isinstance(error, CorruptionError) else FAILED


def _message(error: Exception) -> str:
    """One line, without what a terminal would act upon."""
    message: Any = str(error)
    if isinstance(error, OSError) and not isinstance(error, OstracaError) and error.strerror:
        message = f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    elif isinstance(error, MemoryError):
        message = f"not enough memory{': ' if message else ''}{message}"
    elif not isinstance(error, OstracaError | OSError | ValueError):
        message = f"unexpected {type(error).__name__}: {message}; OSTRACA_DEBUG=1 shows where"
    return " ".join(text.escaped(line.strip()) for line in message.splitlines())
