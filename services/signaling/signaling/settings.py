"""Every knob of signaling."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_settings import SettingsConfigDict

from chassis.roles import BUILT_IN
from chassis.settings import ChassisSettings, RolesSetting, TextList
from signaling.core.addresses import networks


def _networks(texts: tuple[str, ...]) -> tuple[str, ...]:
    networks(texts)
    return texts


class SignalingSettings(ChassisSettings):
    """Where it listens, where placement is, and what it serves beside the protocol."""

    model_config = SettingsConfigDict(env_prefix="SIGNALING_")

    http_addresses: TextList = ("127.0.0.1:7880",)
    placement_address: str = "127.0.0.1:7890"
    auto_create: bool = True
    roles: RolesSetting = Field(default_factory=lambda: dict(BUILT_IN))
    """Named bundles of grants; the nodes' are to be the same."""

    trusted_proxies: Annotated[TextList, AfterValidator(_networks)] = ()
    """Networks whose `X-Forwarded-For` is believed: 10.0.0.0/8,192.0.2.7"""
    joins_per_second_per_address: float = Field(default=100.0, ge=0)
    """Joins, resumes and validations of one IPv4 address or IPv6 /64 network, over time; 0: no limit."""
    joins_burst_per_address: float = Field(default=1000.0, ge=1)
    """As many at once: a school behind one address joins together."""
    api_calls_per_second_per_key: float = Field(default=1000.0, ge=0)
    """0: no limit."""
    api_burst_per_key: float = Field(default=5000.0, ge=1)
    drain_delay_s: float = Field(default=0.0, ge=0)
    """How long a stopping replica serves on, until load balancers have noticed; part of `drain_timeout_s`."""

    web_directory: Path | None = None  # served under /app/ when set
