"""The composition root of signaling: builds everything in reading order, and nothing else does."""

from dataclasses import dataclass, field

from chassis.run import Chassis
from chassis.rpc import RpcAuth
from chassis.twirp import twirp_router
from fastapi import Request

from signaling.api import RtcApi
from signaling.clients import NodeClients, PlacementClient
from signaling.core.grants import METHODS
from signaling.http import HttpServer, make_app
from signaling.metrics import SignalingMetrics
from signaling.room_api import RoomApi
from signaling.settings import SignalingSettings


@dataclass(slots=True)
class SignalingApp:
    """One signaling replica."""

    http: HttpServer
    placement: PlacementClient
    nodes: NodeClients
    name: str = field(default="signaling", init=False)

    async def start(self) -> None:
        """Accept clients."""
        await self.http.start()

    async def drain(self) -> None:
        """Sockets hold no state: closing them is the drain, clients resume elsewhere."""
        await self.http.stop()

    async def close(self) -> None:
        """Let go of the nodes and of placement."""
        await self.nodes.close()
        await self.placement.close()


async def build(settings: SignalingSettings, chassis: Chassis) -> SignalingApp:
    """Wire one replica; nothing listens before `start` but the ports are taken."""
    auth = RpcAuth.of(settings.internal_token, insecure=settings.insecure)
    placement = PlacementClient(settings.placement_address, auth)
    nodes = NodeClients(auth)
    rtc_api = RtcApi(
        keys=settings.api_keys,
        placement=placement,
        nodes=nodes,
        clock=chassis.clock,
        metrics=SignalingMetrics(chassis.metrics),
        auto_create=settings.auto_create,
    )
    room_api = RoomApi(placement, nodes)
    services = {
        service: {name: (method.request, method.response) for name, method in methods.items()}
        for service, methods in METHODS.items()
    }

    def authenticate(request: Request):  # type: ignore[no-untyped-def]
        return rtc_api.authenticate(request.query_params, request.headers)

    twirp = twirp_router(services, room_api.call, authenticate)
    app = make_app([rtc_api.router(), twirp], settings.web_directory)
    return SignalingApp(HttpServer(app, settings.http_addresses), placement, nodes)
