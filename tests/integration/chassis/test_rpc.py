"""gRPC between services over real loopback connections."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from pydantic import SecretStr

from chassis import rpc
from chassis.errors import (
    DeadlineExceeded,
    Malformed,
    NotFound,
    ServiceError,
    SettingsError,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from chassis.rpc import RpcAuth
from contracts.node.v1 import node_pb2, node_pb2_grpc
from contracts.placement.v1 import placement_pb2, placement_pb2_grpc

AUTH = RpcAuth("shared")


class Placement(placement_pb2_grpc.PlacementServiceServicer):
    async def FindRoom(self, request: Any, context: Any) -> Any:
        match request.room_name:
            case "missing":
                raise NotFound("no such room", {"room": "missing"})
            case "garbled":
                raise Malformed("garbled")
            case "traced":
                seen = trace.get_current_span().get_span_context().trace_id
                return placement_pb2.FindRoomResponse(lease=placement_pb2.Lease(epoch=seen % 2**63))
            case "slow":
                await asyncio.sleep(3600)
        return placement_pb2.FindRoomResponse(
            lease=placement_pb2.Lease(room_name=request.room_name)
        )


class Node(node_pb2_grpc.NodeServiceServicer):
    async def SignalStream(self, requests: Any, context: Any) -> Any:
        async for request in requests:
            numbers = [frame.session_id for frame in request.frames]
            frame = node_pb2.SignalResponseFrame(session_ids=numbers)
            yield node_pb2.SignalStreamResponse(frames=[frame])
        raise Unavailable("not here")


@asynccontextmanager
async def connected(server_auth: RpcAuth = AUTH, client_auth: RpcAuth = AUTH) -> AsyncIterator[Any]:
    server = rpc.make_server(
        "127.0.0.1:0",
        partial(placement_pb2_grpc.add_PlacementServiceServicer_to_server, Placement()),  # type: ignore[abstract]
        partial(node_pb2_grpc.add_NodeServiceServicer_to_server, Node()),  # type: ignore[abstract]
        auth=server_auth,
    )
    await server.start()
    async with rpc.channel(server.address, auth=client_auth) as channel:
        yield channel
    await server.stop()


def find(channel: Any, room: str, **options: Any) -> Any:
    stub = placement_pb2_grpc.PlacementServiceStub(channel)
    return stub.FindRoom(placement_pb2.FindRoomRequest(room_name=room), **options)


async def stream(channel: Any, send: list[int], got: list[int]) -> None:
    stub = node_pb2_grpc.NodeServiceStub(channel)
    with rpc.service_errors():
        call = stub.SignalStream(
            iter(
                node_pb2.SignalStreamRequest(
                    frames=[node_pb2.SignalRequestFrame(session_id=number)]
                )
                for number in send
            )
        )
        async for response in call:
            got.extend(number for frame in response.frames for number in frame.session_ids)


async def test_call_is_answered() -> None:
    async with connected() as channel:
        assert (await find(channel, "r")).lease.room_name == "r"


@pytest.mark.parametrize(("room", "kind"), [("missing", NotFound), ("garbled", Malformed)])
async def test_error_arrives_as_it_was_raised(room: str, kind: type[ServiceError]) -> None:
    async with connected() as channel:
        with pytest.raises(kind) as caught:
            await find(channel, room)
    assert caught.value.meta == ({"room": "missing"} if room == "missing" else {})


async def test_call_without_the_token_is_refused() -> None:
    for wrong in (RpcAuth(None), RpcAuth("guess")):
        async with connected(client_auth=wrong) as channel:
            with pytest.raises(Unauthenticated):
                await find(channel, "r")
            with pytest.raises(Unauthenticated):
                await stream(channel, [], [])


async def test_insecure_server_takes_anybody() -> None:
    async with connected(RpcAuth(None), RpcAuth(None)) as channel:
        assert await find(channel, "r")


async def test_deadline_ends_a_call() -> None:
    async with connected() as channel:
        with pytest.raises(DeadlineExceeded):
            await find(channel, "slow", timeout=0.05)


async def test_trace_context_reaches_the_other_side() -> None:
    async with connected() as channel:
        with TracerProvider().get_tracer("test").start_as_current_span("join") as span:
            answer = await find(channel, "traced")
    assert answer.lease.epoch == span.get_span_context().trace_id % 2**63


async def test_method_nobody_serves_is_unimplemented() -> None:
    async with connected() as channel:
        stub = placement_pb2_grpc.PlacementServiceStub(channel)
        with pytest.raises(Unimplemented):
            await stub.ListRooms(placement_pb2.ListRoomsRequest())


async def test_stream_carries_messages_then_the_error() -> None:
    got: list[int] = []
    async with connected() as channel:
        with pytest.raises(Unavailable, match="not here"):
            await stream(channel, [1, 2], got)
    assert got == [1, 2]


async def test_server_that_is_gone_is_unavailable() -> None:
    async with rpc.channel("127.0.0.1:1", auth=AUTH) as channel:
        with pytest.raises(Unavailable):
            await find(channel, "r")


async def test_port_in_use_is_said() -> None:
    server = rpc.make_server("127.0.0.1:0", auth=AUTH)
    with pytest.raises(SettingsError, match="is the port in use"):
        rpc.make_server(server.address, auth=AUTH)
    await server.stop()


def test_token_is_required_unless_insecure() -> None:
    with pytest.raises(SettingsError, match="internal_token is not set"):
        RpcAuth.of(SecretStr(""), insecure=False)
    assert RpcAuth.of(SecretStr(""), insecure=True).token is None
    assert "hush" not in repr(RpcAuth.of(SecretStr("hush"), insecure=False))
