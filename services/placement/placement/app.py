"""The composition root of placement: builds everything in reading order, and nothing else does."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import structlog

from chassis import subjects
from chassis.chassis import Chassis
from chassis.errors import ServiceError
from chassis.run import ServiceApp
from contracts.placement.v1.placement_pb2_grpc import add_PlacementServiceServicer_to_server
from placement.api import PlacementApi, no_addresses
from placement.clients import KvLeaseStore, NodeFeed
from placement.core.nodes import NodeRegistry
from placement.metrics import PlacementMetrics
from placement.runner import Rooms
from placement.settings import PlacementSettings

if TYPE_CHECKING:
    from placement.kubernetes import KubernetesCluster

log = structlog.get_logger(__name__)


async def build(settings: PlacementSettings, chassis: Chassis) -> ServiceApp:
    """One placement replica; any number of them may run."""
    metrics = PlacementMetrics(chassis.metrics)
    registry = NodeRegistry(settings.node_stale_after_s, settings.node_gone_after_s)
    metrics.watch(registry)
    feed = NodeFeed(await chassis.kv(subjects.NODES), registry, chassis.bus, chassis.clock, metrics)
    rooms = Rooms(KvLeaseStore(await chassis.kv(subjects.ROOMS)), registry, chassis.clock, metrics)
    cluster = _cluster(settings, chassis, registry) if settings.kubernetes else None
    api = PlacementApi(
        rooms,
        feed.caught_up,
        settings.nodes_patience_s,
        cluster.find_addresses if cluster else no_addresses,
    )
    return ServiceApp(
        "placement",
        chassis,
        grpc=[partial(add_PlacementServiceServicer_to_server, api)],
        max_connection_age_s=300.0,  # callers find new replicas, and spread over all, within minutes
        tasks=[
            feed.follow,
            feed.notice_blindness,
            partial(_sweep, rooms, settings.sweep_interval_s),
            *([cluster.run] if cluster else []),
        ],
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


async def _sweep(rooms: Rooms, interval_s: float) -> None:
    while True:
        await asyncio.sleep(interval_s)
        try:
            await rooms.sweep()
        except ServiceError as error:
            log.info("sweep put off", error=error.message)
