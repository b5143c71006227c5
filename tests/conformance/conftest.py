"""One server and one browser for all conformance tests; every test has a room of its own."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.support.browser_client import chromium
from tests.support.dev_server import DevServer, running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DevServer]:
    """A whole Roomwright in its own process."""
    directory: Path = tmp_path_factory.mktemp("server")
    async with running(directory) as started:
        yield started


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """Headless Chromium."""
    async with chromium() as started:
        yield started


@pytest.fixture
def room(request: pytest.FixtureRequest) -> str:
    """A room name of the test's own."""
    return re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")


@pytest.fixture(params=[True, False], ids=["single", "dual"])
def single(request: pytest.FixtureRequest) -> bool:
    """One peer connection (/rtc/v1) or two (/rtc)."""
    return bool(request.param)
