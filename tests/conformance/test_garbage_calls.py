"""Every method of every API with requests that only their schema made: never a 500, and the room stays as it was."""

import asyncio
import json
import random
import string
from collections import Counter
from collections.abc import Iterator

import aiohttp
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from livekit import api

from signaling.access_api import METHODS as ACCESS
from signaling.core.grants import METHODS
from signaling.history_api import METHODS as HISTORY
from tests.support.dev_server import KEY, SECRET, DevServer

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(60)]

F = FieldDescriptor
ROUNDS = 12
REQUESTS: dict[str, type[Message]] = {
    **{
        f"{service}/{name}": method.request
        for service, methods in METHODS.items()
        for name, method in methods.items()
    },
    **{f"roomwright.AccessService/{name}": kinds[0] for name, kinds in ACCESS.items()},
    **{f"roomwright.EventService/{name}": kinds[0] for name, kinds in HISTORY.items()},
}
EXTREMES = {
    F.CPPTYPE_INT32: (0, 1, -1, 2**31 - 1, -(2**31)),
    F.CPPTYPE_INT64: (0, 1, -1, 2**63 - 1, -(2**63)),
    F.CPPTYPE_UINT32: (0, 1, 2**32 - 1),
    F.CPPTYPE_UINT64: (0, 1, 2**64 - 1),
    F.CPPTYPE_FLOAT: (0.0, -1.0, 1e30),
    F.CPPTYPE_DOUBLE: (0.0, -1.0, 1e300),
}
TEXTS = ("", "hall", "\x00", "\x1f", "ünïcode ✓", "../..", "a" * 5000, "%s%n", "{}", "roomwright.x")


def filled(kind: type[Message], room: str, chance: random.Random, depth: int = 0) -> Message:
    """A message with some fields set to values of their types; half of the rooms named are `room`."""
    message = kind()
    for field in message.DESCRIPTOR.fields:
        if chance.random() < 0.4 or depth > 3:
            continue
        if (
            field.name in ("room", "room_name")
            and field.type == F.TYPE_STRING
            and chance.random() < 0.5
        ):
            setattr(message, field.name, room)
        elif field.message_type is not None and field.message_type.GetOptions().map_entry:
            fill_map(message, field, chance)
        elif field.message_type is not None and field.message_type.file.package != "livekit":
            continue  # times, which protobuf's own JSON refuses beyond the year 9999
        elif field.message_type is not None:
            part = getattr(message, field.name)
            part = part.add() if field.is_repeated else part
            part.CopyFrom(filled(type(part), room, chance, depth + 1))
        elif field.is_repeated:
            getattr(message, field.name).extend(
                scalar(field, chance) for _ in range(chance.randrange(3))
            )
        else:
            setattr(message, field.name, scalar(field, chance))
    return message


def fill_map(message: Message, field: FieldDescriptor, chance: random.Random) -> None:
    if field.message_type.fields_by_name["value"].type == F.TYPE_STRING:
        getattr(message, field.name)[chance.choice(TEXTS)] = chance.choice(TEXTS)


def scalar(field: FieldDescriptor, chance: random.Random) -> object:
    match field.type:
        case F.TYPE_STRING:
            return chance.choice(TEXTS)
        case F.TYPE_BYTES:
            return chance.randbytes(chance.choice((0, 1, 16, 2000)))
        case F.TYPE_BOOL:
            return chance.random() < 0.5
        case F.TYPE_ENUM:
            return chance.choice([value.number for value in field.enum_type.values])
    return chance.choice(EXTREMES[field.cpp_type])


def bodies(kind: type[Message], room: str, chance: random.Random) -> Iterator[tuple[str, bytes]]:
    """Good protobuf, damaged protobuf, and odd JSON: content type and body."""
    for _ in range(ROUNDS):
        message = filled(kind, room, chance)
        good = message.SerializeToString()
        yield "application/protobuf", good
        damaged = bytearray(good or b"\x00")
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        yield "application/protobuf", bytes(damaged)
        fields = MessageToDict(message)
        for name in list(fields):
            if chance.random() < 0.3:
                fields[name] = chance.choice(
                    [None, [], {}, 1.5, True, "x", [[1]], {"a": {}}, 10**400]
                )
        yield "application/json", json.dumps(fields).encode()
    yield "application/json", b'{"room": ' + b"[" * 5000
    noise = "".join(chance.choice(string.printable) for _ in range(200))
    yield "application/json", noise.encode()


@pytest.mark.parametrize("method", sorted(REQUESTS))
async def test_no_request_is_answered_by_an_internal_error(
    server: DevServer, room: str, method: str
) -> None:
    chance = random.Random(method)
    name = room[:60]
    grants = api.VideoGrants(
        room_create=True, room_list=True, room_record=True, room_admin=True, room=name,
        ingress_admin=True, destination_room="hall",
    )  # fmt: skip
    token = (
        api.AccessToken(KEY, SECRET)
        .with_identity("garbage")
        .with_grants(grants)
        .with_sip_grants(api.SIPGrants(admin=True, call=True))
        .to_jwt()
    )
    statuses: Counter[int] = Counter()
    kept = f"kept-{name}"
    async with (
        api.LiveKitAPI(server.http_url, KEY, SECRET) as lk,
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as http,
    ):
        before = await lk.room.create_room(api.CreateRoomRequest(name=kept, metadata="as it was"))
        for content_type, body in bodies(REQUESTS[method], name, chance):
            headers = {"Content-Type": content_type}
            url = f"{server.http_url}/twirp/{method}"
            async with asyncio.timeout(15), http.post(url, data=body, headers=headers) as answer:
                statuses[answer.status] += 1
                said = await answer.read()
                assert answer.status not in (500, 502, 503, 504), (answer.status, said, body[:200])
                assert b"internal error" not in said
        (after,) = (await lk.room.list_rooms(api.ListRoomsRequest(names=[kept]))).rooms
        assert (after.sid, after.metadata) == (before.sid, "as it was")
        rooms = (await lk.room.list_rooms(api.ListRoomsRequest())).rooms
        for made in rooms:
            if made.name in TEXTS or made.name in (kept, name):
                await lk.room.delete_room(api.DeleteRoomRequest(room=made.name))
    assert sum(statuses.values()) > 30
