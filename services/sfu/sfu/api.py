"""The node's gRPC door: signaling's streams, API calls, and other nodes' room links.

It translates between `contracts.node.v1` and the `Node`, and decides nothing. Everything written to
a stream goes through a bounded queue, so that no machine ever waits for a network.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

import structlog

from chassis import telemetry
from chassis.clock import Clock
from chassis.errors import FailedPrecondition, ServiceError, Unavailable
from contracts.node.v1 import node_pb2, node_pb2_grpc
from contracts.placement.v1 import placement_pb2
from sfu.core.stage import SocketRef
from sfu.metrics import SfuMetrics
from sfu.node import LeaseRefused, Node
from sfu.outbox import LINK_QUEUE_BYTES, Outbox

log = structlog.get_logger(__name__)

STREAM_QUEUE_BYTES = 64 * 1024 * 1024
STREAM_BATCH_BYTES = 256 * 1024
NORMAL_CLOSURE = 1000  # RFC 6455 section 7.4.1


class SignalStreams:
    """Signaling's open streams; what the node says to client sockets goes out here."""

    def __init__(self, metrics: SfuMetrics) -> None:
        self._metrics = metrics
        self._outboxes: dict[int, Outbox[node_pb2.SignalResponseFrame]] = {}
        self._sessions: dict[int, set[int]] = {}  # that signaling did not say closed yet, by stream
        self._numbers = itertools.count(1)
        self._changed = asyncio.Event()

    def open(self) -> tuple[int, Outbox[node_pb2.SignalResponseFrame]]:
        """A new stream: its number and its queue."""
        number = next(self._numbers)
        self._outboxes[number] = Outbox(STREAM_QUEUE_BYTES)
        self._sessions[number] = set()
        self._metrics.signal_streams.set(len(self._outboxes))
        return number, self._outboxes[number]

    def forget(self, number: int) -> None:
        """The stream is gone."""
        self._outboxes.pop(number, None)
        self._sessions.pop(number, None)
        self._changed.set()
        self._metrics.signal_streams.set(len(self._outboxes))

    def session_began(self, socket: SocketRef) -> None:
        """Signaling opened a session for this socket."""
        if socket.stream in self._sessions:
            self._sessions[socket.stream].add(socket.session)

    def session_ended(self, socket: SocketRef) -> None:
        """Signaling has no such session any more, and says nothing more of it."""
        if socket.stream in self._sessions:
            self._sessions[socket.stream].discard(socket.session)
            self._changed.set()

    def send(self, sockets: tuple[SocketRef, ...], response: bytes) -> None:
        """One frame for each stream concerned, whatever the number of its sockets."""
        if len(sockets) == 1:
            socket = sockets[0]
            self._put(socket.stream, [socket.session], signal_response=response)
            return
        sessions: dict[int, list[int]] = {}
        stream, session_ids = 0, list[int]()
        for socket in sockets:
            if socket.stream != stream:  # mostly many in a row are behind one stream
                stream = socket.stream
                session_ids = sessions.setdefault(stream, [])
            session_ids.append(socket.session)
        for stream, session_ids in sessions.items():
            self._put(stream, session_ids, signal_response=response)

    def refuse(
        self,
        socket: SocketRef,
        http_status: int,
        message: str,
        *,
        lease_refused: bool = False,
    ) -> None:
        """Instead of the first response."""
        refused = node_pb2.Refused(
            http_status=http_status, message=message, lease_refused=lease_refused
        )
        self._put(socket.stream, [socket.session], refused=refused)

    def opened(self, socket: SocketRef, participant_sid: str) -> None:
        """Before the first response: whose session it became."""
        opened = node_pb2.SessionOpened(participant_sid=participant_sid)
        self._put(socket.stream, [socket.session], opened=opened)

    def close(self, socket: SocketRef, reason: str, code: int = NORMAL_CLOSURE) -> None:
        """After what was sent before."""
        close = node_pb2.CloseSocket(code=code, reason=reason)
        self._put(socket.stream, [socket.session], close=close)

    async def finish(self, grace_s: float) -> None:
        """End every stream after what waits on it and its sockets are closed; each may take `grace_s`.

        A stream that ends while signaling writes to it is lost with all that signaling did not
        read yet, so it first says of every socket that it is gone.
        """
        if not await self._until(lambda: not any(self._sessions.values()), grace_s):
            log.warning(
                "sockets not closed in time", sockets=sum(map(len, self._sessions.values()))
            )
        for outbox in self._outboxes.values():
            outbox.close()
        if not await self._until(lambda: not self._outboxes, grace_s):
            log.warning("signal streams cut", streams=len(self._outboxes))

    async def _until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def _put(self, stream: int, session_ids: list[int], **message: Any) -> None:
        outbox = self._outboxes.get(stream)
        if outbox is not None:
            outbox.put(node_pb2.SignalResponseFrame(session_ids=session_ids, **message))


