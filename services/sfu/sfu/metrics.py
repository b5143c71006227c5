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


class SfuMetrics:
    """The node's counters and gauges, registered with the process's `Metrics`."""

    def __init__(self, metrics: Metrics) -> None:
        self.rooms = metrics.gauge("roomwright_sfu_rooms", "Rooms with a home on this node")
        self.participants = metrics.gauge(
            "roomwright_sfu_participants", "Participants on this node"
        )
        self.signal_streams = metrics.gauge(
            "roomwright_sfu_signal_streams", "Signaling replicas connected"
        )
        self.faults = metrics.counter(
            "roomwright_sfu_faults_total", "Bugs met and survived, by machine", ["machine"]
        )
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
        self.events_lost = metrics.counter(
            "roomwright_sfu_events_lost_total", "Events dropped because the spool was full"
        )
        self.heartbeats_failed = metrics.counter(
            "roomwright_sfu_heartbeats_failed_total",
            "Heartbeats that did not reach the nodes bucket",
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
