//! What a shard can be told. A command that cannot be performed becomes [`crate::Event::Rejected`]; nothing changes.

use serde::{Deserialize, Serialize};

use crate::ids::{PcId, SenderId, TrackId};

/// How one peer connection's transport is made. A server's is ICE-lite and controlled, a client's controlling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConnectionConfig {
    /// Local ICE user name fragment; names the peer connection on a shared socket (RFC 8445 section 5.3).
    pub ice_ufrag: String,
    /// Local ICE password.
    pub ice_pwd: String,
    /// Answers checks, never makes its own (RFC 8445 section 2.5).
    pub ice_lite: bool,
    /// Nominates (RFC 8445 section 4).
    pub ice_controlling: bool,
    /// This side sends the ClientHello, and only after an authenticated check with its own ufrag.
    pub dtls_active: bool,
}

/// What the far side's description says of its transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteTransport {
    /// Remote ICE user name fragment.
    pub ice_ufrag: String,
    /// Remote ICE password.
    pub ice_pwd: String,
    /// "sha-256 AA:BB:.."; a changed one restarts DTLS and SCTP.
    pub fingerprint: String,
}

/// RTP header extension ids of one peer connection (RFC 8285), 0 = not negotiated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtensionIds {
    /// `urn:ietf:params:rtp-hdrext:sdes:mid`
    pub mid: u8,
    /// `urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id`
    pub rid: u8,
    /// `urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id`
    pub repaired_rid: u8,
    /// RFC 6464.
    pub audio_level: u8,
    /// Transport-wide sequence number.
    pub transport_cc: u8,
    /// Absolute send time.
    pub abs_send_time: u8,
    /// Absolute capture time.
    pub abs_capture_time: u8,
    /// AV1 dependency descriptor.
    pub dependency_descriptor: u8,
    /// Playout delay.
    pub playout_delay: u8,
    /// Video orientation (3GPP TS 26.114).
    pub video_orientation: u8,
}

/// Audio or video.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrackKind {
    /// Sound.
    Audio,
    /// Pictures.
    Video,
}

/// One payload type of a section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Codec {
    /// `audio/opus`, `audio/red`, `video/VP8`, ...; compared without case.
    pub mime: String,
    /// RTP payload type, 0..=127.
    pub payload_type: u8,
    /// RTP clock rate in Hz.
    pub clock_rate: u32,
    /// Payload type of its RTX stream (RFC 4588).
    pub rtx_payload_type: Option<u8>,
    /// Generic NACK negotiated (RFC 4585).
    pub nack: bool,
    /// Picture loss indication negotiated (RFC 4585).
    pub pli: bool,
    /// Transport-wide congestion control feedback negotiated.
    pub transport_cc: bool,
}

/// One simulcast encoding a publisher announced, by rid or by SSRC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encoding {
    /// 0 is the smallest.
    pub spatial_layer: u8,
    /// RFC 8851.
    pub rid: Option<String>,
    /// Announced SSRC.
    pub ssrc: Option<u32>,
    /// Announced SSRC of its RTX stream.
    pub rtx_ssrc: Option<u32>,
}

/// A published track as it arrives. No encodings: one, found by mid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiverConfig {
    /// Audio or video.
    pub kind: TrackKind,
    /// The m-section's id (RFC 9143).
    pub mid: String,
    /// Payload types the publisher may send.
    pub codecs: Vec<Codec>,
    /// Announced encodings.
    pub encodings: Vec<Encoding>,
    /// Header extension ids.
    pub extensions: ExtensionIds,
    /// Takes part in [`crate::Event::AudioLevels`].
    pub measure_level: bool,
    /// Reads a source's time stamps out of payloads (load tests).
    pub probe: bool,
}

/// A track going out on one peer connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SenderConfig {
    /// The track to forward.
    pub track: TrackId,
    /// The m-section's id.
    pub mid: String,
    /// SSRC of what is sent.
    pub ssrc: u32,
    /// SSRC of its RTX stream; None: repairs are plain repeats.
    pub rtx_ssrc: Option<u32>,
    /// RTCP canonical name (RFC 3550 section 6.5.1).
    pub cname: String,
    /// What the far side accepts, matched by mime.
    pub codecs: Vec<Codec>,
    /// Header extension ids.
    pub extensions: ExtensionIds,
    /// Highest spatial layer wished for.
    pub max_spatial_layer: u8,
    /// Highest temporal layer wished for.
    pub max_temporal_layer: u8,
    /// Nothing is wished for.
    pub paused: bool,
    /// Packet trailers (magic `LKTS`) are cut from the end of frames.
    pub strip_trailer: bool,
    /// Follows every frame made here, so that clients of an encrypted track know it; empty: the track is not encrypted.
    pub sif_trailer: Vec<u8>,
    /// Least and most playout delay told to the far side, in milliseconds, at most 40,950.
    pub playout_delay: Option<(u16, u16)>,
    /// Opus goes out as RED made here (RFC 2198), when the far side accepts both.
    pub encode_red: bool,
    /// Its share when bandwidth is short, 255 first; 0: by kind.
    pub priority: u8,
}

