"""What a negotiation is told and what it decides, as values.

Inputs come from the session (announced tracks, tracks to send, transport parameters), outputs go to
the engine (receivers, senders) and to the client (texts, maps). Not SDP: no value here has a line
of text but the finished descriptions. The plans mirror the engine's configuration classes field by
field, so that the only module which touches the engine can translate them without deciding
anything.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from sfu.core.media_commands import Codec, Encoding, ExtensionIds

Kind = Literal["audio", "video"]
"""Media kind of a section or a track."""


@dataclass(frozen=True, slots=True)
class LocalTransport:
    """Our side of one peer connection: ICE credentials and the engine's certificate fingerprint.

    `fingerprint` is `sha-256 AA:BB:..`, the same for every peer connection of the engine.
    """

    ice_ufrag: str
    ice_pwd: str
    fingerprint: str
    ice_lite: bool = True


@dataclass(frozen=True, slots=True)
class RemoteParameters:
    """The client's side of one peer connection, as its last description says."""

    ice_ufrag: str
    ice_pwd: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class AnnouncedCodec:
    """One codec of an AddTrackRequest.

    `mime` is lower case (`video/vp8`), empty when the client did not choose. `cid` may be empty: a
    backup codec is named long before its section exists. `layers` counts the declared spatial
    layers.
    """

    mime: str
    cid: str = ""
    layers: int = 0


@dataclass(frozen=True, slots=True)
class AnnouncedTrack:
    """A track the client announced (AddTrackRequest), pending or already published.

    `codecs` is never empty: a request without simulcast codecs gives one entry with an empty mime.
    The first one is the primary, the others are backups. `ssrc_layers` is not here: encodings come
    from SDP.
    """

    track_sid: str
    kind: Kind
    cid: str
    codecs: tuple[AnnouncedCodec, ...]
    stereo: bool = False
    dtx: bool = True
    red: bool = True


@dataclass(frozen=True, slots=True)
class DownTrack:
    """A track to send on this peer connection, with the numbers it was given for its whole
    subscription.

    `mimes` are the upstream codecs, best first, lower case. `stream` is the first word of the msid:
    `PA_x|TR_y`. `encrypted` forbids the conversion between RED and plain Opus.
    """

    track_sid: str
    kind: Kind
    stream: str
    mimes: tuple[str, ...]
    ssrc: int
    rtx_ssrc: int | None = None
    stereo: bool = False
    encrypted: bool = False


@dataclass(frozen=True, slots=True)
class ReceiverPlan:
    """A section on which the client sends, matched to an announced track.

    `sdp_cid` is the msid track id of the offer; it differs from the announced cid when the browser
    changed ids, and belongs into `TrackInfo.codecs[codec_index].sdp_cid` then. `codec_index` points
    into `AnnouncedTrack.codecs`. `by_rid`: encodings appear with their first packet (publish then);
    otherwise the track may be published at once.
    """

    mid: str
    kind: Kind
    track_sid: str
    sdp_cid: str
    codec_index: int
    codecs: tuple[Codec, ...]
    encodings: tuple[Encoding, ...]
    extensions: ExtensionIds

    @property
    def by_rid(self) -> bool:
        """Whether encodings are told apart by rid (RFC 8851) and become known by their packets."""
        return any(encoding.rid is not None for encoding in self.encodings)


@dataclass(frozen=True, slots=True)
class UnmatchedSection:
    """A section on which the client sends a track it has not announced yet; it is held, not
    refused.
    """

    mid: str
    kind: Kind
    sdp_cid: str


@dataclass(frozen=True, slots=True)
class SenderPlan:
    """A section on which we send, as the engine's `SenderConfig` takes it.

    `cname` equals the msid's stream. `codecs` are what the client accepts, in its order.
    """

    mid: str
    kind: Kind
    track_sid: str
    ssrc: int
    rtx_ssrc: int | None
    cname: str
    codecs: tuple[Codec, ...]
    extensions: ExtensionIds


@dataclass(frozen=True, slots=True)
class SectionsRequirement:
    """How many more receiving sections the client must add (`media_sections_requirement`):
    increments.
    """

    num_audios: int = 0
    num_videos: int = 0

    @property
    def is_empty(self) -> bool:
        """Nothing is missing."""
        return not (self.num_audios or self.num_videos)


_NO_MAP: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Answered:
    """The outcome of a client's offer: the text to send back, and what the engine must do.

    Apply in this order: `set_remote` with `remote` (after `restart_ice` with `local` when
    `ice_restarted`), ended receivers, removed senders, then the additions and changes. `senders`
    and `receivers` are complete; the other tuples are the differences to the answer before.
    `mid_to_track_id` is the complete map of sections we send on. `codec_unsupported` names tracks
    which were given a section but share no codec with the client: they are not sent. `unplaced`
    names tracks which wait for another offer; `required` says how many sections it must add, which
    may be none when sections were freed by this very answer.
    """

    sdp: str
    local: LocalTransport
    remote: RemoteParameters
    ice_restarted: bool
    has_application: bool
    receivers: tuple[ReceiverPlan, ...] = ()
    receivers_added: tuple[ReceiverPlan, ...] = ()
    receivers_changed: tuple[ReceiverPlan, ...] = ()
    receivers_ended: tuple[ReceiverPlan, ...] = ()
    unmatched: tuple[UnmatchedSection, ...] = ()
    senders: tuple[SenderPlan, ...] = ()
    senders_added: tuple[SenderPlan, ...] = ()
    senders_changed: tuple[SenderPlan, ...] = ()
    senders_removed: tuple[SenderPlan, ...] = ()
    codec_unsupported: tuple[str, ...] = ()
    mid_to_track_id: Mapping[str, str] = field(default_factory=lambda: _NO_MAP)
    unplaced: tuple[str, ...] = ()
    required: SectionsRequirement = SectionsRequirement()


@dataclass(frozen=True, slots=True)
class Offer:
    """An offer of ours, to be sent now. `ice_restart`: tell the engine `restart_ice` with `local`
    first.
    """

    offer_id: int
    sdp: str
    local: LocalTransport
    ice_restart: bool
    mid_to_track_id: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class NegotiationFailed:
    """The client did not answer in time; a full reconnect is needed. `reason` is for logs."""

    reason: str


@dataclass(frozen=True, slots=True)
class Applied:
    """The outcome of a client's answer to our offer. Removed tracks left the engine when they were
    removed.

    `codec_unsupported`: tracks the client refused or shares no codec for; they were dropped and
    their sections will be deactivated by the next offer.
    """

    remote: RemoteParameters
    senders_added: tuple[SenderPlan, ...] = ()
    senders_changed: tuple[SenderPlan, ...] = ()
    codec_unsupported: tuple[str, ...] = ()
