"""What a room's home leaves behind, and how the next one goes on with it."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from livekit.protocol import models as lk
from livekit.protocol import room as api
from livekit.protocol import rtc

from chassis import rpc
from chassis.kv import Kv, MemoryKv, NatsKv, path
from chassis.subjects import CHECKPOINTS
from contracts.node.v1 import node_pb2, node_pb2_grpc
from contracts.room.v1 import checkpoint_pb2
from tests.support.nats import connected_bus, running_nats
from tests.support.nodes import AUTH, Signaling, TestNode, running_node, signaling, until

CREATE = api.CreateRoomRequest(name="r", metadata="kept", departure_timeout=33).SerializeToString()


@pytest.fixture(params=["memory", "nats"])
async def bucket(request: pytest.FixtureRequest) -> AsyncIterator[Kv]:
    if request.param == "memory":
        yield MemoryKv(CHECKPOINTS)
        return
    async with running_nats() as server, connected_bus(server) as bus:
        yield NatsKv(bus, CHECKPOINTS)


async def call(node: TestNode, method: str, request: bytes, **fields: object) -> bytes:
    """A call on the room at epoch 5 unless told otherwise; it has to succeed."""
    lease: dict[str, object] = {"room_name": "r", "room_sid": "RM_1", "epoch": 5} | fields
    async with rpc.channel(node.address, auth=AUTH) as channel:
        answer = await node_pb2_grpc.NodeServiceStub(channel).CallApi(
            node_pb2.CallApiRequest(
                service="livekit.RoomService",
                method=method,
                request=request,
                **lease,  # type: ignore[arg-type]
            )
        )
    assert answer.error_code == "", answer
    return bytes(answer.response)


async def join(to: Signaling, identity: str, **fields: object) -> tuple[int, rtc.JoinResponse]:
    session_id = to.open(identity, **fields)
    return session_id, (await to.response(session_id)).join


async def until_stored(bucket: Kv, sids: int, tracks: int = 0) -> None:
    """Until the room, and so many participants with so many tracks, are in the bucket."""
    async with asyncio.timeout(5):
        while True:
            entries = await bucket.entries(path("r"))
            records = [checkpoint_pb2.ParticipantCheckpoint.FromString(e.value) for e in entries]
            infos = [lk.ParticipantInfo.FromString(r.participant) for r in records]
            found = sum(len(info.tracks) for info in infos)
            if len(infos) == sids and found == tracks and await bucket.get(path("r")) is not None:
                return
            await asyncio.sleep(0.02)


async def until_keys(bucket: Kv, keys: list[str]) -> None:
    """Until exactly these keys are below the room's in the bucket."""
    async with asyncio.timeout(5):
        while [entry.key for entry in await bucket.entries(path("r"))] != keys:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_after_a_crash_the_next_home_keeps_the_room_and_tells_who_left(bucket: Kv) -> None:
    async with (
        running_node("ND_a", bucket=bucket) as a,
        running_node("ND_b", bucket=bucket) as b,
        signaling(a.address) as to_a,
        signaling(b.address) as to_b,
    ):
        await call(a, "CreateRoom", CREATE, room_created=True)
        alice, joined = await join(to_a, "alice")
        to_a.say(alice, "activate")
        to_a.say(alice, "publish TR_1")
        await until_stored(bucket, 1, tracks=1)
        await a.crash()

        _, again = await join(to_b, "alice", epoch=6)
        assert (again.room.sid, again.room.metadata) == ("RM_1", "kept")
        assert (again.room.departure_timeout, again.sif_trailer) == (33, joined.sif_trailer)
        assert again.room.creation_time_ms == joined.room.creation_time_ms
        told = [(e.name, e.room_sid, e.epoch, e.sequence) for e in b.witness.events]
        assert told[:2] == [("track_unpublished", "RM_1", 6, 1), ("participant_left", "RM_1", 6, 2)]
        left = lk.ParticipantInfo.FromString(b.witness.events[1].participant)
        assert left.sid == joined.participant.sid
        assert "room_started" not in [e.name for e in b.witness.events]

        # The bucket is the new home's: the old participant is gone from it, the new one there.
        await until_keys(bucket, [path("r", again.participant.sid)])


