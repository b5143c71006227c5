"""A node whose stream broke: one question per room, and an answer for every socket."""

from signaling.core.lost_node import (
    HOME_INTERVAL_S,
    PATIENCE_S,
    AskHome,
    AskNode,
    HomeTold,
    HomeUnknown,
    LostNode,
    NodeAnswered,
    NodeSilent,
    RoomAt,
    RoomDeserted,
    TellBack,
    TellMoved,
    Ticked,
)

HALL, LOBBY = RoomAt("hall", 7), RoomAt("lobby", 3)


def lost(*rooms: RoomAt) -> LostNode:
    machine = LostNode.of("ND_1", rooms or (HALL, LOBBY), now=100.0)
    assert machine.handle(Ticked(), 100.0) == [AskNode()]
    return machine


def test_the_same_process_is_back() -> None:
    machine = lost()
    assert machine.handle(NodeAnswered("ND_1"), 100.1) == [TellBack((HALL, LOBBY))]
    assert machine.next_timeout() is None
    assert machine.handle(Ticked(), 101.0) == []


def test_an_older_node_says_no_id_and_counts_as_back() -> None:
    assert lost(HALL).handle(NodeAnswered(""), 100.1) == [TellBack((HALL,))]


def test_a_silent_node_is_asked_sooner_at_first_and_placement_meanwhile() -> None:
    machine = lost(HALL)
    asked = [100.0]
    now = 100.0
    assert machine.handle(NodeSilent(), now) == [AskHome(HALL)]
    while len(asked) < 5:
        deadline = machine.next_timeout()
        assert deadline is not None
        now = deadline
        if AskNode() in machine.handle(Ticked(), now):
            asked.append(now)
            machine.handle(NodeSilent(), now)
    assert asked == [100.0, 100.25, 100.75, 101.75, 102.75]


def test_a_room_is_asked_about_again_only_after_an_answer() -> None:
    machine = lost(HALL)
    assert machine.handle(NodeSilent(), 100.0) == [AskHome(HALL)]
    assert AskHome(HALL) not in machine.handle(Ticked(), 103.0)
    assert machine.handle(HomeTold(HALL, ("ND_1", 7)), 103.0) == []
    assert AskHome(HALL) in machine.handle(Ticked(), 103.0 + HOME_INTERVAL_S)
    assert AskHome(HALL) not in machine.handle(HomeUnknown(HALL), 104.0)
    assert AskHome(HALL) in machine.handle(Ticked(), 104.0 + HOME_INTERVAL_S)


def test_each_room_is_told_by_itself_that_it_moved() -> None:
    machine = lost()
    machine.handle(NodeSilent(), 100.0)
    assert machine.handle(HomeTold(HALL, ("ND_2", 8)), 105.0)[0] == TellMoved(HALL)
    assert not machine.over
    assert machine.handle(HomeTold(LOBBY, None), 105.1) == [TellMoved(LOBBY)]
    assert machine.over


def test_a_higher_epoch_of_the_same_node_is_another_room() -> None:
    machine = lost(HALL)
    machine.handle(NodeSilent(), 100.0)
    assert machine.handle(HomeTold(HALL, ("ND_1", 8)), 101.0) == [TellMoved(HALL)]


def test_another_process_at_the_address_ends_the_asking_of_it() -> None:
    machine = lost(HALL)
    assert machine.handle(NodeAnswered("ND_2"), 100.1) == [AskHome(HALL)]
    effects = [effect for at in (101.0, 102.0, 105.0) for effect in machine.handle(Ticked(), at)]
    assert effects == []


def test_a_slow_answer_of_the_node_does_not_keep_placement_from_being_asked() -> None:
    machine = lost(HALL)
    assert machine.next_timeout() == 100.0 + HOME_INTERVAL_S
    assert machine.handle(Ticked(), 100.0 + HOME_INTERVAL_S) == [AskHome(HALL)]


def test_it_ends_when_nobody_waits_or_it_took_too_long() -> None:
    machine = lost(HALL)
    machine.handle(RoomDeserted(HALL), 101.0)
    assert machine.over
    late = lost(HALL)
    late.handle(Ticked(), 100.0 + PATIENCE_S)
    assert late.over
    assert late.handle(HomeTold(HALL, None), 120.0) == []
