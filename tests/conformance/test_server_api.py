"""RoomService through the published server SDK: protobuf over Twirp, and plain JSON beside it."""

import aiohttp
import pytest
from livekit import api, rtc

from tests.support.dev_server import KEY, SECRET, DevServer
from tests.support.python_client import PythonClient, until

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(60)]


async def test_rooms_are_created_listed_changed_and_deleted(server: DevServer, room: str) -> None:
    async with api.LiveKitAPI(server.http_url, KEY, SECRET) as lk:
        made = await lk.room.create_room(
            api.CreateRoomRequest(name=room, metadata="first", max_participants=3)
        )
        assert made.sid.startswith("RM_")
        assert (made.name, made.metadata, made.max_participants) == (room, "first", 3)
        again = await lk.room.create_room(api.CreateRoomRequest(name=room, metadata="second"))
        assert (again.sid, again.metadata) == (made.sid, "second")
        assert again.max_participants == 3
        listed = await lk.room.list_rooms(api.ListRoomsRequest(names=[room]))
        assert [it.sid for it in listed.rooms] == [made.sid]
        changed = await lk.room.update_room_metadata(
            api.UpdateRoomMetadataRequest(room=room, metadata="third")
        )
        assert changed.metadata == "third"
        alice = await PythonClient.join(server, room, "alice")
        await lk.room.delete_room(api.DeleteRoomRequest(room=room))
        reason = rtc.DisconnectReason.ROOM_DELETED
        await until(lambda: f"disconnected {reason}" in alice.events, "alice is told why")
        assert not (await lk.room.list_rooms(api.ListRoomsRequest(names=[room]))).rooms
        with pytest.raises(api.TwirpError) as missing:
            await lk.room.delete_room(api.DeleteRoomRequest(room=room))
        assert missing.value.code == "not_found"


async def test_participants_are_listed_changed_muted_and_removed(
    server: DevServer, room: str
) -> None:
    alice = await PythonClient.join(server, room, "alice")
    bob = await PythonClient.join(server, room, "bob")
    publication = await alice.publish_tone()
    await until(lambda: bob.of("alice", rtc.TrackKind.KIND_AUDIO).energy > 0.01, "bob hears alice")
    async with api.LiveKitAPI(server.http_url, KEY, SECRET) as lk:
        everyone = await lk.room.list_participants(api.ListParticipantsRequest(room=room))
        assert {it.identity for it in everyone.participants} == {"alice", "bob"}
        info = await lk.room.get_participant(
            api.RoomParticipantIdentity(room=room, identity="alice")
        )
        assert [track.sid for track in info.tracks] == [publication.sid]
        muted = await lk.room.mute_published_track(
            api.MuteRoomTrackRequest(
                room=room, identity="alice", track_sid=publication.sid, muted=True
            )
        )
        assert muted.track.muted
        await until(
            lambda: bob.of("alice", rtc.TrackKind.KIND_AUDIO).energy < 1e-4, "bob hears silence"
        )
        changed = await lk.room.update_participant(
            api.UpdateParticipantRequest(room=room, identity="bob", metadata="m", name="Robert")
        )
        assert (changed.metadata, changed.name) == ("m", "Robert")
        await until(lambda: "metadata bob m" in alice.events, "alice sees bob's metadata")
        await lk.room.send_data(
            api.SendDataRequest(room=room, data=b"from the backend", kind=0, topic="news")
        )
        await until(
            lambda: ("", b"from the backend", "news", True) in alice.data, "alice gets the data"
        )
        await lk.room.update_subscriptions(
            api.UpdateSubscriptionsRequest(
                room=room, identity="bob", track_sids=[publication.sid], subscribe=False
            )
        )
        await lk.room.remove_participant(api.RoomParticipantIdentity(room=room, identity="bob"))
        reason = rtc.DisconnectReason.PARTICIPANT_REMOVED
        await until(lambda: f"disconnected {reason}" in bob.events, "bob is told why")
        await until(lambda: "participant_disconnected bob" in alice.events, "alice sees bob go")
    await alice.leave()


async def test_errors_have_the_codes_server_sdks_expect(server: DevServer, room: str) -> None:
    async with api.LiveKitAPI(server.http_url, KEY, SECRET) as lk:
        with pytest.raises(api.TwirpError) as missing:
            await lk.room.get_participant(api.RoomParticipantIdentity(room=room, identity="nobody"))
        assert missing.value.code == "not_found"
        empty = await lk.room.list_participants(api.ListParticipantsRequest(room=room))
        assert not empty.participants
    async with aiohttp.ClientSession() as http:
        url = f"{server.http_url}/twirp/livekit.RoomService/ListRooms"
        token = server.token(room, "x")
        async with http.post(url, json={}, headers={"Authorization": f"Bearer {token}"}) as refused:
            assert refused.status == 401
            assert await refused.json() == {"code": "unauthenticated", "msg": "permissions denied"}
        async with http.post(url, json={}) as anonymous:
            assert anonymous.status == 401
        async with http.post(url, json={}, headers={"Authorization": "Bearer nonsense"}) as bad:
            assert bad.status == 401
            assert "nonsense" not in await bad.text()
        admin = server.token(room, "x", room_list=True)
        header = {"Authorization": f"Bearer {admin}"}
        async with http.post(url, json={"names": ["none"]}, headers=header) as listed:
            assert (listed.status, await listed.json()) == (200, {"rooms": []})
        async with http.post(
            url, data=b"{", headers={**header, "Content-Type": "application/json"}
        ) as torn:
            assert (await torn.json())["code"] == "malformed"
        wrong = url.replace("ListRooms", "Nothing")
        async with http.post(wrong, json={}, headers=header) as unknown:
            assert (await unknown.json())["code"] == "bad_route"
