"""ForwardParticipant with the published SDKs: who is shown in a second room, heard, seen and followed there."""

import asyncio

import pytest
from livekit import api, rtc

from tests.support.dev_server import KEY, SECRET, DevServer
from tests.support.python_client import PythonClient, until

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

AUDIO, VIDEO = rtc.TrackKind.KIND_AUDIO, rtc.TrackKind.KIND_VIDEO


async def forward(server: DevServer, room: str, identity: str, destination: str) -> None:
    async with api.LiveKitAPI(server.http_url, KEY, SECRET) as lk:
        await lk.room.forward_participant(
            api.ForwardParticipantRequest(
                room=room, identity=identity, destination_room=destination
            )
        )


async def test_forwarded_participant_is_heard_seen_and_followed_in_both_rooms(
    server: DevServer, room: str, single: bool
) -> None:
    there = f"{room}-there"
    guest = await PythonClient.join(
        server, room, "guest", single=single, can_update_own_metadata=True
    )
    stays = await PythonClient.join(server, room, "stays", single=single)
    met = await PythonClient.join(server, there, "met", single=single)
    publication = await guest.publish_tone()
    await stays.publish_tone()
    await forward(server, room, "guest", there)
    await until(lambda: met.of("guest", AUDIO).energy > 0.01, "the destination hears the tone")
    await until(lambda: stays.of("guest", AUDIO).energy > 0.01, "and its own room does, too")
    assert set(met.room.remote_participants) == {"guest"}
    assert set(guest.room.remote_participants) == {"stays"}
    assert "reconnecting" not in guest.events
    shown = met.room.remote_participants["guest"]
    assert shown.sid != guest.room.local_participant.sid
    async with api.LiveKitAPI(server.http_url, KEY, SECRET) as lk:
        info = await lk.room.get_participant(
            api.RoomParticipantIdentity(room=there, identity="guest")
        )
    assert list(info.kind_details) == [api.ParticipantInfo.FORWARDED]

    await guest.publish_video()
    await until(lambda: met.of("guest", VIDEO).frames > 15, "a later track is seen there")
    await guest.room.local_participant.set_metadata("followed")
    await until(lambda: "metadata guest followed" in met.events, "metadata is followed")
    publication.track.mute()
    await until(lambda: f"track_muted guest {AUDIO}" in met.events, "mute is followed")
    publication.track.unmute()
    await until(lambda: f"track_unmuted guest {AUDIO}" in met.events, "so is unmute")
    await until(lambda: "speakers ['guest']" in met.events, "it is among the speakers there")
    await guest.room.local_participant.unpublish_track(publication.sid)
    await until(
        lambda: f"track_unpublished guest {AUDIO}" in met.events, "the end of a track is followed"
    )
    await guest.leave()
    await until(lambda: "participant_disconnected guest" in met.events, "its leave is followed")
    for client in (stays, met):
        await client.leave()


async def test_removal_from_the_destination_ends_the_forwarding_alone(
    server: DevServer, room: str
) -> None:
    there = f"{room}-there"
    guest = await PythonClient.join(server, room, "guest")
    stays = await PythonClient.join(server, room, "stays")
    met = await PythonClient.join(server, there, "met")
    await guest.publish_tone()
    for _ in range(2):  # a second time, after a removal
        await forward(server, room, "guest", there)
        await forward(server, room, "guest", there)  # done already
        await until(lambda: met.of("guest", AUDIO).energy > 0.01, "the destination hears it")
        async with api.LiveKitAPI(server.http_url, KEY, SECRET) as lk:
            await lk.room.remove_participant(
                api.RoomParticipantIdentity(room=there, identity="guest")
            )
        await until(lambda: "participant_disconnected guest" in met.events, "it is gone from there")
        met.events.clear()
        met.received.clear()
        heard = len(stays.of("guest", AUDIO).arrivals)
        await until(
            lambda heard=heard: len(stays.of("guest", AUDIO).arrivals) > heard + 20,
            "its own room goes on",
        )
    assert "participant_disconnected guest" not in stays.events
    assert not [event for event in guest.events if event.startswith("disconnected")]
    for client in (guest, stays, met):
        await client.leave()


async def test_a_forward_that_cannot_be_is_refused_and_changes_nothing(
    server: DevServer, room: str
) -> None:
    there = f"{room}-there"
    guest = await PythonClient.join(server, room, "guest")
    met = await PythonClient.join(server, there, "met")
    met_there = await PythonClient.join(server, room, "met")
    for identity, destination, code in (
        ("guest", room, "invalid_argument"),
        ("guest", "", "invalid_argument"),
        ("nobody", there, "not_found"),
        ("met", there, "already_exists"),
    ):
        with pytest.raises(api.TwirpError) as refused:
            await forward(server, room, identity, destination)
        assert (identity, destination, refused.value.code) == (identity, destination, code)
    with pytest.raises(api.TwirpError) as refused:
        async with api.LiveKitAPI(
            server.http_url, token=server.token(room, "admin", room_admin=True)
        ) as lk:
            await lk.room.forward_participant(
                api.ForwardParticipantRequest(room=room, identity="guest", destination_room=there)
            )
    assert refused.value.code == "unauthenticated"
    assert set(met.room.remote_participants) == set()
    assert set(guest.room.remote_participants) == {"met"}
    for client in (guest, met, met_there):
        await client.leave()


async def test_both_rooms_of_a_forward_may_end(server: DevServer, room: str) -> None:
    there = f"{room}-there"
    guest = await PythonClient.join(server, room, "guest")
    met = await PythonClient.join(server, there, "met")
    await guest.publish_tone()
    await forward(server, room, "guest", there)
    await until(lambda: met.of("guest", AUDIO).energy > 0.01, "the destination hears it")
    async with api.LiveKitAPI(server.http_url, KEY, SECRET) as lk:
        await lk.room.delete_room(api.DeleteRoomRequest(room=there))
        await until(
            lambda: [event for event in met.events if event.startswith("disconnected")],
            "the destination ends",
        )
        await asyncio.sleep(0.5)
        assert not [event for event in guest.events if event.startswith("disconnected")]
        again = await PythonClient.join(server, there, "again")
        await forward(server, room, "guest", there)
        await until(lambda: again.of("guest", AUDIO).energy > 0.01, "a new one hears it")
        await lk.room.delete_room(api.DeleteRoomRequest(room=room))
        await until(
            lambda: "participant_disconnected guest" in again.events, "the first room's end ends it"
        )
    for client in (guest, met, again):
        await client.leave()
