"""WHIP as encoders speak it: a bare RTCPeerConnection in Chromium, and aiortc, over HTTP alone."""

import asyncio
import io
from typing import Any

import aiohttp
import pytest
from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import AudioStreamTrack
from livekit import api, rtc
from playwright.async_api import Browser

from tests.support.dev_server import KEY, SECRET, DevServer
from tests.support.python_client import PythonClient, until

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(90)]

AUDIO, VIDEO = rtc.TrackKind.KIND_AUDIO, rtc.TrackKind.KIND_VIDEO

_PUBLISH = """
async ({url, token}) => {
    const media = await navigator.mediaDevices.getUserMedia({audio: true, video: {width: 640, height: 360}});
    const pc = new RTCPeerConnection();
    for (const track of media.getTracks()) pc.addTransceiver(track, {direction: 'sendonly', streams: [media]});
    await pc.setLocalDescription();
    const answered = await fetch(url, {
        method: 'POST',
        headers: {'Content-Type': 'application/sdp', 'Authorization': `Bearer ${token}`},
        body: pc.localDescription.sdp,
    });
    await pc.setRemoteDescription({type: 'answer', sdp: await answered.text()});
    window.pc = pc;
    return {status: answered.status, location: answered.headers.get('location')};
}
"""


async def identities(room: str, server: DevServer) -> set[str]:
    async with api.LiveKitAPI(server.http_url, KEY, SECRET) as lk:
        listed = await lk.room.list_participants(api.ListParticipantsRequest(room=room))
        return {it.identity for it in listed.participants}


async def gone(room: str, server: DevServer, identity: str, within_s: float) -> None:
    deadline = asyncio.get_running_loop().time() + within_s
    while identity in await identities(room, server):
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.2)


async def call(
    server: DevServer, method: str, path: str, token: str, body: bytes = b"", **headers: str
) -> tuple[int, Any, str]:
    sent = {"Authorization": f"Bearer {token}", "Content-Type": "application/sdp", **headers}
    async with (
        aiohttp.ClientSession() as http,
        http.request(method, server.http_url + path, data=io.BytesIO(body), headers=sent) as answer,
    ):
        return answer.status, answer.headers, await answer.text()


async def test_a_page_publishes_by_one_request_and_ends_with_another(
    server: DevServer, browser: Browser, room: str
) -> None:
    viewer = await PythonClient.join(server, room, "viewer")
    token = server.token(room, "encoder")
    page = await (await browser.new_context()).new_page()
    await page.goto(f"{server.http_url}/")
    told = await page.evaluate(_PUBLISH, {"url": f"{server.http_url}/whip/v1", "token": token})
    assert told["status"] == 201
    await until(lambda: viewer.of("encoder", VIDEO).frames > 30, "the page is seen")
    await until(lambda: viewer.of("encoder", AUDIO).frames > 50, "the page is heard")
    shown = viewer.room.remote_participants["encoder"]
    assert told["location"] == f"/whip/v1/{shown.sid}"
    assert {it.name for it in shown.track_publications.values()} == {
        "synthesized-microphone",
        "synthesized-camera",
    }
    frames = viewer.of("encoder", VIDEO).frames
    await until(lambda: viewer.of("encoder", VIDEO).frames > frames + 60, "it lives on its media")

    other = server.token(room, "somebody")
    assert (await call(server, "DELETE", told["location"], other))[0] == 404
    assert (await call(server, "DELETE", "/whip/v1/PA_other", token))[0] == 404
    assert await identities(room, server) == {"viewer", "encoder"}
    assert (await call(server, "DELETE", told["location"], token))[0] == 200
    await until(lambda: "participant_disconnected encoder" in viewer.events, "it is gone")
    assert (await call(server, "DELETE", told["location"], token))[0] == 404
    await page.context.close()
    await viewer.leave()


async def test_aiortc_publishes_and_is_gone_when_its_connection_is(
    server: DevServer, room: str
) -> None:
    viewer = await PythonClient.join(server, room, "viewer")
    pc = RTCPeerConnection()
    pc.addTransceiver(AudioStreamTrack(), direction="sendonly")
    await pc.setLocalDescription(await pc.createOffer())
    offer = pc.localDescription.sdp.encode()
    token = server.token(room, "encoder", can_subscribe=False)
    status, headers, sdp = await call(server, "POST", "/whip/v1", token, offer)
    assert (status, headers["Content-Type"]) == (201, "application/sdp")
    await pc.setRemoteDescription(RTCSessionDescription(sdp, "answer"))
    await until(lambda: viewer.of("encoder", AUDIO).frames > 50, "it is heard")
    await pc.close()
    await gone(room, server, "encoder", 15)
    await viewer.leave()


async def test_what_cannot_be_published_is_refused_and_joins_nobody(
    server: DevServer, room: str
) -> None:
    viewer = await PythonClient.join(server, room, "viewer")
    token = server.token(room, "encoder")
    pc = RTCPeerConnection()
    pc.addTransceiver("audio", direction="sendonly")
    await pc.setLocalDescription(await pc.createOffer())
    good = pc.localDescription.sdp.encode()
    await pc.close()
    nothing = api.AccessToken(KEY, SECRET).with_identity("encoder").to_jwt()
    silent = server.token(room, "encoder", can_publish=False)
    for body, bearer, content_type, expected in (
        (good, "junk", "application/sdp", 401),
        (good, nothing, "application/sdp", 401),
        (good, silent, "application/sdp", 401),
        (good, token, "application/json", 400),
        (b"", token, "application/sdp", 400),
        (b"v=0\r\n", token, "application/sdp", 400),
        (good.replace(b"a=fingerprint", b"a=nothing"), token, "application/sdp", 400),
        (good + b"x" * (1 << 20), token, "application/sdp", 413),
    ):
        status, _, text = await call(
            server, "POST", "/whip/v1", bearer, body, **{"Content-Type": content_type}
        )
        assert status == expected, text
        assert "error" in text
    assert (await call(server, "PATCH", "/whip/v1/PA_x", token))[0] == 405
    assert (await call(server, "GET", "/whip/v1/PA_x", token))[0] == 204
    assert (await call(server, "OPTIONS", "/whip/v1", token))[0] == 200
    assert await identities(room, server) == {"viewer"}
    await viewer.leave()
