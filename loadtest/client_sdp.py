"""The client's half of a negotiation, for the swarm and for tests that need a counterpart.

Makes a publisher's offer, answers a subscriber's offer, reads an answer; plain functions over
values. Not a browser: one codec for sound and one for pictures, simulcast told by SSRC groups (the
swarm's sources have no rids), and this side always waits for the server's ClientHello.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from mediacore import (
    Codec,
    Encoding,
    ExtensionIds,
    MediaSection,
    ReceiverConfig,
    SdpCache,
    SdpCodec,
    SdpSsrcGroup,
    SenderConfig,
    SessionDescription,
)

Kind = Literal["audio", "video"]


@dataclass(frozen=True, slots=True)
class ClientTransport:
    """ICE credentials and certificate of one peer connection of ours."""

    ice_ufrag: str
    ice_pwd: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class ServerTransport:
    """What the server's description says of its side."""

    ice_ufrag: str
    ice_pwd: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class SourceTrack:
    """A track we publish: `cid` as in its AddTrackRequest, one SSRC a layer from low to high.

    Retransmissions use the SSRC plus `RTX_OFFSET`.
    """

    cid: str
    kind: Kind
    ssrcs: tuple[int, ...]


RTX_OFFSET = 1_000_000_000


@dataclass(frozen=True, slots=True)
class AcceptedLayer:
    """One layer of a track the server agreed to receive, ready for the engine."""

    cid: str
    mid: str
    spatial_layer: int
    ssrc: int
    rtx_ssrc: int | None
    codecs: tuple[Codec, ...]
    extensions: ExtensionIds

    def sender(self, track: int) -> SenderConfig:
        """The engine's sender for one of its tracks."""
        return SenderConfig(
            track, self.mid, self.ssrc, self.rtx_ssrc, self.cid, self.codecs, self.extensions
        )


@dataclass(frozen=True, slots=True)
class ReceivedTrack:
    """A track the server offered and we take; `receiver` measures latency when the swarm made it."""

    mid: str
    track_sid: str
    publisher: str
    kind: Kind
    receiver: ReceiverConfig


@dataclass(frozen=True, slots=True)
class SubscriberAnswer:
    """Our answer, the server's transport, and what will arrive."""

    sdp: str
    server: ServerTransport
    tracks: tuple[ReceivedTrack, ...]


def publisher_offer(
    transport: ClientTransport,
    tracks: Sequence[SourceTrack],
    *,
    session_version: int = 1,
    receiving: tuple[int, int] | None = None,
) -> str:
    """An offer with a data section and one sending section a track, mids from "1" on.

    `receiving`: also that many audio and video sections to receive on, before the tracks (single
    connection).
    """
    sections = [_data_section(transport, "actpass")]
    for kind, count in zip(("audio", "video"), receiving or (0, 0), strict=True):
        for _ in range(count):
            sections.append(_section(transport, len(sections), _kind(kind), "recvonly"))
    sections += [
        _section(transport, place, track.kind, "sendonly", track)
        for place, track in enumerate(tracks, len(sections))
    ]
    return _render(transport, sections, session_version)


def read_answer(
    answer_sdp: str, tracks: Sequence[SourceTrack]
) -> tuple[ServerTransport, tuple[AcceptedLayer, ...]]:
    """What the server made of `publisher_offer`: its transport, and the layers it takes, in order."""
    answer = SdpCache().parse(answer_sdp)
    first = len(answer.sections) - len(tracks)
    layers = [
        AcceptedLayer(
            cid=track.cid,
            mid=section.mid,
            spatial_layer=layer,
            ssrc=ssrc,
            rtx_ssrc=ssrc + RTX_OFFSET if track.kind == "video" else None,
            codecs=_engine_codecs(section),
            extensions=_extension_ids(section),
        )
        for section, track in zip(answer.sections[first:], tracks, strict=True)
        if not section.rejected and section.direction in ("recvonly", "sendrecv")
        for layer, ssrc in enumerate(track.ssrcs)
    ]
    return _server_transport(answer), tuple(layers)


def no_publisher(_publisher: str) -> bool:
    """Says of everybody that time stamps are not read."""
    return False


def answer_subscriber(
    transport: ClientTransport,
    offer_sdp: str,
    *,
    session_version: int = 1,
    probe: Callable[[str], bool] = no_publisher,
) -> SubscriberAnswer:
    """Take everything the server offers. `probe`: of which publisher (its participant sid) to read time stamps."""
    offer = SdpCache().parse(offer_sdp)
    sections = []
    tracks = []
    for offered in offer.sections:
        if offered.kind == "application":
            sections.append(_data_section(transport, "passive", offered.mid))
            continue
        sending = offered.direction in ("sendonly", "sendrecv") and not offered.rejected
        sections.append(
            MediaSection(
                offered.kind,
                offered.mid,
                "recvonly" if sending else "inactive",
                rejected=offered.rejected,
                codecs=offered.codecs,
                extensions=offered.extensions,
                ice_ufrag=transport.ice_ufrag,
                ice_pwd=transport.ice_pwd,
                setup="passive",
            )
        )
        if sending and offered.msid is not None:
            tracks.append(_received(offered, offered.kind, offered.msid, probe))
    sdp = _render(transport, sections, session_version)
    return SubscriberAnswer(sdp, _server_transport(offer), tuple(tracks))


def received_tracks(
    answer_sdp: str, *, probe: Callable[[str], bool] = no_publisher
) -> tuple[ServerTransport, tuple[ReceivedTrack, ...]]:
    """What an answer of a single connection sends us."""
    answer = SdpCache().parse(answer_sdp)
    tracks = [
        _received(section, section.kind, section.msid, probe)
        for section in answer.sections
        if section.kind != "application"
        and section.direction in ("sendonly", "sendrecv")
        and section.msid is not None
    ]
    return _server_transport(answer), tuple(tracks)


