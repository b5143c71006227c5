"""Real WebSockets and HTTP against signaling, real gRPC to a placement and a node that do as the test says."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import aiohttp
import pytest
from google.protobuf.message import Message
from livekit.protocol import models, room, rtc
from pydantic import SecretStr

from chassis import rpc, tokens
from chassis.chassis import memory_chassis
from chassis.errors import NotFound, Unavailable
from chassis.run import ServiceApp
from chassis.tokens import Grants, VideoGrant
from contracts.node.v1 import node_pb2, node_pb2_grpc
from contracts.placement.v1 import placement_pb2, placement_pb2_grpc
from signaling.app import build
from signaling.settings import SignalingSettings

SECRET = SecretStr("s" * 32)
JOIN = rtc.SignalResponse(join=rtc.JoinResponse(ping_interval=5)).SerializeToString()
OPEN_AUTH = rpc.RpcAuth(None)


class FakeNode(node_pb2_grpc.NodeServiceServicer):
    """Admits every session, notes what it is sent, and answers calls with what the test put in."""

    def __init__(self) -> None:
        self.opened: dict[int, node_pb2.OpenSession] = {}
        self.requests: list[tuple[int, bytes]] = []
        self.closed: dict[int, int] = {}
        self.outgoing: asyncio.Queue[node_pb2.SignalResponseFrame | None] = asyncio.Queue()
        self.refusal: node_pb2.Refused | None = None
        self.answers = True
        self.calls: list[node_pb2.CallApiRequest] = []
        self.call_response = node_pb2.CallApiResponse()

    async def SignalStream(
        self, request_iterator: AsyncIterator[node_pb2.SignalStreamRequest], _context: object
    ) -> AsyncIterator[node_pb2.SignalStreamResponse]:
        """Read in the background, write what is put into `outgoing`; None breaks the stream."""
        reader = asyncio.create_task(self._read(request_iterator))
        try:
            while (frame := await self.outgoing.get()) is not None:
                yield node_pb2.SignalStreamResponse(frames=[frame])
            raise Unavailable("node goes away")
        finally:
            reader.cancel()

    async def CallApi(
        self, request: node_pb2.CallApiRequest, _context: object
    ) -> node_pb2.CallApiResponse:
        """Note the call."""
        self.calls.append(request)
        return self.call_response

    def send(self, *session_ids: int, response: bytes = b"", close: int | None = None) -> None:
        """One frame for some sessions, or a close."""
        frame = node_pb2.SignalResponseFrame(session_ids=session_ids)
        if close is None:
            frame.signal_response = response
        else:
            frame.close.code = close
        self.outgoing.put_nowait(frame)

    async def _read(self, requests: AsyncIterator[node_pb2.SignalStreamRequest]) -> None:
        async for request in (frame async for batch in requests for frame in batch.frames):
            match request.WhichOneof("message"):
                case "open":
                    self.opened[request.session_id] = request.open
                    if self.refusal is not None:
                        self.outgoing.put_nowait(
                            node_pb2.SignalResponseFrame(
                                session_ids=[request.session_id], refused=self.refusal
                            )
                        )
                    elif self.answers:
                        self.send(request.session_id, response=JOIN)
                case "signal_request":
                    self.requests.append((request.session_id, request.signal_request))
                case "socket_closed":
                    self.closed[request.session_id] = request.socket_closed.cause


@dataclass
class FakePlacement(placement_pb2_grpc.PlacementServiceServicer):
    """Every room lives on one node, once made."""

    node_address: str = ""
    rooms: set[str] = field(default_factory=set)
    available: bool = True

    def _lease(self, name: str) -> placement_pb2.Lease:
        return placement_pb2.Lease(
            room_name=name,
            room_sid=f"RM_{name}",
            node_id="ND_1",
            node_address=self.node_address,
            epoch=7,
        )

    async def AssignRoom(
        self, request: placement_pb2.AssignRoomRequest, _context: object
    ) -> placement_pb2.AssignRoomResponse:
        """Make a room when asked to."""
        if not self.available:
            raise Unavailable("no node can take a room now, try again")
        created = request.room_name not in self.rooms
        if created and not request.create:
            raise NotFound("no such room")
        self.rooms.add(request.room_name)
        return placement_pb2.AssignRoomResponse(
            lease=self._lease(request.room_name), created=created
        )

    async def FindRoom(
        self, request: placement_pb2.FindRoomRequest, _context: object
    ) -> placement_pb2.FindRoomResponse:
        """Only rooms that were made."""
        if request.room_name not in self.rooms:
            raise NotFound("no such room")
        return placement_pb2.FindRoomResponse(lease=self._lease(request.room_name))

    async def ListRooms(
        self, request: placement_pb2.ListRoomsRequest, _context: object
    ) -> placement_pb2.ListRoomsResponse:
        """All, or those named."""
        names = self.rooms & set(request.room_names) if request.room_names else self.rooms
        return placement_pb2.ListRoomsResponse(leases=[self._lease(name) for name in names])


@dataclass
class Front:
    """A running signaling replica with its neighbors."""

    address: str
    node: FakeNode
    placement: FakePlacement
    http: aiohttp.ClientSession

    def token(self, identity: str = "alice", **video: object) -> str:
        """A token for room `hall` unless told otherwise."""
        allowed = {"room_join": True, "room": "hall", **video}
        grants = Grants(identity=identity, video=VideoGrant(**allowed))  # type: ignore[arg-type]
        return tokens.sign(grants, "key", SECRET, 600)

    async def join(self, **video: object) -> aiohttp.ClientWebSocketResponse:
        """Open a socket as clients do."""
        return await self.http.ws_connect(
            f"ws://{self.address}/rtc",
            params={"access_token": self.token(**video), "protocol": "17"},
        )

    async def call(self, method: str, body: object, token: str | None = None) -> tuple[int, object]:
        """A JSON Twirp call: status and body."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        url = f"http://{self.address}/twirp/livekit.RoomService/{method}"
        async with self.http.post(url, json=body, headers=headers) as answer:
            return answer.status, await answer.json()


