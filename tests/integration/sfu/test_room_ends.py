"""Rooms whose node is killed, told to stop or stands still, with real services and a stock client."""

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest
from livekit import api
from livekit.protocol import models as lk

from sfu.core.renewal import LEASE_LIFE
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


async def joined(fleet: Fleet, room: str, keys: int) -> None:
    """Until the facts of a first join, and so many records, are stored."""

    async def is_stored() -> bool:
        return len(await fleet.keys()) == keys and await told(
            fleet, "room_started", "participant_joined"
        )

    await eventually(is_stored)


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
    await joined(fleet, "r", 3)
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


async def in_room(fleet: Fleet) -> list[str]:
    async with fleet.server_api() as server:
        listed = await server.room.list_participants(api.ListParticipantsRequest(room="r"))
    return [participant.sid for participant in listed.participants]


@pytest.mark.parametrize("signals", [1, 2])
async def test_a_drain_cut_short_leaves_the_room_to_another_node(signals: int) -> None:
    async with running_fleet(node_stale_after_s=2.0, takeover_after_s=60.0) as fleet:
        await fleet.start_node("ND_a", DRAIN_TIMEOUT_S="1" if signals == 1 else "60")
        async with fleet.server_api() as server:
            created = await server.room.create_room(
                api.CreateRoomRequest(name="r", metadata="kept", departure_timeout=33)
            )
        ann = await PythonClient.join(fleet, "r", "ann")
        before = ann.room.local_participant.sid
        await joined(fleet, "r", 3)
        first = await fleet.lease("r")
        await fleet.start_node("ND_b")
        node = fleet.nodes["ND_a"]
        node.terminate()
        if signals == 2:
            await eventually(lambda: logged(fleet, "ND_a", "draining"))
            node.terminate()
        async with asyncio.timeout(10):
            assert await node.wait() == 0

        async def is_back() -> bool:
            return ann.room.local_participant.sid != before and await in_room(fleet) == [
                ann.room.local_participant.sid
            ]

        await eventually(is_back)
        lease = await fleet.lease("r")
        assert first is not None
        assert lease is not None
        assert (lease.node_id, lease.room_sid) == ("ND_b", created.sid)
        assert ann.room.metadata == "kept"
        async with fleet.server_api() as server:
            listed = await server.room.list_rooms(api.ListRoomsRequest())
        assert [(room.sid, room.departure_timeout) for room in listed.rooms] == [(created.sid, 33)]

        async def is_told() -> bool:
            return await told(fleet, "participant_left", "participant_joined")

        await eventually(is_told)
        facts = await fleet.facts()
        assert "room_finished" not in [fact.name for fact in facts]
        left = facts[-2]
        assert lk.ParticipantInfo.FromString(left.participant).sid == before
        assert left.epoch == lease.epoch > first.epoch
        await ann.leave()


async def logged(fleet: Fleet, node_id: str, words: str) -> bool:
    return words in fleet.log(node_id)


async def test_a_node_that_stood_still_learns_what_it_lost_before_it_decides_anything(
    fleet: Fleet,
) -> None:
    ann = await PythonClient.join(fleet, "r", "ann")
    await joined(fleet, "r", 3)
    stopped = await holder(fleet, "r")
    fleet.nodes[stopped].send_signal(signal.SIGSTOP)
    try:

        async def is_taken() -> bool:
            return await holder(fleet, "r") != stopped

        await asyncio.gather(eventually(is_taken), asyncio.sleep(LEASE_LIFE + 0.5))
        await ann.leave()
    finally:
        fleet.nodes[stopped].send_signal(signal.SIGCONT)
    woke_at = asyncio.get_running_loop().time()

    async def has_learned() -> bool:
        return "a newer lease exists" in fleet.log(stopped)

    await eventually(has_learned)
    assert asyncio.get_running_loop().time() - woke_at < 3.0  # and not with the next regular claim

    async def goes_on() -> bool:
        return "leases renewed: rooms go on" in fleet.log(stopped)

    await eventually(goes_on)
    log = fleet.log(stopped)
    assert log.index("a newer lease exists") < log.index("leases renewed: rooms go on")
