"""Freshness of nodes, by the observer's clock alone."""

from dataclasses import replace

from chassis.ids import NodeId
from placement.core.nodes import Node, NodeRegistry

A = Node(NodeId("A"), "a:1")
ID = A.node_id


def registry() -> NodeRegistry:
    made = NodeRegistry(stale_after_s=5, gone_after_s=60)
    made.restart_counts(0)
    return made


def names(made: NodeRegistry, now: float) -> list[str]:
    return [candidate.node.node_id for candidate in made.candidates(now)]


def test_node_is_fresh_until_its_record_stops_changing() -> None:
    made = registry()
    made.heard(A, 1, 10)
    assert names(made, 15) == ["A"]
    assert not made.is_stale(ID, 15)
    assert made.is_stale(ID, 15.1)
    assert names(made, 15.1) == []


def test_repeated_revision_is_no_sign_of_life() -> None:
    made = registry()
    made.heard(A, 1, 10)
    made.heard(A, 1, 14)
    assert made.is_stale(ID, 16)
    made.heard(A, 2, 16)
    assert not made.is_stale(ID, 20)


def test_blind_observer_restarts_all_counts() -> None:
    made = registry()
    made.heard(A, 1, 10)
    made.restart_counts(100)
    assert not made.is_stale(ID, 104)
    assert made.is_stale(ID, 106)


def test_draining_node_gets_no_rooms_but_is_not_stale() -> None:
    made = registry()
    made.heard(replace(A, draining=True), 1, 10)
    assert names(made, 11) == []
    assert not made.is_stale(ID, 11)


def test_node_of_a_cordoned_pod_gets_no_rooms_until_the_cordon_is_lifted() -> None:
    made = registry()
    made.heard(replace(A, pod_name="sfu-1"), 1, 10)
    made.set_unschedulable(frozenset({"sfu-1", "", "another"}))
    assert names(made, 11) == []
    assert made.why_none(11) == "every sfu node is draining"
    made.heard(replace(A, node_id=NodeId("B")), 2, 10)
    assert names(made, 11) == ["B"]
    made.set_unschedulable(frozenset())
    assert names(made, 11) == ["A", "B"]


def test_node_that_took_its_record_away_is_stale_at_once() -> None:
    made = registry()
    made.heard(A, 1, 10)
    made.forget(ID)
    assert made.is_stale(ID, 10)


def test_assigned_rooms_count_until_the_next_heartbeat() -> None:
    made = registry()
    made.heard(A, 1, 10)
    made.assigned(ID)
    made.assigned(NodeId("unknown"))
    assert made.candidates(10)[0].pending_rooms == 1
    made.heard(A, 2, 11)
    assert made.candidates(11)[0].pending_rooms == 0


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
    assert made.why_none(10) == "every sfu node is full"
    made.heard(replace(A, draining=True), 2, 10)
    assert made.why_none(10) == "every sfu node is draining"
