"""How a node finds the address that clients are told: placement, STUN and what the pod is told."""

import asyncio
import struct
from collections.abc import Sequence
from contextlib import ExitStack
from typing import cast
from unittest.mock import patch

import pytest

from chassis import rpc
from chassis.errors import SettingsError, Unavailable, Unimplemented
from chassis.rpc import RpcAuth
from contracts.placement.v1 import placement_pb2, placement_pb2_grpc
from contracts.placement.v1.placement_pb2 import MediaAddress
from sfu.addresses import Find, discover, stun_address
from sfu.core.advertising import Advertised, Reachable
from sfu.settings import SfuSettings

AUTH = RpcAuth(None)
BALANCED = MediaAddress(
    ip="203.0.113.1", source=MediaAddress.SOURCE_LOAD_BALANCER, udp_port=7882, tcp_port=7881
)
MACHINE = MediaAddress(ip="203.0.113.2", source=MediaAddress.SOURCE_NODE_EXTERNAL_IP)
MACHINE6 = MediaAddress(ip="2001:db8::2", source=MediaAddress.SOURCE_NODE_EXTERNAL_IP)


def settings(**values: object) -> SfuSettings:
    defaults: dict[str, object] = {
        "udp_addresses": ("0.0.0.0:7882",),
        "tcp_addresses": (),
        "pod_name": "sfu-1",
        "address_timeout_s": 0.05,
    }
    return SfuSettings(**(defaults | values))  # type: ignore[arg-type]


def answers(*found: MediaAddress) -> Find:
    async def find() -> Sequence[MediaAddress]:
        return found

    return find


async def sees(_servers: Sequence[str], family: int) -> str | None:
    return "198.51.100.4" if family == 4 else "2001:db8::4"


async def asked_nobody(_servers: Sequence[str], _family: int) -> str | None:
    raise AssertionError("a better source was there")


async def ips(find: Find | None = None, **values: object) -> list[str]:
    found = await discover(settings(**values), AUTH, find or answers(), sees)
    return [address.ip for address in found.addresses]


@pytest.mark.parametrize(
    ("expose", "found", "values", "wanted"),
    [
        ("hostPort", (MACHINE,), {"stun_servers": ("s",), "host_ip": "10.0.0.1"}, "203.0.113.2"),
        ("hostNetwork", (BALANCED,), {"stun_servers": ("s",)}, "198.51.100.4"),
        ("hostPort", (), {"host_ip": "10.0.0.1,fd00::1"}, "10.0.0.1"),
        ("loadBalancer", (MACHINE, BALANCED), {"host_ip": "10.0.0.1"}, "203.0.113.1"),
        ("turnOnly", (MACHINE,), {"pod_ip": "10.244.0.1", "host_ip": "10.0.0.1"}, "10.244.0.1"),
        ("", (MACHINE,), {"stun_servers": ("s",), "host_ip": "10.0.0.1"}, "198.51.100.4"),
        ("loadBalancer", (BALANCED,), {"node_ip": "192.0.2.9"}, "192.0.2.9"),
    ],
)
async def test_best_source_of_each_way_to_expose_wins(
    expose: str, found: tuple[MediaAddress, ...], values: dict[str, object], wanted: str
) -> None:
    assert await ips(answers(*found), expose=expose, **values) == [wanted]


async def test_given_address_is_told_for_specific_hosts_too_and_nobody_is_asked() -> None:
    chosen = settings(expose="hostPort", node_ip="192.0.2.9, 2001:db8::9", stun_servers=("s",))
    found = await discover(chosen, AUTH, None, asked_nobody)
    assert found == Advertised((Reachable("192.0.2.9"), Reachable("2001:db8::9")), True)


async def test_specific_hosts_are_told_as_they_are() -> None:
    chosen = settings(udp_addresses=("127.0.0.1:7882",), expose="hostPort", stun_servers=("s",))
    assert await discover(chosen, AUTH, None, asked_nobody) == Advertised()


async def test_each_family_has_its_own_best_source() -> None:
    both = ("0.0.0.0:7882", "[::]:7882")
    values = {"udp_addresses": both, "expose": "hostPort", "stun_servers": ("s",)}
    assert await ips(answers(MACHINE6), **values) == ["198.51.100.4", "2001:db8::2"]


