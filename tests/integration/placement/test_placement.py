"""Two placement replicas over one real nats-server, called over gRPC."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from pydantic import SecretStr

from chassis import rpc, subjects
from chassis.bus import NatsBus
from chassis.chassis import open_chassis
from chassis.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from chassis.kv import NatsKv
from chassis.run import serve
from contracts.placement.v1 import placement_pb2, placement_pb2_grpc
from placement.app import build
from placement.settings import PlacementSettings
from roomwright.nats_server import NatsServer
from tests.support.nats import connected_bus, running_nats


@asynccontextmanager
async def replica(nats: NatsServer, **changes: Any) -> AsyncIterator[Any]:
    settings = PlacementSettings(
        nats_url=nats.url,
        nats_user=nats.user,
        nats_password=SecretStr(nats.password),
        grpc_address="127.0.0.1:0",
        internal_token=SecretStr("shared"),
        **changes,
    )
    async with open_chassis(settings) as chassis:
        app = await build(settings, chassis)
        stop = asyncio.Event()
        serving = asyncio.create_task(serve(app, stop))
        async with rpc.channel(app.grpc_address, auth=chassis.auth) as channel:
            yield placement_pb2_grpc.PlacementServiceStub(channel)
        stop.set()
        await serving


class Nodes:
    """Heartbeats, as sfu nodes write them."""

    def __init__(self, bus: NatsBus) -> None:
        self._kv = NatsKv(bus, subjects.NODES)

    async def beat(self, node_id: str, **changes: Any) -> None:
        record = placement_pb2.NodeRecord(
            schema=1, node_id=node_id, address=f"{node_id}:1", participant_limit=400, **changes
        )
        await self._kv.put(node_id, record.SerializeToString())

    async def leave(self, node_id: str) -> None:
        await self._kv.delete(node_id)

    async def garbage(self, key: str) -> None:
        await self._kv.put(key, b"\xff\xff")


@pytest.fixture
async def world() -> AsyncIterator[tuple[Any, Any, Nodes]]:
    async with AsyncExitStack() as stack:
        nats = await stack.enter_async_context(running_nats())
        nodes = Nodes(await stack.enter_async_context(connected_bus(nats)))
        await nodes.garbage("ND_bad")
        await nodes.beat("ND_1")
        await nodes.beat("ND_2")
        first = await stack.enter_async_context(replica(nats))
        second = await stack.enter_async_context(replica(nats))
        yield first, second, nodes


def assign(stub: Any, name: str, *, create: bool = True) -> Any:
    return stub.AssignRoom(placement_pb2.AssignRoomRequest(room_name=name, create=create))


async def listed(stub: Any) -> list[str]:
    answer = await stub.ListRooms(placement_pb2.ListRoomsRequest())
    return sorted(lease.room_name for lease in answer.leases)


async def until_not_found(stub: Any, name: str) -> None:
    """A removal by another replica shows with the watch."""
    async with asyncio.timeout(5):
        while True:
            try:
                await stub.FindRoom(placement_pb2.FindRoomRequest(room_name=name))
            except NotFound:
                return
            await asyncio.sleep(0.01)


async def test_two_replicas_never_give_two_leases_for_one_room(
    world: tuple[Any, Any, Nodes],
) -> None:
    first, second, _ = world
    names = [f"room {number}" for number in range(10)]
    answers = await asyncio.gather(
        *(assign(stub, name) for name in names for stub in (first, second) for _ in range(4))
    )
    for name in names:
        of_room = [answer for answer in answers if answer.lease.room_name == name]
        assert len({answer.lease.SerializeToString() for answer in of_room}) == 1
        assert sum(answer.created for answer in of_room) == 1
    async with asyncio.timeout(5):
        while await listed(second) != names:  # noqa: ASYNC110 - its watch follows
            await asyncio.sleep(0.01)


async def test_release_by_one_replica_is_seen_by_the_other(world: tuple[Any, Any, Nodes]) -> None:
    first, second, _ = world
    lease = (await assign(first, "r")).lease
    with pytest.raises(FailedPrecondition):
        await second.ReleaseRoom(
            placement_pb2.ReleaseRoomRequest(
                room_name="r", node_id=lease.node_id, epoch=lease.epoch + 1
            )
        )
    await second.ReleaseRoom(
        placement_pb2.ReleaseRoomRequest(room_name="r", node_id=lease.node_id, epoch=lease.epoch)
    )
    await until_not_found(first, "r")
    again = await assign(first, "r")
    assert again.created
    assert again.lease.epoch > lease.epoch


async def test_room_of_a_node_that_left_moves_with_the_next_epoch(
    world: tuple[Any, Any, Nodes],
) -> None:
    first, second, nodes = world
    lease = (await assign(first, "r")).lease
    await nodes.leave(lease.node_id)
    async with asyncio.timeout(5):
        while (moved := await assign(second, "r", create=False)).lease == lease:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert moved.lease.epoch > lease.epoch
    assert moved.lease.room_sid == lease.room_sid
    assert moved.lease.node_id != lease.node_id


async def test_bad_names_are_refused(world: tuple[Any, Any, Nodes]) -> None:
    for name in ("", "x" * 257, "é" * 129):
        with pytest.raises(InvalidArgument):
            await assign(world[0], name)
    assert (await assign(world[0], "é" * 128)).created


async def test_without_nodes_the_caller_is_told_why() -> None:
    async with running_nats() as nats, replica(nats) as stub:
        with pytest.raises(Unavailable, match="no sfu node has registered"):
            await assign(stub, "r")


async def test_without_nats_the_caller_is_told_why() -> None:
    async with running_nats() as nats, replica(nats, nodes_patience_s=0.1) as stub:
        await nats.stop()
        with pytest.raises(Unavailable):
            await assign(stub, "r")
