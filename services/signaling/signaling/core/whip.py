"""A WHIP offer as a request to join (RFC 9725; protocol.md 1.9).

The offer's sections that send become tracks to publish, so that the node answers it as it answers
any publisher's first offer. It is read line by line (RFC 8866) for what that needs and no more: the
node is who says whether it is good.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import count
from typing import Final

from livekit.protocol import models, rtc

from signaling.core.join import Join, JoinRefused

MAX_OFFER_BYTES: Final = 1 << 20
MAX_SECTIONS: Final = 16
PROTOCOL: Final = 16
"""The version whose server behavior a client without a socket gets."""

_DIRECTIONS = ("sendrecv", "sendonly", "recvonly", "inactive")
_QUALITIES = (models.VideoQuality.LOW, models.VideoQuality.MEDIUM, models.VideoQuality.HIGH)
_SOURCES = {
    "audio": ("synthesized-microphone", models.TrackType.AUDIO, models.TrackSource.MICROPHONE),
    "video": ("synthesized-camera", models.TrackType.VIDEO, models.TrackSource.CAMERA),
}


@dataclass(frozen=True, slots=True)
class Offer:
    """An offer in which every section that sends names its track, and those tracks."""

    sdp: str
    tracks: tuple[rtc.AddTrackRequest, ...]


def parse_offer(body: bytes) -> Offer:
    """Read an offer; raise `JoinRefused` with 400 or 413."""
    if len(body) > MAX_OFFER_BYTES:
        raise JoinRefused(413, f"the offer exceeds {MAX_OFFER_BYTES} bytes")
    try:
        lines = body.decode().splitlines()
    except UnicodeDecodeError:
        raise JoinRefused(400, "the offer is not text") from None
    if not lines or lines[0] != "v=0":
        raise JoinRefused(400, "the body is no session description: it must begin with v=0")
    session, *sections = _split(line for line in lines if line)
    if len(sections) > MAX_SECTIONS:
        raise JoinRefused(400, f"the offer has more than {MAX_SECTIONS} media sections")
    inherited = _direction(session, "sendrecv")
    taken: set[str] = set()
    tracks = []
    for index, section in enumerate(sections):
        kind = section[0].removeprefix("m=").partition(" ")[0]
        if kind in _SOURCES and _direction(section, inherited) in ("sendrecv", "sendonly"):
            cid = _named(section, index, taken)
            tracks.append(_track(kind, cid, section))
    if not tracks:
        raise JoinRefused(400, "the offer sends neither audio nor video")
    text = "".join(f"{line}\r\n" for part in (session, *sections) for line in part)
    return Offer(text, tuple(tracks))


def joining_with(join: Join, offer: Offer) -> Join:
    """The join of a client that only publishes what it offers; raise `JoinRefused` where it may not."""
    if not join.grants.video.may_publish:
        raise JoinRefused(401, "permissions denied: the token does not allow to publish")
    request = rtc.JoinRequest(
        client_info=_client(join),
        connection_settings=rtc.ConnectionSettings(auto_subscribe=False, disable_ice_lite=True),
        add_track_requests=offer.tracks,
        publisher_offer=rtc.SessionDescription(type="offer", sdp=offer.sdp, id=1),
    )
    return replace(join, request=request, single_peer_connection=True)


def returning(join: Join, participant_sid: str) -> Join:
    """The return of such a client to its session."""
    request = rtc.JoinRequest(
        client_info=_client(join), reconnect=True, participant_sid=participant_sid
    )
    return replace(join, request=request, single_peer_connection=True)


def _client(join: Join) -> models.ClientInfo:
    info = models.ClientInfo()
    info.CopyFrom(join.request.client_info)
    info.protocol = PROTOCOL
    return info


def _split(lines: Iterable[str]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for line in lines:
        if line.startswith("m="):
            parts.append([])
        parts[-1].append(line)
    return parts


def _direction(lines: list[str], otherwise: str) -> str:
    for direction in _DIRECTIONS:
        if f"a={direction}" in lines:
            return direction
    return otherwise


def _named(section: list[str], index: int, taken: set[str]) -> str:
    """The track id of the section's msid, which is written where there is none of its own."""
    for place, line in enumerate(section):
        if line.startswith("a=msid:"):
            words = line.removeprefix("a=msid:").split()
            if len(words) == 2 and words[1] not in taken:
                taken.add(words[1])
                return words[1]
            del section[place]
            break
    cid = next(name for n in count() if (name := f"whip-{index}" + f"-{n}" * bool(n)) not in taken)
    taken.add(cid)
    section.append(f"a=msid:- {cid}")
    return cid


def _track(kind: str, cid: str, section: list[str]) -> rtc.AddTrackRequest:
    name, track_type, source = _SOURCES[kind]
    request = rtc.AddTrackRequest(
        cid=cid, name=name, type=track_type, source=source, disable_dtx=True
    )
    if kind == "video":
        request.stream = "camera"
        layers = _QUALITIES[: _encodings(section)] or _QUALITIES[-1:]
        request.layers.extend(models.VideoLayer(quality=quality) for quality in layers)
    return request


def _encodings(section: list[str]) -> int:
    """How many simulcast encodings are sent (RFC 8853 section 5.1)."""
    for line in section:
        words = line.removeprefix("a=simulcast:").split() if line.startswith("a=simulcast:") else []
        if "send" in words[:-1]:
            return len(words[words.index("send") + 1].split(";"))
    return 0
