"""Limits of rooms that hold when everybody comes at once."""

import asyncio
import os
import signal
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
from livekit import api, rtc

from loadtest.own_server import OwnServerError
from tests.support.dev_server import KEY, SECRET, DevServer, running
from tests.support.python_client import PythonClient, until

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(60)]


async def test_of_a_hundred_who_come_at_once_ten_are_let_into_a_room_of_ten(
    server: DevServer, room: str
) -> None:
    async with api.LiveKitAPI(server.http_url, KEY, SECRET) as lk:
        await lk.room.create_room(api.CreateRoomRequest(name=room, max_participants=10))
        statuses: Counter[int] = Counter()
        async with aiohttp.ClientSession() as http:

            async def come(number: int) -> aiohttp.ClientWebSocketResponse | None:
                token = server.token(room, f"p{number}")
                url = f"{server.http_url}/rtc?access_token={token}&protocol=16&auto_subscribe=1"
                try:
                    socket = await http.ws_connect(url)
                except aiohttp.WSServerHandshakeError as refused:
                    statuses[refused.status] += 1
                    return None
                statuses[101] += 1
                return socket

            sockets = await asyncio.gather(*(come(number) for number in range(100)))
            assert statuses == {101: 10, 503: 90}
            listed = await lk.room.list_participants(api.ListParticipantsRequest(room=room))
            assert len(listed.participants) == 10
            await asyncio.gather(*(socket.close() for socket in sockets if socket is not None))


async def test_a_hundred_calls_at_once_make_one_room(server: DevServer, room: str) -> None:
    async with api.LiveKitAPI(server.http_url, KEY, SECRET) as lk:
        made = await asyncio.gather(
            *(lk.room.create_room(api.CreateRoomRequest(name=room)) for _ in range(100))
        )
        assert len({it.sid for it in made}) == 1
        listed = await lk.room.list_rooms(api.ListRoomsRequest(names=[room]))
        assert [it.sid for it in listed.rooms] == [made[0].sid]


async def test_a_room_ends_when_its_time_is_over(server: DevServer, room: str) -> None:
    async with api.LiveKitAPI(server.http_url, KEY, SECRET) as lk:
        tags = {"roomwright.max_duration": "2"}
        await lk.room.create_room(api.CreateRoomRequest(name=room, tags=tags))
        ann = await PythonClient.join(server, room, "ann")
        reason = rtc.DisconnectReason.ROOM_CLOSED
        await until(lambda: f"disconnected {reason}" in ann.events, "ann is told that it is over")
        assert not (await lk.room.list_rooms(api.ListRoomsRequest(names=[room]))).rooms
        wrong = {"roomwright.max_duration": "soon"}
        with pytest.raises(api.TwirpError) as refused:
            await lk.room.create_room(api.CreateRoomRequest(name=f"{room}-2", tags=wrong))
        assert refused.value.code == "invalid_argument"


async def test_many_rooms_are_listed_whole(server: DevServer, room: str) -> None:
    names = [f"{room}-{number}" for number in range(200)]
    async with api.LiveKitAPI(server.http_url, KEY, SECRET) as lk:
        await asyncio.gather(
            *(lk.room.create_room(api.CreateRoomRequest(name=name)) for name in names)
        )
        everything = (await lk.room.list_rooms(api.ListRoomsRequest())).rooms
        assert set(names) <= {it.name for it in everything}
        some = (await lk.room.list_rooms(api.ListRoomsRequest(names=names[:3]))).rooms
        assert sorted(it.name for it in some) == sorted(names[:3])
        await asyncio.gather(
            *(lk.room.delete_room(api.DeleteRoomRequest(room=name)) for name in names)
        )


@pytest.mark.parametrize("is_killed", [False, True], ids=["stopped", "killed"])
async def test_a_persistent_room_is_there_after_a_restart(
    tmp_path: Path, room: str, is_killed: bool
) -> None:
    tags = {"roomwright.persistent": "true"}
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(running(tmp_path))
        async with api.LiveKitAPI(first.http_url, KEY, SECRET) as lk:
            request = api.CreateRoomRequest(
                name=room, metadata="kept", empty_timeout=1, departure_timeout=1, tags=tags
            )
            made = await lk.room.create_room(request)
            await asyncio.sleep(2)  # others would be over, and its record is written
        if is_killed:
            os.kill(first.pid, signal.SIGKILL)
            with pytest.raises(OwnServerError):
                await stack.aclose()
    async with running(tmp_path) as second, api.LiveKitAPI(second.http_url, KEY, SECRET) as lk:
        async with asyncio.timeout(25):
            while not (  # noqa: ASYNC110 - it is asked, nothing tells
                listed := (await lk.room.list_rooms(api.ListRoomsRequest(names=[room]))).rooms
            ):
                await asyncio.sleep(0.2)
        assert [(it.sid, it.metadata) for it in listed] == [(made.sid, "kept")]
        ann = await PythonClient.join(second, room, "ann")
        assert ann.room.metadata == "kept"
        await ann.leave()
        await lk.room.delete_room(api.DeleteRoomRequest(room=room))
        assert not (await lk.room.list_rooms(api.ListRoomsRequest(names=[room]))).rooms
