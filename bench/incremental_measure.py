"""incremental.py's measurements: what a delta between two snapshots of a run costs, in bytes and in time.

Every part of a state (an array kind, or all of it) is a small checkpoint pair of its own: keyframe and delta in one
parent directory. Bytes are those of `SaveInfo`: data files and index. Times are medians of `ROUNDS`, after a first one.

entropy  of the differences, whatever the delta was made of (incremental_training.py)
encode   a whole save of the delta, on tmpfs, one thread, its base in memory: decoded GB/s
load     a whole load of the delta, which decodes its base too, on tmpfs, one thread, into arrays that were written
         before: decoded GB/s
decode   the same, of the time beyond what a load of the keyframe takes
load, all cores   the load with as many threads as there are cores
durable  the delta, on the disk, all threads, its base in memory: decoded GB/s
stall    save_async of numpy arrays, which have to be copied, on the disk, its base in memory

Times are those of a state as large as `TIMED_BYTES`; `alone` has those of the part by itself, with the files it makes.
"""

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import system
import training_runs
from contenders import CONTENDERS
from incremental_training import entropy
from workloads import Arrays, size

import ostraca

ROUNDS = 5
TMPFS = Path("/dev/shm")
EVERY = 20  # a keyframe, and deltas to it until the next
STEPS_BETWEEN = 10  # checkpoints of a run
CHECKPOINTS = 100
PEERS = ("orbax", "torch-save")
UNCHANGED_BYTES = 1 << 30
TIMED_BYTES = 128 << 20
TIMED_BYTES_MIN = 8 << 20  # the times of smaller parts would be those of creating files

Row = dict[str, Any]
Parts = dict[str, Arrays]  # name of a part of the state -> its arrays


def parts(run: str, distance: int) -> Parts:
    """A snapshot's array kinds, and "whole state": bf16 weights for the step, fp32 ones for the optimizer, moments."""
    kinds = training_runs.load(run, distance)
    if run == "embedding":
        found = {"embedding": {"table": kinds["weights"].pop("table")}}
        found |= {f"embedding {k}": {"table": kinds[k].pop("table")} for k in "mv"}
        rest = {"rest": {f"{kind}.{name}": array for kind in kinds for name, array in kinds[kind].items()}}
        return found | _whole(found | rest)
    names = {"weights": "fp32 weights", "m": "adam m", "v": "adam v"}
    found = {name: kinds[kind] for kind, name in names.items()}
    if run == "lora":
        found = {name.replace("fp32 weights", "adapters"): arrays for name, arrays in found.items()}
        found["frozen"] = kinds[training_runs.FROZEN]
        changed = {f"{kind}/{n}": a for kind in found for n, a in found[kind].items() if kind != "frozen"}
        return found | _whole(found) | {"changed": changed}
    bf16 = {name: array.astype(ml_dtypes.bfloat16) for name, array in kinds["weights"].items()}
    found = {"bf16 weights": bf16} | found
    return found | _whole(found)


def _whole(found: Parts) -> Parts:
    return {"whole state": {f"{kind}/{name}": array for kind in found for name, array in found[kind].items()}}


