"""One server for all tests of the load test; every test has rooms of its own."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.dev_server import DevServer, running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DevServer]:
    """A whole Roomwright in its own process."""
    async with running(tmp_path_factory.mktemp("server")) as started:
        yield started
