"""ostraca.jax.load: what `like` may hold, and what comes back."""

import contextlib
import dataclasses
import operator
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

jax = pytest.importorskip("jax")
import equinox as eqx  # noqa: E402
import flax.struct  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import optax  # noqa: E402
from flax import nnx  # noqa: E402
from jax.experimental.layout import Format, Layout  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402
from jax.sharding import SingleDeviceSharding  # noqa: E402

import ostraca  # noqa: E402
import ostraca.jax  # noqa: E402
import topologies  # noqa: E402

DTYPES = ["bool", "int8", "uint32", "float16", "bfloat16", "float32", "complex64", "float8_e4m3fn", "int4", "uint2"]


# On a machine with one GPU the same tests run on that.
MESH = (4, 2) if jax.device_count() >= 8 else (1, 1)


def device(number: int) -> Any:
    return jax.devices()[number % jax.device_count()]


def sharding(*spec: Any, **options: Any) -> Any:
    made = topologies.sharding(MESH, P(*spec))
    return made.with_memory_kind(options["memory_kind"]) if options else made


def struct(shape: tuple[int, ...], dtype: Any, *spec: Any) -> Any:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding(*spec))


def same_bits(a: Any, b: Any) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spec", [(), ("x",), (None, "y"), ("y", "x")], ids=str)
def test_dtypes(path: Path, dtype: str, spec: tuple[Any, ...]) -> None:
    values = np.random.default_rng(0).integers(0, 2, (8, 16)).astype(jnp.dtype(dtype))
    ostraca.save(path, {"a": values, "empty": values[:0], "scalar": values[0, 0]})
    like = {"a": struct((8, 16), dtype, *spec), "empty": struct((0, 16), dtype, None, "x"), "scalar": struct((), dtype)}
    out = ostraca.jax.load(path, like=like)
    assert same_bits(out["a"], values) and out["a"].sharding == sharding(*spec)
    assert same_bits(out["empty"], values[:0]) and same_bits(out["scalar"], np.asarray(values[0, 0]))


def test_every_way_to_ask(path: Path) -> None:
    values = np.arange(64, dtype=np.float32).reshape(8, 8)
    ostraca.save(path, [values] * 8)
    other = device(3)
    like = [
        jax.device_put(values * 0, sharding("x", "y")),
        struct((8, 8), "float32", "x"),
        jax.ShapeDtypeStruct((8, 8), "float32"),
        jnp.zeros((8, 8)),
        jax.device_put(values, other),
        sharding(None, "x"),
        Format(Layout((1, 0)), sharding("y")),
        values * 0,
    ]
    out = ostraca.jax.load(path, like=like)
    assert all(same_bits(each, values) for each in out)
    assert [each.sharding for each in out[:2]] == [sharding("x", "y"), sharding("x")]
    for each in out[2:4]:  # as jax has it: anywhere
        assert not each.committed and each.devices() == {jax.devices()[0]}
    assert out[4].committed and out[4].devices() == {other}
    assert out[5].sharding == sharding(None, "x")
    assert out[6].sharding == sharding("y") and out[6].format.layout.major_to_minor == (1, 0)
    assert type(out[7]) is np.ndarray and out[7] is not like[7]


@pytest.mark.parametrize("kind", ["device", "pinned_host", "unpinned_host"])
def test_memory_kind_and_layout_are_honoured(path: Path, kind: str) -> None:
    kinds = {memory.kind for memory in jax.devices()[0].addressable_memories()}
    if kind not in kinds:
        pytest.skip(f"these devices have {kinds} only")
    values = np.arange(64, dtype=np.float32).reshape(8, 8)
    ostraca.save(path, values)
    for target in (sharding("x", memory_kind=kind), SingleDeviceSharding(device(1), memory_kind=kind)):
        out = ostraca.jax.load(path, like=target)
        assert same_bits(out, values) and out.sharding == target and out.sharding.memory_kind == kind
    transposed = jax.device_put(values, Format(Layout((1, 0)), sharding("x")))
    out = ostraca.jax.load(path, like=transposed)
    assert same_bits(out, values) and out.format == transposed.format


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_prng_keys(path: Path, impl: str) -> None:
    keys = jax.random.split(jax.random.key(3, impl=impl), 8)
    ostraca.save(path, {"a": keys, "b": keys, "c": keys[0], "d": keys})
    like = {
        "a": jax.device_put(keys, sharding("x")),
        "b": sharding("y"),
        "c": jax.random.key(0, impl=impl),
        "d": jax.ShapeDtypeStruct(keys.shape, keys.dtype, sharding=sharding(("x", "y"))),
    }
    out = ostraca.jax.load(path, like=like)
    assert jax.tree.all(jax.tree.map(lambda key: key.dtype == keys.dtype, out))
    assert all((jax.random.key_data(out[name]) == jax.random.key_data(keys)).all() for name in "abd")
    assert [out[name].sharding for name in "abd"] == [sharding("x"), sharding("y"), sharding(("x", "y"))]
    assert (jax.random.uniform(out["c"]) == jax.random.uniform(keys[0])).all()
    with pytest.raises(ostraca.MismatchError, match="expected PRNG keys"):
        ostraca.jax.load(path, like={**like, "c": jax.random.key(0, impl="unsafe_rbg")})


