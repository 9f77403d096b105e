"""JAX: sharded arrays in, sharded arrays out, from any number of processes and to any other mesh.

ostraca.jax.save("run/1000", state, step=1000)
state = ostraca.jax.load("run/1000", like=state)
"""

from . import versions as versions  # first: it says which releases of JAX are supported
from .loading import load
from .preemption import reached_preemption
from .saving import save, save_async

__all__ = ["load", "reached_preemption", "save", "save_async"]
