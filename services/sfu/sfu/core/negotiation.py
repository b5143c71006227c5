"""What answers and offers have in common: descriptions read, sections made, wishes gathered.

The policy of the LiveKit signal protocol is in two machines, one a peer connection:
`PublisherNegotiation` (answering.py) answers a client's offers, on the publisher connection of the
dual mode and the only connection of the single mode; `SubscriberNegotiation` (offering.py) makes
our offers (dual mode). Both are told what to negotiate as values and hand back values (plans.py):
nothing here sends, waits, or draws a random number. Not a WebRTC stack: descriptions are decided
here, transports live in the media core.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mediacore.sdp import (
    MediaSection,
    SdpCache,
    SdpCodec,
    SdpError,
    SdpSsrcGroup,
    SessionDescription,
)
from sfu.core import codecs, extensions
from sfu.core.codecs import ClientTraits, CodecPolicy
from sfu.core.plans import DownTrack, LocalTransport, ReceiverPlan, RemoteParameters, SenderPlan

DEBOUNCE_QUIET_S = 0.010
"""Delay of a negotiation when the last one is older than `DEBOUNCE_BUSY_S`."""
DEBOUNCE_BUSY_S = 0.150
"""Delay of a negotiation which follows another one closely."""
SCTP_PORT = 5000
"""The port every WebRTC endpoint uses (RFC 8841)."""
DTLS_SETUP = "active"
"""We send the ClientHello, in offers too (RFC 8842): a session could not move to another node else.
"""
MAX_MESSAGE_SIZE = 65_535
"""Octets of one data channel message, as we advertise them."""


class BadDescription(ValueError):
    """A client's description cannot be used.

    Nothing was changed; the text says line or section and reason.
    """


@dataclass(frozen=True, slots=True)
class NegotiationConfig:
    """What stays the same for the life of one peer connection.

    `session_id` (RFC 8866, 63 random bits) and every other number is drawn by the caller. `single`:
    one peer connection carries both directions.
    """

    session_id: int
    codecs: CodecPolicy
    client: ClientTraits
    single: bool = False
    has_playout_delay: bool = False
    """The room tells receivers of video how long to wait before playing."""


class Debounce:
    """When a wished negotiation is due: soon after a quiet time, later after a busy one.

    Used for the server's offers, and in single mode for `media_sections_requirement`.
    """

    def __init__(self) -> None:
        self._last: float | None = None
        self._due: float | None = None

    def request(self, now: float, *, force: bool = False) -> None:
        """Wish a negotiation; an earlier due time stays."""
        if force or self._last is None:
            due = now
        elif now - self._last > DEBOUNCE_BUSY_S:
            due = now + DEBOUNCE_QUIET_S
        else:
            due = now + DEBOUNCE_BUSY_S
        self._due = due if self._due is None else min(self._due, due)

    def take(self, now: float) -> bool:
        """Whether one is due; it counts as done then."""
        if self._due is None or now < self._due:
            return False
        self._due = None
        self._last = now
        return True

    def next_timeout(self) -> float | None:
        """When `take` becomes true."""
        return self._due


def parse(cache: SdpCache, text: str) -> SessionDescription:
    """Read a description. Raises BadDescription."""
    try:
        return cache.parse(text)
    except SdpError as error:
        raise BadDescription(str(error)) from error


def remote_of(description: SessionDescription) -> RemoteParameters:
    """Transport parameters; a client that wants to be the DTLS client cannot be served."""
    ufrag, pwd = description.ice_ufrag, description.ice_pwd
    if ufrag is None or pwd is None:
        raise BadDescription("the description has no ice-ufrag or no ice-pwd")
    if description.fingerprint is None:
        raise BadDescription("the description has no fingerprint")
    if description.setup == DTLS_SETUP:
        raise BadDescription("setup:active cannot be answered: this side sends the ClientHello")
    return RemoteParameters(ufrag, pwd, description.fingerprint)


def application_section(mid: str, local: LocalTransport, candidates: Sequence[str]) -> MediaSection:
    """The section for data channels, offered or answered."""
    return MediaSection(
        "application",
        mid,
        "sendrecv",
        sctp_port=SCTP_PORT,
        max_message_size=MAX_MESSAGE_SIZE,
        candidates=candidates,
        end_of_candidates=bool(candidates),
        ice_ufrag=local.ice_ufrag,
        ice_pwd=local.ice_pwd,
        setup=DTLS_SETUP,
    )


def sent_codecs(kept: Sequence[SdpCodec], down: DownTrack, client: ClientTraits) -> list[SdpCodec]:
    """The codecs of a section we send on, with the parameters this track needs."""
    if down.kind == "audio" and not wants_nack(down, client):
        kept = codecs.without_opus_nack(kept)
    return codecs.with_sprop_stereo(kept) if down.stereo else list(kept)


def wants_nack(down: DownTrack, client: ClientTraits) -> bool:
    """Lost Opus is sent again unless the track goes out as RED."""
    return not (client.takes_red and down.mimes[:1] == ("audio/red",))


def ssrcs(down: DownTrack, kept: Sequence[SdpCodec]) -> list[tuple[int, str]]:
    """The SSRCs of a track we send, each with its cname."""
    rtx = _rtx_ssrc(down, kept)
    return [(ssrc, down.stream) for ssrc in (down.ssrc, rtx) if ssrc is not None]


def ssrc_groups(down: DownTrack, kept: Sequence[SdpCodec]) -> list[SdpSsrcGroup]:
    """Which SSRC repairs which (RFC 5576)."""
    rtx = _rtx_ssrc(down, kept)
    return [] if rtx is None else [SdpSsrcGroup("FID", [down.ssrc, rtx])]


def _rtx_ssrc(down: DownTrack, kept: Sequence[SdpCodec]) -> int | None:
    return down.rtx_ssrc if any(codec.name.lower() == "rtx" for codec in kept) else None


def sender_plan(answer: MediaSection, down: DownTrack, kept: Sequence[SdpCodec]) -> SenderPlan:
    """What the engine sends on a section, as answered by either side."""
    return SenderPlan(
        mid=answer.mid,
        kind=down.kind,
        track_sid=down.track_sid,
        ssrc=down.ssrc,
        rtx_ssrc=_rtx_ssrc(down, kept),
        cname=down.stream,
        codecs=codecs.engine_codecs(down.kind, kept),
        extensions=extensions.engine_ids(
            extensions.negotiate(
                answer.extensions,
                extensions.sent(down.kind, has_playout_delay=True),
                one_byte=True,
            )
        ),
    )


def cid_of(section: MediaSection) -> str:
    """The track id of the msid; empty when there is none."""
    return section.msid[1] if section.msid else ""


def sends(section: MediaSection) -> bool:
    """Whether the side that wrote this section sends on it."""
    return section.direction in ("sendrecv", "sendonly")


def receives(section: MediaSection) -> bool:
    """Whether the side that wrote this section receives on it."""
    return section.direction in ("sendrecv", "recvonly")


@dataclass(frozen=True, slots=True)
class Changes:
    """Mids of plans that are new, differ, or are gone; another track on a mid is gone and new."""

    added: list[str]
    changed: list[str]
    ended: list[str]

    @classmethod
    def of(
        cls,
        before: Mapping[str, ReceiverPlan] | Mapping[str, SenderPlan],
        after: Mapping[str, ReceiverPlan] | Mapping[str, SenderPlan],
    ) -> "Changes":
        def same(mid: str) -> bool:
            return mid in before and mid in after and before[mid].track_sid == after[mid].track_sid

        return cls(
            added=[mid for mid in after if not same(mid)],
            changed=[mid for mid in after if same(mid) and before[mid] != after[mid]],
            ended=[mid for mid in before if not same(mid)],
        )
