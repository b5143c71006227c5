"""What a service is given to build itself with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from chassis.bus import Bus, MemoryBus, NatsBus
from chassis.clock import Clock, SystemClock
from chassis.health import Health
from chassis.kv import OpenKv, memory_buckets, nats_buckets
from chassis.rpc import RpcAuth
from chassis.settings import ChassisSettings
from chassis.telemetry import Metrics, watch_process

NODE_TYPE = "SERVER"  # livekit.NodeType; the field's dashboards select it


@dataclass(frozen=True, slots=True)
class Chassis:
    """The connections and clocks of one service; `app.py` hands them on as plain arguments."""

    bus: Bus
    kv: OpenKv
    clock: Clock
    settings: ChassisSettings
    auth: RpcAuth
    metrics: Metrics = field(default_factory=Metrics)
    health: Health = field(default_factory=Health)


@asynccontextmanager
async def open_chassis(settings: ChassisSettings) -> AsyncIterator[Chassis]:
    """The real one, connected to NATS, or still connecting when NATS is not there."""
    auth = RpcAuth.of(
        settings.internal_token,
        insecure=settings.insecure,
        tls_directory=settings.internal_tls_directory,
    )
    bus = NatsBus(
        settings.nats_url,
        user=settings.nats_user,
        password=settings.nats_password.get_secret_value(),
        name=settings.node_id,
    )
    bus.replicas = settings.nats_replicas
    await bus.start()
    health = Health()
    metrics = Metrics({"node_id": settings.node_id, "node_type": NODE_TYPE})
    watch_process(metrics)
    watch_bus(metrics, bus)
    # Told, not judged: losing the bus must not take a service with calls out of rotation.
    health.tell("bus", lambda: "connected" if bus.connected else "not connected")
    try:
        yield Chassis(
            bus, nats_buckets(bus), SystemClock(), settings, auth, metrics=metrics, health=health
        )
    finally:
        await bus.close()


def watch_bus(metrics: Metrics, bus: Bus) -> None:
    """Show whether the bus can be reached."""
    connected = metrics.gauge("roomwright_bus_connected", "1 while NATS can be reached, else 0.")
    connected.read_by(lambda: float(bus.connected))


def memory_chassis(settings: ChassisSettings, clock: Clock | None = None) -> Chassis:
    """One without NATS, for tests."""
    return Chassis(MemoryBus(), memory_buckets(), clock or SystemClock(), settings, RpcAuth(None))