def _received(
    section: MediaSection, kind: Kind, msid: tuple[str, str], probe: Callable[[str], bool]
) -> ReceivedTrack:
    rtx = {
        group.ssrcs[0]: group.ssrcs[1]
        for group in section.ssrc_groups
        if group.semantics == "FID" and len(group.ssrcs) == 2
    }
    media = [ssrc for ssrc, _ in section.ssrcs if ssrc not in rtx.values()][:1]
    stream, track_sid = msid
    publisher = stream.partition("|")[0]
    return ReceivedTrack(
        mid=section.mid,
        track_sid=track_sid,
        publisher=publisher,
        kind=kind,
        receiver=ReceiverConfig(
            kind,
            section.mid,
            _engine_codecs(section),
            [Encoding(0, ssrc=ssrc, rtx_ssrc=rtx.get(ssrc)) for ssrc in media],
            _extension_ids(section),
            probe=probe(publisher),
        ),
    )


def _section(
    transport: ClientTransport,
    place: int,
    kind: Kind,
    direction: Literal["sendonly", "recvonly"],
    track: SourceTrack | None = None,
) -> MediaSection:
    ssrcs = track.ssrcs if track else ()
    groups = [SdpSsrcGroup("SIM", ssrcs)] if len(ssrcs) > 1 else []
    named = list(ssrcs)
    if kind == "video":
        groups += [SdpSsrcGroup("FID", [ssrc, ssrc + RTX_OFFSET]) for ssrc in ssrcs]
        named += [ssrc + RTX_OFFSET for ssrc in ssrcs]
    return MediaSection(
        kind,
        str(place),
        direction,
        codecs=_CODECS[kind],
        extensions=_EXTENSIONS[kind],
        msid=("-", track.cid) if track else None,
        ssrcs=[(ssrc, "swarm") for ssrc in named],
        ssrc_groups=groups,
        ice_ufrag=transport.ice_ufrag,
        ice_pwd=transport.ice_pwd,
        setup="actpass",
    )


def _data_section(transport: ClientTransport, setup: str, mid: str = "0") -> MediaSection:
    return MediaSection(
        "application",
        mid,
        "sendrecv",
        sctp_port=5000,
        max_message_size=262_144,
        ice_ufrag=transport.ice_ufrag,
        ice_pwd=transport.ice_pwd,
        setup=setup,
    )


def _render(
    transport: ClientTransport, sections: Sequence[MediaSection], session_version: int
) -> str:
    return SessionDescription(
        1, session_version, sections, fingerprint=transport.fingerprint
    ).render()


def _server_transport(description: SessionDescription) -> ServerTransport:
    ufrag, pwd, fingerprint = description.ice_ufrag, description.ice_pwd, description.fingerprint
    if ufrag is None or pwd is None or fingerprint is None:
        raise ValueError("the server's description lacks ICE credentials or a fingerprint")
    return ServerTransport(ufrag, pwd, fingerprint)


def _engine_codecs(section: MediaSection) -> tuple[Codec, ...]:
    rtx = {codec.fmtp: codec.payload_type for codec in section.codecs if codec.name == "rtx"}
    return tuple(
        Codec(
            f"{section.kind}/{codec.name}",
            codec.payload_type,
            codec.clock_rate,
            rtx.get(f"apt={codec.payload_type}"),
            nack="nack" in codec.feedback,
            pli="nack pli" in codec.feedback,
            transport_cc="transport-cc" in codec.feedback,
        )
        for codec in section.codecs
        if codec.name != "rtx"
    )


def _extension_ids(section: MediaSection) -> ExtensionIds:
    ids = {uri: id_ for id_, uri in section.extensions}
    return ExtensionIds(
        mid=ids.get(_MID, 0),
        audio_level=ids.get(_AUDIO_LEVEL, 0),
        transport_cc=ids.get(_TRANSPORT_CC, 0),
        abs_send_time=ids.get(_ABS_SEND_TIME, 0),
        abs_capture_time=ids.get(_ABS_CAPTURE_TIME, 0),
        dependency_descriptor=ids.get(_DEPENDENCY_DESCRIPTOR, 0),
    )


def _kind(word: str) -> Kind:
    return "audio" if word == "audio" else "video"


_MID = "urn:ietf:params:rtp-hdrext:sdes:mid"
_AUDIO_LEVEL = "urn:ietf:params:rtp-hdrext:ssrc-audio-level"
_TRANSPORT_CC = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"
_ABS_SEND_TIME = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time"
_ABS_CAPTURE_TIME = "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time"
_DEPENDENCY_DESCRIPTOR = (
    "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension"
)
_EXTENSIONS: dict[Kind, list[tuple[int, str]]] = {
    "audio": [(1, _AUDIO_LEVEL), (4, _MID)],
    "video": [(3, _TRANSPORT_CC), (4, _MID)],
}
_VIDEO_FEEDBACK = ["goog-remb", "transport-cc", "ccm fir", "nack", "nack pli"]
_CODECS: dict[Kind, list[SdpCodec]] = {
    "audio": [SdpCodec(111, "opus", 48_000, 2, "minptime=10;useinbandfec=1", ["nack"])],
    "video": [
        SdpCodec(96, "VP8", 90_000, None, "", _VIDEO_FEEDBACK),
        SdpCodec(97, "rtx", 90_000, None, "apt=96"),
    ],
}
