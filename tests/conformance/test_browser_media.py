"""What the published web SDK does with media in Chromium: encryption, layers, screens, sound, speakers, scenarios."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.conformance.test_browser_sdk import eventually
from tests.conformance.test_codecs import CODEC, takes_only
from tests.support.browser_client import BrowserClient
from tests.support.dev_server import DevServer

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

ASK = """
wish => {
    const [publication] = window.rw.room.remoteParticipants.get('publisher').videoTrackPublications.values();
    if (wish.quality) publication.setVideoQuality(window.livekit.VideoQuality[wish.quality]);
    if (wish.fps) publication.setVideoFPS(wish.fps);
}
"""

SENT = """
async () => {
    const sent = [];
    for (const publication of window.rw.room.localParticipant.trackPublications.values()) {
        const report = await publication.track.sender.getStats();
        for (const entry of report.values()) if (entry.type === 'outbound-rtp') sent.push({
            source: publication.source, rid: entry.rid ?? '', frames: entry.framesEncoded ?? 0,
            mime: report.get(entry.codecId)?.mimeType ?? '', fmtp: report.get(entry.codecId)?.sdpFmtpLine ?? '',
        });
    }
    return sent;
}
"""

PICTURE = """
const picture = (width, height) => {
    const canvas = Object.assign(document.createElement('canvas'), {width, height});
    const context = canvas.getContext('2d');
    setInterval(() => { context.fillStyle = `hsl(${Date.now() / 10 % 360} 90% 50%)`;
        context.fillRect(0, 0, width, height); }, 50);
    return canvas.captureStream(20).getVideoTracks()[0];
};
const tones = (...frequencies) => {
    const audio = new AudioContext();
    const merger = audio.createChannelMerger(frequencies.length);
    frequencies.forEach((frequency, channel) => {
        const tone = audio.createOscillator();
        tone.frequency.value = frequency;
        tone.connect(merger, 0, channel);
        tone.start();
    });
    const out = audio.createMediaStreamDestination();
    out.channelCount = frequencies.length;
    merger.connect(out);
    return out.stream.getAudioTracks()[0];
};
"""
"""A picture and tones without devices."""


ANSWERS = """
window.answers = [];
const taken = RTCPeerConnection.prototype.setRemoteDescription;
RTCPeerConnection.prototype.setRemoteDescription = function (description) {
    if (description.type === 'answer') window.answers.push(description.sdp);
    return taken.apply(this, arguments);
};
"""
"""Keeps the answers that the browser takes; they are the server's words, or the SDK's of them."""


@pytest_asyncio.fixture(autouse=True, loop_scope="session")
async def closed_pages(browser: Browser) -> AsyncIterator[None]:
    """What a failed test leaves open would slow all after it."""
    yield
    for context in browser.contexts:
        await context.close()


def seen(
    viewer: BrowserClient, kind: str, check: Callable[[dict[str, Any]], object]
) -> Callable[[], Awaitable[bool]]:
    """Whether the statistics of the publisher's track are such."""

    async def look() -> bool:
        return bool(check(await viewer.received("publisher", kind)))

    return look


def has(client: BrowserClient, event: str) -> Callable[[], Awaitable[bool]]:
    """Whether a page was told this."""

    async def look() -> bool:
        return event in await client.events()

    return look


async def frames_in(viewer: BrowserClient, seconds: float) -> int:
    """Frames decoded from now on."""
    before = (await viewer.received("publisher", "video"))["frames"]
    await asyncio.sleep(seconds)
    return int((await viewer.received("publisher", "video"))["frames"] - before)


def flows(listener: BrowserClient) -> Callable[[], Awaitable[bool]]:
    """Whether packets of the publisher's sound arrive now, by whatever receiver."""

    async def look() -> bool:
        before = (await listener.received("publisher", "audio"))["packets"]
        await asyncio.sleep(1)
        return bool((await listener.received("publisher", "audio"))["packets"] - before > 30)

    return look


async def encoded(publisher: BrowserClient, seconds: float = 1.0) -> set[str]:
    """Layers of the camera that the publisher encodes now, by rid."""
    before = {it["rid"]: it["frames"] for it in await publisher.call(SENT)}
    await asyncio.sleep(seconds)
    return {it["rid"] for it in await publisher.call(SENT) if it["frames"] > before[it["rid"]]}


async def has_left(*clients: BrowserClient) -> None:
    for client in clients:
        await client.leave()


# ------------------------------------------------------------------------------- encryption