class LinkWire:
    """The accepting end of a room link's connection."""

    def __init__(self) -> None:
        self.outbox: Outbox[node_pb2.RoomLinkResponse] = Outbox(LINK_QUEUE_BYTES)

    def send(self, frame: node_pb2.RoomLinkFrame) -> None:
        """Queue a frame."""
        self.outbox.put(node_pb2.RoomLinkResponse(frame=frame))

    def close(self, reason: str, *, refused: bool) -> None:
        """End the connection; a refused peer is not to come back."""
        self.outbox.close(FailedPrecondition(reason) if refused else None)


class NodeService(node_pb2_grpc.NodeServiceServicer):
    """The servicer; one for the process. `record` says what the node's next heartbeat would."""

    def __init__(
        self,
        node: Node,
        streams: SignalStreams,
        record: Callable[[], placement_pb2.NodeRecord],
        clock: Clock,
    ) -> None:
        self._node = node
        self._streams = streams
        self._record = record
        self._clock = clock

    async def SignalStream(
        self, request_iterator: AsyncIterator[node_pb2.SignalStreamRequest], context: Any
    ) -> AsyncIterator[node_pb2.SignalStreamResponse]:
        """Many sessions of one signaling replica; when it ends, their sockets are gone."""
        number, outbox = self._streams.open()
        log.info("signal stream opened", stream=number)

        async def read() -> None:
            try:
                async for request in request_iterator:
                    for frame in request.frames:
                        self._on_signal(SocketRef(number, frame.session_id), frame)
            finally:
                outbox.close()

        reading = asyncio.create_task(read())
        try:
            async for frames in outbox.batches(STREAM_BATCH_BYTES):
                yield node_pb2.SignalStreamResponse(frames=frames)
        finally:
            reading.cancel()
            self._streams.forget(number)
            self._node.stream_gone(number)
            log.info("signal stream closed", stream=number)

    def _on_signal(self, socket: SocketRef, request: node_pb2.SignalRequestFrame) -> None:
        match request.WhichOneof("message"):
            case "signal_request":
                self._node.signal(socket, request.signal_request)
            case "open":
                self._streams.session_began(socket)
                with telemetry.continued(request.open.traceparent):
                    self._node.open_session(socket, request.open)
            case "socket_closed":
                self._streams.session_ended(socket)
                self._node.socket_gone(socket, request.socket_closed.cause)
            case _:
                pass  # a newer signaling's message, which this node does not know

    async def CallApi(
        self, request: node_pb2.CallApiRequest, context: Any
    ) -> node_pb2.CallApiResponse:
        """The public answer or the public error; a gRPC error is about the call itself."""
        try:
            return node_pb2.CallApiResponse(response=await self._node.call(request))
        except LeaseRefused as error:
            return node_pb2.CallApiResponse(
                error_code=Unavailable.code.value, error_message=error.message, lease_refused=True
            )
        except ServiceError as error:
            return node_pb2.CallApiResponse(
                error_code=error.code.value, error_message=error.message, error_meta=error.meta
            )

    async def ReportNode(
        self, request: node_pb2.ReportNodeRequest, context: Any
    ) -> node_pb2.ReportNodeResponse:
        """As good as a heartbeat, in both directions when the caller can renew."""
        if self._node.is_leaving:
            raise Unavailable(f"{self._node.node_id} leaves its rooms to other nodes")
        if request.renews:
            self._node.renewed(self._clock.now())
        return node_pb2.ReportNodeResponse(record=self._record())

    async def RoomLink(
        self, request_iterator: AsyncIterator[node_pb2.RoomLinkRequest], context: Any
    ) -> AsyncIterator[node_pb2.RoomLinkResponse]:
        """The home's end of one connection with a media node."""
        requests = aiter(request_iterator)
        first = await anext(requests, None)
        if first is None:
            return
        runner = self._node.accept_link(first.frame)
        media_node_id = first.frame.node_id
        wire = LinkWire()
        connection = runner.link_up("room", media_node_id, wire)
        runner.link_frame("room", media_node_id, connection, first.frame)

        async def read() -> None:
            try:
                async for request in requests:
                    runner.link_frame("room", media_node_id, connection, request.frame)
            finally:
                wire.outbox.close()

        reading = asyncio.create_task(read())
        try:
            async for response in wire.outbox:
                yield response
        finally:
            reading.cancel()
            runner.link_down("room", media_node_id, connection)
