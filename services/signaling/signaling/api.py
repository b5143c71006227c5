"""Inbound: `/rtc`, `/rtc/v1`, their `/validate`, and `/`. Translates and refuses; decides nothing about rooms."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import structlog
from fastapi import APIRouter, Request
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, Response
from starlette.websockets import WebSocket

from chassis import telemetry, tokens
from chassis.clock import Clock
from chassis.errors import NotFound, ResourceExhausted, ServiceError, TokenError
from chassis.keys import ApiKeys
from chassis.projects import scoped
from chassis.revocations import Revocations, TokenUse
from chassis.roles import Roles
from chassis.tokens import Grants
from contracts.node.v1 import node_pb2
from signaling.claims import claims_of
from signaling.clients import NodeClients, PlacementClient
from signaling.core.frames import Response as SignalResponse
from signaling.core.join import Join, JoinRefused, parse_join
from signaling.core.leave import join_anew
from signaling.core.session import SignalSocket
from signaling.join_watch import JoinWatch
from signaling.limits import Limits
from signaling.metrics import SignalingMetrics
from signaling.runner import FindOpening, Opening, SocketRunner, answer_headers, deny

log = structlog.get_logger(__name__)

Remove = Callable[[str, str], Awaitable[None]]
"""Removes a participant from a room (scoped); raises `ServiceError`."""


@dataclass(frozen=True, slots=True)
class RtcApi:
    """The signaling endpoints over one placement and its nodes."""

    keys: ApiKeys
    revocations: Revocations
    remove: Remove
    placement: PlacementClient
    nodes: NodeClients
    clock: Clock
    metrics: SignalingMetrics
    auto_create: bool
    roles: Roles
    limits: Limits
    is_ready: Callable[[], bool]
    sockets: set[SocketRunner] = field(default_factory=set)
    _holders: dict[SocketRunner, Join] = field(default_factory=dict)
    """Whose token each socket was opened with."""

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
        if not self.is_ready():
            return PlainTextResponse("Not Ready", 406)
        return PlainTextResponse("OK")

    def _socket_route(self, v1: bool):  # type: ignore[no-untyped-def]  # the framework reads the inner annotations
        async def socket(websocket: WebSocket) -> None:
            await self._serve(websocket, v1=v1)

        return socket

    def _validate_route(self, v1: bool):  # type: ignore[no-untyped-def]
        async def validate(request: Request) -> Response:
            try:
                await self.check(request, self.limits.address_of(request), v1=v1)
            except JoinRefused as refused:
                headers = answer_headers(refused.retry_after)
                return PlainTextResponse(refused.text, refused.status, headers=headers)
            return PlainTextResponse("success", headers=answer_headers())

        return validate

    async def check(self, connection: HTTPConnection, address: str, *, v1: bool) -> Join:
        """A join or resume that may go on; raise `JoinRefused`."""
        try:
            self.limits.admit_join(address)
            grants = self.authenticate(address, connection)
        except ResourceExhausted as error:
            raise JoinRefused(429, error.message, error.meta["retry_after"]) from None
        except TokenError as error:
            raise JoinRefused(401, str(error)) from None
        user_agent = connection.headers.get("user-agent", "")
        join = parse_join(
            connection.query_params, grants, roles=self.roles, v1=v1, user_agent=user_agent
        )
        if not self._may_create(join.grants):
            try:
                await self.placement.find(join.room_name)
            except ServiceError as error:
                raise _refusal(error) from None
        return join

    async def _serve(self, websocket: WebSocket, *, v1: bool) -> None:
        watch = JoinWatch(self.clock, self.metrics, "/rtc/v1" if v1 else "/rtc")
        with telemetry.under(watch.context):
            try:
                await self._serve_watched(websocket, watch, v1=v1)
            finally:
                watch.gone()

    async def _serve_watched(self, websocket: WebSocket, watch: JoinWatch, *, v1: bool) -> None:
        address = self.limits.address_of(websocket)
        try:
            join = await self.check(websocket, address, v1=v1)
        except JoinRefused as refused:
            self.metrics.joins_refused.add(1, str(refused.status))
            watch.refused(refused.status)
            log.info("join refused", status=refused.status, reason=refused.text)
            await deny(websocket, refused.status, refused.text, refused.retry_after)
            return
        watch.room_known(join.room_name, is_resume=join.request.reconnect)
        # The machine must learn of a client that goes away while it waits: the connect event is ours to take.
        await websocket.receive()
        runner = SocketRunner(
            websocket,
            self.machine_for(join),
            self.finder_for(join, address),
            self.clock,
            self.metrics,
            watch,
        )
        self.sockets.add(runner)
        self._holders[runner] = join
        try:
            await runner.run()
        finally:
            self.sockets.discard(runner)
            del self._holders[runner]

    def machine_for(self, join: Join) -> SignalSocket:
        """What decides about the join's socket."""
        return SignalSocket(
            self.clock.now(),
            join_anew=SignalResponse.of(join_anew(join.request.client_info.protocol)),
            reconnect=join.request.reconnect,
        )

    def finder_for(self, join: Join, address: str, *, one_shot: bool = False) -> FindOpening:
        """Finds the room's home, and says what to open there."""
        # A resume makes no room: one that is gone is answered, not made anew empty.
        create = self._may_create(join.grants) and not join.request.reconnect
        opening = node_pb2.OpenSession(
            room_name=join.room_name,
            claims=claims_of(join.grants, identity=join.identity).SerializeToString(),
            client_info=join.request.client_info.SerializeToString(),
            join_request=join.request.SerializeToString(),
            single_peer_connection=join.single_peer_connection,
            reconnect=join.request.reconnect,
            participant_sid=join.request.participant_sid,
            reconnect_reason=join.request.reconnect_reason,
            client_address=address,
            traceparent=telemetry.traceparent(),
            one_shot=one_shot,
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

        return find_opening

    async def end_revoked(self) -> None:
        """Remove those from their rooms whose token is revoked by now; who is gone already is nobody's loss."""
        for join in list(self._holders.values()):
            if self.revocations.refuses(use_of(join.grants)):
                log.info("a session's token was revoked", room=join.room_name)
                try:
                    await self.remove(join.room_name, join.identity)
                except ServiceError as error:
                    log.info("nobody to remove", room=join.room_name, reason=error.message)

    def _may_create(self, grants: Grants) -> bool:
        return self.auto_create or grants.video.room_create

    def authenticate(self, address: str, connection: HTTPConnection) -> Grants | None:
        """Verified grants; None without a token; raise `TokenError` for a bad one.

        Raise `ResourceExhausted` for an address that failed too often.
        """
        self.limits.admit_caller(address)
        try:
            grants = tokens.authenticate(
                connection.headers.get("authorization"),
                connection.query_params.get("access_token"),
                self.keys,
                self.clock.wall_ms() / 1000,
            )
        except TokenError:
            self.limits.token_refused(address)
            raise
        if grants is None:
            self.limits.token_refused(address)
            return None
        grants = replace(grants, project=self.keys.project_of(grants.api_key))
        if self.revocations.refuses(use_of(grants)):
            self.limits.token_refused(address)
            raise TokenError("invalid token, error: token is revoked")
        return grants


def use_of(grants: Grants) -> TokenUse:
    """What decides whether the token is revoked."""
    return TokenUse(
        room=scoped(grants.project, grants.video.room),
        identity=grants.identity,
        issued_at=grants.issued_at,
        digests=tuple(digest for digest in (grants.digest, grants.origin) if digest),
    )


async def _not_an_upgrade() -> Response:
    return Response(status_code=404)


def _refusal(error: ServiceError) -> JoinRefused:
    if isinstance(error, NotFound):
        # This phrase tells JavaScript clients "not allowed" from "no /rtc/v1 here".
        return JoinRefused(404, "requested room does not exist")
    return JoinRefused(error.join_status, error.message)
