"""What a Stage wants done, what it needs from its surroundings, and the step in which it says so.

Effects are performed by the runner in order. Nothing here is sent by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from contracts.room.v1 import room_pb2
from sfu.core.codecs import AUDIO_MIMES, VIDEO_MIMES
from sfu.core.connection_quality import ConnectionScore
from sfu.core.forwarding import ForwardingEffect
from sfu.core.ice_servers import NO_SERVERS, IceServers
from sfu.core.media_commands import Command
from sfu.core.moving import MovingEffect
from sfu.core.profile import DEFAULT_LIMITS, ProfileLimits

NORMAL = 1000
ABNORMAL = 1011
"""WebSocket close codes (RFC 6455 section 7.4.1): a client takes a normal one for the end, and an
abnormal one for a reason to resume at once."""


@dataclass(frozen=True, slots=True)
class SocketRef:
    """One client socket: the signaling stream it is behind, and its session id there."""

    stream: int
    session: int


@dataclass(frozen=True, slots=True)
class SendSignal:
    """One livekit.SignalResponse, serialized once, for one or many sockets."""

    sockets: tuple[SocketRef, ...]
    response: bytes


@dataclass(frozen=True, slots=True)
class RefuseSocket:
    """Instead of a first response: an HTTP status and a plain-text body."""

    socket: SocketRef
    http_status: int
    message: str


@dataclass(frozen=True, slots=True)
class CloseSocket:
    """Close after what was sent before is flushed. `reason` is for logs."""

    socket: SocketRef
    reason: str
    code: int = NORMAL


@dataclass(frozen=True, slots=True)
class TellRoom:
    """A fact for the room's home, over the room link."""

    fact: room_pb2.Fact


@dataclass(frozen=True, slots=True)
class CountDropped:
    """A data packet went nowhere; `reason` is a metric's label."""

    reason: str


@dataclass(frozen=True, slots=True)
class RateConnections:
    """How good the connections of these participants are now; for metrics."""

    scores: tuple[ConnectionScore, ...]


Effect = (
    SendSignal
    | RefuseSocket
    | CloseSocket
    | TellRoom
    | CountDropped
    | RateConnections
    | MovingEffect
    | ForwardingEffect
    | Command
)


class Ids(Protocol):
    """The randomness a Stage may use."""

    def sid(self, prefix: str) -> str:
        """`prefix` (such as "PA_" or "TR_AM") and 12 characters (LiveKit id format)."""
        ...

    def ice_credentials(self) -> tuple[str, str]:
        """(ufrag, pwd) of RFC 8445 lengths; the ufrag is unique on this node."""
        ...

    def engine_id(self) -> int:
        """A new id, unique on this node, with the stage's number above media_events.OWNER_SHIFT."""
        ...

    def number(self, low: int, high: int) -> int:
        """A random integer, both ends included."""
        ...


@dataclass(frozen=True, slots=True)
class StageSettings:
    """What a node tells each of its stages. Durations in seconds."""

    fingerprint: str
    candidates: tuple[str, ...]  # of the node, for every description; preferred first
    sign_token: Callable[[Mapping[str, object], str], str]
    """Claims with exp and nbf, without iss, and the project whose key signs them -> JWT."""
    region: str = ""
    ice_servers: IceServers = NO_SERVERS
    enabled_codecs: tuple[str, ...] = (*AUDIO_MIMES, *VIDEO_MIMES)
    ice_lite: bool = True
    simulate_allowed: bool = False
    has_data_tracks: bool = True
    has_data_blobs: bool = False
    profile_limits: ProfileLimits = DEFAULT_LIMITS
    ping_interval: int = 5
    ping_timeout: int = 15
    join_timeout: float = 60.0
    goodbye_patience: float = 1.0  # for the leave of a client that closed its transports first
    resume_grace: float = 5.0
    reconnect_window: float = 20.0  # for media to come back after a resume
    token_interval: float = 300.0
    unknown_track_timeout: float = 60.0
    quality_interval: float = 5.0
    downgrade_delay: float = 5.0
    setting_delay: float = 0.1  # gathers track settings that need not be followed at once
    bind_timeout: float = 15.0
    active_red_encoding: bool = False
    codec_regression_threshold: int = 5  # participants
    subscription_limit_audio: int = 0  # of one participant; 0: no limit
    subscription_limit_video: int = 0


@dataclass(frozen=True, slots=True)
class Bound:
    """A session's subscription has a sender now."""

    subscriber_sid: str
    track_sid: str


@dataclass(frozen=True, slots=True)
class Unbound:
    """A session's subscription lost its sender."""

    subscriber_sid: str
    track_sid: str


@dataclass(frozen=True, slots=True)
class LayersWanted:
    """A session wants other layers of a track than before."""

    subscriber_sid: str
    track_sid: str


@dataclass(frozen=True, slots=True)
class MediaConnected:
    """A session's peer connection came up, perhaps again."""

    participant_sid: str


@dataclass(frozen=True, slots=True)
class QualityRepeatWanted:
    """Dynacast of a publisher's tracks is to be said again (unmute, resume)."""

    publisher_sid: str


@dataclass(frozen=True, slots=True)
class Resumed:
    """A session's client is back; what was said since that time may be lost."""

    participant_sid: str
    since: float  # on the clock of `Step.now`


@dataclass(frozen=True, slots=True)
class TrackGone:
    """A local track ended: nobody can be subscribed to it any more."""

    track_sid: str


@dataclass(frozen=True, slots=True)
class CodecsChanged:
    """A local track comes in other codecs than before: subscribers choose again."""

    track_sid: str


@dataclass(frozen=True, slots=True)
class Departed:
    """A session is over."""

    participant_sid: str


Notice = (
    Bound
    | Unbound
    | LayersWanted
    | MediaConnected
    | QualityRepeatWanted
    | Resumed
    | TrackGone
    | CodecsChanged
    | Departed
)
"""What one session did that concerns others of the stage; never leaves the stage."""


@dataclass(slots=True)
class Step:
    """One call of `handle`: its time, the effects so far, and what sessions noticed."""

    now: float  # monotonic seconds
    wall_ms: int  # Unix milliseconds
    effects: list[Effect] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    touched: set[str] = field(default_factory=set)

    def emit(self, effect: Effect) -> None:
        """Append an effect; effects are performed in order."""
        self.effects.append(effect)
