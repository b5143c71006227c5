"""Every metric of the node."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from chassis.telemetry import Counter, Metrics

DROPPED = (
    "datagram_unknown",
    "address_unknown",
    "stun_unknown",
    "stun_malformed",
    "stun_unauthenticated",
    "stun_unexpected",
    "dtls_dropped",
    "dtls_unexpected",
    "no_keys",
    "rtp_malformed",
    "rtp_unauthenticated",
    "rtp_duplicate",
    "rtp_unrouted",
    "srtcp_rejected",
    "rtcp_malformed",
    "sctp_dropped",
    "sctp_refused",
    "dcep_malformed",
    "channels_refused",
    "data_unknown_stream",
    "data_too_large",
    "data_refused",
    "data_dropped",
    "receive_truncated",
    "receive_errors",
    "tcp_refused",
    "tcp_dropped",
    "send_dropped",
    "send_errors",
    "outputs_dropped",
    "events_dropped",
    "commands_rejected",
)
"""Counters of the media core that become reasons; what each means is said where it counts them."""

WITHHELD = (
    "muted",
    "not_connected",
    "codec_not_accepted",
    "layer_unwanted",
    "keyframe_awaited",
    "padding_dropped",
    "too_late",
    "repair_not_possible",
    "keyframe_requests_throttled",
)
"""Counters of the media core for what was, rightly, not sent on."""


ROOM_SECONDS = (5, 30, 60, 300, 900, 1800, 3600, 2 * 3600, 4 * 3600, 12 * 3600, 24 * 3600)
JOIN_MS = (10, 25, 50, 100, 200, 300, 500, 1_000, 2_000, 5_000, 10_000)


class SfuMetrics:
    """The node's counters and gauges, registered with the process's `Metrics`."""

    def __init__(self, metrics: Metrics) -> None:
        self.rooms = metrics.gauge("roomwright_sfu_rooms", "Rooms with a home on this node")
        self.participants = metrics.gauge(
            "roomwright_sfu_participants", "Participants on this node"
        )
        self.checkpoints_waiting = metrics.gauge(
            "roomwright_sfu_checkpoints_waiting", "Checkpoints whose latest value is not stored"
        )
        self.checkpoints_failed = metrics.counter(
            "roomwright_sfu_checkpoints_failed_total",
            "Checkpoints that could not be stored at once",
        )
        self.draining = metrics.gauge(
            "roomwright_sfu_draining", "1 while this node takes no new rooms and waits to be empty"
        )
        self.frozen = metrics.gauge(
            "roomwright_sfu_frozen", "1 while this node's leases are not renewed"
        )
        self.cpu_load = metrics.gauge(
            "roomwright_sfu_cpu_load", "Share of the CPU it may use that this node uses, 0..1"
        )
        self.signal_streams = metrics.gauge(
            "roomwright_sfu_signal_streams", "Signaling replicas connected"
        )
        self.faults = metrics.counter(
            "roomwright_sfu_faults_total", "Bugs met and survived, by machine", ["machine"]
        )
        for machine in ("ForRoom", "ForStage", "ForLink"):
            self.faults.add(0, machine)  # an increase from nothing is none to Prometheus
        self.refused = metrics.counter(
            "roomwright_sfu_refused_total", "Joins and calls refused", ["reason"]
        )
        self.resyncs = metrics.counter(
            "roomwright_sfu_link_resyncs_total", "Room links that lost messages for good"
        )
        self.data_dropped = metrics.counter(
            "roomwright_sfu_data_dropped_total", "Data packets that went nowhere", ["reason"]
        )
        self.flooding_sockets = metrics.counter(
            "roomwright_sfu_flooding_sockets_total",
            "Sockets closed for sending faster than they are served",
        )
        self.events_spooled = metrics.gauge(
            "roomwright_sfu_events_spooled", "Events waiting for the EVENTS stream"
        )
        self.events_fill = metrics.gauge(
            "roomwright_events_stream_fill_ratio",
            "Bytes in the EVENTS stream over the most that it takes; full, it refuses facts",
        )
        self.events_lost = metrics.counter(
            "roomwright_sfu_events_lost_total", "Events dropped because the spool was full"
        )
        self.heartbeats_failed = metrics.counter(
            "roomwright_sfu_heartbeats_failed_total",
            "Heartbeats that did not reach the nodes bucket",
        )
        self.peer_connections = metrics.gauge(
            "roomwright_sfu_peer_connections", "Peer connections of the media core"
        )
        self.media_datagrams = metrics.counter(
            "roomwright_sfu_media_datagrams_total", "Media datagrams, by direction", ["direction"]
        )
        self.media_dropped = metrics.counter(
            "roomwright_sfu_media_dropped_total",
            "Packets and messages dropped by the media core, by reason",
            ["reason"],
        )
        self.media_withheld = metrics.counter(
            "roomwright_sfu_media_withheld_total",
            "Packets and requests not passed on because nobody wants them now, by reason",
            ["reason"],
        )
        self.media_panics = metrics.counter(
            "roomwright_sfu_media_panics_total",
            "Defects met and survived by the media core: engine (all calls) or protocol (one peer)",
            ["part"],
        )

        self._declare_field_names(metrics)

    def _declare_field_names(self, metrics: Metrics) -> None:
        """What means the same as in the field, under its name; docs/operators/observe.md says how."""
        self.rooms_now = metrics.gauge("livekit_room_total", "Rooms with a home on this node")
        self.room_duration = metrics.histogram(
            "livekit_room_duration_seconds", "Life of a room, at its end", ROOM_SECONDS
        )
        self.participants_now = metrics.gauge(
            "livekit_participant_total", "Participants on this node"
        )
        self.joins = metrics.counter(
            "livekit_participant_join_total",
            "Joins by how far they came: signal_connected, rtc_init, rtc_connected",
            ["state"],
        )
        self.operations = metrics.counter(
            "livekit_node_service_operation",
            "Joins that the room answered, by result",
            ["type", "status", "error_type"],
        )
        protocol = ["protocol_version"]
        self.join_latency = metrics.histogram(
            "livekit_session_join_latency_ms",
            "From signaling's request to the join response",
            JOIN_MS,
            protocol,
        )
        self.start_time = metrics.histogram(
            "livekit_session_start_time_ms",
            "From signaling's request until media can flow",
            JOIN_MS,
            protocol,
        )
        self.session_duration = metrics.histogram(
            "livekit_session_duration_ms",
            "Length of a session, at its end",
            [1000.0 * value for value in ROOM_SECONDS],
            protocol,
        )
        self.tracks_published = metrics.gauge(
            "livekit_track_published_total", "Tracks published on this node", ["kind"]
        )
        self.tracks_subscribed = metrics.gauge(
            "livekit_track_subscribed_total", "Tracks sent to a participant each", ["kind"]
        )
        self.track_publishes = metrics.counter(
            "livekit_track_publish_counter", "Tracks that were published", ["kind", "state"]
        )
        self.track_subscribes = metrics.counter(
            "livekit_track_subscribe_counter", "Subscriptions that began", ["state", "error"]
        )
        self.packets = metrics.counter(
            "livekit_packet_total", "RTP packets of tracks", ["direction", "transmission"]
        )
        self.packet_bytes = metrics.counter(
            "livekit_packet_bytes", "Bytes of these packets", ["direction", "transmission"]
        )
        self.nacks = metrics.counter("livekit_nack_total", "Packets asked for again", ["direction"])
        self.picture_losses = metrics.counter(
            "livekit_pli_total", "Keyframes asked for", ["direction"]
        )
        self.packets_lost = metrics.counter(
            "livekit_packet_loss_total", "Packets that never came", ["direction", "type"]
        )
        stream = ["direction", "type"]
        self.loss_percent = metrics.histogram(
            "livekit_packet_loss_percent",
            "Share of a stream's packets lost in an interval of 5 s",
            [0, 0.5, 1, 2, 3, 5, 10, 20, 50, 100],
            stream,
        )
        self.jitter = metrics.histogram(
            "livekit_jitter_us",
            "Jitter of a received stream, every 5 s",
            [100, 500, 1_000, 5_000, 10_000, 20_000, 30_000, 50_000, 100_000],
            stream,
        )
        self.round_trip = metrics.histogram(
            "livekit_rtt_ms",
            "Round trip to a subscriber, every 5 s",
            [1, 5, 10, 20, 50, 100, 200, 500, 1000],
            stream,
        )
        self.quality_rating = metrics.histogram(
            "livekit_quality_rating",
            "Connection quality of participants, every 5 s: 0 poor, 1 good, 2 excellent, 3 lost",
            [0, 1, 2, 3],
        )
        self.quality_score = metrics.histogram(
            "livekit_quality_score",
            "Mean opinion score of participants, every 5 s",
            [1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.25, 4.5],
        )
        self.data_destinations = metrics.histogram(
            "livekit_datapacket_stream_dest_count",
            "Receivers of a data packet",
            [1, 2, 5, 10, 20, 50, 100, 500, 1000],
        )
        self.data_bytes = metrics.histogram(
            "livekit_datapacket_stream_bytes",
            "Size of a data packet",
            [64, 256, 1024, 4096, 15_360, 65_536],
        )

    def read_media(self, totals: Callable[[], Mapping[str, int]]) -> None:
        """Take the media core's own totals, by its own names, at each collection."""

        def show(counter: Counter, names: Mapping[str, str]) -> None:
            def read() -> dict[tuple[str, ...], float]:
                now = totals()
                return {(label,): now.get(name, 0) for label, name in names.items()}

            counter.read_by(read)

        show(self.media_datagrams, {"in": "packets_in", "out": "packets_out"})
        show(self.media_dropped, {name: name for name in DROPPED})
        show(self.media_withheld, {name: name for name in WITHHELD})
        show(self.media_panics, {"engine": "engine_panics", "protocol": "protocol_panics"})
