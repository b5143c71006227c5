"""livekit-client in Chromium and the Python SDK, each as publisher and subscriber of the other."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from livekit import rtc
from playwright.async_api import Browser

from tests.support.browser_client import BrowserClient
from tests.support.dev_server import DevServer
from tests.support.python_client import PythonClient, until

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

AUDIO = rtc.TrackKind.KIND_AUDIO
VIDEO = rtc.TrackKind.KIND_VIDEO


async def eventually(
    look: Callable[[], Awaitable[object]], what: str, timeout_s: float = 20.0
) -> None:
    """Wait for something a page has to be asked about."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not await look():
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"did not happen within {timeout_s:.0f} s: {what}")
        await asyncio.sleep(0.2)


async def test_a_browser_and_a_native_client_see_and_hear_each_other(
    server: DevServer, browser: Browser, room: str, single: bool
) -> None:
    native = await PythonClient.join(server, room, "native", single=single)
    page = await BrowserClient.join(browser, server, room, "page", single=single)
    await native.publish_tone()
    await native.publish_video()
    await page.publish()

    await until(
        lambda: native.of("page", VIDEO).frames >= 30, "the native client decodes 30 frames"
    )
    await until(lambda: native.of("page", AUDIO).frames >= 50, "the native client gets audio")
    loudest = 0.0
    for _ in range(60):  # the fake microphone beeps about once a second
        loudest = max(loudest, native.of("page", AUDIO).energy)
        await asyncio.sleep(0.05)
    assert loudest > 1e-4

    async def decoded() -> bool:
        return bool((await page.received("native", "video"))["frames"] >= 30)

    async def heard() -> bool:
        return bool((await page.received("native", "audio"))["energy"] > 0.01)

    await eventually(decoded, "the browser decodes 30 frames")
    await eventually(heard, "the browser hears the tone")

    await page.leave()
    await until(
        lambda: "participant_disconnected page" in native.events, "the page's leave is seen"
    )
    await native.leave()


async def test_two_browsers_see_each_other(
    server: DevServer, browser: Browser, room: str, single: bool
) -> None:
    one = await BrowserClient.join(browser, server, room, "one", single=single)
    two = await BrowserClient.join(browser, server, room, "two", single=single)
    await one.publish()
    await two.publish()

    for viewer, seen in ((one, "two"), (two, "one")):

        async def decoded(viewer: BrowserClient = viewer, seen: str = seen) -> bool:
            return bool((await viewer.received(seen, "video"))["frames"] >= 20)

        await eventually(decoded, f"{viewer.identity} decodes 20 frames of {seen}")
    await one.leave()
    await two.leave()


async def test_video_quality_switches_simulcast_layers(
    server: DevServer, browser: Browser, room: str, single: bool
) -> None:
    publisher = await BrowserClient.join(browser, server, room, "publisher", single=single)
    viewer = await BrowserClient.join(browser, server, room, "viewer", single=single)
    await publisher.publish(microphone=False)

    async def width() -> int:
        return int((await viewer.received("publisher", "video"))["width"])

    async def ask(quality: str) -> None:
        await viewer.call(
            """quality => {
                const them = window.rw.room.remoteParticipants.get('publisher');
                const [publication] = them.videoTrackPublications.values();
                publication.setVideoQuality(window.livekit.VideoQuality[quality]);
            }""",
            quality,
        )

    async def is_high() -> bool:
        return await width() == 1280

    async def is_low() -> bool:
        return await width() == 320

    await eventually(is_high, "the viewer starts with the full picture", 30)
    await ask("LOW")
    await eventually(is_low, "the picture becomes small")
    await ask("HIGH")
    await eventually(is_high, "the picture becomes large again", 30)
    stats = await viewer.received("publisher", "video")
    assert stats["freezes"] <= 2
    await publisher.leave()
    await viewer.leave()


