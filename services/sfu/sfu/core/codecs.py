"""Codecs of the LiveKit signal protocol: which exist, who may use which, and what a client is known
to lack.

Tables and pure functions. Not SDP: payload types of our offers are here, the lines are made by
`negotiation`. Mime types are lower case inside (`video/vp8`), spelled as the protocol does on the
wire.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from livekit.protocol.models import ClientConfiguration, ClientInfo, Codec

from mediacore.sdp import SdpCodec
from sfu.core import media_commands
from sfu.core.plans import Kind

AUDIO_MIMES = ("audio/PCMU", "audio/PCMA", "audio/opus", "audio/red")
VIDEO_MIMES = ("video/VP8", "video/H264", "video/VP9", "video/AV1", "video/H265")
DEFAULT_ENABLED = (*AUDIO_MIMES, *VIDEO_MIMES, "video/rtx")
"""`Room.enabled_codecs` of a room nobody configured, in the order clients see."""


@dataclass(frozen=True, slots=True)
class CodecPolicy:
    """Lower-case mimes one peer connection may use, by direction: from the client, and to the
    client.
    """

    publish: frozenset[str]
    subscribe: frozenset[str]

    @classmethod
    def of(
        cls, enabled: Iterable[str], configuration: ClientConfiguration | None = None
    ) -> "CodecPolicy":
        """The room's enabled codecs without those disabled for this client."""
        allowed = {mime.lower() for mime in enabled} - {"video/rtx"}
        if configuration is not None:
            disabled = configuration.disabled_codecs
            allowed -= {codec.mime.lower() for codec in disabled.codecs}
            publish = allowed - {codec.mime.lower() for codec in disabled.publish}
        else:
            publish = allowed
        return cls(_with_opus_for_red(publish), _with_opus_for_red(allowed))


def _with_opus_for_red(mimes: Iterable[str]) -> frozenset[str]:
    kept = frozenset(mimes)
    return kept if "audio/opus" in kept else kept - {"audio/red"}


@dataclass(frozen=True, slots=True)
class ClientTraits:
    """What negotiation must know of the client: ages and browser differences, never its name in a
    condition.
    """

    keeps_only_chosen_codec: bool = False
    """Ignores the order of an answer's codecs (Firefox on Linux and Android)."""
    takes_red: bool = True
    """Plays RED (not Firefox, not Safari)."""
    reuses_sections: bool = True
    """A deactivated section may carry another track later (protocol 4, not Safari)."""
    ice_lite: bool = True
    """Works with an ICE-lite server (protocol 6, not Firefox)."""
    syncs_streams: bool = True
    """Takes streams that hold several tracks of one participant (protocol 10, not Firefox)."""

    @classmethod
    def of(cls, info: ClientInfo) -> "ClientTraits":
        """Read them off the ClientInfo of the join request."""
        browser = info.browser.lower()
        firefox = browser == "firefox"
        safari = browser == "safari" or (info.os.lower() == "ios" and browser != "")
        return cls(
            keeps_only_chosen_codec=firefox and info.os.lower() in ("linux", "android"),
            takes_red=not firefox and not safari,
            reuses_sections=info.protocol >= 4 and not safari,
            ice_lite=info.protocol >= 6 and not firefox,
            syncs_streams=info.protocol >= 10 and not firefox,
        )


def enabled_publish_codecs(policy: CodecPolicy) -> list[Codec]:
    """`JoinResponse.enabled_publish_codecs`: VP8, H264, other video, then audio; no RTX."""
    order = (*VIDEO_MIMES, *AUDIO_MIMES)
    return [Codec(mime=mime) for mime in order if mime.lower() in policy.publish]


# ------------------------------------------------------------------------------- sections' codecs

AUDIO_FEEDBACK = ("nack",)
VIDEO_FEEDBACK_IN = ("transport-cc", "ccm fir", "nack", "nack pli")
"""RTCP feedback on video we receive (RFC 4585): congestion is told by transport-wide sequence."""
VIDEO_FEEDBACK_OUT = ("ccm fir", "nack", "nack pli", "goog-remb")
"""RTCP feedback on video we send."""

_OPUS = "audio/opus"
_RED = "audio/red"


def mime_of(kind: Kind, codec: SdpCodec) -> str:
    """The lower-case mime of a section's codec."""
    return f"{kind}/{codec.name}".lower()


def parameters(fmtp: str) -> dict[str, str]:
    """Format parameters by lower-case name; a name without a value gives an empty text."""
    pairs = (part.strip().partition("=") for part in fmtp.split(";"))
    return {name.strip().lower(): value.strip() for name, _, value in pairs if name}


