"""Orbax's side of `ostraca convert`. Orbax itself is imported when there is something to convert."""

import argparse
import importlib
import os
import sys
from pathlib import Path
from typing import Any

from .._core import MANIFEST
from ..foreign import ORBAX_TREE_FILE
from . import text


def is_orbax(path: Path) -> bool:
    """Whether stock Orbax wrote this: a tree, or a step with one."""
    places = [path, *path.iterdir()] if path.is_dir() else []
    return any((place / ORBAX_TREE_FILE).is_file() and not (place / MANIFEST).exists() for place in places)


def load(source: Path, destination: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Orbax's checkpoint to one of Ostraca's."""
    info = _converting().to_ostraca(
        source,
        destination,
        step=arguments.step,
        codec=arguments.codec or "auto",
        overwrite=arguments.overwrite,
        progress=sys.stderr.isatty() or None,
    )
    return _result("ostraca", info.arrays, info.logical_bytes, info.stored_bytes, [])


def export(source: Path, destination: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Ostraca's checkpoint, or a step of such, to Orbax's."""
    if not any((place / MANIFEST).exists() for place in [source, *(source.iterdir() if source.is_dir() else [])]):
        raise ValueError(f"{source} is neither a checkpoint nor a step that holds one")
    skipped: list[dict[str, Any]] = []

    def refuse(leaves: list[Any]) -> None:
        if not arguments.skip_unsupported:
            raise text.refusal("Orbax", leaves)
        skipped.extend(leaf._asdict() for leaf in leaves)

    if destination.exists() and not arguments.overwrite:
        raise FileExistsError(f"{destination} exists; --overwrite replaces it")
    arrays, logical = _converting().to_orbax(
        source, destination, overwrite=arguments.overwrite, root=arguments.root, on_refused=refuse
    )
    stored = sum(file.stat().st_size for file in destination.rglob("*") if file.is_file())
    return _result("orbax", arrays, logical, stored, skipped)


def _converting() -> Any:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # no array has to go to a device
    try:
        return importlib.import_module("..orbax.converting", __package__)
    except ImportError as error:
        raise ValueError(f"this needs jax and orbax-checkpoint 0.12: {error}") from None


def _result(kind: str, arrays: int, logical: int, stored: int, skipped: list[dict[str, Any]]) -> dict[str, Any]:
    return {"format": kind, "arrays": arrays, "logical_bytes": logical, "stored_bytes": stored, "skipped": skipped}
