"""`ostraca diff`: what differs between two checkpoints."""

import argparse
import json
from collections.abc import Iterator
from typing import Any, Final

from .. import metadata
from ..lowlevel import ArrayInfo, Reader
from . import text
from .compare import Comparison

NAME: Final = "diff"
SUMMARY: Final = "compare two checkpoints"
DESCRIPTION: Final = """\
Compares names, dtypes, shapes, contents and metadata of two checkpoints.
Arrays that are cut alike are compared by the content hashes of their chunks,
so that data is read only where it differs; deltas of one keyframe too."""
EPILOG: Final = """\
An element differs when its bits do. The differences' maximum and mean (over
all elements) leave out elements that are NaN on one side, which are counted,
and take two NaNs as equal.

examples:
  ostraca diff run/1000 run/2000
  ostraca diff run/1000 run/2000 'params/*'
  ostraca diff --ignore-metadata run/1000 copy/1000 && echo same arrays
  ostraca diff --json a b | jq '.differences[] | {name, max_abs_difference}'

exit status: 0 the same, 1 they differ (or one is damaged), 2 usage or I/O
error"""

_MISSING: Final = object()


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", type=text.path, metavar="A", help="a checkpoint")
    parser.add_argument("b", type=text.path, metavar="B", help="another")
    parser.add_argument("glob", metavar="NAME-GLOB", nargs="?", help="compare only leaves whose names match")
    parser.add_argument("--ignore-metadata", action="store_true", help="do not compare step and metadata")


def run(arguments: argparse.Namespace) -> int:
    with Reader(arguments.a) as a, Reader(arguments.b) as b:
        chosen = text.chosen([a.leaves(), b.leaves()], arguments.glob)
        leaves = [{info.name: info for info in infos} for infos in chosen]
        if arguments.glob is not None and not any(leaves):
            raise ValueError(f"no name in {arguments.a} or {arguments.b} matches {arguments.glob!r}")
        manifests = [reader.manifest() for reader in (a, b)]
        only = [[info for name, info in leaves[i].items() if name not in leaves[1 - i]] for i in (0, 1)]
        common = [(info, leaves[1][name]) for name, info in leaves[0].items() if name in leaves[1]]
        checked = [(pair, _unlike(*pair)) for pair in common]
        unlike = [row for _, row in checked if row]
        changed = Comparison(a, b).run(pair for pair, row in checked if not row)
    fields: list[dict[str, Any]] = []
    if not arguments.ignore_metadata:
        documents = [{"step": manifest.info.step, "metadata": manifest.metadata} for manifest in manifests]
        fields = [
            {"key": key} | {side: _stored(value) for side, value in (("a", x), ("b", y)) if value is not _MISSING}
            for key, x, y in _changes("", *documents)
        ]
    result = {
        "a": arguments.a,
        "b": arguments.b,
        "identical": not (only[0] or only[1] or unlike or changed or fields),
        "leaves_compared": len(common),
        "leaves_identical": len(common) - len(unlike) - len(changed),
        "only_in_a": [text.described(info) for info in only[0]],
        "only_in_b": [text.described(info) for info in only[1]],
        "differences": unlike + changed,
        "metadata": fields,
    }
    if arguments.json:
        text.show_json(result)
    else:
        _show(result, only, {info.name: (info, other) for info, other in common})
    return 0 if result["identical"] else 1


def _unlike(a: ArrayInfo, b: ArrayInfo) -> dict[str, Any] | None:
    """How two leaves of one name differ before their contents can be compared."""
    reasons = {
        "kind": a.kind is not b.kind,
        "dtype": (a.dtype_code, a.detail) != (b.dtype_code, b.detail),
        "shape": a.shape != b.shape and not a.kind.is_value,
        "containers": [kind for kind, _ in a.path] != [kind for kind, _ in b.path],
    }
    reason = next((reason for reason, differs in reasons.items() if differs), None)
    if reason is None:
        return None
    return {"name": a.name, "reason": reason, "a": text.described(a), "b": text.described(b)}


def _changes(key: str, a: Any, b: Any) -> Iterator[tuple[str, Any, Any]]:
    """Where two JSON-like values differ, down through their dicts."""
    if isinstance(a, dict) and isinstance(b, dict):
        for name in [*a, *(name for name in b if name not in a)]:
            below = f"{key}.{name}" if key else name
            yield from _changes(below, a.get(name, _MISSING), b.get(name, _MISSING))
    elif a is _MISSING or b is _MISSING or metadata.encode(a) != metadata.encode(b):
        yield key, a, b


