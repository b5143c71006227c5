"""The compiled media core, as Python sees it: commands down, batches of events up, one stats snapshot.

Not a WebRTC API: it knows peer connections, tracks and senders by integers the caller chooses, and no room and no
participant. Nothing crosses per packet. Every command returns at once and is performed, in order, by the engine's own
thread; what went wrong comes back as an event. The engine holds the GIL for none of its work.
"""

from collections.abc import Sequence
from typing import Literal, Self, final

__version__: str
SOURCE_DIGEST: str
"""SHA-256 over the Rust sources this module was built from; `mediacore.stale` compares it with the tree."""

# ---------------------------------------------------------------------------------------------- configuration

@final
class Binding:
    """One local address the engine opens, and what is told to clients in its place (1:1 NAT)."""

    def __new__(cls, address: str, advertise: str | None = None) -> Self: ...
    # address "127.0.0.1:7882" / "[::1]:0"; advertise "203.0.113.5" (same port) or "203.0.113.5:30000"

@final
class EngineConfig:
    def __new__(
        cls,
        udp: Sequence[Binding],
        tcp: Sequence[Binding] = (),
        event_interval_ms: int = 2,  # how long non-urgent events are gathered
        level_interval_ms: int = 400,  # window of AudioLevels
        max_peer_connections: int = 4096,
    ) -> Self: ...

@final
class PeerConnectionConfig:
    """How one peer connection's transport is made; a server's is ICE-lite and controlled, a client's controlling.

    `dtls_active` True: this side sends the ClientHello (architecture: always so for a server), and only after an
    authenticated connectivity check with its own ufrag.
    """

    def __new__(
        cls,
        ice_ufrag: str,
        ice_pwd: str,
        ice_lite: bool = True,
        ice_controlling: bool = False,
        dtls_active: bool = True,
    ) -> Self: ...

@final
class RemoteTransport:
    """What the far side's description says of its transport. A changed fingerprint restarts DTLS and SCTP."""

    def __new__(cls, ice_ufrag: str, ice_pwd: str, fingerprint: str) -> Self: ...
    # fingerprint "sha-256 AA:BB:.."

@final
class ExtensionIds:
    """RTP header extension ids of one peer connection (RFC 8285), 0 = not negotiated."""

    def __new__(
        cls,
        mid: int = 0,
        rid: int = 0,
        repaired_rid: int = 0,
        audio_level: int = 0,
        transport_cc: int = 0,
        abs_send_time: int = 0,
        abs_capture_time: int = 0,
        dependency_descriptor: int = 0,
        playout_delay: int = 0,
        video_orientation: int = 0,
    ) -> Self: ...

@final
class Codec:
    """One payload type of a section. mime is `audio/opus`, `audio/red`, `video/VP8`, ... (case-insensitive)."""

    def __new__(
        cls,
        mime: str,
        payload_type: int,
        clock_rate: int,
        rtx_payload_type: int | None = None,
        nack: bool = False,
        pli: bool = False,
        transport_cc: bool = False,
    ) -> Self: ...

@final
class Encoding:
    """One simulcast encoding a publisher announced: by rid, or by SSRC (with its RTX SSRC), and its spatial layer."""

    def __new__(
        cls,
        spatial_layer: int,
        rid: str | None = None,
        ssrc: int | None = None,
        rtx_ssrc: int | None = None,
    ) -> Self: ...

@final
class ReceiverConfig:
    """A published track as it arrives: which section, which codecs, which encodings (empty: one, found by mid)."""

    def __new__(
        cls,
        kind: Literal["audio", "video"],
        mid: str,
        codecs: Sequence[Codec],
        encodings: Sequence[Encoding] = (),
        extensions: ExtensionIds = ...,
        measure_level: bool = False,  # microphone: take part in AudioLevels
        probe: bool = False,  # swarm only: read the generator's time stamps out of payloads
    ) -> Self: ...

