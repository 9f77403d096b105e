"""Ostraca and its peers behind one face: durable save, load to new arrays, and what else each of them can do.

A contender that cannot do something leaves the method out (see `Contender`), and a package that is not installed makes
its constructor raise ImportError. Constructors do what a training program has long done when it first saves: import the
framework and start its CPU backend.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from system import MIB, fsync_tree
from workloads import Arrays, Shapes

State = Any  # a dict of the framework's own arrays


class Contender:
    """Base of all. `path` is a directory that a save makes; `like` is what a program knows of the arrays it loads."""

    title: ClassVar[str]
    package: ClassVar[str] = "numpy"  # to install with pip

    def state(self, arrays: Arrays) -> State:
        """The arrays as the framework holds them; not timed."""
        return arrays

    def save(self, path: Path, state: State) -> None:
        """Durable on return."""
        raise NotImplementedError

    def load(self, path: Path, like: Shapes) -> State:
        raise NotImplementedError

    def numpy(self, value: Any) -> Any:
        """One loaded array as a numpy array of the same bytes."""
        return np.asarray(value)

    # Left out where there is no such thing:
    # load_into(path, state): overwrites the state's arrays
    # iterate(path): every array, one after the other
    # row(path, name, index): one row of an array
    # save_async(path, state): returns when training may go on, a function that waits until all is written


class Ostraca(Contender):
    title = "Ostraca, auto"
    package = "ostraca"
    codec = "auto"

    def __init__(self) -> None:
        import ostraca

        self.ostraca = ostraca

    def save(self, path: Path, state: State) -> None:
        self.ostraca.save(path, state, codec=self.codec)

    def load(self, path: Path, like: Shapes) -> State:
        return self.ostraca.load(path)

    def load_into(self, path: Path, state: State) -> None:
        self.ostraca.load(path, into=state)

    def iterate(self, path: Path) -> Iterable[Any]:
        with self.ostraca.open(path) as checkpoint:
            for name in checkpoint:
                yield checkpoint[name][...]

    def row(self, path: Path, name: str, index: int) -> Any:
        with self.ostraca.open(path) as checkpoint:
            row = checkpoint[name][index]
            self.statistics = checkpoint.statistics()
            return row

    def save_async(self, path: Path, state: State, **options: Any) -> Callable[[], Any]:
        handle = self.start_save(path, state, **options)
        return lambda: handle.result()

    def start_save(self, path: Path, state: State, **options: Any) -> Any:
        return self.ostraca.save_async(path, state, codec=self.codec, **options)


class OstracaRaw(Ostraca):
    title = "Ostraca, raw"
    codec = "raw"


class OstracaJax(Ostraca):
    """Saves JAX arrays on the CPU, which cannot change and need no copy."""

    title = "Ostraca, auto, JAX arrays"
    package = "jax"

    def __init__(self) -> None:
        super().__init__()
        self.jax = _jax()

    def state(self, arrays: Arrays) -> State:
        return _jax_arrays(self.jax, arrays)


class Safetensors(Contender):
    title = "safetensors + fsync"
    package = "safetensors"

    def __init__(self) -> None:
        import safetensors.numpy

        self.safetensors = safetensors

    def save(self, path: Path, state: State) -> None:
        path.mkdir()
        self.safetensors.numpy.save_file(state, self._file(path))
        fsync_tree(path)

    def load(self, path: Path, like: Shapes) -> State:
        return self.safetensors.numpy.load_file(self._file(path))

    def iterate(self, path: Path) -> Iterable[Any]:
        with self.safetensors.safe_open(self._file(path), framework="np") as opened:
            for name in opened.keys():  # noqa: SIM118 (it is no mapping)
                yield opened.get_tensor(name)

    def row(self, path: Path, name: str, index: int) -> Any:
        with self.safetensors.safe_open(self._file(path), framework="np") as opened:
            return opened.get_slice(name)[index]

    @staticmethod
    def _file(path: Path) -> Path:
        return path / "model.safetensors"


class TorchSave(Contender):
    title = "torch.save + fsync"
    package = "torch"

    def __init__(self) -> None:
        import torch

        self.torch = torch

    def state(self, arrays: Arrays) -> State:
        return {name: _as_torch(self.torch, array) for name, array in arrays.items()}

    def save(self, path: Path, state: State) -> None:
        path.mkdir()
        self.torch.save(state, path / "state.pt")
        fsync_tree(path)

    def load(self, path: Path, like: Shapes) -> State:
        return self.torch.load(path / "state.pt", weights_only=True)

    def numpy(self, value: Any) -> Any:
        return value.view(self.torch.uint16).numpy() if value.dtype == self.torch.bfloat16 else value.numpy()


class TorchDcp(TorchSave):
    title = "torch DCP + fsync"

    def __init__(self) -> None:
        super().__init__()
        import torch.distributed.checkpoint as dcp

        self.dcp = dcp

    def save(self, path: Path, state: State) -> None:
        writer = self.dcp.FileSystemWriter(path, thread_count=2, sync_files=True)
        self.dcp.save(state, storage_writer=writer, no_dist=True)
        fsync_tree(path)

    def load(self, path: Path, like: Shapes) -> State:
        kinds = {np.dtype(np.float32): self.torch.float32}
        state = {
            name: self.torch.empty(shape, dtype=kinds.get(dtype, self.torch.bfloat16))
            for name, (shape, dtype) in like.items()
        }
        self.load_into(path, state)
        return state

    def load_into(self, path: Path, state: State) -> None:
        self.dcp.load(state, checkpoint_id=path, no_dist=True)


class Orbax(Contender):
    title = "Orbax StandardCheckpointer + fsync"
    package = "orbax-checkpoint"

    def __init__(self) -> None:
        self.jax = _jax()
        import orbax.checkpoint as ocp

        self.checkpointer = ocp.StandardCheckpointer()

    def state(self, arrays: Arrays) -> State:
        return _jax_arrays(self.jax, arrays)

    def save(self, path: Path, state: State) -> None:
        self.save_async(path, state)()
        fsync_tree(path)

    def save_async(self, path: Path, state: State) -> Callable[[], Any]:
        self.checkpointer.save(path, state)
        return lambda: self.checkpointer.wait_until_finished()

    def load(self, path: Path, like: Shapes) -> State:
        here = self.jax.sharding.SingleDeviceSharding(self.jax.devices()[0])
        target = {name: self.jax.ShapeDtypeStruct(shape, dtype, sharding=here) for name, (shape, dtype) in like.items()}
        return self.jax.block_until_ready(self.checkpointer.restore(path, target))


class OrbaxNumpy(Orbax):
    """Saves numpy arrays, which it has to copy."""

    title = "Orbax StandardCheckpointer, numpy arrays"

    def state(self, arrays: Arrays) -> State:
        return arrays


class TensorStore(Contender):
    title = "TensorStore zarr3 + fsync"
    package = "tensorstore"
    chunk_bytes = 16 * MIB  # an array of the main workloads; rows of larger ones are cut at Ostraca's 4 MiB

    def __init__(self) -> None:
        import tensorstore

        self.tensorstore = tensorstore

    def save(self, path: Path, state: State) -> None:
        path.mkdir()
        opened = {
            name: self._open(path, name, create=True, dtype=array.dtype.name, shape=array.shape, **self._cut(array))
            for name, array in state.items()
        }
        for write in [opened[name].result().write(array) for name, array in state.items()]:
            write.result()
        fsync_tree(path)

    def load(self, path: Path, like: Shapes) -> State:
        opened = {name: self._open(path, name) for name in like}
        reads = {name: future.result().read() for name, future in opened.items()}
        return {name: read.result() for name, read in reads.items()}

    def load_into(self, path: Path, state: State) -> None:
        opened = {name: self._open(path, name) for name in state}
        copies = []
        for name, array in state.items():
            target = self.tensorstore.array(array, copy=False)
            copies.append(target.write(opened[name].result()))
        for copy in copies:
            copy.result()

    def row(self, path: Path, name: str, index: int) -> Any:
        return self._open(path, name).result()[index].read().result()

    def _open(self, path: Path, name: str, **options: Any) -> Any:
        store = {"driver": "file", "path": str(path / name.replace("/", "."))}
        return self.tensorstore.open({"driver": "zarr3", "kvstore": store}, open=True, **options)

    def _cut(self, array: Any) -> dict[str, Any]:
        limit = self.chunk_bytes if array.nbytes <= self.chunk_bytes else 4 * MIB
        rows = max(1, limit // max(1, array[:1].nbytes))
        return {"chunk_layout": self.tensorstore.ChunkLayout(chunk_shape=(min(rows, len(array)), *array.shape[1:]))}


class TensorFlow(Contender):
    title = "tf.train.Checkpoint.write + fsync"
    package = "tensorflow-cpu"

    def __init__(self) -> None:
        import tensorflow

        self.tensorflow = tensorflow

    def state(self, arrays: Arrays) -> State:
        return {name: self.tensorflow.Variable(array) for name, array in arrays.items()}

    def save(self, path: Path, state: State) -> None:
        path.mkdir()
        self.tensorflow.train.Checkpoint(state=state).write(str(path / "checkpoint"))
        fsync_tree(path)

    def load(self, path: Path, like: Shapes) -> State:
        reader = self.tensorflow.train.load_checkpoint(str(path / "checkpoint"))
        keys = {name: f"state/{name.replace('.', '..').replace('/', '.S')}" for name in like}
        return {name: reader.get_tensor(f"{key}/.ATTRIBUTES/VARIABLE_VALUE") for name, key in keys.items()}

    def load_into(self, path: Path, state: State) -> None:
        self.tensorflow.train.Checkpoint(state=state).read(str(path / "checkpoint")).assert_consumed()


class NumpySavez(Contender):
    title = "numpy.savez + fsync"

    def save(self, path: Path, state: State) -> None:
        path.mkdir()
        np.savez(path / "state.npz", **state)
        fsync_tree(path)

    def load(self, path: Path, like: Shapes) -> State:
        with np.load(path / "state.npz") as opened:
            return {name: opened[name] for name in opened.files}


class ZipNN(Contender):
    """Compresses byte strings in memory, and has no files."""

    title = "ZipNN, in memory"
    package = "zipnn"

    def __init__(self) -> None:
        import zipnn

        self.zipnn = zipnn

    def state(self, arrays: Arrays) -> State:
        itemsize = next(iter(arrays.values())).dtype.itemsize
        kind = "bfloat16" if itemsize == 2 else "float32"
        threads = len(os.sched_getaffinity(0))
        self.coder = self.zipnn.ZipNN(input_format="byte", bytearray_dtype=kind, threads=threads)
        return {name: array.tobytes() for name, array in arrays.items()}

    def encode(self, state: State) -> dict[str, bytes]:
        return {name: self.coder.compress(data) for name, data in state.items()}

    def decode(self, coded: dict[str, bytes]) -> State:
        return {name: self.coder.decompress(data) for name, data in coded.items()}

    def numpy(self, value: Any) -> Any:
        return np.frombuffer(value, dtype=np.uint8)


CONTENDERS: dict[str, type[Contender]] = {
    "ostraca-raw": OstracaRaw,
    "ostraca-auto": Ostraca,
    "ostraca-jax": OstracaJax,
    "safetensors": Safetensors,
    "torch-save": TorchSave,
    "torch-dcp": TorchDcp,
    "orbax": Orbax,
    "orbax-numpy": OrbaxNumpy,
    "tensorstore": TensorStore,
    "tensorflow": TensorFlow,
    "numpy-savez": NumpySavez,
    "zipnn": ZipNN,
}


def _jax() -> Any:
    import jax

    jax.devices()
    return jax


def _jax_arrays(jax: Any, arrays: Arrays) -> State:
    return jax.block_until_ready({name: jax.numpy.array(array, copy=True) for name, array in arrays.items()})


def _as_torch(torch: Any, array: Any) -> Any:
    if array.dtype.itemsize == 2:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
