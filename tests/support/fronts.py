"""Signaling replicas in the test's process, over real gRPC to a placement and nodes that do as the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from livekit.protocol import rtc
from pydantic import SecretStr

from chassis import rpc, tokens
from chassis.chassis import Chassis, memory_chassis
from chassis.errors import NotFound, Unavailable
from chassis.roles import ROLE_ATTRIBUTE
from chassis.run import ServiceApp
from chassis.tokens import Grants, VideoGrant
from contracts.node.v1 import node_pb2, node_pb2_grpc
from contracts.placement.v1 import placement_pb2, placement_pb2_grpc
from signaling.app import build
from signaling.settings import SignalingSettings

SECRET = SecretStr("s" * 32)
JOIN = rtc.SignalResponse(join=rtc.JoinResponse(ping_interval=5)).SerializeToString()
RECONNECT = rtc.SignalResponse(reconnect=rtc.ReconnectResponse()).SerializeToString()
OPEN_AUTH = rpc.RpcAuth(None)
FIRST_EPOCH = 7

Frames = asyncio.Queue[node_pb2.SignalResponseFrame | None]


class ScriptedNode(node_pb2_grpc.NodeServiceServicer):
    """Admits every session, notes what it is sent, and answers calls with what the test put in."""

    def __init__(self, node_id: str = "ND_1") -> None:
        self.node_id = node_id
        self.address = "127.0.0.1:0"
        self.opened: dict[int, node_pb2.OpenSession] = {}
        """The last stream's sessions."""
        self.sessions: list[node_pb2.OpenSession] = []
        """Every stream's, in order."""
        self.requests: list[tuple[int, bytes]] = []
        self.closed: dict[int, int] = {}
        self.streams: list[Frames] = []
        self.streams_ended = 0
        self.refusal: node_pb2.Refused | None = None
        self.answers = True
        self.calls: list[node_pb2.CallApiRequest] = []
        self.call_response = node_pb2.CallApiResponse()
        self._server: rpc.RpcServer | None = None

    async def start(self) -> None:
        """Serve, at the same address as before."""
        self._server = rpc.make_server(
            self.address,
            lambda server: node_pb2_grpc.add_NodeServiceServicer_to_server(self, server),
            auth=OPEN_AUTH,
        )
        self.address = self._server.address
        await self._server.start()

    async def stop(self) -> None:
        """End at once, as a killed process does."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop()

    async def SignalStream(
        self, request_iterator: AsyncIterator[node_pb2.SignalStreamRequest], _context: object
    ) -> AsyncIterator[node_pb2.SignalStreamResponse]:
        """Read in the background, write what is put into the stream's queue; None breaks the stream."""
        frames: Frames = asyncio.Queue()
        self.streams.append(frames)
        self.opened = {}
        reader = asyncio.create_task(self._read(request_iterator, frames))
        try:
            while (frame := await frames.get()) is not None:
                yield node_pb2.SignalStreamResponse(frames=[frame])
            raise Unavailable("node goes away")
        finally:
            reader.cancel()
            self.streams_ended += 1

    async def CallApi(
        self, request: node_pb2.CallApiRequest, _context: object
    ) -> node_pb2.CallApiResponse:
        """Note the call."""
        self.calls.append(request)
        if request.node_id != self.node_id:
            return node_pb2.CallApiResponse(
                error_code="unavailable", error_message="another node's", lease_refused=True
            )
        return self.call_response

    async def ReportNode(
        self, request: node_pb2.ReportNodeRequest, _context: object
    ) -> node_pb2.ReportNodeResponse:
        """Who this is."""
        return node_pb2.ReportNodeResponse(
            record=placement_pb2.NodeRecord(node_id=self.node_id, address=self.address)
        )

    def send(self, *session_ids: int, response: bytes = b"", close: int | None = None) -> None:
        """One frame for some sessions of the last stream, or a close."""
        frame = node_pb2.SignalResponseFrame(session_ids=session_ids)
        if close is None:
            frame.signal_response = response
        else:
            frame.close.code = close
        self.streams[-1].put_nowait(frame)

    def break_streams(self) -> None:
        """End every stream with an error; the node lives on."""
        for frames in self.streams:
            frames.put_nowait(None)

    async def _read(
        self, requests: AsyncIterator[node_pb2.SignalStreamRequest], frames: Frames
    ) -> None:
        async for request in (frame async for batch in requests for frame in batch.frames):
            session_id = request.session_id
            match request.WhichOneof("message"):
                case "open":
                    self.opened[session_id] = request.open
                    self.sessions.append(request.open)
                    answer = node_pb2.SignalResponseFrame(session_ids=[session_id])
                    if request.open.node_id != self.node_id:
                        answer.refused.CopyFrom(
                            node_pb2.Refused(http_status=503, message="not me", lease_refused=True)
                        )
                    elif self.refusal is not None:
                        answer.refused.CopyFrom(self.refusal)
                    elif self.answers:
                        answer.signal_response = RECONNECT if request.open.reconnect else JOIN
                    if answer.WhichOneof("message"):
                        frames.put_nowait(answer)
                case "signal_request":
                    self.requests.append((session_id, request.signal_request))
                case "socket_closed":
                    self.closed[session_id] = request.socket_closed.cause


@asynccontextmanager
async def running_node(node_id: str = "ND_1") -> AsyncIterator[ScriptedNode]:
    """A node that serves until the block ends, or it is stopped."""
    node = ScriptedNode(node_id)  # type: ignore[abstract]
    await node.start()
    yield node
    await node.stop()


