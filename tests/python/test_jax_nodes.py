"""Containers that are registered with JAX: their leaves' names, and the same classes back."""

import collections
import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import ostraca
from ostraca.tree import Flattener, Kind, flatten

jax = pytest.importorskip("jax")
import ostraca.jax  # noqa: E402
from ostraca.jax.nodes import REGISTERED  # noqa: E402


def named(tree: Any) -> dict[str, Any]:
    return {name: leaf for _, name, leaf in flatten(tree, REGISTERED)}


def rebuild(tree: Any, values: Any, nodes: Any = None) -> Any:
    walk = Flattener(nodes)
    walk.flatten(tree)
    return walk.rebuild(values)


def doubled(tree: Any) -> Any:
    """The tree, rebuilt with every number times two."""
    leaves = [leaf for _, _, leaf in flatten(tree, REGISTERED)]
    values = iter([leaf if leaf is None or isinstance(leaf, Kind) else leaf * 2 for leaf in leaves])
    return rebuild(tree, values, REGISTERED)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Registered:
    params: Any
    rate: float = dataclasses.field(default=0.1, metadata={"static": True})


@jax.tree_util.register_pytree_node_class
class Keyless:
    def __init__(self, *items: Any) -> None:
        self.items = items

    def tree_flatten(self) -> tuple[tuple[Any, ...], None]:
        return self.items, None

    @classmethod
    def tree_unflatten(cls, _: None, items: Any) -> "Keyless":
        return cls(*items)


class Doubtful(Keyless):
    """Its keys are of several kinds, or the same."""

    keys: tuple[Any, ...] = ()


def _doubtful(node: Doubtful) -> Any:
    return list(zip(node.keys, node.items, strict=True)), node.keys


def _made(keys: Any, items: Any) -> Doubtful:
    node = Doubtful(*items)
    node.keys = keys
    return node


jax.tree_util.register_pytree_with_keys(Doubtful, _doubtful, _made)


class Pair(NamedTuple):
    b: Any
    a: Any


def test_plain_containers_are_as_without_jax() -> None:
    tree = {"z": 1, 7: [None, {}, (), []], "pair": Pair(2, (3,)), "state": Plain(4)}
    assert flatten(tree, REGISTERED) == flatten(tree)
    assert rebuild(tree, iter(range(20)), REGISTERED) == rebuild(tree, iter(range(20)))


@dataclasses.dataclass
class Plain:
    """A dataclass that JAX knows nothing about."""

    field: Any


def test_static_fields_are_left_out_and_stay() -> None:
    tree = Registered({"w": 1}, rate=0.5)
    assert named(tree) == {"params/w": 1}
    assert doubled(tree) == Registered({"w": 2}, rate=0.5)
    assert doubled({"plain": Plain(Registered(3, 0.2))}) == {"plain": Plain(Registered(6, 0.2))}


def test_nodes_without_keys_are_lists() -> None:
    tree = {"a": Keyless(1, Keyless(2), None)}
    assert named(tree) == {"a/0": 1, "a/1/0": 2, "a/2": None}
    back = doubled(tree)["a"]
    assert back.items[0] == 2 and back.items[1].items == (4,) and back.items[2] is None
    assert named(Keyless()) == {"": Kind.EMPTY_DICT}
    assert doubled(Keyless()).items == ()


def test_keys_that_tell_nothing_apart_are_not_used() -> None:
    name, key = jax.tree_util.GetAttrKey, jax.tree_util.DictKey
    for keys in [(name("a"), name("a")), (name("a"), key("b"))]:
        tree = _made(keys, (1, 2))
        assert named(tree) == {"0": 1, "1": 2}
        assert doubled(tree).items == (2, 4)
    assert named(_made((key(3), key("a/b")), (1, 2))) == {"3": 1, "a~1b": 2}


def test_flax_struct() -> None:
    struct = pytest.importorskip("flax.struct")

    @struct.dataclass
    class State:
        params: Any
        apply: Any = struct.field(pytree_node=False, default=print)

    tree = State({"w": 1})
    assert named(tree) == {"params/w": 1}
    assert doubled(tree) == State({"w": 2})


def test_flax_nnx_state() -> None:
    nnx = pytest.importorskip("flax.nnx")
    optax = pytest.importorskip("optax")
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
    state = nnx.state((model, optimizer))
    names = set(named(state))
    assert {"0/kernel/value", "1/opt_state/0/mu/kernel/value", "1/step/value"} <= names
    paths = jax.tree_util.tree_leaves_with_path(state)
    assert names == {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths}
    back = doubled(state)
    assert type(back) is type(state) and type(back[0]["kernel"]) is nnx.Param
    jax.tree.map(np.testing.assert_array_equal, back, jax.tree.map(lambda x: x * 2, state))


