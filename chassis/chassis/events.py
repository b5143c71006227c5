"""Facts of the EVENTS stream as receivers of webhooks and readers of the history see them."""

from __future__ import annotations

from google.protobuf import json_format
from livekit.protocol import webhook

from contracts.events.v1 import events_pb2

SCHEMA = 1


def webhook_event(fact: events_pb2.RoomEvent) -> webhook.WebhookEvent:
    """The public message of a fact. Raises DecodeError when what it holds cannot be read."""
    event = webhook.WebhookEvent(event=fact.name, id=fact.id, created_at=fact.created_at)
    for name in ("room", "participant", "track", "job", "egress_info", "ingress_info"):
        serialized: bytes = getattr(fact, name)
        if serialized:
            getattr(event, name).ParseFromString(serialized)
    # Clients are told the password by their join; nobody else needs it.
    if fact.room:
        event.room.ClearField("turn_password")
    if fact.room_end_reason:
        event.room_end_reason = fact.room_end_reason  # type: ignore[assignment]  # an enum's number
    return event


def webhook_body(fact: events_pb2.RoomEvent) -> bytes:
    """The fact as JSON, as server SDKs parse it: camel case, what is not set left out."""
    return json_format.MessageToJson(webhook_event(fact), indent=None, ensure_ascii=False).encode()
