"""Watches one join or resume, from the upgrade request to its answer: its trace, its time, its result.

It changes nothing. The trace begins here and lasts, for log lines, as long as the socket.
"""

from __future__ import annotations

import structlog

from chassis import telemetry
from chassis.clock import Clock
from signaling.metrics import SignalingMetrics

log = structlog.get_logger(__name__)


class JoinWatch:
    """One socket's; made with the upgrade request."""

    def __init__(self, clock: Clock, metrics: SignalingMetrics, path: str) -> None:
        self._clock = clock
        self._metrics = metrics
        self._began_at = clock.now()
        self._span = telemetry.begin_trace("signaling.join", path=path)
        self._is_answered = False
        self.context = telemetry.context_of(self._span)
        """The trace context of everything the socket causes."""

    def room_known(self, room_name: str, *, is_resume: bool) -> None:
        """The token was good."""
        self._span.set_attribute("room", room_name)
        if is_resume:
            self._span.update_name("signaling.resume")
        # The socket has a task of its own, which ends with it.
        structlog.contextvars.bind_contextvars(room=room_name)

    def session_opened(self, participant_sid: str) -> None:
        """The node told whose session it became."""
        self._span.set_attribute("participant", participant_sid)

    def accepted(self) -> None:
        """The first response is there."""
        self._answered("success", "")

    def refused(self, http_status: int) -> None:
        """With an HTTP status."""
        if not self._is_answered:
            telemetry.fail(self._span, f"refused with {http_status}")
        self._answered("error", str(http_status))

    def gone(self) -> None:
        """The socket is over; perhaps before its answer."""
        if not self._is_answered:
            telemetry.fail(self._span, "the client went away")
        self._answered("error", "client_gone")

    def _answered(self, status: str, error_type: str) -> None:
        if self._is_answered:
            return
        self._is_answered = True
        self._span.end()
        self._metrics.operations.add(1, "signal_ws", status, error_type)
        self._metrics.answer_time.observe(self._clock.now() - self._began_at, status)