async def test_mute_unpublish_and_data_cross_between_a_browser_and_a_native_client(
    server: DevServer, browser: Browser, room: str, single: bool
) -> None:
    native = await PythonClient.join(server, room, "native", single=single)
    page = await BrowserClient.join(browser, server, room, "page", single=single)
    await page.publish()
    await until(lambda: native.of("page", VIDEO).frames >= 10, "the native client sees the page")

    await page.call("window.rw.room.localParticipant.setCameraEnabled(false)")
    await until(lambda: f"track_muted page {VIDEO}" in native.events, "the mute is seen")
    before = native.of("page", VIDEO).frames
    await page.call("window.rw.room.localParticipant.setCameraEnabled(true)")
    await until(lambda: f"track_unmuted page {VIDEO}" in native.events, "the unmute is seen")
    await until(lambda: native.of("page", VIDEO).frames > before + 10, "the picture goes on")

    await page.call(
        """async () => {
            const me = window.rw.room.localParticipant;
            for (const kind of [true, false]) await me.publishData(
                new TextEncoder().encode(kind ? 'kept' : 'fast'), {reliable: kind, topic: 'both'});
        }"""
    )
    await until(lambda: ("page", b"kept", "both", True) in native.data, "reliable data arrives")
    await until(lambda: ("page", b"fast", "both", False) in native.data, "lossy data arrives")
    await native.room.local_participant.publish_data("back", reliable=True, topic="both")

    async def answered() -> bool:
        return ["native", "back", "both", True] in await page.data()

    await eventually(answered, "the page receives data")
    await native.room.local_participant.set_metadata("away")

    async def told() -> bool:
        return "metadata native away" in await page.events()

    await eventually(told, "the page sees the metadata")

    await page.call(
        """async () => {
            const me = window.rw.room.localParticipant;
            for (const pub of [...me.trackPublications.values()]) await me.unpublishTrack(pub.track);
        }"""
    )
    await until(lambda: f"track_unpublished page {VIDEO}" in native.events, "the camera is gone")
    await until(
        lambda: f"track_unpublished page {AUDIO}" in native.events, "the microphone is gone"
    )
    await page.leave()
    await native.leave()


async def test_a_muted_camera_and_microphone_end_in_a_second_of_black_and_silence(
    server: DevServer, browser: Browser, room: str
) -> None:
    sender = await BrowserClient.join(browser, server, room, "sender")
    page = await BrowserClient.join(browser, server, room, "page")
    await sender.publish()

    async def has_picture() -> bool:
        video = await page.received("sender", "video")
        return bool(video["frames"] >= 30 and video["width"] > 300)

    await eventually(has_picture, "the page decodes 30 frames")
    await sender.call("window.rw.room.localParticipant.setMicrophoneEnabled(false)")
    await sender.call("window.rw.room.localParticipant.setCameraEnabled(false)")

    async def is_black() -> bool:
        return bool((await page.received("sender", "video"))["width"] == 8)

    await eventually(is_black, "the last picture gives way to a small black one", 5)
    await asyncio.sleep(1.5)
    at_rest = [await page.received("sender", kind) for kind in ("audio", "video")]
    await asyncio.sleep(1)
    later = [await page.received("sender", kind) for kind in ("audio", "video")]
    assert [it["packets"] for it in later] == [it["packets"] for it in at_rest]
    assert later[0]["lost"] == 0, "numbers go on without holes"

    await sender.call("window.rw.room.localParticipant.setMicrophoneEnabled(true)")
    await sender.call("window.rw.room.localParticipant.setCameraEnabled(true)")

    async def goes_on() -> bool:
        audio, video = [await page.received("sender", kind) for kind in ("audio", "video")]
        return bool(
            video["frames"] > later[1]["frames"] + 10
            and video["width"] > 300
            and audio["packets"] > later[0]["packets"] + 50
        )

    await eventually(goes_on, "picture and sound go on")
    await sender.leave()
    await page.leave()


async def test_the_page_of_make_run_shows_two_tabs_to_each_other(
    server: DevServer, browser: Browser, room: str
) -> None:
    tabs = []
    for identity in ("ann", "ben"):
        page = await browser.new_page()
        token = server.token(room, identity)
        await page.goto(f"{server.page_url}/#url={server.url}&token={token}")
        tabs.append(page)
    for page in tabs:
        await page.wait_for_function(
            """document.querySelectorAll('figure video').length === 2 &&
               [...document.querySelectorAll('figure video')].every(it => it.videoWidth > 0 && it.currentTime > 1)""",
            timeout=30_000,
        )
        assert "token" not in page.url
    await tabs[0].fill("#text", "hello from ann")
    await tabs[0].press("#text", "Enter")
    await tabs[1].wait_for_selector("#messages li:has-text('Ann: hello from ann')", timeout=10_000)
    for page in tabs:
        await page.close()
