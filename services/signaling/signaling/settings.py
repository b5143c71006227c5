"""Every knob of signaling."""

from pathlib import Path

from pydantic_settings import SettingsConfigDict

from chassis.settings import ChassisSettings, TextList


class SignalingSettings(ChassisSettings):
    """Where it listens, where placement is, and what it serves beside the protocol."""

    model_config = SettingsConfigDict(env_prefix="SIGNALING_")

    http_addresses: TextList = ("127.0.0.1:7880",)
    placement_address: str = "127.0.0.1:7890"
    auto_create: bool = True
    web_directory: Path | None = None  # served under /app/ when set
