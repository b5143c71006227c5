"""What a new room is to be like: what was asked for, on top of a named preset, or why it cannot be.

What it is not: the limits a running room has, which are in its `livekit.Room`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from google.protobuf.message import Message
from livekit.protocol import room as api

from sfu.core.profile import ProfileLimits
from sfu.core.room_events import ApiError

OPTIONS_PREFIX = "roomwright."
"""Tags that begin so are options of the room that LiveKit's messages have no field for."""
MAX_DURATION = OPTIONS_PREFIX + "max_duration"
"""Seconds after which the room ends whoever is in it."""
PERSISTENT = OPTIONS_PREFIX + "persistent"
"""`true`: the room stays when nobody is in it, over restarts, until it is deleted."""
LONGEST_S = 366 * 24 * 3600

MAX_PLAYOUT_DELAY_MS = 40_950  # what the RTP header extension can say
_SECRETS = frozenset(
    (
        "access_key",
        "account_key",
        "credentials",
        "password",
        "secret",
        "session_token",
        "signing_key",
    )
)
_STREAM_KEYS = frozenset(("urls",))


@dataclass(frozen=True, slots=True)
class RoomWish:
    """How a room is asked for; in a token it is kept until the room has to be made."""

    configuration: api.RoomConfiguration = field(default_factory=api.RoomConfiguration)
    preset: str = ""
    is_from_token: bool = False


def settle(
    wish: RoomWish, presets: Mapping[str, api.RoomConfiguration], limits: ProfileLimits
) -> api.RoomConfiguration:
    """The configuration that is meant. Raises ApiError for what cannot be had."""
    settled = api.RoomConfiguration()
    if wish.preset:
        if wish.preset not in presets:
            known = ", ".join(sorted(presets)) or "none"
            text = f"there is no room preset {wish.preset[:64]!r}: the presets are {known}"
            raise ApiError("invalid_argument", text)
        settled.CopyFrom(presets[wish.preset])
    if wish.is_from_token and _holds_secret(wish.configuration.egress):
        text = (
            "roomConfig in a token must not hold storage secrets or stream keys: name a room preset"
        )
        raise ApiError("invalid_argument", text)
    if wish.configuration.agents:
        del settled.agents[:]
    settled.MergeFrom(wish.configuration)
    if settled.HasField("egress") and settled.egress.ByteSize():
        text = "egress is not connected to this server: leave `egress` out"
        raise ApiError("failed_precondition", text)
    _check(settled, limits)
    return settled


def wish_of(request: api.CreateRoomRequest) -> RoomWish:
    """What a call asks for; nothing is meant by what is zero or empty."""
    configuration = api.RoomConfiguration(
        empty_timeout=request.empty_timeout,
        departure_timeout=request.departure_timeout,
        max_participants=request.max_participants,
        metadata=request.metadata,
        min_playout_delay=request.min_playout_delay,
        max_playout_delay=request.max_playout_delay,
        sync_streams=request.sync_streams,
        agents=request.agents,
        tags=dict(request.tags),
    )
    if request.HasField("egress"):
        configuration.egress.CopyFrom(request.egress)
    return RoomWish(configuration, request.room_preset)


def _check(configuration: api.RoomConfiguration, limits: ProfileLimits) -> None:
    excess = limits.excess(metadata=configuration.metadata)
    for agent in configuration.agents:
        excess = excess or limits.excess(
            name=agent.agent_name, metadata=agent.metadata, attributes=dict(agent.attributes)
        )
    least, most = configuration.min_playout_delay, configuration.max_playout_delay
    if excess is None and max(least, most) > MAX_PLAYOUT_DELAY_MS:
        excess = f"playout delay is {max(least, most)} ms, the limit is {MAX_PLAYOUT_DELAY_MS}"
    if excess is None and most and least > most:
        excess = f"min_playout_delay is {least} ms, above max_playout_delay of {most}"
    excess = excess or _wrong_option(configuration.tags)
    if excess is not None:
        raise ApiError("invalid_argument", excess)


def max_duration_s(tags: Mapping[str, str]) -> int:
    """How long a room of these tags may last, in seconds; 0: they do not say."""
    return int(tags.get(MAX_DURATION, "0"))


def is_persistent(tags: Mapping[str, str]) -> bool:
    """Does a room of these tags stay when nobody is in it?"""
    return tags.get(PERSISTENT) == "true"


def _wrong_option(tags: Mapping[str, str]) -> str | None:
    for name, value in tags.items():
        if name == MAX_DURATION:
            is_number = value.isascii() and value.isdecimal() and len(value) < 10
            if not is_number or not 1 <= int(value) <= LONGEST_S:
                return f"tag {MAX_DURATION} must be seconds, 1 to {LONGEST_S}"
        elif name == PERSISTENT:
            if value not in ("true", "false"):
                return f"tag {PERSISTENT} must be true or false"
        elif name.startswith(OPTIONS_PREFIX):
            return f"there is no option {name[:64]!r}: there are {MAX_DURATION} and {PERSISTENT}"
    if is_persistent(tags) and MAX_DURATION in tags:
        return f"a room is {PERSISTENT} or has {MAX_DURATION}, not both"
    return None


def _holds_secret(message: Message) -> bool:
    for descriptor, value in message.ListFields():
        if descriptor.name in _SECRETS or descriptor.name in _STREAM_KEYS:
            return True
        if descriptor.message_type is None or descriptor.message_type.GetOptions().map_entry:
            continue
        parts = [value] if isinstance(value, Message) else value
        if any(_holds_secret(part) for part in parts):
            return True
    return False
