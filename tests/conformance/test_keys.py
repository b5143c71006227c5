"""Keys, projects and revocations while a server runs, with the published SDKs as clients."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from livekit import api, rtc

from tests.support.dev_server import KEY, SECRET, DevServer, running
from tests.support.python_client import PythonClient, until
from tests.support.webhook_target import WebhookTarget, webhook_target

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(60)]


@dataclass(frozen=True)
class Keyed:
    """A server of this file's own, and its data."""

    server: DevServer
    data: Path
    target: WebhookTarget

    async def keys(self, *arguments: str) -> str:
        """What `roomwright keys` prints."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "roomwright", "keys", *arguments, "--data-dir", str(self.data),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        return out.decode()

    async def add(self, key: str, *flags: str) -> str:
        """A new key's secret."""
        return (await self.keys("add", key, *flags)).strip().partition(": ")[2]

    async def access(self, method: str, room: str, body: dict[str, object]) -> tuple[int, object]:
        """Call `roomwright.AccessService` as an administrator of the room."""
        token = token_of(KEY, SECRET, room, "admin", room_admin=True)
        async with aiohttp.ClientSession() as http:
            url = f"{self.server.http_url}/twirp/roomwright.AccessService/{method}"
            headers = {"Authorization": f"Bearer {token}"}
            async with http.post(url, json=body, headers=headers) as answer:
                return answer.status, await answer.json(content_type=None)

    async def validate(self, token: str) -> int:
        """The status of a join with this token."""
        async with aiohttp.ClientSession() as http:
            url = f"{self.server.http_url}/rtc/validate?access_token={token}"
            async with http.get(url) as answer:
                return answer.status

    async def until_status(self, token: str, status: int) -> None:
        """A change of keys is known within 2 seconds."""
        async with asyncio.timeout(2):
            while await self.validate(token) != status:  # noqa: ASYNC110 - it is asked, nothing tells
                await asyncio.sleep(0.05)


def token_of(key: str, secret: str, room: str, identity: str, **grants: bool) -> str:
    video = api.VideoGrants(room_join=True, room=room, **grants)
    return api.AccessToken(key, secret).with_identity(identity).with_grants(video).to_jwt()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def keyed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Keyed]:
    """The server."""
    directory = tmp_path_factory.mktemp("keyed")
    async with (
        webhook_target(KEY, SECRET) as target,
        running(directory, "--webhook-url", target.url) as server,
    ):
        yield Keyed(server, directory / "data", target)


async def test_a_key_is_replaced_while_the_server_runs(keyed: Keyed, room: str) -> None:
    old, new = await keyed.add("old"), await keyed.add("new")
    by_old, by_new = token_of("old", old, room, "a"), token_of("new", new, room, "a")
    await keyed.until_status(by_old, 200)
    await keyed.until_status(by_new, 200)
    await keyed.keys("disable", "old")
    await keyed.until_status(by_old, 401)
    assert await keyed.validate(by_new) == 200
    listed = await keyed.keys("list")
    assert "old  no project  disabled" in listed
    assert new not in listed
    await keyed.keys("remove", "new")
    await keyed.until_status(by_new, 401)


async def test_who_is_removed_does_not_come_back_with_the_old_token(
    keyed: Keyed, room: str
) -> None:
    ann = await PythonClient.join(keyed.server, room, "ann")
    old = token_of(KEY, SECRET, room, "ann")
    async with api.LiveKitAPI(keyed.server.http_url, KEY, SECRET) as lk:
        await lk.room.remove_participant(
            api.RoomParticipantIdentity(room=room, identity="ann", revoke_token_ts=int(time.time()))
        )
    reason = rtc.DisconnectReason.PARTICIPANT_REMOVED
    await until(lambda: f"disconnected {reason}" in ann.events, "ann is told why")
    assert await keyed.validate(old) == 401
    assert await keyed.validate(token_of(KEY, SECRET, room, "ben")) == 200
    await asyncio.sleep(1.1)
    assert await keyed.validate(token_of(KEY, SECRET, room, "ann")) == 200


async def test_removing_nobody_revokes_nothing(keyed: Keyed, room: str) -> None:
    token = token_of(KEY, SECRET, room, "ann")
    await PythonClient.join(keyed.server, room, "ben")
    async with api.LiveKitAPI(keyed.server.http_url, KEY, SECRET) as lk:
        with pytest.raises(api.TwirpError) as missing:
            await lk.room.remove_participant(
                api.RoomParticipantIdentity(
                    room=room, identity="ann", revoke_token_ts=int(time.time())
                )
            )
    assert missing.value.code == "not_found"
    assert await keyed.validate(token) == 200


async def test_a_revoked_token_ends_its_session(keyed: Keyed, room: str) -> None:
    token = token_of(KEY, SECRET, room, "ann")
    sdk = rtc.Room()
    reasons: list[rtc.DisconnectReason.ValueType] = []
    sdk.on("disconnected", reasons.append)
    await sdk.connect(keyed.server.url, token)
    status, said = await keyed.access("RevokeToken", room, {"token": token})
    assert (status, said) == (200, {"room": room, "identity": "ann"})
    await until(lambda: reasons == [rtc.DisconnectReason.PARTICIPANT_REMOVED], "ann is removed")
    assert await keyed.validate(token) == 401


async def test_a_participant_is_revoked_before_coming(keyed: Keyed, room: str) -> None:
    token = token_of(KEY, SECRET, room, "ann")
    request = {"room": room, "identity": "ann"}
    assert await keyed.access("RevokeParticipant", room, request) == (200, {"was_present": False})
    assert await keyed.validate(token) == 401
    status, refused = await keyed.access("RevokeParticipant", "another", request)
    assert (status, refused["code"]) == (401, "unauthenticated")  # type: ignore[index]


async def test_two_projects_never_see_each_other(keyed: Keyed, room: str) -> None:
    secret = await keyed.add("acme", "--project", "acme")
    await keyed.until_status(token_of("acme", secret, room, "ann"), 200)
    ours = await PythonClient.join(keyed.server, room, "ann")
    theirs = rtc.Room()
    await theirs.connect(keyed.server.url, token_of("acme", secret, room, "ann"))
    assert theirs.name == room
    assert not theirs.remote_participants
    assert not ours.room.remote_participants
    async with (
        api.LiveKitAPI(keyed.server.http_url, KEY, SECRET) as lk,
        api.LiveKitAPI(keyed.server.http_url, "acme", secret) as acme,
    ):
        for one in (lk, acme):
            listed = await one.room.list_rooms(api.ListRoomsRequest(names=[room]))
            assert [(it.name, it.num_participants) for it in listed.rooms] == [(room, 1)]
        everything = await acme.room.list_rooms(api.ListRoomsRequest())
        assert [it.name for it in everything.rooms] == [room]
        await acme.room.create_room(api.CreateRoomRequest(name=f"{room}-2"))
        assert not (await lk.room.list_rooms(api.ListRoomsRequest(names=[f"{room}-2"]))).rooms
        await acme.room.delete_room(api.DeleteRoomRequest(room=room))
        listed = await lk.room.list_rooms(api.ListRoomsRequest(names=[room]))
        assert [it.num_participants for it in listed.rooms] == [1]
        with pytest.raises(api.TwirpError) as odd:
            await lk.room.create_room(api.CreateRoomRequest(name=f"acme\x1f{room}"))
        assert odd.value.code == "invalid_argument"
    await keyed.target.until(lambda: bool(keyed.target.named("participant_joined", room)))
    assert len(keyed.target.named("room_started", room)) == 1
    assert not keyed.target.named("room_finished", room)
