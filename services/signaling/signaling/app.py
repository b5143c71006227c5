"""The composition root of signaling: builds everything in reading order, and nothing else does."""

from __future__ import annotations

import asyncio
from functools import partial

from fastapi import Request
from google.protobuf.message import Message

from chassis import subjects
from chassis.chassis import Chassis
from chassis.health import WebServer
from chassis.keys import ApiKeys
from chassis.reload import follow_configuration
from chassis.revocations import Revocations
from chassis.run import ServiceApp
from chassis.tokens import Grants
from chassis.twirp import Call, Methods, TwirpContext, twirp_router
from signaling.access_api import ACCESS_SERVICE, AccessApi
from signaling.access_api import METHODS as access_methods
from signaling.api import RtcApi
from signaling.clients import NodeClients, PlacementClient
from signaling.core.addresses import networks
from signaling.core.grants import METHODS
from signaling.core.limits import Buckets
from signaling.drain import drain
from signaling.history_api import AT_ONCE, EVENT_SERVICE, HistoryApi
from signaling.history_api import METHODS as history_methods
from signaling.http import SERVER_OPTIONS, make_app
from signaling.limits import Limits
from signaling.metrics import SignalingMetrics
from signaling.room_api import RoomApi
from signaling.settings import SignalingSettings
from signaling.whip import WhipApi


async def build(settings: SignalingSettings, chassis: Chassis) -> ServiceApp:
    """Wire one replica. Sockets hold no state: closing them is the whole drain, clients resume elsewhere."""
    placement = PlacementClient(settings.placement_address, chassis.auth, settings.region)
    nodes = NodeClients(chassis.auth, placement, chassis.clock)
    metrics = SignalingMetrics(chassis.metrics)
    joins = settings.joins_per_second_per_address, settings.joins_burst_per_address
    limits = Limits(
        joins=Buckets(*joins),
        failures=Buckets(*joins),
        calls=Buckets(settings.api_calls_per_second_per_key, settings.api_burst_per_key),
        trusted_proxies=networks(settings.trusted_proxies),
        clock=chassis.clock,
        metrics=metrics,
    )
    keys = ApiKeys(
        settings.api_keys, settings.api_key_projects, lambda: chassis.clock.wall_ms() / 1000
    )
    revoked = asyncio.Event()
    revocations = Revocations(heard=revoked.set)
    room_api = RoomApi(placement, nodes, settings.roles, lambda *it: access.revoke_participant(*it))
    rtc_api = RtcApi(
        keys=keys,
        revocations=revocations,
        remove=room_api.remove,
        placement=placement,
        nodes=nodes,
        clock=chassis.clock,
        metrics=metrics,
        auto_create=settings.auto_create,
        roles=settings.roles,
        limits=limits,
        is_ready=lambda: chassis.health.is_ready,
    )
    metrics.sockets.read_by(lambda: len(rtc_api.sockets))
    chassis.health.tell("sockets", lambda: str(len(rtc_api.sockets)))
    access = AccessApi(
        keys, revocations, chassis.kv, chassis.clock, room_api.remove, rtc_api.end_revoked
    )
    services: dict[str, Methods] = {
        service: {name: (method.request, method.response) for name, method in methods.items()}
        for service, methods in METHODS.items()
    }

    services |= {ACCESS_SERVICE: access_methods, EVENT_SERVICE: history_methods}
    history = HistoryApi(chassis.bus, asyncio.Semaphore(AT_ONCE))
    own_calls: dict[str, Call] = {ACCESS_SERVICE: access.call, EVENT_SERVICE: history.call}

    async def call(context: TwirpContext, service: str, name: str, request: Message) -> Message:
        perform = own_calls.get(service, room_api.call)
        return await perform(context, service, name, request)

    async def end_revoked() -> None:
        while True:
            await revoked.wait()
            revoked.clear()
            await rtc_api.end_revoked()

    async def limit_anew(changed: SignalingSettings) -> None:
        rates = changed.joins_per_second_per_address, changed.joins_burst_per_address
        for buckets in (limits.joins, limits.failures):
            buckets.per_second, buckets.burst = rates
        limits.calls.per_second = changed.api_calls_per_second_per_key
        limits.calls.burst = changed.api_burst_per_key

    def authenticate(request: Request) -> Grants | None:
        grants = rtc_api.authenticate(limits.address_of(request), request)
        if grants is not None:
            limits.admit_call(grants.api_key)
        return grants

    twirp = twirp_router(services, call, authenticate, metrics.api_called)
    web = make_app([rtc_api.router(), WhipApi(rtc_api).router(), twirp], settings.web_directory)
    server = WebServer(web, settings.http_addresses, **SERVER_OPTIONS)
    return ServiceApp(
        "signaling",
        chassis,
        web=[server],
        tasks=[
            nodes.close_idle,
            partial(nodes.follow_takeovers, chassis.bus),
            partial(keys.follow_files, settings),
            partial(follow_configuration, settings, limit_anew),
            partial(keys.follow_bucket, partial(chassis.kv, subjects.KEYS)),
            partial(revocations.follow, partial(chassis.kv, subjects.REVOCATIONS)),
            end_revoked,
        ],
        drain=partial(
            drain,
            rtc_api.sockets,
            chassis.clock,
            delay_s=settings.drain_delay_s,
            timeout_s=settings.drain_timeout_s,
        ),
        after=[nodes.close, placement.close],
    )
