"""Every knob of placement."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from chassis.settings import ChassisSettings
from placement.core.choose import Algorithm, Policy, Region, Selector, SortBy, Strategy


def _labels(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in value.split(",") if part.strip()]
    if any(not key.strip() or not equals or key.endswith("!") for key, equals, _ in pairs):
        raise ValueError("write it as key=value,key=value")
    return {key.strip(): wanted.removeprefix("=").strip() for key, _, wanted in pairs}


class RegionSettings(BaseModel):
    """Where a region is, in degrees."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    lat: float = Field(ge=-90, le=90)
    lon: float = Field(ge=-180, le=180)


class PlacementSettings(ChassisSettings):
    """When a node counts as silent, how long a caller waits, and which node gets a room."""

    model_config = SettingsConfigDict(env_prefix="PLACEMENT_")

    grpc_address: str = "127.0.0.1:7890"
    node_stale_after_s: float = Field(default=5.0, gt=0)
    """Silence after which a node gets no rooms, and its rooms may be taken over."""
    node_gone_after_s: float = Field(default=60.0, gt=0)
    """Silence after which a node is forgotten."""
    takeover_after_s: float = Field(default=10.0, gt=0)
    """Silence after which a node's rooms are given to others although nobody came back to them."""
    sweep_interval_s: float = Field(default=2.0, gt=0)
    """How often such rooms are looked for."""
    nodes_patience_s: float = Field(default=2.0, ge=0)
    """How long a call waits, after a start, until the nodes are known."""

    node_selector: Selector = "any"
    """Nodes looked at: any, those under `cpu_load_limit` (cpuload) or `system_load_limit` (sysload), or, of the latter,
    those of the nearest region (regionaware)."""
    node_sort_by: SortBy = "load"
    """What nodes are compared by; `load` is the scarcest of processor, participants, tracks and bytes of each."""
    node_algorithm: Algorithm = "twochoice"
    """`lowest`: the best of all nodes; `twochoice`: the better of two drawn ones, which herds less."""
    node_strategy: Strategy = "spread"
    """`spread`: to the node with the least; `pack`: to the fullest that has capacity, so that others can be removed."""
    cpu_load_limit: float = Field(default=0.9, ge=0, le=1)
    """0: none. Nodes may have a limit of their own, which counts with every selector."""
    system_load_limit: float = Field(default=0.9, ge=0)
    """Of the load average over the cores; 0: none."""
    regions: tuple[RegionSettings, ...] = ()
    """JSON list of {name, lat, lon}: where the regions are, for `regionaware`."""

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
    """Of these Services, for pods that declare no port named `media-udp`."""
    media_tcp_port: int = Field(default=7881, ge=0, le=65535)
    """0: no ICE-TCP."""

    @model_validator(mode="after")
    def _require_a_place_in_kubernetes(self) -> PlacementSettings:
        if self.kubernetes and not (self.kubernetes_namespace and self.sfu_selector):
            raise ValueError("kubernetes needs kubernetes_namespace and sfu_selector")
        return self

    @model_validator(mode="after")
    def _refuse_what_cannot_work(self) -> PlacementSettings:
        if self.takeover_after_s < self.node_stale_after_s:
            raise ValueError("takeover_after_s is less than node_stale_after_s")
        names = [region.name for region in self.regions]
        if len(set(names)) < len(names):
            raise ValueError("regions: a name is there twice")
        if self.node_selector == "regionaware" and not names:
            raise ValueError(
                "node_selector=regionaware needs regions: a JSON list of name, lat, lon"
            )
        if self.node_strategy == "pack" and self.node_sort_by == "random":
            raise ValueError("node_strategy=pack needs a node_sort_by other than random")
        return self

    @property
    def policy(self) -> Policy:
        """How rooms are placed, for the core."""
        regions = {
            region.name: Region(region.name, region.lat, region.lon) for region in self.regions
        }
        return Policy(
            selector=self.node_selector,
            sort_by=self.node_sort_by,
            algorithm=self.node_algorithm,
            strategy=self.node_strategy,
            cpu_load_limit=self.cpu_load_limit,
            system_load_limit=self.system_load_limit,
            regions=MappingProxyType(regions),
        )