@dataclass
class ScriptedPlacement(placement_pb2_grpc.PlacementServiceServicer):
    """Every room lives on the first node, once made, until the test moves it."""

    nodes: list[ScriptedNode]
    leases: dict[str, placement_pb2.Lease] = field(default_factory=dict)
    available: bool = True
    doubts: list[tuple[str, int]] = field(default_factory=list)
    regions: list[str] = field(default_factory=list)
    """Of each assignment asked for."""

    @property
    def rooms(self) -> set[str]:
        """Names of rooms that have a home."""
        return set(self.leases)

    def place(self, name: str, node: ScriptedNode) -> None:
        """The room's home from now on, under a new epoch if it had one before."""
        before = self.leases.get(name)
        self.leases[name] = placement_pb2.Lease(
            room_name=name,
            room_sid=f"RM_{name}",
            node_id=node.node_id,
            node_address=node.address,
            epoch=before.epoch + 1 if before else FIRST_EPOCH,
        )

    async def AssignRoom(
        self, request: placement_pb2.AssignRoomRequest, _context: object
    ) -> placement_pb2.AssignRoomResponse:
        """Make a room when asked to."""
        self.regions.append(request.region)
        if request.doubted_epoch:
            self.doubts.append((request.room_name, request.doubted_epoch))
        if not self.available:
            raise Unavailable("no node can take a room now, try again")
        created = request.room_name not in self.leases
        if created and not request.create:
            raise NotFound("no such room")
        if created:
            self.place(request.room_name, self.nodes[0])
        return placement_pb2.AssignRoomResponse(
            lease=self.leases[request.room_name], created=created
        )

    async def FindRoom(
        self, request: placement_pb2.FindRoomRequest, _context: object
    ) -> placement_pb2.FindRoomResponse:
        """Only rooms that were made."""
        if request.room_name not in self.leases:
            raise NotFound("no such room")
        return placement_pb2.FindRoomResponse(lease=self.leases[request.room_name])

    async def ListRooms(
        self, request: placement_pb2.ListRoomsRequest, _context: object
    ) -> placement_pb2.ListRoomsResponse:
        """All, or those named."""
        names = self.rooms & set(request.room_names) if request.room_names else self.rooms
        return placement_pb2.ListRoomsResponse(leases=[self.leases[name] for name in names])


@dataclass
class Front:
    """A running signaling replica with its neighbors."""

    address: str
    placement: ScriptedPlacement
    http: aiohttp.ClientSession
    app: ServiceApp
    chassis: Chassis

    @property
    def node(self) -> ScriptedNode:
        """The first node."""
        return self.placement.nodes[0]

    def token(self, identity: str = "alice", **video: object) -> str:
        """A token for room `hall` unless told otherwise; `role` is its attribute."""
        allowed = {"room_join": True, "room": "hall", **video}
        attributes = {ROLE_ATTRIBUTE: str(allowed.pop("role"))} if "role" in allowed else {}
        video_grant = VideoGrant(**allowed)  # type: ignore[arg-type]
        grants = Grants(identity=identity, attributes=attributes, video=video_grant)
        return tokens.sign(grants, "key", SECRET, 600)

    async def join(
        self,
        identity: str = "alice",
        *,
        reconnect: bool = False,
        headers: dict[str, str] | None = None,
        protocol: int = 17,
        **video: object,
    ) -> aiohttp.ClientWebSocketResponse:
        """Open a socket as clients do."""
        params = {"access_token": self.token(identity, **video), "protocol": str(protocol)}
        if reconnect:
            params["reconnect"] = "1"
        url = f"ws://{self.address}/rtc"
        return await self.http.ws_connect(url, params=params, headers=headers)

    async def call(self, method: str, body: object, token: str | None = None) -> tuple[int, object]:
        """A JSON Twirp call: status and body."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        url = f"http://{self.address}/twirp/livekit.RoomService/{method}"
        async with self.http.post(url, json=body, headers=headers) as answer:
            return answer.status, await answer.json()


@asynccontextmanager
async def running_placement(placement: ScriptedPlacement) -> AsyncIterator[str]:
    """The placement's address while it serves."""
    server = rpc.make_server(
        "127.0.0.1:0",
        lambda server: placement_pb2_grpc.add_PlacementServiceServicer_to_server(placement, server),
        auth=OPEN_AUTH,
    )
    await server.start()
    yield server.address
    await server.stop()


@asynccontextmanager
async def running_front(
    placement: ScriptedPlacement, placement_address: str, **settings: object
) -> AsyncIterator[Front]:
    """One replica on a free port."""
    values: dict[str, object] = {
        "http_addresses": ("127.0.0.1:0",),
        "placement_address": placement_address,
        "api_keys": {"key": SECRET},
        "insecure": True,
    }
    made = SignalingSettings.model_validate(values | settings)
    chassis = memory_chassis(made)
    app = await build(made, chassis)
    await app.start()
    # Cookies and pooled connections would tie one client to another.
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        yield Front(app.web_addresses[0], placement, http, app, chassis)
    await app.close()


async def settled(condition: Callable[[], object]) -> None:
    """Wait until a condition holds; the test's time limit is the only other way out."""
    while not condition():  # noqa: ASYNC110  # the condition is somebody else's state
        await asyncio.sleep(0.005)
