"""How a session lives on when its socket or its media fails: what it waits for, and how long.

Media that failed: the client is asked to resume, and the session ends unless it does. A resumed
session whose media is still broken ends unless it comes back. What a resume says to the client is in
participant.py; which transport is tried next in fallback.py.
"""

from __future__ import annotations

from livekit.protocol import models, rtc

from sfu.core import responses
from sfu.core.connections import Connections
from sfu.core.effects import Step
from sfu.core.fallback import Fallbacks
from sfu.core.peer_connection import PeerConnection
from sfu.core.session import SignalSession

RESUME_PROTOCOL = 13
FAILURES = frozenset(
    {models.ReconnectReason.RR_PUBLISHER_FAILED, models.ReconnectReason.RR_SUBSCRIBER_FAILED}
)


class Reconnecting:
    """The deadlines of one session, and its failures."""

    def __init__(
        self, session: SignalSession, connections: Connections, fallbacks: Fallbacks
    ) -> None:
        self._session = session
        self._connections = connections
        self._fallbacks = fallbacks
        self._ask_at: float | None = None
        self._gone_at: float | None = None
        self._is_counted = False  # this failure, until media is up or the client is back
        self._unanswered = 0  # resumes that the Room has not answered yet

    # -------------------------------------------------------------------------------- media

    def media_failed(self, pc: PeerConnection, step: Step) -> None:
        """One transport is beyond repair: have the client resume, and wait a little for it.

        Clients that leave close their transports first, so that a goodbye may be on its way: the
        socket is kept for it a moment longer.
        """
        grace = self._session.settings.resume_grace
        if self._session.socket is None:
            self._gone_at = step.now + grace
        elif self._ask_at is None:
            self._ask_at = step.now + self._session.settings.goodbye_patience
            self._gone_at = self._ask_at + grace

    def media_connected(self, step: Step) -> None:
        """A transport is up: nothing is waited for when all are."""
        if not any(pc.is_failed for pc in self._connections.all):
            self._ask_at = self._gone_at = None
            self._is_counted = False

    def _ask(self, step: Step) -> None:
        """Have the client resume, on another socket."""
        session = self._session
        self._ask_at = None
        failed = [pc for pc in self._connections.all if pc.is_failed]
        # A client not heard of lately has lost its whole network: that says nothing of UDP.
        heard_within = step.wall_ms - session.last_signal_ms
        if failed and heard_within < 2000 * session.settings.ping_interval:
            self._note_failure(failed[0], step)
        if session.client.protocol >= RESUME_PROTOCOL:
            session.send(
                responses.leave(
                    models.DisconnectReason.CONNECTION_TIMEOUT,
                    rtc.LeaveRequest.Action.RESUME,
                    session.client.protocol,
                ),
                step,
            )
        session.close_socket(step, "media failed")

    def _note_failure(self, pc: PeerConnection, step: Step) -> None:
        session = self._session
        if not self._is_counted:
            self._is_counted = True
            preference = self._fallbacks.note_failure(
                session.identity,
                step.now,
                lived=pc.lived(step.now),
                may_use_tcp=session.may_use_tcp,
            )
            self._connections.prefer(preference)

    # ------------------------------------------------------------------------------ resumes

    def resumed(self, reason: int, step: Step) -> None:
        """The client is back, and says why it was away (livekit.ReconnectReason)."""
        if reason in FAILURES:
            is_publisher = reason == models.ReconnectReason.RR_PUBLISHER_FAILED
            connections = self._connections
            self._note_failure(connections.publisher if is_publisher else connections.sending, step)
        self._is_counted = False
        self._ask_at = None
        for pc in self._connections.all:
            pc.is_failed = False  # an ICE restart follows, where the client has a use for it
        # The engine says Failed once: without an ICE restart nothing would end this session.
        is_broken = self._connections.primary.is_broken
        self._gone_at = step.now + self._session.settings.reconnect_window if is_broken else None
        self._unanswered += 1

    def is_latest(self) -> bool:
        """The Room answered a resume; whether there is none after it that it has yet to answer."""
        self._unanswered -= 1
        return self._unanswered == 0

    def socket_lost(self) -> None:
        """There is nobody to ask any more."""
        self._ask_at = None

    # --------------------------------------------------------------------------------- time

    def is_over(self, step: Step) -> bool:
        """Ask the client when that is due; whether the session was waited for in vain."""
        if self._gone_at is not None and step.now >= self._gone_at:
            return True
        if self._ask_at is not None and step.now >= self._ask_at:
            self._ask(step)
        return False

    def next_timeout(self) -> float | None:
        """When `is_over` is due."""
        times = [time for time in (self._ask_at, self._gone_at) if time is not None]
        return min(times, default=None)
