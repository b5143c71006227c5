"""One participant of a swarm: a signal socket and two peer connections on the swarm's engine.

Dual peer connections (`/rtc`): this side offers to publish, the server offers to subscribe. Messages are handled in the
order they arrive.
"""

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from livekit.protocol import models, rtc
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from loadtest.access import join_token
from loadtest.client_sdp import (
    RTX_OFFSET,
    AcceptedLayer,
    ClientTransport,
    ReceivedTrack,
    ServerTransport,
    SourceTrack,
    answer_subscriber,
    publisher_offer,
    read_answer,
)
from mediacore import PeerConnectionConfig, RemoteTransport

if TYPE_CHECKING:
    from loadtest.swarm import Fanout, Swarm

STEP_TIMEOUT_S = 30.0
LEAVE_TIMEOUT_S = 5.0
MAX_MESSAGE_BYTES = 2 * 1024 * 1024
QUERY = urlencode(
    {
        "protocol": 17,
        "client_protocol": 1,
        "auto_subscribe": 1,
        "adaptive_stream": 0,
        "sdk": "go",
        "os": "linux",
        "version": "2.0.0",
    }
)
CHANNELS: tuple[tuple[str, bool, int | None], ...] = (
    ("_reliable", True, None),
    ("_lossy", False, 0),
    ("_data_track", False, 0),
)


@dataclass(slots=True)
class _PeerConnection:
    """One of the two, as far as signaling knows it."""

    number: int
    target: rtc.SignalTarget
    transport: ClientTransport
    is_created: bool = False
    server: ServerTransport | None = None
    candidates: set[str] = field(default_factory=set)
    """Of the server, as handed to the engine."""


