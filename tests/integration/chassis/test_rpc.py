"""gRPC between services over real loopback connections."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme
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
    Unreachable,
)
from chassis.rpc import RpcAuth
from contracts.node.v1 import node_pb2, node_pb2_grpc
from contracts.placement.v1 import placement_pb2, placement_pb2_grpc
from tests.support.cable import Cable

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
async def serving(auth: RpcAuth = AUTH) -> AsyncIterator[str]:
    server = rpc.make_server(
        "127.0.0.1:0",
        partial(placement_pb2_grpc.add_PlacementServiceServicer_to_server, Placement()),  # type: ignore[abstract]
        partial(node_pb2_grpc.add_NodeServiceServicer_to_server, Node()),  # type: ignore[abstract]
        auth=auth,
    )
    await server.start()
    yield server.address
    await server.stop()


@asynccontextmanager
async def connected(server_auth: RpcAuth = AUTH, client_auth: RpcAuth = AUTH) -> AsyncIterator[Any]:
    async with (
        serving(server_auth) as address,
        rpc.channel(address, auth=client_auth) as channel,
    ):
        yield channel


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


def write_certificates(directory: Path, authority: trustme.CA, name: str = rpc.TLS_NAME) -> Path:
    """What a certificate issuer puts into a pod's directory."""
    directory.mkdir(exist_ok=True)
    issued = authority.issue_cert(name)
    authority.cert_pem.write_to_path(directory / "ca.crt")
    (directory / "tls.crt").write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(directory / "tls.key")
    return directory


async def test_certificates_of_one_authority_prove_both_ends(tmp_path: Path) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    ours = RpcAuth("shared", rpc.Tls(write_certificates(tmp_path / "ours", authority)))
    theirs = RpcAuth("shared", rpc.Tls(write_certificates(tmp_path / "theirs", stranger)))
    other = rpc.Tls(write_certificates(tmp_path / "other", authority, "elsewhere.internal"))
    async with connected(ours, ours) as channel:
        assert await find(channel, "r")
        got: list[int] = []
        with pytest.raises(Unavailable, match="not here"):
            await stream(channel, [1], got)
        assert got == [1]
    for server, client in (
        (ours, theirs),
        (ours, RpcAuth("shared")),
        (theirs, ours),
        (RpcAuth("shared", other), ours),
    ):
        async with connected(server, client) as channel:
            with pytest.raises(Unreachable):
                await find(channel, "r")


async def test_a_server_takes_new_certificates_without_a_restart(tmp_path: Path) -> None:
    directory = write_certificates(tmp_path / "tls", trustme.CA())
    auth = RpcAuth("shared", rpc.Tls(directory))
    async with serving(auth) as address:
        for _ in range(2):
            async with rpc.channel(address, auth=auth) as channel:
                assert await find(channel, "r")
            write_certificates(directory, trustme.CA())


def test_a_missing_certificate_file_is_named(tmp_path: Path) -> None:
    write_certificates(tmp_path, trustme.CA())
    (tmp_path / "tls.key").unlink()
    with pytest.raises(SettingsError, match=r"internal_tls_directory: .*tls\.key: No such file"):
        RpcAuth.of(SecretStr("s"), insecure=False, tls_directory=tmp_path)
    (tmp_path / "tls.key").write_bytes(b"\n")
    with pytest.raises(SettingsError, match=r"tls\.key is empty"):
        RpcAuth.of(SecretStr("s"), insecure=False, tls_directory=tmp_path)


async def test_a_peer_that_vanished_is_known_within_seconds() -> None:
    async with (
        serving() as server,
        Cable(server).laid() as cable,
        rpc.channel(cable.place, auth=AUTH) as through,
    ):
        call = node_pb2_grpc.NodeServiceStub(through).SignalStream(endless())
        responses = aiter(call)
        assert await anext(responses)
        cable.silence()
        started = time.monotonic()
        with pytest.raises(Unreachable), rpc.service_errors():
            await anext(responses)
        assert time.monotonic() - started < 4.0


async def test_a_call_on_an_unconnected_channel_is_known_not_to_be_done() -> None:
    async with rpc.channel("127.0.0.1:1", auth=AUTH) as channel:
        assert not await rpc.connected(channel, 1.0)
    async with connected() as channel:
        assert await rpc.connected(channel, 1.0)


async def test_several_hosts_behind_one_address_are_used_in_turn_and_around_one_that_goes() -> None:
    servers = []
    served = [0, 0]

    class Counting(Placement):
        def __init__(self, number: int) -> None:
            self.number = number

        async def FindRoom(self, request: Any, context: Any) -> Any:
            served[self.number] += 1
            return await super().FindRoom(request, context)

    for number in range(2):
        service = Counting(number)  # type: ignore[abstract]
        register = partial(placement_pb2_grpc.add_PlacementServiceServicer_to_server, service)
        server = rpc.make_server("127.0.0.1:0", register, auth=AUTH, max_connection_age_s=300)
        servers.append(server)
        await server.start()
    target = "ipv4:" + ",".join(server.address for server in servers)
    async with rpc.channel(target, auth=AUTH) as channel:
        assert await rpc.connected(channel, 1.0)
        while 0 in served:
            await find(channel, "r")
        await servers[0].stop()
        before = served[1]
        for _ in range(5):
            with suppress(Unreachable):  # a call may meet the very moment
                await find(channel, "r")
        assert served[1] >= before + 4
    await servers[1].stop()


async def endless() -> AsyncIterator[node_pb2.SignalStreamRequest]:
    """One request, and an open end."""
    frame = node_pb2.SignalRequestFrame(session_id=1)
    yield node_pb2.SignalStreamRequest(frames=[frame])
    await asyncio.Event().wait()
