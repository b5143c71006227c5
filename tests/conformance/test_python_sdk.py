"""The published Python SDK with itself: the native clients' core as publisher and as subscriber."""

import asyncio

import pytest
from livekit import rtc

from tests.support.dev_server import DevServer
from tests.support.python_client import PythonClient, until

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(90)]

AUDIO = rtc.TrackKind.KIND_AUDIO
VIDEO = rtc.TrackKind.KIND_VIDEO


async def test_audio_and_video_reach_the_other_side(
    server: DevServer, room: str, single: bool
) -> None:
    alice = await PythonClient.join(server, room, "alice", single=single)
    bob = await PythonClient.join(server, room, "bob", single=single)
    await alice.publish_tone()
    await alice.publish_video()

    await until(lambda: bob.of("alice", VIDEO).frames >= 30, "bob decodes 30 frames of alice")
    await until(lambda: bob.of("alice", AUDIO).tone_share > 0.8, "bob hears alice's tone")
    assert bob.of("alice", AUDIO).energy > 0.01
    assert bob.of("alice", VIDEO).width in (160, 320, 640)

    await alice.leave()
    await until(lambda: "participant_disconnected alice" in bob.events, "bob sees alice leave")
    await bob.leave()


async def test_a_late_joiner_receives_what_was_published_before(
    server: DevServer, room: str, single: bool
) -> None:
    alice = await PythonClient.join(server, room, "alice", single=single)
    await alice.publish_tone()
    await alice.publish_video(simulcast=False)
    bob = await PythonClient.join(server, room, "bob", single=single)

    await until(lambda: bob.of("alice", VIDEO).frames >= 15, "bob decodes 15 frames of alice")
    await until(lambda: bob.of("alice", AUDIO).tone_share > 0.8, "bob hears alice's tone")
    await alice.leave()
    await bob.leave()


async def test_mute_unmute_and_unpublish_are_seen(
    server: DevServer, room: str, single: bool
) -> None:
    alice = await PythonClient.join(server, room, "alice", single=single)
    bob = await PythonClient.join(server, room, "bob", single=single)
    publication = await alice.publish_tone()
    await until(lambda: bob.of("alice", AUDIO).tone_share > 0.8, "bob hears alice's tone")

    track = publication.track
    assert isinstance(track, rtc.LocalAudioTrack)
    track.mute()
    await until(lambda: f"track_muted alice {AUDIO}" in bob.events, "bob sees the mute")
    await until(lambda: bob.of("alice", AUDIO).energy < 1e-4, "bob hears silence")
    track.unmute()
    await until(lambda: f"track_unmuted alice {AUDIO}" in bob.events, "bob sees the unmute")
    await until(lambda: bob.of("alice", AUDIO).tone_share > 0.8, "bob hears the tone again")

    await alice.room.local_participant.unpublish_track(publication.sid)
    await until(lambda: f"track_unpublished alice {AUDIO}" in bob.events, "bob sees the unpublish")
    await alice.leave()
    await bob.leave()


async def test_data_of_both_kinds_and_streams_arrive_once_and_in_order(
    server: DevServer, room: str, single: bool
) -> None:
    alice = await PythonClient.join(server, room, "alice", single=single)
    bob = await PythonClient.join(server, room, "bob", single=single)
    texts: list[str] = []

    def on_text(reader: rtc.TextStreamReader, _identity: str) -> None:
        async def read() -> None:
            texts.append(await reader.read_all())

        asyncio.get_running_loop().create_task(read())

    bob.room.register_text_stream_handler("notes", on_text)
    me = alice.room.local_participant
    for number in range(50):
        await me.publish_data(f"r{number}", reliable=True, topic="count")
    await me.publish_data("private", reliable=True, destination_identities=["nobody"])
    await me.send_text("long " * 10_000, topic="notes")

    await until(lambda: len(texts) == 1, "bob reads the text stream")
    assert texts == ["long " * 10_000]
    counted = [data for sender, data, topic, reliable in bob.data if topic == "count" and reliable]
    assert counted == [f"r{number}".encode() for number in range(50)]
    # A lossy packet promises nothing, so it is said until it is heard.
    for _ in range(100):
        await me.publish_data("lossy", reliable=False, topic="now")
        await asyncio.sleep(0.1)
        if ("alice", b"lossy", "now", False) in bob.data:
            break
    else:
        raise AssertionError("bob received none of 100 lossy packets")
    assert all(data != b"private" for _, data, _, _ in bob.data)
    assert all(sender == "alice" for sender, *_ in bob.data)
    await alice.leave()
    await bob.leave()


