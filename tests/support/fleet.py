"""nats-server, placement and signaling in the test, and sfu nodes as processes of their own on loopback."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from livekit import api
from pydantic import SecretStr

from chassis import rpc, subjects
from chassis.bus import NatsBus
from chassis.chassis import Chassis, open_chassis
from chassis.kv import NatsKv
from chassis.run import ServiceApp, serve
from chassis.settings import ChassisSettings
from contracts.events.v1 import events_pb2
from contracts.placement.v1 import placement_pb2, placement_pb2_grpc
from placement.app import build as build_placement
from placement.settings import PlacementSettings
from roomwright.nats_server import NatsServer
from signaling.app import build as build_signaling
from signaling.settings import SignalingSettings
from tests.support.nats import connected_bus, running_nats

KEY = "devkey"
SECRET = "a-secret-of-at-least-thirty-two-characters"
TOKEN = "shared"
START_TIMEOUT_S = 60.0
AUTH = rpc.RpcAuth(TOKEN)
S = TypeVar("S", bound=ChassisSettings)


@dataclass
class Fleet:
    """The running services; fulfills `tests.support.server.Server`."""

    nats: NatsServer
    bus: NatsBus
    directory: Path
    placement_address: str
    http_address: str = ""
    nodes: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """What SDKs connect to."""
        return f"ws://{self.http_address}"

    @property
    def page_url(self) -> str:
        """Not served here."""
        return f"http://{self.http_address}/app"

    def token(self, room: str, identity: str, **grants: object) -> str:
        """A token made by the published server SDK, for one hour."""
        allowed = {"room_join": True, "room": room, **grants}
        return (
            api.AccessToken(KEY, SECRET)
            .with_identity(identity)
            .with_ttl(timedelta(hours=1))
            .with_grants(api.VideoGrants(**allowed))  # type: ignore[arg-type]
            .to_jwt()
        )

    def server_api(self) -> api.LiveKitAPI:
        """The published server SDK."""
        return api.LiveKitAPI(f"http://{self.http_address}", KEY, SECRET)

    async def start_node(self, node_id: str, **settings: str) -> None:
        """Start an sfu, and wait until its first heartbeat."""
        values = {
            "NODE_ID": node_id,
            "NATS_URL": self.nats.url,
            "NATS_USER": self.nats.user,
            "NATS_PASSWORD": self.nats.password,
            "PLACEMENT_ADDRESS": self.placement_address,
            "INTERNAL_TOKEN": TOKEN,
            "API_KEYS": f"{KEY}: {SECRET}",
            "GRPC_ADDRESS": "127.0.0.1:0",
            "HEALTH_ADDRESS": "127.0.0.1:0",
            "UDP_ADDRESSES": json.dumps(["127.0.0.1:0"]),
            "TCP_ADDRESSES": "[]",
            "SPOOL_DIRECTORY": str(self.directory / f"{node_id}-spool"),
        }
        environment = os.environ | {f"SFU_{k}": v for k, v in (values | settings).items()}
        with (self.directory / f"{node_id}.log").open("ab") as log:
            self.nodes[node_id] = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "sfu", env=environment, stdout=log, stderr=log
            )

        async def registered() -> bool:
            return await NatsKv(self.bus, subjects.NODES).get(node_id) is not None

        try:
            await eventually(registered, START_TIMEOUT_S)
        except TimeoutError:
            raise AssertionError(f"{node_id} did not start:\n{self.log(node_id)}") from None

    def log(self, node_id: str) -> str:
        """Everything the node wrote."""
        return (self.directory / f"{node_id}.log").read_text()

    async def kill(self, node_id: str) -> None:
        """End the node at once, without a word."""
        self.nodes[node_id].kill()
        await self.nodes[node_id].wait()

    async def lease(self, room: str) -> placement_pb2.Lease | None:
        """The room's lease as stored; None when there is none. Its epoch may be left to the revision."""
        entry = await NatsKv(self.bus, subjects.ROOMS).get(room)
        if entry is None:
            return None
        lease = placement_pb2.RoomRecord.FromString(entry.value).lease
        lease.epoch = lease.epoch or entry.revision
        return lease

    async def keys(self) -> list[str]:
        """Every key of `rooms` and `checkpoints`."""
        return [
            key
            for bucket in (subjects.ROOMS, subjects.CHECKPOINTS)
            for key in await NatsKv(self.bus, bucket).keys()
        ]

    async def facts(self) -> list[events_pb2.RoomEvent]:
        """What is in the EVENTS stream, in order."""
        found = list[events_pb2.RoomEvent]()
        async with await self.bus.read_stream(subjects.EVENTS) as reader:
            while True:
                try:
                    message = await asyncio.wait_for(anext(reader), 0.3)
                except TimeoutError:
                    return found
                found.append(events_pb2.RoomEvent.FromString(message.data))


@asynccontextmanager
async def running_fleet(*node_ids: str, **placement: object) -> AsyncIterator[Fleet]:
    """A nats-server, placement and signaling in this process, and these nodes."""
    async with AsyncExitStack() as stack:
        nats = await stack.enter_async_context(running_nats())
        bus = await stack.enter_async_context(connected_bus(nats))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        common: dict[str, object] = {
            "nats_url": nats.url,
            "nats_user": nats.user,
            "nats_password": SecretStr(nats.password),
            "internal_token": SecretStr(TOKEN),
            "health_address": "127.0.0.1:0",
        }
        chosen = PlacementSettings(grpc_address="127.0.0.1:0", **{**common, **placement})  # type: ignore[arg-type]
        app = await _serving(stack, chosen, build_placement)
        fleet = Fleet(nats, bus, directory, app.grpc_address)
        stack.push_async_callback(_stop, fleet)
        await asyncio.gather(*(fleet.start_node(node_id) for node_id in node_ids))
        front = SignalingSettings(
            http_addresses=("127.0.0.1:0",),
            placement_address=app.grpc_address,
            api_keys={KEY: SecretStr(SECRET)},
            **common,  # type: ignore[arg-type]
        )
        fleet.http_address = (await _serving(stack, front, build_signaling)).web_addresses[0]
        async with rpc.channel(app.grpc_address, auth=AUTH) as channel:
            stub = placement_pb2_grpc.PlacementServiceStub(channel)
            await stub.ListRooms(placement_pb2.ListRoomsRequest())
        yield fleet


async def eventually(
    holds: Callable[[], Awaitable[bool]], timeout_s: float = 30.0, every_s: float = 0.05
) -> None:
    """Until it holds."""
    async with asyncio.timeout(timeout_s):
        while not await holds():  # noqa: ASYNC110 - it is asked, nothing tells
            await asyncio.sleep(every_s)


async def _serving(
    stack: AsyncExitStack, settings: S, build: Callable[[S, Chassis], Awaitable[ServiceApp]]
) -> ServiceApp:
    app = await build(settings, await stack.enter_async_context(open_chassis(settings)))
    stop = asyncio.Event()
    serving = asyncio.create_task(serve(app, stop, drain_timeout_s=0.1))

    async def end() -> None:
        stop.set()
        await serving

    stack.push_async_callback(end)
    while not app._chassis.health.is_ready:  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.01)
    return app


async def _stop(fleet: Fleet) -> None:
    for node in fleet.nodes.values():
        if node.returncode is None:
            node.kill()
            await node.wait()