async def test_a_left_room_answers_calls_before_anybody_is_back() -> None:
    bucket = MemoryKv(CHECKPOINTS)
    async with (
        running_node("ND_a", bucket=bucket) as a,
        running_node("ND_b", bucket=bucket) as b,
    ):
        await call(a, "CreateRoom", CREATE, room_created=True)
        await until_stored(bucket, 0)
        await a.crash()
        answer = await call(b, "ListRooms", b"", epoch=6)
        (room,) = api.ListRoomsResponse.FromString(answer).rooms
        assert (room.sid, room.metadata) == ("RM_1", "kept")


async def test_what_an_older_room_of_the_name_left_is_not_inherited() -> None:
    bucket = MemoryKv(CHECKPOINTS)
    async with (
        running_node("ND_a", bucket=bucket) as a,
        running_node("ND_b", bucket=bucket) as b,
        signaling(a.address) as to_a,
        signaling(b.address) as to_b,
    ):
        await call(a, "CreateRoom", CREATE, room_created=True)
        await join(to_a, "alice")
        await until_stored(bucket, 1)
        await a.crash()
        _, joined = await join(to_b, "bob", epoch=9, room_sid="RM_2")
        assert (joined.room.sid, joined.room.metadata) == ("RM_2", "")
        assert "participant_left" not in [e.name for e in b.witness.events]
        await until_keys(bucket, [path("r", joined.participant.sid)])


async def test_a_home_that_finds_a_later_one_s_record_sends_its_members_away() -> None:
    bucket = MemoryKv(CHECKPOINTS)
    async with (
        running_node("ND_a", bucket=bucket) as a,
        running_node("ND_b", bucket=bucket) as b,
        signaling(a.address) as to_a,
        signaling(b.address) as to_b,
    ):
        alice, _ = await join(to_a, "alice")
        await until_stored(bucket, 1)
        _, there = await join(to_b, "bob", epoch=6)
        await until_keys(bucket, [path("r", there.participant.sid)])
        to_a.say(alice, "publish TR_1")
        leave = await to_a.response(alice)
        while leave.WhichOneof("message") != "leave":
            leave = await to_a.response(alice)
        assert leave.leave.action == rtc.LeaveRequest.RECONNECT
        await until(lambda: a.node.rooms == 0)
        assert a.witness.released == []
        record = await bucket.get(path("r"))
        assert record is not None
        assert checkpoint_pb2.RoomCheckpoint.FromString(record.value).epoch == 6


async def test_a_room_that_is_over_leaves_nothing(bucket: Kv) -> None:
    async with running_node("ND_a", bucket=bucket) as a, signaling(a.address) as to_a:
        await join(to_a, "alice")
        await join(to_a, "bob")
        await until_stored(bucket, 2)
        await call(a, "DeleteRoom", b"")
        async with asyncio.timeout(5):
            while await bucket.keys():  # noqa: ASYNC110
                await asyncio.sleep(0.02)


class Stuck(MemoryKv):
    """NATS that takes everything and answers nothing."""

    async def create(self, key: str, value: bytes) -> int:
        await asyncio.sleep(3600)
        return 0


async def test_rooms_do_not_wait_for_a_bucket_that_does_not_answer() -> None:
    async with (
        running_node("ND_a", bucket=Stuck(CHECKPOINTS)) as a,
        signaling(a.address) as to_a,
    ):
        first, _ = await join(to_a, "alice")
        await asyncio.sleep(0.7)  # the writer is stuck by now
        async with asyncio.timeout(1):
            _, joined = await join(to_a, "bob")
        assert [p.identity for p in joined.other_participants] == ["alice"]
        assert first


async def test_what_could_not_be_stored_is_stored_later_in_its_latest_version() -> None:
    bucket = MemoryKv(CHECKPOINTS)
    bucket.available = False
    async with running_node("ND_a", bucket=bucket) as a, signaling(a.address) as to_a:
        await join(to_a, "alice")
        await until(lambda: a.metrics.checkpoints_failed.value() > 0)
        update = api.UpdateRoomMetadataRequest(room="r", metadata="latest")
        await call(a, "UpdateRoomMetadata", update.SerializeToString())
        bucket.available = True
        await until_stored(bucket, 1)
        record = await bucket.get(path("r"))
        assert record is not None
        room = checkpoint_pb2.RoomCheckpoint.FromString(record.value).room
        assert lk.Room.FromString(room).metadata == "latest"