class Place:
    """A parent directory that goes with its `with` block."""

    def __init__(self, parent: Path) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="ostraca-incremental-", dir=parent))
        self._count = 0

    def new(self) -> Path:
        self._count += 1
        return self.path / f"{self._count:04}"

    def __enter__(self) -> "Place":
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def pair(key: Arrays, arrays: Arrays, disk: Path, *, timed: bool = True) -> Row:
    """Full and incremental save of `arrays`, with a keyframe that holds `key`."""
    logical = size(arrays)
    with Place(TMPFS) as place:
        keyframe = place.new()
        ostraca.save(keyframe, key)
        full = ostraca.save(place.new(), arrays)
        delta = place.new()
        info = ostraca.save(delta, arrays, base=keyframe)
        row: Row = {
            "logical_bytes": logical,
            "full_bytes": full.stored_bytes,
            "delta_bytes": info.stored_bytes,
            "referenced_bytes": info.referenced_bytes,
            "entropy": entropy(key, arrays),
            "restore_bytes": _bytes_read(delta, arrays) / _bytes_read(keyframe, key),
        }
    if timed and logical >= TIMED_BYTES_MIN:
        row["alone"] = _in_memory(key, arrays)
        copies = -(-TIMED_BYTES // logical)
        key, arrays = _repeated(key, copies), _repeated(arrays, copies)
        row |= _in_memory(key, arrays) | _on_disk(key, arrays, disk)
    return row


def _repeated(arrays: Arrays, copies: int) -> Arrays:
    """Each copy rolled by other numbers of rows, so that no chunk is stored once for two of them."""
    return {
        f"{copy}/{name}": np.roll(array, 37 * copy + 11 * copy * copy, axis=0)
        for copy in range(copies)
        for name, array in arrays.items()
    }


def _in_memory(key: Arrays, arrays: Arrays) -> Row:
    logical = size(arrays)
    with Place(TMPFS) as place:
        keyframe, delta = place.new(), place.new()
        ostraca.save(keyframe, key)
        with ostraca.BaseSnapshot(keyframe) as base:
            encode = _median(place, lambda path: ostraca.save(path, arrays, base=base, threads=1))
        ostraca.save(delta, arrays, base=keyframe)
        targets = {name: array.copy() for name, array in arrays.items()}
        load = _median(place, lambda _: ostraca.load(delta, into=targets, threads=1))
        load_keyframe = _median(place, lambda _: ostraca.load(keyframe, into=targets, threads=1))
        load_all = _median(place, lambda _: ostraca.load(delta, into=targets))
    seconds = {"encode_gb_s": encode, "load_gb_s": load, "load_all_gb_s": load_all}
    row: Row = {name: logical / each / 1e9 for name, each in seconds.items()}
    if load > 1.1 * load_keyframe:  # below, the difference is noise
        row["decode_gb_s"] = logical / (load - load_keyframe) / 1e9
    return row


def _on_disk(key: Arrays, arrays: Arrays, disk: Path) -> Row:
    with Place(disk) as place:
        keyframe = place.new()
        ostraca.save(keyframe, key)
        with ostraca.BaseSnapshot(keyframe) as base:
            seconds = _median(place, lambda path: ostraca.save(path, arrays, base=base))
            stalls = []
            for _ in range(ROUNDS):
                path = place.new()
                stalls.append(ostraca.save_async(path, arrays, base=base).result().stall_seconds)
                shutil.rmtree(path)
    return {"durable_gb_s": size(arrays) / seconds / 1e9, "stall_ms": statistics.median(stalls) * 1e3}


def _median(place: Place, work: Callable[[Path], Any]) -> float:
    """Seconds; `work` gets a path for a checkpoint that it may make. The first, which fills the pools, is left out."""
    seconds = []
    for _ in range(ROUNDS + 1):
        path = place.new()
        begin = time.perf_counter()
        work(path)
        seconds.append(time.perf_counter() - begin)
        shutil.rmtree(path, ignore_errors=True)
    return statistics.median(seconds[1:])


def _bytes_read(path: Path, arrays: Arrays) -> int:
    """From files, for a whole restore; checks that the same bits come back."""
    with ostraca.Reader(path) as reader:
        targets = {info.name: info.allocate() for info in reader.arrays()}
        reader.read_into([(name, None, target) for name, target in targets.items()])
        read = reader.statistics()["bytes_read"]
    for name, array in arrays.items():
        stored = targets[name.replace("~", "~0").replace("/", "~1")]
        if stored.tobytes() != array.tobytes():
            raise AssertionError(f"{path}: {name} came back changed")
    return int(read)


def unchanged() -> Row:
    """How fast a state is recognized that did not change since its keyframe."""
    block = np.random.default_rng(0).standard_normal(1 << 24, dtype=np.float32)  # 64 MiB
    arrays = {f"w{i:02}": block * np.float32(1 + i / 64) for i in range(UNCHANGED_BYTES // block.nbytes)}
    with Place(TMPFS) as place:
        keyframe = place.new()
        ostraca.save(keyframe, arrays)
        info = ostraca.save(place.new(), arrays, base=keyframe)
        seconds = _median(place, lambda path: ostraca.save(path, arrays, base=keyframe))
    return {
        "logical_bytes": size(arrays),
        "delta_bytes": info.stored_bytes,
        "seconds": seconds,
        "gb_s": size(arrays) / seconds / 1e9,
    }


def totals(run: str, rows: list[Row], disk: Path) -> Row:
    """Bytes of 100 checkpoints of the whole state, `STEPS_BETWEEN` steps apart; the peers' from one checkpoint each.

    Ostraca's: a keyframe as large as the measured one every `EVERY`, and deltas whose ratio at 10, 20, ... steps is
    interpolated, linearly in the logarithm of the steps, between those that were measured.
    """
    whole = sorted((row["steps"], row["delta_bytes"]) for row in rows if row["part"] == "whole state")
    full = statistics.median(row["full_bytes"] for row in rows if row["part"] == "whole state")
    steps = np.log([s for s, _ in whole])
    apart = np.log([STEPS_BETWEEN * k for k in range(1, EVERY)])
    deltas = np.interp(apart, steps, [float(b) for _, b in whole])
    groups = CHECKPOINTS // EVERY
    found: Row = {"run": run, "ostraca": int(groups * (full + deltas.sum())), "ostraca-full": int(CHECKPOINTS * full)}
    arrays = parts(run, STEPS_BETWEEN)["whole state"]
    found["logical"] = CHECKPOINTS * size(arrays)
    for peer in PEERS:
        try:
            contender: Any = CONTENDERS[peer]()
        except ImportError:
            found[peer] = None
            continue
        with Place(disk) as place:
            path = place.new()
            contender.save(path, contender.state({name.replace("/", "."): array for name, array in arrays.items()}))
            found[peer] = CHECKPOINTS * system.stored_bytes(path)
    return found
