"""The media engine behind values: the only import of the engine in the service.

`perform` turns a command into one engine call, which returns at once; events come in batches when
the engine's descriptor is readable and go to `on_event` on the loop's thread. Nothing here decides
anything, and nothing passes here per packet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import assert_never

import mediacore
from sfu.core import media_commands as commands
from sfu.core import media_events as events

STATS_INTERVAL = 5.0  # seconds between loss reports
TRAFFIC_INTERVAL = 2.0  # seconds, at least, between two readings of what flows


@dataclass(frozen=True, slots=True)
class Traffic:
    """What flows through the engine: tracks received and sent on, and their RTP bytes a second."""

    tracks_in: int = 0
    tracks_out: int = 0
    bytes_in_per_s: float = 0.0
    bytes_out_per_s: float = 0.0


Socket = tuple[str, str | None]
"""`host:port` to open, and what clients are told in its place: an IP address, `host:port`, or nothing."""


def engine_config(
    udp: Sequence[Socket], tcp: Sequence[Socket], *, max_peer_connections: int
) -> mediacore.EngineConfig:
    """The engine's sockets; ValueError names an address that is none."""
    return mediacore.EngineConfig(
        udp=[mediacore.Binding(*socket) for socket in udp],
        tcp=[mediacore.Binding(*socket) for socket in tcp],
        max_peer_connections=max_peer_connections,
    )