async def test_metadata_attributes_and_names_are_shown_to_all(
    server: DevServer, room: str, single: bool
) -> None:
    alice = await PythonClient.join(server, room, "alice", single=single)
    bob = await PythonClient.join(server, room, "bob", single=single)
    await alice.room.local_participant.set_metadata("busy")
    await alice.room.local_participant.set_attributes({"hand": "raised"})
    await alice.room.local_participant.set_name("Alice B.")

    seen = bob.room.remote_participants["alice"]
    await until(lambda: seen.metadata == "busy", "bob sees the metadata")
    await until(lambda: seen.attributes.get("hand") == "raised", "bob sees the attribute")
    await until(lambda: seen.name == "Alice B.", "bob sees the name")
    await alice.leave()
    await bob.leave()


async def test_the_older_session_of_an_identity_leaves_with_its_reason(
    server: DevServer, room: str, single: bool
) -> None:
    first = await PythonClient.join(server, room, "alice", single=single)
    bob = await PythonClient.join(server, room, "bob", single=single)
    second = await PythonClient.join(server, room, "alice", single=single)

    reason = rtc.DisconnectReason.DUPLICATE_IDENTITY
    await until(lambda: f"disconnected {reason}" in first.events, "the first alice is told why")
    await until(
        lambda: bob.room.remote_participants["alice"].sid == second.room.local_participant.sid,
        "bob sees the second alice",
    )
    await second.leave()
    await bob.leave()


async def test_a_speaker_is_announced_and_forgotten(
    server: DevServer, room: str, single: bool
) -> None:
    alice = await PythonClient.join(server, room, "alice", single=single)
    bob = await PythonClient.join(server, room, "bob", single=single)
    publication = await alice.publish_tone()
    await until(lambda: "speakers ['alice']" in bob.events, "bob sees alice speak")
    assert isinstance(publication.track, rtc.LocalAudioTrack)
    publication.track.mute()
    await until(lambda: bob.events.count("speakers []") > 0, "bob sees alice fall silent")
    await alice.leave()
    await bob.leave()


async def test_rpc_between_participants(server: DevServer, room: str, single: bool) -> None:
    alice = await PythonClient.join(server, room, "alice", single=single)
    bob = await PythonClient.join(server, room, "bob", single=single)

    async def greet(call: rtc.RpcInvocationData) -> str:
        return f"hello {call.caller_identity}, {call.payload}"

    bob.room.local_participant.register_rpc_method("greet", greet)
    await until(lambda: "bob" in alice.room.remote_participants, "alice sees bob")
    answer = await alice.room.local_participant.perform_rpc(
        destination_identity="bob", method="greet", payload="welcome", response_timeout=10
    )
    assert answer == "hello alice, welcome"
    await alice.leave()
    await bob.leave()


async def test_every_goodbye_is_heard_at_once(server: DevServer, room: str, single: bool) -> None:
    alice = await PythonClient.join(server, room, "alice", single=single)

    async def come_and_go(name: str) -> None:
        visitor = await PythonClient.join(server, room, name, single=single)
        await visitor.publish_tone()
        await until(lambda: alice.of(name, AUDIO).frames, f"alice receives {name}")
        await visitor.leave()
        # Unheard, the session would wait 5 s for a resume.
        gone = f"participant_disconnected {name}"
        await until(lambda: gone in alice.events, f"alice sees {name} leave", 1.0)

    for number in range(10):
        await come_and_go(f"visitor-{number}")
    await alice.leave()