def negotiate(
    kind: Kind,
    offered: Sequence[SdpCodec],
    allowed: frozenset[str],
    feedback: Sequence[str],
    *,
    is_received: bool = False,
) -> list[SdpCodec]:
    """The offered codecs we take, in the offer's order, each followed by its retransmission type.

    Feedback is what both sides know, in our order. `is_received`: also the main profile of H264,
    which encoders in hardware have, and which nobody who takes H264 at all is asked for.
    """
    profiles = _H264_RECEIVED if is_received else _H264_PROFILES
    kept = [codec for codec in offered if _is_known(kind, codec, allowed, profiles)]
    opus = {str(codec.payload_type) for codec in kept if mime_of(kind, codec) == _OPUS}
    retransmission = {
        parameters(codec.fmtp).get("apt"): codec for codec in offered if codec.name.lower() == "rtx"
    }
    taken = []
    for codec in kept:
        if mime_of(kind, codec) == _RED and codec.fmtp.split("/", 1)[0] not in opus:
            continue
        taken.append(_with(codec, feedback=[name for name in feedback if name in codec.feedback]))
        rtx = retransmission.get(str(codec.payload_type))
        if rtx is not None:
            taken.append(_with(rtx, feedback=[]))
    return taken


def prefer(
    kind: Kind, codecs: Sequence[SdpCodec], mime: str, *, only: bool = False
) -> list[SdpCodec]:
    """The codecs of one mime, with their retransmission types, first; `only`: nothing else.

    Without any codec of that mime the list stays as it is.
    """
    chosen = {codec.payload_type for codec in codecs if mime_of(kind, codec) == mime}
    if not chosen:
        return list(codecs)

    def is_chosen(codec: SdpCodec) -> bool:
        if codec.name.lower() == "rtx":
            return parameters(codec.fmtp).get("apt", "") in {str(number) for number in chosen}
        return codec.payload_type in chosen

    first = [codec for codec in codecs if is_chosen(codec)]
    return first if only else first + [codec for codec in codecs if not is_chosen(codec)]


def with_opus_parameters(
    codecs: Sequence[SdpCodec], *, stereo: bool, dtx: bool, max_average_bps: int = 510_000
) -> list[SdpCodec]:
    """Opus parameters (RFC 7587) of a section on which a client sends one track."""

    def changed(fmtp: str) -> str:
        parts = [part.strip() for part in fmtp.split(";") if part.strip()]
        parts = [part for part in parts if part.partition("=")[0].lower() not in _OPUS_OURS]
        if dtx:
            parts.append("usedtx=1")
        if stereo:
            parts += ["stereo=1", f"maxaveragebitrate={max_average_bps}"]
        return ";".join(parts)

    return [
        _with(codec, fmtp=changed(codec.fmtp)) if codec.name.lower() == "opus" else codec
        for codec in codecs
    ]


_OPUS_OURS = frozenset({"usedtx", "stereo", "maxaveragebitrate"})


def with_sprop_stereo(codecs: Sequence[SdpCodec]) -> list[SdpCodec]:
    """Opus marked as carrying stereo (RFC 7587): clients copy it into their answer."""
    return [
        _with(codec, fmtp=";".join(part for part in (codec.fmtp, "sprop-stereo=1") if part))
        if codec.name.lower() == "opus" and "sprop-stereo" not in parameters(codec.fmtp)
        else codec
        for codec in codecs
    ]


def without_opus_nack(codecs: Sequence[SdpCodec]) -> list[SdpCodec]:
    """No retransmission of Opus: RED already repeats it."""
    return [
        _with(codec, feedback=[name for name in codec.feedback if name != "nack"])
        if codec.name.lower() == "opus"
        else codec
        for codec in codecs
    ]


def engine_codecs(kind: Kind, codecs: Sequence[SdpCodec]) -> tuple[media_commands.Codec, ...]:
    """What the engine needs of a section's codecs, in order; retransmission types join their codec.

    Of several variants of H264 those with packetization mode 1 come first: publishers send it.
    """
    rtx = {
        parameters(codec.fmtp).get("apt"): codec.payload_type
        for codec in codecs
        if codec.name.lower() == "rtx"
    }
    media = [codec for codec in codecs if codec.name.lower() != "rtx"]
    first_of = {mime_of(kind, codec): place for place, codec in reversed(list(enumerate(media)))}
    media.sort(key=lambda codec: (first_of[mime_of(kind, codec)], _variant(codec)))
    return tuple(
        media_commands.Codec(
            mime=mime_of(kind, codec),
            payload_type=codec.payload_type,
            clock_rate=codec.clock_rate,
            rtx_payload_type=rtx.get(str(codec.payload_type)),
            nack="nack" in codec.feedback,
            pli="nack pli" in codec.feedback,
            transport_cc="transport-cc" in codec.feedback,
        )
        for codec in media
    )


