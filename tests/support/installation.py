"""Several replicas of every service, each a process on a host of its own, as on a cluster."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import nats
import websockets
from livekit import api
from pydantic import SecretStr

from chassis import rpc
from contracts.events.v1 import events_pb2
from contracts.placement.v1 import placement_pb2, placement_pb2_grpc
from roomwright import nats_server
from tests.support.network import Host, Network, laid_network, python
from tests.support.server import join_token

KEY = "devkey"
SECRET = "a-secret-of-at-least-thirty-two-characters"
START_TIMEOUT_S = 60.0
HTTP_PORT, PLACEMENT_PORT, SFU_PORT, HEALTH_PORT, NATS_PORT = 7880, 7890, 7891, 8080, 4222


@dataclass(frozen=True, slots=True)
class Front:
    """Signaling as clients see it (`tests.support.server.Server`)."""

    place: str
    """host:port."""

    @property
    def url(self) -> str:
        """What SDKs connect to."""
        return f"ws://{self.place}"

    @property
    def http_url(self) -> str:
        """What server SDKs open."""
        return f"http://{self.place}"

    @property
    def page_url(self) -> str:
        """Not served here."""
        return f"{self.http_url}/app"

    def token(self, room: str, identity: str, **grants: object) -> str:
        """A token made by the published server SDK, for one hour."""
        return join_token(KEY, SECRET, room, identity, **grants)

    async def try_join(self, room: str, identity: str) -> tuple[int, str]:
        """The status of one attempt to open the socket, and the text of a refusal."""
        headers = {"Authorization": f"Bearer {self.token(room, identity)}"}
        url = f"{self.url}/rtc?protocol=16&auto_subscribe=1"
        try:
            async with websockets.connect(url, additional_headers=headers):
                return 101, ""
        except websockets.InvalidStatus as refused:
            return refused.response.status_code, (refused.response.body or b"").decode()

    def server_api(self) -> api.LiveKitAPI:
        """The published server SDK, pointed at this replica."""
        return api.LiveKitAPI(self.http_url, KEY, SECRET)


@dataclass(slots=True)
class Installation:
    """The running services by host name: nats, placement1, placement2, sfu1, sfu2, signaling1, signaling2."""

    network: Network
    directory: Path
    internal_token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    nats_password: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    processes: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)

    def host(self, name: str) -> Host:
        """The host of this name."""
        return self.network.hosts[name]

    def front(self, name: str = "signaling1") -> Front:
        """A signaling replica for clients."""
        return Front(f"{self.host(name).address}:{HTTP_PORT}")

    def log(self, name: str) -> str:
        """Everything the service wrote."""
        return (self.directory / f"{name}.log").read_text()

    @contextmanager
    def cut(self, one: str, *others: str) -> Iterator[None]:
        """Let nothing through between a host and others for the time of the block."""
        for other in others:
            self.network.cut(self.host(one), self.host(other))
        try:
            yield
        finally:
            for other in others:
                self.network.mend(self.host(one), self.host(other))

    async def home(self, room: str, placement: str = "placement1") -> placement_pb2.Lease:
        """The room's lease as one placement replica says."""
        auth = rpc.RpcAuth.of(SecretStr(self.internal_token), insecure=False)
        address = f"{self.host(placement).address}:{PLACEMENT_PORT}"
        async with rpc.channel(address, auth=auth) as channel:
            stub = placement_pb2_grpc.PlacementServiceStub(channel)
            return (await stub.FindRoom(placement_pb2.FindRoomRequest(room_name=room))).lease

    def host_of(self, lease: placement_pb2.Lease) -> str:
        """The name of the host a lease's node runs on."""
        address = lease.node_address.rpartition(":")[0]
        return next(name for name, it in self.network.hosts.items() if it.address == address)

    async def facts(self, room: str, last: str, timeout_s: float = 20.0) -> list[str]:
        """Names of the room's facts in the EVENTS stream, in order, up to the first named `last`."""
        names: list[str] = []
        bus = await nats.connect(
            f"nats://{self.host('nats').address}:{NATS_PORT}",
            user="roomwright",
            password=self.nats_password,
        )
        try:
            async with asyncio.timeout(timeout_s):
                reader = await bus.jetstream().subscribe("events.>", ordered_consumer=True)
                while last not in names:
                    event = events_pb2.RoomEvent.FromString((await reader.next_msg(None)).data)
                    if event.room_name == room:
                        names.append(event.name)
        except TimeoutError:
            raise AssertionError(f"no {last} among the facts of {room}: {names}") from None
        finally:
            await bus.close()
        return names

    # -------------------------------------------------------------------------------- the processes

    async def start(self, name: str) -> None:
        """Start the service of this host, and wait until it is ready."""
        kind = name.rstrip("0123456789")
        if kind == "nats":
            await self._start_nats()
            return
        log = self.directory / f"{name}.log"
        self.processes[name] = await self.host(name).run(
            *python("-m", kind), log=log, environment=self._environment(name, kind)
        )
        await self._until_ready(name)

    def kill(self, name: str) -> None:
        """End the process at once, without a word."""
        self.processes[name].kill()

    async def stop(self) -> None:
        """End every process."""
        for process in self.processes.values():
            if process.returncode is None:
                process.kill()
        await asyncio.gather(*(process.wait() for process in self.processes.values()))

    def _environment(self, name: str, kind: str) -> dict[str, str]:
        own = self.host(name).address
        # One address: the replicas behind it take turns, as behind a headless Service.
        placements = ",".join(
            f"{it.address}:{PLACEMENT_PORT}"
            for host, it in self.network.hosts.items()
            if host.startswith("placement")
        )
        values = {
            "NATS_URL": f"nats://{self.host('nats').address}:{NATS_PORT}",
            "NATS_USER": "roomwright",
            "NATS_PASSWORD": self.nats_password,
            "INTERNAL_TOKEN": self.internal_token,
            "API_KEYS": f"{KEY}: {SECRET}",
            "HEALTH_ADDRESS": f"{own}:{HEALTH_PORT}",
            "LOG_LEVEL": "info",
        }
        if kind == "placement":
            values |= {"GRPC_ADDRESS": f"{own}:{PLACEMENT_PORT}"}
        else:
            values |= {"PLACEMENT_ADDRESS": f"ipv4:{placements}"}
        if kind == "signaling":
            values |= {"HTTP_ADDRESSES": json.dumps([f"{own}:{HTTP_PORT}"])}
        if kind == "sfu":
            values |= {
                "GRPC_ADDRESS": f"{own}:{SFU_PORT}",
                "UDP_ADDRESSES": json.dumps([f"{own}:7882"]),
                "TCP_ADDRESSES": json.dumps([f"{own}:7881"]),
                "SPOOL_DIRECTORY": str(self.directory / f"{name}-spool"),
            }
        return {f"{kind.upper()}_{key}": value for key, value in values.items()}

    async def _start_nats(self) -> None:
        host = self.host("nats")
        command = (
            *(nats_server.find_binary(), "-a", host.address, "-p", str(NATS_PORT), "-js"),
            *("-sd", str(self.directory / "streams"), "--user", "roomwright"),
            *("--pass", self.nats_password),
        )
        log = self.directory / "nats.log"
        self.processes["nats"] = await host.run(*command, log=log, environment={})
        async with asyncio.timeout(START_TIMEOUT_S):
            while not await _answers(host.address, NATS_PORT):  # noqa: ASYNC110 - a server elsewhere
                await asyncio.sleep(0.05)

    async def _until_ready(self, name: str) -> None:
        url = f"http://{self.host(name).address}:{HEALTH_PORT}/readyz"
        try:
            async with asyncio.timeout(START_TIMEOUT_S), aiohttp.ClientSession() as http:
                while True:
                    if self.processes[name].returncode is not None:
                        raise AssertionError(f"{name} ended while starting:\n{self.log(name)}")
                    try:
                        async with http.get(url) as answer:
                            if answer.status == 200:
                                return
                    except aiohttp.ClientError:
                        pass
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"{name} did not start:\n{self.log(name)}") from None


@asynccontextmanager
async def installed(directory: Path) -> AsyncIterator[Installation]:
    """Two of every service and one nats-server, until the block ends."""
    with laid_network() as network:
        names = ("nats", "placement1", "placement2", "sfu1", "sfu2", "signaling1", "signaling2")
        for name in names:
            network.add(name)
        installation = Installation(network, directory)
        try:
            await installation.start("nats")
            await asyncio.gather(*(installation.start(name) for name in names[1:]))
            yield installation
        finally:
            await installation.stop()


async def _answers(address: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(address, port)
    except OSError:
        return False
    writer.close()
    return True