@pytest.fixture
async def front() -> AsyncIterator[Front]:
    """Signaling on a free port, over real gRPC."""
    node, placement = FakeNode(), FakePlacement()
    node_server = rpc.make_server(
        "127.0.0.1:0",
        lambda server: node_pb2_grpc.add_NodeServiceServicer_to_server(node, server),  # type: ignore[no-untyped-call]
        auth=OPEN_AUTH,
    )
    placement_server = rpc.make_server(
        "127.0.0.1:0",
        lambda server: placement_pb2_grpc.add_PlacementServiceServicer_to_server(placement, server),  # type: ignore[no-untyped-call]
        auth=OPEN_AUTH,
    )
    placement.node_address = node_server.address
    await node_server.start()
    await placement_server.start()
    settings = SignalingSettings(
        http_addresses=("127.0.0.1:0",),
        placement_address=placement_server.address,
        api_keys={"key": SECRET},
        insecure=True,
    )
    app: ServiceApp = await build(settings, memory_chassis(settings))
    await app.start()
    async with aiohttp.ClientSession() as http:
        yield Front(app.web_addresses[0], node, placement, http)
    await app.drain()
    await app.close()
    await node_server.stop()
    await placement_server.stop()


async def settled(condition: object) -> None:
    """Wait until a condition holds; the test's time limit is the only other way out."""
    assert callable(condition)
    while not condition():  # noqa: ASYNC110  # the condition is somebody else's state
        await asyncio.sleep(0.005)


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


async def test_a_lost_node_closes_its_sockets_so_that_clients_resume(front: Front) -> None:
    socket = await front.join()
    await socket.receive_bytes()
    front.node.outgoing.put_nowait(None)
    closed = await socket.receive()
    assert (closed.type, closed.data) == (aiohttp.WSMsgType.CLOSE, 1011)
    again = await front.join()
    assert await again.receive_bytes() == JOIN


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
    assert front.placement.rooms == set()


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
    status, body = await front.call("PerformRpc", asked, admin)
    assert (status, isinstance(body, dict) and body["code"]) == (501, "unimplemented")


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
