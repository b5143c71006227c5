"""Real WebSockets and HTTP against signaling, real gRPC to a placement and a node that do as the test says."""

import asyncio

import aiohttp
import pytest
from google.protobuf.message import Message
from livekit.protocol import models, room, rtc

from contracts.node.v1 import node_pb2
from signaling.http import SERVER_OPTIONS
from tests.support.fronts import (
    JOIN,
    Front,
    ScriptedPlacement,
    running_front,
    running_node,
    running_placement,
    settled,
)


async def test_a_join_is_opened_on_the_rooms_node_and_answered_in_the_first_frame(
    front: Front,
) -> None:
    socket = await front.join()
    assert await socket.receive_bytes() == JOIN
    (opened,) = front.node.opened.values()
    claims = node_pb2.Claims.FromString(opened.claims)
    assert (opened.room_name, opened.epoch, opened.room_sid) == ("hall", 7, "RM_hall")
    assert opened.room_created
    assert (claims.identity, claims.api_key) == ("alice", "key")
    assert rtc.JoinRequest.FromString(opened.join_request).client_info.protocol == 17

    await socket.send_bytes(b"request")
    await settled(lambda: front.node.requests)
    assert front.node.requests == [(1, b"request")]
    await socket.close()
    await settled(lambda: front.node.closed)
    assert front.node.closed == {1: node_pb2.SocketClosed.CAUSE_PEER_CLOSED}


async def test_a_new_room_is_wanted_in_the_region_of_the_replica_that_was_asked() -> None:
    async with running_node() as node:
        placement = ScriptedPlacement([node])  # type: ignore[abstract]
        async with (
            running_placement(placement) as address,
            running_front(placement, address, region="tromso") as front,
        ):
            node.refusal = node_pb2.Refused(http_status=503, message="not mine", lease_refused=True)
            joining = asyncio.create_task(front.join())
            await settled(lambda: placement.doubts)
            node.refusal = None
            assert await (await joining).receive_bytes() == JOIN
            status, _ = await front.call(
                "CreateRoom", {"name": "side"}, front.token(room_create=True)
            )
            assert status == 200
    assert len(placement.regions) >= 3
    assert set(placement.regions) == {"tromso"}


async def test_one_frame_reaches_every_socket_it_names_and_no_other(front: Front) -> None:
    sockets = [await front.join(identity=f"p{number}") for number in range(3)]
    for socket in sockets:
        await socket.receive_bytes()
    front.node.send(1, 3, response=b"news")
    front.node.send(2, response=b"other")
    assert [await socket.receive_bytes() for socket in sockets] == [b"news", b"other", b"news"]


async def test_a_close_follows_what_was_sent_before_it(front: Front) -> None:
    socket = await front.join()
    await socket.receive_bytes()
    front.node.send(1, response=b"leave")
    front.node.send(1, close=1000)
    assert await socket.receive_bytes() == b"leave"
    closed = await socket.receive()
    assert (closed.type, closed.data) == (aiohttp.WSMsgType.CLOSE, 1000)


async def test_a_refused_join_is_an_http_status_with_the_rooms_text(front: Front) -> None:
    front.node.refusal = node_pb2.Refused(http_status=503, message="room is full")
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await front.join()
    assert refused.value.status == 503


async def test_no_node_is_a_503_and_a_missing_room_a_404(front: Front) -> None:
    front.placement.available = False
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await front.join()
    assert refused.value.status == 503


async def test_a_resume_into_a_room_that_is_gone_is_told_to_join_anew(front: Front) -> None:
    params = {"access_token": front.token(), "protocol": "17", "reconnect": "1"}
    socket = await front.http.ws_connect(f"ws://{front.address}/rtc", params=params)
    leave = rtc.SignalResponse.FromString(await socket.receive_bytes()).leave
    assert leave.action == rtc.LeaveRequest.RECONNECT
    assert leave.reason == models.DisconnectReason.STATE_MISMATCH
    assert (await socket.receive()).data == 1000
    assert not front.placement.rooms


