"""Whether all processes save the same tree, and where not."""

from __future__ import annotations

import json
from collections.abc import Iterable
from hashlib import blake2b
from typing import NamedTuple

from ..printing import some


class LeafFact(NamedTuple):
    """What must be alike in all processes about a leaf."""

    name: str
    description: str  # kind, dtype, global shape: for people
    digest: str = ""  # of its content; empty for a global array, of which each process has its own part


def of_process(description: str, index: int) -> str:
    """Describes an array that one process holds all of, as the others see it. That process cannot tell it from one that
    each process has for itself."""
    return f"{description} of process {index}"


class Comparison(NamedTuple):
    """Of a process's leaves with those of process 0."""

    difference: str  # empty: they are alike
    own: frozenset[str]  # names of arrays that this process alone holds


def listing(leaves: Iterable[LeafFact]) -> bytes:
    return json.dumps(list(leaves)).encode()


def digest(text: bytes) -> str:
    return blake2b(text, digest_size=16).hexdigest()


def compared(first: bytes, other: bytes, index: int) -> Comparison:
    """The leaves of process 0 and of another."""
    theirs, ours = ({leaf.name: leaf for leaf in (LeafFact(*each) for each in json.loads(x))} for x in (first, other))
    found = [f"{name!r} is only in process 0's tree" for name in theirs if name not in ours]
    found += [f"{name!r} is only in process {index}'s tree" for name in ours if name not in theirs]
    own = set()
    for name, leaf in theirs.items():
        mine = ours.get(name, leaf)
        if leaf.description == of_process(mine.description, index):
            own.add(name)
        elif mine.description == of_process(leaf.description, 0):
            continue  # process 0 alone holds it
        elif mine.description != leaf.description:
            found.append(f"{name!r} is {leaf.description} in process 0, {mine.description} in process {index}")
        elif mine.digest != leaf.digest:
            found.append(
                f"{name!r} is not a global array, and its values differ between processes 0 and {index}: make them the"
                " same, or store one for each process with ostraca.PerProcess"
            )
    if not found and list(theirs) != list(ours):
        found.append(f"the trees of processes 0 and {index} have their leaves in different orders")
    return Comparison(some(found, "; "), frozenset(own))
