"""A stand-in for `sfu.core.stage.Stage` without media: joins, publishes and leaves on plain words.

Signal requests are texts: "activate", "publish TR_x", "leave". What a session sees is kept here, so
that a test compares what both nodes believe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from livekit.protocol import models as lk
from livekit.protocol import rtc

from chassis.errors import CODES, Code
from contracts.room.v1 import room_pb2
from sfu.core import forwarding, moving, stage
from sfu.ids import StageIds


@dataclass
class FakeSession:
    sid: str
    identity: str
    socket: stage.SocketRef | None
    is_joined: bool = False
    others: dict[str, lk.ParticipantInfo] = field(default_factory=dict)  # by sid, as last shown


@dataclass
class FakeStage:
    """One room's sessions on one node."""

    room_name: str
    ids: StageIds
    sessions: dict[str, FakeSession] = field(default_factory=dict)  # by sid
    directory: dict[str, room_pb2.ListTrack] = field(default_factory=dict)  # by track sid
    orders: list[room_pb2.Order] = field(default_factory=list)
    ended: list[room_pb2.End] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return not self.sessions

    def next_timeout(self) -> float | None:
        return None

    def handle(self, event: stage.Event, now: float, wall_ms: int) -> list[stage.Effect]:
        match event:
            case stage.SocketOpened(socket, opened, claims):
                if opened.reconnect:
                    return self._resume(socket, claims.identity)
                session = FakeSession(self.ids.sid("PA_"), claims.identity, socket)
                self.sessions[session.sid] = session
                request = room_pb2.JoinRequested(
                    identity=claims.identity, protocol_version=16, joined_at_ms=wall_ms
                )
                return [_tell(session, join_requested=request)]
            case stage.SignalArrived(socket, request):
                found = self._at(socket)
                return [] if found is None else self._obey(found, request.decode().split())
            case stage.SocketGone(socket, _):
                found = self._at(socket)
                return [] if found is None else self._leave(found)
            case stage.OrderArrived(order):
                self.orders.append(order)
                return self._take(order)
            case _:
                return []  # it has no media, and moves nobody

    def way_out(self, participant_sid: str) -> moving.Way:
        return moving.Way.REJOINS

    def joining(self, participant_sid: str, wall_ms: int) -> None:
        return None

    def media_of(self, track_sids: Sequence[str]) -> dict[str, forwarding.EngineTracks]:
        return {}

    def _resume(self, socket: stage.SocketRef, identity: str) -> list[stage.Effect]:
        for session in self.sessions.values():
            if session.identity == identity:
                session.socket = socket
                return [_tell(session, resume_requested=room_pb2.ResumeRequested())]
        leave = rtc.LeaveRequest(
            reason=lk.STATE_MISMATCH, action=rtc.LeaveRequest.RECONNECT, can_reconnect=True
        )
        return [_signal(socket, leave=leave), stage.CloseSocket(socket, "unknown session")]

    def _obey(self, session: FakeSession, words: list[str]) -> list[stage.Effect]:
        match words:
            case ["activate"]:
                return [_tell(session, activated=room_pb2.Activated())]
            case ["publish", track_sid]:
                track = lk.TrackInfo(sid=track_sid).SerializeToString()
                return [_tell(session, track_changed=room_pb2.TrackChanged(track=track))]
            case ["leave"]:
                return self._leave(session)
            case ["fail"]:
                raise RuntimeError("asked to fail")
            case _:
                return []

    def _leave(self, session: FakeSession) -> list[stage.Effect]:
        del self.sessions[session.sid]
        return [_tell(session, left=room_pb2.Left(reason=lk.CLIENT_INITIATED))]

    def _take(self, order: room_pb2.Order) -> list[stage.Effect]:
        named = order.participant_sid
        to = [s for s in self.sessions.values() if named in ("", s.sid)]
        match order.WhichOneof("order"):
            case "admit":
                return [e for s in to for e in self._admit(s, order.admit)]
            case "refuse":
                return [e for s in to for e in self._refuse(s, order.refuse)]
            case "show_participants":
                return self._show(order.show_participants)
            case "list_track":
                track = lk.TrackInfo.FromString(order.list_track.track)
                self.directory[track.sid] = order.list_track
            case "delist_track":
                self.directory.pop(order.delist_track.track_sid, None)
            case "end":
                self.ended.append(order.end)
                return [e for s in to for e in self._end(s, order.end)]
            case _:
                pass
        return []

    def _admit(self, session: FakeSession, admit: room_pb2.Admit) -> list[stage.Effect]:
        session.is_joined = True
        own = lk.ParticipantInfo.FromString(admit.participant)
        others = [lk.ParticipantInfo.FromString(p) for p in admit.others]
        session.others = {p.sid: p for p in others}
        if session.socket is None:
            return []
        join = rtc.JoinResponse(
            room=lk.Room.FromString(admit.room), participant=own, other_participants=others
        )
        return [_signal(session.socket, join=join)]

    def _refuse(self, session: FakeSession, refuse: room_pb2.Refuse) -> list[stage.Effect]:
        del self.sessions[session.sid]
        if session.socket is None:
            return []
        status = CODES[Code(refuse.code)].join_status
        return [stage.RefuseSocket(session.socket, status, refuse.message)]

    def _show(self, show: room_pb2.ShowParticipants) -> list[stage.Effect]:
        shown = [lk.ParticipantInfo.FromString(p) for p in show.participants]
        sockets = []
        for session in self.sessions.values():
            if (show.to and session.sid not in show.to) or not session.is_joined:
                continue
            for info in shown:
                if info.state == lk.ParticipantInfo.DISCONNECTED:
                    session.others.pop(info.sid, None)
                elif info.sid != session.sid:
                    session.others[info.sid] = info
            if session.socket is not None:
                sockets.append(session.socket)
        if not sockets:
            return []
        response = rtc.SignalResponse(update=rtc.ParticipantUpdate(participants=shown))
        return [stage.SendSignal(tuple(sockets), response.SerializeToString())]

    def _end(self, session: FakeSession, end: room_pb2.End) -> list[stage.Effect]:
        del self.sessions[session.sid]
        left = _tell(session, left=room_pb2.Left(reason=end.reason))
        if session.socket is None:
            return [left]
        leave = rtc.LeaveRequest(
            reason=lk.DisconnectReason.Name(end.reason),
            action=rtc.LeaveRequest.Action.Name(end.action),
        )
        return [_signal(session.socket, leave=leave), stage.CloseSocket(session.socket, ""), left]

    def _at(self, socket: stage.SocketRef) -> FakeSession | None:
        return next((s for s in self.sessions.values() if s.socket == socket), None)


def _tell(session: FakeSession, **fact: object) -> stage.TellRoom:
    return stage.TellRoom(room_pb2.Fact(participant_sid=session.sid, **fact))  # type: ignore[arg-type]


def _signal(socket: stage.SocketRef, **response: object) -> stage.SendSignal:
    message = rtc.SignalResponse(**response)  # type: ignore[arg-type]
    return stage.SendSignal((socket,), message.SerializeToString())
