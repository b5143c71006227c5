"""Two nodes in one process: the Room on A, sessions on A and B, the link cut, replayed, refused."""

import asyncio

from livekit.protocol import models as lk
from livekit.protocol import room as api
from livekit.protocol import rtc

from chassis import rpc
from contracts.node.v1 import node_pb2, node_pb2_grpc
from tests.support.cable import Cable
from tests.support.nodes import (
    AUTH,
    Signaling,
    TestNode,
    running_node,
    signaling,
    until,
)


async def join(replica: Signaling, identity: str, **fields: object) -> int:
    session_id = replica.open(identity, **fields)
    response = await replica.response(session_id)
    assert response.join.participant.identity == identity
    return session_id


def seen(node: TestNode, identity: str) -> dict[str, tuple[int, list[str]]]:
    """What one session believes of the others: identity -> (state, tracks)."""
    (session,) = [s for s in node.stages[-1].sessions.values() if s.identity == identity]
    return {p.identity: (p.state, [t.sid for t in p.tracks]) for p in session.others.values()}


def listed(node: TestNode) -> dict[str, str]:
    """The track directory of a node: track sid -> node that has the media."""
    return {sid: row.media_node_id for sid, row in node.stages[-1].directory.items()}


async def test_a_cut_room_link_replays_and_both_nodes_agree() -> None:
    async with (
        running_node("ND_a") as a,
        running_node("ND_b") as b,
        Cable(a.address).laid() as between,
        signaling(a.address) as to_a,
        signaling(b.address) as to_b,
    ):
        home = {"home_node_id": "ND_a", "home_address": between.url.removeprefix("nats://")}
        alice = await join(to_a, "alice")
        bob = await join(to_b, "bob", **home)
        assert list(seen(b, "bob")) == ["alice"]
        await until(lambda: list(seen(a, "alice")) == ["bob"])

        between.pull()
        to_a.say(alice, "activate")
        to_a.say(alice, "publish TR_alice")
        to_b.say(bob, "publish TR_bob")
        to_b.say(bob, "activate")
        await until(lambda: "TR_alice" in a.stages[0].directory)
        await asyncio.sleep(0.2)
        assert seen(b, "bob")["alice"][1] == []  # the cut is real
        assert "TR_bob" not in a.stages[0].directory

        await between.plug()
        active = lk.ParticipantInfo.ACTIVE
        await until(lambda: seen(b, "bob").get("alice") == (active, ["TR_alice"]))
        await until(lambda: seen(a, "alice").get("bob") == (active, ["TR_bob"]))
        both = {"TR_alice": "ND_a", "TR_bob": "ND_b"}
        for node in (a, b):
            await until(lambda node=node: listed(node) == both)  # type: ignore[misc]
        names = [event.name for event in a.witness.events]
        assert sorted(names) == [
            "participant_joined",
            "participant_joined",
            "room_started",
            "track_published",
            "track_published",
        ]
        assert b.witness.events == []
        assert a.metrics.resyncs.value() == b.metrics.resyncs.value() == 0


async def test_a_node_away_for_too_long_is_lost_and_its_sessions_start_anew() -> None:
    async with (
        running_node("ND_a", link_grace_s=0.2) as a,
        running_node("ND_b") as b,
        Cable(a.address).laid() as between,
        signaling(a.address) as to_a,
        signaling(b.address) as to_b,
    ):
        await join(to_a, "alice")
        home = {"home_node_id": "ND_a", "home_address": between.url.removeprefix("nats://")}
        bob = await join(to_b, "bob", **home)
        await until(lambda: list(seen(a, "alice")) == ["bob"])
        between.pull()
        await until(lambda: list(seen(a, "alice")) == [])
        await between.plug()
        leave = await to_b.response(bob)
        while leave.WhichOneof("message") != "leave":
            leave = await to_b.response(bob)
        assert leave.leave.action == rtc.LeaveRequest.RECONNECT
        await join(to_b, "bob", **home)
        await until(lambda: list(seen(a, "alice")) == ["bob"])


async def test_a_stage_with_a_stale_epoch_is_refused_by_the_home() -> None:
    async with (
        running_node("ND_a") as a,
        running_node("ND_b") as b,
        signaling(a.address) as to_a,
        signaling(b.address) as to_b,
    ):
        await join(to_a, "alice", epoch=5)
        home = {"home_node_id": "ND_a", "home_address": a.address}
        bob = to_b.open("bob", epoch=4, **home)
        leave = await to_b.response(bob)
        assert leave.leave.action == rtc.LeaveRequest.RECONNECT
        await until(lambda: b.node.participants == 0)
        assert len(a.stages[0].sessions) == 1
        assert await to_b.frame(bob) is not None  # closed
        again = to_b.open("bob", epoch=5, **home)
        assert (await to_b.response(again)).join.participant.identity == "bob"


async def test_a_join_with_a_stale_epoch_is_refused_precisely() -> None:
    async with running_node("ND_a") as a, signaling(a.address) as to_a:
        await join(to_a, "alice", epoch=5)
        frame = await to_a.frame(to_a.open("bob", epoch=4))
        assert frame.refused.http_status == 503
        assert frame.refused.message == "stale epoch 4: the room is at 5"


