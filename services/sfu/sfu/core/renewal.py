"""How long this node may change the rooms it holds leases of.

A lease is renewed by every heartbeat the store acknowledged, and by placement's own question when
it can reach the store. What it is not: who holds which lease (that is placement's); a lapsed lease
may still be this node's, but somebody else may be about to take it.
"""

from __future__ import annotations

LEASE_LIFE = 5.0
"""Seconds after the last renewal in which nobody else takes the node's leases (architecture: leases)."""


class Renewal:
    """When the node's leases were last renewed; one for all of them. Times in monotonic seconds."""

    def __init__(self, now: float) -> None:
        # A node without a first heartbeat is not known to placement: it has no rooms to lose.
        self._at = now
        self._doubted_at: float | None = None

    @property
    def lapses_at(self) -> float:
        """From this time on the leases are not certain, unless they are renewed."""
        return self._at + LEASE_LIFE

    @property
    def is_doubtful(self) -> bool:
        """Had they lapsed before they were renewed, so that some may have been taken meanwhile?"""
        return self._doubted_at is not None

    def renew(self, at: float, now: float) -> None:
        """The leases were renewed by something that was said at `at`; older news changes nothing."""
        if now >= self.lapses_at:
            self._doubted_at = now
        self._at = max(self._at, at)

    def confirm(self, asked_at: float) -> None:
        """Which leases are this node's is known as of `asked_at`; doubts that came later stay."""
        if self._doubted_at is not None and asked_at >= self._doubted_at:
            self._doubted_at = None

    def is_lapsed(self, now: float) -> bool:
        """May somebody else have taken the leases by now?"""
        return self.is_doubtful or now >= self.lapses_at
