"""Leaves of classes that only a leaf handler of Orbax's v1 can store, beside trees of Ostraca's."""

from pathlib import Path
from typing import Any

import orbax.checkpoint.experimental.v1 as ocp
import pytest
from orbax.checkpoint.experimental.v1._src.serialization.registry import StandardLeafHandlerRegistry

import ostraca
import ostraca.orbax.v1
from orbax_plugs import assert_same, state


class Point:
    """No array, no container: nobody but its handler can store it."""

    def __init__(self, x: int, y: int) -> None:
        self.x, self.y = x, y

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and (self.x, self.y) == (other.x, other.y)

    __hash__ = None  # type: ignore[assignment]


class PointHandler:
    """A leaf handler: each point in a file of its own."""

    def __init__(self, *, context: Any = None) -> None:
        pass

    async def serialize(self, params: Any, serialization_context: Any) -> Any:
        async def write() -> None:
            directory = await serialization_context.parent_dir.await_creation()
            for param in params:
                (directory / f"{param.name}.point").write_text(f"{param.value.x} {param.value.y}")

        return write()

    async def deserialize(self, params: Any, deserialization_context: Any) -> Any:
        async def read() -> list[Point]:
            files = [deserialization_context.parent_dir / f"{param.name}.point" for param in params]
            return [Point(*map(int, file.read_text().split())) for file in files]

        return read()

    async def metadata(self, params: Any, deserialization_context: Any) -> list[type]:
        return [Point] * len(params)


class PointsHandler(ocp.handlers.PyTreeHandler):  # type: ignore[misc]
    """Orbax's handler of trees, with points among the leaves."""

    def __init__(self) -> None:
        leaf_handlers = StandardLeafHandlerRegistry()
        leaf_handlers.add(Point, Point, PointHandler)
        super().__init__(leaf_handler_registry=leaf_handlers)


@pytest.fixture(params=["stock", "ours"])
def context(request: pytest.FixtureRequest) -> ocp.Context:
    """With `PointsHandler` for the checkpointable "points"."""
    own = ocp.Context()
    own.checkpointables.registry = ocp.handlers.local_registry().add(PointsHandler, checkpointable_name="points")
    return own if request.param == "stock" else ostraca.orbax.v1.context(own)


def test_a_handler_of_ones_own_keeps_its_name(context: ocp.Context, tmp_path: Path) -> None:
    points = {"start": Point(1, 2), "ends": [Point(3, 4), Point(5, 6)]}
    with context:
        ocp.save_checkpointables(tmp_path / "x", {"points": points, "state": state(1)})
        loaded = ocp.load_checkpointables(tmp_path / "x", {"points": None, "state": None})
    assert loaded["points"] == points
    assert_same(loaded["state"], state(1))


def test_elsewhere_such_a_leaf_is_refused(context: ocp.Context, tmp_path: Path) -> None:
    with context, pytest.raises((TypeError, ValueError), match="Point") as caught:
        ocp.save_checkpointables(tmp_path / "x", {"state": {**state(1), "start": Point(1, 2)}})
    assert not (tmp_path / "x").exists()
    if isinstance(caught.value, ostraca.UnsupportedError):
        assert "'start'" in str(caught.value)
        assert "checkpointable_name" in str(caught.value)
