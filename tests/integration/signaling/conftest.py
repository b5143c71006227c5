"""One signaling over a placement and a node that do as the test says."""

from collections.abc import AsyncIterator

import pytest

from tests.support.fronts import (
    Front,
    ScriptedPlacement,
    running_front,
    running_node,
    running_placement,
)


@pytest.fixture
async def front() -> AsyncIterator[Front]:
    """Signaling on a free port, with one node."""
    async with running_node() as node:
        placement = ScriptedPlacement([node])  # type: ignore[abstract]
        async with (
            running_placement(placement) as address,
            running_front(placement, address) as front,
        ):
            yield front
