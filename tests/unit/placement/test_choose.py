"""The choice of a node."""

import random

from chassis.ids import NodeId
from placement.core.choose import choose
from placement.core.nodes import Candidate, Node


def candidate(name: str, pending: int = 0, **changes: object) -> Candidate:
    return Candidate(Node(NodeId(name), f"{name}:1", **changes), pending)  # type: ignore[arg-type]


def draw_first(_count: int) -> int:
    return 0


def test_without_candidates_there_is_no_choice() -> None:
    assert choose([], "", draw_first) is None


def test_full_nodes_are_never_chosen() -> None:
    full = candidate("full", participants=4, participant_limit=4)
    assert choose([full], "", draw_first) is None
    free = candidate("free", participants=3, participant_limit=4)
    for seed in range(20):
        assert choose([full, free], "", random.Random(seed).randrange) == free.node


def test_rooms_given_since_the_heartbeat_fill_a_node() -> None:
    assert choose([candidate("a", pending=1, participant_limit=1)], "", draw_first) is None


def test_of_two_the_less_loaded_is_chosen_by_its_scarcest_resource() -> None:
    busy = candidate("busy", cpu_load=0.9)
    crowded = candidate("crowded", participants=95, participant_limit=100)
    calm = candidate("calm", cpu_load=0.5, participants=10, participant_limit=100)
    for others in ([busy, calm], [calm, busy], [crowded, calm], [calm, crowded]):
        assert choose(others, "", draw_first) == calm.node
    assert choose([busy, crowded], "", draw_first) == busy.node


def test_equal_load_goes_to_the_one_with_fewer_rooms() -> None:
    assert choose([candidate("a", rooms=2), candidate("b", rooms=1)], "", draw_first) == (
        candidate("b", rooms=1).node
    )


def test_region_comes_first_and_falls_back_when_full() -> None:
    near = candidate("near", region="eu", cpu_load=0.9)
    far = candidate("far", region="us")
    assert choose([near, far], "eu", draw_first) == near.node
    assert choose([near, far], "asia", draw_first) == far.node
    full = candidate("full", region="eu", participants=1, participant_limit=1)
    assert choose([full, far], "eu", draw_first) == far.node


def test_two_draws_are_two_different_nodes() -> None:
    pair = [candidate("a", cpu_load=0.9), candidate("b")]
    for seed in range(50):
        assert choose(pair, "", random.Random(seed).randrange) == pair[1].node


def test_equal_nodes_share_the_rooms() -> None:
    pool = [candidate(str(number)) for number in range(5)]
    draw = random.Random(1).randrange
    chosen = [choose(pool, "", draw) for _ in range(500)]
    assert all(chosen.count(one.node) > 50 for one in pool)
