"""The choice of a node."""

import random
from collections.abc import Callable
from dataclasses import replace
from math import inf, isclose
from types import MappingProxyType
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.ids import NodeId
from placement.core.choose import (
    Algorithm,
    Policy,
    Region,
    Selector,
    SortBy,
    Strategy,
    choose,
    distance_km,
    limit_reached,
    why_full,
)
from placement.core.nodes import Candidate, Node

SPREAD = Policy()
LOWEST = Policy(algorithm="lowest")
REGIONS = MappingProxyType(
    {
        "frankfurt": Region("frankfurt", 50.1, 8.7),
        "paris": Region("paris", 48.9, 2.4),
        "virginia": Region("virginia", 39.0, -77.5),
        "tokyo": Region("tokyo", 35.7, 139.7),
    }
)
NEAREST = Policy(selector="regionaware", regions=REGIONS)


def candidate(name: str, pending: int = 0, **changes: Any) -> Candidate:
    return Candidate(Node(NodeId(name), f"{name}:1", **changes), pending, pending)


def draw_first(_count: int) -> int:
    return 0


small, load = st.integers(0, 5), st.sampled_from([0.0, 0.3, 0.89, 0.9, 1.0])
candidates = st.lists(
    st.builds(
        Candidate,
        st.builds(
            Node,
            node_id=st.just(NodeId("")),
            address=st.just("a:1"),
            region=st.sampled_from(["", *REGIONS, "unheard of"]),
            rooms=small,
            participants=small,
            participant_limit=small,
            tracks=small,
            track_limit=small,
            bytes_per_s=st.sampled_from([0.0, 99.9, 100.0]),
            bytes_per_s_limit=st.sampled_from([0.0, 100.0]),
            cpu_load=load,
            cpu_load_limit=st.sampled_from([0.0, 0.9]),
            system_load=load,
        ),
        small,
        small,
    ),
    max_size=8,
).map(
    lambda found: [
        replace(one, node=replace(one.node, node_id=NodeId(str(number))))
        for number, one in enumerate(found)
    ]
)
policies = st.builds(
    Policy,
    selector=st.sampled_from(get_args(Selector)),
    sort_by=st.sampled_from(get_args(SortBy)),
    algorithm=st.sampled_from(get_args(Algorithm)),
    strategy=st.sampled_from(get_args(Strategy)),
    cpu_load_limit=st.sampled_from([0.0, 0.9]),
    system_load_limit=st.sampled_from([0.0, 0.9]),
    regions=st.just(REGIONS),
)
regions = st.sampled_from(["", *REGIONS, "unheard of"])


@given(candidates, regions, policies, st.integers())
def test_a_node_is_chosen_if_and_only_if_one_is_below_every_limit(
    pool: list[Candidate], region: str, policy: Policy, seed: int
) -> None:
    able = [one.node for one in pool if limit_reached(one, policy) is None]
    chosen = choose(pool, region, policy, random.Random(seed).randrange)
    assert chosen in able if able else chosen is None


@given(candidates, regions, policies, st.integers())
def test_no_able_node_is_nearer_than_the_chosen_one(
    pool: list[Candidate], region: str, policy: Policy, seed: int
) -> None:
    def distance(node: Node) -> float:
        if node.region == region:
            return 0
        if policy.selector != "regionaware" or not {node.region, region} <= REGIONS.keys():
            return inf
        return distance_km(REGIONS[node.region], REGIONS[region])

    chosen = choose(pool, region, policy, random.Random(seed).randrange)
    if chosen is not None and region:
        able = [one.node for one in pool if limit_reached(one, policy) is None]
        assert distance(chosen) == min(distance(node) for node in able)


SORTED_BY: dict[SortBy, Callable[[Candidate], float]] = {
    "sysload": lambda one: one.node.system_load,
    "cpuload": lambda one: one.node.cpu_load,
    "rooms": lambda one: one.rooms,
    "clients": lambda one: one.participants,
    "tracks": lambda one: one.node.tracks,
    "bytespersec": lambda one: one.node.bytes_per_s,
}


@pytest.mark.parametrize("sort_by", SORTED_BY)
@given(pool=candidates, seed=st.integers())
def test_lowest_takes_the_least_and_pack_the_most_of_what_is_compared(
    sort_by: SortBy, pool: list[Candidate], seed: int
) -> None:
    value = SORTED_BY[sort_by]
    draw = random.Random(seed).randrange
    for strategy, best in (("spread", min), ("pack", max)):
        policy = Policy(sort_by=sort_by, algorithm="lowest", strategy=strategy)  # type: ignore[arg-type]
        chosen = choose(pool, "", policy, draw)
        able = [one for one in pool if limit_reached(one, policy) is None]
        if chosen is not None:
            found = next(one for one in able if one.node == chosen)
            assert value(found) == best(map(value, able))


