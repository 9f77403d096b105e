"""Names by which other projects' checkpoints are known, for those who look without importing the project."""

from typing import Final

ORBAX_TREE_FILE: Final = "_METADATA"  # in Orbax's directory of a tree
