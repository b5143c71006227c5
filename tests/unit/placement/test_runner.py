"""Assignments under contention, lost acknowledgements, silent holders and a store that is away or lost data."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from chassis.bus import MemoryBus
from chassis.clock import ManualClock
from chassis.errors import (
    Aborted,
    FailedPrecondition,
    NotFound,
    OutcomeUnknown,
    Unavailable,
)
from chassis.ids import NodeId, RoomName
from chassis.kv import Deleted, Entry, MemoryKv
from chassis.subjects import ROOMS
from chassis.telemetry import Metrics
from placement.clients import KvLeaseStore, LeaseFeed
from placement.core.leases import Lease, LeaseCache
from placement.core.nodes import Node, NodeRegistry
from placement.metrics import PlacementMetrics
from placement.runner import Rooms

NAME = RoomName("a room")


class FaultyKv(MemoryKv):
    """A bucket whose acknowledgements get lost, after or before the write happened."""

    def __init__(self) -> None:
        super().__init__(ROOMS)
        self.writes = 0
        self.reads = 0
        self.faults: list[str] = []
        self.late: list[tuple[str, bytes]] = []

    async def get(self, key: str) -> Entry | None:
        self.reads += 1
        return await super().get(key)

    def lose_everything(self) -> None:
        """As a server does whose disk is new: revisions begin anew, and no removal is told of."""
        lost = list(self._entries.values())
        self._entries.clear()
        self._revision = 0
        for entry in lost:
            self._tell(Deleted(entry.key, entry.revision))

    async def create(self, key: str, value: bytes) -> int:
        self.writes += 1
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
        self.asked: list[str] = []
        self.told: list[Lease] = []
        self.opened: list[Lease] = []
        self.left_on: dict[str, bool] = {}
        """Nodes that answer, and whether they find something of a room that was left."""
        self.answering: dict[str, Node] = {}
        self.feeds: list[asyncio.Task[None]] = []
        self.beat("A", "B")

    def beat(self, *names: str) -> None:
        for name in names:
            self.registry.heard(node(name), next(self.revisions), self.clock.now())

    async def ask(self, node_id: NodeId, address: str) -> None:
        self.asked.append(node_id)
        answer = self.answering.get(address)
        if answer is None:
            self.registry.unanswered(node_id, self.clock.now())
        else:
            self.registry.answered(node_id, address, answer, self.clock.now())

    def replica(self) -> Rooms:
        cache, metrics = LeaseCache(), PlacementMetrics(Metrics())
        self.feeds.append(
            asyncio.create_task(
                LeaseFeed(self.kv, cache, MemoryBus(), self.clock, metrics).follow()
            )
        )
        return Rooms(
            KvLeaseStore(self.kv),
            cache,
            self.registry,
            self,
            self.clock,
            metrics,
            tell_takeover=self.tell,
            openings=self,
        )

    async def open(self, lease: Lease) -> bool:
        if lease.node_id not in self.left_on:
            raise Unavailable("no answer")
        self.opened.append(lease)
        return self.left_on[lease.node_id]

    async def tell(self, lease: Lease) -> None:
        self.told.append(lease)

    async def settle(self) -> None:
        """Until every replica has seen every change."""
        for _ in range(20):
            await asyncio.sleep(0)


def node(name: str) -> Node:
    return Node(NodeId(name), f"{name}:1")


def other_than(lease: Lease) -> str:
    return "B" if lease.node_id == "A" else "A"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    for feed in made.feeds:
        feed.cancel()
    await asyncio.gather(*made.feeds, return_exceptions=True)


async def test_new_room_gets_a_node_a_sid_and_an_epoch(world: World) -> None:
    made = await world.replica().assign(NAME, create=True)
    assert made.created
    assert made.lease.room_sid.startswith("RM_")
    assert (made.lease.epoch, made.lease.node_id in ("A", "B")) == (1, True)
    again = await world.replica().assign(NAME, create=True)
    assert (again.lease, again.created) == (made.lease, False)
    assert await world.replica().find(NAME) == made.lease


async def test_new_room_is_on_the_preferred_node_and_a_room_with_a_home_stays(
    world: World,
) -> None:
    rooms = world.replica()
    for number in range(8):
        name = RoomName(f"room {number}")
        made = await rooms.assign(name, create=True, preferred_node_id="B")
        assert made.lease.node_id == "B"
        again = await rooms.assign(name, create=True, preferred_node_id="A")
        assert again.lease == made.lease


async def test_missing_room_is_not_made_unless_wanted(world: World) -> None:
    rooms = world.replica()
    with pytest.raises(NotFound, match="requested room does not exist"):
        await rooms.assign(NAME, create=False)
    with pytest.raises(NotFound):
        await rooms.find(NAME)


async def test_concurrent_assignments_of_one_name_agree(world: World) -> None:
    replicas = [world.replica(), world.replica()]
    made = await asyncio.gather(
        *(replica.assign(NAME, create=True) for replica in replicas for _ in range(20))
    )
    assert len({one.lease for one in made}) == 1
    assert sum(one.created for one in made) == 1


@pytest.mark.parametrize("fault", ["done, not told", "not done", "done later"])
async def test_lost_acknowledgement_is_settled_by_the_nonce(world: World, fault: str) -> None:
    world.kv.faults = [fault]
    made = await world.replica().assign(NAME, create=True)
    assert made.created
    assert await world.replica().find(NAME) == made.lease


async def test_write_of_another_replica_is_not_taken_for_ones_own(world: World) -> None:
    world.kv.faults = ["not done"]
    mine = asyncio.create_task(world.replica().assign(NAME, create=True))
    other = await world.replica().assign(NAME, create=True)
    assert (await mine).lease == other.lease
    assert (await mine).created != other.created


async def test_store_that_never_acknowledges_ends_in_aborted(world: World) -> None:
    world.kv.faults = ["not done"] * 100
    with pytest.raises(Aborted):
        await world.replica().assign(NAME, create=True)


async def test_silent_holder_loses_the_room_and_the_sid_stays(world: World) -> None:
    first = (await world.replica().assign(NAME, create=True)).lease
    world.clock.advance(5.5)
    world.beat(other_than(first))
    taken = await world.replica().assign(NAME, create=False)
    assert (taken.lease.node_id, taken.created) == (other_than(first), False)
    assert taken.lease.epoch > first.epoch
    assert taken.lease.room_sid == first.room_sid
    assert world.asked == [first.node_id]
    assert world.told == [taken.lease]


async def test_silent_holder_that_answers_keeps_the_room(world: World) -> None:
    first = (await world.replica().assign(NAME, create=True)).lease
    world.answering[first.node_address] = node(first.node_id)
    world.clock.advance(5.5)
    assert (await world.replica().assign(NAME, create=True)).lease == first


async def test_holder_replaced_by_another_process_loses_the_room_at_once(world: World) -> None:
    rooms = world.replica()
    first = (await rooms.assign(NAME, create=True)).lease
    reborn = Node(NodeId("reborn"), first.node_address)
    world.registry.heard(reborn, next(world.revisions), world.clock.now())
    taken = (await rooms.assign(NAME, create=False)).lease
    assert taken.node_id in ("reborn", other_than(first))
    assert world.asked == []


async def test_doubted_holder_is_asked_and_replaced_when_another_process_answers(
    world: World,
) -> None:
    rooms = world.replica()
    first = (await rooms.assign(NAME, create=True)).lease
    world.answering[first.node_address] = Node(NodeId("reborn"), first.node_address)
    assert (await rooms.assign(NAME, create=False)).lease == first
    taken = await rooms.assign(NAME, create=False, doubted_epoch=first.epoch)
    assert taken.lease.epoch > first.epoch
    assert world.asked == [first.node_id]


async def test_doubted_holder_heard_of_lately_keeps_the_room_for_now(world: World) -> None:
    rooms = world.replica()
    first = (await rooms.assign(NAME, create=True)).lease
    world.clock.advance(4)
    for _ in range(3):
        again = await rooms.assign(NAME, create=False, doubted_epoch=first.epoch)
        assert again.lease == first
    assert world.asked == [first.node_id]  # the crowd of doubts asks once
    world.clock.advance(1.1)
    world.beat(other_than(first))
    taken = await rooms.assign(NAME, create=False, doubted_epoch=first.epoch)
    assert taken.lease.node_id == other_than(first)


async def test_doubt_about_an_epoch_that_is_over_gets_the_present_one(world: World) -> None:
    first_replica, second = world.replica(), world.replica()
    first = (await first_replica.assign(NAME, create=True)).lease
    await world.settle()
    world.clock.advance(5.5)
    world.beat(other_than(first))
    taken = (await first_replica.assign(NAME, create=False)).lease
    # The second replica's watch has not told yet.
    assert (await second.assign(NAME, create=False, doubted_epoch=first.epoch)).lease == taken


async def test_known_room_with_a_living_holder_costs_no_question_to_the_store(
    world: World,
) -> None:
    first, second = world.replica(), world.replica()
    lease = (await first.assign(NAME, create=True)).lease
    assert (world.kv.writes, world.kv.reads) == (1, 0)
    await world.settle()
    for rooms in (first, second):
        assert (await rooms.assign(NAME, create=True)).lease == lease
        assert await rooms.find(NAME) == lease
        assert await rooms.list_rooms([NAME]) == [lease]
        assert await rooms.reclaim([lease]) == []
    assert (world.kv.writes, world.kv.reads) == (1, 0)


async def test_crowd_that_joins_a_new_room_costs_one_write(world: World) -> None:
    rooms = world.replica()
    made = await asyncio.gather(*(rooms.assign(NAME, create=True) for _ in range(50)))
    assert len({one.lease for one in made}) == 1
    assert (world.kv.writes, world.kv.reads) == (1, 0)


async def test_room_made_elsewhere_is_found_although_every_node_is_full(world: World) -> None:
    lease = (await world.replica().assign(NAME, create=True)).lease
    for name in ("A", "B"):
        full = replace(node(name), participants=1, participant_limit=1)
        world.registry.heard(full, next(world.revisions), world.clock.now())
    assert (await world.replica().assign(NAME, create=True)).lease == lease
    with pytest.raises(
        Unavailable, match=r"every sfu node is full \(2 at the limit of participants\)"
    ):
        await world.replica().assign(RoomName("another"), create=True)


async def test_no_node_is_unavailable_with_the_reason(world: World) -> None:
    world.clock.advance(6)
    with pytest.raises(Unavailable, match="no sfu node has been heard of lately"):
        await world.replica().assign(NAME, create=True)


async def test_store_that_is_away_stops_new_rooms_only(world: World) -> None:
    rooms = world.replica()
    lease = (await rooms.assign(NAME, create=True)).lease
    world.kv.available = False
    with pytest.raises(Unavailable, match="no new rooms while the message bus cannot be reached"):
        await rooms.assign(RoomName("another"), create=True)
    with pytest.raises(Unavailable, match="cannot be looked up now"):
        await rooms.assign(RoomName("another"), create=False)
    assert (await rooms.assign(NAME, create=True)).lease == lease
    assert await rooms.find(NAME) == lease
    assert await rooms.list_rooms([NAME, RoomName("another")]) == [lease]


async def test_doubted_holder_that_answers_is_kept_while_the_store_is_away(world: World) -> None:
    rooms = world.replica()
    lease = (await rooms.assign(NAME, create=True)).lease
    world.kv.available = False
    world.answering[lease.node_address] = node(lease.node_id)
    kept = await rooms.assign(NAME, create=False, doubted_epoch=lease.epoch)
    assert kept.lease == lease
    world.answering.clear()
    world.clock.advance(6)
    world.beat(other_than(lease))
    with pytest.raises(Unavailable):
        await rooms.assign(NAME, create=False, doubted_epoch=lease.epoch)


async def test_store_that_does_not_answer_is_unavailable(world: World) -> None:
    class Stuck(FaultyKv):
        async def get(self, key: str) -> Entry | None:
            await asyncio.Event().wait()
            return None

    with pytest.raises(Unavailable, match="the message bus does not answer"):
        await KvLeaseStore(Stuck(), patience_s=0.01).read(NAME)


async def test_leases_that_the_store_lost_are_written_again_as_they_were(world: World) -> None:
    rooms = world.replica()
    other = RoomName("other")
    leases = [(await rooms.assign(name, create=True)).lease for name in (NAME, other)]
    await world.settle()
    world.kv.lose_everything()
    await world.settle()
    assert await rooms.restore() == 2
    await world.settle()
    assert [await world.replica().find(name) for name in (NAME, other)] == leases
    assert await rooms.restore() == 0


async def test_room_asked_for_before_it_is_restored_is_no_second_one(world: World) -> None:
    rooms = world.replica()
    lease = (await rooms.assign(NAME, create=True)).lease
    await world.settle()
    world.kv.lose_everything()
    await world.settle()
    again = await rooms.assign(NAME, create=True)
    assert (again.lease, again.created) == (lease, False)


async def test_epochs_grow_on_after_the_store_lost_its_revisions(world: World) -> None:
    rooms = world.replica()
    for number in range(5):
        await rooms.assign(RoomName(f"before {number}"), create=True)
    lease = (await rooms.assign(NAME, create=True)).lease
    await rooms.release(NAME, lease.node_id, lease.epoch)
    world.kv.lose_everything()  # and nobody has told this replica
    again = (await rooms.assign(NAME, create=True)).lease
    assert again.epoch > lease.epoch
    assert await world.replica().find(NAME) == again


async def test_claimed_lease_that_nobody_remembers_is_written_again(world: World) -> None:
    lease = (await world.replica().assign(NAME, create=True)).lease
    await world.settle()
    world.kv.lose_everything()
    restarted = world.replica()
    assert await restarted.reclaim([lease]) == []
    assert await restarted.find(NAME) == lease
    assert (await restarted.assign(RoomName("next"), create=True)).lease.epoch > lease.epoch


async def test_claimed_lease_that_was_taken_over_is_named_with_its_successor(
    world: World,
) -> None:
    rooms = world.replica()
    first = (await rooms.assign(NAME, create=True)).lease
    world.clock.advance(5.5)
    world.beat(other_than(first))
    taken = (await rooms.assign(NAME, create=False)).lease
    assert await rooms.reclaim([first]) == [taken]
    assert await world.replica().reclaim([first, taken]) == [taken]
    assert await rooms.find(NAME) == taken


async def test_claimed_lease_that_was_given_back_is_named_without_a_holder(world: World) -> None:
    rooms = world.replica()
    lease = (await rooms.assign(NAME, create=True)).lease
    await rooms.release(NAME, lease.node_id, lease.epoch)
    [over] = await rooms.reclaim([lease])
    assert (over.room_name, over.node_id, over.epoch) == (NAME, "", lease.epoch + 1)
    with pytest.raises(NotFound):
        await rooms.find(NAME)


async def test_of_two_rooms_of_one_name_the_higher_epoch_holds(world: World) -> None:
    old = Lease(
        NAME,
        (await world.replica().assign(NAME, create=True)).lease.room_sid,
        NodeId("A"),
        "A:1",
        100,
    )
    usurper = (await world.replica().assign(NAME, create=True)).lease
    rooms = world.replica()
    assert await rooms.reclaim([old]) == []
    assert await rooms.find(NAME) == old
    assert await rooms.reclaim([usurper]) == [old]
    assert world.told == ([old] if usurper.node_id != old.node_id else [])


async def test_release_needs_the_holder_and_the_epoch(world: World) -> None:
    lease = (await world.replica().assign(NAME, create=True)).lease
    for node, epoch in ((lease.node_id, lease.epoch + 1), (NodeId("X"), lease.epoch)):
        with pytest.raises(FailedPrecondition, match="the lease is at epoch"):
            await world.replica().release(NAME, node, epoch)
    await world.replica().release(NAME, lease.node_id, lease.epoch)
    await world.replica().release(NAME, lease.node_id, lease.epoch)
    with pytest.raises(NotFound):
        await world.replica().find(NAME)


async def test_next_incarnation_has_another_sid_and_a_higher_epoch(world: World) -> None:
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


async def test_list_has_rooms_with_living_holders(world: World) -> None:
    rooms = world.replica()
    leases = [(await rooms.assign(RoomName(name), create=True)).lease for name in "xyz"]
    assert sorted(lease.room_name for lease in await rooms.list_rooms([])) == ["x", "y", "z"]
    assert await rooms.list_rooms([RoomName("y"), RoomName("none"), RoomName("y")]) == [leases[1]]
    world.clock.advance(6)
    assert await rooms.list_rooms([]) == []


async def test_sweep_leaves_rooms_of_a_gone_node_that_answers(world: World) -> None:
    rooms = world.replica()
    lease = (await rooms.assign(NAME, create=True)).lease
    world.answering[lease.node_address] = node(lease.node_id)
    world.clock.advance(61)
    assert await rooms.sweep() == 0
    assert await rooms.find(NAME) == lease


async def test_sweep_gives_rooms_of_a_lost_node_to_another_and_opens_them(world: World) -> None:
    rooms = world.replica()
    lease = (await rooms.assign(NAME, create=True)).lease
    survivor = "B" if lease.node_id == "A" else "A"
    world.clock.advance(10)
    world.beat(survivor)
    assert await rooms.sweep() == 0
    world.clock.advance(1)
    world.left_on[survivor] = True
    assert await rooms.sweep() == 1
    taken = await rooms.find(NAME)
    assert (taken.node_id, taken.room_sid) == (survivor, lease.room_sid)
    assert taken.epoch > lease.epoch
    assert world.opened == [taken]
    world.beat(survivor)
    assert await rooms.sweep() == 0
    assert world.opened == [taken]


async def test_sweep_ends_a_room_of_which_nothing_was_left(world: World) -> None:
    rooms = world.replica()
    await rooms.assign(NAME, create=True)
    world.clock.advance(11)
    world.beat("A")
    world.beat("B")
    world.clock.advance(11)
    world.registry.heard(node("C"), next(world.revisions), world.clock.now())
    world.left_on["C"] = False
    assert await rooms.sweep() == 1
    with pytest.raises(NotFound):
        await rooms.find(NAME)


async def test_sweep_leaves_rooms_as_they_are_until_there_is_a_node_for_them(world: World) -> None:
    rooms = world.replica()
    lease = (await rooms.assign(NAME, create=True)).lease
    world.clock.advance(300)
    assert await rooms.sweep() == 0
    assert await rooms.find(NAME) == lease
    world.beat("C")
    world.left_on["C"] = True
    assert await rooms.sweep() == 1
    assert (await rooms.find(NAME)).node_id == "C"


async def test_a_room_that_could_not_be_opened_is_opened_later(world: World) -> None:
    rooms = world.replica()
    lease = (await rooms.assign(NAME, create=True)).lease
    world.clock.advance(11)
    world.beat("C")
    assert await rooms.sweep() == 1  # C does not answer
    assert world.opened == []
    world.left_on["C"] = True
    assert await rooms.sweep() == 0
    (opened,) = world.opened
    assert (opened.node_id, opened.room_sid) == ("C", lease.room_sid)


async def test_a_room_taken_over_for_somebody_who_never_came_is_opened(world: World) -> None:
    rooms = world.replica()
    lease = (await rooms.assign(NAME, create=True)).lease
    world.clock.advance(6)
    world.beat("C")
    world.left_on["C"] = True
    taken = (await rooms.assign(NAME, create=True, doubted_epoch=lease.epoch)).lease
    assert taken.node_id == "C"
    assert world.opened == []
    await rooms.sweep()
    assert world.opened == [taken]
