"""The webhook service over a real nats-server."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from livekit.protocol import models
from pydantic import SecretStr

from chassis import subjects
from chassis.bus import NatsBus
from chassis.chassis import open_chassis
from chassis.clock import SystemClock
from chassis.kv import nats_buckets, path
from chassis.run import ServiceApp
from contracts.events.v1 import events_pb2
from contracts.webhook.v1 import webhook_pb2
from roomwright import nats_server
from roomwright.nats_server import NatsServer
from tests.support.nats import connected_bus
from webhook.app import build
from webhook.core.shards import SHARDS
from webhook.settings import WebhookSettings

KEY, SECRET = "hookkey", "a secret of at least 32 characters!"


@dataclass
class Stage:
    """A bus with an EVENTS stream, and replicas of the service."""

    directory: Path
    server: NatsServer
    bus: NatsBus
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    async def tell(self, room: str, name: str = "room_started", **fields: object) -> str:
        """Append a fact as a node does; its id."""
        fact_id = f"EV_{next(self.numbers)}"
        fact = events_pb2.RoomEvent(
            schema=1,
            id=fact_id,
            name=name,
            room_name=room,
            created_at=SystemClock().wall_ms() // 1000,
            room=models.Room(name=room, sid=f"RM_{room}").SerializeToString(),
        )
        for field_name, value in fields.items():
            setattr(fact, field_name, value)
        subject = subjects.event_subject(room, name)
        await self.bus.publish_durable(subject, fact.SerializeToString(), fact_id)
        return fact_id

    async def until_begun(self, targets: int) -> None:
        """Until every shard of so many targets is read: they are told of what happens from then on."""
        progress = await nats_buckets(self.bus)(subjects.WEBHOOK_PROGRESS)
        async with asyncio.timeout(20):
            while len(await progress.keys()) < targets * SHARDS:  # noqa: ASYNC110 - it is asked, nothing tells
                await asyncio.sleep(0.05)

    async def owners(self) -> set[int]:
        """How many shards each owner has."""
        bucket = await nats_buckets(self.bus)(subjects.WEBHOOK_SHARDS)
        entries = [
            entry for n in range(SHARDS) if (entry := await bucket.get(path("shard", str(n))))
        ]
        owners = Counter(webhook_pb2.ShardRecord.FromString(entry.value).owner for entry in entries)
        return set(owners.values()) if "" not in owners else {0}

    async def restart_nats(self) -> None:
        """Kill it, and start another over the same store, at the same port."""
        directory = self.directory
        port = int(self.server.url.rpartition(":")[2])
        self.server.process.kill()
        await self.server.stop()
        password = self.server.password
        self.server = await nats_server.start(directory, port=port, password=password)
        async with asyncio.timeout(10):
            while not self.bus.connected:  # noqa: ASYNC110 - it is asked, nothing tells
                await asyncio.sleep(0.05)

    @asynccontextmanager
    async def replica(self, *urls: object, **settings: object) -> AsyncIterator[ServiceApp]:
        """One running replica."""
        made = WebhookSettings(
            **{
                "nats_url": self.server.url,
                "nats_user": self.server.user,
                "nats_password": SecretStr(self.server.password),
                "insecure": True,
                "api_keys": {KEY: SecretStr(SECRET)},
                "urls": urls,
                "allowed_networks": ("127.0.0.0/8",),
                **settings,
            }
        )
        async with open_chassis(made) as chassis:
            app = await build(made, chassis)
            try:
                await app.start()
                yield app
            finally:
                await app.close()


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        server = await nats_server.start(tmp_path)
        bus = await stack.enter_async_context(connected_bus(server))
        await bus.open_stream(subjects.EVENTS)
        made = Stage(tmp_path, server, bus)
        try:
            yield made
        finally:
            await made.server.stop()