/// A track made here, not received: the load test's publisher.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceConfig {
    /// Audio or video.
    pub kind: TrackKind,
    /// `audio/opus`, `video/VP8`.
    pub mime: String,
    /// RTP clock rate in Hz.
    pub clock_rate: u32,
    /// Frames a second, above 0 and at most 1,000.
    pub frames_per_second: f64,
    /// Packets of one frame, at least 1.
    pub packets_per_frame: u16,
    /// Payload bytes of a packet, 32..=1,200.
    pub payload_bytes: u16,
}

/// What a shard can be told; performed in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Makes a peer connection.
    CreatePeerConnection {
        /// Chosen by the caller, unused so far.
        pc: PcId,
        /// Transport parameters.
        config: PeerConnectionConfig,
    },
    /// Tells the far side's transport parameters.
    SetRemote {
        /// Which.
        pc: PcId,
        /// Parameters.
        remote: RemoteTransport,
    },
    /// New local ICE credentials; `SetRemote` follows.
    RestartIce {
        /// Which.
        pc: PcId,
        /// New local ufrag.
        ice_ufrag: String,
        /// New local password.
        ice_pwd: String,
    },
    /// A trickled candidate of the far side (RFC 8839 text).
    AddRemoteCandidate {
        /// Which.
        pc: PcId,
        /// "candidate:..."
        candidate: String,
    },
    /// Forgets it at once, without a word to the far side.
    ClosePeerConnection {
        /// Which.
        pc: PcId,
    },
    /// Expects a track on a peer connection.
    AddReceiver {
        /// On which.
        pc: PcId,
        /// Chosen by the caller, unused so far.
        track: TrackId,
        /// What to expect.
        config: ReceiverConfig,
    },
    /// Replaces what is expected; running encodings that are still announced go on.
    UpdateReceiver {
        /// Which.
        track: TrackId,
        /// What to expect.
        config: ReceiverConfig,
    },
    /// Makes a track here.
    AddSource {
        /// Chosen by the caller, unused so far.
        track: TrackId,
        /// What to make.
        config: SourceConfig,
    },
    /// Stops or resumes forwarding of a track to everybody.
    SetTrackMuted {
        /// Which.
        track: TrackId,
        /// True: nothing is forwarded.
        muted: bool,
    },
    /// Asks the publisher for a keyframe of every encoding (throttled).
    RequestKeyframe {
        /// Which.
        track: TrackId,
    },
    /// Forgets a track; its senders fall silent.
    RemoveTrack {
        /// Which.
        track: TrackId,
    },
    /// Sends a track on a peer connection.
    AddSender {
        /// On which.
        pc: PcId,
        /// Chosen by the caller, unused so far.
        sender: SenderId,
        /// What and how.
        config: SenderConfig,
    },
    /// Changes a sender's wish.
    SetSenderLayers {
        /// Which.
        sender: SenderId,
        /// Highest spatial layer.
        max_spatial_layer: u8,
        /// Highest temporal layer.
        max_temporal_layer: u8,
        /// Nothing at all.
        paused: bool,
        /// Its share when bandwidth is short, as in its configuration; None: unchanged.
        priority: Option<u8>,
    },
    /// Forgets a sender.
    RemoveSender {
        /// Which.
        sender: SenderId,
    },
    /// Bounds what all senders of a peer connection send together; they get lower layers until it fits.
    SetBandwidthCap {
        /// Which.
        pc: PcId,
        /// Bits per second; None: no bound.
        bps: Option<u64>,
        /// Senders may be paused when even their smallest layers do not fit.
        allow_pause: bool,
    },
    /// Opens a data channel (DCEP, RFC 8832) as soon as SCTP is up; kept over a DTLS restart.
    OpenDataChannel {
        /// On which.
        pc: PcId,
        /// Its label.
        label: String,
        /// In order.
        ordered: bool,
        /// None: reliable.
        max_retransmits: Option<u16>,
    },
    /// Sends one message to many.
    SendData {
        /// To whom.
        pcs: Vec<PcId>,
        /// On the channel with this label.
        label: String,
        /// The message.
        payload: Vec<u8>,
        /// Binary or text (RFC 8831 section 8).
        binary: bool,
    },
    /// Resumes an exported peer connection here, with this shard's identity and new ICE credentials.
    ImportPeerConnection {
        /// Chosen by the caller, unused so far. Tracks and senders keep the numbers in the state.
        pc: PcId,
        /// What `Shard::export_peer_connection` gave.
        state: Vec<u8>,
        /// Transport parameters.
        config: PeerConnectionConfig,
    },
}
