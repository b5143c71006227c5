"""Webhooks of real calls, verified by the receivers of the published server SDKs."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from livekit import api
from livekit.protocol import models
from livekit.protocol.webhook import WebhookEvent

from loadtest.own_server import OwnServerError
from tests.support.dev_server import KEY, SECRET, DevServer, running
from tests.support.python_client import PythonClient, until
from tests.support.webhook_target import WebhookTarget, webhook_target

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(90)]

RECEIVER = Path(__file__).parents[1] / "clients" / "webhook_receiver.mjs"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def target() -> AsyncIterator[WebhookTarget]:
    """What listens."""
    async with webhook_target(KEY, SECRET) as listening:
        listening.keeps_requests = True
        yield listening


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def teller(
    tmp_path_factory: pytest.TempPathFactory, target: WebhookTarget
) -> AsyncIterator[DevServer]:
    """A server that tells it."""
    async with running(tmp_path_factory.mktemp("teller"), "--webhook-url", target.url) as started:
        yield started


async def test_a_call_is_told_from_its_beginning_to_its_end(
    teller: DevServer, target: WebhookTarget, room: str
) -> None:
    alice = await PythonClient.join(teller, room, "alice")
    published = await alice.publish_tone()
    await target.until(lambda: bool(target.named("track_published", room)))
    await alice.leave()
    await target.until(lambda: bool(target.named("participant_left", room)))
    async with api.LiveKitAPI(teller.http_url, KEY, SECRET) as lk:
        await lk.room.delete_room(api.DeleteRoomRequest(room=room))
    await target.until(lambda: bool(target.named("room_finished", room)))
    assert target.names(room) == [
        "room_started",
        "participant_joined",
        "track_published",
        "track_unpublished",
        "participant_left",
        "room_finished",
    ]
    started, joined, track, _, left, finished = (e for e in target.events if e.room.name == room)
    assert started.room.sid.startswith("RM_")
    assert started.room.turn_password == ""
    assert joined.participant.state == models.ParticipantInfo.ACTIVE
    assert (track.track.sid, track.participant.identity) == (published.sid, "alice")
    assert (track.room.sid, track.room.empty_timeout) == (started.room.sid, 0)
    assert left.participant.disconnect_reason == models.CLIENT_INITIATED
    assert finished.room_end_reason == models.ROOM_END_API_DELETE
    assert len({event.id for event in target.events}) == len(target.events)


async def test_who_leaves_before_media_flows_is_a_connection_that_was_aborted(
    teller: DevServer, target: WebhookTarget, room: str
) -> None:
    async with aiohttp.ClientSession() as http:
        url = f"{teller.http_url}/rtc?access_token={teller.token(room, 'hasty')}&protocol=16"
        async with http.ws_connect(url) as socket:
            await socket.receive()
        await target.until(
            lambda: bool(target.named("participant_connection_aborted", room)), timeout_s=60
        )
    assert not target.named("participant_joined", room)


async def test_the_receiver_of_the_node_sdk_takes_every_request_and_no_forged_one(
    teller: DevServer, target: WebhookTarget, room: str
) -> None:
    async with api.LiveKitAPI(teller.http_url, KEY, SECRET) as lk:
        await lk.room.create_room(api.CreateRoomRequest(name=room, metadata="ünïcode ✓"))
        await lk.room.delete_room(api.DeleteRoomRequest(room=room))
    await target.until(lambda: bool(target.named("room_finished", room)))
    requests = [
        {"body": body.decode(), "authorization": headers["Authorization"]}
        for body, headers in target.requests
    ]
    forged = {**requests[-1], "body": requests[-1]["body"].replace("room_finished", "room_started")}
    node = await asyncio.create_subprocess_exec(
        "node", str(RECEIVER), KEY, SECRET,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    lines = "".join(json.dumps(request) + "\n" for request in [*requests, forged])
    said, _ = await node.communicate(lines.encode())
    taken = [json.loads(line) for line in said.splitlines()]
    assert [it.get("id") for it in taken[:-1]] == [
        json.loads(request["body"])["id"] for request in requests
    ]
    assert "error" in taken[-1]


async def told_and_killed(server: DevServer, target: WebhookTarget, room: str) -> None:
    """Something happens, the target is asked to take it, and the server is killed."""
    async with api.LiveKitAPI(server.http_url, KEY, SECRET) as lk:
        await lk.room.create_room(api.CreateRoomRequest(name=room))
        await lk.room.delete_room(api.DeleteRoomRequest(room=room))
    await until(lambda: bool(target.seen), "the target was asked")
    os.kill(server.pid, signal.SIGKILL)


async def test_killing_the_server_loses_no_event(tmp_path: Path, room: str) -> None:
    is_well = False

    async def refuse_until_well(_: WebhookEvent) -> web.Response | None:
        return None if is_well else web.Response(status=503)

    async with webhook_target(KEY, SECRET) as target:
        target.behavior = refuse_until_well
        with pytest.raises(OwnServerError, match="ended with -9"):
            async with running(tmp_path, "--webhook-url", target.url) as first:
                await told_and_killed(first, target, room)
        is_well = True
        async with running(tmp_path, "--webhook-url", target.url):
            await target.until(lambda: target.names(room) == ["room_started", "room_finished"])


async def test_an_operator_sees_how_webhooks_fare_and_has_them_told_again(
    tmp_path: Path, room: str
) -> None:
    async with (
        webhook_target(KEY, SECRET) as target,
        running(tmp_path, "--webhook-url", target.url) as server,
    ):
        async with api.LiveKitAPI(server.http_url, KEY, SECRET) as lk:
            await lk.room.create_room(api.CreateRoomRequest(name=room))
            await lk.room.delete_room(api.DeleteRoomRequest(room=room))
        await target.until(lambda: len(target.events) == 2)
        data_dir = next(path.parent.parent for path in tmp_path.rglob("connection.json"))
        said = await command("status", "--data-dir", str(data_dir))
        assert target.url in said
        assert "0 waiting" in said
        assert await command("dead", "--data-dir", str(data_dir)) == "0 dead letters\n"
        again = await command("replay", "--room", room, "--data-dir", str(data_dir))
        assert again == "2 facts are told again\n"
        await target.until(lambda: len(target.events) == 4)
        ids = [event.id for event in target.events]
        assert ids[:2] == ids[2:]


async def command(*arguments: str) -> str:
    """What `roomwright webhooks` prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "roomwright", "webhooks", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return out.decode()
