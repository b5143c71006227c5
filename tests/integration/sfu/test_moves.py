"""MoveParticipant and where destinations get their home, over two sfu nodes with the published SDKs."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from livekit import api, rtc

from tests.support.fleet import Fleet, running_fleet
from tests.support.python_client import PythonClient, until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

AUDIO = rtc.TrackKind.KIND_AUDIO
NODES = ("ND_one", "ND_two")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet() -> AsyncIterator[Fleet]:
    async with running_fleet(*NODES) as running:
        yield running


async def home(fleet: Fleet, room: str) -> str:
    lease = await fleet.lease(room)
    assert lease is not None
    return lease.node_id


async def test_room_is_made_on_the_node_that_create_room_names(fleet: Fleet) -> None:
    async with fleet.server_api() as lk:
        for number in range(4):
            for node_id in NODES:
                name = f"named-{number}-{node_id}"
                await lk.room.create_room(api.CreateRoomRequest(name=name, node_id=node_id))
                assert await home(fleet, name) == node_id


async def test_client_joins_a_destination_on_another_node_and_publishes_there(
    fleet: Fleet,
) -> None:
    async with fleet.server_api() as lk:
        for name, node_id in (("far-here", "ND_one"), ("far-there", "ND_two")):
            await lk.room.create_room(api.CreateRoomRequest(name=name, node_id=node_id))
        mover = await PythonClient.join(fleet, "far-here", "mover", can_update_own_metadata=True)
        left = await PythonClient.join(fleet, "far-here", "left")
        met = await PythonClient.join(fleet, "far-there", "met")
        await mover.publish_tone()
        await mover.room.local_participant.set_metadata("kept")
        await until(lambda: "metadata mover kept" in left.events, "the metadata is changed")
        await lk.room.move_participant(
            api.MoveParticipantRequest(
                room="far-here", identity="mover", destination_room="far-there"
            )
        )
        await until(lambda: "participant_disconnected mover" in left.events, "it is gone")
        await until(lambda: met.of("mover", AUDIO).energy > 0.01, "it is heard in the new room")
        info = await lk.room.get_participant(
            api.RoomParticipantIdentity(room="far-there", identity="mover")
        )
        assert info.metadata == "kept"
        assert "reconnected" in mover.events
        assert await home(fleet, "far-there") == "ND_two"
        for client in (mover, left, met):
            await client.leave()


async def test_full_destination_on_another_node_refuses_and_nobody_moves(fleet: Fleet) -> None:
    async with fleet.server_api() as lk:
        await lk.room.create_room(api.CreateRoomRequest(name="near-here", node_id="ND_one"))
        await lk.room.create_room(
            api.CreateRoomRequest(name="full-there", node_id="ND_two", max_participants=1)
        )
        mover = await PythonClient.join(fleet, "near-here", "mover")
        met = await PythonClient.join(fleet, "full-there", "met")
        with pytest.raises(api.TwirpError) as refused:
            await lk.room.move_participant(
                api.MoveParticipantRequest(
                    room="near-here", identity="mover", destination_room="full-there"
                )
            )
        assert refused.value.code == "unavailable"
        assert "max_participants is 1" in refused.value.message
        listed = await lk.room.list_participants(api.ListParticipantsRequest(room="near-here"))
        assert [it.identity for it in listed.participants] == ["mover"]
        assert mover.events == []
        for client in (mover, met):
            await client.leave()


async def test_new_destination_is_on_the_participants_node_and_events_are_in_order(
    fleet: Fleet,
) -> None:
    async with fleet.server_api() as lk:
        for number, node_id in enumerate(NODES):
            name = f"source-{number}"
            await lk.room.create_room(api.CreateRoomRequest(name=name, node_id=node_id))
            mover = await PythonClient.join(fleet, name, "mover")
            await until(lambda mover=mover: mover.room.isconnected(), "it is connected")  # type: ignore[misc]
            await mover.publish_tone()
            await lk.room.move_participant(
                api.MoveParticipantRequest(
                    room=name, identity="mover", destination_room=f"new-{number}"
                )
            )
            assert await home(fleet, f"new-{number}") == node_id
            told = [
                (fact.room_name, fact.name)
                for fact in await fleet.facts()
                if fact.name in ("participant_left", "participant_joined")
                and fact.room_name in (name, f"new-{number}")
            ]
            assert told == [
                (name, "participant_joined"),
                (name, "participant_left"),
                (f"new-{number}", "participant_joined"),
            ]
            await mover.leave()


async def test_forwarding_to_another_node_is_refused_and_a_new_room_is_made_on_this_one(
    fleet: Fleet,
) -> None:
    async with fleet.server_api() as lk:
        await lk.room.create_room(api.CreateRoomRequest(name="shown-here", node_id="ND_one"))
        await lk.room.create_room(api.CreateRoomRequest(name="not-shown", node_id="ND_two"))
        guest = await PythonClient.join(fleet, "shown-here", "guest")
        met = await PythonClient.join(fleet, "not-shown", "met")
        await guest.publish_tone()

        def forward(destination: str) -> api.ForwardParticipantRequest:
            return api.ForwardParticipantRequest(
                room="shown-here", identity="guest", destination_room=destination
            )

        with pytest.raises(api.TwirpError) as refused:
            await lk.room.forward_participant(forward("not-shown"))
        assert refused.value.code == "failed_precondition"
        assert "ND_one" in refused.value.message
        assert met.room.remote_participants == {}
        await lk.room.forward_participant(forward("new-one"))
        assert await home(fleet, "new-one") == "ND_one"
        listener = await PythonClient.join(fleet, "new-one", "listener")
        await until(lambda: listener.of("guest", AUDIO).energy > 0.01, "it is heard there")
        for client in (guest, met, listener):
            await client.leave()
