"""What an assignment does with a lease."""

from chassis.ids import NodeId, RoomName, RoomSid
from placement.core.leases import Held, Keep, Lease, NoRoom, Take, decide, first_lease, takeover
from placement.core.nodes import Node

A, B = Node(NodeId("A"), "a:1"), Node(NodeId("B"), "b:1")
LEASE = Lease(RoomName("r"), RoomSid("RM_1"), A.node_id, A.address, 7)
HELD = Held(LEASE, 3, b"n")


def test_room_with_a_living_holder_stays_where_it_is() -> None:
    for create in (True, False):
        assert decide(HELD, create=create, holder_lost=False) == Keep(LEASE)


def test_lost_holder_loses_the_room_even_when_no_new_room_is_wanted() -> None:
    for create in (True, False):
        assert decide(HELD, create=create, holder_lost=True) == Take(HELD)


def test_missing_room_is_made_only_when_wanted() -> None:
    assert decide(None, create=True, holder_lost=False) == Take(None)
    assert decide(None, create=False, holder_lost=False) == NoRoom()


def test_takeover_raises_the_epoch_and_keeps_the_sid() -> None:
    assert takeover(LEASE, B) == Lease(
        LEASE.room_name, LEASE.room_sid, B.node_id, B.address, LEASE.epoch + 1
    )


def test_first_epoch_is_above_every_earlier_write() -> None:
    assert first_lease(RoomName("r"), RoomSid("RM_2"), A, 41).epoch == 42
