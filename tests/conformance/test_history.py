"""The history of rooms: who came when, published what, left why; through HTTP and through the command."""

import asyncio
import json
import sys
import time

import aiohttp
import pytest
from livekit import api

from tests.support.dev_server import KEY, SECRET, DevServer
from tests.support.python_client import PythonClient

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(60)]

STORY = [
    "room_started",
    "participant_joined",
    "track_published",
    "track_unpublished",
    "participant_left",
    "room_finished",
]


async def asked(server: DevServer, token: str, **request: object) -> tuple[int, dict[str, object]]:
    """One call."""
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as http:
        url = f"{server.http_url}/twirp/roomwright.EventService/ListEvents"
        async with http.post(url, json=request) as answer:
            return answer.status, await answer.json()


def admin(room: str) -> str:
    grants = api.VideoGrants(room_admin=True, room=room)
    return api.AccessToken(KEY, SECRET).with_identity("admin").with_grants(grants).to_jwt()


async def until_told(server: DevServer, room: str, count: int) -> list[dict[str, object]]:
    """The room's events once there are so many."""
    async with asyncio.timeout(10):
        while True:
            status, page = await asked(server, admin(room), room=room)
            assert status == 200, page
            events = page["events"]
            assert isinstance(events, list)
            if len(events) >= count:
                return events
            await asyncio.sleep(0.1)


async def test_the_story_of_a_call_is_told_in_order(server: DevServer, room: str) -> None:
    began = int(time.time())
    ann = await PythonClient.join(server, room, "ann")
    published = await ann.publish_tone()
    await until_told(server, room, 3)
    await ann.leave()
    await until_told(server, room, 5)
    async with api.LiveKitAPI(server.http_url, KEY, SECRET) as lk:
        await lk.room.delete_room(api.DeleteRoomRequest(room=room))
    events = await until_told(server, room, len(STORY))
    assert [event["event"] for event in events] == STORY
    assert {event["room"] for event in events} == {room}
    assert events[2]["track_sid"] == published.sid
    assert (events[2]["track_type"], events[2]["identity"]) == ("AUDIO", "ann")
    assert [event["reason"] for event in events[4:]] == ["CLIENT_INITIATED", "ROOM_END_API_DELETE"]

    for request, names in (
        ({"events": ["participant_left"]}, ["participant_left"]),
        ({"identity": "ann"}, STORY[1:5]),
        ({"identity": "ben"}, []),
        ({"since": began - 1, "until": int(time.time())}, STORY),
        ({"until": began - 100}, []),
        ({"room_sid": "RM_other"}, []),
    ):
        _, page = await asked(server, admin(room), room=room, **request)
        assert [event["event"] for event in page["events"]] == names  # type: ignore[index, union-attr]

    paged, token = [], "0"
    while True:
        _, page = await asked(server, admin(room), room=room, limit=2, page_token=token)
        paged += page["events"]  # type: ignore[operator, arg-type]
        token = str(page["page_token"])
        if token == "0":
            break
    assert paged == events

    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "roomwright", "events", "--url", server.http_url, "--room", room,
        "--json", stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert [json.loads(line)["event"] for line in out.splitlines()] == STORY


async def test_others_may_not_read_it(server: DevServer, room: str) -> None:
    for token in (admin("another"), server.token(room, "ann")):
        status, answer = await asked(server, token, room=room)
        assert (status, answer["code"]) == (401, "unauthenticated")
    status, answer = await asked(server, admin(room))
    assert status == 401
    status, answer = await asked(server, admin(room), room=room, limit=5000)
    assert (status, answer["code"]) == (400, "invalid_argument")
