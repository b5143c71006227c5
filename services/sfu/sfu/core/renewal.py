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

    @property
    def lapses_at(self) -> float:
        """From this time on the leases are not certain."""
        return self._at + LEASE_LIFE

    def renew(self, at: float) -> None:
        """The leases were renewed by something that was said at `at`; older news changes nothing."""
        self._at = max(self._at, at)

    def is_lapsed(self, now: float) -> bool:
        """May somebody else have taken the leases by now?"""
        return now >= self.lapses_at
