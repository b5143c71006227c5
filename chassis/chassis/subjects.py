"""Every stream, subject and bucket name, once.

Subjects are `<area>.<noun>.<verb-past>` for messages, and `events.<partition>.<event name>` for the
durable facts: a consumer of one partition sees the facts of its rooms in order and no others.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Stream:
    """A durable stream on the bus: refuses new messages when full, drops repeated message ids."""

    name: str
    subjects: tuple[str, ...]
    max_bytes: int
    max_age_s: float
    duplicate_window_s: float


@dataclass(frozen=True, slots=True)
class Bucket:
    """A key-value bucket; one revision per key is kept."""

    name: str
    max_value_bytes: int = 512 * 1024
    """A NATS message is limited to 1 MB; larger values belong in the object store."""
    ttl_s: float | None = None
    """Entries nobody rewrote for so long are cleared away; no watch tells, nothing decides by it."""


EVENTS: Final = Stream(
    name="EVENTS",
    subjects=("events.>",),
    max_bytes=256 * 1024 * 1024,
    max_age_s=7 * 24 * 3600,
    duplicate_window_s=120,
)
EVENT_PARTITIONS: Final = 64

NODES: Final = Bucket("nodes", max_value_bytes=16 * 1024, ttl_s=120)
ROOMS: Final = Bucket("rooms", max_value_bytes=16 * 1024)
CHECKPOINTS: Final = Bucket("checkpoints", max_value_bytes=1000 * 1000)
"""What a room's next home needs: keys are `kv.path(room name)` and `kv.path(room name, sid)`."""


KEYS: Final = Bucket("keys", max_value_bytes=4 * 1024)
"""API keys that the whole cluster knows, beside those of settings: `chassis.keys`."""
REVOCATIONS: Final = Bucket("revocations", max_value_bytes=1024)
"""Tokens that are refused: `chassis.revocations`."""
WEBHOOK_SHARDS: Final = Bucket("webhook_shards", max_value_bytes=1024)
"""Which replica of the webhook service delivers which part of EVENTS, and which replicas there are."""
WEBHOOK_PROGRESS: Final = Bucket("webhook_progress", max_value_bytes=256 * 1024)
"""How far each target has got: keys are `kv.path(target id, shard)`."""
WEBHOOKS_DEAD: Final = Stream(
    name="WEBHOOKS_DEAD",
    subjects=("webhooks.dead.*",),
    max_bytes=64 * 1024 * 1024,
    max_age_s=30 * 24 * 3600,
    duplicate_window_s=120,
)
"""Facts that a webhook target did not take: `webhooks.dead.<target id>`."""

ROOM_TAKEN_OVER: Final = "rooms.taken_over"
"""A room has another home since its holder was lost: `contracts.placement.v1.Lease`, told once."""


def event_subject(room_name: str, event_name: str) -> str:
    """The subject of one fact about a room; the same room always has the same partition."""
    return f"events.{event_partition(room_name)}.{event_name}"


def event_partition(room_name: str) -> int:
    """Which part of EVENTS has the room's facts."""
    return zlib.crc32(room_name.encode()) % EVENT_PARTITIONS


def partition_subject(partition: int) -> str:
    """All facts of one part."""
    return f"events.{partition}.>"


def dead_letter_subject(target_id: str) -> str:
    """Where a webhook target's dead letters are."""
    return f"webhooks.dead.{target_id}"