async def test_a_node_that_never_answers_is_a_503_in_time(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signaling.core.session.FIRST_RESPONSE_TIMEOUT_S", 0.2)
    front.node.answers = False
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await front.join()
    assert refused.value.status == 503
    await settled(lambda: front.node.closed)


async def test_a_client_that_goes_away_while_it_waits_is_forgotten(front: Front) -> None:
    front.node.answers = False
    waiting = asyncio.create_task(front.join())
    await settled(lambda: front.node.opened)
    waiting.cancel()
    await settled(lambda: front.node.closed)
    assert front.node.closed == {1: node_pb2.SocketClosed.CAUSE_PEER_CLOSED}


async def test_calls_go_to_the_rooms_node_with_the_callers_claims(front: Front) -> None:
    await (await front.join()).receive_bytes()
    info = models.ParticipantInfo(identity="alice", sid="PA_1")
    front.node.call_response = node_pb2.CallApiResponse(response=info.SerializeToString())
    admin = front.token("boss", room_join=False, room_admin=True)
    status, body = await front.call("GetParticipant", {"room": "hall", "identity": "alice"}, admin)
    assert status == 200
    assert isinstance(body, dict)
    assert (body["sid"], body["joined_at"]) == ("PA_1", "0")
    (call,) = front.node.calls
    assert (call.service, call.method, call.epoch) == ("livekit.RoomService", "GetParticipant", 7)
    assert room.RoomParticipantIdentity.FromString(call.request).identity == "alice"
    assert node_pb2.Claims.FromString(call.claims).identity == "boss"


async def test_api_errors_keep_their_code(front: Front) -> None:
    admin = front.token("boss", room_join=False, room_admin=True)
    asked = {"room": "hall", "identity": "alice"}
    assert await front.call("GetParticipant", asked, admin) == (
        404,
        {"code": "not_found", "msg": "requested room does not exist"},
    )
    assert await front.call("ListParticipants", {"room": "hall"}, admin) == (
        200,
        {"participants": []},
    )
    await (await front.join()).receive_bytes()
    front.node.call_response = node_pb2.CallApiResponse(
        error_code="not_found", error_message="participant does not exist"
    )
    assert await front.call("GetParticipant", asked, admin) == (
        404,
        {"code": "not_found", "msg": "participant does not exist"},
    )
    assert await front.call("GetParticipant", asked) == (
        401,
        {"code": "unauthenticated", "msg": "permissions denied"},
    )
    front.node.call_response = node_pb2.CallApiResponse(
        error_code="canceled", error_message="late", error_meta={"code": "1502"}
    )
    assert await front.call("PerformRpc", asked, admin) == (
        408,
        {"code": "canceled", "msg": "late", "meta": {"code": "1502"}},
    )


async def test_rooms_are_listed_from_their_nodes(front: Front) -> None:
    await (await front.join()).receive_bytes()
    listed: Message = room.ListRoomsResponse(rooms=[models.Room(name="hall", sid="RM_hall")])
    front.node.call_response = node_pb2.CallApiResponse(response=listed.SerializeToString())
    lister = front.token("boss", room_join=False, room_list=True)
    status, body = await front.call("ListRooms", {}, lister)
    assert status == 200
    assert isinstance(body, dict)
    assert [it["name"] for it in body["rooms"]] == ["hall"]
    assert await front.call("ListRooms", {"names": ["none"]}, lister) == (200, {"rooms": []})


async def test_a_flooding_client_is_slowed_and_others_are_not(front: Front) -> None:
    flooder = await front.join(identity="flooder")
    quiet = await front.join(identity="quiet")
    await flooder.receive_bytes()
    await quiet.receive_bytes()
    for _ in range(2500):
        await flooder.send_bytes(b"x")
    await quiet.send_bytes(b"hello")
    await settled(lambda: (2, b"hello") in front.node.requests)
    assert len(front.node.requests) < 2300


async def test_a_quiet_socket_is_pinged_again_and_again_and_stays_without_a_pong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert SERVER_OPTIONS["ws_ping_interval"] == 10.0
    monkeypatch.setitem(SERVER_OPTIONS, "ws_ping_interval", 0.1)
    async with running_node() as node:
        placement = ScriptedPlacement([node])  # type: ignore[abstract]
        async with (
            running_placement(placement) as address,
            running_front(placement, address) as front,
        ):
            url = f"ws://{front.address}/rtc"
            params = {"access_token": front.token(), "protocol": "17"}
            socket = await front.http.ws_connect(url, params=params, autoping=False)
            frames = [await socket.receive() for _ in range(4)]
            types = [frame.type for frame in frames]
            assert types == [aiohttp.WSMsgType.BINARY, *[aiohttp.WSMsgType.PING] * 3]
            assert len({frame.data for frame in frames[1:]}) == 3
            front.node.send(1, response=b"news")
            while (frame := await socket.receive()).type == aiohttp.WSMsgType.PING:
                pass
            assert frame.data == b"news"
            assert not front.node.closed