def test_python_values_and_empty_containers(path: Path) -> None:
    tree = {
        "a": [1, 2.5, True, "text", b"bytes", None],
        "b": {},
        "c": ((), []),
        "d": np.arange(3, dtype="<i8"),
        5: "five",
    }
    ostraca.save(path, tree)
    out = ostraca.jax.load(path, like=tree)
    assert out["a"] == tree["a"] and out["b"] == {} and out["c"] == ((), []) and out[5] == "five"
    assert out["d"].dtype == np.int64


def test_one_sharding_for_all(path: Path) -> None:
    tree = {"w": np.ones((8, 4), np.float32), "n": [7, "x"], "key": jax.random.key(1), "step": np.int32(3)}
    ostraca.save(path, tree)
    out = ostraca.jax.load(path, like=sharding())
    assert out["n"] == [7, "x"] and int(out["step"]) == 3
    assert {out[name].sharding for name in ("w", "key", "step")} == {sharding()}
    if MESH == (1, 1):
        return  # anything fits one device
    with pytest.raises(ostraca.MismatchError, match=r"'step'.*does not fit shape"):
        ostraca.jax.load(path, like=sharding("x"))
    assert ostraca.jax.load(path, like=sharding("x"), select="w")["w"].sharding == sharding("x")


def test_without_like(path: Path) -> None:
    ostraca.save(path, {"w": (np.ones(3), 1), "b": np.ones(2, ml_dtypes.bfloat16)})
    out = ostraca.jax.load(path)
    assert type(out["w"]) is tuple and type(out["w"][0]) is np.ndarray and out["b"].dtype == ml_dtypes.bfloat16


class Pair(NamedTuple):
    first: Any
    second: Any


@flax.struct.dataclass
class Struct:
    params: Any
    rate: float = flax.struct.field(pytree_node=False, default=0.1)


@dataclasses.dataclass
class Plain:
    value: Any


class Model(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.layers = nnx.List([nnx.Linear(8, 8, rngs=rngs) for _ in range(2)])
        self.dropout = nnx.Dropout(0.5, rngs=rngs)


def test_registered_pytrees(path: Path) -> None:
    params = {"w": jnp.arange(64.0).reshape(8, 8), "b": jnp.ones(8)}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    tree = {
        "optax": optimizer.init(params),
        "pair": Pair(params, None),
        "struct": Struct(params, rate=0.5),
        "equinox": eqx.filter(eqx.nn.MLP(8, 8, 8, 2, key=jax.random.key(0)), eqx.is_array),
        "nnx": nnx.state(Model(nnx.Rngs(0))),
    }
    ostraca.jax.save(path, {"registered": tree, "not": Plain(params)})
    zeros = jax.tree.map(lambda x: x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x * 0 - 1, tree)
    structs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding()), tree)
    shardings = jax.tree.map(lambda x: sharding(), tree)
    for like in (zeros, structs, shardings):
        out = ostraca.jax.load(path, like={"registered": like, "not": Plain(like["pair"].first)})
        assert jax.tree.structure(out["registered"]) == jax.tree.structure(tree)
        assert jax.tree.all(jax.tree.map(_same, out["registered"], tree))
        assert type(out["not"]) is Plain and _same(out["not"].value["w"], params["w"])
    assert out["registered"]["struct"].rate == 0.5


def _same(a: Any, b: Any) -> bool:
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
        a, b = jax.random.key_data(a), jax.random.key_data(b)
    return same_bits(a, b)