async def test_who_has_the_key_sees_and_hears_through_mutes_and_nobody_else(
    server: DevServer, browser: Browser, room: str, single: bool
) -> None:
    def join(identity: str, secret: str) -> Awaitable[BrowserClient]:
        return BrowserClient.join(browser, server, room, identity, single=single, secret=secret)

    publisher = await join("publisher", "the secret of the room")
    friend = await join("friend", "the secret of the room")
    stranger = await join("stranger", "another secret")
    await publisher.publish()

    await eventually(seen(friend, "video", lambda it: it["frames"] > 20), "the friend sees")
    await eventually(seen(friend, "audio", lambda it: it["energy"] > 0.001), "the friend hears")
    kinds = await friend.call(
        """() => [...window.rw.room.remoteParticipants.get('publisher').trackPublications.values()]
            .map(it => it.trackInfo.encryption)"""
    )
    assert kinds == [1, 1], "both tracks are told as AES-GCM"

    await publisher.call("window.rw.room.localParticipant.setMicrophoneEnabled(false)")
    await publisher.call("window.rw.room.localParticipant.setCameraEnabled(false)")
    await eventually(
        seen(friend, "video", lambda it: it["width"] == 8), "the server's black picture is shown"
    )
    await asyncio.sleep(1.2)
    rest = await friend.received("publisher", "video")
    await publisher.call("window.rw.room.localParticipant.setMicrophoneEnabled(true)")
    await publisher.call("window.rw.room.localParticipant.setCameraEnabled(true)")
    await eventually(
        seen(friend, "video", lambda it: it["frames"] > rest["frames"] + 10 and it["width"] > 300),
        "the picture goes on",
    )
    for client in (publisher, friend):
        errors = [it for it in await client.events() if it.startswith("encryption_error")]
        assert errors == []

    async def is_lost() -> bool:
        return any(it.startswith("encryption_error") for it in await stranger.events())

    await eventually(is_lost, "the stranger cannot decrypt")
    assert (await stranger.received("publisher", "audio"))["energy"] < 0.001
    await has_left(publisher, friend, stranger)


# ----------------------------------------------------------------------------------- layers


async def test_layers_nobody_asks_for_stop_and_come_again(
    server: DevServer, browser: Browser, room: str
) -> None:
    publisher = await BrowserClient.join(browser, server, room, "publisher")
    viewer = await BrowserClient.join(browser, server, room, "viewer")
    await publisher.publish(microphone=False)
    await eventually(seen(viewer, "video", lambda it: it["width"] == 1280), "the full picture", 30)
    await viewer.call(ASK, {"quality": "LOW"})
    await eventually(seen(viewer, "video", lambda it: it["width"] == 320), "the low layer")

    async def is_low_only() -> bool:
        return await encoded(publisher) == {"q"}

    await eventually(is_low_only, "the publisher stops the layers nobody gets", 10)
    await viewer.call(ASK, {"quality": "HIGH"})
    await eventually(seen(viewer, "video", lambda it: it["width"] == 1280), "large again", 30)
    await has_left(publisher, viewer)


async def test_frame_rate_is_as_asked(server: DevServer, browser: Browser, room: str) -> None:
    publisher = await BrowserClient.join(browser, server, room, "publisher")
    viewer = await BrowserClient.join(browser, server, room, "viewer")
    await publisher.call(
        """() => window.rw.room.localParticipant.setCameraEnabled(true,
            {resolution: {width: 640, height: 360, frameRate: 20}},
            {videoCodec: 'vp9', backupCodec: false, simulcast: false, scalabilityMode: 'L1T3'})"""
    )

    async def is_full() -> bool:
        return await frames_in(viewer, 2) >= 30

    await eventually(is_full, "every frame comes")
    await viewer.call(ASK, {"fps": 5})

    async def is_slow() -> bool:
        return 5 <= await frames_in(viewer, 2) <= 13

    await eventually(is_slow, "a quarter of the frames comes", 15)
    assert (await viewer.received("publisher", "video"))["width"] == 640
    await viewer.call(ASK, {"fps": 30})
    await eventually(is_full, "every frame comes again")
    await has_left(publisher, viewer)


