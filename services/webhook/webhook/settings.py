"""Every knob of the webhook service."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from chassis.errors import SettingsError
from chassis.settings import ChassisSettings, TextList
from webhook.core.delivery import Policy
from webhook.core.guard import PRIVATE, networks
from webhook.core.targets import Target, listed, parse_targets


class WebhookSettings(ChassisSettings):
    """Whom to tell, with which key, how patiently, and where requests may go."""

    model_config = SettingsConfigDict(env_prefix="WEBHOOK_")

    urls: Annotated[tuple[Any, ...], NoDecode, BeforeValidator(listed)] = ()
    """URLs, or objects `{"url", "api_key", "project", "include_events", "exclude_events"}`; in the environment JSON, or
    URLs separated by commas."""
    api_key: str = ""
    """Which of the API keys signs; empty: the first."""
    include_events: TextList = ()
    """Events that targets without a filter of their own are told of; empty: all."""
    exclude_events: TextList = ()

    allowed_networks: TextList = PRIVATE
    """Networks beside the public internet that requests may go to. Loopback and link-local addresses are refused
    unless they stand here."""
    timeout_s: float = Field(default=10.0, gt=0)
    """How long a target may take to answer."""
    in_flight: int = Field(default=64, ge=1)
    """Requests at a time to one target."""
    retry_last_delay_s: float = Field(default=600.0, gt=0)
    """The longest time between two attempts of a fact."""
    down_last_delay_s: float = Field(default=60.0, gt=0)
    """The longest time between two questions whether a silent target is back."""
    give_up_after_s: float = Field(default=3 * 24 * 3600.0, gt=0)
    """Age of a fact after which it becomes a dead letter. The stream keeps facts for 7 days."""

    @property
    def targets(self) -> tuple[Target, ...]:
        """The targets, checked."""
        return parse_targets(self.urls, self.include_events, self.exclude_events)

    @property
    def policy(self) -> Policy:
        """How patient to be."""
        return Policy(
            in_flight=self.in_flight,
            last_delay_s=self.retry_last_delay_s,
            down_last_delay_s=self.down_last_delay_s,
            give_up_after_s=self.give_up_after_s,
        )

    @model_validator(mode="after")
    def _check(self) -> WebhookSettings:
        networks(self.allowed_networks)
        try:
            targets = self.targets
        except SettingsError as error:
            raise ValueError(str(error)) from None
        if targets and not self.api_keys:
            raise ValueError("webhooks are signed with an API key, and there is none")
        return self
