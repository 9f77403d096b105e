"""Objects that stand for something of this process."""

from typing import Any, ClassVar

from .errors import UnsupportedError


class Uncopied:
    """Refuses `copy` and `pickle`: two objects would share what belongs to one, a save or open files."""

    __slots__ = ()
    _instead: ClassVar[str]  # what to do

    def __reduce_ex__(self, protocol: Any) -> Any:
        what = f"an ostraca.{type(self).__name__} cannot be copied or pickled"
        raise UnsupportedError(f"{what}: it stands for something of this process; {self._instead}")
