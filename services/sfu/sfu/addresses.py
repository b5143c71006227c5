"""Finds the address that clients are told, once, before the media engine starts.

    node_ip (then nothing is looked up)
    loadBalancer             the load balancer of this pod's Service, waited for
    hostPort, hostNetwork    the machine's ExternalIP, then STUN, then the machine's own address
    turnOnly                 the pod's own address
    outside of Kubernetes    STUN

Each family (IPv4, IPv6) takes the first source that knows one. None at all: the node does not start,
because a node that tells clients nothing, or a guess, looks healthy and has no media.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import assert_never

import structlog

from chassis import rpc
from chassis.errors import ServiceError, SettingsError, Unimplemented
from contracts.placement.v1 import placement_pb2, placement_pb2_grpc
from sfu.core import stun
from sfu.core.advertising import (
    Advertised,
    Family,
    Reachable,
    Search,
    parse_addresses,
    wildcard_families,
)
from sfu.settings import SfuSettings

log = structlog.get_logger(__name__)

ASK_EVERY_S = 1.0
PROGRESS_EVERY_S = 10.0
STUN_PORT = 3478
STUN_RETRIES_S = (0.25, 0.5, 1.0, 1.5)
"""Waits between requests, and after the last; RFC 8489 section 6.2.1 waits longer, for worse paths."""

Find = Callable[[], Awaitable[Sequence[placement_pb2.MediaAddress]]]
"""Asks placement; raises `ServiceError`."""
AskStun = Callable[[Sequence[str], Family], Awaitable[str | None]]
"""The address that any of these servers sees this machine under."""


async def discover(
    settings: SfuSettings,
    auth: rpc.RpcAuth,
    find: Find | None = None,
    ask_stun: AskStun | None = None,
) -> Advertised:
    """What clients shall be told; `SettingsError` says what to set when nothing is found."""
    given = _parsed("node_ip", settings.node_ip)
    if given:
        return Advertised(given, replaces_hosts=True)
    families = wildcard_families((*settings.udp_addresses, *settings.tcp_addresses))
    if not families:
        return Advertised()
    search = Search(families)
    ask = _Asking(settings, find or _placement(settings, auth))
    match settings.expose:
        case "loadBalancer":
            search.add(await ask.until_load_balanced())
        case "hostPort" | "hostNetwork":
            search.add(await ask.once_answered())
            await _add_stun(search, settings.stun_servers, ask_stun or stun_address)
            search.add_last(_parsed("host_ip", settings.host_ip))
        case "turnOnly":
            search.add(_parsed("pod_ip", settings.pod_ip))
        case "":
            await _add_stun(search, settings.stun_servers, ask_stun or stun_address)
        case _:
            assert_never(settings.expose)
    if not search.found:
        raise SettingsError(_WHAT_TO_SET[settings.expose])
    for family in sorted(search.missing):
        log.info("no address of this family: its sockets stay closed", family=f"IPv{family}")
    log.info("address found", addresses=[address.ip for address in search.result()])
    return Advertised(search.result())


class _Asking:
    """Questions to placement, with patience: both start at the same moment of an installation."""

    def __init__(self, settings: SfuSettings, find: Find | None) -> None:
        self._find = find
        self._patience_s = settings.address_timeout_s
        self._pod_name = settings.pod_name

    async def until_load_balanced(self) -> list[Reachable]:
        """The addresses of the pod's load balancer, as soon as it has one."""
        if self._find is None:
            raise SettingsError(
                "expose is loadBalancer: set placement_address and pod_name, "
                "or node_ip to what clients can reach"
            )
        return await self._patiently(self._find, _of_load_balancer)

    async def once_answered(self) -> list[Reachable]:
        """The machine's external addresses; none outside of Kubernetes."""
        if self._find is None:
            return []
        return await self._patiently(self._find, _of_machine)

    async def _patiently(
        self,
        find: Find,
        read: Callable[[Sequence[placement_pb2.MediaAddress]], list[Reachable] | None],
    ) -> list[Reachable]:
        """Ask until `read` makes something of the answer."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        told = began - PROGRESS_EVERY_S
        while True:
            try:
                answer = read(await find())
                why = "its load balancer has no address yet"
            except Unimplemented:  # of an earlier release
                answer, why = read(()), "placement is of an earlier release"
            except ServiceError as error:
                answer, why = None, f"placement does not answer: {error.message}"
            if answer is not None:
                return answer
            now = loop.time()
            if now - began >= self._patience_s:
                raise SettingsError(
                    f"the address of pod {self._pod_name} is not known after {self._patience_s:g} s "
                    f"({why}): does a load-balancer controller or placement need a look? node_ip "
                    "set to what clients can reach skips the search"
                )
            if now - told >= PROGRESS_EVERY_S:
                told = now
                log.info(
                    "waiting for the address", pod=self._pod_name, why=why, for_s=round(now - began)
                )
            await asyncio.sleep(min(ASK_EVERY_S, self._patience_s))


def _of_load_balancer(found: Sequence[placement_pb2.MediaAddress]) -> list[Reachable] | None:
    addresses = _of_source(found, placement_pb2.MediaAddress.SOURCE_LOAD_BALANCER)
    return addresses or None


def _of_machine(found: Sequence[placement_pb2.MediaAddress]) -> list[Reachable]:
    return _of_source(found, placement_pb2.MediaAddress.SOURCE_NODE_EXTERNAL_IP)


def _of_source(
    found: Sequence[placement_pb2.MediaAddress], source: placement_pb2.MediaAddress.Source.ValueType
) -> list[Reachable]:
    reachable = []
    for address in found:
        if address.source != source:
            continue
        try:
            (parsed,) = parse_addresses(address.ip)
        except ValueError:
            log.warning("placement told an address that is none", address=address.ip)
            continue
        reachable.append(Reachable(parsed.ip, address.udp_port, address.tcp_port))
    return reachable


def _placement(settings: SfuSettings, auth: rpc.RpcAuth) -> Find | None:
    if not settings.placement_address or not settings.pod_name:
        return None

    async def find() -> Sequence[placement_pb2.MediaAddress]:
        async with rpc.channel(settings.placement_address, auth=auth) as channel:
            stub = placement_pb2_grpc.PlacementServiceStub(channel)
            response = await stub.FindAddresses(
                placement_pb2.FindAddressesRequest(
                    pod_name=settings.pod_name, kubernetes_node=settings.kubernetes_node
                )
            )
            return list(response.addresses)

    return find


async def _add_stun(search: Search, servers: Sequence[str], ask: AskStun) -> None:
    for family in sorted(search.missing):
        ip = await ask(servers, family) if servers else None
        if ip is not None:
            search.add([Reachable(ip)])
        elif servers:
            log.info("no STUN server answered", servers=list(servers), family=f"IPv{family}")


async def stun_address(servers: Sequence[str], family: Family) -> str | None:
    """The first answer of any server; None when none of them answers in time."""
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(_stun(server, family)) for server in servers]
        for answered in asyncio.as_completed(asked):
            ip = await answered
            if ip is not None:
                for task in asked:
                    task.cancel()
                return ip
    return None


async def _stun(server: str, family: Family) -> str | None:
    loop = asyncio.get_running_loop()
    try:
        host, port = _server(server)
        found = await loop.getaddrinfo(
            host, port, family=_SOCKET_FAMILY[family], type=socket.SOCK_DGRAM
        )
        transport, protocol = await loop.create_datagram_endpoint(
            _StunAnswer, remote_addr=(str(found[0][4][0]), port)
        )
    except (OSError, IndexError):
        return None  # no such name, or no route of this family
    try:
        for wait_s in STUN_RETRIES_S:
            transport.sendto(stun.binding_request(protocol.transaction_id))
            done, _ = await asyncio.wait({protocol.answer}, timeout=wait_s)
            if done:
                return protocol.answer.result()
    finally:
        transport.close()
    return None


class _StunAnswer(asyncio.DatagramProtocol):
    """Waits for the one datagram that answers its request."""

    def __init__(self) -> None:
        self.transaction_id = secrets.token_bytes(stun.TRANSACTION_ID_BYTES)
        self.answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        ip = stun.mapped_address(data, self.transaction_id)
        if ip is not None and not self.answer.done():
            self.answer.set_result(ip)

    def error_received(self, exc: Exception) -> None:
        """The port is closed; another request may still find it open."""


def _server(text: str) -> tuple[str, int]:
    """`host`, `host:port` or `stun:host:port`."""
    host, colon, port = text.removeprefix("stun:").rpartition(":")
    if not colon or not port.isdecimal():
        return text.removeprefix("stun:").strip("[]"), STUN_PORT
    return host.strip("[]"), int(port)


def _parsed(name: str, text: str) -> tuple[Reachable, ...]:
    try:
        return parse_addresses(text)
    except ValueError as error:
        raise SettingsError(f"{name}: {error}; write one address of each family at most") from None


_SOCKET_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_WHAT_TO_SET = {
    "": "a media socket is bound to a wildcard: set node_ip to what clients can reach, or stun_servers",
    "hostPort": "no address that clients can reach was found: set node_ip, stun_servers or host_ip",
    "hostNetwork": "no address that clients can reach was found: set node_ip, stun_servers or host_ip",
    "loadBalancer": "the load balancer has no address of the families of udp_addresses: set node_ip",
    "turnOnly": "expose is turnOnly: set pod_ip to the pod's own address, or node_ip",
}