def test_nnx_paths_lead_to_where_they_were(path: Path) -> None:
    model = Model(nnx.Rngs(0))
    graph, state = nnx.split(model)
    ostraca.jax.save(path, state)
    abstract = nnx.eval_shape(lambda: Model(nnx.Rngs(1)))
    restored = nnx.merge(graph, ostraca.jax.load(path, like=nnx.state(abstract)))
    np.testing.assert_array_equal(restored.layers[1].kernel[...], model.layers[1].kernel[...])
    np.testing.assert_array_equal(restored.dropout.rngs.count[...], model.dropout.rngs.count[...])


def test_per_process(path: Path) -> None:
    """This process's own; those of others are neither asked for nor read."""
    stored = {
        "w": np.ones(8),
        "loader": {index: {"position": index * 10, "seed": np.arange(index, index + 3)} for index in range(4)},
    }
    ostraca.save(path, stored)
    like = {"w": np.ones(8), "loader": ostraca.PerProcess({"position": 0, "seed": np.zeros(3, int)})}
    out = ostraca.jax.load(path, like=like)
    assert type(out["loader"]) is ostraca.PerProcess
    assert out["loader"].value["position"] == 0 and out["loader"].value["seed"].tolist() == [0, 1, 2]
    with pytest.raises(ostraca.MismatchError, match="'w/0': not stored"):
        ostraca.jax.load(path, like={**like, "w": ostraca.PerProcess(np.ones(8))})


def test_strict_unless_told_otherwise(path: Path) -> None:
    tree = {"w": np.ones((8, 4), np.float32), "b": np.ones(4, np.float32)}
    ostraca.save(path, tree)
    like = {"w": struct((8, 4), "float32", "x"), "b": struct((4,), "float32")}
    extra = {**like, "new": jnp.full(3, 7.0)}
    with pytest.raises(ostraca.MismatchError, match="'new': not stored"):
        ostraca.jax.load(path, like=extra)
    kept = ostraca.jax.load(path, like=extra, missing="keep")
    assert kept["new"] is extra["new"] and (kept["w"] == 1).all()
    with pytest.raises(ostraca.MismatchError, match="'b': stored, but not in `like`"):
        ostraca.jax.load(path, like={"w": like["w"]})
    assert list(ostraca.jax.load(path, like={"w": like["w"]}, select="w")) == ["w"]
    with pytest.raises(ostraca.MismatchError, match=r"expected shape \(4, 8\), found \(8, 4\)"):
        ostraca.jax.load(path, like={**like, "w": struct((4, 8), "float32")})
    with pytest.raises(ostraca.MismatchError, match="expected dtype bfloat16, found float32"):
        ostraca.jax.load(path, like={**like, "w": struct((8, 4), "bfloat16")})
    with pytest.raises(ostraca.MismatchError, match="expected array, found str"):
        ostraca.save(path, {"w": "text"}, overwrite=True)
        ostraca.jax.load(path, like={"w": sharding()})


def test_arguments(path: Path) -> None:
    ostraca.save(path, {"w": np.ones(8)})
    with pytest.raises(ValueError, match=r"ostraca.load\(into=\)"):
        ostraca.jax.load(path, into={"w": np.ones(8)})
    with pytest.raises(ValueError, match="give a tree"):
        ostraca.jax.load(path, like=sharding(), missing="keep")
    with pytest.raises(ValueError, match="missing"):
        ostraca.jax.load(path, missing="perhaps")  # type: ignore[arg-type]
    with pytest.raises(ostraca.NotFoundError):
        ostraca.jax.load(path / "elsewhere")
    with pytest.raises(ostraca.UnsupportedError, match="traced"):
        jax.jit(lambda x: ostraca.jax.load(path, like={"w": x}, cast=True))(jnp.ones(8))