@final
class SenderConfig:
    """A track going out on one peer connection. Codecs: what the far side accepts, by mime; RTX when both agree."""

    def __new__(
        cls,
        track: int,
        mid: str,
        ssrc: int,
        rtx_ssrc: int | None,
        cname: str,
        codecs: Sequence[Codec],
        extensions: ExtensionIds = ...,
        max_spatial_layer: int = 2,
        max_temporal_layer: int = 3,
        paused: bool = False,
        strip_trailer: bool = False,  # cut packet trailers (magic LKTS)
        sif_trailer: bytes = b"",  # of an encrypted track: follows every frame made here; at most 64 bytes
        playout_delay: tuple[int, int] | None = None,  # least and most, ms; at most 40,950
        encode_red: bool = False,  # opus goes out as RED made here
        priority: int = 0,  # share when bandwidth is short, 255 first; 0: by kind
    ) -> Self: ...

@final
class SourceConfig:
    """A track made here, not received: the swarm's publisher. Packets carry the time they were made, for latency."""

    def __new__(
        cls,
        kind: Literal["audio", "video"],
        mime: str,
        clock_rate: int,
        frames_per_second: float,
        packets_per_frame: int,
        payload_bytes: int,
    ) -> Self: ...

# --------------------------------------------------------------------------------------------------- events

@final
class Connected:
    """ICE and DTLS are up: media and data may flow. Comes again after a restart."""

    pc: int

@final
class Disconnected:
    """No authenticated traffic for 10 s (RFC 7675); `Failed` follows 5 s later unless it comes back."""

    pc: int

@final
class Failed:
    """The transport is beyond repair without a restart. `reason` is for logs."""

    pc: int
    reason: str

@final
class DataChannelOpened:
    pc: int
    label: str
    ordered: bool
    reliable: bool

@final
class DataChannelClosed:
    pc: int
    label: str

@final
class DataReceived:
    pc: int
    label: str
    payload: bytes
    binary: bool

@final
class EncodingStarted:
    """First packet of an encoding of a received track."""

    track: int
    spatial_layer: int
    rid: str | None
    ssrc: int
    mime: str

@final
class EncodingStopped:
    """No packet of this encoding for a while (2 s), or its SSRC said goodbye."""

    track: int
    spatial_layer: int

@final
class AudioLevels:
    """Levels of the last window: (track, loudest active level in -dBov 0..127, share of the window above -35 dBov)."""

    levels: list[tuple[int, int, float]]

@final
class LayerChanged:
    """What a sender really forwards now; -1 is nothing."""

    sender: int
    spatial_layer: int
    temporal_layer: int

@final
class SenderPaused:
    """A sender was paused, or goes on, because of what its peer connection may carry; not by its wish."""

    sender: int
    paused: bool

@final
class Rejected:
    """A command could not be performed (unknown id, bad address, ...). The state is as before it."""

    command: str
    id: int
    message: str

Event = (
    Connected
    | Disconnected
    | Failed
    | DataChannelOpened
    | DataChannelClosed
    | DataReceived
    | EncodingStarted
    | EncodingStopped
    | AudioLevels
    | LayerChanged
    | SenderPaused
    | Rejected
)

# ---------------------------------------------------------------------------------------------------- stats

@final
class TrackStats:
    track: int
    packets: int
    bytes: int
    lost: int
    jitter: float  # seconds
    nacks_sent: int
    keyframe_requests_sent: int
    bitrate_bps: int

@final
class SenderStats:
    sender: int
    packets: int
    bytes: int
    retransmitted: int
    nacks_received: int
    keyframe_requests_received: int
    fraction_lost: float
    rtt: float | None  # seconds

@final
class PeerConnectionStats:
    pc: int
    rtt: float | None
    estimate_bps: int | None
    packets_in: int
    packets_out: int
    data_buffered: int

@final
class Stats:
    tracks: list[TrackStats]
    senders: list[SenderStats]
    peer_connections: list[PeerConnectionStats]
    counters: dict[
        str, int
    ]  # drops by reason and totals: packets_in, packets_out, stun_rejected, rtp_malformed, ...
    probe_latency_us: list[int]  # swarm only: 0.1-decade histogram of latency, in microseconds

