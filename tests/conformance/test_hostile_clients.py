"""Clients and strangers that mean harm: it costs them their own session at most, and is counted."""

import asyncio
import contextlib
import io
import random
import socket
import struct

import aiohttp
import pytest
from livekit import rtc
from livekit.protocol import models
from livekit.protocol import rtc as signal

from tests.support.dev_server import DevServer
from tests.support.python_client import PythonClient, until

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(90)]

AUDIO, VIDEO = rtc.TrackKind.KIND_AUDIO, rtc.TrackKind.KIND_VIDEO
DROPPED = "roomwright_sfu_media_dropped_total"
FLOOD_PACKETS = 40_000
MAX_GROWTH = 48 << 20


def garbage(chance: random.Random) -> bytes:
    """A datagram of a stranger: STUN for nobody, DTLS, RTP, RTCP, or nothing known."""
    noise = chance.randbytes(chance.randrange(4, 600))
    match chance.randrange(6):
        case 0:
            username = chance.randbytes(4).hex() + ":evil"
            attribute = struct.pack("!HH", 6, len(username)) + username.encode() + bytes(3)
            return struct.pack("!HHI", 1, len(attribute), 0x2112A442) + noise[:12] + attribute
        case 1:
            return bytes([chance.choice([20, 21, 22, 23]), 254, 253]) + noise
        case 2:
            return bytes([0x90, chance.choice([96, 111])]) + noise
        case 3:
            return bytes([0x81, chance.choice([200, 201, 205, 206])]) + noise
        case 4:
            return bytes([0, 1]) + noise
        case _:
            return noise


async def flood(server: DevServer, packets: int) -> None:
    """Send garbage at the media port from several addresses, as fast as others are let work."""
    chance = random.Random(1)
    samples = [garbage(chance) for _ in range(500)]
    strangers = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(4)]
    for stranger in strangers:
        stranger.setblocking(False)
    for number in range(packets):
        try:
            strangers[number % 4].sendto(samples[number % 500], ("127.0.0.1", server.udp_port))
        except BlockingIOError:
            await asyncio.sleep(0.001)
        if number % 50 == 0:
            await asyncio.sleep(0)
    for stranger in strangers:
        stranger.close()


async def test_a_call_goes_on_under_a_flood_of_garbage_which_is_counted(
    server: DevServer, room: str
) -> None:
    alice = await PythonClient.join(server, room, "alice")
    bob = await PythonClient.join(server, room, "bob")
    await alice.publish_tone()
    await alice.publish_video()
    await until(lambda: bob.of("alice", VIDEO).frames >= 15, "bob sees alice")
    await until(lambda: bob.of("alice", AUDIO).tone_share > 0.8, "bob hears alice")
    reasons = ("stun_unknown", "address_unknown")
    before = {name: await server.metric(f'{DROPPED}{{reason="{name}"}}') for name in reasons}
    memory, video = server.resident_bytes(), bob.of("alice", VIDEO).frames

    await flood(server, FLOOD_PACKETS)
    assert bob.of("alice", VIDEO).frames > video, "frames arrived during the flood"
    assert server.resident_bytes() - memory < MAX_GROWTH

    audio, video = bob.of("alice", AUDIO).frames, bob.of("alice", VIDEO).frames
    await until(lambda: bob.of("alice", AUDIO).frames > audio + 50, "bob goes on hearing alice")
    await until(lambda: bob.of("alice", VIDEO).frames > video + 10, "bob goes on seeing alice")
    await asyncio.sleep(1.1)  # the engine's totals are at most a second old
    for name in reasons:
        counted = await server.metric(f'{DROPPED}{{reason="{name}"}}')
        assert counted > before[name] + 100, name
    assert await server.metric('roomwright_sfu_media_panics_total{part="engine"}') == 0
    assert "reconnecting" not in alice.events + bob.events
    await alice.leave()
    await bob.leave()


BAD_SDP = (
    "",
    "v=0",
    "\0" * 100,
    "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n" + "m=audio 9 X 0\r\n" * 2000,
    "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n" + "a=x\r\n" * 50_000,
)


