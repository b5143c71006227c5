"""What callers notice when parts of an installation cannot reach each other: two people in a call, one cut at a time.

The cuts swallow packets, as a broken network does. The four partitions are those of ARCHITECTURE.md.
"""

import asyncio
import itertools
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from livekit import api, rtc

from tests.support.cable import Cable
from tests.support.installation import Front, Installation
from tests.support.python_client import PythonClient, until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

AUDIO = rtc.TrackKind.KIND_AUDIO
BEYOND_EXPIRY_S = 9.0
"""A cut that outlives lease expiry, questions to the holder included."""
NO_GAP_S = 1.0
"""Above what two cores busy with a dozen processes lose at times; a reconnect costs more."""


class Call:
    """Ann plays a tone that Ben hears."""

    def __init__(self, installation: Installation, room: str) -> None:
        self.installation = installation
        self.room = room
        self.ann: PythonClient
        self.ben: PythonClient

    async def begin(self, ann: Front, ben: Front) -> None:
        self.ann = await PythonClient.join(ann, self.room, "ann")
        self.ben = await PythonClient.join(ben, self.room, "ben")
        await self.ann.publish_tone()
        await until(lambda: len(self.heard) > 20, "Ben hears Ann")

    @property
    def heard(self) -> list[float]:
        """When Ben heard something of Ann."""
        return self.ben.of("ann", AUDIO).arrivals

    def longest_gap(self, since: float) -> float:
        """Seconds of silence at most, from `since` until now."""
        times = [since, *(at for at in self.heard if at > since), time.monotonic()]
        return max(later - earlier for earlier, later in itertools.pairwise(times))

    async def home(self, placement: str = "placement1") -> tuple[str, int]:
        """(host, epoch) of the room."""
        lease = await self.installation.home(self.room, placement)
        return self.installation.host_of(lease), lease.epoch

    async def mark_room(self) -> str:
        """Give the room metadata by the server API; its sid."""
        async with self.installation.front().server_api() as server:
            await server.room.update_room_metadata(
                api.UpdateRoomMetadataRequest(room=self.room, metadata="kept")
            )
        return await self.ben.room.sid

    async def room_is_the_same(self, sid: str) -> None:
        """To Ben it has the sid and the metadata it had."""
        assert await self.ben.room.sid == sid
        assert self.ben.room.metadata == "kept"

    async def third_joins(self, front: str) -> None:
        """Somebody else joins, is seen, and leaves."""
        carl = await PythonClient.join(self.installation.front(front), self.room, "carl")
        try:
            await until(lambda: "participant_connected carl" in self.ben.events, "Ben sees Carl")
        finally:
            await carl.leave()

    async def ann_is_heard_to_speak(self, word: bytes) -> None:
        """Reliable data gets through."""
        await self.ann.room.local_participant.publish_data(word, reliable=True)
        await until(lambda: any(it[1] == word for it in self.ben.data), f"Ben gets {word!r}")


@asynccontextmanager
async def call_in(
    installation: Installation, room: str, ann: Front | None = None
) -> AsyncIterator[Call]:
    call = Call(installation, room)
    await call.begin(ann or installation.front("signaling1"), installation.front("signaling2"))
    try:
        yield call
    finally:
        await asyncio.gather(call.ann.leave(), call.ben.leave())


async def test_a_home_cut_from_nats_keeps_its_room_and_takes_joins(
    installation: Installation, room: str
) -> None:
    async with call_in(installation, room) as call:
        home, epoch = await call.home()
        since = time.monotonic()
        with installation.cut(home, "nats"):
            await asyncio.sleep(BEYOND_EXPIRY_S)
            assert await call.home("placement2") == (home, epoch)
            await call.third_joins("signaling1")
            await call.ann_is_heard_to_speak(b"hello")
            assert call.longest_gap(since) < NO_GAP_S
        assert "reconnecting" not in call.ann.events + call.ben.events


async def test_a_home_cut_from_placement_keeps_its_room(
    installation: Installation, room: str
) -> None:
    async with call_in(installation, room) as call:
        home, epoch = await call.home()
        since = time.monotonic()
        with installation.cut(home, "placement1", "placement2"):
            await asyncio.sleep(BEYOND_EXPIRY_S)
            assert await call.home() == (home, epoch)
            await call.third_joins("signaling2")
            assert call.longest_gap(since) < NO_GAP_S
        assert "reconnecting" not in call.ann.events + call.ben.events


async def test_a_home_cut_from_one_signaling_replica_goes_on_and_its_clients_resume(
    installation: Installation, room: str
) -> None:
    async with call_in(installation, room) as call:
        home, epoch = await call.home()
        since = time.monotonic()
        with installation.cut(home, "signaling1"):
            await asyncio.sleep(6.0)
            await call.third_joins("signaling2")
        await until(lambda: "reconnected" in call.ann.events, "Ann's signaling is back", 30.0)
        await call.ann_is_heard_to_speak(b"again")
        assert await call.home() == (home, epoch)
        assert call.longest_gap(since) < NO_GAP_S
        assert "participant_disconnected ann" not in call.ben.events


