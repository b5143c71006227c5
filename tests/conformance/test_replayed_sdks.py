"""SDKs that do not run on a test machine, by what they say: their way to connect, publish, ping, resume and leave.

Each row of `SDKS` is how a release opens its socket (token, path, parameters, protocol version); the descriptions it
sends are those captured of libwebrtc, which all of these SDKs embed. What a client of that kind waits for must come,
in the order and spelling it needs. No media flows here.
"""

import base64
import gzip
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import pytest
from livekit.protocol import models
from livekit.protocol import rtc as signal

from loadtest.client_sdp import ClientTransport, answer_subscriber
from tests.support.descriptions import MIC_CID, SINGLE_MIC_CID, sample
from tests.support.dev_server import DevServer

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(60)]

TRANSPORT = ClientTransport("user", "p" * 24, "sha-256 " + ":".join(["CD"] * 32))


@dataclass(frozen=True, slots=True)
class Sdk:
    """How one SDK connects."""

    name: str
    protocol: int
    single: bool = False
    """One peer connection: `/rtc/v1` with a join request."""
    header: bool = False
    """The token in the Authorization header; otherwise in the query."""
    offers_in_join: bool = False
    announces_in_join: bool = False
    details: Mapping[str, str] = field(default_factory=dict)
    """Further parameters of `/rtc`."""


ATTRIBUTES = base64.urlsafe_b64encode(json.dumps({"team": "blue"}).encode()).decode()
PHONE = {"device_model": "Pixel 9", "os_version": "16", "network": "wifi"}
SDKS = (
    Sdk("swift", 16, details={"os": "iOS", "device_model": "iPhone17,1", "os_version": "26.0"}),
    Sdk("swift", 12, details={"os": "macOS", "os_version": "14.2"}),
    Sdk("android", 16, details={"os": "android", **PHONE}),
    Sdk("android", 13, details={"os": "android", **PHONE}),
    Sdk("flutter", 16, details={"os": "android", **PHONE}),
    Sdk("flutter", 9, details={"os": "iOS", "network": "mobile"}),
    Sdk("reactnative", 17, single=True),
    Sdk("reactnative", 16, details={"adaptive_stream": "1", "device_model": "iPhone"}),
    Sdk("go", 17, header=True, details={"attributes": ATTRIBUTES}),
    Sdk("go", 17, header=True, single=True, offers_in_join=True, announces_in_join=True),
    Sdk("unity", 17, header=True, single=True, offers_in_join=True),
    Sdk("unity", 15, header=True, details={"capabilities": "CAP_PACKET_TRAILER"}),
    Sdk("cpp", 17, header=True, single=True, offers_in_join=True),
    Sdk("cpp", 17, header=True, details={"client_protocol": "2"}),
    Sdk("rust", 17, header=True, single=True, offers_in_join=True),
    Sdk("rust", 9, header=False),
)


def _mode(sdk: Sdk) -> str:
    return f"{sdk.name}-{sdk.protocol}-{'single' if sdk.single else 'dual'}"


class Wire:
    """One signal socket as a client holds it: what came is kept until somebody waits for it."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.unread: list[signal.SignalResponse] = []

    async def first(self) -> signal.SignalResponse:
        """The very first message, whatever it is."""
        message = await self.socket.receive(timeout=10)
        assert message.type is aiohttp.WSMsgType.BINARY, message
        return signal.SignalResponse.FromString(message.data)

    async def say(self, **request: object) -> None:
        await self.socket.send_bytes(signal.SignalRequest(**request).SerializeToString())

    async def hear(self, kind: str) -> signal.SignalResponse:
        """The next message of a kind; others are kept."""
        for place, message in enumerate(self.unread):
            if message.WhichOneof("message") == kind:
                return self.unread.pop(place)
        while True:
            try:
                message = await self.first()
            except TimeoutError:
                came = [message.WhichOneof("message") for message in self.unread]
                raise AssertionError(f"no {kind} came, but {came}") from None
            if message.WhichOneof("message") == kind:
                return message
            self.unread.append(message)


@asynccontextmanager
async def connected(
    server: DevServer, sdk: Sdk, room: str, resume: str | None = None
) -> AsyncIterator[Wire]:
    """Open the socket as the SDK does; `resume` is the participant's sid."""
    token = server.token(room, sdk.name)
    headers = {"Authorization": f"Bearer {token}"} if sdk.header else {}
    query = {} if sdk.header else {"access_token": token}
    if sdk.single:
        query["join_request"] = _join_request(sdk, resume)
    else:
        query |= {"protocol": str(sdk.protocol), "sdk": sdk.name, "version": "2.9.0"}
        query |= {"auto_subscribe": "1", "adaptive_stream": "0", **sdk.details}
        if resume is not None:
            query |= {"reconnect": "1", "sid": resume, "reconnect_reason": "2"}
    path = "/rtc/v1" if sdk.single else "/rtc"
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{server.url}{path}", params=query, headers=headers) as socket,
    ):
        yield Wire(socket)


def _join_request(sdk: Sdk, resume: str | None) -> str:
    kind = models.ClientInfo.SDK.Value(sdk.name.upper().replace("REACTNATIVE", "REACT_NATIVE"))
    request = signal.JoinRequest(
        client_info=models.ClientInfo(sdk=kind, protocol=sdk.protocol, version="2.9.0"),
        connection_settings=signal.ConnectionSettings(auto_subscribe=True),
    )
    if resume is not None:
        request.reconnect, request.participant_sid = True, resume
    elif sdk.announces_in_join:
        request.add_track_requests.append(_microphone(SINGLE_MIC_CID))
        request.publisher_offer.CopyFrom(_offer("single_audio_offer", 0))
    elif sdk.offers_in_join:
        request.publisher_offer.CopyFrom(_offer("single_join_offer", 0))
    packed = gzip.compress(request.SerializeToString())
    wrapped = signal.WrappedJoinRequest(
        compression=signal.WrappedJoinRequest.GZIP, join_request=packed
    )
    return base64.urlsafe_b64encode(wrapped.SerializeToString()).decode()


