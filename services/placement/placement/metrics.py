"""Every metric of placement. Each replica shows the same nodes and rooms: dashboards take the greatest, not the sum."""

from __future__ import annotations

from collections.abc import Callable

from chassis.telemetry import Metrics
from placement.core.leases import LeaseCache
from placement.core.nodes import Census


class PlacementMetrics:
    """Counters of decisions, and what the nodes together can take."""

    def __init__(self, metrics: Metrics) -> None:
        self.assignments = metrics.counter(
            "roomwright_placement_assignments_total",
            "Rooms assigned, by result: kept, created, taken_over, refused.",
            ["result"],
        )
        self.takeovers = metrics.counter(
            "roomwright_placement_takeovers_total",
            "Rooms given to another node, by why the holder lost them: silent, replaced.",
            ["reason"],
        )
        self.asks = metrics.counter(
            "roomwright_placement_asks_total",
            "Silent nodes asked directly, by what came back: answered, replaced, silent.",
            ["answer"],
        )
        self.reclaimed = metrics.counter(
            "roomwright_placement_reclaimed_total",
            "Leases written again because the store had lost them.",
        )
        self.bad_records = metrics.counter(
            "roomwright_placement_bad_records_total", "Records that could not be read."
        )
        self._rooms = metrics.gauge("roomwright_placement_rooms", "Rooms with a home.")
        self._nodes = metrics.gauge(
            "roomwright_placement_nodes", "Nodes by state: fresh, draining, silent.", ["state"]
        )
        self._participants = metrics.gauge(
            "roomwright_placement_participants", "Participants on nodes that are not silent."
        )
        self._capacity = metrics.gauge(
            "roomwright_placement_participant_capacity",
            "Participant limits of fresh nodes together; nodes without a limit add nothing.",
        )
        self._free = metrics.gauge(
            "roomwright_placement_free_participants",
            "Participants that fresh nodes with a limit can still take.",
        )

    def watch(self, cache: LeaseCache, census: Callable[[], Census]) -> None:
        """Show the rooms and nodes as they are when somebody looks."""
        self._rooms.read_by(lambda: float(len(cache)))
        self._nodes.read_rows_by(lambda: _by_state(census()))
        self._participants.read_by(lambda: float(census().participants))
        self._capacity.read_by(lambda: float(census().participant_capacity))
        self._free.read_by(lambda: float(census().free_participants))


def _by_state(census: Census) -> dict[tuple[str, ...], float]:
    return {
        ("fresh",): float(census.fresh),
        ("draining",): float(census.draining),
        ("silent",): float(census.silent),
    }