def sendable(
    track_mimes: Iterable[str], accepted: Iterable[str], *, encrypted: bool = False
) -> bool:
    """Whether a track with these upstream codecs can be sent to a client which accepts those.

    RED and Opus are converted into each other unless the payload is encrypted.
    """
    wanted = set(track_mimes)
    if not encrypted and wanted & {_RED, _OPUS}:
        wanted |= {_RED, _OPUS}
    return bool(wanted & set(accepted))


@lru_cache(maxsize=64)
def offered_codecs(
    kind: Kind, allowed: frozenset[str], *, opus_nack: bool = True, stereo: bool = False
) -> tuple[SdpCodec, ...]:
    """The codecs of a section of our own offers, with the payload types clients expect."""
    codecs = [codec for codec in _OFFERED[kind] if _is_known(kind, codec, allowed, _H264_PROFILES)]
    if kind == "audio":
        if not opus_nack:
            codecs = without_opus_nack(codecs)
        return tuple(with_sprop_stereo(codecs) if stereo else codecs)
    return tuple(line for codec in codecs for line in (codec, _rtx_of(codec)))


def _rtx_of(codec: SdpCodec) -> SdpCodec:
    return SdpCodec(codec.payload_type + 1, "rtx", 90_000, fmtp=f"apt={codec.payload_type}")


def _is_known(
    kind: Kind, codec: SdpCodec, allowed: frozenset[str], h264_profiles: tuple[str, ...]
) -> bool:
    mime = mime_of(kind, codec)
    if mime not in allowed or mime == "video/rtx":
        return False
    match mime:
        case "video/h264":
            profile = parameters(codec.fmtp).get("profile-level-id", "42e01f").lower()
            return profile[:4] in h264_profiles or profile[:2] == "64"
        case "video/vp9":
            return parameters(codec.fmtp).get("profile-id", "0") in ("0", "1")
        case _:
            return True


_H264_PROFILES = ("42e0", "4200")
"""Constrained baseline and baseline (RFC 6184); high is known by its first octet."""
_H264_RECEIVED = (*_H264_PROFILES, "4d00")
"""And main."""


def _variant(codec: SdpCodec) -> int:
    if codec.name.lower() != "h264":
        return 0
    return 0 if parameters(codec.fmtp).get("packetization-mode") == "1" else 1


def _with(
    codec: SdpCodec, *, fmtp: str | None = None, feedback: Sequence[str] | None = None
) -> SdpCodec:
    return SdpCodec(
        codec.payload_type,
        codec.name,
        codec.clock_rate,
        codec.channels,
        codec.fmtp if fmtp is None else fmtp,
        codec.feedback if feedback is None else feedback,
    )


def _h264(payload_type: int, mode: int, profile: str) -> SdpCodec:
    fmtp = f"level-asymmetry-allowed=1;packetization-mode={mode};profile-level-id={profile}"
    return SdpCodec(payload_type, "H264", 90_000, None, fmtp, VIDEO_FEEDBACK_OUT)


_OFFERED: dict[Kind, list[SdpCodec]] = {
    "audio": [
        SdpCodec(111, "opus", 48_000, 2, "minptime=10;useinbandfec=1", ["nack"]),
        SdpCodec(63, "red", 48_000, 2, "111/111"),
        SdpCodec(0, "PCMU", 8_000),
        SdpCodec(8, "PCMA", 8_000),
    ],
    "video": [
        SdpCodec(96, "VP8", 90_000, None, "", VIDEO_FEEDBACK_OUT),
        SdpCodec(98, "VP9", 90_000, None, "profile-id=0", VIDEO_FEEDBACK_OUT),
        SdpCodec(100, "VP9", 90_000, None, "profile-id=1", VIDEO_FEEDBACK_OUT),
        _h264(125, 0, "42e01f"),
        _h264(108, 1, "42e01f"),
        SdpCodec(35, "AV1", 90_000, None, "", VIDEO_FEEDBACK_OUT),
        SdpCodec(116, "H265", 90_000, None, "", VIDEO_FEEDBACK_OUT),
    ],
}
