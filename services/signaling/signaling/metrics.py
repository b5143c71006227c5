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
        self.limited = metrics.counter(
            "roomwright_signaling_limited_total", "Requests over a rate limit", ["limit"]
        )
        self.bad_frames = metrics.counter(
            "roomwright_signaling_bad_frames_total", "Text frames that were no SignalRequest"
        )
        self.sockets = metrics.gauge("roomwright_signaling_sockets", "Sockets open now")
        self.answer_time = metrics.histogram(
            "roomwright_signaling_join_seconds",
            "From an upgrade request to its answer, by result",
            [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
            ["result"],
        )
        self.operations = metrics.counter(
            "livekit_node_service_operation",
            "Upgrade requests, by result",
            ["type", "status", "error_type"],
        )
        self.messages_in = self.messages_out = 0
        """Signal messages from and to clients; plain numbers, for there are many."""
        messages = metrics.counter(
            "livekit_node_messages", "Signal messages", ["type", "status", "direction"]
        )
        messages.read_by(
            lambda: {
                ("signal", "success", "in"): self.messages_in,
                ("signal", "success", "out"): self.messages_out,
            }
        )
        self.api_requests = metrics.counter(
            "livekit_node_twirp_request_status",
            "API calls, by result",
            ["service", "method", "status", "code"],
        )
        self.api_latency = metrics.histogram(
            "livekit_node_twirp_request_latency_ms",
            "Time to answer an API call",
            [1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 5000],
            ["service", "method", "status"],
        )

    def api_called(self, service: str, method: str, code: str, seconds: float) -> None:
        """An API call was answered; `code` is Twirp's, empty for success."""
        status = "failure" if code else "success"
        self.api_requests.add(1, service, method, status, code)
        self.api_latency.observe(seconds * 1000, service, method, status)