async def test_a_newer_lease_ends_the_older_room() -> None:
    async with running_node("ND_a") as a, signaling(a.address) as to_a:
        alice = await join(to_a, "alice", epoch=5)
        await join(to_a, "bob", epoch=6, room_sid="RM_2")
        leave = await to_a.response(alice)
        while leave.WhichOneof("message") != "leave":
            leave = await to_a.response(alice)
        assert leave.leave.action == rtc.LeaveRequest.RECONNECT
        assert a.witness.released == []
        told = [(event.name, event.epoch) for event in a.witness.events]
        assert ("room_finished", 5) not in told


async def test_one_frame_for_many_sessions_travels_once() -> None:
    async with running_node("ND_a") as a, signaling(a.address) as to_a:
        sessions = [await join(to_a, name) for name in ("alice", "bob", "carol")]
        for session in sessions:
            while not to_a.frames[session].empty():
                to_a.frames[session].get_nowait()
        to_a.say(sessions[0], "publish TR_1")
        frame = await to_a.frame(sessions[0])
        while b"TR_1" not in frame.signal_response:
            frame = await to_a.frame(sessions[0])
        assert sorted(frame.session_ids) == sorted(sessions)


async def test_a_resume_of_a_room_that_is_not_here_is_told_to_join_anew() -> None:
    async with running_node("ND_a") as a, signaling(a.address) as to_a:
        session = to_a.open("alice", reconnect=True)
        leave = (await to_a.response(session)).leave
        assert (leave.reason, leave.action) == (lk.STATE_MISMATCH, rtc.LeaveRequest.RECONNECT)
        assert (await to_a.frame(session)).WhichOneof("message") == "close"
        assert a.node.rooms == 0


async def test_calls_reach_the_room_and_its_errors_come_back() -> None:
    async with (
        running_node("ND_a") as a,
        signaling(a.address) as to_a,
        rpc.channel(a.address, auth=AUTH) as channel,
    ):
        stub = node_pb2_grpc.NodeServiceStub(channel)

        async def call(method: str, request: bytes, epoch: int = 5) -> node_pb2.CallApiResponse:
            return await stub.CallApi(
                node_pb2.CallApiRequest(
                    service="livekit.RoomService",
                    method=method,
                    request=request,
                    room_name="r",
                    room_sid="RM_1",
                    epoch=epoch,
                )
            )

        missing = await call("DeleteRoom", b"")
        assert (missing.error_code, missing.error_message) == (
            "not_found",
            "requested room does not exist",
        )
        assert await call("ListParticipants", b"") == node_pb2.CallApiResponse()
        create = api.CreateRoomRequest(name="r", metadata="m").SerializeToString()
        made = lk.Room.FromString((await call("CreateRoom", create)).response)
        assert (made.sid, made.metadata) == ("RM_1", "m")
        alice = await join(to_a, "alice")
        stale = await call("DeleteRoom", b"", epoch=4)
        assert (stale.error_code, stale.lease_refused) == ("unavailable", True)
        assert (await call("DeleteRoom", b"")).error_code == ""
        leave = await to_a.response(alice)
        while leave.WhichOneof("message") != "leave":
            leave = await to_a.response(alice)
        assert leave.leave.reason == lk.ROOM_DELETED
        await until(lambda: a.node.rooms == 0)
        assert a.witness.released == [("r", 5)]
        over = await to_a.frame(to_a.open("late"))
        assert over.refused.http_status == 503
        assert over.refused.message == "epoch 5 of the room is over: assign it anew"
        assert over.refused.lease_refused
        for method, request in (("DeleteRoom", b""), ("CreateRoom", create)):
            answer = await call(method, request)
            assert (answer.error_code, answer.lease_refused) == ("unavailable", True)


async def test_a_fault_met_through_one_client_leaves_the_room_working() -> None:
    async with running_node("ND_a") as a, signaling(a.address) as to_a:
        alice = await join(to_a, "alice")
        to_a.say(alice, "fail")
        bob = await join(to_a, "bob")
        assert bob
        assert a.metrics.faults.value("ForStage") == 1


async def test_a_signaling_replica_gone_takes_its_sockets_with_it() -> None:
    async with running_node("ND_a") as a:
        async with signaling(a.address) as to_a:
            await join(to_a, "alice")
        await until(lambda: not a.stages[0].sessions)


async def test_shutdown_tells_everybody_and_drain_takes_no_new_rooms() -> None:
    async with running_node("ND_a") as a, signaling(a.address) as to_a:
        alice = await join(to_a, "alice")
        draining = asyncio.create_task(a.node.drain(poll_s=0.01))
        await asyncio.sleep(0.05)
        assert not draining.done()
        refused = await to_a.frame(to_a.open("bob", room_name="other", room_sid="RM_9"))
        assert (refused.refused.http_status, refused.refused.lease_refused) == (503, True)
        assert a.witness.released == [("other", 5)]  # so that it is placed elsewhere
        await join(to_a, "carol")  # the room that is here goes on
        await a.node.close()
        leave = await to_a.response(alice)
        while leave.WhichOneof("message") != "leave":
            leave = await to_a.response(alice)
        assert leave.leave.reason == lk.SERVER_SHUTDOWN
        await asyncio.wait_for(draining, 5.0)
        assert [e.name for e in a.witness.events][-1] == "room_finished"