def test_casts_only_when_asked(path: Path) -> None:
    values = np.linspace(-3, 300, 64).reshape(8, 8)
    ostraca.save(
        path, {"a": values.astype(np.float32), "b": values, "c": np.arange(8) + 2**40, "d": values.astype("c8")}
    )
    like = {
        "a": struct((8, 8), "bfloat16", "x"),
        "b": values.astype("f4"),
        "c": sharding("x"),
        "d": struct((8, 8), "c8"),
    }
    with pytest.raises(ostraca.MismatchError, match="expected dtype bfloat16, found float32"):
        ostraca.jax.load(path, like=like)
    with pytest.raises(ostraca.MismatchError, match=r"'c': 1099511627776 at index \(0,\) does not fit int32"):
        ostraca.jax.load(path, like=like, cast=True)
    out = ostraca.jax.load(path, like=like, cast="unsafe")
    assert same_bits(out["a"], values.astype(np.float32).astype(ml_dtypes.bfloat16))
    assert out["a"].sharding == sharding("x")
    assert type(out["b"]) is np.ndarray and same_bits(out["b"], values.astype(np.float32))
    assert same_bits(out["c"], np.arange(8, dtype=np.int32)) and out["c"].sharding == sharding("x")
    with pytest.raises(ostraca.MismatchError, match="complex64 cannot be cast to float32"):
        ostraca.jax.load(path, like={**like, "d": struct((8, 8), "f4")}, cast=True)
    with pytest.raises(ostraca.MismatchError, match="expected shape"):
        ostraca.jax.load(path, like={**like, "a": struct((8, 4), "f4")}, cast=True)


def test_64_bits_are_never_cut_silently(path: Path) -> None:
    values = np.arange(8) + 2**40
    ostraca.save(path, {"a": values, "f": np.ones(8)})
    for like in (sharding(), {"a": sharding("x"), "f": np.ones(8)}, {"a": struct((8,), np.int64), "f": np.ones(8)}):
        with pytest.raises(ostraca.MismatchError, match="'a': JAX holds int64 only with jax_enable_x64"):
            ostraca.jax.load(path, like=like)
    with jax.enable_x64(True):
        out = ostraca.jax.load(path, like=sharding("x"))
        assert same_bits(out["a"], values) and out["f"].dtype == np.float64


def test_the_default_device_is_the_callers(path: Path) -> None:
    ostraca.save(path, {"w": np.ones(8, np.float32)})
    with jax.default_device(device(2)):
        out = ostraca.jax.load(path, like={"w": jax.ShapeDtypeStruct((8,), "float32")})
    assert out["w"].devices() == {device(2)} and not out["w"].committed


def test_dtypes_that_jax_lacks(path: Path) -> None:
    tree = {
        "names": np.array(["a", "bc"]),
        "when": np.array([1, 2], "M8[s]"),
        "f6": np.ones(2, ml_dtypes.float6_e2m3fn),
    }
    with contextlib.suppress(Exception):
        jax.device_put(tree["f6"])
        del tree["f6"]  # jax 0.12 has it
    ostraca.save(path, tree)
    with pytest.raises(ostraca.MismatchError, match=f"{len(tree)} leaves") as error:
        ostraca.jax.load(path, like=sharding())
    assert all(f"{name!r}: JAX has no dtype" in str(error.value) for name in tree)
    out = ostraca.jax.load(path, like=tree)
    assert all(same_bits(out[name], tree[name]) for name in tree)


def test_big_endian(path: Path) -> None:
    values = np.arange(8, dtype=">f4")
    ostraca.save(path, values)
    assert same_bits(ostraca.jax.load(path, like=sharding("x")), values.astype("<f4"))


def test_damage_is_an_error(path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((512, 512), np.float32)
    ostraca.save(path, {"w": values})
    for file in path.glob("p*.ostraca"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    with pytest.raises(ostraca.CorruptionError, match="'w'"):
        ostraca.jax.load(path, like=sharding("x"))


def test_progress(path: Path) -> None:
    ostraca.save(path, {str(i): np.random.default_rng(i).standard_normal(1 << 20) for i in range(12)})
    seen: list[tuple[int, int]] = []
    ostraca.jax.load(path, like=sharding("x"), cast=True, progress=lambda *both: seen.append(both))
    assert seen == sorted(seen) and seen[-1] == (12 << 23, 12 << 23)
    with pytest.raises(KeyError):
        ostraca.jax.load(path, progress=lambda done, total: operator.getitem({}, "no"))


def test_bounded_staging(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ring that is smaller than the whole wraps around many times."""
    from ostraca.jax import loading

    monkeypatch.setattr(loading, "GROUP_BYTES", 100_000)
    monkeypatch.setattr(loading, "STAGING_BYTES", 250_000)
    tree = {str(i): np.random.default_rng(i).standard_normal((8, 16 + i * 137)).astype("f4") for i in range(60)}
    ostraca.save(path, tree)
    for _ in range(3):
        out = ostraca.jax.load(path, like=sharding("x"))
        assert all(same_bits(out[name], tree[name]) for name in tree)
