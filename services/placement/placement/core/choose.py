"""Which node gets a new room: a pure function from candidates to one of them.

Two are drawn and the less loaded one is taken. The least loaded of all would draw every room that
is made between two heartbeats; two choices spread them nearly as evenly and never herd.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from placement.core.nodes import Candidate, Node

Draw = Callable[[int], int]
"""A random integer from 0 up to, and without, the argument."""


def choose(candidates: Sequence[Candidate], region: str, draw: Draw) -> Node | None:
    """The node for one more room, in `region` when a node there has capacity; None without any."""
    able = [candidate for candidate in candidates if not candidate.is_full]
    near = [candidate for candidate in able if candidate.node.region == region]
    pool = near if region and near else able
    if not pool:
        return None
    first = draw(len(pool))
    if len(pool) == 1:
        return pool[first].node
    second = (first + 1 + draw(len(pool) - 1)) % len(pool)
    return min(pool[first], pool[second], key=_order).node


def _order(candidate: Candidate) -> tuple[float, int]:
    return candidate.load, candidate.node.rooms + candidate.pending_rooms
