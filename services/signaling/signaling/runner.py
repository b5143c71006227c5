"""One task group per socket: feeds its machine, performs its effects, relays to the node and back.

Bytes are copied, not understood. A slow socket holds up nothing but its own queue; a client that floods is read no
faster than its allowance.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

import structlog
from starlette.responses import PlainTextResponse
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from chassis.clock import Clock
from contracts.node.v1 import node_pb2
from signaling.core.frames import BadFrame, FrameCodec
from signaling.core.session import (
    Accept,
    Close,
    Deny,
    Effect,
    Event,
    SignalSocket,
    Ticked,
    Write,
    Written,
)
from signaling.metrics import SignalingMetrics

REQUESTS_PER_SECOND = 100.0
REQUEST_BURST = 2000.0

log = structlog.get_logger()

Cause = node_pb2.SocketClosed.Cause


class NodeStream(Protocol):
    """A stream to one node, as a socket uses it."""

    def open(self, request: node_pb2.OpenSession, on_event: Callable[[Event], None]) -> int:
        """Begin a session; its responses come as events. Returns its id on this stream."""

    async def send(self, session_id: int, request: bytes) -> None:
        """Pass one SignalRequest on; waits while the node takes none."""

    def end(self, session_id: int, cause: Cause.ValueType) -> None:
        """The socket is gone; tell the node and forget it."""


class SocketRunner:
    """Runs one socket from the upgrade request to its end."""

    def __init__(
        self, websocket: WebSocket, stream: NodeStream, clock: Clock, metrics: SignalingMetrics
    ) -> None:
        self._websocket = websocket
        self._stream = stream
        self._clock = clock
        self._metrics = metrics
        self._machine = SignalSocket(opened_at=clock.now())
        self._codec = FrameCodec()
        self._effects: asyncio.Queue[Effect] = asyncio.Queue()
        self._cause: Cause.ValueType = Cause.CAUSE_SERVER_CLOSED
        self._allowance = REQUEST_BURST
        self._allowed_at = clock.now()
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for: float | None = None

    async def run(self, request: node_pb2.OpenSession) -> None:
        """Open the session on the node and stay until the socket is over."""
        self._arm()
        session_id = self._stream.open(request, self._on_event)
        reader = asyncio.create_task(self._read(session_id))
        writer = asyncio.create_task(self._perform())
        try:
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (reader, writer):
                task.cancel()
            results = await asyncio.gather(reader, writer, return_exceptions=True)
            self._stream.end(session_id, self._cause)
            self._disarm()
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, WebSocketDisconnect):
                log.error("signal socket failed", exc_info=result)

    def _on_event(self, event: Event) -> None:
        for effect in self._machine.handle(event, self._clock.now()):
            self._effects.put_nowait(effect)
        self._arm()

    def _arm(self) -> None:
        """One timer for the machine's next deadline; most of a socket's life it has none."""
        deadline = self._machine.next_timeout()
        if deadline == self._armed_for:
            return
        self._disarm()
        if deadline is not None:
            delay = max(0.0, deadline - self._clock.now())
            self._armed_for = deadline
            self._timer = asyncio.get_running_loop().call_later(delay, self._ticked)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._armed_for = None

    def _ticked(self) -> None:
        self._disarm()
        self._on_event(Ticked())

    async def _perform(self) -> None:
        while True:
            match await self._effects.get():
                case Accept():
                    await self._websocket.accept()
                    self._metrics.sockets_accepted.add()
                case Deny(http_status, message):
                    await deny(self._websocket, http_status, message)
                    return
                case Write(response):
                    frame = self._codec.encode(response)
                    if isinstance(frame, bytes):
                        await self._websocket.send_bytes(frame)
                    else:
                        await self._websocket.send_text(frame)
                    self._on_event(Written())
                case Close(code, too_slow):
                    if too_slow:
                        self._cause = Cause.CAUSE_TOO_SLOW
                        self._metrics.sockets_too_slow.add()
                    await self._websocket.close(code)
                    return

    async def _read(self, session_id: int) -> None:
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                self._cause = Cause.CAUSE_PEER_CLOSED
                return
            if message["type"] != "websocket.receive":
                continue
            frame = message.get("bytes")
            try:
                request = self._codec.decode(frame if frame is not None else message["text"])
            except BadFrame:
                self._cause = Cause.CAUSE_BAD_FRAME
                self._metrics.bad_frames.add()
                if self._websocket.application_state is WebSocketState.CONNECTED:
                    await self._websocket.close(1000)
                return
            await self._wait_for_allowance()
            await self._stream.send(session_id, request)

    async def _wait_for_allowance(self) -> None:
        now = self._clock.now()
        refilled = self._allowance + (now - self._allowed_at) * REQUESTS_PER_SECOND
        self._allowance = min(REQUEST_BURST, refilled) - 1
        self._allowed_at = now
        if self._allowance < 0:
            await asyncio.sleep(-self._allowance / REQUESTS_PER_SECOND)


async def deny(websocket: WebSocket, http_status: int, message: str) -> None:
    """Answer an upgrade request with a status and a plain text, which clients show to their users."""
    headers = {"Access-Control-Allow-Origin": "*"}
    await websocket.send_denial_response(
        PlainTextResponse(message, status_code=http_status, headers=headers)
    )
