"""The composition root of signaling: builds everything in reading order, and nothing else does."""

from __future__ import annotations

from fastapi import Request

from chassis.chassis import Chassis
from chassis.health import WebServer
from chassis.run import ServiceApp
from chassis.tokens import Grants
from chassis.twirp import twirp_router
from signaling.api import RtcApi
from signaling.clients import NodeClients, PlacementClient
from signaling.core.grants import METHODS
from signaling.http import SERVER_OPTIONS, make_app
from signaling.metrics import SignalingMetrics
from signaling.room_api import RoomApi
from signaling.settings import SignalingSettings


async def build(settings: SignalingSettings, chassis: Chassis) -> ServiceApp:
    """Wire one replica. Sockets hold no state: closing them is the whole drain, clients resume elsewhere."""
    placement = PlacementClient(settings.placement_address, chassis.auth)
    nodes = NodeClients(chassis.auth, placement, chassis.clock)
    metrics = SignalingMetrics(chassis.metrics)
    rtc_api = RtcApi(
        keys=settings.api_keys,
        placement=placement,
        nodes=nodes,
        clock=chassis.clock,
        metrics=metrics,
        auto_create=settings.auto_create,
    )
    metrics.sockets.read_by(lambda: len(rtc_api.sockets))
    room_api = RoomApi(placement, nodes)
    services = {
        service: {name: (method.request, method.response) for name, method in methods.items()}
        for service, methods in METHODS.items()
    }

    def authenticate(request: Request) -> Grants | None:
        return rtc_api.authenticate(request.query_params, request.headers)

    twirp = twirp_router(services, room_api.call, authenticate, metrics.api_called)
    web = make_app([rtc_api.router(), twirp], settings.web_directory)
    server = WebServer(web, settings.http_addresses, **SERVER_OPTIONS)
    return ServiceApp(
        "signaling",
        chassis,
        web=[server],
        tasks=[nodes.close_idle],
        after=[nodes.close, placement.close],
    )
