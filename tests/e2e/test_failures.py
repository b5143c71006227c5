"""Pods that die without a word, and NATS away for two minutes: what people in a call notice of it."""

import asyncio
import operator
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import pytest
from livekit import api, rtc

from contracts.events.v1 import events_pb2
from tests.e2e.caller import (
    Caller,
    PythonCaller,
    call,
    everybody_sees_everybody,
    gaps,
    now,
)
from tests.e2e.release import Release, eventually
from tests.support.python_client import until

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(420)]

AUDIO = rtc.TrackKind.KIND_AUDIO
NO_GAP_S = 1.5
"""Not above what a quiet call loses on two cores that also run the cluster: see test_install.SMOOTH_S."""
MEDIA_AGAIN_S = 8.0
AT_ONCE_S = 2.0
"""A join or a call to the server API that waits for nobody who is dead."""
NATS_AWAY_S = 120.0
LEASE_OVER_S = 7.0
"""After this without NATS a room takes no joins."""


async def test_a_killed_signaling_pod_leaves_no_gap_in_the_media(
    release: Release, room: str, measured: Callable[[str], None]
) -> None:
    async with call(release, room, "alice", "bob") as callers:
        victim = await release.busiest("signaling", "roomwright_signaling_sockets")
        begin = now()
        await release.kill(victim)
        await eventually(lambda: somebody_said(callers, "reconnected"), "a client resumed", 30)
        await hears_of(callers[1], callers[0], b"resumed")
        await asyncio.sleep(3)
        found = gaps(callers, begin)
        # An SDK whose first attempt meets the port of the dead pod may join anew instead of resuming.
        anew = await somebody_said(callers, "participant_disconnected")
        measured(f"media gaps {found}; {'somebody joined anew' if anew else 'resumed'}")
        assert max(found.values()) < NO_GAP_S
    await release.settled("signaling")


@pytest.mark.parametrize("how", ["pod-gone", "restarted-in-its-pod"])
async def test_after_a_killed_sfu_media_come_again_and_the_room_is_the_same(
    release: Release, room: str, how: str, measured: Callable[[str], None]
) -> None:
    await release.empty()
    async with release.server_api() as server:
        made = await server.room.create_room(
            api.CreateRoomRequest(name=room, metadata="kept", max_participants=7)
        )
        async with call(release, room, "alice", "bob") as callers:
            await asyncio.sleep(1)  # the checkpoint is written within half a second
            victim = await release.home_of(room)
            begin = now()
            await (release.kill if how == "pod-gone" else release.crash)(victim)
            await everybody_sees_everybody(*callers)
            found = gaps(callers, begin)
            measured(f"media gaps {found}")
            assert max(found.values()) > NO_GAP_S, "nothing was killed"
            assert max(found.values()) < MEDIA_AGAIN_S
            listed = await server.room.list_rooms(api.ListRoomsRequest(names=[room]))
            kept = [(it.sid, it.metadata, it.max_participants) for it in listed.rooms]
            assert kept == [(made.sid, "kept", 7)]
            for caller in callers:
                assert await caller.sid() == made.sid
                assert caller.client.room.metadata == "kept"
            await release.settled("sfu")
            if how == "pod-gone":
                assert victim.name not in {pod.name for pod in await release.pods("sfu")}
            else:
                again = next(it for it in await release.pods("sfu") if it.name == victim.name)
                assert again.restarts == victim.restarts + 1
        await server.room.delete_room(api.DeleteRoomRequest(room=room))


async def test_nobody_notices_a_killed_placement_pod_and_new_rooms_come_at_once(
    release: Release, room: str, measured: Callable[[str], None]
) -> None:
    async with release.server_api() as server, call(release, room, "alice", "bob") as callers:
        begin = now()
        killing = asyncio.create_task(release.kill((await release.pods("placement"))[0]))
        slowest, number = 0.0, 0
        while not killing.done() or now() - begin < 8:
            asked = now()
            name = f"{room}-{number}"
            await server.room.create_room(api.CreateRoomRequest(name=name))
            slowest = max(slowest, now() - asked)
            await server.room.delete_room(api.DeleteRoomRequest(room=name))
            number += 1
            await asyncio.sleep(0.1)
        await killing
        async with call(release, f"{room}-call", "carol", "dave"):
            pass
        found = gaps(callers, begin)
        measured(f"{number} rooms, the slowest in {slowest:.2f} s; media gaps {found}")
        assert slowest < AT_ONCE_S
        assert max(found.values()) < NO_GAP_S
        assert not await somebody_said(callers, "reconnecting")
    await release.settled("placement")


