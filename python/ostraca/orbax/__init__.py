"""Orbax on Ostraca: stock managers and checkpointers write and read Ostraca's checkpoints.

    manager = ocp.CheckpointManager(directory, options=options, handler_registry=ostraca.orbax.registry())
    checkpointer = ocp.AsyncCheckpointer(ostraca.orbax.Handler())

Policies, metrics, asynchronous saves, retention and the commit stay Orbax's. What stock Orbax wrote into the same
directory before is still restored.
"""

from .arguments import Restore, Save
from .handler import Handler
from .metadata import TreeMetadata
from .registry import registry

__all__ = ["Handler", "Restore", "Save", "TreeMetadata", "registry"]
