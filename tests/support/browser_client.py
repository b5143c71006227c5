"""livekit-client in headless Chromium as a participant: the published SDK, a real browser, fake devices."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, Page, async_playwright

from tests.support.server import Server

OLD_SDKS = Path(__file__).parents[1] / "clients" / "dist"
ENCRYPTION_WORKER = (
    Path(__file__).parents[2] / "web/node_modules/livekit-client/dist/livekit-client.e2ee.worker.js"
)
FLAGS = (
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
    "--auto-select-desktop-capture-source=Entire screen",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-features=WebRtcHideLocalIpsWithMdns",
)

_JOIN = """
async ({url, token, single, connection, more, secret, worker}) => {
    const {Room, RoomEvent, Track} = window.livekit;
    // 2.0 plays through WebAudio unless told not to, where the receiver's statistics hear nothing.
    const options = {adaptiveStream: false, dynacast: true, singlePeerConnection: single, webAudioMix: false, ...more};
    if (secret) {
        const keyProvider = new window.livekit.ExternalE2EEKeyProvider();
        await keyProvider.setKey(secret);
        const source = URL.createObjectURL(new Blob([worker], {type: 'text/javascript'}));
        options.e2ee = {keyProvider, worker: new Worker(source)};
    }
    const room = new Room(options);
    const events = [], data = [];
    if (secret) {
        room.on(RoomEvent.EncryptionError, error => events.push(`encryption_error ${error.message}`));
        await room.setE2EEEnabled(true);
    }
    room.on(RoomEvent.ParticipantConnected, p => events.push(`participant_connected ${p.identity}`));
    room.on(RoomEvent.ParticipantDisconnected, p => events.push(`participant_disconnected ${p.identity}`));
    room.on(RoomEvent.TrackSubscribed, (track, pub, p) => {
        events.push(`track_subscribed ${p.identity} ${track.kind}`);
        const shown = track.attach();
        shown.dataset.of = `${p.identity}/${track.kind}`;
        document.body.append(shown);
    });
    room.on(RoomEvent.TrackUnsubscribed, (track, pub, p) => {
        events.push(`track_unsubscribed ${p.identity} ${track.kind}`);
        track.detach().forEach(it => it.remove());
    });
    room.on(RoomEvent.TrackUnpublished, (pub, p) => events.push(`track_unpublished ${p.identity} ${pub.kind}`));
    room.on(RoomEvent.TrackMuted, (pub, p) => events.push(`track_muted ${p.identity} ${pub.kind}`));
    room.on(RoomEvent.TrackUnmuted, (pub, p) => events.push(`track_unmuted ${p.identity} ${pub.kind}`));
    room.on(RoomEvent.ActiveSpeakersChanged, s => events.push(`speakers ${s.map(p => p.identity).sort()}`));
    room.on(RoomEvent.ConnectionQualityChanged, (quality, p) => events.push(`quality ${p.identity} ${quality}`));
    room.on(RoomEvent.RoomMetadataChanged, m => events.push(`room_metadata ${m}`));
    room.on(RoomEvent.ParticipantMetadataChanged, (_, p) => events.push(`metadata ${p.identity} ${p.metadata}`));
    room.on(RoomEvent.Disconnected, reason => events.push(`disconnected ${reason}`));
    room.on(RoomEvent.Reconnecting, () => events.push('reconnecting'));
    room.on(RoomEvent.Reconnected, () => events.push('reconnected'));
    room.on(RoomEvent.DataReceived, (payload, p, kind, topic) =>
        data.push([p ? p.identity : '', new TextDecoder().decode(payload), topic ?? null, kind === 0]));
    window.rw = {room, events, data};
    await room.connect(url, token, connection);
}
"""

_RECEIVED = """
async ({identity, kind}) => {
    // livekit-client 1.x has other names, and keys by sid.
    const {remoteParticipants, participants} = window.rw.room;
    const participant = [...(remoteParticipants ?? participants).values()].find(it => it.identity === identity);
    if (!participant) return null;
    const wanted = window.livekit.Track.Kind[kind === 'video' ? 'Video' : 'Audio'];
    const publications = [...(participant.trackPublications ?? participant.tracks).values()];
    const publication = publications.find(it => it.kind === wanted && it.track);
    if (!publication) return null;
    const report = await publication.track.receiver.getStats();
    for (const entry of report.values()) if (entry.type === 'inbound-rtp') return {
        frames: entry.framesDecoded ?? 0, width: entry.frameWidth ?? 0, height: entry.frameHeight ?? 0,
        packets: entry.packetsReceived, lost: entry.packetsLost, freezes: entry.freezeCount ?? 0,
        energy: entry.totalAudioEnergy ?? 0, seconds: entry.totalSamplesDuration ?? 0, codec: entry.codecId,
        mime: report.get(entry.codecId)?.mimeType ?? '',
    };
    return null;
}
"""


class BrowserClient:
    """One participant in one page."""

    def __init__(self, page: Page, identity: str) -> None:
        self.page = page
        self.identity = identity

    @staticmethod
    async def join(
        browser: Browser,
        server: Server,
        room: str,
        identity: str,
        *,
        single: bool = True,
        old_sdk: str | None = None,
        script: str = "",
        options: dict[str, object] | None = None,
        connection: dict[str, object] | None = None,
        secret: str = "",
        **grants: object,
    ) -> "BrowserClient":
        """Connect with one or two peer connections.

        `old_sdk` is a bundle of tests/clients, by name; `script` runs before the SDK is loaded;
        `options` are the SDK's own for a room, `connection` those for its connection; with a
        `secret` all media is encrypted end to end.
        """
        page = await browser.new_page()
        if script:
            await page.add_init_script(script)
        await page.goto(f"{server.page_url}/harness.html")
        await page.wait_for_function("window.livekit !== undefined")
        if old_sdk is not None:
            # The bundle declares the same global name, and so takes the newest SDK's place.
            await page.add_script_tag(path=OLD_SDKS / f"{old_sdk}.js")
        token = server.token(room, identity, **grants)
        argument = {"url": server.url, "token": token, "single": single, "more": options or {}}
        argument |= {"connection": connection or {}}
        if secret:
            argument |= {"secret": secret, "worker": ENCRYPTION_WORKER.read_text()}
        await page.evaluate(_JOIN, argument)
        return BrowserClient(page, identity)

    async def leave(self) -> None:
        """Disconnect and close the page."""
        await self.page.evaluate("window.rw.room.disconnect()")
        await self.page.close()

    async def publish(self, *, camera: bool = True, microphone: bool = True) -> None:
        """Publish the fake devices: a beeping tone and a rolling picture with simulcast."""
        await self.page.evaluate(
            """async ({camera, microphone}) => {
                const me = window.rw.room.localParticipant;
                if (microphone) await me.setMicrophoneEnabled(true);
                if (camera) await me.setCameraEnabled(true,
                    {resolution: {width: 1280, height: 720, frameRate: 20}}, {videoCodec: 'vp8', simulcast: true});
            }""",
            {"camera": camera, "microphone": microphone},
        )

    async def call(self, script: str, argument: object = None) -> Any:
        """Evaluate a script with `rw` ({room, events, data}) and `livekit` in reach."""
        return await self.page.evaluate(script, argument)

    async def events(self) -> list[str]:
        """Everything that happened, in order."""
        found: list[str] = await self.page.evaluate("window.rw.events")
        return found

    async def data(self) -> list[list[object]]:
        """Every data packet: sender, text, topic, reliable."""
        found: list[list[object]] = await self.page.evaluate("window.rw.data")
        return found

    async def received(self, identity: str, kind: str) -> dict[str, Any]:
        """The receiver's own statistics of another's track; empty before it is subscribed."""
        found: dict[str, Any] | None = await self.page.evaluate(
            _RECEIVED, {"identity": identity, "kind": kind}
        )
        return found or {
            "frames": 0,
            "width": 0,
            "height": 0,
            "energy": 0.0,
            "packets": 0,
            "seconds": 0.0,
        }


@asynccontextmanager
async def chromium(*flags: str) -> AsyncIterator[Browser]:
    """Headless Chromium from the machine, with further flags; missing it is an error, never a skip."""
    path = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    assert path is not None, "Chromium is missing: on Debian, `apt-get install chromium`"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=[*FLAGS, *flags])
        try:
            yield browser
        finally:
            await browser.close()
