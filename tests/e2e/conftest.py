"""The cluster, the release on it, and a browser. Run by `make e2e`, which builds and loads the images first.

Every file begins with `pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(...)]`.
`bare` is the chart installed with no values at all; `release` the same with several SFU nodes and short drains, as most
tests want it. Files run in the order of `FIRST`, then those without an order, then `LAST`.
"""

import os
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.e2e.cluster import TOOL_NAMESPACE, Cluster, reaches
from tests.e2e.release import Release, eventually, from_environment
from tests.support.browser_client import chromium
from tools.images import full_name

FIRST = ("test_install", "test_upgrade", "test_failures")
LAST = ("test_scale", "test_uninstall")
"""The one leaves the release with an autoscaler, the other leaves none."""
SHAPE = ("--set", "sfu.replicas=2", "--set", "sfu.drainSeconds=20")
"""What most tests need beyond no values: two nodes, and drains that fit into a test."""
costs: dict[str, float] = {}
"""Seconds by part, printed at the end."""
findings: list[str] = []
"""What tests measured, printed at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files."""

    def place(item: pytest.Item) -> int:
        name = item.path.stem
        if name in LAST:
            return len(FIRST) + 1 + LAST.index(name)
        return FIRST.index(name) if name in FIRST else len(FIRST)

    items.sort(key=place)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Count each file's seconds."""
    begin = time.monotonic()
    try:
        return (yield)
    finally:
        costs[item.path.stem] = costs.get(item.path.stem, 0.0) + time.monotonic() - begin


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests measured, and what each part cost."""
    for line in findings:
        terminalreporter.write_line(f"    {line}")
    for name, seconds in costs.items():
        terminalreporter.write_line(f"    {seconds:6.1f} s  {name}")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def cluster() -> AsyncIterator[Cluster]:
    """The cluster that KUBECONFIG names, with a node tool on every node."""
    for name in ("KUBECONFIG", "E2E_TAG", "E2E_NEXT_TAG"):
        assert os.environ.get(name), f"{name} is not set: run these tests by `make e2e`"
    found = Cluster()
    tag = os.environ["E2E_TAG"]
    await found.start_tools(full_name({"repository": "roomwright-placement", "tag": tag}))
    yield found
    if not _keep():
        await found.drop_namespace(TOOL_NAMESPACE)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def bare(cluster: Cluster) -> AsyncIterator[Release]:
    """The chart as `helm install` makes it with no values; with `--keep` the one that is there is used again."""
    release = from_environment(cluster)
    if _keep() and await release.is_installed():
        await release.attach()
    else:
        begin = time.monotonic()
        await cluster.make_namespace(release.namespace)
        await _make_volumes(release)
        costs["namespace and volumes"] = time.monotonic() - begin
        await release.install()
    await eventually(lambda: reaches(release.http_url), f"an answer from {release.http_url}")
    yield release
    if not _keep():
        if await release.is_installed():
            await release.uninstall()
        await cluster.drop_namespace(release.namespace)
        await cluster.drop_volumes(release.namespace)
    costs.update(release.costs)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def release(bare: Release) -> Release:
    """The release with at least two SFU nodes, all ready."""
    bare.values = SHAPE
    await bare.upgrade()
    await bare.settled("sfu")
    return bare


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser(bare: Release) -> AsyncIterator[Browser]:
    """Headless Chromium, which lets the page use devices although its address is neither local nor https."""
    flag = f"--unsafely-treat-insecure-origin-as-secure={bare.http_url}"
    async with chromium(flag) as started:
        yield started


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Call it with a line that belongs into the run's summary, such as a gap in seconds."""
    return lambda line: findings.append(f"{request.node.name}: {line}")


@pytest.fixture
def room(request: pytest.FixtureRequest) -> str:
    """A room name of the test's own."""
    return re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")


async def _make_volumes(release: Release) -> None:
    """Volumes for the claims of NATS, where the cluster makes none by itself."""
    if await release.cluster.provides_volumes():
        return
    for item in await release.manifests():
        if item["kind"] == "StatefulSet":
            for claim in item["spec"].get("volumeClaimTemplates", []):
                spec = claim["spec"]
                await release.cluster.make_volumes(
                    release.namespace,
                    spec["resources"]["requests"]["storage"],
                    item["spec"]["replicas"],
                    spec.get("storageClassName", ""),
                )


def _keep() -> bool:
    return os.environ.get("E2E_KEEP") == "1"