def malice() -> list[signal.SignalRequest]:
    """Requests that no honest client makes."""
    found = []
    for sdp in BAD_SDP:
        for kind in ("offer", "answer", "rollback", ""):
            found.append(signal.SignalRequest(offer=signal.SessionDescription(type=kind, sdp=sdp)))
            found.append(signal.SignalRequest(answer=signal.SessionDescription(type=kind, sdp=sdp)))
    for candidate in ("", "{", "[]", "7", '{"candidate": "candidate:' + "9" * 5000 + '"}'):
        for target in (signal.SignalTarget.PUBLISHER, signal.SignalTarget.SUBSCRIBER):
            trickle = signal.TrickleRequest(candidateInit=candidate, target=target)
            found.append(signal.SignalRequest(trickle=trickle))
    layers = [models.VideoLayer(quality=2, width=2**32 - 1, height=2**32 - 1, ssrc=1)] * 50
    found.append(
        signal.SignalRequest(
            add_track=signal.AddTrackRequest(cid="c" * 10_000, type=1, layers=layers)
        )
    )
    sids = ["TR_" + "x" * 100] * 1000
    found.append(
        signal.SignalRequest(
            subscription=signal.UpdateSubscription(track_sids=sids, subscribe=True)
        )
    )
    found.append(signal.SignalRequest(track_setting=signal.UpdateTrackSettings(track_sids=sids)))
    found.append(signal.SignalRequest(sync_state=signal.SyncState(track_sids_disabled=sids)))
    return found


async def test_malice_in_signals_ends_its_sender_at_most(server: DevServer, room: str) -> None:
    alice = await PythonClient.join(server, room, "alice")
    bob = await PythonClient.join(server, room, "bob")
    await alice.publish_tone()
    await until(lambda: bob.of("alice", AUDIO).tone_share > 0.8, "bob hears alice")
    async with aiohttp.ClientSession() as http:
        for number, request in enumerate(malice()):
            query = {"access_token": server.token(room, f"mallory{number % 4}"), "protocol": "17"}
            async with http.ws_connect(f"{server.url}/rtc", params=query) as mallory:
                await mallory.receive(timeout=10)
                await mallory.send_bytes(request.SerializeToString())
                await mallory.send_bytes(signal.SignalRequest(ping=1).SerializeToString())
                async for message in mallory:
                    if message.type is aiohttp.WSMsgType.BINARY:
                        answer = signal.SignalResponse.FromString(message.data)
                        if answer.WhichOneof("message") in ("pong", "leave"):
                            break
    frames = bob.of("alice", AUDIO).frames
    await until(lambda: bob.of("alice", AUDIO).frames > frames + 50, "bob goes on hearing alice")
    faults = [
        line
        for page in (await server.told("/metrics")).values()
        for line in page.splitlines()
        if line.startswith("roomwright_sfu_faults_total{") and not line.endswith(" 0")
    ]
    assert faults == [], "the machines refused it all, and none failed"
    await alice.leave()
    await bob.leave()


async def test_oversize_frame_closes_its_socket_only(server: DevServer, room: str) -> None:
    alice = await PythonClient.join(server, room, "alice")
    async with aiohttp.ClientSession() as http:
        for size in ((2 << 20) + 1, 16 << 20):
            query = {"access_token": server.token(room, "mallory"), "protocol": "17"}
            async with http.ws_connect(f"{server.url}/rtc", params=query) as mallory:
                await mallory.receive(timeout=10)
                with contextlib.suppress(ConnectionError):  # closed before all of it was sent
                    await mallory.send_bytes(bytes(size))
                async for _ in mallory:
                    pass
                assert mallory.close_code in (1009, 1006)
    await alice.room.local_participant.set_metadata("still here")
    await alice.leave()


@pytest.mark.parametrize("content_type", ["application/json", "application/protobuf"])
async def test_oversize_api_body_is_refused(server: DevServer, content_type: str) -> None:
    url = f"{server.http_url}/twirp/livekit.RoomService/ListRooms"
    async with aiohttp.ClientSession() as http:
        async with http.post(
            url, data=io.BytesIO(bytes((10 << 20) + 1)), headers={"Content-Type": content_type}
        ) as answer:
            assert (answer.status, await answer.text()) == (413, "request body too large")
        async with http.get(server.http_url) as health:
            assert health.status == 200
