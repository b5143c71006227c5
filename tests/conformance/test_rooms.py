"""Roles and rooms as the published Python SDKs, client and server, see them."""

import asyncio
from datetime import timedelta

import pytest
from livekit import api, rtc

from tests.support.dev_server import KEY, SECRET, DevServer
from tests.support.python_client import PythonClient, until

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(60)]

ROLE = "roomwright.role"
AUDIO = rtc.TrackKind.KIND_AUDIO


async def give(lk: api.LiveKitAPI, room: str, identity: str, role: str) -> api.ParticipantInfo:
    return await lk.room.update_participant(
        api.UpdateParticipantRequest(room=room, identity=identity, attributes={ROLE: role})
    )


def token_of(room: str, identity: str, role: str) -> str:
    return (
        api.AccessToken(KEY, SECRET)
        .with_identity(identity)
        .with_ttl(timedelta(hours=1))
        .with_attributes({ROLE: role})
        .with_grants(api.VideoGrants(room_join=True, room=room))
        .to_jwt()
    )


async def joined(server: DevServer, room: str, identity: str, role: str) -> PythonClient:
    client = PythonClient(rtc.Room(), identity)
    client._listen()
    await client.room.connect(server.url, token_of(room, identity, role), rtc.RoomOptions())
    return client


async def test_a_role_in_a_token_is_changed_live_and_what_it_loses_is_unpublished(
    server: DevServer, room: str
) -> None:
    alice = await joined(server, room, "alice", "viewer")
    bob = await joined(server, room, "bob", "speaker")
    try:
        assert bob.room.remote_participants["alice"].attributes == {ROLE: "viewer"}
        with pytest.raises(rtc.participant.PublishTrackError):
            await alice.publish_tone()
        async with api.LiveKitAPI(server.http_url, KEY, SECRET) as lk:
            info = await give(lk, room, "alice", "speaker")
            assert info.permission.can_publish
            own = alice.room.local_participant
            await until(lambda: own.attributes.get(ROLE) == "speaker", "alice sees her role")
            await alice.publish_tone()
            await until(lambda: bob.of("alice", AUDIO).energy > 0.01, "bob hears alice")
            await give(lk, room, "alice", "viewer")
            await until(
                lambda: f"track_unpublished alice {AUDIO}" in bob.events, "bob sees the track end"
            )
            await until(
                lambda: bob.room.remote_participants["alice"].attributes[ROLE] == "viewer",
                "bob sees the role",
            )
            with pytest.raises(api.TwirpError) as unknown:
                await give(lk, room, "alice", "boss")
            assert unknown.value.code == "invalid_argument"
            assert "moderator, speaker, viewer" in unknown.value.message
    finally:
        await alice.leave()
        await bob.leave()


async def test_a_moderator_mutes_another_with_its_own_token_until_it_loses_the_role(
    server: DevServer, room: str
) -> None:
    anna = await joined(server, room, "anna", "moderator")
    ben = await joined(server, room, "ben", "speaker")
    try:
        publication = await ben.publish_tone()
        await until(lambda: anna.of("ben", AUDIO).energy > 0.01, "anna hears ben")
        mute = api.MuteRoomTrackRequest(
            room=room, identity="ben", track_sid=publication.sid, muted=True
        )
        token = token_of(room, "anna", "moderator")
        async with api.LiveKitAPI(server.http_url, token=token) as own:
            assert (await own.room.mute_published_track(mute)).track.muted
            await until(lambda: f"track_muted ben {AUDIO}" in anna.events, "the track is muted")
            async with api.LiveKitAPI(server.http_url, KEY, SECRET) as lk:
                await give(lk, room, "anna", "speaker")
            with pytest.raises(api.TwirpError) as refused:
                await own.room.mute_published_track(mute)
            assert refused.value.code == "unauthenticated"
        speaker = token_of(room, "ben", "speaker")
        async with api.LiveKitAPI(server.http_url, token=speaker) as own:
            with pytest.raises(api.TwirpError):
                await own.room.remove_participant(
                    api.RoomParticipantIdentity(room=room, identity="anna")
                )
    finally:
        await anna.leave()
        await ben.leave()


