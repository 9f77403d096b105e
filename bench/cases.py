"""What compare.py measures: one `Case` for each row group of its table."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import workloads
from limits import LIMITS
from system import GIB, MIB

Names = tuple[str, ...]
OSTRACA: Names = ("ostraca-auto", "ostraca-raw")
FILES: Names = (
    *OSTRACA,
    "safetensors",
    "torch-save",
    "torch-dcp",
    "orbax",
    "tensorstore",
    "tensorflow",
    "numpy-savez",
)
QUICK: tuple[str, ...] = tuple(
    name for name in FILES if name not in ("torch-dcp", "tensorflow")
)  # importing those takes long
INTO: Names = (*OSTRACA, "torch-dcp", "tensorstore", "tensorflow")
MODULES = {"ostraca": "ostraca", "safetensors": "safetensors.numpy", "tensorstore": "tensorstore"}

# operation -> its title, and the limit it is held against
MAIN = {
    "save": ("durable save", "direct_write_8"),
    "cold_load": ("cold load to new arrays", "direct_read_8"),
    "warm_load": ("first warm load of a fresh process, new arrays", "memcpy_fresh_2"),
    "warm_into": ("warm load into existing arrays", "memcpy_2"),
}


@dataclass(frozen=True)
class Case:
    label: str  # unique
    title: str
    operation: str  # of worker.py
    workload: str
    nbytes: int
    contenders: Names
    unit: str = "GB/s"  # "GB/s" of decoded bytes, "s", "ms" or "ratio"
    limit: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def needs_source(self) -> bool:
        return self.operation in ("cold_load", "warm_load", "warm_into", "iterate", "row", "verify")


def limit_cases(nbytes: int) -> list[Case]:
    return [
        Case(f"limit/{name}", title, "limit", "fp32", nbytes, ("machine",), options={"limit": name})
        for name, (title, _) in LIMITS.items()
    ]


def cases(*, nbytes: int, full: bool, memory_bytes: int) -> list[Case]:
    """All of them, or those of the quick form; without those that the memory is too small for."""
    found = [
        *limit_cases(nbytes),
        *_main_cases(nbytes, full=full),
        *_small_and_rows(nbytes, full=full),
        *_background(nbytes, full=full, memory_bytes=memory_bytes),
    ]
    for mode, options in {"cold": {}, "cold, deep": {"deep": True}, "warm": {"warm": True}}.items():
        if full or mode == "cold":
            label = f"verify/{mode}"
            found.append(Case(label, f"verify, {mode}", "verify", "fp32", nbytes, ("ostraca-auto",), options=options))
    sizes = [nbytes, 8 * nbytes] if full else [nbytes, 4 * nbytes]
    for size in sizes:
        if 2 * size < memory_bytes:
            title = f"growth: durable save of {size / GIB:g} GiB"
            found.append(Case(f"growth/{size}", title, "save", "fp32", size, OSTRACA))
    for kind in ("fp32", "bf16") if full else ():
        title = f"encoding without a disk, {kind} (Ostraca: to tmpfs)"
        found.append(Case(f"encode/{kind}", title, "encode", kind, nbytes, ("ostraca-auto", "zipnn")))
    for name, module in MODULES.items() if full else [("ostraca", "ostraca")]:
        title = f"import {module}, beyond numpy"
        who = "ostraca-auto" if name == "ostraca" else name
        found.append(
            Case(f"import/{name}", title, "import", "fp32", MIB, (who,), unit="ms", options={"module": module})
        )
    return found


def _main_cases(nbytes: int, *, full: bool) -> Iterator[Case]:
    kinds = ["fp32", "bf16", *(["trained"] if workloads.trained_available() else [])]
    for kind in kinds:
        for operation, (title, limit) in MAIN.items():
            peers: Names = INTO if operation == "warm_into" else FILES
            if not full:
                if kind != "fp32" and operation not in ("save", "cold_load"):
                    continue
                peers = QUICK if kind == "fp32" and operation != "warm_into" else OSTRACA
            yield Case(f"{operation}/{kind}", f"{title}, {kind}", operation, kind, nbytes, peers, limit=limit)


def _small_and_rows(nbytes: int, *, full: bool) -> Iterator[Case]:
    both = ("ostraca-auto", "safetensors")
    small = f"{workloads.SMALL_COUNT:,} arrays of 1 KiB"
    titles = {"save": "durable save", "warm_load": "load", "iterate": "iterate lazily"}
    for operation, title in titles.items():
        yield Case(f"small/{operation}", f"{small}: {title}", operation, "small", 0, both, unit="s")
    title = f"one row of one array of {nbytes / GIB:g} GiB, cold"
    three = (*both, "tensorstore")
    yield Case("row", title, "row", "rows", nbytes, three, unit="ms")
    if full:
        yield Case("row/whole", "that array whole, cold", "cold_load", "rows", nbytes, three, unit="ms")
    else:
        yield Case("row/whole", "that array whole, cold", "cold_load", "rows", nbytes, ("ostraca-auto",), unit="ms")


def _background(nbytes: int, *, full: bool, memory_bytes: int) -> Iterator[Case]:
    stalled = "time lost to an async save"
    jax = ("ostraca-jax", "orbax")
    yield Case("stall/jax", f"{stalled}, JAX CPU arrays", "stall", "fp32", nbytes, jax, unit="ms")
    numpy = ("ostraca-auto", "orbax-numpy") if full else ("ostraca-auto",)
    yield Case("stall/numpy", f"{stalled}, numpy arrays", "stall", "fp32", nbytes, numpy, unit="ms", limit="memcpy_2")
    if full:
        size = 4 * nbytes
        for name, staging in (("full", size), ("quarter", size // 4)):
            if 3 * size < memory_bytes:
                title = f"{stalled}, {size / GIB:g} GiB of numpy arrays, {staging / GIB:g} GiB staging"
                options = {"staging_bytes": staging}
                one = ("ostraca-auto",)
                yield Case(f"stall/{name}", title, "stall", "fp32", size, one, unit="ms", options=options)
    for label, pin in {"free": False, "pinned": True}.items():
        if full or label == "free":
            title = f"step time while one thread saves, over step time alone ({label})"
            options = {"threads": 1, "pin": pin}
            yield Case(
                f"training/{label}", title, "training", "fp32", nbytes, OSTRACA[:1], unit="ratio", options=options
            )
