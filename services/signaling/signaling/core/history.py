"""One fact of the EVENTS stream as the history tells it, and whether somebody asked for it."""

from __future__ import annotations

from livekit.protocol import models

from chassis.projects import split
from contracts.events.v1 import events_pb2
from contracts.history.v1 import history_pb2

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000


def is_wanted(
    fact: events_pb2.RoomEvent, request: history_pb2.ListEventsRequest, project: str
) -> bool:
    """Does the request mean this fact? All but the identity, which only the told fact has."""
    if fact.replay_to or fact.project != project:
        return False
    if request.room and split(fact.room_name)[1] != request.room:
        return False
    if request.room_sid not in ("", fact.room_sid):
        return False
    if request.events and fact.name not in request.events:
        return False
    return request.since <= fact.created_at and (
        not request.until or fact.created_at <= request.until
    )


def told(fact: events_pb2.RoomEvent) -> history_pb2.Event:
    """The fact in words. Raises DecodeError when what it holds cannot be read."""
    participant = models.ParticipantInfo.FromString(fact.participant)
    track = models.TrackInfo.FromString(fact.track)
    event = history_pb2.Event(
        id=fact.id,
        event=fact.name,
        created_at=fact.created_at,
        room=split(fact.room_name)[1],
        room_sid=fact.room_sid,
        identity=participant.identity,
        participant_sid=participant.sid,
        participant_name=participant.name,
    )
    if fact.track:
        event.track_sid, event.mime_type = track.sid, track.mime_type
        event.track_source = _name(models.TrackSource, track.source)
        event.track_type = _name(models.TrackType, track.type)
    if participant.disconnect_reason:
        event.reason = _name(models.DisconnectReason, participant.disconnect_reason)
    if fact.room_end_reason:
        event.reason = _name(models.RoomEndReason, fact.room_end_reason)
    return event


def _name(enum: object, number: int) -> str:
    """The value's name, or its number when a later release made it."""
    try:
        return str(enum.Name(number))  # type: ignore[attr-defined]
    except ValueError:
        return str(number)
