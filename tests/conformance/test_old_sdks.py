"""Releases of other generations beside the newest: what was shipped years ago still talks, and is understood."""

import pytest
from livekit import rtc
from playwright.async_api import Browser

from tests.conformance.test_browser_sdk import eventually
from tests.support.browser_client import BrowserClient
from tests.support.client_process import ClientProcess
from tests.support.dev_server import DevServer
from tests.support.python_client import PythonClient, until

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

AUDIO = rtc.TrackKind.KIND_AUDIO
VIDEO = rtc.TrackKind.KIND_VIDEO


@pytest.fixture(params=["livekit-client-1", "livekit-client-2.0"])
def old_sdk(request: pytest.FixtureRequest) -> str:
    """livekit-client 1.6.9 (signal protocol 9) or 2.0.10 (12)."""
    return str(request.param)


async def test_an_old_and_the_newest_native_sdk_hear_and_see_each_other(
    server: DevServer, room: str, single: bool
) -> None:
    old = await ClientProcess.old_python(server, room, "old")
    native = await PythonClient.join(server, room, "native", single=single)
    await native.publish_tone()
    await native.publish_video()
    tone = await old.ask("publish_tone")
    await old.ask("publish_video")

    await until(lambda: native.of("old", AUDIO).tone_share > 0.8, "the newest hears the old")
    await until(lambda: native.of("old", VIDEO).frames >= 20, "the newest sees the old")
    await old.told("heard native", times=20)
    await old.told("saw native", times=2)
    await old.ask("unpublish", sid=tone)
    await until(lambda: f"track_unpublished old {AUDIO}" in native.events, "the tone is gone")
    await native.leave()
    await old.told("participant_disconnected native")
    await old.leave()


async def test_data_and_metadata_cross_between_an_old_and_the_newest_native_sdk(
    server: DevServer, room: str, single: bool
) -> None:
    old = await ClientProcess.old_python(server, room, "old")
    native = await PythonClient.join(server, room, "native", single=single)
    await old.told("participant_connected native")
    for number in range(20):
        await old.ask("send_data", text=f"n{number}", topic="count", reliable=True)
    await until(lambda: len(native.data) == 20, "the newest receives 20 packets")
    assert [it[1] for it in native.data] == [f"n{number}".encode() for number in range(20)]
    await native.room.local_participant.publish_data("back", reliable=True, topic="both")
    await native.room.local_participant.set_metadata("away")
    await old.told("data native both back")
    await old.told("metadata native away")
    await old.ask("set_metadata", metadata="busy")
    await until(lambda: "metadata old busy" in native.events, "the newest sees the metadata")
    await old.leave()
    await until(lambda: "participant_disconnected old" in native.events, "the old one has left")
    await native.leave()


async def test_an_old_browser_sdk_and_a_native_client_see_and_hear_each_other(
    server: DevServer, browser: Browser, room: str, old_sdk: str
) -> None:
    native = await PythonClient.join(server, room, "native")
    page = await BrowserClient.join(browser, server, room, "page", old_sdk=old_sdk)
    await native.publish_tone()
    await native.publish_video()
    await page.publish()
    await until(lambda: native.of("page", VIDEO).frames >= 20, "the native client sees the page")
    await until(lambda: native.of("page", AUDIO).frames >= 50, "the native client gets its sound")

    async def decoded() -> bool:
        return bool((await page.received("native", "video"))["frames"] >= 20)

    async def heard() -> bool:
        return bool((await page.received("native", "audio"))["energy"] > 0.01)

    await eventually(decoded, "the page decodes 20 frames")
    await eventually(heard, "the page hears the tone")

    await page.call("window.rw.room.localParticipant.setCameraEnabled(false)")
    await until(lambda: f"track_muted page {VIDEO}" in native.events, "the mute is seen")
    await native.leave()

    async def told() -> bool:
        return "participant_disconnected native" in await page.events()

    await eventually(told, "the page sees the native client leave")
    await page.leave()


async def test_an_old_browser_sdk_exchanges_data_with_a_native_client(
    server: DevServer, browser: Browser, room: str, old_sdk: str
) -> None:
    native = await PythonClient.join(server, room, "native")
    page = await BrowserClient.join(browser, server, room, "page", old_sdk=old_sdk)
    # 1.x takes the kind as a number, 2.0 as an option.
    await page.call(
        """async old => {
            const me = window.rw.room.localParticipant, text = new TextEncoder().encode('kept');
            if (old) await me.publishData(text, 0, {topic: 'both'});
            else await me.publishData(text, {reliable: true, topic: 'both'});
        }""",
        old_sdk == "livekit-client-1",
    )
    await until(lambda: ("page", b"kept", "both", True) in native.data, "reliable data arrives")
    await native.room.local_participant.publish_data("back", reliable=True, topic="both")
    await native.room.local_participant.set_metadata("away")

    async def answered() -> bool:
        return ["native", "back", "both", True] in await page.data()

    async def told() -> bool:
        return "metadata native away" in await page.events()

    await eventually(answered, "the page receives data")
    await eventually(told, "the page sees the metadata")
    await page.leave()
    await native.leave()


async def test_an_old_browser_sdk_resumes_after_its_socket_broke(
    server: DevServer, browser: Browser, room: str, old_sdk: str
) -> None:
    native = await PythonClient.join(server, room, "native")
    page = await BrowserClient.join(browser, server, room, "page", old_sdk=old_sdk)
    await page.publish(microphone=False)
    await until(lambda: native.of("page", VIDEO).frames >= 10, "the native client sees the page")
    sid = native.room.remote_participants["page"].sid

    # These releases tell nobody of a resume that worked; the engine does.
    await page.call(
        """async () => {
            const {room, events} = window.rw;
            room.engine.on('resumed', () => events.push('resumed'));
            await room.simulateScenario('signal-reconnect');
        }"""
    )

    async def resumed() -> bool:
        return "resumed" in await page.events()

    await eventually(resumed, "the page is back", 30)
    before = native.of("page", VIDEO).frames
    await until(lambda: native.of("page", VIDEO).frames > before + 20, "the picture goes on")
    assert native.room.remote_participants["page"].sid == sid
    assert "participant_disconnected page" not in native.events
    await page.leave()
    await native.leave()
