"""The composition root of the node: builds everything in reading order, and nothing else does."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial

import structlog

from chassis.chassis import Chassis
from chassis.errors import SettingsError
from chassis.keys import ApiKeys
from chassis.run import ServiceApp
from chassis.subjects import CHECKPOINTS, KEYS, NODES
from chassis.tokens import sign_claims
from contracts.node.v1 import node_pb2_grpc
from contracts.placement.v1 import placement_pb2
from sfu.addresses import discover
from sfu.api import NodeService, SignalStreams
from sfu.checkpoints import Checkpoints
from sfu.clients import (
    NODE_SCHEMA,
    EventPublisher,
    Heartbeat,
    NodeDialer,
    PlacedHomes,
    PlacementLeases,
)
from sfu.core.advertising import Advertised
from sfu.core.effects import StageSettings
from sfu.core.profile import ProfileLimits
from sfu.core.renewal import Renewal
from sfu.core.room_events import RoomSettings
from sfu.core.stage import Stage
from sfu.ids import StageIds
from sfu.load import CpuLoad, system_load, usable_cores
from sfu.media import EngineAdapter, engine_config
from sfu.media_metrics import CountedMedia
from sfu.metrics import SfuMetrics
from sfu.node import Node
from sfu.relays import client_ice_servers
from sfu.runner import NodeLimits, StageMachine, Surroundings
from sfu.settings import SfuSettings
from sfu.spool import DiskSpool, MemorySpool, Spool

FLUSH_S = 1.0
DRAIN_REPORT_S = 10.0
log = structlog.get_logger(__name__)


class SfuApp(ServiceApp):
    """One node, ready to start."""

    def __init__(
        self,
        settings: SfuSettings,
        chassis: Chassis,
        *,
        engine: EngineAdapter,
        media: CountedMedia,
        node: Node,
        streams: SignalStreams,
        leases: PlacementLeases,
        homes: PlacedHomes,
        events: EventPublisher,
        spool: Spool,
        checkpoints: Checkpoints,
        keys: ApiKeys,
        metrics: SfuMetrics,
    ) -> None:
        self.engine = engine
        self._media = media
        self._metrics = metrics
        self.node = node
        self._settings = settings
        self._streams = streams
        self._leases = leases
        self._homes = homes
        self._events = events
        self._spool = spool
        self._checkpoints = checkpoints
        self._heartbeat = Heartbeat(
            partial(chassis.kv, NODES), self.record, metrics, chassis.clock, node.renewed
        )
        service = NodeService(node, streams, self.record, chassis.clock)
        self._cpu = CpuLoad(usable_cores())
        self._clock = chassis.clock
        self._drain_ends_at: float | None = None
        metrics.draining.read_by(lambda: float(node.is_draining))
        metrics.frozen.read_by(lambda: float(node.is_frozen))
        chassis.health.tell("draining", self._drain_line)
        chassis.health.tell("leases", lambda: "not renewed" if node.is_frozen else "renewed")
        super().__init__(
            "sfu",
            chassis,
            grpc=[partial(node_pb2_grpc.add_NodeServiceServicer_to_server, service)],
            tasks=[
                self._heartbeat.run,
                node.watch_leases,
                partial(
                    leases.keep_reclaimed,
                    chassis.bus,
                    chassis.clock,
                    self._held_leases,
                    self._superseded,
                    node.confirmed,
                ),
                events.run,
                events.watch_fill,
                checkpoints.run,
                partial(keys.follow_files, settings),
                partial(keys.follow_bucket, partial(chassis.kv, KEYS)),
            ],
            before=[self._start_engine],
            drain=self._drain_rooms,
        )

    def record(self) -> placement_pb2.NodeRecord:
        """What placement is told of this node."""
        settings, traffic = self._settings, self.engine.traffic(self._clock.now())
        cpu_load = self._cpu.read()
        self._metrics.cpu_load.set(cpu_load)
        return placement_pb2.NodeRecord(
            schema=NODE_SCHEMA,
            node_id=settings.node_id,
            address=self.grpc_address,
            region=settings.region,
            draining=self.node.is_draining,
            rooms=self.node.rooms,
            participants=self.node.participants,
            participant_limit=settings.participant_limit,
            cpu_load=cpu_load,
            system_load=system_load(),
            tracks_in=traffic.tracks_in,
            tracks_out=traffic.tracks_out,
            bytes_in_per_s=traffic.bytes_in_per_s,
            bytes_out_per_s=traffic.bytes_out_per_s,
            track_limit=settings.track_limit,
            bytes_per_s_limit=settings.bytes_per_s_limit,
            pod_name=settings.pod_name,
            kubernetes_node=settings.kubernetes_node,
            cpu_load_limit=settings.cpu_load_limit,
        )

    async def end_calls(self) -> None:
        """End every room: everybody in it is told that the server shuts down. May be repeated."""
        await self.node.close()
        await self._streams.finish(FLUSH_S)

    async def close(self) -> None:
        """Leave the rooms that are here to other nodes, send everybody there, then stop serving."""
        # Whoever is sent away comes back at once: by then others can take the rooms, and read what is left.
        self.node.is_draining = self.node.is_leaving = True
        await asyncio.gather(self._heartbeat.retire(FLUSH_S), self._checkpoints.flush(FLUSH_S))
        await self.node.leave()
        await self._streams.finish(FLUSH_S)
        await asyncio.gather(
            self._leases.close(FLUSH_S),
            self._homes.close(),
            self._events.flush(FLUSH_S),
            self._checkpoints.flush(FLUSH_S),
        )
        await super().close()
        self._events.save()
        self._spool.close()
        self.engine.close()

    async def _drain_rooms(self) -> None:
        """Until nobody is here, telling how it goes; whoever calls this sets its limit."""
        self._drain_ends_at = self._clock.now() + self._settings.drain_timeout_s
        self.node.is_draining = True
        self._heartbeat.beat()
        emptying = asyncio.create_task(self.node.drain())
        try:
            while True:
                log.info(
                    "draining",
                    rooms=self.node.rooms,
                    participants=self.node.participants,
                    seconds_left=round(self._drain_ends_at - self._clock.now()),
                )
                done, _ = await asyncio.wait({emptying}, timeout=DRAIN_REPORT_S)
                if done:
                    log.info("drained", rooms=self.node.rooms)
                    return
        finally:
            emptying.cancel()

    def _drain_line(self) -> str:
        if self._drain_ends_at is None:
            return "no"
        seconds = max(0, round(self._drain_ends_at - self._clock.now()))
        node = self.node
        return f"{node.rooms} rooms, {node.participants} participants, {seconds} s left"

    def _held_leases(self) -> list[placement_pb2.Lease]:
        return [
            placement_pb2.Lease(
                room_name=lease.room_name,
                room_sid=lease.room_sid,
                node_id=self.node.node_id,
                node_address=self.grpc_address,
                epoch=lease.epoch,
            )
            for lease in self.node.leases()
        ]

    def _superseded(self, lease: placement_pb2.Lease) -> None:
        self.node.supersede(lease.room_name, lease.epoch)

    async def _start_engine(self) -> None:
        loop = asyncio.get_running_loop()
        self.engine.start(loop, self.node.media_arrived, self._media.take)


async def build(settings: SfuSettings, chassis: Chassis) -> SfuApp:
    """Wire one node: its ports are taken now, and served after `start`."""
    metrics = SfuMetrics(chassis.metrics)
    spool = _spool(settings)
    engine = _engine(settings, await discover(settings, chassis.auth))
    media = CountedMedia(engine, metrics)
    streams = SignalStreams(metrics)
    events = EventPublisher(chassis.bus, metrics, spool, settings.spool_max_bytes)
    homes = PlacedHomes(settings.placement_address, chassis.auth)
    leases = PlacementLeases(settings.placement_address, settings.node_id, chassis.auth)
    if not settings.api_keys:
        raise SettingsError("api_keys is empty: the node signs refresh tokens with the first key")
    keys = ApiKeys(
        settings.api_keys, settings.api_key_projects, lambda: chassis.clock.wall_ms() / 1000
    )
    stage_settings = _stage_settings(settings, engine, keys)

    checkpoints = Checkpoints(partial(chassis.kv, CHECKPOINTS), chassis.clock, metrics)

    def tracks() -> int:
        traffic = engine.traffic(chassis.clock.now())
        return traffic.tracks_in + traffic.tracks_out

    def make_stage(room_name: str, ids: StageIds) -> StageMachine:
        return Stage(room_name, settings.node_id, ids, stage_settings)

    node = Node(
        Surroundings(
            node_id=settings.node_id,
            clock=chassis.clock,
            sockets=streams,
            media=media,
            events=events,
            leases=leases,
            renewal=Renewal(chassis.clock.now()),
            checkpoints=checkpoints,
            homes=homes,
            dialer=NodeDialer(settings.node_id, chassis.auth),
            make_stage=make_stage,
            room_settings=_room_settings(settings),
            metrics=metrics,
            link_grace_s=settings.link_grace_s,
            limits=NodeLimits(settings.participant_limit, settings.track_limit),
            tracks=tracks,
        )
    )
    for rooms in (metrics.rooms, metrics.rooms_now):
        rooms.read_by(lambda: node.rooms)
    for participants in (metrics.participants, metrics.participants_now):
        participants.read_by(lambda: node.participants)
    metrics.read_media(lambda: engine.stats().counters)
    chassis.health.tell("rooms", lambda: str(node.rooms))
    chassis.health.show("rooms", node.described)
    metrics.checkpoints_waiting.read_by(lambda: checkpoints.waiting)
    try:
        return SfuApp(
            settings,
            chassis,
            checkpoints=checkpoints,
            keys=keys,
            engine=engine,
            media=media,
            node=node,
            streams=streams,
            leases=leases,
            homes=homes,
            events=events,
            spool=spool,
            metrics=metrics,
        )
    except SettingsError:
        engine.close()
        raise


def _engine(settings: SfuSettings, advertised: Advertised) -> EngineAdapter:
    try:
        config = engine_config(
            advertised.bindings(settings.udp_addresses, is_udp=True),
            advertised.bindings(settings.tcp_addresses, is_udp=False),
            max_peer_connections=settings.max_peer_connections,
        )
        return EngineAdapter(config)
    except (OSError, ValueError) as error:
        raise SettingsError(f"cannot open a media port: {error}") from None


def _spool(settings: SfuSettings) -> Spool:
    if settings.spool_directory is None:
        return MemorySpool(settings.spool_max_bytes)
    return DiskSpool(settings.spool_directory, settings.spool_max_bytes)


def _stage_settings(settings: SfuSettings, engine: EngineAdapter, keys: ApiKeys) -> StageSettings:
    def sign(claims: Mapping[str, object], project: str) -> str:
        signer = keys.signing(project)
        if (
            signer is None
        ):  # the last key of the project was taken away: its clients are let in no more
            return ""
        api_key, secret = signer
        return sign_claims({**claims, "iss": api_key}, secret)

    return StageSettings(
        fingerprint=engine.fingerprint,
        candidates=engine.candidates(),
        sign_token=sign,
        ice_servers=client_ice_servers(settings),
        region=settings.region,
        enabled_codecs=tuple(c for c in settings.enabled_codecs if not c.endswith("/rtx")),
        simulate_allowed=settings.simulate_allowed,
        has_data_tracks=settings.enable_data_tracks,
        has_data_blobs=settings.enable_data_blobs,
        profile_limits=_profile_limits(settings),
        active_red_encoding=settings.active_red_encoding,
        codec_regression_threshold=settings.codec_regression_threshold,
        subscription_limit_audio=settings.subscription_limit_audio,
        subscription_limit_video=settings.subscription_limit_video,
    )


def _profile_limits(settings: SfuSettings) -> ProfileLimits:
    return ProfileLimits(
        max_metadata_bytes=settings.max_metadata_bytes,
        max_attributes_bytes=settings.max_attributes_bytes,
        max_name_bytes=settings.max_name_bytes,
    )


def _room_settings(settings: SfuSettings) -> RoomSettings:
    return RoomSettings(
        empty_timeout=settings.empty_timeout_s,
        departure_timeout=settings.departure_timeout_s,
        max_duration=settings.max_duration_s,
        max_participants=settings.max_participants,
        profile_limits=_profile_limits(settings),
        is_remote_unmute_enabled=settings.enable_remote_unmute,
        is_full_room_in_track_events=settings.enable_full_room_in_webhooks,
        enabled_codecs=settings.enabled_codecs,
        roles=settings.roles,
        presets=settings.room_presets,
    )
