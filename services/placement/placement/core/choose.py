"""Which node gets a new room: pure functions from candidates and a policy to one of them, or to why none.

The kinds of selector, the sort keys and the algorithms are LiveKit's (`node_selector` of its
configuration); limits here are exact: a node that reached one gets no room, whatever the selector.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import asin, cos, inf, radians, sin, sqrt
from types import MappingProxyType
from typing import Final, Literal, assert_never

from placement.core.nodes import Candidate, Node

Draw = Callable[[int], int]
"""A random integer from 0 up to, and without, the argument."""

Selector = Literal["any", "cpuload", "sysload", "regionaware"]
SortBy = Literal[
    "load", "random", "sysload", "cpuload", "rooms", "clients", "tracks", "bytespersec"
]
Algorithm = Literal["lowest", "twochoice"]
Strategy = Literal["spread", "pack"]


@dataclass(frozen=True, slots=True)
class Region:
    """Where a region is, in degrees."""

    name: str
    lat: float
    lon: float


@dataclass(frozen=True, slots=True)
class Policy:
    """How an operator wants rooms placed."""

    selector: Selector = "any"
    """`cpuload` and `sysload` (also in `regionaware`) set a limit of load for every node."""
    sort_by: SortBy = "load"
    """`load`: the scarcest of processor, participants, tracks and bytes, each against its limit."""
    algorithm: Algorithm = "twochoice"
    """Of all nodes the best would draw every room made between two heartbeats of equal nodes."""
    strategy: Strategy = "spread"
    """`pack`: the most loaded node that has capacity, of all of them, so that others empty."""
    cpu_load_limit: float = 0.9
    """Of 1; 0: none. With the selector `cpuload`."""
    system_load_limit: float = 0.9
    """Of the load average over the cores; 0: none. With the selectors `sysload` and `regionaware`."""
    regions: Mapping[str, Region] = field(default_factory=lambda: MappingProxyType({}))


def choose(
    candidates: Sequence[Candidate], region: str, policy: Policy, draw: Draw, preferred: str = ""
) -> Node | None:
    """The node for one more room with one participant; None when every candidate is full.

    `preferred` is the id of a node that is taken before any other, unless it is no candidate or full.
    """
    able = [candidate for candidate in candidates if limit_reached(candidate, policy) is None]
    for candidate in able:
        if preferred and candidate.node.node_id == preferred:
            return candidate.node
    pool = _nearest(able, region, policy)
    if not pool:
        return None
    if policy.sort_by == "random":
        return pool[draw(len(pool))].node
    if policy.algorithm == "twochoice" and policy.strategy == "spread" and len(pool) > 2:
        first = draw(len(pool))
        pool = [pool[first], pool[(first + 1 + draw(len(pool) - 1)) % len(pool)]]
    keys = [_key(candidate, policy) for candidate in pool]
    best = min(keys) if policy.strategy == "spread" else max(keys)
    equal = [candidate for candidate, key in zip(pool, keys, strict=True) if key == best]
    return equal[draw(len(equal))].node


def limit_reached(candidate: Candidate, policy: Policy) -> str | None:
    """The first limit that keeps one more participant's room off a node, in words; None when none does."""
    node = candidate.node
    if 0 < node.participant_limit <= candidate.participants:
        return "participants"
    if 0 < node.track_limit <= node.tracks:
        return "tracks"
    if 0 < node.bytes_per_s_limit <= node.bytes_per_s:
        return "bytes per second"
    if 0 < node.cpu_load_limit <= node.cpu_load:
        return "cpu load"
    if policy.selector == "cpuload" and 0 < policy.cpu_load_limit <= node.cpu_load:
        return "cpu load"
    if (
        policy.selector in ("sysload", "regionaware")
        and 0 < policy.system_load_limit <= node.system_load
    ):
        return "system load"
    return None


def why_full(candidates: Sequence[Candidate], policy: Policy) -> str:
    """Which limits keep a room off all of these nodes, for the error's text."""
    reached = Counter(limit_reached(candidate, policy) for candidate in candidates)
    told = ", ".join(
        f"{count} at the limit of {limit}" for limit, count in reached.items() if limit
    )
    return f"every sfu node is full ({told})"


def distance_km(one: Region, other: Region) -> float:
    """Along the surface of the earth taken as a ball (haversine)."""
    lat, other_lat = radians(one.lat), radians(other.lat)
    across = sin((other_lat - lat) / 2) ** 2
    around = sin(radians(other.lon - one.lon) / 2) ** 2
    return 2 * _EARTH_RADIUS_KM * asin(min(1.0, sqrt(across + cos(lat) * cos(other_lat) * around)))


def _nearest(able: list[Candidate], region: str, policy: Policy) -> list[Candidate]:
    """The nodes of the nearest region that has capacity."""
    if not region or not able:
        return able
    distances = [_distance(candidate.node.region, region, policy) for candidate in able]
    nearest = min(distances)
    return [
        candidate
        for candidate, distance in zip(able, distances, strict=True)
        if distance == nearest
    ]


def _distance(region: str, wanted: str, policy: Policy) -> float:
    """0 in the same region; beyond it, distances count for `regionaware` only."""
    if region == wanted:
        return 0.0
    one, other = policy.regions.get(region), policy.regions.get(wanted)
    if policy.selector != "regionaware" or one is None or other is None:
        return inf
    return distance_km(one, other)


def _key(candidate: Candidate, policy: Policy) -> tuple[float, int]:
    """What nodes are compared by; equal ones by their rooms."""
    node, rooms = candidate.node, candidate.rooms
    match policy.sort_by:
        case "load":
            return _load(candidate), rooms
        case "sysload":
            return node.system_load, rooms
        case "cpuload":
            return node.cpu_load, rooms
        case "rooms":
            return float(rooms), 0
        case "clients":
            return float(candidate.participants), rooms
        case "tracks":
            return float(node.tracks), rooms
        case "bytespersec":
            return node.bytes_per_s, rooms
        case "random":
            return 0.0, 0
        case sort_by:
            assert_never(sort_by)


def _load(candidate: Candidate) -> float:
    """0..1 and above: how much of its scarcest resource a node has used."""
    node = candidate.node
    return max(
        node.cpu_load / (node.cpu_load_limit or 1.0),
        candidate.participants / (node.participant_limit or _PARTICIPANTS_TO_COMPARE_BY),
        node.tracks / node.track_limit if node.track_limit else 0.0,
        node.bytes_per_s / node.bytes_per_s_limit if node.bytes_per_s_limit else 0.0,
    )


_EARTH_RADIUS_KM: Final = 6371.0
# A node without a limit is compared by participants as if it had this one.
_PARTICIPANTS_TO_COMPARE_BY: Final = 1000