class EngineAdapter:
    """One engine on one event loop. OSError from the constructor names a busy address."""

    def __init__(self, config: mediacore.EngineConfig) -> None:
        self._engine = mediacore.Engine(config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_event: Callable[[events.MediaEvent], None] = _ignore
        self._stats_timer: asyncio.TimerHandle | None = None
        self._on_stats: Callable[[mediacore.Stats], None] = _ignore
        self._received: dict[int, tuple[int, int]] = {}  # track -> (packets, lost)
        self._sent: dict[int, int] = {}  # sender -> packets
        self._traffic = Traffic()
        self._bytes: tuple[float, dict[int, int], dict[int, int]] | None = None
        self.is_closed = False

    def start(
        self,
        loop: asyncio.AbstractEventLoop,
        on_event: Callable[[events.MediaEvent], None],
        on_stats: Callable[[mediacore.Stats], None] | None = None,
    ) -> None:
        """Begin to give events, and a snapshot of the stats every few seconds."""
        self._loop = loop
        self._on_stats = on_stats or _ignore
        self._on_event = on_event
        loop.add_reader(self._engine.event_fd(), self._drain)
        self._stats_timer = loop.call_later(STATS_INTERVAL, self._report_losses)
        self._drain()

    def close(self) -> None:
        """Silently, for all peer connections; may be called twice."""
        if self.is_closed:
            return
        self.is_closed = True
        if self._stats_timer is not None:
            self._stats_timer.cancel()
        if self._loop is not None:
            self._loop.remove_reader(self._engine.event_fd())
        self._engine.close()

    @property
    def fingerprint(self) -> str:
        """`sha-256 AA:BB:..`, the same for every peer connection."""
        return self._engine.fingerprint

    @property
    def udp_addresses(self) -> list[str]:
        """As bound."""
        return self._engine.udp_addresses

    @property
    def tcp_addresses(self) -> list[str]:
        """As bound."""
        return self._engine.tcp_addresses

    def candidates(self) -> tuple[str, ...]:
        """Candidate lines for descriptions, UDP first: the same for every peer connection."""
        unnamed = self._engine.candidates("-")
        return tuple(line.removesuffix(" ufrag -") for line in unnamed)

    def stats(self) -> mediacore.Stats:
        """A snapshot, at most a second old."""
        return self._engine.stats()

    def traffic(self, now: float) -> Traffic:
        """What flows now, or did a moment ago; `now` is monotonic seconds."""
        if self._bytes is not None and now - self._bytes[0] < TRAFFIC_INTERVAL:
            return self._traffic
        if self.is_closed:
            return Traffic()
        stats = self._engine.stats()
        received = {track.track: track.bytes for track in stats.tracks}
        sent = {sender.sender: sender.bytes for sender in stats.senders}
        at, received_before, sent_before = self._bytes or (now, received, sent)
        self._bytes = (now, received, sent)
        self._traffic = Traffic(
            len(received),
            len(sent),
            _rate(received, received_before, now - at),
            _rate(sent, sent_before, now - at),
        )
        return self._traffic

    def perform(self, command: commands.Command) -> None:
        """Queue one command for the engine; what goes wrong comes back as `Rejected`."""
        if self.is_closed:
            return
        _perform(self._engine, command)

    def _drain(self) -> None:
        for event in self._engine.drain():
            self._on_event(translate(event))

    def _report_losses(self) -> None:
        assert self._loop is not None  # only `start` sets this timer
        self._stats_timer = self._loop.call_later(STATS_INTERVAL, self._report_losses)
        stats = self._engine.stats()
        self._on_stats(stats)
        seen: dict[int, tuple[int, int]] = {}
        for track in stats.tracks:
            before_packets, before_lost = self._received.get(track.track, (0, 0))
            seen[track.track] = (track.packets, track.lost)
            lost = max(0, track.lost - before_lost)
            expected = max(0, track.packets - before_packets) + lost
            share = lost / expected if expected else 0.0
            # What nothing came of (muted, paused, DTX) keeps the jitter of its last packets.
            jitter = track.jitter if track.packets > before_packets else 0.0
            self._on_event(events.TrackLoss(track.track, share, jitter))
        self._received = seen
        sent: dict[int, int] = {}
        for sender in stats.senders:
            sent[sender.sender] = sender.packets
            # The far side's last report stays as it was when nothing is sent any more.
            is_sending = sender.packets > self._sent.get(sender.sender, 0)
            share = sender.fraction_lost if is_sending else 0.0
            round_trip = sender.rtt or 0.0
            self._on_event(events.SenderLoss(sender.sender, share, round_trip))
        self._sent = sent


def _rate(now: dict[int, int], before: dict[int, int], seconds: float) -> float:
    """Bytes a second by what both readings know; what came or went between them is left out."""
    grown = sum(total - before[number] for number, total in now.items() if number in before)
    return max(0, grown) / seconds if seconds > 0 else 0.0


def translate(event: mediacore.Event) -> events.MediaEvent:  # noqa: C901 - a table
    """The compiled module's event as a value of ours."""
    match event:
        case mediacore.Connected():
            return events.Connected(event.pc)
        case mediacore.Disconnected():
            return events.Disconnected(event.pc)
        case mediacore.Failed():
            return events.Failed(event.pc, event.reason)
        case mediacore.DataChannelOpened():
            return events.DataChannelOpened(event.pc, event.label, event.ordered, event.reliable)
        case mediacore.DataChannelClosed():
            return events.DataChannelClosed(event.pc, event.label)
        case mediacore.DataReceived():
            return events.DataReceived(event.pc, event.label, event.payload, event.binary)
        case mediacore.EncodingStarted():
            return events.EncodingStarted(
                event.track, event.spatial_layer, event.rid, event.ssrc, event.mime
            )
        case mediacore.EncodingStopped():
            return events.EncodingStopped(event.track, event.spatial_layer)
        case mediacore.AudioLevels():
            return events.AudioLevels(tuple(event.levels))
        case mediacore.LayerChanged():
            return events.LayerChanged(event.sender, event.spatial_layer, event.temporal_layer)
        case mediacore.SenderPaused():
            return events.SenderPaused(event.sender, event.paused)
        case mediacore.Rejected():
            return events.Rejected(event.command, event.id, event.message)
        case _:
            assert_never(event)


def _perform(engine: mediacore.Engine, command: commands.Command) -> None:  # noqa: C901 - a table
    match command:
        case commands.CreatePeerConnection():
            engine.create_peer_connection(
                command.pc,
                mediacore.PeerConnectionConfig(
                    command.ice_ufrag,
                    command.ice_pwd,
                    ice_lite=command.ice_lite,
                    ice_controlling=command.ice_controlling,
                    dtls_active=True,
                ),
            )
        case commands.SetRemote():
            engine.set_remote(
                command.pc,
                mediacore.RemoteTransport(command.ice_ufrag, command.ice_pwd, command.fingerprint),
            )
        case commands.RestartIce():
            engine.restart_ice(command.pc, command.ice_ufrag, command.ice_pwd)
        case commands.AddRemoteCandidate():
            engine.add_remote_candidate(command.pc, command.candidate)
        case commands.ClosePeerConnection():
            engine.close_peer_connection(command.pc)
        case commands.AddReceiver():
            engine.add_receiver(command.pc, command.track, _receiver(command.config))
        case commands.UpdateReceiver():
            engine.update_receiver(command.track, _receiver(command.config))
        case commands.SetTrackMuted():
            engine.set_track_muted(command.track, command.muted)
        case commands.RequestKeyframe():
            engine.request_keyframe(command.track)
        case commands.RemoveTrack():
            engine.remove_track(command.track)
        case commands.AddSender():
            engine.add_sender(command.pc, command.sender, _sender(command.config))
        case commands.SetSenderLayers():
            engine.set_sender_layers(
                command.sender,
                command.max_spatial_layer,
                command.max_temporal_layer,
                command.paused,
                command.priority,
            )
        case commands.RemoveSender():
            engine.remove_sender(command.sender)
        case commands.SetBandwidthCap():
            engine.set_bandwidth_cap(command.pc, command.bps, command.allow_pause)
        case commands.OpenDataChannel():
            engine.open_data_channel(
                command.pc, command.label, command.ordered, command.max_retransmits
            )
        case commands.SendData():
            engine.send_data(command.pcs, command.label, command.payload, command.binary)
        case _:
            assert_never(command)


def _receiver(config: commands.ReceiverConfig) -> mediacore.ReceiverConfig:
    return mediacore.ReceiverConfig(
        config.kind,
        config.mid,
        _codecs(config.codecs),
        [
            mediacore.Encoding(
                encoding.spatial_layer, encoding.rid, encoding.ssrc, encoding.rtx_ssrc
            )
            for encoding in config.encodings
        ],
        extensions=_extensions(config.extensions),
        measure_level=config.measure_level,
    )


def _sender(config: commands.SenderConfig) -> mediacore.SenderConfig:
    return mediacore.SenderConfig(
        config.track,
        config.mid,
        config.ssrc,
        config.rtx_ssrc,
        config.cname,
        _codecs(config.codecs),
        extensions=_extensions(config.extensions),
        max_spatial_layer=config.max_spatial_layer,
        max_temporal_layer=config.max_temporal_layer,
        paused=config.paused,
        strip_trailer=config.strip_trailer,
        sif_trailer=config.sif_trailer,
        playout_delay=config.playout_delay,
        encode_red=config.encode_red,
        priority=config.priority,
    )


def _codecs(codecs: Sequence[commands.Codec]) -> list[mediacore.Codec]:
    return [
        mediacore.Codec(
            codec.mime,
            codec.payload_type,
            codec.clock_rate,
            codec.rtx_payload_type,
            nack=codec.nack,
            pli=codec.pli,
            transport_cc=codec.transport_cc,
        )
        for codec in codecs
    ]


def _extensions(ids: commands.ExtensionIds) -> mediacore.ExtensionIds:
    return mediacore.ExtensionIds(
        mid=ids.mid,
        rid=ids.rid,
        repaired_rid=ids.repaired_rid,
        audio_level=ids.audio_level,
        transport_cc=ids.transport_cc,
        abs_send_time=ids.abs_send_time,
        abs_capture_time=ids.abs_capture_time,
        dependency_descriptor=ids.dependency_descriptor,
        playout_delay=ids.playout_delay,
        video_orientation=ids.video_orientation,
    )


def _ignore(_told: object) -> None:
    """Before `start` nobody listens."""
