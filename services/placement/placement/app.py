"""The composition root of placement: builds everything in reading order, and nothing else does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from chassis import subjects
from chassis.chassis import Chassis
from chassis.errors import ServiceError
from chassis.run import ServiceApp
from contracts.placement.v1.placement_pb2_grpc import add_PlacementServiceServicer_to_server
from placement.api import PlacementApi, no_addresses
from placement.clients import (
    KvLeaseStore,
    LeaseFeed,
    NodeFeed,
    NodeQuestions,
    RoomOpenings,
    StoreReach,
    TakeoverNews,
)
from placement.core.leases import LeaseCache
from placement.core.nodes import NodeRegistry
from placement.metrics import PlacementMetrics
from placement.runner import Rooms
from placement.settings import PlacementSettings

if TYPE_CHECKING:
    from placement.kubernetes import KubernetesCluster

RESTORE_INTERVAL_S: Final = 1.0

log = structlog.get_logger(__name__)


async def build(settings: PlacementSettings, chassis: Chassis) -> ServiceApp:
    """One placement replica; any number of them may run."""
    bus, clock = chassis.bus, chassis.clock
    metrics = PlacementMetrics(chassis.metrics)
    registry = NodeRegistry(settings.node_stale_after_s, settings.node_gone_after_s)
    cache = LeaseCache()
    metrics.watch(cache, lambda: registry.census(clock.now()))
    node_feed = NodeFeed(await chassis.kv(subjects.NODES), registry, bus, clock, metrics)
    bucket = await chassis.kv(subjects.ROOMS)
    lease_feed = LeaseFeed(bucket, cache, bus, clock, metrics)
    reach = StoreReach(bucket, bus, clock)
    questions = NodeQuestions(registry, chassis.auth, reach.is_proven, clock, metrics)
    rooms = Rooms(
        KvLeaseStore(bucket),
        cache,
        registry,
        questions,
        clock,
        metrics,
        settings.policy,
        tell_takeover=TakeoverNews(bus).tell,
        openings=RoomOpenings(chassis.auth),
        takeover_after_s=settings.takeover_after_s,
    )
    cluster = _cluster(settings, chassis, registry) if settings.kubernetes else None
    api = PlacementApi(
        rooms,
        node_feed.caught_up,
        lease_feed.caught_up,
        settings.nodes_patience_s,
        cluster.find_addresses if cluster else no_addresses,
    )
    chassis.health.tell("nodes", lambda: _told(registry, node_feed, clock.now()))
    chassis.health.tell(
        "rooms",
        lambda: f"{len(cache)}" if lease_feed.caught_up.is_set() else "not known yet",
    )
    return ServiceApp(
        "placement",
        chassis,
        grpc=[partial(add_PlacementServiceServicer_to_server, api)],
        max_connection_age_s=300.0,  # callers find new replicas, and spread over all, within minutes
        tasks=[
            node_feed.follow,
            node_feed.notice_blindness,
            lease_feed.follow,
            lease_feed.notice_blindness,
            questions.follow,
            partial(_every, RESTORE_INTERVAL_S, rooms.restore),
            partial(_every, settings.sweep_interval_s, rooms.sweep),
            *([cluster.run] if cluster else []),
        ],
        after=[questions.close],
    )


def _cluster(
    settings: PlacementSettings, chassis: Chassis, registry: NodeRegistry
) -> KubernetesCluster:
    # Imported here: the client costs 40 MB and half a second, which only a cluster needs.
    from placement.kubernetes import KubernetesCluster, MediaServiceSettings, connect

    media_service = MediaServiceSettings(
        udp_port=settings.media_udp_port,
        tcp_port=settings.media_tcp_port,
        annotations=settings.service_annotations,
        load_balancer_class=settings.service_type_class,
    )
    return KubernetesCluster(
        connect(),
        chassis.clock,
        namespace=settings.kubernetes_namespace,
        pod_labels=settings.sfu_selector,
        service_settings=media_service if settings.expose == "loadBalancer" else None,
        loads=lambda: registry.pod_loads(chassis.clock.now()),
        on_unschedulable=registry.set_unschedulable,
    )


async def _every(interval_s: float, do: Callable[[], Awaitable[int]]) -> None:
    while True:
        await asyncio.sleep(interval_s)
        try:
            await do()
        except ServiceError as error:
            log.info("leases put in order later", error=error.message)


def _told(registry: NodeRegistry, feed: NodeFeed, now: float) -> str:
    if not feed.caught_up.is_set():
        return "not known yet"
    census = registry.census(now)
    return f"{census.fresh} fresh, {census.draining} draining, {census.silent} silent"
