"""Every knob of the node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from google.protobuf import json_format
from livekit.protocol.room import RoomConfiguration
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator
from pydantic.alias_generators import to_camel
from pydantic_settings import NoDecode, SettingsConfigDict

from chassis.roles import BUILT_IN
from chassis.settings import ChassisSettings, RolesSetting, TextList
from sfu.core.codecs import DEFAULT_ENABLED


class TurnServerSettings(BaseModel):
    """A TURN server of yours that clients are told of: with fixed credentials, or with a secret that
    it shares (coturn: use-auth-secret), from which each participant gets credentials of its own."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    host: str = Field(min_length=1)
    port: int = Field(ge=1, le=65535)
    protocol: Literal["udp", "tcp", "tls"] = "udp"
    username: str = ""
    credential: SecretStr = SecretStr("")
    credential_file: Path | None = None
    """A file that holds `credential`."""
    secret_file: Path | None = None
    """A file that holds the shared secret, in place of user name and credential."""
    ttl_s: int = Field(default=4 * 3600, ge=60, le=24 * 3600)
    """How long credentials made from the secret are good for."""

    @model_validator(mode="after")
    def _has_one_sort_of_credentials(self) -> TurnServerSettings:
        is_fixed = bool(self.credential.get_secret_value() or self.credential_file)
        if self.secret_file is not None and (self.username or is_fixed):
            raise ValueError("secretFile takes the place of username and credential: give one")
        if bool(self.username) != is_fixed:
            raise ValueError("username and credential (or credentialFile) go together")
        return self


def _presets(value: Any) -> dict[str, RoomConfiguration]:
    try:
        given = json.loads(value or "{}") if isinstance(value, str) else value
        rows = dict(given).items()
    except (ValueError, TypeError):
        raise ValueError("room presets: not a JSON object") from None
    presets = {}
    for name, configuration in rows:
        if isinstance(configuration, RoomConfiguration):
            presets[name] = configuration
            continue
        try:
            presets[name] = json_format.ParseDict(configuration, RoomConfiguration())
        except (json_format.ParseError, TypeError, AttributeError) as error:
            raise ValueError(f"room preset {name!r}: {error}") from None
    return presets


Presets = Annotated[dict[str, Any], NoDecode, BeforeValidator(_presets)]


class SfuSettings(ChassisSettings):
    """Where media flows, what rooms are like by default, and what is too large."""

    model_config = SettingsConfigDict(env_prefix="SFU_")

    placement_address: str = "127.0.0.1:7890"
    """Where leases are given back; empty: nowhere."""

    udp_addresses: TextList = ("127.0.0.1:7882",)
    """host:port of each UDP socket of the media engine; port 0 picks a free one."""
    tcp_addresses: TextList = ("127.0.0.1:7881",)
    """host:port of each ICE-TCP listener (RFC 6544)."""
    node_ip: str = ""
    """Told to clients in place of the bound host (1:1 NAT); one IP address, or one of each family
    separated by a comma. Empty: bound hosts are told, and for wildcards an address is looked for."""
    expose: Literal["", "hostPort", "hostNetwork", "loadBalancer", "turnOnly"] = ""
    """How clients reach this pod, which says where to look for its address; empty: not in a pod."""
    host_ip: str = ""
    """The machine's own addresses, one of each family at most; told when nothing better is found."""
    pod_ip: str = ""
    """The pod's own addresses; told with turnOnly."""
    stun_servers: tuple[str, ...] = ()
    """host:port of servers that are asked how they see this machine; none: nobody is asked."""
    turn_servers: tuple[TurnServerSettings, ...] = ()
    """TURN servers that clients may be relayed by; a JSON list."""
    client_stun_servers: TextList = ()
    """host:port of STUN servers that clients are told of; they need none to reach this node."""
    address_timeout_s: float = Field(default=300.0, gt=0)
    """How long the start waits for placement, and for a load balancer's address."""
    max_peer_connections: int = Field(default=4096, ge=1)
    participant_limit: int = Field(default=2000, ge=1)
    """Participants of all rooms; joins above this are refused, and placement sends no new rooms."""
    track_limit: int = Field(default=0, ge=0)
    """Tracks in and out, counted together as `participant_limit` counts; 0: no limit."""
    bytes_per_s_limit: float = Field(default=0.0, ge=0)
    """Media in and out together, above which placement sends no new rooms here; 0: no limit."""
    cpu_load_limit: float = Field(default=0.0, ge=0, le=1)
    """Share of the cores the process may use, above which placement sends no new rooms; 0: no limit."""

    spool_directory: Path | None = None
    """Where events wait while NATS is away, also over the end of the process; none: in memory."""
    spool_max_bytes: int = Field(default=64 * 1024 * 1024, ge=64 * 1024)
    """Of events that wait; what comes when it is full is lost."""

    pod_name: str = ""
    """The pod this process runs in; empty outside of Kubernetes."""
    kubernetes_node: str = ""
    """The Kubernetes node that pod runs on."""

    empty_timeout_s: int = Field(default=300, ge=1)
    """A room nobody ever joined ends after this."""
    departure_timeout_s: int = Field(default=20, ge=1)
    """A room everybody left ends after this."""
    max_duration_s: int = Field(default=0, ge=0)
    """A room ends after this, whoever is in it, unless its tag `roomwright.max_duration` says otherwise; 0: never."""
    max_participants: int = Field(default=0, ge=0)
    """Participants of a room, recorders and agents not counted; 0: as many as come."""
    enable_remote_unmute: bool = False
    """Let the RoomService API unmute somebody's track."""
    enable_full_room_in_webhooks: bool = False
    """Webhooks about tracks hold all of the room, not its sid and name alone."""
    roles: RolesSetting = Field(default_factory=lambda: dict(BUILT_IN))
    """Named bundles of grants; signaling's are to be the same."""
    room_presets: Presets = Field(default_factory=dict)
    """Named RoomConfiguration messages as JSON, for `roomPreset` in tokens and `room_preset` in calls."""
    enabled_codecs: tuple[str, ...] = DEFAULT_ENABLED
    active_red_encoding: bool = False
    """Repeat Opus as RED to who takes it, although its publisher does not."""
    codec_regression_threshold: int = Field(default=5, ge=0)
    """In rooms with fewer participants a backup codec takes the place of the first one; 0: never,
    unless the publisher insists."""
    subscription_limit_audio: int = Field(default=0, ge=0)
    """Audio tracks one participant may get at once, more wait for a free place; 0: no limit."""
    subscription_limit_video: int = Field(default=0, ge=0)
    """Video tracks one participant may get at once, more wait for a free place; 0: no limit."""
    simulate_allowed: bool = False
    """Obey the SimulateScenario requests of SDK tests."""

    max_metadata_bytes: int = Field(default=512 * 1024, ge=0)
    """Of a room or participant; 0: no limit."""
    max_attributes_bytes: int = Field(default=64 * 1024, ge=0)
    """Of one participant, keys and values together; 0: no limit."""
    max_name_bytes: int = Field(default=256, ge=0)

    enable_data_tracks: bool = True
    """Let participants publish data tracks."""
    enable_data_blobs: bool = False
    """Let participants store small contents for the others to get."""

    link_grace_s: float = Field(default=20.0, gt=0)
    """How long another node of a room may be unreachable before its participants are gone."""