async def test_what_is_hidden_gets_no_packets_and_what_is_small_the_low_layer(
    server: DevServer, browser: Browser, room: str
) -> None:
    publisher = await BrowserClient.join(browser, server, room, "publisher")
    viewer = await BrowserClient.join(
        browser, server, room, "viewer", options={"adaptiveStream": {"pixelDensity": 1}}
    )
    await publisher.publish(microphone=False)

    async def style(css: str) -> None:
        await viewer.call("css => { document.querySelector('video').style.cssText = css; }", css)

    await eventually(seen(viewer, "video", lambda it: it["frames"] > 5), "the viewer decodes")
    await style("width: 1200px; height: 675px")
    await eventually(seen(viewer, "video", lambda it: it["width"] == 1280), "large", 20)
    await style("width: 160px; height: 90px")
    await eventually(seen(viewer, "video", lambda it: it["width"] == 320), "the low layer")
    await style("display: none")

    async def is_still() -> bool:
        before = (await viewer.received("publisher", "video"))["packets"]
        await asyncio.sleep(1)
        return bool((await viewer.received("publisher", "video"))["packets"] == before)

    await eventually(is_still, "no packets for what is hidden")
    await style("width: 160px; height: 90px")

    async def flows() -> bool:
        return await frames_in(viewer, 1) > 5

    await eventually(flows, "shown again, it flows")
    await has_left(publisher, viewer)


@pytest.mark.parametrize("codec", ["h264", "vp9"])
async def test_camera_of_one_layer_is_decoded(
    server: DevServer, browser: Browser, room: str, codec: str
) -> None:
    publisher = await BrowserClient.join(browser, server, room, "publisher")
    viewer = await BrowserClient.join(browser, server, room, "viewer")
    await publisher.call(
        """codec => window.rw.room.localParticipant.setCameraEnabled(true,
            {resolution: {width: 640, height: 360, frameRate: 20}},
            {videoCodec: codec, backupCodec: false, simulcast: false, scalabilityMode: 'L1T1'})""",
        codec,
    )

    async def is_decoded() -> bool:
        mime, frames = await viewer.call(CODEC, "video")
        return bool(mime.lower() == f"video/{codec}" and frames > 20)

    await eventually(is_decoded, f"the viewer decodes {codec}")
    assert (await viewer.received("publisher", "video"))["width"] == 640
    await has_left(publisher, viewer)


# ---------------------------------------------------------------------------------- screens


async def test_screen_with_sound_beside_the_camera_ends_and_comes_again(
    server: DevServer, browser: Browser, room: str, single: bool
) -> None:
    publisher = await BrowserClient.join(browser, server, room, "publisher", single=single)
    viewer = await BrowserClient.join(browser, server, room, "viewer", single=single)
    await publisher.publish()
    share = (
        "async () => {"
        + PICTURE
        + """
        const me = window.rw.room.localParticipant, {Source} = window.livekit.Track;
        await me.publishTrack(picture(800, 600), {source: Source.ScreenShare, simulcast: false, videoCodec: 'vp8'});
        await me.publishTrack(tones(440), {source: Source.ScreenShareAudio});
    }"""
    )
    await publisher.call(share)

    async def flowing() -> set[str]:
        found: list[str] = await viewer.call(
            """async () => {
                const flowing = [];
                for (const it of window.rw.room.remoteParticipants.get('publisher').trackPublications.values()) {
                    if (!it.track) continue;
                    const report = await it.track.receiver.getStats();
                    for (const entry of report.values()) if (entry.type === 'inbound-rtp')
                        if ((entry.framesDecoded ?? 0) > 10 || (entry.totalAudioEnergy ?? 0) > 0.001)
                            flowing.push(`${it.source} ${it.trackSid.slice(0, 5)}`);
                }
                return flowing;
            }"""
        )
        return set(found)

    devices = {"camera TR_VC", "microphone TR_AM"}
    screen = {"screen_share TR_VS", "screen_share_audio TR_As"}

    def flow(wanted: set[str]) -> Callable[[], Awaitable[bool]]:
        async def look() -> bool:
            return await flowing() == wanted

        return look

    await eventually(flow(devices | screen), "four tracks at once")
    await publisher.call(
        """async () => {
            const me = window.rw.room.localParticipant;
            for (const it of [...me.trackPublications.values()])
                if (it.source.startsWith('screen')) await me.unpublishTrack(it.track);
        }"""
    )
    await eventually(flow(devices), "the screen is gone and the rest goes on")
    await publisher.call(share)
    await eventually(flow(devices | screen), "the screen is back")
    await has_left(publisher, viewer)


# ------------------------------------------------------------------------------------ sound


