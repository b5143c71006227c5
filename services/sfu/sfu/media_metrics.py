"""What the media costs and how well it flows, as metrics: from commands, and from stats snapshots.

Nothing here is called per media packet. A snapshot has totals per track and sender that end with
them; here they become totals of the node. What came after the last snapshot of a track that went
(seconds) is not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from chassis.telemetry import Counter
from sfu.core import media_commands as commands
from sfu.metrics import SfuMetrics


class Performs(Protocol):
    """The media engine."""

    def perform(self, command: commands.Command) -> None: ...


class TrackRow(Protocol):
    """A received track in a snapshot; totals since it began, `jitter` in seconds."""

    track: int
    packets: int
    bytes: int
    lost: int
    jitter: float
    nacks_sent: int
    keyframe_requests_sent: int


class SenderRow(Protocol):
    """A track going out to one participant; totals since it began, `rtt` in seconds."""

    sender: int
    packets: int
    bytes: int
    retransmitted: int
    nacks_received: int
    keyframe_requests_received: int
    fraction_lost: float
    rtt: float | None


class Snapshot(Protocol):
    """The engine's stats."""

    @property
    def tracks(self) -> Sequence[TrackRow]: ...
    @property
    def senders(self) -> Sequence[SenderRow]: ...


class CountedMedia:
    """The media engine, with what it is told counted on the way."""

    def __init__(self, media: Performs, metrics: SfuMetrics) -> None:
        self._media = media
        self._metrics = metrics
        self._peer_connections: set[int] = set()
        self._tracks: dict[int, tuple[int, str]] = {}  # track -> (pc, kind)
        self._senders: dict[int, tuple[int, str]] = {}  # sender -> (pc, kind)
        self._seen: dict[tuple[str, int], tuple[int, ...]] = {}
        metrics.peer_connections.read_by(lambda: float(len(self._peer_connections)))
        metrics.tracks_published.read_rows_by(lambda: _by_kind(self._tracks))
        metrics.tracks_subscribed.read_rows_by(lambda: _by_kind(self._senders))

    def perform(self, command: commands.Command) -> None:
        """Count, and pass on."""
        match command:
            case commands.CreatePeerConnection(pc=pc):
                self._peer_connections.add(pc)
            case commands.ClosePeerConnection(pc=pc):
                self._closed(pc)
            case commands.AddReceiver(pc=pc, track=track, config=config):
                self._tracks[track] = (pc, config.kind.upper())
            case commands.RemoveTrack(track=track):
                self._tracks.pop(track, None)
            case commands.AddSender(pc=pc, sender=sender, config=config):
                kind = self._tracks.get(config.track, (0, "UNKNOWN"))[1]
                self._senders[sender] = (pc, kind)
                self._metrics.track_subscribes.add(1, "success", "")
            case commands.RemoveSender(sender=sender):
                self._senders.pop(sender, None)
            case commands.SendData(pcs=pcs, payload=payload):
                self._metrics.data_destinations.observe(len(pcs))
                self._metrics.data_bytes.observe(len(payload))
            case _:
                pass
        self._media.perform(command)

    def take(self, stats: Snapshot) -> None:
        """One snapshot of the engine, every few seconds."""
        seen: dict[tuple[str, int], tuple[int, ...]] = {}
        for track in stats.tracks:
            now = (
                track.packets,
                track.bytes,
                track.lost,
                track.nacks_sent,
                track.keyframe_requests_sent,
            )
            grown = self._grown(("track", track.track), now, seen)
            self._take_track(track, grown)
        for sender in stats.senders:
            now = (
                sender.packets,
                sender.bytes,
                sender.retransmitted,
                sender.nacks_received,
                sender.keyframe_requests_received,
            )
            grown = self._grown(("sender", sender.sender), now, seen)
            self._take_sender(sender, grown)
        self._seen = seen

    def _take_track(self, track: TrackRow, grown: tuple[int, ...]) -> None:
        metrics = self._metrics
        packets, size, lost, nacks, keyframe_requests = grown
        kind = self._tracks.get(track.track, (0, "UNKNOWN"))[1]
        _add(metrics.packets, packets, "incoming", "initial")
        _add(metrics.packet_bytes, size, "incoming", "initial")
        _add(metrics.packets_lost, lost, "incoming", kind)
        _add(metrics.nacks, nacks, "outgoing")
        _add(metrics.picture_losses, keyframe_requests, "outgoing")
        if packets:
            metrics.loss_percent.observe(100 * lost / (packets + lost), "incoming", kind)
            metrics.jitter.observe(track.jitter * 1e6, "incoming", kind)

    def _take_sender(self, sender: SenderRow, grown: tuple[int, ...]) -> None:
        metrics = self._metrics
        packets, size, retransmitted, nacks, keyframe_requests = grown
        kind = self._senders.get(sender.sender, (0, "UNKNOWN"))[1]
        _add(metrics.packets, packets, "outgoing", "initial")
        _add(metrics.packets, retransmitted, "outgoing", "retransmit")
        _add(metrics.packet_bytes, size, "outgoing", "initial")
        _add(metrics.nacks, nacks, "incoming")
        _add(metrics.picture_losses, keyframe_requests, "incoming")
        if packets:
            metrics.loss_percent.observe(100 * sender.fraction_lost, "outgoing", kind)
            if sender.rtt is not None:
                metrics.round_trip.observe(sender.rtt * 1000, "outgoing", kind)

    def _grown(
        self,
        key: tuple[str, int],
        now: tuple[int, ...],
        seen: dict[tuple[str, int], tuple[int, ...]],
    ) -> tuple[int, ...]:
        """What was added to each total since the last snapshot; losses made good take away."""
        before = self._seen.get(key, (0,) * len(now))
        seen[key] = now
        return tuple(max(0, new - old) for new, old in zip(now, before, strict=True))

    def _closed(self, pc: int) -> None:
        self._peer_connections.discard(pc)
        self._tracks = {k: v for k, v in self._tracks.items() if v[0] != pc}
        self._senders = {k: v for k, v in self._senders.items() if v[0] != pc}


def _by_kind(owned: dict[int, tuple[int, str]]) -> dict[tuple[str, ...], float]:
    counts: dict[tuple[str, ...], float] = {("AUDIO",): 0.0, ("VIDEO",): 0.0}
    for _, kind in owned.values():
        counts[kind,] = counts.get((kind,), 0.0) + 1
    return counts


def _add(counter: Counter, amount: int, *labels: str) -> None:
    if amount:
        counter.add(amount, *labels)
