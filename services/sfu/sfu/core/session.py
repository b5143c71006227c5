"""What every part of a participant's session stands on: who, how far, and what is said to it.

A session is the life of one participant on this node, across resumes, with one client socket at a
time. Its course is in participant.py, its media in connections.py, publishing.py, subscribing.py.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from livekit.protocol import models, rtc

from contracts.node.v1 import node_pb2
from contracts.room.v1 import room_pb2
from sfu.core.connection_quality import Condition
from sfu.core.effects import (
    NORMAL,
    CloseSocket,
    Ids,
    SendSignal,
    SocketRef,
    StageSettings,
    Step,
    TellRoom,
)
from sfu.core.fallback import SLOW_SIGNAL_MS
from sfu.core.grants import Grants

Reason = rtc.RequestResponse.Reason

NATIVE_RESPONSE_PROTOCOL = 10  # native SDKs decode request_response from here on
OK_RESPONSE_PROTOCOL = 15
NATIVE_SDKS = frozenset({models.ClientInfo.SDK.RUST})
SDKS_WITHOUT_TCP = frozenset({models.ClientInfo.SDK.GO})
"""They do not dial TCP candidates (RFC 6544, active)."""


class State(enum.IntEnum):
    """As in livekit.ParticipantInfo; only goes up."""

    JOINING = 0
    JOINED = 1
    ACTIVE = 2
    DISCONNECTED = 3


TOLD_STATES = (State.ACTIVE, State.JOINED)
"""Join was said and the session is not over: other responses may follow."""


@dataclass(frozen=True, slots=True)
class Opening:
    """Everything a new session is made of, already decoded."""

    sid: str
    socket: SocketRef
    claims: node_pb2.Claims
    grants: Grants
    client: models.ClientInfo
    request: rtc.JoinRequest
    is_single: bool
    is_one_shot: bool = False
    """Its client has no socket but for one exchange at a time: media alone keeps it (WHIP)."""


class SignalSession:
    """Who the participant is, how far it came, and its socket; it decides nothing.

    `owners` is the stage's index of engine ids to sids; `conditions` says how the packets of each
    track and sender fare, by engine id.
    """

    def __init__(
        self,
        opening: Opening,
        *,
        ids: Ids,
        settings: StageSettings,
        owners: dict[int, str],
        joining_ms: int,
    ) -> None:
        self.sid = opening.sid
        self.identity = opening.claims.identity
        self.name = opening.claims.name
        self.metadata = opening.claims.metadata
        self.attributes = dict(opening.claims.attributes)
        self.grants = opening.grants
        self.client = opening.client
        self.is_single = opening.is_single
        self.is_one_shot = opening.is_one_shot
        self.state = State.JOINING
        self.socket: SocketRef | None = opening.socket
        self.conditions: dict[int, Condition] = {}
        self.last_signal_ms = joining_ms  # Unix ms of the latest request
        self.signal_rtt_ms = 0  # as the client measured it; 0: unknown
        self.ids = ids
        self.settings = settings
        self._owners = owners

    @property
    def is_told(self) -> bool:
        """Join was said and the session is not over: other responses may follow."""
        return self.state in TOLD_STATES

    def touch(self, step: Step) -> None:
        """Have the stage ask this session anew when it is due."""
        step.touched.add(self.sid)

    # ----------------------------------------------------------------------- engine objects

    def own(self) -> int:
        """A new engine id, of an object of this session."""
        engine_id = self.ids.engine_id()
        self._owners[engine_id] = self.sid
        return engine_id

    def give_up_ids(self) -> tuple[int, ...]:
        """The stage forgets the engine objects of this session, which live on."""
        engine_ids = tuple(key for key, sid in self._owners.items() if sid == self.sid)
        for engine_id in engine_ids:
            del self._owners[engine_id]
        return engine_ids

    def take_up_ids(
        self, engine_ids: tuple[int, ...], ids: Ids, owners: dict[int, str], sid: str
    ) -> None:
        """Be, with those objects, the session `sid` of another stage."""
        self.sid, self.ids, self._owners = sid, ids, owners
        for engine_id in engine_ids:
            owners[engine_id] = sid

    def disown(self, engine_id: int) -> None:
        """The object is gone from the engine, or was never made there."""
        self._owners.pop(engine_id, None)
        self.conditions.pop(engine_id, None)

    # ----------------------------------------------------------------------------- telling

    def send(self, response: bytes, step: Step) -> None:
        """One serialized response, if there is a socket and join was said."""
        if self.socket is not None and self.is_told:
            step.emit(SendSignal((self.socket,), response))

    def send_all(self, messages: Sequence[bytes], step: Step) -> None:
        """Several responses, in order."""
        for message in messages:
            self.send(message, step)

    def respond(self, step: Step, **fields: object) -> None:
        """One livekit.SignalResponse of the given case."""
        self.send(rtc.SignalResponse(**fields).SerializeToString(), step)  # type: ignore[arg-type]

    def respond_to(
        self,
        step: Step,
        reason: rtc.RequestResponse.Reason,
        message: str = "",
        *,
        request_id: int = 0,
        add_track: rtc.AddTrackRequest | None = None,
        mute: rtc.MuteTrackRequest | None = None,
        trickle: rtc.TrickleRequest | None = None,
        update_metadata: rtc.UpdateParticipantMetadata | None = None,
        update_audio_track: rtc.UpdateLocalAudioTrack | None = None,
        update_video_track: rtc.UpdateLocalVideoTrack | None = None,
        publish_data_track: rtc.PublishDataTrackRequest | None = None,
        unpublish_data_track: rtc.UnpublishDataTrackRequest | None = None,
    ) -> None:
        """`request_response` with a copy of the request, to clients that can read it."""
        is_unknown_ok = reason == Reason.OK and self.client.protocol < OK_RESPONSE_PROTOCOL
        if self.is_old_native or is_unknown_ok:
            return
        self.respond(
            step,
            request_response=rtc.RequestResponse(
                request_id=request_id,
                reason=reason,
                message=message,
                add_track=add_track,
                mute=mute,
                trickle=trickle,
                update_metadata=update_metadata,
                update_audio_track=update_audio_track,
                update_video_track=update_video_track,
                publish_data_track=publish_data_track,
                unpublish_data_track=unpublish_data_track,
            ),
        )

    @property
    def is_old_native(self) -> bool:
        """A native SDK that takes a response it does not know for an error."""
        return self.client.sdk in NATIVE_SDKS and self.client.protocol < NATIVE_RESPONSE_PROTOCOL

    @property
    def may_use_tcp(self) -> bool:
        """Whether media over TCP may do better than over UDP."""
        return self.client.sdk not in SDKS_WITHOUT_TCP and self.signal_rtt_ms < SLOW_SIGNAL_MS

    def close_socket(self, step: Step, why: str, code: int = NORMAL) -> None:
        """Close the socket, if there is one, and be without."""
        if self.socket is not None:
            step.emit(CloseSocket(self.socket, why, code))
            self.socket = None

    def tell_room(self, step: Step, **fact: object) -> None:
        """A fact of the given case about this participant."""
        step.emit(TellRoom(room_pb2.Fact(participant_sid=self.sid, **fact)))  # type: ignore[arg-type]
