"""Rooms whose node is killed, told to stop or stands still, with real services and a stock client."""

from collections.abc import AsyncIterator

import pytest
from livekit import api
from livekit.protocol import models as lk

from tests.support.fleet import Fleet, eventually, running_fleet
from tests.support.python_client import PythonClient

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    async with running_fleet(
        "ND_a", "ND_b", node_stale_after_s=2.0, takeover_after_s=4.0, sweep_interval_s=0.5
    ) as running:
        yield running


async def holder(fleet: Fleet, room: str) -> str:
    lease = await fleet.lease(room)
    assert lease is not None
    return str(lease.node_id)


async def told(fleet: Fleet, *names: str) -> bool:
    """Are these the facts of the end, each with its room and participant?"""
    return [fact.name for fact in await fleet.facts()][-len(names) :] == [*names]


async def test_a_killed_node_s_room_that_nobody_rejoins_ends_properly(fleet: Fleet) -> None:
    async with fleet.server_api() as server:
        created = await server.room.create_room(
            api.CreateRoomRequest(name="r", metadata="kept", departure_timeout=1, empty_timeout=60)
        )
    ann = await PythonClient.join(fleet, "r", "ann")
    sid = ann.room.local_participant.sid

    async def is_stored() -> bool:
        return len(await fleet.keys()) == 3 and await told(
            fleet, "room_started", "participant_joined"
        )

    await eventually(is_stored)
    lost = await holder(fleet, "r")
    await fleet.kill(lost)
    await ann.leave()

    async def is_over() -> bool:
        return await told(fleet, "participant_left", "room_finished")

    await eventually(is_over)
    left, finished = (await fleet.facts())[-2:]
    assert lk.ParticipantInfo.FromString(left.participant).sid == sid
    assert {left.room_sid, finished.room_sid} == {created.sid}
    assert left.epoch == finished.epoch
    assert lk.Room.FromString(finished.room).metadata == "kept"

    async def is_cleared() -> bool:
        return await fleet.keys() == []

    await eventually(is_cleared)
