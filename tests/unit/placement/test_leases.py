"""What an assignment does with a lease, and what the cache believes."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from chassis.ids import NodeId, RoomName, RoomSid
from placement.core.leases import (
    BY_REVISION,
    ENDED_REMEMBERED,
    Held,
    Keep,
    Lease,
    LeaseCache,
    NoRoom,
    Take,
    decide,
    first_lease,
    outranks,
    over,
    takeover,
)
from placement.core.nodes import Node

A, B = Node(NodeId("A"), "a:1"), Node(NodeId("B"), "b:1")
NAME = RoomName("r")
LEASE = Lease(NAME, RoomSid("RM_1"), A.node_id, A.address, 7)
HELD = Held(LEASE, 7, b"n")


def later(epoch: int, revision: int | None = None) -> Held:
    return Held(replace(LEASE, epoch=epoch), epoch if revision is None else revision, b"m")


def cache(*entries: Held) -> LeaseCache:
    made = LeaseCache()
    for held in entries:
        made.watched(held)
    return made


def test_room_with_a_living_holder_stays_where_it_is() -> None:
    for create in (True, False):
        assert decide(HELD, create=create, holder_lost=False) == Keep(LEASE)


def test_lost_holder_loses_the_room_even_when_no_new_room_is_wanted() -> None:
    for create in (True, False):
        assert decide(HELD, create=create, holder_lost=True) == Take(HELD)


def test_missing_room_is_made_only_when_wanted() -> None:
    assert decide(None, create=True, holder_lost=False) == Take(None)
    assert decide(None, create=False, holder_lost=False) == NoRoom()


def test_takeover_names_the_new_node_and_keeps_the_sid() -> None:
    assert takeover(LEASE, B) == Lease(NAME, LEASE.room_sid, B.node_id, B.address, BY_REVISION)
    assert takeover(LEASE, B, 9).epoch == 9


def test_first_lease_takes_its_epoch_from_its_own_write() -> None:
    assert first_lease(NAME, RoomSid("RM_2"), A).epoch == BY_REVISION


def test_claimed_lease_belongs_in_the_store_when_nothing_newer_is_there() -> None:
    assert outranks(LEASE, None)
    assert outranks(LEASE, replace(LEASE, epoch=6))
    assert not outranks(LEASE, LEASE)
    assert not outranks(LEASE, replace(LEASE, epoch=8))


def test_lease_without_successor_is_told_of_without_a_holder() -> None:
    assert over(LEASE) == Lease(NAME, RoomSid(""), NodeId(""), "", 8)


def test_late_news_of_a_lower_epoch_changes_nothing() -> None:
    made = cache(later(9))
    made.watched(HELD)
    assert made.get(NAME) == later(9)


def test_late_news_of_a_lease_that_ended_does_not_bring_it_back() -> None:
    made = cache(HELD)
    made.ended(LEASE)
    made.watched(HELD)
    assert made.get(NAME) is None
    assert made.has_ended(LEASE)
    made.watched(later(9))
    assert made.get(NAME) == later(9)


def test_removal_of_an_earlier_lease_leaves_the_later_one() -> None:
    made = cache(HELD)
    made.stored(later(9))
    made.removed(NAME, 8)
    assert made.get(NAME) == later(9)
    made.removed(NAME, 10)
    assert made.get(NAME) is None


def test_end_of_an_earlier_lease_leaves_the_later_one() -> None:
    made = cache(later(9))
    made.ended(LEASE)
    assert made.get(NAME) == later(9)


def test_lease_that_is_gone_at_its_own_revision_was_lost_by_the_store() -> None:
    made = cache(HELD)
    made.removed(NAME, HELD.revision)
    assert made.has_vanished(NAME)
    assert made.vanished_leases() == [HELD]
    assert made.get(NAME) == HELD
    made.stored(Held(LEASE, 1, b"again"))
    assert not made.has_vanished(NAME)
    assert made.get(NAME) == Held(LEASE, 1, b"again")


def test_lower_epoch_in_an_emptied_store_does_not_replace_what_was_lost() -> None:
    made = cache(HELD)
    made.removed(NAME, HELD.revision)
    made.watched(later(2))
    assert made.get(NAME) == HELD
    assert made.has_vanished(NAME)


def test_own_write_is_confirmed_by_the_watch_alone() -> None:
    made = LeaseCache()
    made.stored(HELD)
    assert not made.confirms(LEASE)
    made.watched(HELD)
    assert made.confirms(LEASE)
    assert not made.confirms(replace(LEASE, epoch=8))
    made.removed(NAME, HELD.revision)
    assert not made.confirms(LEASE)


def test_epochs_are_named_only_while_revisions_are_behind_them() -> None:
    made = cache(later(50))
    assert made.epoch_to_write(50) == BY_REVISION
    made.removed(NAME, 50)
    assert made.epoch_to_write(made.highest_epoch) == 51
    made.stored(later(51, revision=1))
    assert made.epoch_to_write(made.highest_epoch) == 52
    made.watched(Held(replace(LEASE, room_name=RoomName("s"), epoch=60), 60, b""))
    assert made.epoch_to_write(made.highest_epoch) == BY_REVISION


def test_memory_of_ended_rooms_is_bounded() -> None:
    made = LeaseCache()
    for number in range(ENDED_REMEMBERED + 5):
        made.ended(replace(LEASE, room_name=RoomName(str(number))))
    assert not made.has_ended(replace(LEASE, room_name=RoomName("4")))
    assert made.has_ended(replace(LEASE, room_name=RoomName("5")))


@given(st.permutations(range(1, 7)), st.booleans())
def test_in_any_order_of_news_the_highest_epoch_is_believed(
    order: list[int], has_ended: bool
) -> None:
    made = LeaseCache()
    for epoch in order:
        made.watched(later(epoch))
        if has_ended and epoch == 6:
            made.ended(later(6).lease)
    assert made.get(NAME) == (None if has_ended else later(6))
    assert made.highest_epoch == 6
