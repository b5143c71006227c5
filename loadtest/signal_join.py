"""A join by signaling alone: WebSocket, join response, pings, leave; blocking; under gevent it gives way. No media."""

import time
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlencode

from livekit.protocol import models, rtc
from websocket import ABNF, WebSocket, WebSocketException, WebSocketTimeoutException

from loadtest.access import Target, join_token, wrapped_join

TIMEOUT_S: Final = 30.0
PING_INTERVAL_S: Final = 5.0
SDK: Final = {"sdk": "go", "os": "linux", "version": "2.0.0", "protocol": "17"}


class SignalLost(Exception):
    """The server ended the session, or said something else than it should."""


class SignalJoin:
    """One signal session; made when the join response is here."""

    def __init__(self, target: Target, path: str, room: str, identity: str) -> None:
        token = join_token(target, room, identity)
        query = wrapped_join() if path == "/rtc/v1" else urlencode(SDK | {"auto_subscribe": "1"})
        self._socket = WebSocket(enable_multithread=False)
        self._socket.settimeout(TIMEOUT_S)
        try:
            self._dial(f"{target.url}{path}?{query}", token)
        except BaseException:
            self._hang_up()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Say that we leave, and go without waiting."""
        try:
            leave = rtc.LeaveRequest(reason=models.DisconnectReason.CLIENT_INITIATED)
            self._send(rtc.SignalRequest(leave=leave))
        except (OSError, WebSocketException):
            pass  # it is over either way
        finally:
            self._hang_up()

    def stay(self, seconds: float) -> None:
        """Remain, answering nothing and pinging; `SignalLost` when the server ends it."""
        end = time.monotonic() + seconds
        next_ping = time.monotonic() + PING_INTERVAL_S
        while (now := time.monotonic()) < end:
            if now >= next_ping:
                ping = rtc.Ping(timestamp=time.time_ns() // 1_000_000)
                self._send(rtc.SignalRequest(ping_req=ping))
                next_ping = now + PING_INTERVAL_S
            self._socket.settimeout(max(min(end, next_ping) - now, 0.001))
            try:
                message = self._receive()
            except WebSocketTimeoutException:
                continue
            if message.WhichOneof("message") == "leave":
                reason = models.DisconnectReason.Name(message.leave.reason)
                raise SignalLost(f"told to leave: {reason}")

    def _dial(self, url: str, token: str) -> None:
        header = {"Authorization": f"Bearer {token}"}
        self._socket.connect(url, header=header)
        first = self._receive().WhichOneof("message")
        if first != "join":
            raise SignalLost(f"{first} instead of a join response")

    def _hang_up(self) -> None:
        self._socket.shutdown()

    def _send(self, request: rtc.SignalRequest) -> None:
        self._socket.send_binary(request.SerializeToString())

    def _receive(self) -> rtc.SignalResponse:
        opcode, content = self._socket.recv_data()
        if opcode == ABNF.OPCODE_CLOSE:
            raise SignalLost("the server closed the signal socket")
        return rtc.SignalResponse.FromString(content)