@given(candidates, policies, st.integers())
def test_two_choices_never_take_the_worst_of_three_different_ones(
    pool: list[Candidate], policy: Policy, seed: int
) -> None:
    two = replace(policy, algorithm="twochoice", strategy="spread", sort_by="tracks")
    able = [one for one in pool if limit_reached(one, two) is None]
    worst = max((one.node.tracks for one in able), default=0)
    chosen = choose(pool, "", two, random.Random(seed).randrange)
    if chosen is not None and sum(one.node.tracks == worst for one in able) < 2 <= len(able):
        assert chosen.tracks < worst


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        ({"participants": 4, "participant_limit": 4}, "participants"),
        ({"tracks": 9, "track_limit": 9}, "tracks"),
        ({"bytes_per_s": 1e6, "bytes_per_s_limit": 1e6}, "bytes per second"),
        ({"cpu_load": 0.8, "cpu_load_limit": 0.8}, "cpu load"),
    ],
)
def test_node_at_its_own_limit_gets_no_rooms_and_below_it_does(
    changes: dict[str, Any], limit: str
) -> None:
    at = candidate("at", **changes)
    assert limit_reached(at, SPREAD) == limit
    assert choose([at], "", SPREAD, draw_first) is None
    (name, value), *_ = changes.items()
    below = candidate("below", **{**changes, name: value - (1 if value > 1 else 0.01)})
    assert choose([at, below], "", SPREAD, draw_first) == below.node


def test_limits_of_load_for_every_node_count_with_their_selector() -> None:
    busy = candidate("busy", cpu_load=0.95, system_load=0.1)
    loaded = candidate("loaded", cpu_load=0.1, system_load=0.95)
    for selector, reached in (
        ("any", (None, None)),
        ("cpuload", ("cpu load", None)),
        ("sysload", (None, "system load")),
        ("regionaware", (None, "system load")),
    ):
        policy = Policy(selector=selector)  # type: ignore[arg-type]
        assert (limit_reached(busy, policy), limit_reached(loaded, policy)) == reached
    none = Policy(selector="cpuload", cpu_load_limit=0)
    assert limit_reached(busy, none) is None


def test_what_is_on_its_way_fills_a_node() -> None:
    assert choose([candidate("a", pending=1, participant_limit=1)], "", SPREAD, draw_first) is None


def test_full_nodes_are_counted_by_their_limit() -> None:
    pool = [
        candidate("a", participants=1, participant_limit=1),
        candidate("b", participants=1, participant_limit=1),
        candidate("c", tracks=1, track_limit=1),
    ]
    assert why_full(pool, SPREAD) == (
        "every sfu node is full (2 at the limit of participants, 1 at the limit of tracks)"
    )


def test_of_two_the_less_loaded_is_chosen_by_its_scarcest_resource() -> None:
    busy = candidate("busy", cpu_load=0.9)
    crowded = candidate("crowded", participants=95, participant_limit=100)
    calm = candidate("calm", cpu_load=0.5, participants=10, participant_limit=100)
    for others in ([busy, calm], [calm, busy], [crowded, calm], [calm, crowded]):
        assert choose(others, "", SPREAD, draw_first) == calm.node
    assert choose([busy, crowded], "", SPREAD, draw_first) == busy.node


def test_equal_load_goes_to_the_one_with_fewer_rooms() -> None:
    pool = [candidate("a", rooms=2), candidate("b", rooms=1)]
    assert choose(pool, "", SPREAD, draw_first) == pool[1].node


def test_same_region_comes_first_and_falls_back_when_full() -> None:
    near = candidate("near", region="eu", cpu_load=0.9)
    far = candidate("far", region="us")
    assert choose([near, far], "eu", SPREAD, draw_first) == near.node
    assert choose([near, far], "asia", SPREAD, draw_first) == far.node
    full = candidate("full", region="eu", participants=1, participant_limit=1)
    assert choose([full, far], "eu", SPREAD, draw_first) == far.node


def test_nearest_region_with_capacity_is_chosen() -> None:
    paris = candidate("p", region="paris", participants=1, participant_limit=1)
    virginia = candidate("v", region="virginia", cpu_load=0.8)
    tokyo = candidate("t", region="tokyo")
    nowhere = candidate("n")
    for pool in ([paris, virginia, tokyo, nowhere], [nowhere, tokyo, virginia, paris]):
        assert choose(pool, "frankfurt", NEAREST, draw_first) == virginia.node
    freed = candidate("p", region="paris")
    assert choose([tokyo, virginia, freed], "frankfurt", NEAREST, draw_first) == freed.node


def test_distances_are_those_of_an_atlas() -> None:
    assert isclose(distance_km(REGIONS["frankfurt"], REGIONS["paris"]), 475, rel_tol=0.02)
    assert isclose(distance_km(REGIONS["frankfurt"], REGIONS["tokyo"]), 9350, rel_tol=0.02)
    assert distance_km(Region("a", 0, 179), Region("b", 0, -179)) < 250


def test_packing_fills_the_fullest_node_until_it_is_full() -> None:
    policy = Policy(strategy="pack", sort_by="clients")
    pool = [candidate("a", participant_limit=3), candidate("b", participants=1)]
    pool.append(candidate("c", participants=2, participant_limit=2))
    assert choose(pool, "", policy, draw_first) == pool[1].node


def test_equal_nodes_share_the_rooms() -> None:
    pool = [candidate(str(number)) for number in range(5)]
    draw = random.Random(1).randrange
    for policy in (SPREAD, LOWEST, Policy(sort_by="random")):
        chosen = [choose(pool, "", policy, draw) for _ in range(500)]
        assert all(chosen.count(one.node) > 50 for one in pool)


def test_preferred_node_is_taken_unless_it_is_full_or_gone() -> None:
    busy, idle = candidate("busy", cpu_load=0.8), candidate("idle")
    assert choose([busy, idle], "", LOWEST, draw_first, "busy") == busy.node
    assert choose([busy, idle], "", LOWEST, draw_first, "gone") == idle.node
    full = candidate("busy", participants=1, participant_limit=1)
    assert choose([full, idle], "", LOWEST, draw_first, "busy") == idle.node
