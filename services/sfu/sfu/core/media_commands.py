"""What the sfu asks of the media engine, as values.

Each command is one call of `mediacore.Engine` (see media/python/mediacore/_native.pyi);
`sfu.media` performs it. The configuration types mirror the engine's, so that nothing in `core/`
needs the compiled module to say what it wants. Integers (pc, track, sender) are engine ids made by
`Ids.engine_id`: the owning stage's number is in their upper bits, see `media_events.maker_of`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Codec:
    """One payload type of a section. `mime` is `audio/opus`, `video/VP8`, ... in any case."""

    mime: str
    payload_type: int
    clock_rate: int
    rtx_payload_type: int | None = None
    nack: bool = False
    pli: bool = False
    transport_cc: bool = False


@dataclass(frozen=True, slots=True)
class ExtensionIds:
    """RTP header extension ids of one section (RFC 8285); 0 is not negotiated."""

    mid: int = 0
    rid: int = 0
    repaired_rid: int = 0
    audio_level: int = 0
    transport_cc: int = 0
    abs_send_time: int = 0
    abs_capture_time: int = 0
    dependency_descriptor: int = 0
    playout_delay: int = 0
    video_orientation: int = 0


@dataclass(frozen=True, slots=True)
class Encoding:
    """One simulcast encoding a publisher announced, by rid or by SSRC."""

    spatial_layer: int
    rid: str | None = None
    ssrc: int | None = None
    rtx_ssrc: int | None = None


@dataclass(frozen=True, slots=True)
class ReceiverConfig:
    """A published track as it arrives. No encodings: there is one, found by mid."""

    kind: Literal["audio", "video"]
    mid: str
    codecs: tuple[Codec, ...]
    encodings: tuple[Encoding, ...] = ()
    extensions: ExtensionIds = ExtensionIds()
    measure_level: bool = False


@dataclass(frozen=True, slots=True)
class SenderConfig:
    """A track going out on one peer connection, with the codecs the far side accepts.

    `strip_trailer` cuts packet trailers (magic `LKTS`) from frames; `sif_trailer`, set for encrypted
    tracks only, follows every frame the engine makes itself; `playout_delay` is the least and most
    in milliseconds, told by header extension; `encode_red` sends opus as RED made here; `priority`
    is the share when bandwidth is short, 255 first, 0 by kind.
    """

    track: int
    mid: str
    ssrc: int
    rtx_ssrc: int | None
    cname: str
    codecs: tuple[Codec, ...]
    extensions: ExtensionIds = ExtensionIds()
    max_spatial_layer: int = 2
    max_temporal_layer: int = 3
    paused: bool = False
    strip_trailer: bool = False
    sif_trailer: bytes = b""
    playout_delay: tuple[int, int] | None = None
    encode_red: bool = False
    priority: int = 0


@dataclass(frozen=True, slots=True)
class CreatePeerConnection:
    """A new transport and DTLS client. Controlling only as a full agent that offers first."""

    pc: int
    ice_ufrag: str
    ice_pwd: str
    ice_lite: bool = True
    ice_controlling: bool = False


@dataclass(frozen=True, slots=True)
class SetRemote:
    """What the far side's description says of its transport."""

    pc: int
    ice_ufrag: str
    ice_pwd: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class RestartIce:
    """New local credentials; a SetRemote with the far side's new ones follows."""

    pc: int
    ice_ufrag: str
    ice_pwd: str


@dataclass(frozen=True, slots=True)
class AddRemoteCandidate:
    """A trickled candidate, `candidate:...`."""

    pc: int
    candidate: str


@dataclass(frozen=True, slots=True)
class ClosePeerConnection:
    """Silent; its receivers and senders go with it."""

    pc: int


@dataclass(frozen=True, slots=True)
class AddReceiver:
    """Expect a published track on this peer connection."""

    pc: int
    track: int
    config: ReceiverConfig


@dataclass(frozen=True, slots=True)
class UpdateReceiver:
    """The track's section was negotiated again."""

    track: int
    config: ReceiverConfig


@dataclass(frozen=True, slots=True)
class SetTrackMuted:
    """Stop or resume forwarding of a track."""

    track: int
    muted: bool


@dataclass(frozen=True, slots=True)
class RequestKeyframe:
    """Ask the publisher for a key frame (throttled by the engine)."""

    track: int


@dataclass(frozen=True, slots=True)
class RemoveTrack:
    """The track ended; its senders fall silent."""

    track: int


@dataclass(frozen=True, slots=True)
class AddSender:
    """Forward a track on this peer connection."""

    pc: int
    sender: int
    config: SenderConfig


@dataclass(frozen=True, slots=True)
class SetSenderLayers:
    """The highest layers a sender may forward, and its priority (as `SenderConfig`'s)."""

    sender: int
    max_spatial_layer: int
    max_temporal_layer: int
    paused: bool
    priority: int


@dataclass(frozen=True, slots=True)
class RemoveSender:
    """Stop forwarding and free the sender."""

    sender: int


@dataclass(frozen=True, slots=True)
class SetBandwidthCap:
    """The most that a peer connection is sent, in bits a second; None: as much as the path carries.

    With `allow_pause` videos may stop that do not fit; else each keeps its lowest layer.
    """

    pc: int
    bps: int | None
    allow_pause: bool = False


@dataclass(frozen=True, slots=True)
class OpenDataChannel:
    """A server-created channel; kept over a restart of the transport."""

    pc: int
    label: str
    ordered: bool = True
    max_retransmits: int | None = None


@dataclass(frozen=True, slots=True)
class SendData:
    """One message to many peer connections, serialized once."""

    pcs: tuple[int, ...]
    label: str
    payload: bytes
    binary: bool = True


Command = (
    CreatePeerConnection
    | SetRemote
    | RestartIce
    | AddRemoteCandidate
    | ClosePeerConnection
    | AddReceiver
    | UpdateReceiver
    | SetTrackMuted
    | RequestKeyframe
    | RemoveTrack
    | AddSender
    | SetSenderLayers
    | RemoveSender
    | SetBandwidthCap
    | OpenDataChannel
    | SendData
)
