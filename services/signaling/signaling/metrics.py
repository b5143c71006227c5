"""Every metric of signaling."""

from chassis.telemetry import Metrics


class SignalingMetrics:
    """Counters of the front door; names are stable, labels are few and never personal."""

    def __init__(self, metrics: Metrics) -> None:
        self.sockets_accepted = metrics.counter(
            "roomwright_signaling_sockets_accepted_total", "WebSockets upgraded"
        )
        self.sockets_too_slow = metrics.counter(
            "roomwright_signaling_sockets_too_slow_total", "Sockets closed for not taking frames"
        )
        self.joins_refused = metrics.counter(
            "roomwright_signaling_joins_refused_total", "Joins refused before a node", ["status"]
        )
        self.bad_frames = metrics.counter(
            "roomwright_signaling_bad_frames_total", "Text frames that were no SignalRequest"
        )