def _stored(value: Any) -> Any:
    """As a manifest has it: JSON without inf and nan."""
    return None if value is None else json.loads(metadata.encode(value) or "null")


def _show(result: dict[str, Any], only: list[list[ArrayInfo]], common: dict[str, tuple[ArrayInfo, ArrayInfo]]) -> None:
    compared, same = result["leaves_compared"], result["leaves_identical"]
    if result["identical"]:
        text.show(f"identical: {text.counted(compared, 'leaf', 'leaves')}")
        return
    text.show([f"A: {text.escaped(result['a'])}", f"B: {text.escaped(result['b'])}", ""])
    for side, infos in zip("AB", only, strict=True):
        rows = [(info.name, text.dtype_text(info), text.shape_text(info)) for info in infos]
        _section(f"only in {side}", ("name", "dtype", "shape"), "<<<", rows)
    differences: list[dict[str, Any]] = result["differences"]
    unlike = [row for row in differences if row["reason"] not in ("content", "value")]
    rows3 = [(row["name"], row["reason"], *_sides(row, *common[row["name"]])) for row in unlike]
    _section("different leaves", ("name", "differs in", "A", "B"), "<<<<", rows3)
    values = [row for row in differences if row["reason"] == "value"]
    rows2 = [(row["name"], text.brief(row["a_value"]), text.brief(row["b_value"])) for row in values]
    _section("different values", ("name", "A", "B"), "<<<", rows2)
    contents = [row for row in differences if row["reason"] == "content"]
    headings = ("name", "dtype", "shape", "same chunks", "differing elements", "max |A-B|", "mean |A-B|", "NaN in one")
    cells = [_content_cells(row, common[row["name"]][0]) for row in contents]
    _section("different contents", headings, "<<<>>>>>", cells)
    fields = [(row["key"], *(_json_cell(row, side) for side in "ab")) for row in result["metadata"]]
    _section("metadata", ("key", "A", "B"), "<<<", fields)
    parts = [f"{same:,} of {text.counted(compared, 'common leaf', 'common leaves')} identical"]
    parts += [
        f"{len(result[side]):,} only in {side[-1].upper()}" for side in ("only_in_a", "only_in_b") if result[side]
    ]
    parts += ["metadata differs"] if fields else []
    text.show(f"DIFFERENT: {'; '.join(parts)}")


def _section(title: str, headings: tuple[str, ...], alignment: str, rows: list[Any]) -> None:
    if rows:
        text.show([f"{title}:", *text.table(headings, alignment, rows, "  "), ""])


def _sides(row: dict[str, Any], a: ArrayInfo, b: ArrayInfo) -> tuple[str, str]:
    if row["reason"] != "containers":
        return text.leaf_text(a), text.leaf_text(b)
    names = {1: "dict key", 2: "int key", 3: "list item", 4: "tuple item", 5: "attribute"}
    place = next(i for i, (x, y) in enumerate(zip(a.path, b.path, strict=False)) if x[0] != y[0])
    return names.get(a.path[place][0], "?"), names.get(b.path[place][0], "?")


def _content_cells(row: dict[str, Any], info: ArrayInfo) -> tuple[str, ...]:
    same, chunks = row["chunks_identical"], row["chunks"]
    differing, elements = row["elements_differing"], row["elements"]
    share = differing / elements
    most, mean = (_float_cell(row[f"{which}_abs_difference"]) for which in ("max", "mean"))
    return (
        info.name,
        text.dtype_text(info),
        text.shape_text(info),
        "-" if chunks is None else f"{same:,} of {chunks:,}",
        f"{differing:,} ({share:.2%})" if share >= 1e-4 else f"{differing:,} (<0.01%)",
        most,
        mean,
        text.number(row["nan_in_one"] or None),
    )


def _float_cell(value: float | str | None) -> str:
    return "-" if value is None else value if isinstance(value, str) else f"{value:.4g}"


def _json_cell(row: dict[str, Any], side: str) -> str:
    return text.brief(json.dumps(row[side], ensure_ascii=False)) if side in row else "(none)"
