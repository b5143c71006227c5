"""Scalable video: Chromium sends all layers in one stream, and each viewer gets the layers it asks for."""

import asyncio

import pytest
from playwright.async_api import Browser

from tests.conformance.test_browser_sdk import eventually
from tests.support.browser_client import BrowserClient
from tests.support.dev_server import DevServer

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

PUBLISH = """
async ({codec, mode}) => {
    const me = window.rw.room.localParticipant;
    await me.setCameraEnabled(true, {resolution: {width: 960, height: 540, frameRate: 15}},
        {videoCodec: codec, scalabilityMode: mode, backupCodec: false,
         degradationPreference: 'maintain-resolution',
         videoEncoding: {maxBitrate: 1_200_000, maxFramerate: 15}});
}
"""

ASK = """
wish => {
    const them = window.rw.room.remoteParticipants.get('publisher');
    const [publication] = them.videoTrackPublications.values();
    if (wish.quality) publication.setVideoQuality(window.livekit.VideoQuality[wish.quality]);
    if (wish.fps) publication.setVideoFPS(wish.fps);
}
"""


@pytest.mark.parametrize(("codec", "mode"), [("vp9", "L3T3_KEY"), ("av1", "L3T3")])
async def test_a_viewer_of_scalable_video_gets_the_layers_it_asks_for(
    server: DevServer, browser: Browser, room: str, codec: str, mode: str
) -> None:
    publisher = await BrowserClient.join(browser, server, room, "publisher")
    viewer = await BrowserClient.join(browser, server, room, "viewer")
    other = await BrowserClient.join(browser, server, room, "other")
    await publisher.call(PUBLISH, {"codec": codec, "mode": mode})

    async def width(of: BrowserClient) -> int:
        return int((await of.received("publisher", "video"))["width"])

    async def is_high() -> bool:
        return await width(viewer) == 960 and await width(other) == 960

    async def is_medium() -> bool:
        return await width(viewer) == 480

    async def is_low() -> bool:
        return await width(viewer) == 240

    await eventually(is_high, "both see the full picture", 40)
    assert codec in (await viewer.received("publisher", "video"))["mime"].lower()
    await viewer.call(ASK, {"quality": "MEDIUM"})
    await eventually(is_medium, "the picture becomes half as wide")
    await viewer.call(ASK, {"quality": "LOW"})
    await eventually(is_low, "the picture becomes small")
    assert await width(other) == 960, "the other viewer keeps the full picture"
    await viewer.call(ASK, {"quality": "HIGH"})
    await eventually(is_high, "the picture becomes large again", 30)

    async def frames_in_two_seconds() -> int:
        before = (await viewer.received("publisher", "video"))["frames"]
        await asyncio.sleep(2)
        return int((await viewer.received("publisher", "video"))["frames"] - before)

    async def is_slow() -> bool:
        return 0 < await frames_in_two_seconds() <= 11

    async def is_fast() -> bool:
        return await frames_in_two_seconds() >= 16

    await eventually(is_fast, "all frames come")
    await viewer.call(ASK, {"fps": 5})
    await eventually(is_slow, "a quarter of the frames comes")
    assert await width(viewer) == 960
    await viewer.call(ASK, {"fps": 30})
    await eventually(is_fast, "all frames come again")
    for page in (viewer, other, publisher):
        await page.leave()
