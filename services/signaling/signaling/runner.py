"""One socket: feeds its machine, performs its effects, relays to the node and back.

Bytes are copied, not understood. A slow socket holds up nothing but its own queue; a client that floods is read no
faster than its allowance.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, assert_never

import structlog
from starlette.responses import PlainTextResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from chassis import telemetry
from chassis.clock import Clock
from chassis.errors import NotFound, ServiceError
from contracts.node.v1 import node_pb2
from signaling.core.frames import BadFrame, FrameCodec
from signaling.core.session import (
    NODE_LOST,
    NORMAL,
    TOO_SLOW,
    Accept,
    Close,
    Deny,
    Draining,
    Effect,
    Event,
    FindHome,
    HomeFound,
    HomeNotFound,
    ResponseArrived,
    SignalSocket,
    Started,
    Ticked,
    Write,
    Written,
)
from signaling.join_watch import JoinWatch
from signaling.metrics import SignalingMetrics
from signaling.wire import Wire

REQUESTS_PER_SECOND = 100.0
REQUEST_BURST = 2000.0

log = structlog.get_logger()

Cause = node_pb2.SocketClosed.Cause


class NodeStream(Protocol):
    """A stream to one node, as a socket uses it."""

    def open(
        self,
        request: node_pb2.OpenSession,
        on_event: Callable[[Event], None],
        on_opened: Callable[[str], None],
    ) -> int:
        """Begin a session; its responses come as events. Returns its id on this stream.

        `on_opened` learns the participant's sid, once.
        """

    async def send(self, session_id: int, request: bytes) -> None:
        """Pass one SignalRequest on; waits while the node takes none."""

    def end(self, session_id: int, cause: Cause.ValueType) -> None:
        """The socket is gone; tell the node and forget it."""


@dataclass(frozen=True, slots=True)
class Opening:
    """A session about to be opened: on which node, and with what."""

    stream: NodeStream
    request: node_pb2.OpenSession


FindOpening = Callable[[int], Awaitable[Opening]]
"""Asks placement, doubting an epoch (0: none); raises `ServiceError`."""


class SocketRunner:
    """Runs one socket from the upgrade request to its end."""

    def __init__(
        self,
        websocket: WebSocket,
        machine: SignalSocket,
        find_opening: FindOpening,
        clock: Clock,
        metrics: SignalingMetrics,
        watch: JoinWatch,
    ) -> None:
        self._websocket = websocket
        self._watch = watch
        self._participant_sid = ""
        self._room_name = ""
        self._wire = Wire.of(websocket)
        self._machine = machine
        self._find_opening = find_opening
        self._clock = clock
        self._metrics = metrics
        self._codec = FrameCodec()
        self._first: asyncio.Queue[FindHome | Accept | Deny] = asyncio.Queue()
        self._stream: NodeStream | None = None
        self._session_id = 0
        self._cause: Cause.ValueType = Cause.CAUSE_SERVER_CLOSED
        self._allowance = REQUEST_BURST
        self._allowed_at = clock.now()
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for: float | None = None
        self._unwritten: Write | None = None
        self._accepted = False
        self._is_unwritten = False

    async def run(self) -> None:
        """Find a node that takes the session and stay until the socket is over."""
        opener = asyncio.create_task(self._open())
        opener.add_done_callback(self._opened)
        self._on_event(Started())
        try:
            await self._read()
        except WebSocketDisconnect:
            self._cause = Cause.CAUSE_PEER_CLOSED
        finally:
            opener.cancel()
            await asyncio.gather(opener, return_exceptions=True)
            self._machine.over = True
            self._wire.on_writable = None
            self._end_session()
            self._disarm()
            self._watch.gone()
            cause = Cause.Name(self._cause).removeprefix("CAUSE_").lower()
            log.info("socket over", participant=self._participant_sid, cause=cause)

    def _opened(self, opener: asyncio.Task[None]) -> None:
        error = None if opener.cancelled() else opener.exception()
        if error is None:
            return
        if not isinstance(error, WebSocketDisconnect):
            log.error("signal socket failed", exc_info=error)
        self._wire.end(NODE_LOST)

    def drain(self) -> None:
        """Send the client to another replica."""
        self._on_event(Draining())

    def _on_event(self, event: Event) -> None:
        if (
            type(event) is ResponseArrived
            and self._accepted
            and self._machine.is_flowing
            and not self._wire.is_full
        ):
            self._metrics.messages_out += 1
            self._wire.write(self._codec.encode(event.response))
            return
        now = self._clock.now()
        effects = self._machine.handle(event, now)
        while effects:
            effects = self._perform(effects, now)
        self._arm()

    def _perform(self, effects: list[Effect], now: float) -> list[Effect]:
        """Perform effects; what follows from a write that the socket took at once is returned."""
        for effect in effects:
            match effect:
                case Write():
                    if not self._accepted:
                        self._unwritten = effect
                        continue
                    self._metrics.messages_out += 1
                    self._wire.write(self._codec.encode(effect.response))
                    if not self._wire.is_full:
                        return self._machine.handle(_WRITTEN, now)
                    self._is_unwritten = True
                case Close(code):
                    if code == TOO_SLOW:
                        self._cause = Cause.CAUSE_TOO_SLOW
                        self._metrics.sockets_too_slow.add()
                    self._wire.end(code)
                    self._end_session()
                case FindHome() | Accept() | Deny():
                    self._first.put_nowait(effect)
                case _:
                    assert_never(effect)
        return []

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

    async def _open(self) -> None:
        """Perform what waits for others, up to the answer of the upgrade request."""
        while True:
            match await self._first.get():
                case FindHome(doubted_epoch):
                    self._end_session()
                    await self._find_home(doubted_epoch)
                case Accept():
                    await self._websocket.accept()
                    self._metrics.sockets_accepted.add()
                    self._metrics.messages_out += 1
                    self._watch.accepted()
                    self._accepted = True
                    self._wire.on_writable = self._writable
                    first, self._unwritten = self._unwritten, None
                    assert first is not None  # Accept comes with the first response
                    self._wire.write(self._codec.encode(first.response))
                    self._is_unwritten = True
                    if not self._wire.is_full:
                        self._writable()
                    return
                case Deny(http_status, message):
                    self._watch.refused(http_status)
                    log.info("join refused", status=http_status, reason=message)
                    await deny(self._websocket, http_status, message)
                    return

    async def _find_home(self, doubted_epoch: int) -> None:
        try:
            opening = await self._find_opening(doubted_epoch)
        except ServiceError as error:
            self._on_event(home_not_found(error))
            return
        if self._machine.over:
            return
        self._on_event(HomeFound(opening.request.epoch))
        self._stream = opening.stream
        self._room_name = opening.request.room_name
        self._session_id = opening.stream.open(
            opening.request, self._on_event, self._session_opened
        )

    def _session_opened(self, participant_sid: str) -> None:
        self._participant_sid = participant_sid
        self._watch.session_opened(participant_sid)
        with telemetry.under(self._watch.context):
            log.info("session opened", participant=participant_sid, room=self._room_name)

    def _end_session(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.end(self._session_id, self._cause)

    def _writable(self) -> None:
        if self._is_unwritten:
            self._is_unwritten = False
            self._on_event(_WRITTEN)

    async def _read(self) -> None:
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                if not self._machine.over:
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
                self._wire.end(NORMAL)
                return
            self._metrics.messages_in += 1
            await self._wait_for_allowance()
            if self._stream is not None:
                await self._stream.send(self._session_id, request)

    async def _wait_for_allowance(self) -> None:
        now = self._clock.now()
        refilled = self._allowance + (now - self._allowed_at) * REQUESTS_PER_SECOND
        self._allowance = min(REQUEST_BURST, refilled) - 1
        self._allowed_at = now
        if self._allowance < 0:
            await asyncio.sleep(-self._allowance / REQUESTS_PER_SECOND)


async def deny(websocket: WebSocket, http_status: int, message: str, retry_after: str = "") -> None:
    """Answer an upgrade request with a status and a plain text, which clients show to their users."""
    await websocket.send_denial_response(
        PlainTextResponse(message, status_code=http_status, headers=answer_headers(retry_after))
    )


def answer_headers(retry_after: str = "") -> dict[str, str]:
    """Of an answer that every browser may read; `retry_after` in seconds, when it pays to wait."""
    headers = {"Access-Control-Allow-Origin": "*"}
    if retry_after:
        headers |= {"Retry-After": retry_after, "Access-Control-Expose-Headers": "Retry-After"}
    return headers


def home_not_found(error: ServiceError) -> HomeNotFound:
    """Placement named none."""
    if isinstance(error, NotFound):
        # This phrase tells JavaScript clients "not allowed" from "no /rtc/v1 here".
        return HomeNotFound(404, "requested room does not exist", is_over=True)
    return HomeNotFound(error.join_status, error.message)


_WRITTEN = Written()
