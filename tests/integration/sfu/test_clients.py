"""What the node says to NATS and placement, and how it outlives their absence."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest

from chassis import rpc
from chassis.bus import Bus, MemoryBus
from chassis.clock import SystemClock
from chassis.errors import FailedPrecondition, Unavailable
from chassis.kv import Kv, MemoryKv
from chassis.subjects import EVENTS, NODES
from chassis.telemetry import Metrics
from contracts.events.v1 import events_pb2
from contracts.placement.v1 import placement_pb2, placement_pb2_grpc
from sfu import clients
from sfu.clients import EventPublisher, Heartbeat, PlacementLeases
from sfu.metrics import SfuMetrics
from tests.support.nats import Cable, connected_bus, disconnected, running_nats
from tests.support.nodes import AUTH, until


@pytest.fixture(autouse=True)
def _impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "HEARTBEAT_S", 0.01)
    monkeypatch.setattr(clients, "RETRY_FIRST_S", 0.01)
    monkeypatch.setattr(clients, "RETRY_LAST_S", 0.05)


@asynccontextmanager
async def running(work: EventPublisher | Heartbeat) -> AsyncIterator[None]:
    task = asyncio.create_task(work.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def event(number: int) -> events_pb2.RoomEvent:
    return events_pb2.RoomEvent(id=f"EV_{number}", name="room_started", room_name="r")


async def event_ids(bus: Bus, count: int) -> list[str]:
    """Ids of the first `count` events of the stream."""
    ids: list[str] = []
    async with asyncio.timeout(5), await bus.read_stream(EVENTS) as stored:
        async for message in stored:
            ids.append(events_pb2.RoomEvent.FromString(message.data).id)
            if len(ids) == count:
                break
    return ids


async def test_heartbeats_go_on_after_an_outage_and_the_record_is_taken_away_at_the_end() -> None:
    bucket = MemoryKv(NODES)
    beats = 0

    def record() -> placement_pb2.NodeRecord:
        nonlocal beats
        beats += 1
        return placement_pb2.NodeRecord(node_id="ND_a", rooms=beats)

    async def open_bucket() -> Kv:
        return bucket

    async def written() -> int:
        entry = await bucket.get("ND_a")
        return placement_pb2.NodeRecord.FromString(entry.value).rooms if entry else 0

    metrics = SfuMetrics(Metrics())
    renewals: list[float] = []
    heartbeat = Heartbeat(open_bucket, record, metrics, SystemClock(), renewals.append)
    async with running(heartbeat):
        await until(lambda: beats >= 2)
        before = await written()
        assert renewals
        bucket.available = False
        await until(lambda: metrics.heartbeats_failed.value() >= 2)
        bucket.available = True
        failed_at, renewed_before = beats, len(renewals)
        await until(lambda: beats >= failed_at + 2)
        assert await written() > before > 0
        assert len(renewals) > renewed_before
        await heartbeat.retire(1.0)
        assert await written() == 0
        await asyncio.sleep(0.05)
        assert await written() == 0


async def test_events_wait_for_a_lost_nats_and_arrive_once_in_order() -> None:
    metrics = SfuMetrics(Metrics())
    async with (
        running_nats() as server,
        Cable(server.url).laid() as cable,
        connected_bus(server, cable.url) as bus,
        connected_bus(server) as reader,
    ):
        publisher = EventPublisher(bus, metrics)
        async with running(publisher):
            for number in range(3):
                publisher.publish(event(number))
            await publisher.flush(5.0)
            cable.pull()
            async with asyncio.timeout(5):
                await disconnected(bus)
            for number in range(3, 6):
                publisher.publish(event(number))
            await asyncio.sleep(0.1)
            assert metrics.events_lost.value() == 0
            await cable.plug()
            await publisher.flush(10.0)
        assert await event_ids(reader, 6) == [f"EV_{number}" for number in range(6)]


async def test_a_full_spool_loses_the_oldest_and_counts_them() -> None:
    bus, metrics = MemoryBus(), SfuMetrics(Metrics())
    bus.connected = False
    publisher = EventPublisher(bus, metrics, limit=2)
    for number in range(3):
        publisher.publish(event(number))
    assert metrics.events_lost.value() == 1
    bus.connected = True
    await bus.open_stream(EVENTS)
    async with running(publisher):
        await publisher.flush(5.0)
    assert await event_ids(bus, 2) == ["EV_1", "EV_2"]


class Placement(placement_pb2_grpc.PlacementServiceServicer):
    """Unavailable at first, then strict about epochs."""

    def __init__(self) -> None:
        self.calls: list[placement_pb2.ReleaseRoomRequest] = []

    async def ReleaseRoom(
        self, request: placement_pb2.ReleaseRoomRequest, context: object
    ) -> placement_pb2.ReleaseRoomResponse:
        self.calls.append(request)
        if len(self.calls) == 1:
            raise Unavailable("not yet")
        if request.epoch < 5:
            raise FailedPrecondition("stale epoch")
        return placement_pb2.ReleaseRoomResponse()


async def test_a_lease_is_given_back_with_retries_and_a_stale_one_is_forgotten() -> None:
    placement = Placement()  # type: ignore[abstract]
    register = partial(placement_pb2_grpc.add_PlacementServiceServicer_to_server, placement)
    server = rpc.make_server("127.0.0.1:0", register, auth=AUTH)
    await server.start()
    leases = PlacementLeases(server.address, "ND_a", AUTH)
    leases.release("r", 5)
    await until(lambda: len(placement.calls) == 2)
    leases.release("old", 4)
    await until(lambda: len(placement.calls) == 3)
    await leases.close(1.0)
    await server.stop()
    told = [(call.room_name, call.node_id, call.epoch) for call in placement.calls]
    assert told == [("r", "ND_a", 5), ("r", "ND_a", 5), ("old", "ND_a", 4)]


class ForgetfulPlacement(placement_pb2_grpc.PlacementServiceServicer):
    """Away at first; then it says that "s" is another node's."""

    def __init__(self) -> None:
        self.calls: list[placement_pb2.ReclaimRoomsRequest] = []

    async def ReclaimRooms(
        self, request: placement_pb2.ReclaimRoomsRequest, context: object
    ) -> placement_pb2.ReclaimRoomsResponse:
        self.calls.append(request)
        if len(self.calls) == 1:
            raise Unavailable("not yet")
        newer = placement_pb2.Lease(room_name="s", node_id="ND_b", epoch=9)
        return placement_pb2.ReclaimRoomsResponse(superseded=[newer])


