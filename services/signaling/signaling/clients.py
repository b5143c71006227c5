"""Outbound: placement, and the signal stream and API calls of every node this replica talks to."""

import asyncio
from collections.abc import AsyncIterator, Callable

import structlog

from chassis import rpc
from chassis.errors import NotFound, ServiceError
from contracts.node.v1 import node_pb2, node_pb2_grpc
from contracts.placement.v1 import placement_pb2, placement_pb2_grpc
from signaling.core.session import CloseArrived, Event, NodeLost, RefusalArrived, ResponseArrived

MAX_UNSENT_REQUESTS = 10_000
MAX_BATCH = 64

log = structlog.get_logger()


class PlacementClient:
    """Asks placement for the home of a room; errors come as `ServiceError`."""

    def __init__(self, address: str, auth: rpc.RpcAuth) -> None:
        self._channel = rpc.channel(address, auth=auth)
        self._stub = placement_pb2_grpc.PlacementServiceStub(self._channel)

    async def assign(self, room_name: str, *, create: bool) -> placement_pb2.AssignRoomResponse:
        """The room's home; a new one only when `create`, else `NotFound`."""
        request = placement_pb2.AssignRoomRequest(room_name=room_name, create=create)
        return await self._stub.AssignRoom(request)

    async def find(self, room_name: str) -> placement_pb2.Lease:
        """The room's present home, or `NotFound` with the text SDKs know."""
        try:
            found = await self._stub.FindRoom(placement_pb2.FindRoomRequest(room_name=room_name))
        except NotFound:
            raise NotFound("requested room does not exist") from None
        return found.lease

    async def list(self, room_names: list[str]) -> list[placement_pb2.Lease]:
        """Every room with a home, or those of the given names."""
        request = placement_pb2.ListRoomsRequest(room_names=room_names)
        return list((await self._stub.ListRooms(request)).leases)

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()


class NodeClient:
    """One node: its signal stream, opened with the first session and again when it broke, and its API calls."""

    def __init__(self, address: str, auth: rpc.RpcAuth) -> None:
        self._address = address
        self._channel = rpc.channel(address, auth=auth)
        self._stub = node_pb2_grpc.NodeServiceStub(self._channel)
        self._requests: asyncio.Queue[node_pb2.SignalRequestFrame] = asyncio.Queue()
        self._room_in_queue = asyncio.Event()
        self._room_in_queue.set()
        self._sessions: dict[int, Callable[[Event], None]] = {}
        self._next_session = 1
        self._task: asyncio.Task[None] | None = None

    def open(self, request: node_pb2.OpenSession, on_event: Callable[[Event], None]) -> int:
        """Begin a session on this node; what the node answers comes as events."""
        session_id = self._next_session
        self._next_session += 1
        self._sessions[session_id] = on_event
        self._put(node_pb2.SignalRequestFrame(session_id=session_id, open=request))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        return session_id

    async def send(self, session_id: int, request: bytes) -> None:
        """Pass one SignalRequest on; waits while the node takes none."""
        await self._room_in_queue.wait()
        if session_id in self._sessions:
            self._put(node_pb2.SignalRequestFrame(session_id=session_id, signal_request=request))

    def end(self, session_id: int, cause: node_pb2.SocketClosed.Cause.ValueType) -> None:
        """Forget a session and tell the node that its socket is gone."""
        if self._sessions.pop(session_id, None) is not None:
            closed = node_pb2.SocketClosed(cause=cause)
            self._put(node_pb2.SignalRequestFrame(session_id=session_id, socket_closed=closed))

    async def call(self, request: node_pb2.CallApiRequest) -> bytes:
        """One API call on a room of this node; its error comes as `ServiceError`."""
        response = await self._stub.CallApi(request)
        if response.error_code:
            raise ServiceError.of(response.error_code, response.error_message)
        return response.response

    async def close(self) -> None:
        """End the stream; the node sees every socket of this replica go."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._channel.close()

    def _put(self, request: node_pb2.SignalRequestFrame) -> None:
        self._requests.put_nowait(request)
        if self._requests.qsize() >= MAX_UNSENT_REQUESTS:
            self._room_in_queue.clear()

    async def _outgoing(self) -> AsyncIterator[node_pb2.SignalStreamRequest]:
        while True:
            frames = [await self._requests.get()]
            while len(frames) < MAX_BATCH and not self._requests.empty():
                frames.append(self._requests.get_nowait())
            if self._requests.qsize() < MAX_UNSENT_REQUESTS // 2:
                self._room_in_queue.set()
            yield node_pb2.SignalStreamRequest(frames=frames)

    async def _run(self) -> None:
        try:
            with rpc.service_errors():
                async for response in self._stub.SignalStream(self._outgoing()):
                    for frame in response.frames:
                        self._deliver(frame)
        except ServiceError as error:
            log.warning("signal stream broke", node_address=self._address, error=error.message)
        finally:
            self._requests = asyncio.Queue()
            self._room_in_queue.set()
            lost, self._sessions = self._sessions, {}
            for on_event in lost.values():
                on_event(NodeLost())

    def _deliver(self, response: node_pb2.SignalResponseFrame) -> None:
        event = _event(response)
        if event is None:
            return
        for session_id in response.session_ids:
            on_event = self._sessions.get(session_id)
            if on_event is not None:
                on_event(event)


class NodeClients:
    """The nodes this replica talks to, by gRPC address."""

    def __init__(self, auth: rpc.RpcAuth) -> None:
        self._auth = auth
        self._nodes: dict[str, NodeClient] = {}

    def at(self, address: str) -> NodeClient:
        """The client of the node at an address, made on first use."""
        if address not in self._nodes:
            self._nodes[address] = NodeClient(address, self._auth)
        return self._nodes[address]

    async def close(self) -> None:
        """Close every stream."""
        await asyncio.gather(*(node.close() for node in self._nodes.values()))


def _event(response: node_pb2.SignalResponseFrame) -> Event | None:
    match response.WhichOneof("message"):
        case "signal_response":
            return ResponseArrived(response.signal_response)
        case "refused":
            return RefusalArrived(response.refused.http_status, response.refused.message)
        case "close":
            return CloseArrived(response.close.code)
        case _:
            return None
