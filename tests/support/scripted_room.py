"""A whole room without sockets or an engine: a real Room and a real Stage, joined order by order.

Clients are scripted: they send signal requests and look at what came. Time is a number. What the
engine would be told is kept in `commands`. With `fake_negotiation` descriptions are small JSON
texts in place of SDP, so that a test can say exactly what a client offers.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from livekit.protocol import models, rtc

from contracts.node.v1 import node_pb2
from contracts.room.v1 import room_pb2
from sfu.core import media_commands as commands
from sfu.core import negotiation, plans, stage
from sfu.core.codecs import DEFAULT_ENABLED
from sfu.core.forwarding import (
    ForwardingEffect,
    GuestAdmitted,
    GuestEnded,
    GuestRefused,
    WishTold,
)
from sfu.core.media_events import (
    OWNER_SHIFT,
    Connected,
    DataChannelOpened,
    DataReceived,
    EncodingStarted,
    MediaEvent,
)
from sfu.core.moving import ArrivalAdmitted, ArrivalRefused, HandedOver, MovingEffect
from sfu.core.participant import Participant
from sfu.core.room import Room
from sfu.core.room_events import (
    Closing,
    FactArrived,
    GiveOrder,
    RoomSettings,
)
from sfu.core.room_events import Ticked as RoomTicked

NODE = "ND_test"
OWNER = 7
WALL_MS = 1_700_000_000_000
FINGERPRINT = "sha-256 " + ":".join(["AB"] * 32)
CommandT = TypeVar("CommandT")


class CountedIds:
    """Ids that tell their order: PA_000000000001, PA_000000000002, ..."""

    def __init__(self) -> None:
        self._next = itertools.count(1)
        self._engine = itertools.count(1)

    def sid(self, prefix: str) -> str:
        return f"{prefix}{next(self._next):012d}"

    def ice_credentials(self) -> tuple[str, str]:
        number = next(self._next)
        return f"ufrag{number:07d}", f"password{number:016d}"

    def engine_id(self) -> int:
        return OWNER << OWNER_SHIFT | next(self._engine)

    def number(self, low: int, high: int) -> int:
        return min(low + next(self._next), high)


@dataclass(eq=False)
class Client:
    """One scripted client and everything its present socket got."""

    world: World
    socket: stage.SocketRef
    identity: str
    is_single: bool
    inbox: list[rtc.SignalResponse] = field(default_factory=list)
    refused: tuple[int, str] | None = None
    closed: str | None = None
    close_code: int | None = None

    def send(self, **fields: object) -> None:
        """One SignalRequest."""
        request = rtc.SignalRequest(**fields)  # type: ignore[arg-type]
        self.world.feed(stage.SignalArrived(self.socket, request.SerializeToString()))

    def cases(self) -> list[str]:
        """The kinds of all responses, in order."""
        return [str(response.WhichOneof("message")) for response in self.inbox]

    def all(self, case: str) -> list[object]:
        """Every response of one kind."""
        return [
            getattr(response, case)
            for response in self.inbox
            if response.WhichOneof("message") == case
        ]

    def last(self, case: str) -> object:
        """The latest response of one kind."""
        return self.all(case)[-1]

    def clear(self) -> None:
        self.inbox.clear()

    @property
    def sid(self) -> str:
        return next(
            participant.sid
            for participant in self.world.stage._sessions
            if participant.identity == self.identity
        )

    @property
    def is_present(self) -> bool:
        """A session of this identity is there."""
        sessions = self.world.stage._sessions
        return any(session.identity == self.identity for session in sessions)

    @property
    def pcs(self) -> dict[str, int]:
        """Engine ids by role."""
        ids = [pc.id for pc in self.world.session(self).connections.all]
        return dict(zip(("publisher", "subscriber"), ids, strict=False))

    @property
    def primary(self) -> int:
        return self.pcs.get("subscriber", self.pcs["publisher"])

    def connect(self) -> None:
        """The primary peer connection comes up, its channels open."""
        self.world.media(Connected(self.primary))
        for label, is_reliable in (("_reliable", True), ("_lossy", False), ("_data_track", False)):
            self.world.media(DataChannelOpened(self.primary, label, is_reliable, is_reliable))

    def offer(self, *sections: dict[str, object], ufrag: str = "client", offer_id: int = 1) -> None:
        """An offer of the fake negotiation."""
        sdp = json.dumps({"ufrag": ufrag, "sections": sections})
        self.send(offer=rtc.SessionDescription(type="offer", sdp=sdp, id=offer_id))

    def answer(self, ufrag: str = "client-sub", accepts: Sequence[str] = ()) -> None:
        """Answer the latest server offer as the fake negotiation wants it.

        `accepts`: the only codecs this client takes, as lower-case mimes.
        """
        offer = self.last("offer")
        assert isinstance(offer, rtc.SessionDescription)
        sdp = json.dumps({"ufrag": ufrag, "accepts": list(accepts)})
        self.send(answer=rtc.SessionDescription(type="answer", sdp=sdp, id=offer.id))

    def data(self, packet: models.DataPacket, label: str = "_reliable") -> None:
        """A data packet arrives from this client."""
        pc = self.pcs["publisher"]
        self.world.media(DataReceived(pc, label, packet.SerializeToString(), True))


class World:
    """One room on one node."""

    def __init__(
        self, *, stage_settings: dict[str, object] | None = None, **room_settings: object
    ) -> None:
        self.now = 1000.0
        self.ids = CountedIds()
        self.tokens: list[dict[str, object]] = []
        self.commands: list[commands.Command] = []
        self.facts: list[room_pb2.Fact] = []
        self.moves: list[MovingEffect] = []
        self.forwards: list[ForwardingEffect] = []
        self.dropped: list[str] = []
        self.clients: dict[stage.SocketRef, Client] = {}
        self._sockets = itertools.count(1)
        self.settings = stage.StageSettings(
            fingerprint=FINGERPRINT,
            candidates=(
                "candidate:1 1 udp 2130706431 127.0.0.1 7882 typ host",
                "candidate:2 1 tcp 1671430143 127.0.0.1 7881 typ host tcptype passive",
            ),
            sign_token=self._sign,
            **{"simulate_allowed": True, **(stage_settings or {})},  # type: ignore[arg-type]
        )
        self.stage = stage.Stage("room1", NODE, self.ids, self.settings)
        counter = itertools.count(1)
        self.room = Room(
            "room1",
            "RM_000000000001",
            1,
            RoomSettings(enabled_codecs=DEFAULT_ENABLED, **room_settings),  # type: ignore[arg-type]
            lambda: f"EV_{next(counter):012d}",
            self.now,
            self.wall_ms,
            sif_trailer=b"trailer",
        )

    @property
    def wall_ms(self) -> int:
        return WALL_MS + round((self.now - 1000.0) * 1000)

    def session(self, client: Client) -> Participant:
        """The server's side of a client."""
        session = self.stage._sessions.get(client.sid)
        assert session is not None
        return session

    def join(
        self,
        identity: str,
        *,
        single: bool = False,
        auto_subscribe: bool = True,
        adaptive_stream: bool = False,
        protocol: int = 17,
        grant: dict[str, object] | None = None,
        kind: str = "",
        sdk: str = "JS",
        connect: bool = False,
        request: rtc.JoinRequest | None = None,
        device: models.ClientInfo | None = None,
        one_shot: bool = False,
    ) -> Client:
        """A new client opens its socket; with `connect` its media comes up too."""
        client = self._client(identity, single)
        join = request or rtc.JoinRequest()
        join.connection_settings.auto_subscribe = auto_subscribe
        join.connection_settings.adaptive_stream = adaptive_stream
        info = models.ClientInfo(protocol=protocol, sdk=models.ClientInfo.SDK.Value(sdk))
        if device is not None:
            info.MergeFrom(device)
        opened = node_pb2.OpenSession(
            room_name="room1",
            client_info=info.SerializeToString(),
            join_request=join.SerializeToString(),
            single_peer_connection=single,
            one_shot=one_shot,
        )
        self.feed(stage.SocketOpened(client.socket, opened, claims_of(identity, grant, kind)))
        if connect:
            client.connect()
        return client

    def resume(
        self, old: Client, *, participant_sid: str = "", protocol: int = 17, reason: int = 0
    ) -> Client:
        """The client comes back on a new socket."""
        client = self._client(old.identity, old.is_single)
        opened = node_pb2.OpenSession(
            room_name="room1",
            client_info=models.ClientInfo(protocol=protocol).SerializeToString(),
            single_peer_connection=old.is_single,
            reconnect=True,
            participant_sid=participant_sid,
            reconnect_reason=reason,
        )
        self.feed(stage.SocketOpened(client.socket, opened, claims_of(old.identity, None, "")))
        return client

    def drop(self, client: Client, cause: int = 1) -> None:
        """The client's socket is gone."""
        self.feed(stage.SocketGone(client.socket, cause))

    def media(self, event: MediaEvent) -> None:
        """The engine reports."""
        self.feed(stage.MediaArrived(event))

    def start_encodings(self, *layers: tuple[int, str | None], mime: str = "") -> None:
        """First packets of encodings of the latest received track, in its negotiated codec."""
        receiver = self.told(commands.AddReceiver)[-1]
        mime = mime or receiver.config.codecs[0].mime
        for layer, rid in layers:
            self.media(EncodingStarted(receiver.track, layer, rid, 5000 + layer, mime))

    def close(self, reason: int) -> None:
        """The room ends."""
        self._perform_room(self.room.handle(Closing(reason), self.now, self.wall_ms))

    def advance(self, seconds: float) -> None:
        """Let time pass, ticking both machines when they want it."""
        end = self.now + seconds
        for turn in itertools.count():
            assert turn < 10_000, "a timeout is due for ever"
            times = [self.stage.next_timeout(), self.room.next_timeout()]
            due = min((time for time in times if time is not None), default=math.inf)
            if due > end:
                break
            self.now = max(self.now, due)
            self.feed(stage.Ticked())
            self._perform_room(self.room.handle(RoomTicked(), self.now, self.wall_ms))
        self.now = end

    def told(self, kind: Callable[..., CommandT]) -> list[CommandT]:
        """Commands of one kind, in order."""
        assert isinstance(kind, type)
        return [command for command in self.commands if isinstance(command, kind)]

    def order(self, order: room_pb2.Order) -> None:
        """An order as if the Room gave it."""
        self.feed(stage.OrderArrived(order))

    def feed(self, event: stage.Event) -> None:
        """Hand one event to the stage and perform all that follows."""
        self._run(deque([event]))

    def _run(self, waiting: deque[stage.Event]) -> None:  # noqa: C901 - one match of all effects
        while waiting:
            effects = self.stage.handle(waiting.popleft(), self.now, self.wall_ms)
            for effect in effects:
                match effect:
                    case stage.SendSignal(sockets, response):
                        for socket in sockets:
                            client = self.clients[socket]
                            assert client.closed is None, "sent to a closed socket"
                            client.inbox.append(rtc.SignalResponse.FromString(response))
                    case stage.RefuseSocket(socket, status, message):
                        self.clients[socket].refused = (status, message)
                    case stage.CloseSocket(socket, reason, code):
                        self.clients[socket].closed = reason
                        self.clients[socket].close_code = code
                    case stage.CountDropped(why):
                        self.dropped.append(why)
                    case GuestAdmitted() | GuestRefused() | GuestEnded() | WishTold():
                        self.forwards.append(effect)
                    case ArrivalAdmitted() | ArrivalRefused() | HandedOver():
                        self.moves.append(effect)
                    case stage.RateConnections():
                        pass
                    case stage.TellRoom(fact):
                        self.facts.append(fact)
                        arrived = FactArrived(NODE, fact)
                        waiting.extend(self._orders(arrived))
                    case _:
                        self.commands.append(effect)

    def _orders(self, event: FactArrived) -> list[stage.Event]:
        effects = self.room.handle(event, self.now, self.wall_ms)
        return [
            stage.OrderArrived(effect.order)
            for effect in effects
            if isinstance(effect, GiveOrder) and NODE in effect.node_ids
        ]

    def _perform_room(self, effects: Sequence[object]) -> None:
        # What the stage tells while it takes these comes after all of them, as on a node.
        orders = [e.order for e in effects if isinstance(e, GiveOrder) and NODE in e.node_ids]
        self._run(deque(stage.OrderArrived(order) for order in orders))

    def _client(self, identity: str, single: bool) -> Client:
        socket = stage.SocketRef(1, next(self._sockets))
        client = Client(self, socket, identity, single)
        self.clients[socket] = client
        return client

    def _sign(self, claims: object, _project: str) -> str:
        assert isinstance(claims, dict)
        self.tokens.append(claims)
        return f"token-{len(self.tokens)}"


