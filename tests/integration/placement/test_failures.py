"""Two placement replicas while nodes fall silent and NATS goes away, comes back, or comes back empty."""

import asyncio
import itertools
import secrets
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from chassis import rpc, subjects
from chassis.bus import NatsBus
from chassis.chassis import open_chassis
from chassis.errors import ServiceError, Unavailable
from chassis.kv import NatsKv
from chassis.run import serve
from contracts.node.v1 import node_pb2, node_pb2_grpc
from contracts.placement.v1 import placement_pb2, placement_pb2_grpc
from placement.app import build
from placement.settings import PlacementSettings
from roomwright import nats_server
from roomwright.nats_server import NatsServer

AUTH = rpc.RpcAuth("shared")
BEAT_S = 0.2
STALE_S = 1.5


@dataclass
class Nats:
    """A server that stops, and starts again on the same port, with its data or without."""

    directory: Path
    server: NatsServer
    numbers: Any = field(default_factory=itertools.count)

    async def stop(self) -> None:
        await self.server.stop()

    async def start(self, *, emptied: bool = False) -> None:
        if emptied:
            self.directory = self.directory.with_name(f"emptied {next(self.numbers)}")
        port = int(self.server.url.rpartition(":")[2])
        self.server = await nats_server.start(self.directory, port=port)


class FakeNode(node_pb2_grpc.NodeServiceServicer):
    """A node's heartbeats and its answers to placement, each of which can cease."""

    SignalStream: Any = None
    CallApi: Any = None
    RoomLink: Any = None

    def __init__(self, bus: NatsBus, node_id: str) -> None:
        self.node_id = node_id
        self.address = ""
        self.beats = True
        self.renewals = Counter[bool]()
        self._kv = NatsKv(bus, subjects.NODES)

    @asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator["FakeNode"]:
        async with self.answering(port):
            beating = asyncio.create_task(self._beat())
            try:
                yield self
            finally:
                beating.cancel()

    @asynccontextmanager
    async def answering(self, port: int = 0) -> AsyncIterator[None]:
        server = rpc.make_server(
            f"127.0.0.1:{port}",
            lambda server: node_pb2_grpc.add_NodeServiceServicer_to_server(self, server),
            auth=AUTH,
        )
        self.address = server.address
        await server.start()
        try:
            yield
        finally:
            await server.stop()

    def record(self) -> placement_pb2.NodeRecord:
        return placement_pb2.NodeRecord(schema=1, node_id=self.node_id, address=self.address)

    async def ReportNode(
        self, request: node_pb2.ReportNodeRequest, context: Any
    ) -> node_pb2.ReportNodeResponse:
        self.renewals[request.renews] += 1
        return node_pb2.ReportNodeResponse(record=self.record())

    async def _beat(self) -> None:
        while True:
            if self.beats:
                with suppress(Exception):  # NATS is away
                    await self._kv.put(self.node_id, self.record().SerializeToString())
            await asyncio.sleep(BEAT_S)


@dataclass
class Replica:
    """A placement replica."""

    stub: Any
    health_address: str

    async def assign(self, name: str, **fields: Any) -> Any:
        request = placement_pb2.AssignRoomRequest(room_name=name, **{"create": True, **fields})
        return await self.stub.AssignRoom(request)

    async def reclaim(self, node: FakeNode, leases: list[Any]) -> list[Any]:
        request = placement_pb2.ReclaimRoomsRequest(
            node_id=node.node_id, node_address=node.address, leases=leases
        )
        return list((await self.stub.ReclaimRooms(request)).superseded)

    async def rooms(self) -> list[str]:
        answer = await self.stub.ListRooms(placement_pb2.ListRoomsRequest())
        return sorted(lease.room_name for lease in answer.leases)

    async def told(self, path: str) -> str:
        async with httpx.AsyncClient() as http:
            return (await http.get(f"http://{self.health_address}{path}")).text


@asynccontextmanager
async def replica(nats: Nats, **changes: Any) -> AsyncIterator[Replica]:
    settings = PlacementSettings(
        nats_url=nats.server.url,
        nats_user=nats.server.user,
        nats_password=SecretStr(nats.server.password),
        grpc_address="127.0.0.1:0",
        internal_token=SecretStr("shared"),
        **{"node_stale_after_s": STALE_S, **changes},
    )
    async with open_chassis(settings) as chassis:
        app = await build(settings, chassis)
        stop = asyncio.Event()
        serving = asyncio.create_task(serve(app, stop))
        try:
            async with rpc.channel(app.grpc_address, auth=AUTH) as channel:
                yield Replica(placement_pb2_grpc.PlacementServiceStub(channel), app.health_address)
        finally:
            stop.set()
            await serving


