"""Assignments under contention, lost acknowledgements and silent holders."""

import asyncio
import itertools

import pytest

from chassis.clock import ManualClock
from chassis.errors import (
    Aborted,
    FailedPrecondition,
    KvUnavailable,
    NotFound,
    OutcomeUnknown,
    Unavailable,
)
from chassis.ids import NodeId, RoomName
from chassis.kv import MemoryKv
from chassis.subjects import ROOMS
from chassis.telemetry import Metrics
from placement.clients import KvLeaseStore
from placement.core.leases import Lease
from placement.core.nodes import Node, NodeRegistry
from placement.metrics import PlacementMetrics
from placement.runner import Rooms

NAME = RoomName("a room")


class FaultyKv(MemoryKv):
    """A bucket whose acknowledgements get lost, after or before the write happened."""

    def __init__(self) -> None:
        super().__init__(ROOMS)
        self.faults: list[str] = []
        self.late: list[tuple[str, bytes]] = []

    async def create(self, key: str, value: bytes) -> int:
        match self.faults.pop(0) if self.faults else "":
            case "done, not told":
                await super().create(key, value)
                raise OutcomeUnknown("lost")
            case "not done":
                raise OutcomeUnknown("lost")
            case "done later":
                self.late.append((key, value))
                raise OutcomeUnknown("lost")
        if self.late:
            await super().create(*self.late.pop())
        return await super().create(key, value)


class World:
    """Two nodes, one bucket, a clock, and placement replicas over them."""

    def __init__(self) -> None:
        self.kv = FaultyKv()
        self.clock = ManualClock()
        self.registry = NodeRegistry(5, 60)
        self.registry.restart_counts(self.clock.now())
        self.revisions = itertools.count(1)
        self.asked: list[Lease] = []
        self.holder_answers = False
        self.beat("A", "B")

    def beat(self, *names: str) -> None:
        for name in names:
            node = Node(NodeId(name), f"{name}:1")
            self.registry.heard(node, next(self.revisions), self.clock.now())

    def replica(self) -> Rooms:
        async def answers(lease: Lease) -> bool:
            self.asked.append(lease)
            return self.holder_answers

        return Rooms(
            KvLeaseStore(self.kv),
            self.registry,
            self.clock,
            PlacementMetrics(Metrics()),
            answers=answers,
        )


async def test_new_room_gets_a_node_a_sid_and_an_epoch() -> None:
    world = World()
    made = await world.replica().assign(NAME, create=True)
    assert made.created
    assert made.lease.room_sid.startswith("RM_")
    assert (made.lease.epoch, made.lease.node_id in ("A", "B")) == (1, True)
    again = await world.replica().assign(NAME, create=True)
    assert (again.lease, again.created) == (made.lease, False)
    assert await world.replica().find(NAME) == made.lease


async def test_missing_room_is_not_made_unless_wanted() -> None:
    rooms = World().replica()
    with pytest.raises(NotFound, match="requested room does not exist"):
        await rooms.assign(NAME, create=False)
    with pytest.raises(NotFound):
        await rooms.find(NAME)


async def test_concurrent_assignments_of_one_name_agree() -> None:
    world = World()
    replicas = [world.replica(), world.replica()]
    made = await asyncio.gather(
        *(replica.assign(NAME, create=True) for replica in replicas for _ in range(20))
    )
    assert len({one.lease for one in made}) == 1
    assert sum(one.created for one in made) == 1


@pytest.mark.parametrize("fault", ["done, not told", "not done", "done later"])
async def test_lost_acknowledgement_is_settled_by_the_nonce(fault: str) -> None:
    world = World()
    world.kv.faults = [fault]
    made = await world.replica().assign(NAME, create=True)
    assert made.created
    assert await world.replica().find(NAME) == made.lease


async def test_write_of_another_replica_is_not_taken_for_ones_own() -> None:
    world = World()
    world.kv.faults = ["not done"]
    mine = asyncio.create_task(world.replica().assign(NAME, create=True))
    other = await world.replica().assign(NAME, create=True)
    assert (await mine).lease == other.lease
    assert (await mine).created != other.created


async def test_store_that_never_acknowledges_ends_in_aborted() -> None:
    world = World()
    world.kv.faults = ["not done"] * 100
    with pytest.raises(Aborted):
        await world.replica().assign(NAME, create=True)


async def test_stale_holder_loses_the_room_and_the_sid_stays() -> None:
    world = World()
    first = (await world.replica().assign(NAME, create=True)).lease
    other = "B" if first.node_id == "A" else "A"
    world.clock.advance(5.5)
    world.beat(other)
    taken = await world.replica().assign(NAME, create=False)
    assert (taken.lease.node_id, taken.created) == (other, False)
    assert (taken.lease.epoch, taken.lease.room_sid) == (first.epoch + 1, first.room_sid)
    assert world.asked == [first]


async def test_silent_holder_that_answers_keeps_the_room() -> None:
    world = World()
    world.holder_answers = True
    first = await world.replica().assign(NAME, create=True)
    world.clock.advance(5.5)
    assert (await world.replica().assign(NAME, create=True)).lease == first.lease


async def test_no_node_is_unavailable_with_the_reason() -> None:
    world = World()
    world.clock.advance(6)
    with pytest.raises(Unavailable, match="no sfu node has been heard of lately"):
        await world.replica().assign(NAME, create=True)


async def test_store_that_is_away_is_unavailable() -> None:
    world = World()
    world.kv.available = False
    with pytest.raises(Unavailable, match="cannot be looked up now"):
        await world.replica().assign(NAME, create=True)
    with pytest.raises(KvUnavailable):
        await world.kv.get(NAME)


async def test_release_needs_the_holder_and_the_epoch() -> None:
    world = World()
    lease = (await world.replica().assign(NAME, create=True)).lease
    for node, epoch in ((lease.node_id, lease.epoch + 1), (NodeId("X"), lease.epoch)):
        with pytest.raises(FailedPrecondition, match="the lease is at epoch"):
            await world.replica().release(NAME, node, epoch)
    await world.replica().release(NAME, lease.node_id, lease.epoch)
    await world.replica().release(NAME, lease.node_id, lease.epoch)
    with pytest.raises(NotFound):
        await world.replica().find(NAME)


async def test_next_incarnation_has_another_sid_and_a_higher_epoch() -> None:
    world = World()
    rooms = world.replica()
    first = (await rooms.assign(NAME, create=True)).lease
    world.clock.advance(6)
    world.beat("A", "B")
    await rooms.release(NAME, first.node_id, first.epoch)
    second = await rooms.assign(NAME, create=True)
    assert second.created
    assert second.lease.epoch > first.epoch
    assert second.lease.room_sid != first.room_sid
    with pytest.raises(FailedPrecondition):
        await rooms.release(NAME, first.node_id, first.epoch)


async def test_list_has_rooms_with_living_holders() -> None:
    world = World()
    rooms = world.replica()
    leases = [(await rooms.assign(RoomName(name), create=True)).lease for name in "xyz"]
    assert sorted(lease.room_name for lease in await rooms.list([])) == ["x", "y", "z"]
    assert await rooms.list([RoomName("y"), RoomName("none"), RoomName("y")]) == [leases[1]]
    world.clock.advance(6)
    assert await rooms.list([]) == []


async def test_sweep_ends_rooms_of_nodes_that_are_gone() -> None:
    world = World()
    rooms = world.replica()
    await rooms.assign(NAME, create=True)
    world.clock.advance(59)
    assert await rooms.sweep() == 0
    world.clock.advance(2)
    assert await rooms.sweep() == 1
    with pytest.raises(NotFound):
        await rooms.find(NAME)
