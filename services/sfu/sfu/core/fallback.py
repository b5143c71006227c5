"""Which transport a participant's ICE prefers, after others failed it (LiveKit: ICE fallback).

Kept by identity for one room on this node, since a client that could not be reached by UDP comes
back as a new session. It only decides; candidates are filtered in connections.py, relays are forced
in greetings.py.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

SHORT_LIVED_S = 90.0
"""A connection that failed within this time is reason enough to change by itself."""
FAILURE_WINDOW_S = 60.0
"""Two failures within this time are reason enough, too."""
KEPT_S = 300.0
"""After this time without a failure the network is tried as any other again."""
SLOW_SIGNAL_MS = 1500
"""With a round trip above this, TCP would not do better than UDP (head-of-line blocking)."""


class Preference(enum.IntEnum):
    """Numbered as livekit.CandidateProtocol."""

    ANY = 0
    TCP = 1
    RELAY = 2  # TURN over TLS

    @property
    def allows_udp(self) -> bool:
        """Whether UDP candidates are sent and accepted."""
        return self is not Preference.TCP


@dataclass(frozen=True, slots=True)
class Choices:
    """What can be changed to: a node without an ICE-TCP port has no TCP, one without TURN no relay."""

    has_tcp: bool
    has_relay: bool

    def nearest(self, wanted: Preference) -> Preference:
        """The wanted preference, or the one before it that can be had."""
        if wanted is Preference.RELAY and not self.has_relay:
            wanted = Preference.TCP
        if wanted is Preference.TCP and not self.has_tcp:
            return Preference.ANY
        return wanted

    def after(self, present: Preference, *, may_use_tcp: bool) -> Preference:
        """What to try when `present` failed; itself when nothing is left."""
        if present is Preference.ANY and self.has_tcp and may_use_tcp:
            return Preference.TCP
        return Preference.RELAY if self.has_relay else present


@dataclass(slots=True)
class _History:
    preference: Preference = Preference.ANY
    failed_at: float | None = None
    changed_at: float = 0.0


class Fallbacks:
    """The preferences of one room's participants. Times are monotonic seconds."""

    def __init__(self, choices: Choices) -> None:
        self._choices = choices
        self._histories: dict[str, _History] = {}

    def of(self, identity: str, now: float) -> Preference:
        """What to negotiate with a participant now."""
        history = self._histories.get(identity)
        if history is None or now > history.changed_at + KEPT_S:
            return Preference.ANY
        return history.preference

    def prefer(self, identity: str, wanted: Preference, now: float) -> Preference:
        """Ask for a transport; the nearest there is, which is kept."""
        history = self._history(identity, now)
        history.preference = self._choices.nearest(wanted)
        return history.preference

    def note_failure(
        self, identity: str, now: float, *, lived: float | None, may_use_tcp: bool = True
    ) -> Preference:
        """A connection failed after `lived` seconds (None: it never came up); what to use next."""
        history = self._history(identity, now)
        is_short = lived is not None and lived < SHORT_LIVED_S
        is_second = history.failed_at is not None and now - history.failed_at <= FAILURE_WINDOW_S
        if is_short or is_second:
            history.failed_at = None
            history.preference = self._choices.after(history.preference, may_use_tcp=may_use_tcp)
        else:
            history.failed_at = now
        return history.preference

    def _history(self, identity: str, now: float) -> _History:
        kept = {
            name: row for name, row in self._histories.items() if now <= row.changed_at + KEPT_S
        }
        self._histories = kept
        history = kept.setdefault(identity, _History())
        history.changed_at = now
        return history