async def test_without_nats_calls_go_on_and_afterwards_everything_is_made_up_for(
    release: Release, room: str, measured: Callable[[str], None]
) -> None:
    await release.empty()
    async with (
        release.server_api() as server,
        call(release, room, "alice", "bob", "carol") as (alice, bob, carol),
    ):
        sid = await alice.sid()
        begin = now()
        await release.nats_stop()
        try:
            gone = now()
            await asyncio.sleep(LEASE_OVER_S)
            await mute_is_seen(alice, bob)
            await hears_of(bob, alice, b"no bus")
            await carol.leave()
            left = "participant_disconnected carol"
            await until(lambda: left in bob.client.events, "Bob sees Carol leave")

            asked = now()
            status, text = await release.try_join(f"{room}-new", "eve")
            refused_after = now() - asked
            assert status == 503
            assert "no new rooms while the message bus cannot be reached" in text
            with pytest.raises(api.TwirpError, match="message bus cannot be reached") as refused:
                await server.room.create_room(api.CreateRoomRequest(name=f"{room}-new"))
            assert (refused.value.status, refused.value.code) == (503, "unavailable")
            assert refused_after < AT_ONCE_S
            status, text = await release.try_join(room, "eve")
            assert status == 503
            assert "the room's lease could not be renewed" in text
            asking = api.ListParticipantsRequest(room=room)
            there = await server.room.list_participants(asking)
            assert {it.identity for it in there.participants} == {"alice", "bob"}

            # A replica that goes now: its clients resume through the other, and a new one starts without NATS.
            before = [it.client.events.count("reconnected") for it in (alice, bob)]
            leaving = await release.busiest("signaling", "roomwright_signaling_sockets")
            await release.delete(leaving)

            async def resumed() -> bool:
                return before != [it.client.events.count("reconnected") for it in (alice, bob)]

            await eventually(resumed, "a client resumed without NATS", 60)
            await hears_of(bob, alice, b"resumed")
            await release.settled("signaling")
            await asyncio.sleep(max(0.0, NATS_AWAY_S - (now() - gone)))
        finally:
            await release.nats_start()
        back = now()
        joinable = await eventually(lambda: joins(release, f"{room}-new"), "new rooms again", 30)
        thawed = await eventually(lambda: joins(release, room), "joins to the running room", 30)
        found = gaps([alice, bob], begin)
        measured(
            f"away {back - gone:.0f} s, media gaps {found}; a new room was refused in "
            f"{refused_after:.2f} s; after the return new rooms in {joinable:.1f} s, "
            f"the running one in {thawed:.1f} s"
        )
        assert max(found.values()) < NO_GAP_S
        assert await alice.sid() == sid
        for caller in (alice, bob):
            assert not [it for it in caller.client.events if it.startswith("disconnected")]
        await server.room.delete_room(api.DeleteRoomRequest(room=room))
    facts_are_complete(await release.facts(sid, "room_finished"))


# ---- what was seen ----


async def somebody_said(callers: Sequence[Caller], event: str) -> bool:
    """An SDK told of this event."""
    told = [it for caller in callers for it in await caller.events()]
    return any(it.partition(" ")[0] == event for it in told)


async def hears_of(one: PythonCaller, other: PythonCaller, word: bytes) -> None:
    """Reliable data of another get through."""
    await other.client.room.local_participant.publish_data(word, reliable=True)
    await until(lambda: any(it[1] == word for it in one.client.data), f"{word!r} comes")


async def mute_is_seen(one: PythonCaller, other: PythonCaller) -> None:
    """One mutes and unmutes the microphone; the other is told."""
    publications = one.client.room.local_participant.track_publications.values()
    track = next(it.track for it in publications if it.kind == AUDIO)
    assert isinstance(track, rtc.LocalAudioTrack)
    for act, event in ((track.mute, "track_muted"), (track.unmute, "track_unmuted")):
        act()
        told = f"{event} {one.identity} {AUDIO}"
        await until(partial(operator.contains, other.client.events, told), told)


async def joins(release: Release, room: str) -> bool:
    """A room lets somebody in."""
    return (await release.try_join(room, "eve"))[0] == 101


def facts_are_complete(facts: Sequence[events_pb2.RoomEvent]) -> None:
    """Everything that happened was told once, in order, from the room's start to its end."""
    names = [it.name for it in facts]
    assert names[0] == "room_started"
    assert [it.sequence for it in facts] == list(range(1, len(facts) + 1)), names
    assert len({it.id for it in facts}) == len(facts)
    for name, count in (("participant_joined", 3), ("participant_left", 3), ("track_published", 6)):
        assert names.count(name) == count, names
    assert all(before.created_at <= after.created_at for before, after in pairwise(facts))
