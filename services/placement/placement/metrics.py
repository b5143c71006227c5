"""Every metric of placement."""

from __future__ import annotations

from chassis.telemetry import Metrics
from placement.core.nodes import NodeRegistry


class PlacementMetrics:
    """Counters of decisions; `assignments` by result: kept, created, taken_over, refused."""

    def __init__(self, metrics: Metrics) -> None:
        self.assignments = metrics.counter(
            "roomwright_placement_assignments_total", "Rooms assigned, by result.", ["result"]
        )
        self.bad_records = metrics.counter(
            "roomwright_placement_bad_records_total", "Node records that could not be read."
        )
        self._nodes = metrics.gauge("roomwright_placement_nodes", "Nodes with a record.")

    def watch(self, registry: NodeRegistry) -> None:
        """Show the size of the registry."""
        self._nodes.read_by(lambda: float(len(registry)))
