"""PerformRpc: a call of the server API waits in the Room until a participant answered it."""

from typing import cast

import pytest
from livekit.protocol import models as lk
from livekit.protocol import room as api
from livekit.protocol import rtc

from sfu.core.media_commands import SendData
from sfu.core.room import Room
from sfu.core.room_events import AnswerApi, ApiCalled, Effect, GiveOrder
from sfu.core.rpc_calls import MAX_CALLS
from sfu.core.stage import OrderArrived
from tests.support.scripted_room import NODE, Client, World


class CallingWorld(World):
    """A world whose Room is called, and whose answers are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[AnswerApi] = []
        room = self.room
        take = room.handle

        def handle(event: object, now: float, wall_ms: int) -> list[Effect]:
            effects = take(event, now, wall_ms)  # type: ignore[arg-type]
            self.answers += [effect for effect in effects if isinstance(effect, AnswerApi)]
            return effects

        self.room = cast("Room", _Watched(room, handle))

    def call(self, identity: str = "b", **fields: object) -> None:
        request = api.PerformRpcRequest(
            room="room1",
            destination_identity=identity,
            method="greet",
            **fields,  # type: ignore[arg-type]
        )
        called = ApiCalled(len(self.answers) + 1, "PerformRpc", request.SerializeToString())
        for effect in self.room.handle(called, self.now, self.wall_ms):
            if isinstance(effect, GiveOrder) and NODE in effect.node_ids:
                self.feed(OrderArrived(effect.order))

    def asked(self) -> lk.DataPacket:
        (sent,) = self.told(SendData)
        assert sent.label == "_reliable"
        return lk.DataPacket.FromString(sent.payload)


class _Watched:
    """A Room seen through."""

    def __init__(self, room: Room, handle: object) -> None:
        self._room = room
        self.handle = handle

    def __getattr__(self, name: str) -> object:
        return getattr(self._room, name)


@pytest.fixture
def calling() -> CallingWorld:
    return CallingWorld()


def acknowledge(client: Client, request_id: str) -> None:
    client.data(lk.DataPacket(sequence=1, rpc_ack=lk.RpcAck(request_id=request_id)))


def respond(client: Client, request_id: str, **value: object) -> None:
    response = lk.RpcResponse(request_id=request_id, **value)  # type: ignore[arg-type]
    client.data(lk.DataPacket(sequence=2, rpc_response=response))


def test_the_participant_is_asked_and_its_payload_is_the_answer(calling: CallingWorld) -> None:
    _a, b = (calling.join(name, connect=True) for name in "ab")
    calling.call(payload="hi", response_timeout_ms=4000)
    packet = calling.asked()
    assert calling.told(SendData)[0].pcs == (b.primary,)
    request = packet.rpc_request
    assert (request.method, request.payload, request.version) == ("greet", "hi", 1)
    assert request.response_timeout_ms == 4000
    assert packet.participant_identity
    assert packet.sequence == 0
    acknowledge(b, request.id)
    assert calling.answers == []
    respond(b, request.id, payload="hello")
    (answer,) = calling.answers
    assert api.PerformRpcResponse.FromString(answer.response).payload == "hello"
    assert len(calling.told(SendData)) == 1, "the answer is for the server alone"
    respond(b, request.id, payload="again")
    calling.advance(12)
    assert len(calling.answers) == 1


def test_answers_to_other_participants_are_forwarded(calling: CallingWorld) -> None:
    a, b = (calling.join(name, connect=True) for name in "ab")
    acknowledge(b, "of a client")
    respond(b, "of a client", payload="x")
    assert [command.pcs for command in calling.told(SendData)] == [(a.primary,)] * 2


@pytest.mark.parametrize(
    ("code", "twirp"),
    [
        (1400, "invalid_argument"),
        (1401, "not_found"),
        (1402, "malformed"),
        (1403, "unimplemented"),
        (1404, "unimplemented"),
        (1500, "internal"),
        (1501, "canceled"),
        (1502, "canceled"),
        (1503, "unavailable"),
        (1504, "malformed"),
        (1505, "internal"),
        (42, "unknown"),
    ],
)
def test_errors_of_the_participant_are_the_callers(
    calling: CallingWorld, code: int, twirp: str
) -> None:
    b = calling.join("b", connect=True)
    calling.call()
    respond(b, calling.asked().rpc_request.id, error=lk.RpcError(code=code, message="m", data="d"))
    (answer,) = calling.answers
    assert (answer.error_code, answer.error_message) == (twirp, "m")
    assert dict(answer.error_meta) == {"code": str(code), "message": "m", "data": "d"}


def test_no_acknowledgement_in_two_seconds_ends_the_call(calling: CallingWorld) -> None:
    calling.join("b", connect=True)
    calling.call()
    calling.advance(1.9)
    assert calling.answers == []
    calling.advance(0.2)
    (answer,) = calling.answers
    assert dict(answer.error_meta)["code"] == "1501"


@pytest.mark.parametrize(("asked_ms", "seconds"), [(0, 10), (3000, 3), (600_000, 60), (1000, 1)])
def test_no_response_in_time_ends_the_call(
    calling: CallingWorld, asked_ms: int, seconds: float
) -> None:
    b = calling.join("b", single=True, connect=True)
    calling.call(response_timeout_ms=asked_ms)
    acknowledge(b, calling.asked().rpc_request.id)
    calling.advance(seconds - 0.1)
    assert calling.answers == []
    calling.advance(0.2)
    (answer,) = calling.answers
    assert (answer.error_code, dict(answer.error_meta)["code"]) == ("canceled", "1502")


def test_a_participant_that_leaves_ends_its_calls(calling: CallingWorld) -> None:
    b = calling.join("b", connect=True)
    calling.call()
    b.send(leave=rtc.LeaveRequest())
    (answer,) = calling.answers
    assert (answer.error_code, dict(answer.error_meta)["code"]) == ("unavailable", "1503")


def test_who_has_no_open_channel_cannot_be_asked(calling: CallingWorld) -> None:
    calling.join("b")
    calling.call()
    (answer,) = calling.answers
    assert (answer.error_code, answer.error_message) == (
        "internal",
        "data channel is not available",
    )


@pytest.mark.parametrize(
    ("identity", "payload", "code"),
    [
        ("", "", "invalid_argument"),
        ("nobody", "", "not_found"),
        ("b", "x" * 15_361, "malformed"),
        ("b", "é" * 7_681, "malformed"),
    ],
)
def test_bad_calls_are_refused(
    calling: CallingWorld, identity: str, payload: str, code: str
) -> None:
    calling.join("b", connect=True)
    calling.call(identity, payload=payload)
    assert [answer.error_code for answer in calling.answers] == [code]
    assert calling.told(SendData) == []


def test_another_participant_cannot_answer(calling: CallingWorld) -> None:
    a, _b = (calling.join(name, connect=True) for name in "ab")
    calling.call()
    respond(a, calling.asked().rpc_request.id, payload="forged")
    assert calling.answers == []


def test_calls_that_wait_are_bounded(calling: CallingWorld) -> None:
    calling.join("b", connect=True)
    for _ in range(MAX_CALLS):
        calling.call()
    assert calling.answers == []
    calling.call()
    (answer,) = calling.answers
    assert answer.error_code == "resource_exhausted"
    calling.advance(3)
    assert len(calling.answers) == MAX_CALLS + 1
    calling.call()
    assert len(calling.answers) == MAX_CALLS + 1
