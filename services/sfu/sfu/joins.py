"""Watches the joins of one room on this node: their trace, their times, and one log line each.

It is told what the Stage takes and wants done, and changes nothing. A join is three steps: open (from
signaling's request to the first response), the room's decision within it, and the negotiation until
media can flow. A resume is the first alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from chassis import telemetry
from contracts.room.v1 import room_pb2
from sfu.core import stage
from sfu.metrics import SfuMetrics


@dataclass(slots=True)
class _Join:
    """One session on its way, or arrived; times are monotonic seconds."""

    began_at: float
    opening: telemetry.Span
    is_resume: bool
    sid: str = ""
    protocol: str = ""
    deciding: telemetry.Span | None = None
    negotiating: telemetry.Span | None = None
    is_answered: bool = False


class Joins:
    """The joins of one room; `tell` says to a socket's replica whose session it became."""

    def __init__(
        self,
        metrics: SfuMetrics,
        log: structlog.stdlib.BoundLogger,
        tell: Callable[[stage.SocketRef, str], None],
    ) -> None:
        self._metrics = metrics
        self._log = log
        self._tell = tell
        self._opening: dict[stage.SocketRef, _Join] = {}
        self._sessions: dict[str, _Join] = {}

    def taken(self, event: stage.Event, now: float) -> None:
        """The Stage takes this next; for an opened socket the current trace is the join's."""
        if not isinstance(event, stage.SocketOpened):
            return
        is_resume = event.open.reconnect
        span = telemetry.begin_span(
            "sfu.resume" if is_resume else "sfu.open",
            telemetry.current(),
            room=event.open.room_name,
            epoch=event.open.epoch,
        )
        self._opening[event.socket] = _Join(now, span, is_resume)
        if not is_resume:
            self._metrics.joins.add(1, "signal_connected")

    def told(self, fact: room_pb2.Fact, cause: stage.Event, now: float) -> None:
        """A session told the Room something."""
        sid = fact.participant_sid
        match fact.WhichOneof("fact"):
            case "join_requested" if isinstance(cause, stage.SocketOpened):
                self._requested(sid, fact.join_requested.protocol_version, cause)
            case "resume_requested" if isinstance(cause, stage.SocketOpened):
                self._tell(cause.socket, sid)
                self._log.info("session resumed", participant=sid)
            case "activated":
                self._connected(sid, now)
            case "left":
                self._over(sid, now)
            case _:
                pass

    def sent(self, sockets: tuple[stage.SocketRef, ...], now: float) -> None:
        """Something is sent to these sockets; the first response ends the opening."""
        for socket in sockets if self._opening else ():
            join = self._opening.pop(socket, None)
            if join is not None:
                self._answered(join, now)

    def refused(self, socket: stage.SocketRef, http_status: int, message: str) -> None:
        """Instead of a first response."""
        join = self._opening.pop(socket, None)
        if join is None:
            return
        self._sessions.pop(join.sid, None)
        self._log.info("session refused", participant=join.sid, status=http_status, reason=message)
        for span in (join.deciding, join.opening):
            if span is not None:
                telemetry.fail(span, f"refused with {http_status}")
                span.end()
        self._metrics.operations.add(1, "participant_join", "error", "refused")

    def close(self) -> None:
        """The room is over here: steps under way end."""
        for join in {
            id(it): it for it in (*self._opening.values(), *self._sessions.values())
        }.values():
            for span in (
                join.deciding,
                join.negotiating,
                None if join.is_answered else join.opening,
            ):
                if span is not None:
                    telemetry.fail(span, "room over")
                    span.end()
        self._opening.clear()
        self._sessions.clear()

    def _requested(self, sid: str, protocol: int, cause: stage.SocketOpened) -> None:
        join = self._opening.get(cause.socket)
        if join is None:
            return
        join.sid, join.protocol = sid, str(protocol)
        join.opening.set_attribute("participant", sid)
        join.deciding = telemetry.begin_span(
            "sfu.room_join", telemetry.context_of(join.opening), participant=sid
        )
        self._sessions[sid] = join
        self._tell(cause.socket, sid)
        self._log.info("session opened", participant=sid)

    def _answered(self, join: _Join, now: float) -> None:
        join.is_answered = True
        if join.deciding is not None:
            join.deciding.end()
            join.deciding = None
        join.opening.end()
        if join.is_resume or not join.sid:
            return
        join.negotiating = telemetry.begin_span(
            "sfu.negotiate", telemetry.context_of(join.opening), participant=join.sid
        )
        self._metrics.joins.add(1, "rtc_init")
        self._metrics.join_latency.observe((now - join.began_at) * 1000, join.protocol)
        self._metrics.operations.add(1, "participant_join", "success", "")

    def _connected(self, sid: str, now: float) -> None:
        join = self._sessions.get(sid)
        if join is None or join.negotiating is None:
            return
        # The engine's report knows no trace; what the Room makes of it belongs to the join.
        telemetry.enter_trace(telemetry.context_of(join.negotiating))
        self._log.info("media connected", participant=sid)
        join.negotiating.end()
        join.negotiating = None
        self._metrics.joins.add(1, "rtc_connected")
        self._metrics.start_time.observe((now - join.began_at) * 1000, join.protocol)

    def _over(self, sid: str, now: float) -> None:
        join = self._sessions.pop(sid, None)
        if join is None:
            return
        if join.negotiating is not None:
            telemetry.fail(join.negotiating, "left before media was connected")
            join.negotiating.end()
        if join.is_answered:
            self._metrics.session_duration.observe((now - join.began_at) * 1000, join.protocol)
