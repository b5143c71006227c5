"""Roles and rooms as the published Python SDKs, client and server, see them."""

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
