"""The webhook service in the cluster: its rights on NATS, its share of the work, and facts on their way."""

from collections.abc import Callable

import aiohttp
import pytest
from livekit import api

from tests.e2e.release import Release, eventually

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]


async def test_two_replicas_share_the_work_and_ask_the_target(
    release: Release, room: str, measured: Callable[[str], None]
) -> None:
    # Signaling has no such path: a target in the cluster that refuses, and is asked again.
    target = f"http://{release.name}-signaling:7880/hook"
    await release.upgrade("--set", f"webhook.settings.urls={{{target}}}")
    try:
        await release.settled("webhook")

        async def shards() -> list[float]:
            pods = await release.pods("webhook")
            return sorted([await release.metric(pod, "roomwright_webhook_shards") for pod in pods])

        async def are_shared() -> bool:
            return await shards() == [4.0, 4.0]

        took = await eventually(are_shared, "each of two replicas has half of the shards", 60)
        measured(f"webhook replicas shared the shards after {took:.1f} s")
        async with release.server_api() as server:
            await server.room.create_room(api.CreateRoomRequest(name=room))
            await server.room.delete_room(api.DeleteRoomRequest(room=room))

        async def is_asked() -> bool:
            pods = await release.pods("webhook")
            name = "roomwright_webhook_requests_total"
            return sum([await release.metric(pod, name) for pod in pods]) >= 2

        await eventually(is_asked, "the target is asked, and asked again", 60)
    finally:
        await release.upgrade()


async def test_the_history_of_a_room_is_read_in_the_cluster(release: Release, room: str) -> None:
    async with release.server_api() as server:
        await server.room.create_room(api.CreateRoomRequest(name=room))
        await server.room.delete_room(api.DeleteRoomRequest(room=room))
    token = release.token(room, "admin", room_admin=True)
    url = f"{release.http_url}/twirp/roomwright.EventService/ListEvents"

    async def is_told() -> bool:
        headers = {"Authorization": f"Bearer {token}"}
        async with (
            aiohttp.ClientSession(headers=headers) as http,
            http.post(url, json={"room": room}) as answer,
        ):
            page = await answer.json()
            assert answer.status == 200, page
            return [event["event"] for event in page["events"]] == ["room_started", "room_finished"]

    await eventually(is_told, "the room's beginning and end are told")
    # Made before the revocation: a later one is good.
    validate = f"{release.http_url}/rtc/validate?access_token={release.token(room, 'ann')}"
    revoked = f"{release.http_url}/twirp/roomwright.AccessService/RevokeParticipant"
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as http:
        async with http.post(revoked, json={"room": room, "identity": "ann"}) as answer:
            assert answer.status == 200, await answer.text()

        async def is_refused() -> bool:
            async with http.get(validate) as refused:
                return refused.status == 401

        await eventually(is_refused, "every replica knows of the revocation", 10)
