"""Freshness of nodes, by the observer's clock alone."""

from dataclasses import replace

from chassis.ids import NodeId
from placement.core.nodes import Census, Node, NodeRegistry, Standing

A = Node(NodeId("A"), "a:1")
B = Node(NodeId("B"), "b:1")
ID = A.node_id


def registry() -> NodeRegistry:
    made = NodeRegistry(stale_after_s=5, gone_after_s=60)
    made.restart_counts(0)
    return made


def standing(made: NodeRegistry, now: float, node: Node = A) -> Standing:
    return made.standing(node.node_id, node.address, now)


def names(made: NodeRegistry, now: float) -> list[str]:
    return [candidate.node.node_id for candidate in made.candidates(now)]


def test_node_is_fresh_until_its_record_stops_changing() -> None:
    made = registry()
    made.heard(A, 1, 10)
    assert names(made, 15) == ["A"]
    assert standing(made, 15) is Standing.LIVE
    assert standing(made, 15.1) is Standing.SILENT
    assert names(made, 15.1) == []


def test_repeated_revision_is_no_sign_of_life() -> None:
    made = registry()
    made.heard(A, 1, 10)
    made.heard(A, 1, 14)
    assert standing(made, 16) is Standing.SILENT
    made.heard(A, 2, 16)
    assert standing(made, 20) is Standing.LIVE


def test_blind_observer_restarts_all_counts() -> None:
    made = registry()
    made.heard(A, 1, 10)
    made.restart_counts(100)
    assert standing(made, 104) is Standing.LIVE
    assert standing(made, 106) is Standing.SILENT


def test_draining_node_gets_no_rooms_but_is_not_stale() -> None:
    made = registry()
    made.heard(replace(A, draining=True), 1, 10)
    assert names(made, 11) == []
    assert standing(made, 11) is Standing.LIVE


def test_node_of_a_cordoned_pod_gets_no_rooms_until_the_cordon_is_lifted() -> None:
    made = registry()
    made.heard(replace(A, pod_name="sfu-1"), 1, 10)
    made.set_unschedulable(frozenset({"sfu-1", "", "another"}))
    assert names(made, 11) == []
    assert made.why_none(11) == "every sfu node is draining"
    made.heard(B, 2, 10)
    assert names(made, 11) == ["B"]
    made.set_unschedulable(frozenset())
    assert names(made, 11) == ["A", "B"]


def test_node_that_took_its_record_away_is_silent_at_once() -> None:
    made = registry()
    made.heard(A, 1, 10)
    made.left(ID, 2)
    made.left(NodeId("unknown"), 3)
    assert standing(made, 10) is Standing.SILENT
    assert names(made, 10) == []


def test_record_that_the_store_lost_is_no_goodbye() -> None:
    made = registry()
    made.heard(A, 7, 10)
    made.left(ID, 7)
    assert standing(made, 15) is Standing.LIVE
    assert standing(made, 15.1) is Standing.SILENT


def test_answer_is_a_heartbeat() -> None:
    made = registry()
    made.heard(A, 1, 10)
    made.answered(ID, A.address, replace(A, rooms=3), 14)
    assert standing(made, 19) is Standing.LIVE
    assert [candidate.rooms for candidate in made.candidates(19)] == [3]
    made.heard(A, 1, 19)  # what the watch repeats is no news
    assert standing(made, 19.1) is Standing.SILENT


def test_another_process_at_the_address_proves_that_the_node_is_gone() -> None:
    made = registry()
    made.heard(A, 1, 10)
    made.heard(replace(B, address=A.address), 2, 10)
    assert standing(made, 10) is Standing.REPLACED
    assert names(made, 10) == ["B"]


def test_answer_of_another_process_proves_that_the_node_is_gone() -> None:
    made = registry()
    made.heard(A, 1, 10)
    made.answered(ID, A.address, B, 11)
    assert standing(made, 11) is Standing.REPLACED
    assert standing(made, 11, B) is Standing.LIVE


def test_node_that_was_never_heard_of_is_silent_once_looked_for_long_enough() -> None:
    made = registry()
    assert standing(made, 5) is Standing.LIVE
    assert standing(made, 5.1) is Standing.SILENT


def test_question_in_vain_counts_for_a_moment_and_until_the_node_is_heard() -> None:
    made = registry()
    made.heard(A, 1, 10)
    assert not made.was_asked_in_vain(ID, 13)
    made.unanswered(ID, 13)
    assert made.was_asked_in_vain(ID, 14.5)
    assert not made.was_asked_in_vain(ID, 14.6)
    made.heard(A, 2, 14)
    assert not made.was_asked_in_vain(ID, 14)


def test_silent_nodes_are_asked_blind_or_not_and_those_that_left_are_not() -> None:
    made = registry()
    made.heard(A, 1, 10)
    assert made.to_ask(12) == []
    assert made.to_ask(12.1) == [A]
    made.restart_counts(12.1)
    assert made.to_ask(12.1) == [A]
    made.left(ID, 2)
    assert made.to_ask(13) == []


def test_load_on_its_way_counts_until_the_next_heartbeat() -> None:
    made = registry()
    made.heard(replace(A, rooms=1, participants=2), 1, 10)
    made.assigned(ID, rooms=1, participants=1)
    made.assigned(ID, rooms=0, participants=1)
    made.assigned(NodeId("unknown"), rooms=1, participants=1)
    [candidate] = made.candidates(10)
    assert (candidate.rooms, candidate.participants) == (2, 4)
    made.heard(A, 2, 11)
    [candidate] = made.candidates(11)
    assert (candidate.rooms, candidate.participants) == (0, 0)


def test_census_counts_each_node_once_and_what_fresh_ones_can_take() -> None:
    made = registry()
    made.heard(replace(A, participants=30, participant_limit=100), 1, 10)
    made.assigned(ID, rooms=1, participants=1)
    made.heard(replace(B, participants=12, participant_limit=10), 1, 10)
    made.heard(replace(B, node_id=NodeId("C"), address="c:1", draining=True, participants=5), 1, 10)
    made.heard(Node(NodeId("D"), "d:1"), 1, 2)
    assert made.census(10) == Census(
        fresh=2,
        draining=1,
        silent=1,
        participants=47,
        participant_capacity=110,
        free_participants=69,
    )


def test_unknown_node_is_gone_only_after_the_observer_looked_long_enough() -> None:
    made = registry()
    assert not made.is_gone(NodeId("B"), 60)
    assert made.is_gone(NodeId("B"), 60.1)
    assert not NodeRegistry(5, 60).is_gone(NodeId("B"), 1000)


def test_gone_nodes_are_forgotten() -> None:
    made = registry()
    made.heard(A, 1, 10)
    made.prune(70)
    assert len(made) == 1
    made.prune(70.1)
    assert len(made) == 0


def test_reason_for_no_node_is_the_nearest_one() -> None:
    made = registry()
    assert made.why_none(0) == "no sfu node has registered"
    made.heard(A, 1, 10)
    assert made.why_none(20) == "no sfu node has been heard of lately"
    made.heard(replace(A, draining=True), 2, 10)
    assert made.why_none(10) == "every sfu node is draining"
