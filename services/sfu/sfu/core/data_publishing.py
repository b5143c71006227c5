"""The data tracks one session publishes, from request to end.

It answers the requests and tells the Room what there is. Not the packets of the tracks: the stage
forwards those (stage.py). Limits: LiveKit signal protocol.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Final

from livekit.protocol import models, rtc

from contracts.room.v1 import room_pb2
from sfu.core.data_tracks import MAX_HANDLE
from sfu.core.effects import Step
from sfu.core.limits import MAX_PUBLISH_DATA_TRACK_BYTES
from sfu.core.session import Reason, SignalSession

DATA_TRACK_PREFIX: Final = "DTR_"
MAX_NAME_BYTES: Final = 256
MAX_CUSTOM_ENCODING_BYTES: Final = 32
MAX_DATA_TRACKS: Final = 1024
"""Of one participant: everybody is told of all of them at each change."""


class DataPublishing:
    """What one session publishes by handle. Every method takes the step it may add effects to."""

    def __init__(self, session: SignalSession) -> None:
        self._session = session
        self._tracks: dict[int, models.DataTrackInfo] = {}

    def knows(self, track_sids: Set[str]) -> bool:
        """Whether data tracks of all these sids are published by this session."""
        return track_sids <= {track.sid for track in self._tracks.values()}

    def publish(self, request: rtc.PublishDataTrackRequest, step: Step) -> None:
        """`publish_data_track_response`, or a `request_response` that says why not."""
        refusal = self._refusal(request)
        if refusal is not None:
            self._session.respond_to(step, *refusal, publish_data_track=request)
            return
        track = models.DataTrackInfo(
            pub_handle=request.pub_handle,
            sid=self._session.ids.sid(DATA_TRACK_PREFIX),
            name=request.name,
            encryption=request.encryption,
            frame_encoding=request.frame_encoding if request.HasField("frame_encoding") else None,
            schema=request.schema if request.HasField("schema") else None,
        )
        self._tracks[request.pub_handle] = track
        response = rtc.PublishDataTrackResponse(info=track)
        self._session.respond(step, publish_data_track_response=response)
        published = room_pb2.DataTrackPublished(track=track.SerializeToString())
        self._session.tell_room(step, data_track_published=published)

    def unpublish(self, request: rtc.UnpublishDataTrackRequest, step: Step) -> None:
        """`unpublish_data_track_response`, or NOT_FOUND."""
        if request.pub_handle in self._tracks:
            self._end(request.pub_handle, step)
            return
        message = f"no data track has the handle {request.pub_handle}"
        self._session.respond_to(step, Reason.NOT_FOUND, message, unpublish_data_track=request)

    def unpublish_forbidden(self, permission: models.ParticipantPermission, step: Step) -> None:
        """End all that a changed permission no longer allows."""
        if not permission.can_publish_data:
            for handle in list(self._tracks):
                self._end(handle, step)

    def enter_stage(self, step: Step) -> None:
        """The session is in another room now, which is told of its data tracks."""
        for track in self._tracks.values():
            published = room_pb2.DataTrackPublished(track=track.SerializeToString())
            self._session.tell_room(step, data_track_published=published)

    def _end(self, handle: int, step: Step) -> None:
        track = self._tracks.pop(handle)
        response = rtc.UnpublishDataTrackResponse(info=track)
        self._session.respond(step, unpublish_data_track_response=response)
        ended = room_pb2.DataTrackEnded(track_sid=track.sid)
        self._session.tell_room(step, data_track_ended=ended)

    def _refusal(
        self, request: rtc.PublishDataTrackRequest
    ) -> tuple[rtc.RequestResponse.Reason, str] | None:
        if not self._session.settings.has_data_tracks:
            return Reason.NOT_ALLOWED, "data tracks are not enabled"
        if not self._session.grants.permission.can_publish_data:
            return Reason.NOT_ALLOWED, "does not have permission to publish data"
        if not 1 <= request.pub_handle <= MAX_HANDLE:
            return Reason.INVALID_HANDLE, f"the handle must be within 1..{MAX_HANDLE}"
        if not 1 <= len(request.name.encode()) <= MAX_NAME_BYTES:
            return Reason.INVALID_NAME, f"the name must have 1..{MAX_NAME_BYTES} bytes"
        if _has_bad_encoding(request):
            message = f"a custom encoding must have 1..{MAX_CUSTOM_ENCODING_BYTES} bytes"
            return Reason.INVALID_REQUEST, message
        size = request.ByteSize()
        if size > MAX_PUBLISH_DATA_TRACK_BYTES:
            message = f"the request is {size} bytes, the limit is {MAX_PUBLISH_DATA_TRACK_BYTES}"
            return Reason.LIMIT_EXCEEDED, message
        if request.pub_handle in self._tracks:
            message = f"the handle {request.pub_handle} is in use by another data track"
            return Reason.DUPLICATE_HANDLE, message
        if any(track.name == request.name for track in self._tracks.values()):
            return Reason.DUPLICATE_NAME, "the name is in use by another data track"
        if len(self._tracks) >= MAX_DATA_TRACKS:
            message = f"a participant has at most {MAX_DATA_TRACKS} data tracks"
            return Reason.LIMIT_EXCEEDED, message
        return None


def _has_bad_encoding(request: rtc.PublishDataTrackRequest) -> bool:
    return any(
        encoding.WhichOneof("value") == "custom"
        and not 1 <= len(encoding.custom.encode()) <= MAX_CUSTOM_ENCODING_BYTES
        for encoding in (request.frame_encoding, request.schema.encoding)
    )
