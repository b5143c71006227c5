"""Calls of the server API to methods of participants (PerformRpc), until they are answered.

Which there are, until when, and what their answers mean for the caller. Not how the packets travel:
the Room orders them out, sessions tell the answers. Error codes: LiveKit RPC, and Twirp for the API.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError
from livekit.protocol import models as lk
from livekit.protocol import room as api

from sfu.core.room_events import AnswerApi

MAX_PAYLOAD_BYTES: Final = 15_360
MAX_CALLS: Final = 1000
"""Of one room, at a time."""
ACK_SECONDS: Final = 2.0
DEFAULT_RESPONSE_MS: Final = 10_000
MAX_RESPONSE_MS: Final = 60_000

APPLICATION_ERROR: Final = 1500
CONNECTION_TIMEOUT: Final = 1501
RESPONSE_TIMEOUT: Final = 1502
RECIPIENT_DISCONNECTED: Final = 1503
TWIRP_CODES: Final = {
    1400: "invalid_argument",  # the method is not registered there
    1401: "not_found",
    1402: "malformed",
    1403: "unimplemented",
    1404: "unimplemented",
    APPLICATION_ERROR: "internal",
    CONNECTION_TIMEOUT: "canceled",
    RESPONSE_TIMEOUT: "canceled",
    RECIPIENT_DISCONNECTED: "unavailable",
    1504: "malformed",
    1505: "internal",
}
"""By RPC error code; an application's own codes are `unknown`."""


@dataclass(slots=True)
class RpcCall:
    """One call that waits. Times are monotonic seconds."""

    call_id: int
    participant_sid: str
    respond_by: float
    ack_by: float | None  # None: acknowledged

    @property
    def due(self) -> float:
        """When waiting is over unless something comes."""
        return self.respond_by if self.ack_by is None else min(self.ack_by, self.respond_by)


class RpcCalls:
    """The calls of one room that wait for participants."""

    def __init__(self) -> None:
        self._calls: dict[str, RpcCall] = {}  # by request id

    @property
    def is_full(self) -> bool:
        """No more calls at a time."""
        return len(self._calls) >= MAX_CALLS

    def begin(
        self, request_id: str, call_id: int, participant_sid: str, now: float, response_ms: int
    ) -> None:
        """A request goes out."""
        self._calls[request_id] = RpcCall(
            call_id, participant_sid, now + response_ms / 1000, now + ACK_SECONDS
        )

    def take(self, request_id: str, participant_sid: str, packet: bytes) -> AnswerApi | None:
        """What a participant answered; None when the call goes on, or is over already."""
        call = self._calls.get(request_id)
        if call is None or call.participant_sid != participant_sid:
            return None
        if not packet:
            del self._calls[request_id]
            message = "data channel is not available"
            return AnswerApi(call.call_id, b"", "internal", message)
        try:
            answer = lk.DataPacket.FromString(packet)
        except DecodeError:
            return None  # the gate of the session's node parsed it before: a bug, and time ends it
        if answer.WhichOneof("value") == "rpc_ack":
            call.ack_by = None
            return None
        del self._calls[request_id]
        return _answer(call.call_id, answer.rpc_response)

    def expire(self, now: float) -> list[AnswerApi]:
        """Give up what waited too long."""

        def failure(call: RpcCall) -> AnswerApi:
            if call.ack_by is not None and call.ack_by <= call.respond_by:
                return _failure(call.call_id, CONNECTION_TIMEOUT, "no acknowledgement in time")
            return _failure(call.call_id, RESPONSE_TIMEOUT, "no response in time")

        return self._end(lambda call: call.due <= now, failure)

    def abandon(self, participant_sid: str) -> list[AnswerApi]:
        """The participant left, and answers no more."""
        return self._end(
            lambda call: call.participant_sid == participant_sid,
            lambda call: _failure(call.call_id, RECIPIENT_DISCONNECTED, "the recipient left"),
        )

    def next_timeout(self) -> float | None:
        """When `expire` is due."""
        return min((call.due for call in self._calls.values()), default=None)

    def _end(
        self, is_over: Callable[[RpcCall], bool], failure: Callable[[RpcCall], AnswerApi]
    ) -> list[AnswerApi]:
        over = {key: call for key, call in self._calls.items() if is_over(call)}
        for request_id in over:
            del self._calls[request_id]
        return [failure(call) for call in over.values()]


def _answer(call_id: int, response: lk.RpcResponse) -> AnswerApi:
    match response.WhichOneof("value"):
        case "error":
            error = response.error
            return _failure(call_id, error.code, error.message, error.data)
        case "payload":
            answer = api.PerformRpcResponse(payload=response.payload)
            return AnswerApi(call_id, answer.SerializeToString())
        case _:
            return _failure(call_id, APPLICATION_ERROR, "the response has no payload to be read")


def _failure(call_id: int, code: int, message: str, data: str = "") -> AnswerApi:
    meta = {"code": str(code), "message": message, "data": data}
    twirp = TWIRP_CODES.get(code, "unknown")
    return AnswerApi(call_id, b"", twirp, message, tuple(meta.items()))