def claims_of(identity: str, grant: dict[str, object] | None, kind: str) -> node_pb2.Claims:
    video = {"roomJoin": True, "room": "room1", "canUpdateOwnMetadata": True} | (grant or {})
    return node_pb2.Claims(
        api_key="devkey",
        identity=identity,
        kind=kind,
        video_grant_json=json.dumps(video),
        expires_at=WALL_MS // 1000 + 3600,
    )


class FakePublisherNegotiation:
    """Answers JSON offers: {"ufrag", "sections": [{"mid", "kind", "cid"?, "rids"?, "recv"?}]}."""

    def __init__(self, config: negotiation.NegotiationConfig, local: plans.LocalTransport) -> None:
        self._local = local
        self._ufrag = ""
        self._receivers: dict[str, plans.ReceiverPlan] = {}
        self._senders: dict[str, plans.SenderPlan] = {}
        self._held: dict[str, dict[str, object]] = {}

    def answer(
        self,
        offer_sdp: str,
        tracks: Sequence[plans.AnnouncedTrack],
        down_tracks: Sequence[plans.DownTrack] = (),
        *,
        fresh_credentials: tuple[str, str],
        candidates: Sequence[str] = (),
    ) -> plans.Answered:
        offer = _read(offer_sdp, "ufrag", "sections")
        is_restart = bool(self._ufrag) and offer["ufrag"] != self._ufrag
        self._ufrag = offer["ufrag"]
        self.candidates = tuple(candidates)
        if is_restart:
            self._local = plans.LocalTransport(*fresh_credentials, self._local.fingerprint)
        sections = {section["mid"]: section for section in offer["sections"]}
        self._held = {
            mid: section
            for mid, section in sections.items()
            if section.get("cid") and mid not in self._receivers
        }
        ended = [
            plan for mid, plan in self._receivers.items() if not sections.get(mid, {}).get("cid")
        ]
        for plan in ended:
            del self._receivers[plan.mid]
        added = self.match_pending(tracks)
        before = dict(self._senders)
        self._send(sections, down_tracks)
        return plans.Answered(
            sdp="answer",
            local=self._local,
            remote=plans.RemoteParameters(offer["ufrag"], "pwd", "sha-256 CC"),
            ice_restarted=is_restart,
            has_application=True,
            receivers=tuple(self._receivers.values()),
            receivers_added=added,
            receivers_ended=tuple(ended),
            senders=tuple(self._senders.values()),
            senders_added=tuple(
                plan for mid, plan in self._senders.items() if before.get(mid) != plan
            ),
            senders_removed=tuple(
                plan for mid, plan in before.items() if self._senders.get(mid) != plan
            ),
            mid_to_track_id={mid: plan.track_sid for mid, plan in self._senders.items()},
        )

    def _send(
        self, sections: dict[str, dict[str, object]], down_tracks: Sequence[plans.DownTrack]
    ) -> None:
        wanted = {track.track_sid: track for track in down_tracks}
        self._senders = {
            mid: plan for mid, plan in self._senders.items() if plan.track_sid in wanted
        }
        placed = {plan.track_sid for plan in self._senders.values()}
        for track in down_tracks:
            free = [
                mid
                for mid, section in sections.items()
                if section.get("recv")
                and section["kind"] == track.kind
                and mid not in self._senders
            ]
            if track.track_sid not in placed and free:
                self._senders[free[0]] = sender_plan(track, free[0])

    def match_pending(
        self, tracks: Sequence[plans.AnnouncedTrack]
    ) -> tuple[plans.ReceiverPlan, ...]:
        added = []
        for mid, section in list(self._held.items()):
            for track in tracks:
                cids = [codec.cid for codec in track.codecs]
                if section["cid"] not in (track.cid, *cids):
                    continue
                index = cids.index(section["cid"]) if section["cid"] in cids else 0
                video = track.codecs[index].mime or "video/vp8"
                rids = section.get("rids", [])
                assert isinstance(rids, list)
                plan = plans.ReceiverPlan(
                    mid=mid,
                    kind=track.kind,
                    track_sid=track.track_sid,
                    sdp_cid=track.cid,
                    codec_index=index,
                    codecs=(
                        commands.Codec(track.codecs[index].mime or "audio/red", 63, 48000)
                        if track.kind == "audio"
                        else commands.Codec(video, 96, 90000, 97, True, True),
                    ),
                    encodings=tuple(
                        commands.Encoding(layer, rid=rid) for layer, rid in enumerate(rids)
                    )
                    or (commands.Encoding(0, ssrc=77),),
                    extensions=commands.ExtensionIds(mid=4),
                )
                self._receivers[mid] = plan
                del self._held[mid]
                added.append(plan)
                break
        return tuple(added)

    def require(self, down_tracks: Sequence[plans.DownTrack]) -> plans.SectionsRequirement:
        return plans.SectionsRequirement()