async def test_a_placement_cut_from_nats_answers_for_running_rooms_and_takes_none_from_its_node(
    installation: Installation, room: str
) -> None:
    async with call_in(installation, room) as call:
        home, epoch = await call.home()
        with installation.cut("placement1", "nats"):
            await asyncio.sleep(BEYOND_EXPIRY_S)
            assert await call.home("placement1") == (home, epoch)
            await call.third_joins("signaling1")
            # The other replica makes new rooms.
            for number in range(4):
                other = await PythonClient.join(
                    installation.front("signaling1"), f"{room}-{number}", "dora"
                )
                await other.leave()
        assert await call.home("placement2") == (home, epoch)
        assert "reconnecting" not in call.ann.events + call.ben.events


async def test_a_home_cut_from_nats_and_placement_loses_its_room_to_another_and_its_clients_follow(
    installation: Installation, room: str
) -> None:
    async with call_in(installation, room) as call:
        sid = await call.mark_room()
        home, epoch = await call.home()
        await asyncio.sleep(2.0)  # the metadata is written within half a second
        with installation.cut(home, "nats", "placement1", "placement2"):
            await asyncio.sleep(BEYOND_EXPIRY_S)
            await call.third_joins("signaling1")
            moved, later = await call.home()
            assert moved != home
            assert later > epoch
            await until(lambda: "reconnected" in call.ben.events, "Ben follows", 30.0)
            since = len(call.heard)
            await until(lambda: len(call.heard) > since + 20, "Ben hears Ann again", 30.0)
            await call.room_is_the_same(sid)


@pytest.mark.parametrize("how", ["stopped", "hanging"])
async def test_without_nats_calls_go_on_and_new_rooms_are_refused(
    installation: Installation, room: str, how: str
) -> None:
    replicas = [installation.front(name).place for name in ("signaling1", "signaling2")]
    async with (
        Cable(*replicas).laid() as balancer,
        call_in(installation, room, Front(balancer.place)) as call,
    ):
        home, epoch = await call.home()
        since = time.monotonic()
        process = installation.processes["nats"]
        process.send_signal(signal.SIGKILL if how == "stopped" else signal.SIGSTOP)
        try:
            await asyncio.sleep(BEYOND_EXPIRY_S)
            await call.ann_is_heard_to_speak(b"no bus")
            publication = next(iter(call.ann.room.local_participant.track_publications.values()))
            assert publication.track is not None
            publication.track.mute()
            await until(lambda: f"track_muted ann {AUDIO}" in call.ben.events, "Ben sees Ann muted")
            publication.track.unmute()
            await until(
                lambda: f"track_unmuted ann {AUDIO}" in call.ben.events, "Ben sees Ann unmuted"
            )
            status, text = await installation.front().try_join(f"{room}-new", "eve")
            assert status == 503
            assert "bus" in text
            # A replica that dies now: its clients resume through another.
            installation.kill("signaling1")
            await until(lambda: "reconnected" in call.ann.events, "Ann resumes", 30.0)
            await call.ann_is_heard_to_speak(b"resumed")
        finally:
            if how == "stopped":
                await process.wait()
                await installation.start("nats")
            else:
                process.send_signal(signal.SIGCONT)
            if installation.processes["signaling1"].returncode is not None:
                await installation.start("signaling1")
        assert call.longest_gap(since) < NO_GAP_S + 1.0  # the mute
        await until_joinable(installation, f"{room}-new")
        await call.third_joins("signaling2")
        assert await call.home() == (home, epoch)
        await call.ben.leave()
        names = await installation.facts(room, last="participant_left")
        assert names.count("participant_joined") == 3


async def test_a_slow_nats_delays_nobody_in_a_call(installation: Installation, room: str) -> None:
    async with call_in(installation, room) as call:
        home, epoch = await call.home()
        since = time.monotonic()
        process = installation.processes["nats"]
        try:
            for _ in range(25):  # it works for a tenth of the time
                process.send_signal(signal.SIGSTOP)
                await asyncio.sleep(0.36)
                process.send_signal(signal.SIGCONT)
                await asyncio.sleep(0.04)
            await call.third_joins("signaling2")
        finally:
            process.send_signal(signal.SIGCONT)
        assert call.longest_gap(since) < NO_GAP_S
        assert await call.home() == (home, epoch)
        assert "reconnecting" not in call.ann.events + call.ben.events


async def test_a_killed_home_is_replaced_and_clients_are_back_within_eight_seconds(
    installation: Installation, room: str
) -> None:
    async with call_in(installation, room) as call:
        sid = await call.mark_room()
        home, epoch = await call.home()
        await asyncio.sleep(1.0)
        before = len(call.heard)
        killed_at = time.monotonic()
        installation.kill(home)
        try:
            await until(
                lambda: any(at > killed_at + 1.0 for at in call.heard[before:]), "media again", 30.0
            )
            gap = next(at for at in call.heard[before:] if at > killed_at + 1.0) - killed_at
            assert gap < 8.0
            await call.room_is_the_same(sid)
            moved, later = await call.home()
            assert moved != home
            assert later > epoch
        finally:
            await installation.processes[home].wait()
            await installation.start(home)
        # Those of the old life are gone before anybody joins the new one.
        names = await installation.facts(room, last="participant_left")
        assert names.count("participant_joined") == 2


async def until_joinable(installation: Installation, room: str) -> None:
    """New rooms are taken again within the time that clients keep trying."""
    deadline = time.monotonic() + 20.0
    while (await installation.front().try_join(room, "eve"))[0] != 101:
        assert time.monotonic() < deadline, "new rooms are still refused"
        await asyncio.sleep(0.5)