# --------------------------------------------------------------------------------------------------- engine

@final
class Engine:
    """One packet engine: its sockets, its threads, its certificate (made at start, never kept)."""

    def __new__(
        cls, config: EngineConfig
    ) -> Self: ...  # OSError with the address when a port is busy
    @property
    def fingerprint(
        self,
    ) -> str: ...  # "sha-256 AA:BB:..", the same for every peer connection of this engine
    @property
    def udp_addresses(self) -> list[str]: ...  # as bound
    @property
    def tcp_addresses(self) -> list[str]: ...
    def candidates(
        self, ice_ufrag: str
    ) -> list[str]: ...  # "candidate:... typ host ufrag X", UDP first
    def event_fd(self) -> int: ...  # readable while events wait; never read it, call drain
    def drain(self) -> list[Event]: ...
    def stats(self) -> Stats: ...  # a snapshot at most 1 s old
    def close(self) -> None: ...  # silent: no close_notify, no SCTP abort

    # peer connections
    def create_peer_connection(self, pc: int, config: PeerConnectionConfig) -> None: ...
    def set_remote(self, pc: int, remote: RemoteTransport) -> None: ...
    def restart_ice(self, pc: int, ice_ufrag: str, ice_pwd: str) -> None: ...  # set_remote follows
    def add_remote_candidate(self, pc: int, candidate: str) -> None: ...
    def close_peer_connection(self, pc: int) -> None: ...  # silent

    # received tracks, made tracks
    def add_receiver(self, pc: int, track: int, config: ReceiverConfig) -> None: ...
    def update_receiver(self, track: int, config: ReceiverConfig) -> None: ...
    def add_source(self, track: int, config: SourceConfig) -> None: ...
    def set_track_muted(self, track: int, muted: bool) -> None: ...
    def request_keyframe(self, track: int) -> None: ...
    def remove_track(self, track: int) -> None: ...  # its senders fall silent; remove them too

    # senders
    def add_sender(self, pc: int, sender: int, config: SenderConfig) -> None: ...
    def set_sender_layers(
        self,
        sender: int,
        max_spatial_layer: int,
        max_temporal_layer: int,
        paused: bool,
        priority: int | None = None,
    ) -> None: ...  # priority: as in SenderConfig; None: unchanged
    def remove_sender(self, sender: int) -> None: ...
    def set_bandwidth_cap(
        self, pc: int, bps: int | None, allow_pause: bool
    ) -> None: ...  # of all senders together, in bits per second; None: no bound

    # data channels
    def open_data_channel(
        self, pc: int, label: str, ordered: bool = True, max_retransmits: int | None = None
    ) -> None: ...  # kept over a DTLS restart; opens (DCEP, RFC 8832) when SCTP is up
    def send_data(
        self, pcs: Sequence[int], label: str, payload: bytes, binary: bool = True
    ) -> None: ...

    # moving a session
    def export_peer_connection(self, pc: int) -> bytes: ...
    """The session as a value (versioned): transport, receivers, senders with next sequence, timestamp and picture id,
    data channels. Waits for the engine thread (a millisecond or two); the peer connection goes on until closed."""
    def import_peer_connection(
        self, pc: int, state: bytes, config: PeerConnectionConfig
    ) -> None: ...

# -------------------------------------------------------------------------------------------------------- SDP

_Direction = Literal["sendrecv", "sendonly", "recvonly", "inactive"]
_SectionKind = Literal["audio", "video", "application"]

@final
class SdpCodec:
    """One payload type of an m-section: rtpmap, fmtp and rtcp-fb lines together."""

    payload_type: int
    name: str  # "opus", "red", "VP8", "rtx"
    clock_rate: int
    channels: int | None
    fmtp: str  # raw parameter text, "" when absent
    feedback: list[str]  # "nack", "nack pli", "ccm fir", "transport-cc", "goog-remb"
    def __new__(
        cls,
        payload_type: int,
        name: str,
        clock_rate: int,
        channels: int | None = None,
        fmtp: str = "",
        feedback: Sequence[str] = (),
    ) -> Self: ...
    def __eq__(self, other: object, /) -> bool: ...