async def test_load_balancer_is_waited_for_with_its_ports() -> None:
    asked = 0

    async def find() -> Sequence[MediaAddress]:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise Unavailable("not yet")
        return (BALANCED,) if asked == 3 else (MACHINE,)

    chosen = settings(expose="loadBalancer", address_timeout_s=5.0)
    with patch("sfu.addresses.ASK_EVERY_S", 0.01):
        found = await discover(chosen, AUTH, find)
    assert found.addresses == (Reachable("203.0.113.1", 7882, 7881),)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"expose": "loadBalancer"}, "load balancer has no address yet.*node_ip"),
        ({"expose": "loadBalancer", "pod_name": ""}, "set placement_address and pod_name"),
        ({"expose": "hostPort"}, "set node_ip, stun_servers or host_ip"),
        ({"expose": "turnOnly", "host_ip": "10.0.0.1"}, "set pod_ip"),
        ({}, "set node_ip"),
        ({"node_ip": "here"}, "node_ip: 'here' does not appear to be"),
        ({"expose": "hostPort", "host_ip": "there"}, "host_ip: 'there'"),
    ],
)
async def test_no_address_refuses_the_start_and_says_what_to_set(
    values: dict[str, object], words: str
) -> None:
    chosen = settings(**values)
    find = answers() if chosen.pod_name else None
    with pytest.raises(SettingsError, match=words):
        await discover(chosen, AUTH, find)


async def test_placement_that_never_answers_is_no_reason_to_guess() -> None:
    async def find() -> Sequence[MediaAddress]:
        raise Unavailable("gone")

    with pytest.raises(SettingsError, match="placement does not answer: gone"):
        await ips(find, expose="hostPort", host_ip="10.0.0.1")


async def test_placement_of_an_earlier_release_knows_no_addresses() -> None:
    async def find() -> Sequence[MediaAddress]:
        raise Unimplemented("no such method")

    assert await ips(find, expose="hostPort", host_ip="10.0.0.1") == ["10.0.0.1"]


async def test_what_is_no_address_is_passed_over() -> None:
    odd = MediaAddress(ip="lb.example", source=MediaAddress.SOURCE_NODE_EXTERNAL_IP)
    assert await ips(answers(odd, MACHINE), expose="hostPort") == ["203.0.113.2"]


class Placement(placement_pb2_grpc.PlacementServiceServicer):
    async def FindAddresses(
        self, request: placement_pb2.FindAddressesRequest, context: object
    ) -> placement_pb2.FindAddressesResponse:
        assert (request.pod_name, request.kubernetes_node) == ("sfu-1", "n1")
        return placement_pb2.FindAddressesResponse(addresses=[MACHINE])


async def test_placement_is_asked_over_grpc() -> None:
    add = placement_pb2_grpc.add_PlacementServiceServicer_to_server
    server = rpc.make_server("127.0.0.1:0", lambda s: add(Placement(), s), auth=AUTH)  # type: ignore[abstract]
    await server.start()
    try:
        chosen = settings(
            expose="hostPort",
            placement_address=server.address,
            kubernetes_node="n1",
            address_timeout_s=5.0,
        )
        found = await discover(chosen, AUTH)
    finally:
        await server.stop()
    assert found.addresses == (Reachable("203.0.113.2"),)


class StunServer(asyncio.DatagramProtocol):
    """Answers with an address of its own choice; of the first `deaf` requests it hears nothing."""

    def __init__(self, deaf: int = 0) -> None:
        self.deaf = deaf

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: object) -> None:
        if self.deaf:
            self.deaf -= 1
            return
        ip = bytes(a ^ b for a, b in zip(bytes((198, 51, 100, 4)), data[4:8], strict=True))
        body = struct.pack("!HHBBH", 0x20, 8, 0, 1, 0) + ip
        self.transport.sendto(struct.pack("!HH", 0x0101, len(body)) + data[4:20] + body, addr)  # type: ignore[arg-type]


async def stun_server(stack: ExitStack, deaf: int = 0) -> str:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(
        lambda: StunServer(deaf), local_addr=("127.0.0.1", 0)
    )
    stack.callback(transport.close)
    return f"127.0.0.1:{transport.get_extra_info('sockname')[1]}"


async def test_stun_server_is_asked_again_until_it_answers() -> None:
    with ExitStack() as stack:
        server = await stun_server(stack, deaf=1)
        assert await stun_address([server], 4) == "198.51.100.4"


async def test_first_server_that_answers_is_enough() -> None:
    with ExitStack() as stack:
        dead, alive = await stun_server(stack, deaf=99), await stun_server(stack)
        assert await stun_address(["127.0.0.1:1", dead, f"stun:{alive}"], 4)


async def test_servers_that_do_not_answer_tell_nothing() -> None:
    with ExitStack() as stack, patch("sfu.addresses.STUN_RETRIES_S", (0.01, 0.01)):
        server = await stun_server(stack, deaf=99)
        assert await stun_address([server, "127.0.0.1:1"], 4) is None
        assert await stun_address([server], 6) is None