class FakeSubscriberNegotiation:
    """Offers at once, one at a time, and takes every answer."""

    def __init__(
        self,
        config: negotiation.NegotiationConfig,
        local: plans.LocalTransport,
        *,
        first_offer_id: int,
        data_channels: bool = True,
    ) -> None:
        self._local = local
        self._offer_id = first_offer_id
        self._debounce = negotiation.Debounce()
        self._tracks: dict[str, plans.DownTrack] = {}
        self._answered: set[str] = set()
        self._is_outstanding = False
        self._is_restart = False

    def add(self, track: plans.DownTrack) -> str:
        self._tracks[track.track_sid] = track
        return str(len(self._tracks))

    def remove(self, track_sid: str) -> None:
        self._tracks.pop(track_sid, None)
        self._answered.discard(track_sid)

    def request(self, now: float, *, force: bool = False) -> None:
        self._debounce.request(now, force=force)

    def restart_ice(self, now: float, ice_ufrag: str, ice_pwd: str) -> None:
        self._local = plans.LocalTransport(ice_ufrag, ice_pwd, self._local.fingerprint)
        self._is_restart = True
        self._is_outstanding = False
        self._debounce.request(now, force=True)

    def poll(
        self, now: float, candidates: Sequence[str] = ()
    ) -> plans.Offer | plans.NegotiationFailed | None:
        if self._is_outstanding or not self._debounce.take(now):
            return None
        self._is_outstanding = True
        self.candidates = tuple(candidates)
        restart, self._is_restart = self._is_restart, False
        self._offer_id += 1
        mids = {str(index + 1): sid for index, sid in enumerate(self._tracks)}
        return plans.Offer(self._offer_id, "offer", self._local, restart, mids)

    def next_timeout(self) -> float | None:
        return None if self._is_outstanding else self._debounce.next_timeout()

    def apply_answer(self, answer_sdp: str, now: float, answer_id: int = 0) -> plans.Applied | None:
        if not self._is_outstanding:
            return None
        answer = _read(answer_sdp, "ufrag")
        self._is_outstanding = False
        accepts = answer.get("accepts", ())
        refused = [
            sid
            for sid, track in self._tracks.items()
            if accepts and not set(accepts) & set(track.mimes)
        ]
        for sid in refused:
            self._tracks.pop(sid)
        added = [track for sid, track in self._tracks.items() if sid not in self._answered]
        self._answered.update(self._tracks)
        return plans.Applied(
            plans.RemoteParameters(answer["ufrag"], "pwd", "sha-256 DD"),
            tuple(sender_plan(track, str(index + 1), accepts) for index, track in enumerate(added)),
            codec_unsupported=tuple(refused),
        )


def _read(description: str, *members: str) -> dict[str, Any]:
    """A description of the scripted clients: JSON, where these members stand."""
    try:
        read = json.loads(description)
    except ValueError as error:
        raise negotiation.BadDescription("not JSON") from error
    if not isinstance(read, dict) or not all(member in read for member in members):
        raise negotiation.BadDescription(f"not an object with {members}")
    return read


def sender_plan(track: plans.DownTrack, mid: str, accepts: Sequence[str] = ()) -> plans.SenderPlan:
    return plans.SenderPlan(
        mid=mid,
        kind=track.kind,
        track_sid=track.track_sid,
        ssrc=track.ssrc,
        rtx_ssrc=track.rtx_ssrc,
        cname=track.stream,
        codecs=tuple(
            commands.Codec(mime, 100 + place, 90000)
            for place, mime in enumerate(accepts or track.mimes)
        ),
        extensions=commands.ExtensionIds(),
    )