def test_equinox_module() -> None:
    eqx = pytest.importorskip("equinox")
    module = eqx.nn.Linear(2, 3, key=jax.random.key(0))
    assert set(named(module)) == {"weight", "bias"}
    back = doubled(module)
    assert type(back) is type(module) and back.out_features == 3
    np.testing.assert_array_equal(back.weight, module.weight * 2)


def test_optax_state() -> None:
    optax = pytest.importorskip("optax")
    state = optax.chain(optax.clip(1.0), optax.adam(1e-3)).init({"w": np.ones(2)})
    assert set(named(state)) == {"0", "1/0/count", "1/0/mu/w", "1/0/nu/w", "1/1"}
    back = doubled(state)
    assert jax.tree.structure(back) == jax.tree.structure(state)


def test_per_process() -> None:
    tree = {"rng": ostraca.PerProcess({"a": 1}), "x": 2}
    assert named(tree) == {"rng/0/a": 1, "x": 2}
    walk = ostraca.tree.Flattener(REGISTERED, process_index=3)
    leaves = walk.flatten(tree)
    assert [name for _, name, _ in leaves] == ["rng/3/a", "x"]
    assert [any(path.startswith(own) for own in walk.per_process) for path, _, _ in leaves] == [True, False]
    assert doubled(tree)["rng"].value == {"a": 2}


class Thawed(Keyless):
    """What it is registered with makes a tuple of it."""


class Doubled(Keyless):
    """What it is registered with takes it apart as it is, and doubles it when it makes it again."""


jax.tree_util.register_pytree_node(Thawed, lambda node: (node.items, None), lambda _, items: items)
jax.tree_util.register_pytree_node(Doubled, lambda node: (node.items, None), lambda _, items: Doubled(*items * 2))


@pytest.mark.parametrize("kind", [Thawed, Doubled])
def test_nodes_that_are_not_made_again_are_refused(path: Path, kind: type) -> None:
    with pytest.raises(ostraca.UnsupportedError, match=rf"'a/node': a .*{kind.__name__} cannot be made again"):
        ostraca.jax.save(path, {"a": {"node": kind(1, 2)}})
    assert not path.exists()


def test_overridden_containers_through_jax(path: Path) -> None:
    tree = {"counts": collections.Counter(a=1, b=2), "pair": Halves(4), "w": jax.numpy.ones(2)}
    ostraca.jax.save(path, tree)
    loaded = ostraca.jax.load(path, like=tree)
    assert loaded["counts"] == tree["counts"] and type(loaded["counts"]) is collections.Counter
    assert loaded["pair"] == tree["pair"] and type(loaded["pair"]) is Halves


class Halves(Pair):
    """A namedtuple that is made of the sum."""

    def __new__(cls, whole: int) -> "Halves":
        return tuple.__new__(cls, (whole // 2, whole - whole // 2))


def test_a_mapping_that_wraps_what_it_holds(path: Path) -> None:
    frozen = pytest.importorskip("flax.core").freeze({"a": {"b": np.ones(2)}})
    ostraca.save(path, frozen)
    loaded = ostraca.load(path, like=frozen)
    assert type(loaded) is type(frozen) and type(loaded["a"]) is type(frozen["a"])
    np.testing.assert_array_equal(loaded["a"]["b"], 1)


def test_an_equinox_module_with_functions(path: Path) -> None:
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(0))
    for save in (ostraca.jax.save, ostraca.save):
        with pytest.raises(ostraca.UnsupportedError, match=r"'model/activation'.*eqx\.filter\(.*eqx\.partition\("):
            save(path, {"model": model})
    arrays, rest = eqx.partition(model, eqx.is_array)
    ostraca.jax.save(path, {"model": arrays})
    with pytest.raises(ostraca.UnsupportedError, match=r"'model/activation'.*eqx\.filter\(.*eqx\.partition\("):
        ostraca.jax.load(path, like={"model": model})
    restored = ostraca.jax.load(path, like={"model": eqx.filter(model, eqx.is_array)})["model"]
    x = jax.numpy.ones(2)
    np.testing.assert_array_equal(eqx.combine(restored, rest)(x), model(x))