class Participant:
    """Joins, publishes and receives until it leaves. Waiting calls raise what ended the session meanwhile."""

    def __init__(self, swarm: "Swarm", room: str, identity: str) -> None:
        self.identity = identity
        self.join_seconds = float("nan")
        """From dialing to every peer connection up."""
        self.updates: list[float] = []
        """When each participant update came, by the monotonic clock."""
        self._swarm = swarm
        self._engine = swarm.engine
        self._room = room
        self._publisher = self._peer_connection(rtc.SignalTarget.PUBLISHER)
        self._subscriber = self._peer_connection(rtc.SignalTarget.SUBSCRIBER)
        self._received: dict[str, tuple[str, int]] = {}
        """By section: the server's track id, and our number for it."""
        self._sources: list[int] = []
        self._offered: list[SourceTrack] = []
        self._offers = 0
        self._connected: set[int] = set()
        self._socket: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None
        self._is_leaving = False
        self._failure: Exception | None = None
        self._changed = asyncio.Event()
        self._join: rtc.JoinResponse | None = None
        self._published: set[str] = set()
        self._layers: dict[int, tuple[AcceptedLayer, ...]] = {}
        self._with_media: set[int] = set()

    # ------------------------------------------------------------------------------------------- lifetime

    async def connect(self) -> None:
        """Join, and wait until the peer connections are up: the primary one, and the publisher where SDKs make it."""
        token = join_token(self._swarm.target, self._room, self.identity)
        began = time.monotonic()
        self._socket = await connect(
            f"{self._swarm.target.url}/rtc?{QUERY}",
            additional_headers={"Authorization": f"Bearer {token}"},
            compression=None,
            max_size=MAX_MESSAGE_BYTES,
            ping_interval=None,
            open_timeout=STEP_TIMEOUT_S,
        )
        self._reader = asyncio.create_task(self._read(self._socket))
        await self._until(lambda: self._join is not None, "join response")
        assert self._join is not None  # just awaited
        awaited = set()
        if self._join.subscriber_primary:
            awaited.add(self._subscriber.number)
        if self._join.fast_publish or not awaited:
            awaited.add(self._publisher.number)
            await self._offer()
        await self._until(lambda: awaited <= self._connected, "connected peer connections")
        self.join_seconds = time.monotonic() - began

    async def publish(self, shape: "Fanout") -> None:
        """Announce a track, negotiate it, and send from now on."""
        cid = secrets.token_hex(8)
        await self._send(rtc.SignalRequest(add_track=_announcement(cid, shape)))
        await self._until(lambda: cid in self._published, "published track")
        self._offered.append(SourceTrack(cid, shape.kind, (1 + secrets.randbelow(RTX_OFFSET),)))
        layers = [layer for layer in await self._offer() if layer.cid == cid]
        if not layers:
            raise ConnectionError(f"{self.identity}: the server refused the {shape.kind} section")
        await self._until(lambda: self._publisher.number in self._connected, "publisher connection")
        source = self._swarm.new_track()
        self._sources.append(source)
        self._engine.add_source(source, shape.source())
        for layer in layers:
            self._engine.add_sender(
                self._publisher.number, self._swarm.new_track(), layer.sender(source)
            )

    async def until_receiving(self) -> None:
        """Wait for the first packet of any track."""
        await self._until(lambda: bool(self._with_media), "media")

    async def until_over(self) -> Exception:
        """Wait until the session ends without our asking; why it did."""
        while self._failure is None:
            self._changed.clear()
            await self._changed.wait()
        return self._failure

    async def ping(self) -> None:
        """Say that we are here, as SDKs do; nothing before and after the socket's life."""
        if self._socket is None:
            return
        now = rtc.Ping(timestamp=time.time_ns() // 1_000_000)
        with contextlib.suppress(ConnectionClosed):
            await self._send(rtc.SignalRequest(ping_req=now))

    async def leave(self) -> None:
        """Say so, wait for the server to close the socket, and fall silent. May be called at any stage."""
        self._is_leaving = True
        if self._socket is not None and self._reader is not None:
            request = rtc.LeaveRequest(reason=models.DisconnectReason.CLIENT_INITIATED)
            with contextlib.suppress(ConnectionClosed):
                await self._send(rtc.SignalRequest(leave=request))
            await asyncio.wait([self._reader], timeout=LEAVE_TIMEOUT_S)
            await self._socket.close()
            await self._reader
        for connection in (self._publisher, self._subscriber):
            if connection.is_created:
                self._engine.close_peer_connection(connection.number)
        for source in self._sources:
            self._engine.remove_track(source)
        self._swarm.forget(
            (self._publisher.number, self._subscriber.number),
            (track for _, track in self._received.values()),
        )
        if self._join is not None:
            self._swarm.forget_sid(self._join.participant.sid)

    # --------------------------------------------------------------------------------- what the engine says

    def on_connected(self, connection: int) -> None:
        """ICE and DTLS of one peer connection are up."""
        self._connected.add(connection)
        self._changed.set()

    def on_media(self, track: int) -> None:
        """First packet of a received track."""
        self._with_media.add(track)
        self._changed.set()

    def fail(self, failure: Exception) -> None:
        """The session is over: whoever waits, and will wait, raises it."""
        if self._failure is None and not self._is_leaving:
            self._failure = failure
        self._changed.set()

    # ------------------------------------------------------------------------------------------ signaling

    async def _read(self, socket: ClientConnection) -> None:
        try:
            async for message in socket:
                if isinstance(message, bytes):
                    await self._handle(rtc.SignalResponse.FromString(message))
        except ConnectionClosed as closed:
            self.fail(ConnectionError(f"{self.identity}: signal socket: {closed}"))
        except Exception as failure:  # noqa: BLE001 - whatever it was, the session is over and its owner is told
            self.fail(failure)
        self.fail(ConnectionError(f"{self.identity}: the server closed the signal socket"))

    async def _handle(self, response: rtc.SignalResponse) -> None:
        match response.WhichOneof("message"):
            case "join":
                self._join = response.join
                self._swarm.add_sid(response.join.participant.sid)
            case "update":
                self.updates.append(time.monotonic())
            case "offer":
                await self._answer(response.offer)
            case "answer":
                self._take_answer(response.answer)
            case "trickle":
                self._take_candidate(response.trickle)
            case "track_published":
                self._published.add(response.track_published.cid)
            case "request_response" if response.request_response.reason != _REQUEST_OK:
                reason = rtc.RequestResponse.Reason.Name(response.request_response.reason)
                self.fail(ConnectionError(f"{self.identity}: a request was refused: {reason}"))
            case "leave":
                reason = models.DisconnectReason.Name(response.leave.reason)
                self.fail(ConnectionError(f"{self.identity}: told to leave: {reason}"))
            case _:
                return
        self._changed.set()

    async def _offer(self) -> tuple[AcceptedLayer, ...]:
        """Negotiate what we publish; the layers the server takes."""
        connection = self._publisher
        if not connection.is_created:
            self._create(connection, controlling=True)
            for label, ordered, retransmits in CHANNELS:
                self._engine.open_data_channel(connection.number, label, ordered, retransmits)
        self._offers += 1
        number = self._offers
        sdp = publisher_offer(connection.transport, self._offered, session_version=number)
        description = rtc.SessionDescription(type="offer", sdp=sdp, id=number)
        await self._send(rtc.SignalRequest(offer=description))
        if number == 1:
            await self._send_candidates(connection)
        await self._until(lambda: number in self._layers, "answer")
        return self._layers.pop(number)

    def _take_answer(self, answer: rtc.SessionDescription) -> None:
        server, layers = read_answer(answer.sdp, self._offered)
        self._set_server(self._publisher, server, answer.sdp)
        self._layers[answer.id or self._offers] = layers

    async def _answer(self, offer: rtc.SessionDescription) -> None:
        connection = self._subscriber
        is_first = not connection.is_created
        if is_first:
            self._create(connection, controlling="a=ice-lite" in offer.sdp)
        answer = answer_subscriber(
            connection.transport, offer.sdp, probe=self._swarm.is_of_this_process
        )
        self._set_server(connection, answer.server, offer.sdp)
        self._receive(answer.tracks)
        description = rtc.SessionDescription(type="answer", sdp=answer.sdp, id=offer.id)
        await self._send(rtc.SignalRequest(answer=description))
        if is_first:
            await self._send_candidates(connection)

    def _receive(self, offered: Sequence[ReceivedTrack]) -> None:
        """Make the engine's receivers those of the offer; a reused section is a new track."""
        tracks = {track.mid: track for track in offered}
        for mid, (track_sid, number) in list(self._received.items()):
            if mid not in tracks or tracks[mid].track_sid != track_sid:
                self._engine.remove_track(number)
                self._swarm.forget((), (number,))
                self._with_media.discard(number)
                del self._received[mid]
        for mid, track in tracks.items():
            if mid not in self._received:
                number = self._swarm.new_received_track(self, track.kind)
                self._received[mid] = (track.track_sid, number)
                self._engine.add_receiver(self._subscriber.number, number, track.receiver)

    def _take_candidate(self, trickle: rtc.TrickleRequest) -> None:
        candidate = json.loads(trickle.candidateInit or "{}").get("candidate") or ""
        is_publisher = trickle.target == rtc.SignalTarget.PUBLISHER
        self._add_candidate(self._publisher if is_publisher else self._subscriber, candidate)

    # -------------------------------------------------------------------------------- peer connections

    def _peer_connection(self, target: rtc.SignalTarget) -> _PeerConnection:
        transport = ClientTransport(
            secrets.token_hex(4), secrets.token_hex(12), self._swarm.fingerprint
        )
        return _PeerConnection(self._swarm.new_connection(self), target, transport)

    def _create(self, connection: _PeerConnection, *, controlling: bool) -> None:
        """Full ICE; controlling unless a full agent made the offer (RFC 8445 section 6.1.1)."""
        ours = connection.transport
        self._engine.create_peer_connection(
            connection.number,
            PeerConnectionConfig(
                ours.ice_ufrag,
                ours.ice_pwd,
                ice_lite=False,
                ice_controlling=controlling,
                dtls_active=False,
            ),
        )
        connection.is_created = True

    def _set_server(self, connection: _PeerConnection, server: ServerTransport, sdp: str) -> None:
        if server != connection.server:
            connection.server = server
            self._engine.set_remote(
                connection.number,
                RemoteTransport(server.ice_ufrag, server.ice_pwd, server.fingerprint),
            )
        for line in sdp.splitlines():
            if line.startswith("a=candidate:"):
                self._add_candidate(connection, line.removeprefix("a="))

    def _add_candidate(self, connection: _PeerConnection, candidate: str) -> None:
        """Tell the engine, once; only UDP, for the swarm has no other socket, and only RTP's component."""
        fields = candidate.split()
        if len(fields) < 8 or fields[1] != "1" or fields[2].lower() != "udp":
            return
        address = " ".join(fields[4:6])
        if address not in connection.candidates:
            connection.candidates.add(address)
            self._engine.add_remote_candidate(connection.number, candidate)

    async def _send_candidates(self, connection: _PeerConnection) -> None:
        lines = self._engine.candidates(connection.transport.ice_ufrag)
        for place, line in enumerate(lines, 1):
            candidate = {"candidate": line, "sdpMid": "0", "sdpMLineIndex": 0}
            trickle = rtc.TrickleRequest(
                candidateInit=json.dumps(candidate),
                target=connection.target,
                final=place == len(lines),
            )
            await self._send(rtc.SignalRequest(trickle=trickle))

    # -------------------------------------------------------------------------------------------- below

    async def _send(self, request: rtc.SignalRequest) -> None:
        if self._socket is None:
            raise ConnectionError(f"{self.identity}: not connected")
        await self._socket.send(request.SerializeToString())

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(STEP_TIMEOUT_S):
                while not condition():
                    if self._failure is not None:
                        raise self._failure
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise TimeoutError(f"{self.identity}: no {what} in {STEP_TIMEOUT_S:.0f} s") from None


def _announcement(cid: str, shape: "Fanout") -> rtc.AddTrackRequest:
    if shape.kind == "audio":
        return rtc.AddTrackRequest(
            cid=cid,
            name="swarm-audio",
            type=models.TrackType.AUDIO,
            source=models.TrackSource.MICROPHONE,
            disable_red=True,
        )
    bits_per_second = int(
        shape.frames_per_second * shape.packets_per_frame * shape.payload_bytes * 8
    )
    layer = models.VideoLayer(
        quality=models.VideoQuality.HIGH, width=1280, height=720, bitrate=bits_per_second
    )
    return rtc.AddTrackRequest(
        cid=cid,
        name="swarm-video",
        type=models.TrackType.VIDEO,
        source=models.TrackSource.CAMERA,
        width=1280,
        height=720,
        layers=[layer],
        simulcast_codecs=[rtc.SimulcastCodec(codec="vp8", cid=cid, layers=[layer])],
    )


_REQUEST_OK = rtc.RequestResponse.Reason.OK