@dataclass
class World:
    """A NATS, two nodes, two replicas."""

    nats: Nats
    bus: NatsBus
    nodes: list[FakeNode]
    first: Replica
    second: Replica
    stack: AsyncExitStack

    @property
    def replicas(self) -> tuple[Replica, Replica]:
        return self.first, self.second

    def holder(self, lease: Any) -> FakeNode:
        return next(node for node in self.nodes if node.node_id == lease.node_id)


@asynccontextmanager
async def built(tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        directory = tmp_path / "data"
        nats = Nats(directory, await nats_server.start(directory))
        stack.push_async_callback(nats.stop)
        bus = NatsBus(
            nats.server.url, user=nats.server.user, password=nats.server.password, name="test"
        )
        await bus.start()
        stack.push_async_callback(bus.close)
        nodes = [
            await stack.enter_async_context(FakeNode(bus, name).running())
            for name in ("ND_1", "ND_2")
        ]
        first = await stack.enter_async_context(replica(nats))
        second = await stack.enter_async_context(replica(nats))
        for one in (first, second):
            await eventually(partial(_knows_the_nodes, one))
        yield World(nats, bus, nodes, first, second, stack)


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    password = secrets.token_urlsafe(8)  # the same again after a restart
    monkeypatch.setattr("roomwright.nats_server.secrets.token_urlsafe", lambda _length: password)
    async with built(tmp_path) as made:
        yield made


async def eventually(
    holds: Callable[[], Awaitable[bool]], timeout_s: float = 10.0, every_s: float = 0.02
) -> None:
    async with asyncio.timeout(timeout_s):
        while not await holds():  # noqa: ASYNC110 - it is asked, nothing tells
            await asyncio.sleep(every_s)


async def test_200_concurrent_assignments_end_with_one_lease_for_each_name(world: World) -> None:
    names = [f"room {number}" for number in range(20)]
    answers = await asyncio.gather(
        *(one.assign(name) for _ in range(5) for name in names for one in world.replicas)
    )
    for name in names:
        of_room = [answer for answer in answers if answer.lease.room_name == name]
        assert len(of_room) == 10
        assert len({answer.lease.SerializeToString() for answer in of_room}) == 1
        assert sum(answer.created for answer in of_room) == 1
    for one in world.replicas:
        await eventually(partial(_lists, one, sorted(names)))


async def _lists(one: Replica, names: list[str]) -> bool:
    return await one.rooms() == names


async def test_200_new_rooms_at_once_are_200_leases(world: World) -> None:
    answers = await asyncio.gather(
        *(world.replicas[number % 2].assign(f"room {number}") for number in range(200))
    )
    assert all(answer.created for answer in answers)
    assert len({answer.lease.room_sid for answer in answers}) == 200
    assert {answer.lease.node_id for answer in answers} == {"ND_1", "ND_2"}


async def test_race_of_takeovers_has_one_winner(world: World) -> None:
    leases = [(await world.first.assign(f"room {number}")).lease for number in range(10)]
    lost = world.nodes[0]
    lost.beats = False
    lost.node_id = "ND_nobody"  # no answer is this node's any more
    lost_leases = [lease for lease in leases if lease.node_id == "ND_1"]
    assert lost_leases

    async def moved(lease: Any) -> Any:
        while True:
            answers = await asyncio.gather(
                *(
                    one.assign(lease.room_name, create=False, doubted_epoch=lease.epoch)
                    for one in world.replicas
                    for _ in range(3)
                )
            )
            if all(answer.lease.epoch > lease.epoch for answer in answers):
                return answers

    async with asyncio.timeout(10):
        for lease in lost_leases:
            answers = await moved(lease)
            assert len({answer.lease.SerializeToString() for answer in answers}) == 1
            assert answers[0].lease.room_sid == lease.room_sid
            assert answers[0].lease.node_id != "ND_1"


async def test_node_cut_off_from_nats_alone_keeps_its_rooms_and_is_renewed(world: World) -> None:
    lease = (await world.first.assign("r")).lease
    holder = world.holder(lease)
    holder.beats = False
    async with asyncio.timeout(10):
        while holder.renewals[True] < 4:
            await asyncio.sleep(0.1)
            for one in world.replicas:
                assert (await one.assign("r")).lease == lease
    for one in world.replicas:
        assert (await one.assign("r", doubted_epoch=lease.epoch)).lease == lease
        assert 'asks_total{answer="answered"}' in await one.told("/metrics")


async def test_placement_that_waits_for_a_hanging_nats_renews_nothing_and_moves_nothing(
    world: World,
) -> None:
    lease = (await world.first.assign("r")).lease
    await eventually(partial(_lists, world.second, ["r"]))
    holder = world.holder(lease)
    process = world.nats.server.process
    process.send_signal(signal.SIGSTOP)
    try:
        async with asyncio.timeout(10):
            while holder.renewals[False] < 4:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert holder.renewals[True] == 0
        for one in world.replicas:
            assert (await one.assign("r")).lease == lease
            with pytest.raises(Unavailable):
                await one.assign("another")
    finally:
        process.send_signal(signal.SIGCONT)
    await eventually(lambda: _takes_new_rooms(world))
    assert (await world.second.assign("r")).lease == lease


async def test_room_of_a_process_that_was_replaced_moves_without_waiting(world: World) -> None:
    lease = (await world.first.assign("r")).lease
    holder = world.holder(lease)
    holder.beats = False
    holder.node_id = "ND_reborn"  # the next process at the same address
    started_at = asyncio.get_running_loop().time()
    taken = (await world.second.assign("r", create=False, doubted_epoch=lease.epoch)).lease
    assert asyncio.get_running_loop().time() - started_at < STALE_S / 2
    assert (taken.room_sid, taken.epoch > lease.epoch) == (lease.room_sid, True)
    assert taken.node_id in ("ND_reborn", *(node.node_id for node in world.nodes))


async def test_without_nats_known_rooms_are_found_and_new_ones_refused_at_once(
    world: World,
) -> None:
    lease = (await world.first.assign("r")).lease
    await eventually(partial(_lists, world.second, ["r"]))
    await world.nats.stop()
    await eventually(lambda: _refuses(world.second))
    started_at = asyncio.get_running_loop().time()
    for one in world.replicas:
        assert (await one.assign("r")).lease == lease
        found = await one.stub.FindRoom(placement_pb2.FindRoomRequest(room_name="r"))
        assert found.lease == lease
        assert await one.rooms() == ["r"]
        with pytest.raises(Unavailable, match="no new rooms while the message bus cannot be"):
            await one.assign("another")
    assert asyncio.get_running_loop().time() - started_at < 1
    # Longer than a node may be silent: nobody loses anything while placement is blind.
    await asyncio.sleep(STALE_S + 1)
    assert (await world.first.assign("r")).lease == lease
    await world.nats.start()
    await eventually(lambda: _takes_new_rooms(world))
    assert (await world.second.assign("r")).lease == lease


async def _knows_the_nodes(one: Replica) -> bool:
    return "2 fresh" in await one.told("/readyz?verbose")


async def _refuses(one: Replica) -> bool:
    try:
        await one.assign("probe")
    except Unavailable:
        return True
    return False


async def _takes_new_rooms(world: World) -> bool:
    try:
        for number, one in enumerate(world.replicas):
            await one.assign(f"after {number}")
    except ServiceError:
        return False
    return True


async def test_data_lost_by_nats_is_written_again_and_no_room_is_doubled(world: World) -> None:
    names = sorted(f"room {number}" for number in range(30))
    leases = {name: (await world.first.assign(name)).lease for name in names}
    await eventually(partial(_lists, world.second, names))
    await world.nats.stop()
    await world.nats.start(emptied=True)
    await eventually(lambda: _takes_new_rooms(world))
    assert {name: (await world.second.assign(name)).lease for name in names} == leases
    # A replica that was born afterwards knows the old rooms from the bucket alone.
    third = await world.stack.enter_async_context(replica(world.nats))

    async def restored() -> bool:
        return {*names} <= {*await third.rooms()}

    await eventually(restored)
    await eventually(partial(_knows_the_nodes, third))
    assert {name: (await third.assign(name)).lease for name in names} == leases
    newest = (await third.assign("newest")).lease
    assert newest.epoch > max(lease.epoch for lease in leases.values())


async def test_rooms_that_no_replica_remembers_are_reclaimed_by_their_node(world: World) -> None:
    lease = (await world.first.assign("r")).lease
    holder = world.holder(lease)
    leases = [lease]
    for number in range(5):
        other = (await world.first.assign(f"other {number}")).lease
        if other.node_id == holder.node_id:
            leases.append(other)
    bucket = NatsKv(world.bus, subjects.ROOMS)
    for held in leases:
        await bucket.delete(held.room_name)
    async with replica(world.nats) as newborn:
        assert await newborn.reclaim(holder, leases) == []
        assert await newborn.reclaim(holder, leases) == []
        assert (await newborn.assign("r")).lease == lease
    entry = await bucket.get("r")
    assert entry is not None
    assert placement_pb2.RoomRecord.FromString(entry.value).lease == lease


async def test_metrics_tell_what_the_nodes_can_take(world: World) -> None:
    await world.first.assign("r")
    text = await world.first.told("/metrics")
    for line in (
        'roomwright_placement_assignments_total{result="created"} 1',
        'roomwright_placement_nodes{state="fresh"} 2',
        'roomwright_placement_nodes{state="draining"} 0',
        "roomwright_placement_rooms 1",
        "roomwright_placement_participants 0",
        "roomwright_placement_participant_capacity 0",
        "roomwright_placement_free_participants 0",
    ):
        assert line in text
    assert "rooms: 1" in await world.first.told("/readyz?verbose")