@final
class SdpRid:
    id: str
    direction: Literal["send", "recv"]
    paused: bool
    def __new__(cls, id: str, direction: Literal["send", "recv"], paused: bool = False) -> Self: ...

@final
class SdpSsrcGroup:
    semantics: str  # "FID", "SIM"
    ssrcs: list[int]
    def __new__(cls, semantics: str, ssrcs: Sequence[int]) -> Self: ...

@final
class MediaSection:
    """One m-section: immutable, its text rendered once. Two sections parsed from equal text are the same object."""

    kind: _SectionKind
    mid: str
    rejected: bool  # port 0
    direction: _Direction
    codecs: list[SdpCodec]
    extensions: list[tuple[int, str]]  # (id, uri)
    msid: tuple[str, str] | None  # (stream, track); a one-token msid gives ("-", track)
    ssrcs: list[tuple[int, str]]  # (ssrc, cname), in order
    ssrc_groups: list[SdpSsrcGroup]
    rids: list[SdpRid]
    simulcast_send: list[str]  # rid names in order, "~" kept off (see rids[].paused)
    simulcast_recv: list[str]
    candidates: list[str]
    end_of_candidates: bool
    ice_ufrag: str | None
    ice_pwd: str | None
    fingerprint: str | None  # "sha-256 AA:.."
    setup: str | None  # "active" "passive" "actpass"
    sctp_port: int | None
    max_message_size: int | None
    def __new__(
        cls,
        kind: _SectionKind,
        mid: str,
        direction: _Direction = "inactive",
        rejected: bool = False,
        codecs: Sequence[SdpCodec] = (),
        extensions: Sequence[tuple[int, str]] = (),
        msid: tuple[str, str] | None = None,
        ssrcs: Sequence[tuple[int, str]] = (),
        ssrc_groups: Sequence[SdpSsrcGroup] = (),
        rids: Sequence[SdpRid] = (),
        simulcast_send: Sequence[str] = (),
        simulcast_recv: Sequence[str] = (),
        candidates: Sequence[str] = (),
        end_of_candidates: bool = False,
        ice_ufrag: str | None = None,
        ice_pwd: str | None = None,
        fingerprint: str | None = None,
        setup: str | None = None,
        sctp_port: int | None = None,
        max_message_size: int | None = None,
    ) -> Self: ...
    def __eq__(self, other: object, /) -> bool: ...

@final
class SessionDescription:
    """An offer or answer as a value (RFC 8866, RFC 9429). Section-level ICE and DTLS lines win over session-level."""

    session_id: int
    session_version: int
    sections: list[MediaSection]
    ice_lite: bool
    extmap_allow_mixed: bool
    bundle: list[str]  # mids of the BUNDLE group
    ice_ufrag: str | None  # first found: session level, else first section's
    ice_pwd: str | None
    fingerprint: str | None
    setup: str | None
    def __new__(
        cls,
        session_id: int,
        session_version: int,
        sections: Sequence[MediaSection],
        ice_lite: bool = False,
        fingerprint: str | None = None,  # written at session level
        extmap_allow_mixed: bool = True,
        bundle: Sequence[str] | None = None,  # None: every section not rejected
    ) -> Self: ...
    def render(self) -> str: ...

@final
class SdpCache:
    """Remembers the sections of the last description, so that an unchanged section is not parsed again.

    One per peer connection and direction. `parse` raises SdpError with the line and the reason; limits: 1 MiB of text,
    1,024 sections, 256 codecs a section.
    """

    def __new__(cls) -> Self: ...
    def parse(self, text: str) -> SessionDescription: ...

class SdpError(ValueError): ...
