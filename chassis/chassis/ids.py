"""Identifiers as types, and how they are made: a prefix and 12 symbols (LiveKit signal protocol).

Randomness is an argument (`choose`, for example `secrets.choice`), so that a core's test can say
which ids it gets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NewType

RoomName = NewType("RoomName", str)
RoomSid = NewType("RoomSid", str)
ParticipantIdentity = NewType("ParticipantIdentity", str)
ParticipantSid = NewType("ParticipantSid", str)
TrackSid = NewType("TrackSid", str)
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
DATA_TRACK: Final = "DTR_"
NODE: Final = "ND_"
EVENT: Final = "EV_"
CONNECTION: Final = "CO_"
RPC: Final = "RPC_"
EGRESS: Final = "EG_"
INGRESS: Final = "IN_"
SIP_TRUNK: Final = "ST_"
SIP_DISPATCH_RULE: Final = "SDR_"
SIP_CALL: Final = "SCL_"
AGENT_WORKER: Final = "AW_"
AGENT_JOB: Final = "AJ_"
AGENT_DISPATCH: Final = "AD_"


def new_sid(prefix: str, choose: Choose) -> str:
    """`prefix` and 12 chosen symbols, about 70 bits."""
    return prefix + "".join(choose(ALPHABET) for _ in range(SYMBOLS))


def new_room_sid(choose: Choose) -> RoomSid:
    """A sid for a new incarnation of a room."""
    return RoomSid(new_sid(ROOM, choose))


def new_participant_sid(choose: Choose) -> ParticipantSid:
    """A sid for one participant's stay in a room."""
    return ParticipantSid(new_sid(PARTICIPANT, choose))


def new_track_sid(letters: str, choose: Choose) -> TrackSid:
    """A track's sid; `letters` tell type and source: VC, AM, VS, As, or V or A alone."""
    return TrackSid(new_sid(TRACK + letters, choose))


def new_node_id(choose: Choose) -> NodeId:
    """An id for one process that takes part in the cluster."""
    return NodeId(new_sid(NODE, choose))


def new_event_id(choose: Choose) -> EventId:
    """An id for one fact; receivers tell repetitions apart by it."""
    return EventId(new_sid(EVENT, choose))
