"""One installation of two replicas each for all tests of this folder; every test has a room of its own."""

import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.installation import Installation, installed


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def installation(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Installation]:
    """Two of every service and a nats-server, each on a host of its own."""
    async with installed(tmp_path_factory.mktemp("installation")) as running:
        yield running


@pytest.fixture
def room(request: pytest.FixtureRequest) -> str:
    """A room name of the test's own."""
    return re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")
