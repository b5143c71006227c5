"""Every knob of placement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from chassis.settings import ChassisSettings


def _labels(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in value.split(",") if part.strip()]
    if any(not key.strip() or not equals or key.endswith("!") for key, equals, _ in pairs):
        raise ValueError("write it as key=value,key=value")
    return {key.strip(): wanted.removeprefix("=").strip() for key, _, wanted in pairs}


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

    kubernetes: bool = False
    """Use the API of the cluster this runs in: addresses, cordons, deletion costs, Services of pods."""
    kubernetes_namespace: str = ""
    """Where the sfu's pods are."""
    sfu_selector: Annotated[dict[str, str], NoDecode, BeforeValidator(_labels)] = Field(
        default_factory=dict
    )
    """`key=value,key=value`: the labels that every sfu pod of this release has, and no other pod."""
    expose: Literal["hostPort", "hostNetwork", "loadBalancer", "turnOnly"] = "hostPort"
    """How clients reach the sfu's pods; with loadBalancer, each gets a Service from here."""
    service_annotations: Mapping[str, str] = Field(default_factory=dict)
    """Of these Services; a change holds for those made from then on."""
    service_type_class: str = ""
    """Their loadBalancerClass; empty: the cluster's default."""
    media_udp_port: int = Field(default=7882, ge=1, le=65535)
    """Of these Services and of the pods."""
    media_tcp_port: int = Field(default=7881, ge=0, le=65535)
    """0: no ICE-TCP."""

    @model_validator(mode="after")
    def _require_a_place_in_kubernetes(self) -> PlacementSettings:
        if self.kubernetes and not (self.kubernetes_namespace and self.sfu_selector):
            raise ValueError("kubernetes needs kubernetes_namespace and sfu_selector")
        return self
