"""Every metric of the webhook service."""

from __future__ import annotations

from chassis.telemetry import Metrics

DELAYS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0, 3600.0, 86400.0)


class WebhookMetrics:
    """What was told to whom; `target` is a target's id."""

    def __init__(self, metrics: Metrics) -> None:
        self.dispatched = metrics.counter(
            "livekit_webhook_dispatch_total",
            "Facts done, by status: success, failure (given up, kept as dead letters).",
            ["status"],
        )
        self.waiting = metrics.gauge(
            "livekit_webhook_queue_length", "Facts read from the stream and not done."
        )
        self.requests = metrics.counter(
            "roomwright_webhook_requests_total",
            "Requests, by target and what became of them: taken, refused, failed, unreachable.",
            ["target", "answer"],
        )
        self.delay = metrics.histogram(
            "roomwright_webhook_delay_seconds",
            "From a fact's entry into the stream to its target's 2xx.",
            DELAYS_S,
        )
        self.down = metrics.gauge(
            "roomwright_webhook_target_down", "1 while a target does not answer at all.", ["target"]
        )
        self.shards = metrics.gauge(
            "roomwright_webhook_shards", "Shards of EVENTS that this replica delivers, of 8 in all."
        )
        self.unreadable = metrics.counter(
            "roomwright_webhook_unreadable_total",
            "Facts passed over: they could not be read, or the stream had lost them.",
        )
