"""The chart with no values at all on a plain cluster, and stock clients that call each other through its Service."""

import asyncio
from collections.abc import Callable

import pytest
from livekit import api, rtc
from playwright.async_api import Browser

from loadtest.ports import free_port
from tests.e2e.caller import BrowserCaller, PythonCaller, everybody_sees_everybody, gaps, now
from tests.e2e.cluster import reaches
from tests.e2e.release import COMPONENT, INSTANCE, Release, eventually

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300)]

USER = 10001
SMOOTH_S = 1.5
"""No two pictures of a quiet call are further apart, on two shared cores and with a sampled browser."""


async def test_install_with_no_values_gives_ready_pods_that_may_do_little(bare: Release) -> None:
    for component, count in (("signaling", 2), ("placement", 2), ("sfu", 1), ("nats", 1)):
        assert len(await bare.pods(component)) == count, component
    found = await bare.get("pods", "-l", f"{INSTANCE}={bare.name}")
    for pod in found["items"]:
        if pod["metadata"]["labels"].get(COMPONENT) not in ("signaling", "placement", "sfu"):
            continue
        whole = pod["spec"].get("securityContext", {})
        for container in pod["spec"]["containers"]:
            context = {**whole, **container["securityContext"]}
            assert context["runAsNonRoot"] is True
            assert context.get("runAsUser", USER) == USER
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"]["drop"] == ["ALL"]


async def test_python_and_chromium_call_each_other_through_the_service(
    bare: Release, browser: Browser, room: str, measured: Callable[[str], None]
) -> None:
    for single in (True, False):
        name = f"{room}-{single}".lower()
        async with (
            await PythonCaller.join(bare, name, "alice", single=single) as alice,
            await BrowserCaller.join(browser, bare, name, "carol", single=single) as carol,
        ):
            await everybody_sees_everybody(alice, carol)
            begin = now()
            await asyncio.sleep(3)
            found = gaps([alice, carol], begin)
            measured(f"{'one connection' if single else 'two connections'}: longest gaps {found}")
            assert max(found.values()) < SMOOTH_S
            assert await alice.sid() == await carol.sid()


async def test_the_server_api_works_through_the_service(bare: Release, room: str) -> None:
    async with bare.server_api() as client:
        made = await client.room.create_room(api.CreateRoomRequest(name=room, metadata="hello"))
        listed = await client.room.list_rooms(api.ListRoomsRequest(names=[room]))
        assert [(it.sid, it.metadata) for it in listed.rooms] == [(made.sid, "hello")]
        await client.room.delete_room(api.DeleteRoomRequest(room=room))


async def test_the_lines_of_the_notes_give_a_token_and_a_port_that_join(
    bare: Release, room: str
) -> None:
    forward, token = bare.noted("port-forward"), bare.noted("token --room")
    port = free_port()
    forward[-1] = f"{port}:{forward[-1].rpartition(':')[2]}"
    process = await asyncio.create_subprocess_exec(*forward, stdout=asyncio.subprocess.DEVNULL)
    try:
        await eventually(lambda: reaches(f"http://127.0.0.1:{port}"), "a forwarded port", 20)
        token[token.index("--room") + 1] = room
        told = (await bare.cluster.run(*token)).strip()
        guest = rtc.Room()
        await guest.connect(f"ws://127.0.0.1:{port}", told)
        assert guest.name == room
        await guest.disconnect()
    finally:
        process.terminate()
        await process.wait()


async def test_helm_test_passes(bare: Release) -> None:
    assert "Phase:          Succeeded" in await bare.test()