def _offer(name: str, number: int) -> signal.SessionDescription:
    return signal.SessionDescription(type="offer", sdp=sample(name), id=number)


def _microphone(cid: str) -> signal.AddTrackRequest:
    return signal.AddTrackRequest(
        cid=cid, name="microphone", type=models.AUDIO, source=models.MICROPHONE
    )


@pytest.fixture(params=SDKS, ids=_mode)
def sdk(request: pytest.FixtureRequest) -> Sdk:
    """One of the ways to connect."""
    found: Sdk = request.param
    return found


async def test_a_replayed_sdk_joins_publishes_pings_and_leaves(
    server: DevServer, room: str, sdk: Sdk
) -> None:
    async with connected(server, sdk, room) as wire:
        join = (await wire.first()).join
        assert (join.room.sid[:3], join.participant.sid[:3]) == ("RM_", "PA_")
        assert join.subscriber_primary is not sdk.single
        assert join.participant.identity == sdk.name
        assert (join.ping_interval, join.ping_timeout) == (5, 15)
        assert join.server_info.version.count(".") == 2
        assert next(codec.mime for codec in join.enabled_publish_codecs) == "video/VP8"
        assert dict(join.participant.attributes) == (
            {"team": "blue"} if "attributes" in sdk.details else {}
        )
        await (_publish_single if sdk.single else _publish_dual)(wire, sdk)

        await wire.say(ping=1_795_416_612_377)
        assert (await wire.hear("pong")).pong
        await wire.say(ping_req=signal.Ping(timestamp=77))
        assert (await wire.hear("pong_resp")).pong_resp.last_ping_timestamp == 77
        await wire.say(
            leave=signal.LeaveRequest(
                reason=models.CLIENT_INITIATED, action=signal.LeaveRequest.DISCONNECT
            )
        )
        leave = (await wire.hear("leave")).leave
        assert leave.reason == models.CLIENT_INITIATED
        async for _ in wire.socket:
            pass
        assert wire.socket.close_code == 1000


async def _publish_dual(wire: Wire, sdk: Sdk) -> None:
    offered = (await wire.hear("offer")).offer
    assert offered.type == "offer"
    answer = answer_subscriber(TRANSPORT, offered.sdp)
    # Only some echo the offer's number; the others leave it 0.
    number = offered.id if sdk.name == "go" else 0
    await wire.say(answer=signal.SessionDescription(type="answer", sdp=answer.sdp, id=number))
    assert "typ host" in offered.sdp, "every candidate is in the offer; nothing trickles"

    await wire.say(add_track=_microphone(MIC_CID))
    published = (await wire.hear("track_published")).track_published
    assert (published.cid, published.track.sid[:5]) == (MIC_CID, "TR_AM")
    await wire.say(offer=_offer("dual_publisher_audio_offer", 7))
    answered = (await wire.hear("answer")).answer
    assert answered.id == 7
    assert "a=recvonly" in answered.sdp
    await wire.say(mute=signal.MuteTrackRequest(sid=published.track.sid, muted=True))
    # The deprecated layers message of old releases is taken, and changes nothing.
    await wire.say(update_layers=signal.UpdateVideoLayers(track_sid=published.track.sid))


async def _publish_single(wire: Wire, sdk: Sdk) -> None:
    if sdk.offers_in_join:
        if sdk.announces_in_join:
            published = (await wire.hear("track_published")).track_published
            assert (published.cid, published.track.sid[:5]) == (SINGLE_MIC_CID, "TR_AM")
        assert (await wire.hear("answer")).answer.id == 0
    if not sdk.announces_in_join:
        await wire.say(add_track=_microphone(SINGLE_MIC_CID))
        published = (await wire.hear("track_published")).track_published
        assert (published.cid, published.track.sid[:5]) == (SINGLE_MIC_CID, "TR_AM")
        await wire.say(offer=_offer("single_audio_offer", 8))
        assert (await wire.hear("answer")).answer.id == 8
    assert "offer" not in [message.WhichOneof("message") for message in wire.unread]


async def test_a_replayed_sdk_resumes_on_a_new_socket(
    server: DevServer, room: str, sdk: Sdk
) -> None:
    async with connected(server, sdk, room) as wire:
        sid = (await wire.first()).join.participant.sid
        async with connected(server, sdk, room, resume=sid) as again:
            assert (await again.first()).WhichOneof("message") == "reconnect"
            participants = (await again.hear("update")).update.participants
            assert sid in [participant.sid for participant in participants]
            await again.say(ping_req=signal.Ping(timestamp=78))
            assert (await again.hear("pong_resp")).pong_resp.last_ping_timestamp == 78
            await again.say(leave=signal.LeaveRequest(reason=models.CLIENT_INITIATED))
            await again.hear("leave")


async def test_a_replayed_sdk_that_resumes_what_is_gone_is_sent_to_join_anew(
    server: DevServer, room: str, sdk: Sdk
) -> None:
    async with connected(server, sdk, room, resume="PA_gone") as wire:
        leave = (await wire.first()).leave
        assert leave.reason == models.STATE_MISMATCH
        if sdk.protocol >= 13:
            assert leave.action == signal.LeaveRequest.RECONNECT
        else:
            assert leave.can_reconnect
