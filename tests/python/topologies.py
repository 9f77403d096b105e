"""Meshes and specs over 8 devices, and what it costs to go from one to another.

python tests/python/topologies.py    prints the table of docs/benchmarks.md
"""

import math
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import ostraca
import ostraca.jax
from ostraca.jax.placing import boxes

MESHES = ((8,), (4, 2), (2, 4), (2, 2, 2), (1,))
AXES = ("x", "y", "z")


def specs(mesh: tuple[int, ...]) -> dict[str, P]:
    """Row, column, mixed and replicated, where they differ on a mesh."""
    names = AXES[: len(mesh)]
    found = {"replicated": P()}
    if math.prod(mesh) > 1:
        found |= {"row": P(names), "column": P(None, names)}
    if len(mesh) > 1:
        found |= {"mixed": P(names[0], names[1:]), "half": P(names[0])}
    return found


def sharding(mesh: tuple[int, ...], spec: P) -> NamedSharding:
    devices = np.array(jax.devices()[: math.prod(mesh)]).reshape(mesh)
    return NamedSharding(Mesh(devices, AXES[: len(mesh)]), spec)


def topologies() -> Iterator[tuple[str, NamedSharding]]:
    for mesh in MESHES:
        for name, spec in specs(mesh).items():
            yield f"{'x'.join(map(str, mesh))} {name}", sharding(mesh, spec)


class Counted(ostraca.Reader):
    """Keeps what the last load did."""

    last: dict[str, int]

    def close(self) -> None:
        Counted.last = self.statistics()
        super().close()


def stored_extents(path: Path) -> int:
    with ostraca.Reader(path) as reader:
        return len({(c.file, c.offset) for info in reader.arrays() for c in reader.chunks(info.name)})


def read_over_needed(path: Path, name: str, target: NamedSharding) -> float:
    """Decoded bytes over bytes needed, when each device is a process of its own."""
    needed = read = 0
    with ostraca.Reader(path) as reader:
        info = reader.array(name)
        for box in boxes(target, info.shape):
            before = reader.statistics()["bytes_decoded"]
            array = np.empty(box.shape, info.dtype)
            reader.read_into([(name, box.start, array)])
            read += reader.statistics()["bytes_decoded"] - before
            needed += array.nbytes
    return read / needed


class Pair(NamedTuple):
    """From one topology to another."""

    source: str
    target: str
    is_aligned: bool  # no chunk has to be cut
    once: bool  # each chunk was decoded once
    exact: bool
    one_process: float  # bytes read over bytes needed, all devices in one process
    each_alone: float  # when each device is a process of its own


def measure(directory: Path, shape: tuple[int, int], chunk_shape: Any = None) -> Iterator[Pair]:
    """All pairs, for one fp32 array."""
    values = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
    for source_name, source in topologies():
        path = directory / source_name.replace(" ", "-")
        ostraca.jax.save(path, {"w": jax.device_put(values, source)}, codec="raw", chunk_shape=chunk_shape)
        extents = stored_extents(path)
        for target_name, target in topologies():
            result = ostraca.jax.load(path, like={"w": target})["w"]
            read = Counted.last
            assert result.sharding == target
            yield Pair(
                source_name,
                target_name,
                all(a % b == 0 for a, b in zip(_cuts(source, shape), _cuts(target, shape), strict=True)),
                read["chunks_decoded"] == extents,
                all((np.asarray(shard.data) == values[shard.index]).all() for shard in result.addressable_shards),
                read["bytes_read"] / values.nbytes,
                read_over_needed(path, "w", target),
            )


def _cuts(target: NamedSharding, shape: tuple[int, int]) -> list[int]:
    return [whole // part for whole, part in zip(shape, target.shard_shape(shape), strict=True)]


def main() -> None:
    shape = (4096, 4096)
    with tempfile.TemporaryDirectory() as directory:
        pairs = list(measure(Path(directory), shape))
    aligned = [pair.each_alone for pair in pairs if pair.is_aligned]
    print(f"{len(pairs)} pairs, {len(aligned)} of them with borders that align")
    print(
        f"all exact: {all(pair.exact for pair in pairs)}; each chunk decoded once: {all(pair.once for pair in pairs)}"
    )
    print(f"bytes read over needed, all devices in one process: at most {max(pair.one_process for pair in pairs):.3f}")
    print(f"each device a process, where borders align: at most {max(aligned):.3f}; all (saved by row of the table):")
    first: dict[tuple[int, ...], str] = {}  # topologies with the same shards have the same figures
    for name, target in topologies():
        first.setdefault(target.shard_shape(shape), name)
    names = list(first.values())
    alone = {(pair.source, pair.target): pair.each_alone for pair in pairs}
    print("| |" + "|".join(names) + "|")
    print("|---" * (len(names) + 1) + "|")
    for source in names:
        print(f"| {source} |" + "|".join(f"{alone[source, target]:.2f}" for target in names) + "|")


if __name__ == "__main__":
    sys.modules["ostraca.jax.loading"].Reader = Counted  # type: ignore[attr-defined]
    main()
