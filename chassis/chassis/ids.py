"""Identifiers as types, and how they are made: a prefix and 12 symbols (LiveKit signal protocol).

Randomness is an argument (`choose`, for example `secrets.choice`), so that a core's test can say
which ids it gets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NewType

RoomName = NewType("RoomName", str)
RoomSid = NewType("RoomSid", str)
NodeId = NewType("NodeId", str)
EventId = NewType("EventId", str)

Choose = Callable[[str], str]
"""Picks one symbol of the alphabet it is given."""

ALPHABET: Final = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
"""57 symbols: no 0, 1, I, O or l, which people mistake for each other."""
SYMBOLS: Final = 12

ROOM: Final = "RM_"
PARTICIPANT: Final = "PA_"
TRACK: Final = "TR_"
"""Letters for type and source follow: VC, AM, VS, As, or V or A alone."""
NODE: Final = "ND_"
EVENT: Final = "EV_"


def new_sid(prefix: str, choose: Choose) -> str:
    """`prefix` and 12 chosen symbols, about 70 bits."""
    return prefix + "".join(choose(ALPHABET) for _ in range(SYMBOLS))


def new_room_sid(choose: Choose) -> RoomSid:
    """A sid for a new incarnation of a room."""
    return RoomSid(new_sid(ROOM, choose))


def new_node_id(choose: Choose) -> NodeId:
    """An id for one process that takes part in the cluster."""
    return NodeId(new_sid(NODE, choose))


def new_event_id(choose: Choose) -> EventId:
    """An id for one fact; receivers tell repetitions apart by it."""
    return EventId(new_sid(EVENT, choose))
