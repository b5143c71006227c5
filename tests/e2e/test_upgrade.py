"""Upgrade and rollback between builds whose internal contracts differ, pods of both at once and a call running."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from tests.e2e.caller import call, everybody_sees_everybody, gaps, now
from tests.e2e.release import Release, eventually

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(900)]

SERVICES = ("signaling", "placement", "sfu")
STAND_STILL_S = 120
"""A rollout waits so long after each new pod; pods of both builds stand side by side meanwhile."""
MIXED_S = 60.0
"""How long calls are tried out in that time."""
MOVED_S = 8.0
"""A call whose node is replaced stands on another after this; see the drain time in conftest.SHAPE."""


async def test_a_call_outlives_an_upgrade_and_a_rollback_with_mixed_contracts(
    release: Release, room: str, measured: Callable[[str], None]
) -> None:
    async with call(release, room, "alice", "bob") as callers:
        for change in ("upgrade", "rollback"):
            begin = now()
            async with mixed(release, change):
                await new_calls_work(release, f"{room}-{change}")
            await everybody_sees_everybody(*callers)
            found = gaps(callers, begin)
            measured(f"{change}: {now() - begin:.0f} s, media gaps {found}")
            assert max(found.values()) < MOVED_S
            # A node whose time to drain is over ends its rooms: the call goes on in one of the same name.
            assert await callers[0].sid() == await callers[1].sid()


async def test_after_the_rollback_only_the_first_build_runs(release: Release) -> None:
    for service in SERVICES:
        for pod in await release.pods(service):
            assert pod.image.endswith(f":{release.tag}"), f"{pod.name}: {pod.image}"


@asynccontextmanager
async def mixed(release: Release, change: str) -> AsyncIterator[None]:
    """An upgrade or a rollback, held while each service has pods of both builds; finished afterwards."""
    await pace(release, STAND_STILL_S)
    if change == "upgrade":
        await release.upgrade("--set", f"image.tag={release.next_tag}", wait=False)
    else:
        await release.rollback(wait=False)
    try:
        await eventually(lambda: is_mixed(release), "pods of both builds in each service", 150)
        yield
        assert await is_mixed(release), "the rollout went on too early"
    finally:
        await pace(release, 0)
    for service in SERVICES:
        status = ("rollout", "status", release.workload(service), "--timeout=240s")
        await release.kubectl(*status)
        await release.settled(service)


async def pace(release: Release, seconds: int) -> None:
    """How long a rollout waits after each pod that became ready."""
    patch = json.dumps({"spec": {"minReadySeconds": seconds}})
    for service in SERVICES:
        await release.kubectl("patch", release.workload(service), "-p", patch)


async def is_mixed(release: Release) -> bool:
    """Each service has ready pods of both builds."""
    for service in SERVICES:
        tags = {pod.image.rpartition(":")[2] for pod in await release.pods(service)}
        if tags != {release.tag, release.next_tag}:
            return False
    return True


async def new_calls_work(release: Release, room: str) -> None:
    """For as long as the builds are mixed, calls that begin now see each other."""
    end = now() + MIXED_S
    number = 0
    while now() < end:
        async with call(release, f"{room}-{number}", "dave", "erin") as callers:
            begin = now()
            await asyncio.sleep(3)
            found = gaps(callers, begin)
            assert max(found.values()) < 2.0, found
        number += 1
    assert number >= 3
