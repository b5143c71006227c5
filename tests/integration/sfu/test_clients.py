"""What the node says to NATS and placement, and how it outlives their absence."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from chassis import rpc
from chassis.bus import Ack, Bus, MemoryBus
from chassis.clock import SystemClock
from chassis.errors import FailedPrecondition, RequestTimedOut, Unavailable
from chassis.kv import Kv, MemoryKv
from chassis.subjects import EVENTS, NODES
from chassis.telemetry import Metrics
from contracts.events.v1 import events_pb2
from contracts.placement.v1 import placement_pb2, placement_pb2_grpc
from sfu import clients
from sfu.clients import EventPublisher, Heartbeat, PlacementLeases
from sfu.core import spooling
from sfu.metrics import SfuMetrics
from sfu.spool import DiskSpool, MemorySpool
from tests.support.cable import Cable
from tests.support.nats import connected_bus, disconnected, running_nats
from tests.support.nodes import AUTH, until

LIMIT = 1_000_000  # bytes of events that wait


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
        publisher = EventPublisher(bus, metrics, MemorySpool(LIMIT), LIMIT)
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


async def test_a_full_spool_loses_the_newest_and_counts_them(tmp_path: Path) -> None:
    bus, metrics = MemoryBus(), SfuMetrics(Metrics())
    bus.connected = False
    size = event(0).ByteSize() + spooling.HEADER_BYTES
    publisher = EventPublisher(bus, metrics, DiskSpool(tmp_path, 4 * size), LIMIT)
    async with running(publisher):
        for number in range(6):
            publisher.publish(event(number))
        await until(lambda: metrics.events_lost.value() == 2)
        assert publisher.waiting == 4
        bus.connected = True
        await publisher.flush(5.0)
        assert await event_ids(bus, 4) == [f"EV_{number}" for number in range(4)]
        publisher.publish(event(9))
        await publisher.flush(5.0)
        assert (await event_ids(bus, 5))[-1] == "EV_9"


class Silent(MemoryBus):
    """A bus that takes facts and acknowledges none until told."""

    is_silent = True

    async def publish_durable(self, subject: str, data: bytes, message_id: str) -> Ack:
        ack = await super().publish_durable(subject, data, message_id)
        if self.is_silent:
            await asyncio.sleep(2.0)
            raise RequestTimedOut("no acknowledgement")
        return ack


async def test_facts_without_an_acknowledgement_are_on_disk_soon_and_stored_once(
    tmp_path: Path,
) -> None:
    bus, metrics = Silent(), SfuMetrics(Metrics())
    spool = DiskSpool(tmp_path, LIMIT)
    publisher = EventPublisher(bus, metrics, spool, LIMIT)
    async with running(publisher):
        for number in range(3):
            publisher.publish(event(number))
        await until(lambda: spool.waiting == 3, timeout_s=1.5)
        bus.is_silent = False
        await publisher.flush(5.0)
    assert await event_ids(bus, 3) == ["EV_0", "EV_1", "EV_2"]
    assert bus._streams["EVENTS"].messages[-1].sequence == 3


async def test_a_fact_too_large_for_nats_holds_up_no_others() -> None:
    bus, metrics = MemoryBus(), SfuMetrics(Metrics())
    publisher = EventPublisher(bus, metrics, MemorySpool(LIMIT), LIMIT)
    async with running(publisher):
        publisher.publish(events_pb2.RoomEvent(id="EV_large", room=bytes(1_000_001)))
        publisher.publish(event(1))
        await publisher.flush(5.0)
    assert await event_ids(bus, 1) == ["EV_1"]
    assert metrics.events_lost.value() == 1


SPOOLING_PROCESS = """
import asyncio, sys
from pathlib import Path
from chassis.bus import MemoryBus
from chassis.telemetry import Metrics
from contracts.events.v1 import events_pb2
from sfu.clients import EventPublisher
from sfu.metrics import SfuMetrics
from sfu.spool import DiskSpool

async def main():
    bus = MemoryBus()
    bus.connected = False
    spool = DiskSpool(Path(sys.argv[1]), 1_000_000)
    publisher = EventPublisher(bus, SfuMetrics(Metrics()), spool, 1_000_000)
    running = asyncio.create_task(publisher.run())
    for number in range(500):
        event = events_pb2.RoomEvent(id=f"EV_{number}", name="room_started", room_name="r")
        publisher.publish(event)
    while spool.waiting < 500:
        await asyncio.sleep(0.01)
    print("spooled", file=sys.stderr, flush=True)
    await running

asyncio.run(main())
"""


async def test_facts_survive_the_death_of_the_process_and_arrive_in_order(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        SPOOLING_PROCESS,
        str(tmp_path),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(15):
            while b"spooled" not in (line := await process.stderr.readline()):
                assert line, "the process ended by itself"
    finally:
        process.kill()
        await process.wait()
        # The transport would otherwise be closed by the collector, in another test.
        process._transport.close()  # type: ignore[attr-defined]
    async with running_nats() as server, connected_bus(server) as bus:
        spool = DiskSpool(tmp_path, LIMIT)
        assert spool.waiting == 500
        publisher = EventPublisher(bus, SfuMetrics(Metrics()), spool, LIMIT)
        async with running(publisher):
            await publisher.flush(10.0)
        assert await event_ids(bus, 500) == [f"EV_{number}" for number in range(500)]
        assert spool.waiting == 0


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
    clock = SystemClock()
    confirmed: list[float] = []
    reclaiming = asyncio.create_task(
        leases.keep_reclaimed(bus, clock, lambda: held, lost.append, confirmed.append)
    )
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
        doubted_at, calls = clock.now(), len(placement.calls)
        leases.reclaim_soon()
        await until(lambda: confirmed[-1] >= doubted_at)
        assert len(placement.calls) == calls + 1
        placement.calls.pop()
        lost.pop()
    finally:
        reclaiming.cancel()
        await leases.close(1.0)
        await server.stop()
    assert [call.node_address for call in placement.calls] == ["a:1", "a:1"]
    assert list(placement.calls[-1].leases) == held
    assert [(lease.room_name, lease.epoch) for lease in lost] == [("s", 9)]
