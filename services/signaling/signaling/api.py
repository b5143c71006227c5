"""Inbound: `/rtc`, `/rtc/v1`, their `/validate`, and `/`. Translates and refuses; decides nothing about rooms."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import structlog
from fastapi import APIRouter, Request
from pydantic import SecretStr
from starlette.datastructures import Headers, QueryParams
from starlette.responses import PlainTextResponse, Response
from starlette.websockets import WebSocket

from chassis import telemetry, tokens
from chassis.clock import Clock
from chassis.errors import NotFound, ServiceError, TokenError
from chassis.tokens import Grants
from contracts.node.v1 import node_pb2
from signaling.claims import claims_of
from signaling.clients import NodeClients, PlacementClient
from signaling.core.frames import Response as SignalResponse
from signaling.core.join import Join, JoinRefused, parse_join
from signaling.core.leave import join_anew
from signaling.core.session import SignalSocket
from signaling.join_watch import JoinWatch
from signaling.metrics import SignalingMetrics
from signaling.runner import Opening, SocketRunner, deny

log = structlog.get_logger(__name__)

CORS_ANYONE = {"Access-Control-Allow-Origin": "*"}


@dataclass(frozen=True, slots=True)
class RtcApi:
    """The signaling endpoints over one placement and its nodes."""

    keys: Mapping[str, SecretStr]
    placement: PlacementClient
    nodes: NodeClients
    clock: Clock
    metrics: SignalingMetrics
    auto_create: bool
    sockets: set[SocketRunner] = field(default_factory=set)

    def router(self) -> APIRouter:
        """The routes; a plain GET of a socket path is a 404, as SDKs expect."""
        router = APIRouter()
        router.add_api_route("/", self.health, methods=["GET", "HEAD"])
        for path, v1 in (("/rtc", False), ("/rtc/v1", True)):
            router.add_api_websocket_route(path, self._socket_route(v1))
            router.add_api_route(path, _not_an_upgrade, methods=["GET"])
            router.add_api_route(f"{path}/validate", self._validate_route(v1), methods=["GET"])
        return router

    async def health(self) -> Response:
        """What load balancers and clients probe: 200 `OK` while this replica serves."""
        return PlainTextResponse("OK")

    def _socket_route(self, v1: bool):  # type: ignore[no-untyped-def]  # the framework reads the inner annotations
        async def socket(websocket: WebSocket) -> None:
            await self._serve(websocket, v1=v1)

        return socket

    def _validate_route(self, v1: bool):  # type: ignore[no-untyped-def]
        async def validate(request: Request) -> Response:
            try:
                await self._check(request.query_params, request.headers, v1=v1)
            except JoinRefused as refused:
                return PlainTextResponse(refused.text, refused.status, headers=CORS_ANYONE)
            return PlainTextResponse("success", headers=CORS_ANYONE)

        return validate

    async def _check(
        self, query: QueryParams, headers: Headers, *, v1: bool
    ) -> tuple[Join, Grants]:
        try:
            grants = self.authenticate(query, headers)
        except TokenError as error:
            raise JoinRefused(401, str(error)) from None
        join = parse_join(query, grants, v1=v1, user_agent=headers.get("user-agent", ""))
        assert grants is not None  # parse_join refuses a join without grants
        if not self._may_create(grants):
            try:
                await self.placement.find(join.room_name)
            except ServiceError as error:
                raise _refusal(error) from None
        return join, grants

    async def _serve(self, websocket: WebSocket, *, v1: bool) -> None:
        watch = JoinWatch(self.clock, self.metrics, "/rtc/v1" if v1 else "/rtc")
        with telemetry.under(watch.context):
            try:
                await self._serve_watched(websocket, watch, v1=v1)
            finally:
                watch.gone()

    async def _serve_watched(self, websocket: WebSocket, watch: JoinWatch, *, v1: bool) -> None:
        try:
            join, grants = await self._check(websocket.query_params, websocket.headers, v1=v1)
        except JoinRefused as refused:
            self.metrics.joins_refused.add(1, str(refused.status))
            watch.refused(refused.status)
            log.info("join refused", status=refused.status, reason=refused.text)
            await deny(websocket, refused.status, refused.text)
            return
        watch.room_known(join.room_name, is_resume=join.request.reconnect)
        # A resume makes no room: one that is gone is answered, not made anew empty.
        create = self._may_create(grants) and not join.request.reconnect
        client = websocket.client
        opening = node_pb2.OpenSession(
            room_name=join.room_name,
            claims=claims_of(grants, identity=join.identity).SerializeToString(),
            client_info=join.request.client_info.SerializeToString(),
            join_request=join.request.SerializeToString(),
            single_peer_connection=join.single_peer_connection,
            reconnect=join.request.reconnect,
            participant_sid=join.request.participant_sid,
            reconnect_reason=join.request.reconnect_reason,
            client_address=client.host if client is not None else "",
            traceparent=telemetry.traceparent(),
        )

        async def find_opening(doubted_epoch: int) -> Opening:
            if doubted_epoch:
                lease = await self.placement.doubt(join.room_name, doubted_epoch, create=create)
                opening.room_created = False
            else:
                assigned = await self.placement.assign(join.room_name, create=create)
                lease = assigned.lease
                opening.room_created = assigned.created
            opening.epoch = lease.epoch
            opening.room_sid = lease.room_sid
            opening.node_id = lease.node_id
            return Opening(self.nodes.of(lease), opening)

        # The machine must learn of a client that goes away while it waits: the connect event is ours to take.
        await websocket.receive()
        machine = SignalSocket(
            self.clock.now(),
            join_anew=SignalResponse.of(join_anew(join.request.client_info.protocol)),
            reconnect=join.request.reconnect,
        )
        runner = SocketRunner(websocket, machine, find_opening, self.clock, self.metrics, watch)
        self.sockets.add(runner)
        try:
            await runner.run()
        finally:
            self.sockets.discard(runner)

    def _may_create(self, grants: Grants) -> bool:
        return self.auto_create or grants.video.room_create

    def authenticate(self, query: QueryParams, headers: Headers) -> Grants | None:
        """Verified grants; None without a token; raise `TokenError` for a bad one."""
        return tokens.authenticate(
            headers.get("authorization"),
            query.get("access_token"),
            self.keys,
            self.clock.wall_ms() / 1000,
        )


async def _not_an_upgrade() -> Response:
    return Response(status_code=404)


def _refusal(error: ServiceError) -> JoinRefused:
    if isinstance(error, NotFound):
        # This phrase tells JavaScript clients "not allowed" from "no /rtc/v1 here".
        return JoinRefused(404, "requested room does not exist")
    return JoinRefused(error.join_status, error.message)
