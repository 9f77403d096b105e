"""`ostraca tag`: names for a checkpoint, noted beside it."""

import argparse
from typing import Any, Final

from ..noting import PROTECTED, TAGS, changed, notes, tags_of
from . import text

NAME: Final = "tag"
SUMMARY: Final = "give a checkpoint tags, take them away, or list them"
DESCRIPTION: Final = "Give a checkpoint tags, take them away (--remove), or list them (without names)."
EPILOG: Final = f"""\
A checkpoint with the tag {PROTECTED!r} is kept by every prune.

  ostraca tag run/1000 {PROTECTED} best     ostraca tag run/1000 --remove {PROTECTED}"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=text.path, metavar="CHECKPOINT")
    parser.add_argument("tags", nargs="*", metavar="TAG")
    parser.add_argument("--remove", action="store_true", help="take these tags away")


def run(arguments: argparse.Namespace) -> int:
    given = list(dict.fromkeys(arguments.tags))

    def change(facts: dict[str, Any]) -> dict[str, Any]:
        others = [tag for tag in tags_of(facts) if tag not in given]
        return facts | {TAGS: (others if arguments.remove else others + given) or None}

    tags = tags_of(changed(arguments.checkpoint, change) if given else notes(arguments.checkpoint))
    if arguments.json:
        text.show_json({"checkpoint": arguments.checkpoint, "tags": tags})
    elif tags:
        text.show([text.escaped(tag) for tag in tags])
    return 0
