"""Codecs of the LiveKit signal protocol: which exist, who may use which, and what a client is known
to lack.

Tables and pure functions. Not SDP: payload types of our offers are here, the lines are made by
`negotiation`. Mime types are lower case inside (`video/vp8`), spelled as the protocol does on the
wire.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from livekit.protocol.models import ClientConfiguration, ClientInfo, Codec

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

    protocol: int = 17
    keeps_only_chosen_codec: bool = False
    """Ignores the order of an answer's codecs (Firefox on Linux and Android)."""
    takes_red: bool = True
    """Plays RED (not Firefox, not Safari)."""
    reuses_sections: bool = True
    """A deactivated section may carry another track later (protocol 4, not Safari)."""
    synchronizes_streams: bool = True
    """Understands one msid stream for several tracks (protocol 10, not Firefox)."""
    ice_lite: bool = True
    """Works with an ICE-lite server (protocol 6, not Firefox)."""

    @classmethod
    def of(cls, info: ClientInfo) -> "ClientTraits":
        """Read them off the ClientInfo of the join request."""
        browser = info.browser.lower()
        firefox = browser == "firefox"
        safari = browser == "safari" or (info.os.lower() == "ios" and browser != "")
        return cls(
            protocol=info.protocol,
            keeps_only_chosen_codec=firefox and info.os.lower() in ("linux", "android"),
            takes_red=not firefox and not safari,
            reuses_sections=info.protocol >= 4 and not safari,
            synchronizes_streams=info.protocol >= 10 and not firefox,
            ice_lite=info.protocol >= 6 and not firefox,
        )


def enabled_publish_codecs(policy: CodecPolicy) -> list[Codec]:
    """`JoinResponse.enabled_publish_codecs`: VP8, H264, other video, then audio; no RTX."""
    order = (*VIDEO_MIMES, *AUDIO_MIMES)
    return [Codec(mime=mime) for mime in order if mime.lower() in policy.publish]