async def test_rooms_are_reclaimed_when_nats_is_back_and_what_is_another_s_is_told() -> None:
    placement = ForgetfulPlacement()  # type: ignore[abstract]
    register = partial(placement_pb2_grpc.add_PlacementServiceServicer_to_server, placement)
    server = rpc.make_server("127.0.0.1:0", register, auth=AUTH)
    await server.start()
    leases = PlacementLeases(server.address, "ND_a", AUTH)
    bus = MemoryBus()
    held: list[placement_pb2.Lease] = []
    lost: list[placement_pb2.Lease] = []
    reclaiming = asyncio.create_task(leases.keep_reclaimed(bus, lambda: held, lost.append))
    try:
        await asyncio.sleep(0)
        bus.reconnect()  # with nothing to say, nothing is said
        await asyncio.sleep(0.05)
        assert placement.calls == []
        for number, name in enumerate(("r", "s")):
            held.append(
                placement_pb2.Lease(
                    room_name=name, node_id="ND_a", node_address="a:1", epoch=5 + number
                )
            )
        bus.reconnect()
        await until(lambda: bool(lost))
    finally:
        reclaiming.cancel()
        await leases.close(1.0)
        await server.stop()
    assert [call.node_address for call in placement.calls] == ["a:1", "a:1"]
    assert list(placement.calls[-1].leases) == held
    assert [(lease.room_name, lease.epoch) for lease in lost] == [("s", 9)]
