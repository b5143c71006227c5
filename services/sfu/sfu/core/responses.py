"""Signal responses as bytes.

What several receivers get is serialized once; ParticipantInfo comes serialized from the Room and
is joined into an update without being parsed.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import cast

from livekit.protocol import models, rtc

from sfu.core.connection_quality import ConnectionScore
from sfu.core.speakers import Speaker

SERVER_VERSION = "1.13.5"
"""What clients take for the server's version. They refuse RPC below 1.8.0, parse it as a strict
three-part version and switch features by it, so it names the LiveKit release whose signal protocol
is spoken here, not our own release."""
SIGNAL_PROTOCOL = 17
AGENT_PROTOCOL = 1
UPDATE_CHUNK_BYTES = 128 * 1024
LEAVE_ACTION_PROTOCOL = 13

_LENGTH_DELIMITED = 2
_JOIN_TAG = rtc.SignalResponse.DESCRIPTOR.fields_by_name["join"].number << 3 | _LENGTH_DELIMITED
_OTHERS_TAG = (
    rtc.JoinResponse.DESCRIPTOR.fields_by_name["other_participants"].number << 3 | _LENGTH_DELIMITED
)
_UPDATE_TAG = rtc.SignalResponse.DESCRIPTOR.fields_by_name["update"].number << 3 | _LENGTH_DELIMITED
_PARTICIPANTS_TAG = (
    rtc.ParticipantUpdate.DESCRIPTOR.fields_by_name["participants"].number << 3 | _LENGTH_DELIMITED
)


def join(response: rtc.JoinResponse, others: Iterable[bytes]) -> bytes:
    """`join` with these serialized ParticipantInfos as its `other_participants`."""
    return _response(_JOIN_TAG, response.SerializeToString() + _entries(_OTHERS_TAG, others))


def participant_updates(infos: Iterable[bytes]) -> list[bytes]:
    """`update` responses holding serialized ParticipantInfos, each at most about 128 KiB."""
    chunks: list[bytes] = []
    entries: list[bytes] = []
    size = 0
    for info in infos:
        if entries and size + len(info) > UPDATE_CHUNK_BYTES:
            chunks.append(_update(entries))
            entries, size = [], 0
        entries.append(info)
        size += len(info)
    if entries:
        chunks.append(_update(entries))
    return chunks


def leave(reason: int, action: int, protocol: int) -> bytes:
    """`leave`; old clients know only whether they may come back."""
    message = rtc.LeaveRequest(reason=cast("models.DisconnectReason", reason))
    if protocol >= LEAVE_ACTION_PROTOCOL:
        message.action = cast("rtc.LeaveRequest.Action", action)
    else:
        message.can_reconnect = action != rtc.LeaveRequest.Action.DISCONNECT
    return rtc.SignalResponse(leave=message).SerializeToString()


def speakers_changed(speakers: Iterable[Speaker]) -> bytes:
    """`speakers_changed`: who began, went on louder or softer, or fell silent."""
    changed = rtc.SpeakersChanged(
        speakers=[
            models.SpeakerInfo(sid=speaker.sid, level=speaker.level, active=speaker.is_active)
            for speaker in speakers
        ]
    )
    return rtc.SignalResponse(speakers_changed=changed).SerializeToString()


def connection_quality(scores: Iterable[tuple[str, ConnectionScore]], *, knows_lost: bool) -> bytes:
    """`connection_quality` by participant sid; older clients do not know LOST."""

    def visible(quality: models.ConnectionQuality) -> models.ConnectionQuality:
        is_lost = quality == models.ConnectionQuality.LOST
        return models.ConnectionQuality.POOR if is_lost and not knows_lost else quality

    update = rtc.ConnectionQualityUpdate(
        updates=[
            rtc.ConnectionQualityInfo(
                participant_sid=sid, quality=visible(score.quality), score=score.score
            )
            for sid, score in scores
        ]
    )
    return rtc.SignalResponse(connection_quality=update).SerializeToString()


def server_info(node_id: str, region: str) -> models.ServerInfo:
    """Who answers, in join and reconnect."""
    return models.ServerInfo(
        edition=models.ServerInfo.Edition.Standard,
        version=SERVER_VERSION,
        protocol=SIGNAL_PROTOCOL,
        region=region,
        node_id=node_id,
        agent_protocol=AGENT_PROTOCOL,
    )


def _update(infos: Iterable[bytes]) -> bytes:
    return _response(_UPDATE_TAG, _entries(_PARTICIPANTS_TAG, infos))


def _response(tag: int, body: bytes) -> bytes:
    return _varint(tag) + _varint(len(body)) + body


def _entries(tag: int, infos: Iterable[bytes]) -> bytes:
    """A repeated message field, its elements serialized already."""
    head = _varint(tag)
    return b"".join([part for info in infos for part in (head, _varint(len(info)), info)])


@lru_cache(maxsize=1 << 14)
def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
