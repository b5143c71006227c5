"""Data tracks: the header of their packets, and which there are in the room.

A packet on the `_data_track` channel begins with 12 bytes, big endian, and perhaps extensions; the
rest is the publisher's. Bytes 2 and 3 name the track: the publisher's handle on the way in, the
subscriber's on the way out; nothing else is read or changed. Packets are neither ordered nor
repeated. Not who subscribes (data_subscribing.py) and not how a track begins (data_publishing.py).
Source: LiveKit data track packet format.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from livekit.protocol import models

from contracts.room.v1 import room_pb2

HEADER_BYTES: Final = 12
MAX_HANDLE: Final = 0xFFFF
WORD_BYTES: Final = 4

_HEADER = struct.Struct("!BxHHHI")
_VERSION_SHIFT = 5
_START, _FINAL, _EXTENSIONS = 1 << 4, 1 << 3, 1 << 2


@dataclass(frozen=True, slots=True)
class DataTrackHeader:
    """The header of one packet. `timestamp` counts 1/90000 s; `payload_at` is a byte offset."""

    handle: int
    sequence: int
    frame_number: int
    timestamp: int
    is_start: bool
    is_final: bool
    payload_at: int


def parse_header(packet: bytes) -> DataTrackHeader | None:
    """The header; None for what is too short, of another version or of no handle."""
    if len(packet) < HEADER_BYTES:
        return None
    flags, handle, sequence, frame_number, timestamp = _HEADER.unpack_from(packet)
    if flags >> _VERSION_SHIFT or not handle:
        return None
    payload_at = HEADER_BYTES
    if flags & _EXTENSIONS:
        if len(packet) < HEADER_BYTES + 2:
            return None
        words = int.from_bytes(packet[HEADER_BYTES : HEADER_BYTES + 2]) + 1
        payload_at += words * WORD_BYTES
        if payload_at > len(packet):
            return None
    return DataTrackHeader(
        handle,
        sequence,
        frame_number,
        timestamp,
        bool(flags & _START),
        bool(flags & _FINAL),
        payload_at,
    )


def with_handle(packet: bytes, handle: int) -> bytes:
    """The same packet under another handle."""
    return packet[:2] + handle.to_bytes(2) + packet[4:]


@dataclass(slots=True)
class DataTrackRow:
    """A data track as the Room last said it, and the sids of those on this node who get it.

    `handle` is the subscribers' one, the same for all of them: so a packet is written once.
    """

    info: models.DataTrackInfo
    publisher_sid: str
    publisher_identity: str
    is_restricted: bool
    allowed_identities: frozenset[str]
    is_publisher_hidden: bool
    handle: int
    subscribers: dict[str, None] = field(default_factory=dict)

    def allows(self, identity: str) -> bool:
        """Whether the publisher lets this identity subscribe."""
        return not self.is_restricted or identity in self.allowed_identities


class DataTracks:
    """This node's replica of the room's data tracks."""

    def __init__(self, last_handle: int = 0) -> None:
        self._last_handle = last_handle
        self._rows: dict[str, DataTrackRow] = {}
        self._published: dict[tuple[str, int], DataTrackRow] = {}
        self._handles: set[int] = set()

    def __iter__(self) -> Iterator[DataTrackRow]:
        return iter(list(self._rows.values()))

    def get(self, track_sid: str) -> DataTrackRow | None:
        """The track of a sid."""
        return self._rows.get(track_sid)

    def published(self, publisher_sid: str, pub_handle: int) -> DataTrackRow | None:
        """The track a publisher names by its own handle."""
        return self._published.get((publisher_sid, pub_handle))

    def take(self, order: room_pb2.ListDataTrack) -> str | None:
        """Take a new or changed row; its track's sid, None when the room has no handle left.

        Raises DecodeError when the Room sent something that is not a DataTrackInfo.
        """
        info = models.DataTrackInfo.FromString(order.track)
        known = self._rows.get(info.sid)
        handle = self._free_handle() if known is None else known.handle
        if not handle:
            return None
        row = DataTrackRow(
            info=info,
            publisher_sid=order.publisher_sid,
            publisher_identity=order.publisher_identity,
            is_restricted=order.restricted,
            allowed_identities=frozenset(order.allowed_identities),
            is_publisher_hidden=order.publisher_hidden,
            handle=handle,
            subscribers={} if known is None else known.subscribers,
        )
        self._rows[info.sid] = row
        self._published[row.publisher_sid, info.pub_handle] = row
        self._handles.add(handle)
        return info.sid

    def drop(self, track_sid: str) -> None:
        """The track is gone."""
        row = self._rows.pop(track_sid, None)
        if row is None:
            return
        self._handles.discard(row.handle)
        key = (row.publisher_sid, row.info.pub_handle)
        if self._published.get(key) is row:
            del self._published[key]

    def _free_handle(self) -> int:
        """The next one around the circle: one that ended is not soon used again. 0: none."""
        if len(self._handles) >= MAX_HANDLE:
            return 0
        while True:
            self._last_handle = self._last_handle % MAX_HANDLE + 1
            if self._last_handle not in self._handles:
                return self._last_handle
