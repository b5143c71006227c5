"""Replicas and nodes that come and go: what clients of signaling see of it."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import pytest
from livekit.protocol import models, rtc

from contracts.node.v1 import node_pb2
from tests.support.fronts import (
    FIRST_EPOCH,
    JOIN,
    RECONNECT,
    Front,
    ScriptedNode,
    ScriptedPlacement,
    running_front,
    running_node,
    running_placement,
    settled,
)


@dataclass
class Cluster:
    """Two replicas, two nodes; rooms live on the first."""

    fronts: list[Front]
    placement: ScriptedPlacement

    @property
    def home(self) -> ScriptedNode:
        """Where rooms are at first."""
        return self.placement.nodes[0]

    @property
    def other(self) -> ScriptedNode:
        """Where they may go."""
        return self.placement.nodes[1]


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """Running until the test ends."""
    async with running_node("ND_1") as first, running_node("ND_2") as second:
        placement = ScriptedPlacement([first, second])  # type: ignore[abstract]
        async with (
            running_placement(placement) as address,
            running_front(placement, address) as one,
            running_front(placement, address) as two,
        ):
            yield Cluster([one, two], placement)


def leave_of(frame: bytes) -> rtc.LeaveRequest:
    """The leave that a frame must be."""
    response = rtc.SignalResponse.FromString(frame)
    assert response.WhichOneof("message") == "leave"
    return response.leave


async def close_code(socket: aiohttp.ClientWebSocketResponse) -> int:
    """The code of the close that must come next."""
    message = await socket.receive()
    assert message.type is aiohttp.WSMsgType.CLOSE, message
    return int(message.data)


async def test_a_client_of_a_killed_replica_resumes_through_another(cluster: Cluster) -> None:
    one, two = cluster.fronts
    socket = await one.join()
    assert await socket.receive_bytes() == JOIN
    await one.app.close()
    assert (await socket.receive()).data == 1012
    await settled(lambda: cluster.home.closed)
    resumed = await two.join(reconnect=True)
    assert await resumed.receive_bytes() == RECONNECT
    assert [opened.reconnect for opened in cluster.home.sessions] == [False, True]


async def test_a_broken_stream_to_a_living_node_makes_its_clients_resume_at_once(
    cluster: Cluster,
) -> None:
    sockets = [await cluster.fronts[0].join(f"p{number}") for number in range(3)]
    for socket in sockets:
        await socket.receive_bytes()
    started = time.monotonic()
    cluster.home.break_streams()
    assert [await close_code(socket) for socket in sockets] == [1011] * 3
    assert time.monotonic() - started < 1.0
    again = await cluster.fronts[0].join(reconnect=True)
    assert await again.receive_bytes() == RECONNECT


async def test_clients_of_a_killed_node_stay_until_their_room_has_a_new_home(
    cluster: Cluster,
) -> None:
    sockets = [await cluster.fronts[0].join(f"p{number}") for number in range(5)]
    old = await cluster.fronts[0].join("old", protocol=9)
    for socket in (*sockets, old):
        await socket.receive_bytes()
    await cluster.home.stop()
    await settled(lambda: len(cluster.placement.doubts) == 2)
    # One question at a time for the room, whatever the number of its sockets.
    assert set(cluster.placement.doubts) == {("hall", FIRST_EPOCH)}
    assert not any(socket.closed for socket in sockets)
    cluster.placement.place("hall", cluster.other)
    for socket in sockets:
        leave = leave_of(await socket.receive_bytes())
        assert leave.action == rtc.LeaveRequest.RECONNECT
        assert leave.reason == models.DisconnectReason.STATE_MISMATCH
        assert await close_code(socket) == 1000
    assert leave_of(await old.receive_bytes()).can_reconnect
    again = await cluster.fronts[0].join("p0")
    assert await again.receive_bytes() == JOIN
    (opened,) = cluster.other.sessions
    assert (opened.epoch, opened.node_id) == (FIRST_EPOCH + 1, "ND_2")


async def test_each_room_of_a_killed_node_goes_its_own_way(cluster: Cluster) -> None:
    hall, lobby = [await cluster.fronts[0].join(room=room) for room in ("hall", "lobby")]
    for socket in (hall, lobby):
        await socket.receive_bytes()
    await cluster.home.stop()
    del cluster.placement.leases["lobby"]
    assert leave_of(await lobby.receive_bytes()).action == rtc.LeaveRequest.RECONNECT
    await cluster.home.start()
    assert await close_code(hall) == 1011


async def test_a_node_that_was_silent_for_a_while_has_its_clients_resume(cluster: Cluster) -> None:
    socket = await cluster.fronts[0].join()
    await socket.receive_bytes()
    await cluster.home.stop()
    await asyncio.sleep(1.0)
    await cluster.home.start()
    assert await close_code(socket) == 1011
    again = await cluster.fronts[1].join(reconnect=True)
    assert await again.receive_bytes() == RECONNECT


async def test_another_process_at_the_nodes_address_is_no_node_that_is_back(
    cluster: Cluster,
) -> None:
    socket = await cluster.fronts[0].join()
    await socket.receive_bytes()
    await cluster.home.stop()
    heir = ScriptedNode("ND_3")  # type: ignore[abstract]
    heir.address = cluster.home.address
    await heir.start()
    await settled(lambda: cluster.placement.doubts)
    cluster.placement.place("hall", heir)
    assert leave_of(await socket.receive_bytes()).action == rtc.LeaveRequest.RECONNECT
    again = await cluster.fronts[0].join()
    assert await again.receive_bytes() == JOIN
    assert [opened.node_id for opened in heir.sessions] == ["ND_3"]
    await heir.stop()


async def test_a_join_waits_for_its_rooms_new_home(cluster: Cluster) -> None:
    cluster.placement.place("hall", cluster.home)
    await cluster.home.stop()
    joining = asyncio.create_task(cluster.fronts[0].join())
    await settled(lambda: len(cluster.placement.doubts) >= 2)
    cluster.placement.place("hall", cluster.other)
    assert await (await joining).receive_bytes() == JOIN
    assert cluster.other.sessions[0].epoch == FIRST_EPOCH + 1


async def test_a_join_with_an_old_lease_finds_the_new_home(cluster: Cluster) -> None:
    cluster.placement.place("hall", cluster.other)
    cluster.other.node_id = "ND_9"  # another process than placement was told of
    joining = asyncio.create_task(cluster.fronts[0].join())
    await settled(lambda: cluster.placement.doubts)
    cluster.placement.place("hall", cluster.other)
    assert await (await joining).receive_bytes() == JOIN


async def test_a_join_whose_node_stays_unreachable_is_a_503(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signaling.core.session.HOME_PATIENCE_S", 0.7)
    cluster.placement.place("hall", cluster.home)
    await cluster.home.stop()
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await cluster.fronts[0].join()
    assert refused.value.status == 503


async def test_a_call_goes_where_the_room_went(cluster: Cluster) -> None:
    front, placement = cluster.fronts[0], cluster.placement
    placement.place("hall", cluster.home)
    await cluster.home.stop()
    info = models.ParticipantInfo(identity="alice", sid="PA_1").SerializeToString()
    cluster.other.call_response = node_pb2.CallApiResponse(response=info)
    admin = front.token("boss", room_join=False, room_admin=True)
    asked = {"room": "hall", "identity": "alice"}
    calling = asyncio.create_task(front.call("GetParticipant", asked, admin))
    await settled(lambda: placement.doubts)
    placement.place("hall", cluster.other)
    status, body = await calling
    assert (status, body["sid"] if isinstance(body, dict) else None) == (200, "PA_1")
    (call,) = cluster.other.calls
    assert (call.epoch, call.node_id) == (FIRST_EPOCH + 1, "ND_2")


async def test_a_call_that_may_have_been_done_is_not_done_again(cluster: Cluster) -> None:
    front, placement = cluster.fronts[0], cluster.placement
    placement.place("hall", cluster.home)
    admin = front.token("boss", room_join=False, room_admin=True)
    called = asyncio.Event()

    async def never_answer(*_: object) -> node_pb2.CallApiResponse:
        called.set()
        await asyncio.Event().wait()
        raise AssertionError

    cluster.home.CallApi = never_answer  # type: ignore[method-assign, assignment]
    await cluster.home.stop()
    await cluster.home.start()
    body = {"room": "hall", "identity": "alice"}
    calling = asyncio.create_task(front.call("RemoveParticipant", body, admin))
    await called.wait()
    placement.place("hall", cluster.other)
    await cluster.home.stop()
    status, _ = await calling
    assert status == 503
    assert not cluster.other.calls


async def test_a_channel_nobody_uses_is_closed(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signaling.clients.IDLE_S", 0.1)
    monkeypatch.setattr("signaling.clients.SWEEP_INTERVAL_S", 0.05)
    # The sweep under way still waits by the old interval: a replica of its own begins with the new one.
    async with (
        running_placement(cluster.placement) as address,
        running_front(cluster.placement, address) as front,
    ):
        socket = await front.join()
        await socket.receive_bytes()
        await asyncio.sleep(0.3)
        assert not cluster.home.closed  # in use
        await socket.close()
        await settled(lambda: cluster.home.closed)
        ended = cluster.home.streams_ended
        await settled(lambda: cluster.home.streams_ended > ended)


async def test_a_draining_replica_sends_its_clients_to_another(cluster: Cluster) -> None:
    one, two = cluster.fronts
    sockets = [await one.join(f"p{number}") for number in range(20)]
    for socket in sockets:
        await socket.receive_bytes()
    started = time.monotonic()
    draining = asyncio.create_task(one.app.drain())
    times = []
    for code in asyncio.as_completed([close_code(socket) for socket in sockets]):
        assert await code == 1012
        times.append(time.monotonic() - started)
    await draining
    assert times[-1] - times[0] > 0.1  # not all in one instant
    resumed = await two.join("p0", reconnect=True)
    assert await resumed.receive_bytes() == RECONNECT
