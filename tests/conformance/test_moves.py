"""MoveParticipant with the published SDKs: within a node and between nodes, and what everybody sees of it."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from livekit import api, rtc
from playwright.async_api import Browser

from tests.support.browser_client import BrowserClient
from tests.support.dev_server import KEY, SECRET, DevServer
from tests.support.python_client import PythonClient, until

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

AUDIO = rtc.TrackKind.KIND_AUDIO


async def eventually(look: Callable[[], Awaitable[object]], what: str) -> None:
    """Wait for something a page has to be asked about."""
    deadline = asyncio.get_running_loop().time() + 20.0
    while not await look():
        assert asyncio.get_running_loop().time() < deadline, f"did not happen: {what}"
        await asyncio.sleep(0.2)


async def move(server: DevServer, room: str, identity: str, destination: str) -> None:
    async with api.LiveKitAPI(server.http_url, KEY, SECRET) as lk:
        await lk.room.move_participant(
            api.MoveParticipantRequest(room=room, identity=identity, destination_room=destination)
        )


async def test_native_client_moves_with_its_connection_and_its_track(
    server: DevServer, room: str, single: bool
) -> None:
    there = f"{room}-there"
    mover = await PythonClient.join(server, room, "mover", single=single)
    mover.room.on("moved", lambda: mover.events.append(f"moved {mover.room.name}"))
    left = await PythonClient.join(server, room, "left", single=single)
    met = await PythonClient.join(server, there, "met", single=single)
    publication = await mover.publish_tone()
    await left.publish_tone()
    await met.publish_tone()
    await until(lambda: left.of("mover", AUDIO).energy > 0.01, "the tone is heard before")
    await until(lambda: mover.of("left", AUDIO).energy > 0.01, "the mover hears the old room")
    old_sid = mover.room.local_participant.sid

    await move(server, room, "mover", there)
    await until(lambda: f"moved {there}" in mover.events, "the SDK says so")
    await until(lambda: "participant_disconnected mover" in left.events, "the old room sees it go")
    await until(lambda: met.of("mover", AUDIO).energy > 0.01, "the new room hears the tone")
    await until(lambda: mover.of("met", AUDIO).energy > 0.01, "the mover hears the new room")
    assert set(mover.room.remote_participants) == {"met"}
    assert "participant_disconnected left" in mover.events
    assert mover.room.local_participant.sid.startswith("PA_")
    assert mover.room.local_participant.sid != old_sid
    assert list(met.room.remote_participants["mover"].track_publications) == [publication.sid]
    assert "reconnecting" not in mover.events
    await asyncio.sleep(0.5)  # what was on its way is played to its end
    heard = len(left.of("mover", AUDIO).arrivals)
    await asyncio.sleep(1.0)
    assert len(left.of("mover", AUDIO).arrivals) == heard

    await mover.room.local_participant.publish_data(b"hello", reliable=True)
    await until(lambda: [d[:2] for d in met.data] == [("mover", b"hello")], "data goes there")
    assert left.data == []
    for client in (mover, left, met):
        await client.leave()


async def test_browser_moves_with_its_connection_and_its_tracks(
    server: DevServer, browser: Browser, room: str, single: bool
) -> None:
    there = f"{room}-there"
    mover = await BrowserClient.join(browser, server, room, "mover", single=single)
    await mover.call(
        "window.rw.room.on(window.livekit.RoomEvent.Moved, name => window.rw.events.push(`moved ${name}`))"
    )
    left = await PythonClient.join(server, room, "left", single=single)
    met = await PythonClient.join(server, there, "met", single=single)
    await mover.publish()
    await left.publish_tone()
    await met.publish_tone()
    await until(lambda: left.of("mover", AUDIO).frames > 50, "the old room hears the page")

    await move(server, room, "mover", there)

    async def is_told() -> bool:
        return f"moved {there}" in await mover.call("window.rw.events")

    async def hears() -> bool:
        got = await mover.received("met", "audio")
        return bool(got and got["energy"] > 0.01)

    await eventually(is_told, "RoomEvent.Moved fires")
    await eventually(hears, "the page hears the new room")
    await until(
        lambda: met.of("mover", rtc.TrackKind.KIND_VIDEO).frames > 30, "the new room sees the page"
    )
    await until(lambda: "participant_disconnected mover" in left.events, "the old room sees it go")
    assert await mover.call("[...window.rw.room.remoteParticipants.keys()]") == ["met"]
    assert "reconnecting" not in await mover.call("window.rw.events")
    await move(server, there, "mover", room)
    await until(lambda: "participant_connected mover" in left.events, "and back again")
    frames = left.of("mover", rtc.TrackKind.KIND_VIDEO).frames
    await until(
        lambda: left.of("mover", rtc.TrackKind.KIND_VIDEO).frames > frames + 30, "it is seen again"
    )
    for client in (mover, left, met):
        await client.leave()


async def test_moved_participant_resumes_in_its_new_room(server: DevServer, room: str) -> None:
    there = f"{room}-there"
    mover = await PythonClient.join(server, room, "mover")
    met = await PythonClient.join(server, there, "met")
    await move(server, room, "mover", there)
    await until(lambda: "participant_connected mover" in met.events, "the move is seen")
    await mover.room.simulate_scenario(rtc.SimulateScenarioKind.SIMULATE_SIGNAL_RECONNECT)
    await until(lambda: "reconnected" in mover.events, "the mover is back")
    assert "participant_disconnected mover" not in met.events
    await mover.leave()
    await met.leave()


async def test_a_move_that_cannot_be_is_refused_and_changes_nothing(
    server: DevServer, room: str
) -> None:
    alice = await PythonClient.join(server, room, "alice")
    bob = await PythonClient.join(server, room, "bob")
    async with api.LiveKitAPI(server.http_url, KEY, SECRET) as lk:
        await lk.room.create_room(api.CreateRoomRequest(name=f"{room}-full", max_participants=1))
        carol = await PythonClient.join(server, f"{room}-full", "carol")
        for identity, destination, code in (
            ("alice", f"{room}-full", "unavailable"),
            ("alice", room, "invalid_argument"),
            ("alice", "", "invalid_argument"),
            ("nobody", f"{room}-there", "not_found"),
        ):
            with pytest.raises(api.TwirpError) as refused:
                await lk.room.move_participant(
                    api.MoveParticipantRequest(
                        room=room, identity=identity, destination_room=destination
                    )
                )
            assert refused.value.code == code
        listed = await lk.room.list_participants(api.ListParticipantsRequest(room=room))
        assert {it.identity for it in listed.participants} == {"alice", "bob"}
    assert "participant_disconnected alice" not in bob.events
    for client in (alice, bob, carol):
        await client.leave()
