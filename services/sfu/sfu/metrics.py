"""Every metric of the node."""

from __future__ import annotations

from chassis.telemetry import Metrics


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
