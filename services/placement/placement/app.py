"""The composition root of placement: builds everything in reading order, and nothing else does."""

from __future__ import annotations

import asyncio
from functools import partial

import structlog

from chassis import subjects
from chassis.chassis import Chassis
from chassis.errors import ServiceError
from chassis.run import ServiceApp
from contracts.placement.v1.placement_pb2_grpc import add_PlacementServiceServicer_to_server
from placement.api import PlacementApi
from placement.clients import KvLeaseStore, NodeFeed
from placement.core.nodes import NodeRegistry
from placement.metrics import PlacementMetrics
from placement.runner import Rooms
from placement.settings import PlacementSettings

log = structlog.get_logger(__name__)


async def build(settings: PlacementSettings, chassis: Chassis) -> ServiceApp:
    """One placement replica; any number of them may run."""
    metrics = PlacementMetrics(chassis.metrics)
    registry = NodeRegistry(settings.node_stale_after_s, settings.node_gone_after_s)
    metrics.watch(registry)
    feed = NodeFeed(await chassis.kv(subjects.NODES), registry, chassis.bus, chassis.clock, metrics)
    rooms = Rooms(KvLeaseStore(await chassis.kv(subjects.ROOMS)), registry, chassis.clock, metrics)
    api = PlacementApi(rooms, feed.caught_up, settings.nodes_patience_s)
    return ServiceApp(
        "placement",
        chassis,
        grpc=[partial(add_PlacementServiceServicer_to_server, api)],
        tasks=[
            feed.follow,
            feed.notice_blindness,
            partial(_sweep, rooms, settings.sweep_interval_s),
        ],
    )


async def _sweep(rooms: Rooms, interval_s: float) -> None:
    while True:
        await asyncio.sleep(interval_s)
        try:
            await rooms.sweep()
        except ServiceError as error:
            log.info("sweep put off", error=error.message)