async def packet_size(listener: BrowserClient) -> float:
    """Mean bytes of a packet of sound."""
    size: float = await listener.call(
        """async () => {
            const them = window.rw.room.remoteParticipants.get('publisher');
            const [publication] = them.audioTrackPublications.values();
            const report = await publication.track.receiver.getStats();
            const entry = [...report.values()].find(it => it.type === 'inbound-rtp');
            return entry.bytesReceived / entry.packetsReceived;
        }"""
    )
    return size


async def test_stereo_is_heard_on_two_channels_and_redundancy_is_default(
    server: DevServer, browser: Browser, room: str, single: bool
) -> None:
    publisher = await BrowserClient.join(
        browser, server, room, "publisher", single=single, script=ANSWERS
    )
    listener = await BrowserClient.join(browser, server, room, "listener", single=single)
    plain = takes_only("audio", "audio/opus")
    simple = await BrowserClient.join(browser, server, room, "simple", single=single, script=plain)
    await publisher.publish(camera=False)
    for client in (listener, simple):
        await eventually(
            seen(client, "audio", lambda it: it["energy"] > 0.001), f"{client.identity} hears"
        )
    # Chromium names both audio/opus; who gets each frame twice gets twice the bytes.
    assert await packet_size(listener) > 1.5 * await packet_size(simple)
    assert "usedtx=1" in await publisher.call("window.answers.at(-1)")

    await publisher.call(
        """async () => {
            const me = window.rw.room.localParticipant;
            for (const it of [...me.trackPublications.values()]) await me.unpublishTrack(it.track);
        }"""
    )
    await publisher.call(
        "async () => {"
        + PICTURE
        + """
        await window.rw.room.localParticipant.publishTrack(tones(440, 1760),
            {source: window.livekit.Track.Source.Microphone, forceStereo: true, dtx: false, red: false,
             audioPreset: {maxBitrate: 128_000}});
    }"""
    )

    async def is_stereo() -> bool:
        loud: list[float] = await listener.call(
            """async () => {
                const them = window.rw.room.remoteParticipants.get('publisher');
                const [publication] = [...them.audioTrackPublications.values()].filter(it => it.track);
                if (!publication) return [0, 0, 0, 0];
                const audio = window.audio ??= new AudioContext();
                const source = audio.createMediaStreamSource(new MediaStream([publication.track.mediaStreamTrack]));
                const splitter = audio.createChannelSplitter(2);
                source.connect(splitter);
                const ears = [0, 1].map(channel => {
                    const ear = Object.assign(audio.createAnalyser(), {fftSize: 2048});
                    splitter.connect(ear, channel);
                    return ear;
                });
                await new Promise(done => setTimeout(done, 500));
                const found = [];
                for (const ear of ears) for (const frequency of [440, 1760]) {
                    const levels = new Float32Array(ear.frequencyBinCount);
                    ear.getFloatFrequencyData(levels);
                    found.push(Math.max(-200, levels[Math.round(frequency / audio.sampleRate * 2048)]));
                }
                source.disconnect();
                return found;
            }"""
        )
        left_low, left_high, right_low, right_high = loud
        return left_low > left_high + 20 and right_high > right_low + 20

    await eventually(is_stereo, "each ear hears its own tone")
    sdp = await publisher.call("window.answers.at(-1)")
    assert "stereo=1" in sdp.replace("sprop-stereo=1", "")
    await has_left(publisher, listener, simple)


async def test_who_beeps_is_a_speaker_until_muted_and_both_are_connected_well(
    server: DevServer, browser: Browser, room: str
) -> None:
    publisher = await BrowserClient.join(browser, server, room, "publisher")
    listener = await BrowserClient.join(browser, server, room, "listener")
    await publisher.call(
        "async () => {"
        + PICTURE
        + """await window.rw.room.localParticipant.publishTrack(tones(440),
            {source: window.livekit.Track.Source.Microphone}); }"""
    )
    for client in (publisher, listener):
        await eventually(has(client, "speakers publisher"), f"{client.identity} is told who speaks")
    level, is_speaking = await listener.call(
        """() => { const it = window.rw.room.remoteParticipants.get('publisher');
            return [it.audioLevel, it.isSpeaking]; }"""
    )
    assert is_speaking
    assert 0 < level <= 1
    await publisher.call("window.rw.room.localParticipant.setMicrophoneEnabled(false)")

    async def is_silent() -> bool:
        told = [it for it in await listener.events() if it.startswith("speakers")]
        return told[-1] == "speakers " and not await listener.call(
            "window.rw.room.remoteParticipants.get('publisher').isSpeaking"
        )

    await eventually(is_silent, "a mute ends it", 5)
    # Each is told of itself and of whom it is subscribed to.
    told = ((publisher, "publisher"), (listener, "publisher"), (listener, "listener"))
    for client, identity in told:
        await eventually(
            has(client, f"quality {identity} excellent"),
            f"{client.identity} is told of {identity}'s connection",
        )
    await has_left(publisher, listener)


