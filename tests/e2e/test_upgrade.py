"""Upgrade and rollback between builds whose internal contracts differ, pods of both at once and a call running."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from tests.e2e.caller import call, everybody_sees_everybody, gaps, now
from tests.e2e.release import Release, eventually

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(900)]

SERVICES = ("signaling", "placement", "sfu")
MIXED_S = 60.0
"""How long pods of both builds stand side by side."""
MOVED_S = 15.0
"""A call whose node is replaced stands on another after this; see the drain time in conftest.SHAPE."""


async def test_a_call_outlives_an_upgrade_and_a_rollback_with_mixed_contracts(
    release: Release, room: str, measured: Callable[[str], None]
) -> None:
    async with call(release, room, "alice", "bob") as callers:
        sid = await callers[0].sid()
        for change in ("upgrade", "rollback"):
            begin = now()
            async with mixed(release, change):
                await new_calls_work(release, f"{room}-{change}")
            await everybody_sees_everybody(*callers)
            found = gaps(callers, begin)
            measured(f"{change}: {now() - begin:.0f} s, media gaps {found}")
            assert max(found.values()) < MOVED_S
            assert await callers[0].sid() == sid


async def test_after_the_rollback_only_the_first_build_runs(release: Release) -> None:
    for service in SERVICES:
        for pod in await release.pods(service):
            assert pod.image.endswith(f":{release.tag}"), f"{pod.name}: {pod.image}"


@asynccontextmanager
async def mixed(release: Release, change: str) -> AsyncIterator[None]:
    """Begin an upgrade or a rollback and hold it while each service has pods of both builds; finish it afterwards."""
    old = release.tag if change == "upgrade" else release.next_tag
    new = release.next_tag if change == "upgrade" else release.tag
    if change == "upgrade":
        await release.upgrade("--set", f"image.tag={new}", wait=False)
    else:
        await release.rollback(wait=False)
    await asyncio.gather(*(hold_mixed(release, service, old, new) for service in SERVICES))
    try:
        yield
    finally:
        for service in SERVICES:
            await release.kubectl("rollout", "resume", release.workload(service))
    for service in SERVICES:
        status = ("rollout", "status", release.workload(service), "--timeout=240s")
        await release.kubectl(*status)
        await release.settled(service)


async def hold_mixed(release: Release, service: str, old: str, new: str) -> None:
    """Stop a service's rollout at a moment when ready pods of both builds are there."""

    async def first_new_pod() -> bool:
        return any(pod.image.endswith(f":{new}") for pod in await release.pods(service))

    await eventually(first_new_pod, f"a ready {service} pod of {new}", 120)
    await release.kubectl("rollout", "pause", release.workload(service))
    tags = {pod.image.rpartition(":")[2] for pod in await release.pods(service)}
    assert tags == {old, new}, f"{service} has pods of {tags}"


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
