"""The surface of the Room: the events it takes, the effects it gives, its settings.

Values alone; the machine is `sfu.core.room`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from livekit.protocol import room as api

from chassis.roles import BUILT_IN, Roles
from contracts.events.v1 import events_pb2
from contracts.room.v1 import checkpoint_pb2, room_pb2
from sfu.core.profile import DEFAULT_LIMITS, ProfileLimits

# ------------------------------------------------------------------------------------------ events


@dataclass(frozen=True, slots=True)
class FactArrived:
    """A session on `node_id` says what happened."""

    node_id: str
    fact: room_pb2.Fact


@dataclass(frozen=True, slots=True)
class NodeLost:
    """The sessions on this node are gone, or no longer agree with the Room: they will join anew."""

    node_id: str


@dataclass(frozen=True, slots=True)
class ApiCalled:
    """A livekit.RoomService call on this room, authenticated and allowed by signaling."""

    call_id: int
    method: str
    request: bytes
    role_identity: str = ""
    """Allowed only by the role this participant has in a token: it must have such a role still."""


@dataclass(frozen=True, slots=True)
class Frozen:
    """The lease may be somebody else's: what is here goes on, but nothing is decided until `Thawed`."""


@dataclass(frozen=True, slots=True)
class Thawed:
    """The lease is certain again."""


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time passed: due at `next_timeout` at the latest."""


@dataclass(frozen=True, slots=True)
class Closing:
    """The room ends here and now; `reason` (livekit.DisconnectReason) is what everybody in it is told.

    With `lives_on` it does not end for the world: they are to join anew at once, on another node, the
    lease and the records stay for the next home, and that tells what became of the members.
    """

    reason: int
    lives_on: bool = False


@dataclass(frozen=True, slots=True)
class Inherited:
    """What an earlier home left of this room; before anything else. Its members are gone for good."""

    room: checkpoint_pb2.RoomCheckpoint
    participants: tuple[checkpoint_pb2.ParticipantCheckpoint, ...]


Event = Inherited | FactArrived | NodeLost | ApiCalled | Frozen | Thawed | Ticked | Closing

# ----------------------------------------------------------------------------------------- effects


@dataclass(frozen=True, slots=True)
class GiveOrder:
    """The same order for each of these nodes, in the order of effects."""

    node_ids: tuple[str, ...]
    order: room_pb2.Order


@dataclass(frozen=True, slots=True)
class Publish:
    """A fact for the EVENTS stream."""

    event: events_pb2.RoomEvent


@dataclass(frozen=True, slots=True)
class AnswerApi:
    """`response` is the public response message; with an error, `error_code` is a Twirp code."""

    call_id: int
    response: bytes = b""
    error_code: str = ""
    error_message: str = ""
    error_meta: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """These records (participant sids; "": the room) changed or are gone: see `Room.checkpoint`."""

    participant_sids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Closed:
    """The room is over here: nothing follows. The lease may be released, unless another has or is to get it."""

    keeps_lease: bool = False


Effect = GiveOrder | Publish | AnswerApi | Checkpoint | Closed


@dataclass(frozen=True, slots=True)
class RoomSettings:
    """Limits and defaults of rooms. Timeouts in seconds."""

    empty_timeout: int = 300
    departure_timeout: int = 20
    max_participants: int = 0
    profile_limits: ProfileLimits = DEFAULT_LIMITS
    is_remote_unmute_enabled: bool = False
    enabled_codecs: tuple[str, ...] = ()
    max_duration: int = 0
    """How long a room may last, whoever is in it; 0: as long as it likes."""
    is_full_room_in_track_events: bool = False
    """Facts about tracks hold the whole livekit.Room, not its sid and name alone."""
    tombstone_lifetime: float = 60.0
    roles: Roles = field(default_factory=lambda: BUILT_IN)
    presets: Mapping[str, api.RoomConfiguration] = field(default_factory=dict)


class ApiError(Exception):
    """A RoomService call that cannot be done; `code` is a Twirp code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


NO_ROOM = "requested room does not exist"
FROZEN = "the room's lease could not be renewed; try again"
