"""A Room alone, with its clock: what it is told, and what it did."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from google.protobuf.message import Message
from livekit.protocol import models as lk
from livekit.protocol import room as api

from contracts.events.v1 import events_pb2
from contracts.room.v1 import room_pb2
from sfu.core.configuration import RoomWish
from sfu.core.room import Room
from sfu.core.room_events import (
    AnswerApi,
    ApiCalled,
    Effect,
    Event,
    FactArrived,
    GiveOrder,
    Publish,
    RoomSettings,
    Ticked,
)

A, B = "ND_a", "ND_b"


@dataclass
class Scene:
    """A Room with its clock, and what it did with the last event."""

    settings: RoomSettings = field(default_factory=RoomSettings)
    configuration: api.RoomConfiguration | None = None
    now: float = 100.0
    effects: list[Effect] = field(default_factory=list)

    def __post_init__(self) -> None:
        numbers = itertools.count(1)
        self.room = Room(
            "r",
            "RM_1",
            7,
            self.settings,
            lambda: f"EV_{next(numbers)}",
            self.now,
            self.wall_ms,
            wish=None if self.configuration is None else RoomWish(self.configuration),
            sif_trailer=b"sif",
        )

    @property
    def wall_ms(self) -> int:
        return 1_700_000_000_000 + int(self.now * 1000)

    def do(self, event: Event) -> list[Effect]:
        self.effects = self.room.handle(event, self.now, self.wall_ms)
        return self.effects

    def fact(self, sid: str, node: str = A, **fact: Message) -> list[Effect]:
        return self.do(FactArrived(node, room_pb2.Fact(participant_sid=sid, **fact)))  # type: ignore[arg-type]

    def join(
        self,
        identity: str,
        sid: str | None = None,
        *,
        node: str = A,
        protocol: int = 16,
        kind: int = 0,
        configuration: bytes = b"",
        **permission: bool,
    ) -> list[Effect]:
        grants = lk.ParticipantPermission(can_subscribe=True, can_publish=True)
        grants.can_update_metadata = True
        for name, value in permission.items():
            setattr(grants, name, value)
        request = room_pb2.JoinRequested(
            identity=identity,
            permission=grants.SerializeToString(),
            protocol_version=protocol,
            kind=kind,
            joined_at_ms=self.wall_ms,
            room_configuration=configuration,
        )
        return self.fact(sid or f"PA_{identity}", node, join_requested=request)

    def publish(self, sid: str, track_sid: str, node: str = A, **fields: object) -> list[Effect]:
        track = lk.TrackInfo(sid=track_sid, **fields)  # type: ignore[arg-type]
        changed = room_pb2.TrackChanged(track=track.SerializeToString())
        return self.fact(sid, node, track_changed=changed)

    def settle(self) -> list[Effect]:
        """Let gathered updates and counters out."""
        self.now += 5.0
        return self.do(Ticked())

    def call(self, method: str, request: Message) -> AnswerApi:
        self.do(ApiCalled(1, method, request.SerializeToString()))
        (answer,) = [e for e in self.effects if isinstance(e, AnswerApi)]
        return answer

    # what came out

    def orders(self, kind: str, node: str | None = None) -> list[room_pb2.Order]:
        return [
            e.order
            for e in self.effects
            if isinstance(e, GiveOrder)
            and e.order.WhichOneof("order") == kind
            and (node is None or node in e.node_ids)
        ]

    def shown(self) -> list[lk.ParticipantInfo]:
        return [
            lk.ParticipantInfo.FromString(p)
            for order in self.orders("show_participants")
            for p in order.show_participants.participants
        ]

    def events(self) -> list[events_pb2.RoomEvent]:
        return [e.event for e in self.effects if isinstance(e, Publish)]

    def names(self) -> list[str]:
        return [event.name for event in self.events()]

    def info(self, identity: str) -> lk.ParticipantInfo:
        request = api.RoomParticipantIdentity(room="r", identity=identity)
        return lk.ParticipantInfo.FromString(self.call("GetParticipant", request).response)