async def test_a_client_cannot_change_its_role(server: DevServer, room: str) -> None:
    anna = await joined(server, room, "anna", "moderator")
    try:
        await anna.room.local_participant.set_attributes({ROLE: "speaker", "mood": "bad"})
        await anna.room.local_participant.set_attributes({"mood": "good"})
        async with api.LiveKitAPI(server.http_url, KEY, SECRET) as lk:
            info = await lk.room.get_participant(
                api.RoomParticipantIdentity(room=room, identity="anna")
            )
        assert dict(info.attributes) == {ROLE: "moderator", "mood": "good"}
    finally:
        await anna.leave()


async def test_a_room_is_made_in_full_and_what_cannot_be_had_is_refused(
    server: DevServer, room: str
) -> None:
    async with api.LiveKitAPI(server.http_url, KEY, SECRET) as lk:
        made = await lk.room.create_room(
            api.CreateRoomRequest(
                name=room,
                empty_timeout=40,
                departure_timeout=7,
                max_participants=9,
                metadata="m",
                min_playout_delay=50,
                max_playout_delay=500,
                sync_streams=True,
                agents=[api.RoomAgentDispatch(agent_name="scribe", metadata="{}")],
            )
        )
        assert (made.empty_timeout, made.departure_timeout) == (40, 7)
        assert (made.max_participants, made.metadata) == (9, "m")
        anna = await joined(server, room, "anna", "speaker")
        changed = await lk.room.create_room(api.CreateRoomRequest(name=room, metadata="n"))
        assert (changed.sid, changed.metadata, changed.max_participants) == (made.sid, "n", 9)
        await until(lambda: anna.room.metadata == "n", "anna is told of the change")
        await anna.leave()
        egress = api.RoomEgress(tracks=api.AutoTrackEgress(filepath="x"))
        for request, code in (
            (api.CreateRoomRequest(name=f"{room}-2", egress=egress), "failed_precondition"),
            (api.CreateRoomRequest(name=f"{room}-3", room_preset="none"), "invalid_argument"),
            (api.CreateRoomRequest(name=""), "invalid_argument"),
        ):
            with pytest.raises(api.TwirpError) as refused:
                await lk.room.create_room(request)
            assert refused.value.code == code
        names = {it.name for it in (await lk.room.list_rooms(api.ListRoomsRequest())).rooms}
        assert room in names
        assert not {f"{room}-2", f"{room}-3"} & names


async def test_a_full_room_refuses_and_shows_nobody_a_ghost(server: DevServer, room: str) -> None:
    async with api.LiveKitAPI(server.http_url, KEY, SECRET) as lk:
        await lk.room.create_room(api.CreateRoomRequest(name=room, max_participants=1))
    anna = await joined(server, room, "anna", "speaker")
    try:
        with pytest.raises(rtc.ConnectError, match=r"full|503"):
            await joined(server, room, "ben", "speaker")
        await asyncio.sleep(0.5)
        assert not [event for event in anna.events if "ben" in event]
    finally:
        await anna.leave()


async def test_who_is_hidden_is_seen_by_nobody_until_shown(server: DevServer, room: str) -> None:
    anna = await PythonClient.join(server, room, "anna")
    ghost = await PythonClient.join(server, room, "ghost", hidden=True)
    try:
        async with api.LiveKitAPI(server.http_url, KEY, SECRET) as lk:
            await ghost.room.local_participant.publish_data(b"boo", topic="t")
            await until(lambda: ("", b"boo", "t", True) in anna.data, "data comes from nobody")
            (shown,) = (await lk.room.list_rooms(api.ListRoomsRequest(names=[room]))).rooms
            assert shown.num_participants == 1
            listed = await lk.room.list_participants(api.ListParticipantsRequest(room=room))
            assert {it.identity for it in listed.participants} == {"anna", "ghost"}
            assert not anna.room.remote_participants
            for hidden, event in (
                (False, "participant_connected ghost"),
                (True, "participant_disconnected ghost"),
            ):
                await lk.room.update_participant(
                    api.UpdateParticipantRequest(
                        room=room,
                        identity="ghost",
                        permission=api.ParticipantPermission(can_subscribe=True, hidden=hidden),
                    )
                )
                await until(lambda event=event: event in anna.events, event)
    finally:
        await anna.leave()
        await ghost.leave()
