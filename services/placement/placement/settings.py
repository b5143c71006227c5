"""Every knob of placement."""

from __future__ import annotations

from pydantic_settings import SettingsConfigDict

from chassis.settings import ChassisSettings


class PlacementSettings(ChassisSettings):
    """When a node counts as silent, and for how long a caller waits."""

    model_config = SettingsConfigDict(env_prefix="PLACEMENT_")

    grpc_address: str = "127.0.0.1:7890"
    node_stale_after_s: float = 5.0
    """Silence after which a node gets no rooms, and its rooms may be taken over."""
    node_gone_after_s: float = 60.0
    """Silence after which the rooms nobody took over are over."""
    sweep_interval_s: float = 10.0
    nodes_patience_s: float = 2.0
    """How long a call waits, after a start, until the nodes are known."""
