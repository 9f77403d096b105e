"""Releases of JAX other than the one that is installed, as far as it can stand for them; `make test-versions` has them
themselves."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("jax")

AS_BEFORE_0_10 = """
import sys
import jax
from jax import tree_util

jax.__version__, jax.__version_info__ = "0.8.0", (0, 8, 0)
del tree_util.is_tree_node  # new in 0.10

import jax.numpy as jnp
import ostraca.jax


@tree_util.register_pytree_with_keys_class
class Node:
    def __init__(self, a, b):
        self.a, self.b = a, b

    def tree_flatten_with_keys(self):
        return [(tree_util.GetAttrKey("a"), self.a), (tree_util.GetAttrKey("b"), self.b)], None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


tree = {"node": Node(jnp.arange(4.0), [jnp.ones(2, jnp.bfloat16)]), "n": 3}
ostraca.jax.save(sys.argv[1], tree)
with ostraca.open(sys.argv[1]) as stored:
    assert list(stored) == ["node/a", "node/b/0", "n"], list(stored)
loaded = ostraca.jax.load(sys.argv[1], like=tree)
assert type(loaded["node"]) is Node and (loaded["node"].a == tree["node"].a).all() and loaded["n"] == 3
"""

TOO_OLD = """
import jax

jax.__version__, jax.__version_info__ = "0.7.2", (0, 7, 2)
import ostraca.jax
"""


def test_names_that_older_releases_lack(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", AS_BEFORE_0_10, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_release_that_is_too_old() -> None:
    done = subprocess.run([sys.executable, "-c", TOO_OLD], capture_output=True, text=True)
    assert done.returncode == 1 and "ImportError: ostraca.jax works with jax 0.8 to " in done.stderr, done.stderr
    assert "this is 0.7.2: pip install" in done.stderr
