"""A node and its leases: who it answers for, when its rooms freeze, and how they thaw."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from livekit.protocol import models as lk
from livekit.protocol import room as api
from livekit.protocol import rtc

from chassis import rpc
from contracts.node.v1 import node_pb2, node_pb2_grpc
from sfu.core import renewal
from sfu.core.room_events import FROZEN
from sfu.runner import NodeLimits
from tests.support.nodes import AUTH, TestNode, running_node, signaling, until


@asynccontextmanager
async def calling(node: TestNode) -> AsyncIterator[Any]:
    async with rpc.channel(node.address, auth=AUTH) as channel:
        yield node_pb2_grpc.NodeServiceStub(channel)


def list_participants(**fields: object) -> node_pb2.CallApiRequest:
    request = api.ListParticipantsRequest(room="r").SerializeToString()
    return node_pb2.CallApiRequest(
        service="livekit.RoomService",
        method="ListParticipants",
        request=request,
        room_name="r",
        room_sid="RM_1",
        epoch=5,
        **fields,  # type: ignore[arg-type]
    )


async def test_what_is_for_another_process_is_refused_with_the_lease_doubted() -> None:
    async with (
        running_node("ND_a") as a,
        signaling(a.address) as to_a,
        calling(a) as stub,
    ):
        frame = await to_a.frame(to_a.open("alice", node_id="ND_before"))
        assert (frame.refused.http_status, frame.refused.lease_refused) == (503, True)
        assert frame.refused.message == "this is ND_a, not ND_before"
        answer = await stub.CallApi(list_participants(node_id="ND_before"))
        assert (answer.error_code, answer.lease_refused) == ("unavailable", True)
        assert a.node.rooms == 0
        assert (await to_a.response(to_a.open("alice", node_id="ND_a"))).HasField("join")


async def test_a_report_names_the_node_and_renews_only_when_asked() -> None:
    async with running_node("ND_a", lapses=True) as a, calling(a) as stub:
        around = a.node._around
        before = around.renewal.lapses_at
        answer = await stub.ReportNode(node_pb2.ReportNodeRequest())
        assert answer.record.node_id == "ND_a"
        assert around.renewal.lapses_at == before
        await stub.ReportNode(node_pb2.ReportNodeRequest(renews=True))
        assert around.renewal.lapses_at > before


@pytest.fixture
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewal, "LEASE_LIFE", 0.3)


@pytest.mark.usefixtures("short_leases")
async def test_rooms_freeze_without_renewal_and_thaw_with_it() -> None:
    async with (
        running_node("ND_a", lapses=True) as a,
        signaling(a.address) as to_a,
        calling(a) as stub,
    ):
        alice = to_a.open("alice")
        await to_a.response(alice)
        watching = asyncio.create_task(a.node.watch_leases())
        await until(lambda: a.node.is_frozen)
        frame = await to_a.frame(to_a.open("bob"))
        assert (frame.refused.http_status, frame.refused.message) == (503, FROZEN)
        assert not frame.refused.lease_refused
        other = await to_a.frame(to_a.open("bob", room_name="s", room_sid="RM_2"))
        assert (other.refused.http_status, other.refused.message) == (503, FROZEN)
        listed = await stub.CallApi(list_participants())
        assert len(api.ListParticipantsResponse.FromString(listed.response).participants) == 1
        to_a.say(alice, "publish TR_1")
        await until(lambda: "TR_1" in a.stages[0].directory)

        await stub.ReportNode(node_pb2.ReportNodeRequest(renews=True))
        assert a.witness.doubts == 1
        frame = await to_a.frame(to_a.open("bob"))  # some rooms may be another's by now
        assert (frame.refused.http_status, frame.refused.message) == (503, FROZEN)
        a.node.confirmed(a.node._around.clock.now())
        assert not a.node.is_frozen
        assert (await to_a.response(to_a.open("carol"))).HasField("join")
        watching.cancel()


async def test_a_room_that_is_superseded_sends_its_members_away_without_a_word_to_others() -> None:
    async with running_node("ND_a") as a, signaling(a.address) as to_a:
        alice = to_a.open("alice")
        await to_a.response(alice)
        a.node.supersede("r", 5)  # its own epoch: nothing is newer
        a.node.supersede("r", 6)
        leave = await to_a.response(alice)
        while leave.WhichOneof("message") != "leave":
            leave = await to_a.response(alice)
        assert leave.leave.reason == lk.STATE_MISMATCH
        assert leave.leave.action == rtc.LeaveRequest.RECONNECT
        await until(lambda: a.node.rooms == 0)
        assert a.witness.released == []
        assert "room_finished" not in [event.name for event in a.witness.events]


async def test_a_node_at_its_limits_refuses_joins_and_takes_resumes() -> None:
    tracks = 0
    limits = NodeLimits(participants=1, tracks=10)
    async with (
        running_node("ND_a", limits=limits, tracks=lambda: tracks) as a,
        signaling(a.address) as to_a,
    ):
        tracks = 10
        frame = await to_a.frame(to_a.open("alice"))
        assert frame.refused.http_status == 503
        assert frame.refused.message == "node limit: ND_a takes 10 tracks at most"
        tracks = 9
        assert (await to_a.response(to_a.open("alice"))).HasField("join")
        frame = await to_a.frame(to_a.open("bob"))
        assert frame.refused.http_status == 503
        assert frame.refused.message == "node limit: ND_a takes 1 participants at most"
        to_a.open("alice", reconnect=True)
        await until(lambda: any(o.HasField("resumed") for o in a.stages[0].orders))
