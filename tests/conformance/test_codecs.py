"""Codecs between browsers: backup codecs asked for and taking over, PCMU, replaced tracks, departures."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from playwright.async_api import Browser

from tests.conformance.test_browser_sdk import eventually
from tests.support.browser_client import BrowserClient
from tests.support.dev_server import DevServer

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

TAKES_ONLY = """
for (const name of ['createOffer', 'createAnswer']) {
    const made = RTCPeerConnection.prototype[name];
    RTCPeerConnection.prototype[name] = function (...args) {
        for (const transceiver of this.getTransceivers()) {
            if (transceiver.receiver.track.kind !== '%(kind)s') continue;
            const codecs = RTCRtpReceiver.getCapabilities('%(kind)s').codecs;
            transceiver.setCodecPreferences(codecs.filter(it => %(mimes)s.includes(it.mimeType.toLowerCase())));
        }
        return made.apply(this, args);
    };
}
"""
"""A client that neither sends nor takes other codecs of one kind."""

PUBLISH = """
async ({codec, policy}) => {
    await window.rw.room.localParticipant.setCameraEnabled(true,
        {resolution: {width: 640, height: 360, frameRate: 20}},
        {videoCodec: codec, backupCodec: {codec: 'vp8'}, backupCodecPolicy: policy});
}
"""

CODEC = """
async kind => {
    for (const them of window.rw.room.remoteParticipants.values())
        for (const publication of them.trackPublications.values()) {
            if (publication.kind !== kind || !publication.track) continue;
            const report = await publication.track.receiver.getStats();
            for (const entry of report.values())
                if (entry.type === 'inbound-rtp' && entry.codecId)
                    return [report.get(entry.codecId).mimeType, entry.framesDecoded ?? 0];
        }
    return ['', 0];
}
"""


def takes_only(kind: str, *mimes: str) -> str:
    """The script of a client with few codecs."""
    return TAKES_ONLY % {"kind": kind, "mimes": list(mimes)}


def decodes(viewer: BrowserClient, mime: str, frames: int = 20) -> Callable[[], Awaitable[bool]]:
    """Whether a viewer decodes this codec, and that many frames more than when first asked."""
    before: list[int] = []

    async def look() -> bool:
        found, decoded = await viewer.call(CODEC, "video")
        if found != mime:
            return False
        before.append(decoded)
        return bool(decoded >= before[0] + frames)

    return look


async def sent_codecs(publisher: BrowserClient) -> dict[str, Any]:
    """Frames the publisher encoded lately, by codec."""
    found: dict[str, Any] = await publisher.call(
        """async () => {
            const sent = {};
            const engine = window.rw.room.engine;
            const report = await engine.pcManager.publisher.getStats();
            for (const entry of report.values())
                if (entry.type === 'outbound-rtp' && entry.kind === 'video' && entry.codecId) {
                    const mime = report.get(entry.codecId).mimeType;
                    sent[mime] = (sent[mime] ?? 0) + (entry.framesEncoded ?? 0);
                }
            return sent;
        }"""
    )
    return found


async def test_backup_codec_is_published_for_who_takes_nothing_else_and_takes_over(
    server: DevServer, browser: Browser, room: str, single: bool
) -> None:
    publisher = await BrowserClient.join(browser, server, room, "publisher", single=single)
    modern = await BrowserClient.join(browser, server, room, "modern", single=single)
    await publisher.call(PUBLISH, {"codec": "vp9", "policy": 0})
    await eventually(decodes(modern, "video/VP9"), "a modern viewer decodes VP9")
    assert set(await sent_codecs(publisher)) == {"video/VP9"}

    script = takes_only("video", "video/vp8", "video/rtx")
    old = await BrowserClient.join(browser, server, room, "old", single=single, script=script)
    await eventually(decodes(old, "video/VP8"), "an old viewer decodes the backup codec")
    await eventually(decodes(modern, "video/VP8"), "the modern viewer moved to the backup codec")
    before = await sent_codecs(publisher)

    async def is_primary_idle() -> bool:
        nonlocal before
        now = await sent_codecs(publisher)
        is_idle = now["video/VP9"] == before["video/VP9"] and now != before
        before = now
        return is_idle

    await eventually(is_primary_idle, "the publisher stops the codec nobody gets")
    for client in (publisher, modern, old):
        await client.leave()


@pytest.mark.parametrize("codec", ["vp9", "av1"])
async def test_simulcast_codecs_stay_side_by_side(
    server: DevServer, browser: Browser, room: str, codec: str
) -> None:
    publisher = await BrowserClient.join(browser, server, room, "publisher")
    modern = await BrowserClient.join(browser, server, room, "modern")
    await publisher.call(PUBLISH, {"codec": codec, "policy": 1})
    script = takes_only("video", "video/vp8", "video/rtx")
    old = await BrowserClient.join(browser, server, room, "old", script=script)
    await eventually(decodes(old, "video/VP8"), "an old viewer decodes the backup codec")
    first = f"video/{codec.upper()}"
    await eventually(decodes(modern, first), "the modern viewer keeps the first codec")
    for client in (publisher, modern, old):
        await client.leave()


async def test_pcmu_is_heard(server: DevServer, browser: Browser, room: str, single: bool) -> None:
    script = takes_only("audio", "audio/pcmu")
    publisher = await BrowserClient.join(
        browser, server, room, "publisher", single=single, script=script
    )
    listener = await BrowserClient.join(browser, server, room, "listener", single=single)
    # Chromium refuses PCMU below its fixed 64 kbit/s, and the SDK's presets are below.
    await publisher.call(
        "window.rw.room.localParticipant.setMicrophoneEnabled(true, {}, {audioPreset: {maxBitrate: 128_000}})"
    )

    async def heard() -> bool:
        codec, _ = await listener.call(CODEC, "audio")
        energy = (await listener.received("publisher", "audio"))["energy"]
        return bool(codec == "audio/PCMU" and energy > 0.001)

    await eventually(heard, "the listener hears beeps as PCMU")
    mime = await listener.call(
        """() => {
            const [publication] = window.rw.room.remoteParticipants.get('publisher').audioTrackPublications.values();
            return publication.trackInfo.mimeType;
        }"""
    )
    assert mime == "audio/PCMU"
    await publisher.leave()
    await listener.leave()


async def test_replaced_track_goes_on_under_its_sid(
    server: DevServer, browser: Browser, room: str, single: bool
) -> None:
    publisher = await BrowserClient.join(browser, server, room, "publisher", single=single)
    viewer = await BrowserClient.join(browser, server, room, "viewer", single=single)
    await publisher.publish(microphone=False)
    await eventually(decodes(viewer, "video/VP8"), "the viewer decodes the camera")
    await publisher.call(
        """async () => {
            const canvas = document.createElement('canvas');
            canvas.width = 640; canvas.height = 480;
            const context = canvas.getContext('2d');
            setInterval(() => { context.fillStyle = `hsl(${Date.now() / 10 % 360} 90% 50%)`;
                context.fillRect(0, 0, 640, 480); }, 50);
            const [publication] = window.rw.room.localParticipant.videoTrackPublications.values();
            await publication.track.replaceTrack(canvas.captureStream(20).getVideoTracks()[0], true);
        }"""
    )

    async def is_canvas() -> bool:
        found = await viewer.call(
            """async () => {
                const [them] = window.rw.room.remoteParticipants.values();
                const [publication] = them.videoTrackPublications.values();
                const report = await publication.track.receiver.getStats();
                for (const entry of report.values())
                    if (entry.type === 'inbound-rtp') return entry.frameWidth / entry.frameHeight;
            }"""
        )
        return bool(found and abs(found - 4 / 3) < 0.1)

    await eventually(is_canvas, "the viewer sees the other picture")
    await eventually(decodes(viewer, "video/VP8"), "the viewer goes on decoding")
    events = await viewer.events()
    assert events.count("track_subscribed publisher video") == 1
    await publisher.leave()
    await viewer.leave()


async def test_layers_nobody_gets_are_no_longer_sent(
    server: DevServer, browser: Browser, room: str
) -> None:
    publisher = await BrowserClient.join(browser, server, room, "publisher")
    viewers = [await BrowserClient.join(browser, server, room, name) for name in ("one", "two")]
    await publisher.publish(microphone=False)
    for viewer in viewers:
        await eventually(decodes(viewer, "video/VP8"), f"{viewer.identity} decodes")

    async def unsubscribe(viewer: BrowserClient) -> None:
        await viewer.call(
            """() => {
                const [publication] =
                    window.rw.room.remoteParticipants.get('publisher').videoTrackPublications.values();
                publication.setSubscribed(false);
            }"""
        )

    async def is_idle() -> bool:
        before = await sent_codecs(publisher)
        await asyncio.sleep(1)
        return await sent_codecs(publisher) == before

    await unsubscribe(viewers[1])
    await eventually(decodes(viewers[0], "video/VP8", 100), "the first viewer is not disturbed")
    assert not await is_idle()
    await unsubscribe(viewers[0])
    await eventually(is_idle, "the publisher encodes nothing for nobody")
    for client in (publisher, *viewers):
        await client.leave()
