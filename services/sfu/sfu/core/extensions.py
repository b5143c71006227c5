"""RTP header extensions (RFC 8285): which we take on which section, and where the engine finds
them.
"""

from collections.abc import Iterable
from dataclasses import replace

from sfu.core.media_commands import ExtensionIds
from sfu.core.plans import Kind

MID = "urn:ietf:params:rtp-hdrext:sdes:mid"
RID = "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id"
REPAIRED_RID = "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id"
AUDIO_LEVEL = "urn:ietf:params:rtp-hdrext:ssrc-audio-level"
TRANSPORT_CC = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"
ABS_SEND_TIME = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time"
ABS_CAPTURE_TIME = "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time"
PLAYOUT_DELAY = "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay"
DEPENDENCY_DESCRIPTOR = (
    "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension"
)

RECEIVED: dict[Kind, frozenset[str]] = {
    "audio": frozenset({MID, RID, AUDIO_LEVEL, ABS_CAPTURE_TIME}),
    "video": frozenset(
        {MID, RID, REPAIRED_RID, TRANSPORT_CC, DEPENDENCY_DESCRIPTOR, ABS_CAPTURE_TIME}
    ),
}
"""Taken on sections a client sends on."""

SENT: dict[Kind, frozenset[str]] = {
    "audio": frozenset({ABS_CAPTURE_TIME}),
    "video": frozenset({DEPENDENCY_DESCRIPTOR, ABS_CAPTURE_TIME, ABS_SEND_TIME}),
}
"""Taken on sections we send on. No mid: SSRCs are told in the description."""

OFFERED: dict[Kind, list[tuple[int, str]]] = {
    "audio": [(2, ABS_CAPTURE_TIME)],
    "video": [(1, DEPENDENCY_DESCRIPTOR), (2, ABS_CAPTURE_TIME), (3, ABS_SEND_TIME)],
}
"""With the ids of our own offers: one id means the same in every section of a bundle."""

_PLAYOUT_DELAY_ID = 4
_MAX_ONE_BYTE_ID = 14
_FIELDS = {
    MID: "mid",
    RID: "rid",
    REPAIRED_RID: "repaired_rid",
    AUDIO_LEVEL: "audio_level",
    TRANSPORT_CC: "transport_cc",
    ABS_SEND_TIME: "abs_send_time",
    ABS_CAPTURE_TIME: "abs_capture_time",
    DEPENDENCY_DESCRIPTOR: "dependency_descriptor",
    PLAYOUT_DELAY: "playout_delay",
}


def sent(kind: Kind, *, has_playout_delay: bool) -> frozenset[str]:
    """What is taken on a section we send on; a room may ask for a playout delay of its videos."""
    return SENT[kind] | {PLAYOUT_DELAY} if has_playout_delay and kind == "video" else SENT[kind]


def offered(kind: Kind, *, has_playout_delay: bool) -> list[tuple[int, str]]:
    """The extensions of a section of our own offers."""
    if has_playout_delay and kind == "video":
        return [*OFFERED[kind], (_PLAYOUT_DELAY_ID, PLAYOUT_DELAY)]
    return OFFERED[kind]


def negotiate(
    offered: Iterable[tuple[int, str]], wanted: frozenset[str], *, one_byte: bool = False
) -> list[tuple[int, str]]:
    """The offered extensions we want, in the offer's order; `one_byte`: only ids of the short form."""
    return [
        (id_, uri)
        for id_, uri in offered
        if uri in wanted and not (one_byte and id_ > _MAX_ONE_BYTE_ID)
    ]


def engine_ids(negotiated: Iterable[tuple[int, str]]) -> ExtensionIds:
    """The ids as the engine takes them; the first id of an extension counts."""
    fields: dict[str, int] = {}
    for id_, uri in negotiated:
        if uri in _FIELDS:
            fields.setdefault(_FIELDS[uri], id_)
    return replace(ExtensionIds(), **fields)
