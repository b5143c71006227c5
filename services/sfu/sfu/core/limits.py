"""How much one client's requests may name or carry: the numbers, in one place.

What is kept of a request, and what others are told of it, has to be bounded by these. Sizes are bytes
of UTF-8. Not the limits of a profile, which an operator sets (profile.py), nor of what the engine
takes (SDP: the media core). Each is far above what the published SDKs send.
"""

from __future__ import annotations

from collections.abc import Sized
from typing import Final

from livekit.protocol import rtc

MAX_SID_BYTES: Final = 64
"""Of a track's sid that a client names; a longer one can name nothing."""
MAX_WISHES: Final = 4096
"""Tracks one participant may have wishes or settings for, each kind of them."""
MAX_TRACKS_PER_REQUEST: Final = 4096
MAX_PERMISSIONS: Final = 4096
"""Participants and track sids that one subscription_permission may name."""
MAX_TRACK_NAME_BYTES: Final = 1024
MAX_TRACK_ID_BYTES: Final = 256
"""Of a cid and of a stream's name."""
MAX_TRACK_LIST: Final = 16
"""Entries of each list of an AddTrackRequest."""
MAX_ADD_TRACK_BYTES: Final = 8192
"""Of a whole AddTrackRequest, with what this release does not know."""
MAX_PUBLISH_DATA_TRACK_BYTES: Final = 2048
"""Of a whole PublishDataTrackRequest."""
MAX_CANDIDATE_BYTES: Final = 4096
"""Of one trickled candidate."""


def excess_of_add_track(request: rtc.AddTrackRequest) -> str | None:
    """What is too large in the announcement of a track; None when all fits."""
    cids = (request.cid, *(codec.cid for codec in request.simulcast_codecs))
    lists: tuple[tuple[str, Sized], ...] = (
        ("layers", request.layers),
        ("simulcast_codecs", request.simulcast_codecs),
        ("audio_features", request.audio_features),
        ("packet_trailer_features", request.packet_trailer_features),
        *(("layers of a codec", codec.layers) for codec in request.simulcast_codecs),
    )
    for what, size, limit in (
        ("name", len(request.name.encode()), MAX_TRACK_NAME_BYTES),
        ("stream", len(request.stream.encode()), MAX_TRACK_ID_BYTES),
        ("cid", max(len(cid.encode()) for cid in cids), MAX_TRACK_ID_BYTES),
    ):
        if size > limit:
            return f"{what} is {size} bytes, the limit is {limit}"
    for what, entries in lists:
        if len(entries) > MAX_TRACK_LIST:
            return f"{what} are {len(entries)}, the limit is {MAX_TRACK_LIST}"
    size = request.ByteSize()
    if size > MAX_ADD_TRACK_BYTES:
        return f"the request is {size} bytes, the limit is {MAX_ADD_TRACK_BYTES}"
    return None


def excess_of_permission(request: rtc.SubscriptionPermission) -> str | None:
    """What is too much in a subscription_permission; None when all fits."""
    entries = request.track_permissions
    named = len(entries) + sum(len(entry.track_sids) for entry in entries)
    if named > MAX_PERMISSIONS:
        return f"{named} participants and tracks are named, the limit is {MAX_PERMISSIONS}"
    return None


def is_possible_sid(track_sid: str) -> bool:
    """Whether a track could have this sid at all."""
    return 0 < len(track_sid.encode()) <= MAX_SID_BYTES