# -------------------------------------------------------------------------------- scenarios


SID = "window.rw.room.localParticipant.sid"
SIMULATE = "scenario => { window.rw.room.simulateScenario(scenario); }"


@pytest.mark.parametrize(
    ("scenario", "keeps_session"),
    [
        ("signal-reconnect", True),
        ("disconnect-signal-on-resume", True),
        ("resume-reconnect", None),
        ("full-reconnect", False),
        ("leave-full-reconnect", False),
        ("force-tcp", False),
    ],
)
async def test_simulated_fault_is_overcome(
    server: DevServer, browser: Browser, room: str, scenario: str, keeps_session: bool | None
) -> None:
    publisher = await BrowserClient.join(browser, server, room, "publisher")
    listener = await BrowserClient.join(browser, server, room, "listener")
    await publisher.publish(camera=False)
    await eventually(seen(listener, "audio", lambda it: it["packets"] > 20), "sound flows")
    sid = await listener.call(SID)
    await listener.call(SIMULATE, scenario)

    async def is_back() -> bool:
        # A resume fires no `reconnecting` for short outages, but always `reconnected`.
        state = await listener.call("window.rw.room.state")
        return bool(state == "connected" and await has(listener, "reconnected")())

    await eventually(is_back, "the session goes on")
    await eventually(flows(listener), "sound flows again")
    if keeps_session is not None:
        assert (await listener.call(SID) == sid) is keeps_session
    if scenario == "force-tcp":
        assert await listener.call(
            """async () => {
                const report = await window.rw.room.engine.pcManager.publisher.getStats();
                const pairs = [...report.values()].filter(it => it.type === 'transport')
                    .map(it => report.get(it.selectedCandidatePairId));
                return pairs.map(it => report.get(it.remoteCandidateId).protocol);
            }"""
        ) == ["tcp"]
    await has_left(publisher, listener)


async def test_little_bandwidth_pauses_pictures_and_tells_so_until_there_is_more(
    server: DevServer, browser: Browser, room: str
) -> None:
    publisher = await BrowserClient.join(browser, server, room, "publisher")
    viewer = await BrowserClient.join(
        browser, server, room, "viewer", connection={"subscriberAllowPause": True}
    )
    await viewer.call(
        """window.rw.room.on(window.livekit.RoomEvent.TrackStreamStateChanged,
            (publication, state, p) => window.rw.events.push(`stream ${p.identity} ${state}`))"""
    )
    await publisher.publish()
    await eventually(seen(viewer, "video", lambda it: it["frames"] > 20), "the camera is seen")
    await viewer.call("() => { window.rw.room.simulateScenario('subscriber-bandwidth', 60_000); }")
    await eventually(has(viewer, "stream publisher paused"), "the page is told of the pause")
    await asyncio.sleep(0.5)  # what was on its way
    before = await viewer.received("publisher", "video")
    await asyncio.sleep(1.0)
    paused = await viewer.received("publisher", "video")
    assert before is not None
    assert paused is not None
    assert paused["packets"] - before["packets"] < 3
    await viewer.call("() => { window.rw.room.simulateScenario('subscriber-bandwidth', 0); }")
    await eventually(has(viewer, "stream publisher active"), "and of its end")
    await eventually(
        seen(viewer, "video", lambda it: it["frames"] > paused["frames"] + 10), "it is seen again"
    )
    await has_left(publisher, viewer)


async def test_simulated_speakers_and_the_end_of_the_server_are_told(
    server: DevServer, browser: Browser, room: str
) -> None:
    client = await BrowserClient.join(browser, server, room, "publisher")
    other = await BrowserClient.join(browser, server, room, "other")
    await client.call(SIMULATE, "speaker")
    await eventually(has(client, "speakers publisher"), "the client is a speaker")
    await eventually(has(client, "speakers "), "and no longer", 6)
    await client.call(SIMULATE, "server-leave")
    shutdown = await client.call("window.livekit.DisconnectReason.SERVER_SHUTDOWN")
    await eventually(has(client, f"disconnected {shutdown}"), "the client is told to leave")
    await eventually(has(other, "participant_disconnected publisher"), "the other is told")
    await has_left(client, other)
