//! One snapshot of everything countable. Totals since creation, except where said.

use crate::forward::Withheld;
use crate::ids::{PcId, SenderId, TrackId};
use crate::transport::TransportCounters;

/// A received track, all its encodings together.
#[derive(Clone, Debug, PartialEq)]
pub struct TrackStats {
    /// Which.
    pub track: TrackId,
    /// RTP packets, repairs included.
    pub packets: u64,
    /// RTP bytes with headers.
    pub bytes: u64,
    /// Packets given up for lost.
    pub lost: u64,
    /// Interarrival jitter in seconds (RFC 3550 section 6.4.1), the worst encoding's.
    pub jitter: f64,
    /// Sequence numbers asked for.
    pub nacks_sent: u64,
    /// PLI sent.
    pub keyframe_requests_sent: u64,
    /// Over the last second or so.
    pub bitrate_bps: u64,
}

/// A track going out.
#[derive(Clone, Debug, PartialEq)]
pub struct SenderStats {
    /// Which.
    pub sender: SenderId,
    /// RTP packets without repairs.
    pub packets: u64,
    /// RTP bytes with headers.
    pub bytes: u64,
    /// Repairs sent.
    pub retransmitted: u64,
    /// Sequence numbers the far side asked for.
    pub nacks_received: u64,
    /// PLI and FIR.
    pub keyframe_requests_received: u64,
    /// From the last receiver report, 0..=1.
    pub fraction_lost: f64,
    /// Seconds, from receiver reports.
    pub rtt: Option<f64>,
}

/// A peer connection.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerConnectionStats {
    /// Which.
    pub pc: PcId,
    /// Seconds.
    pub rtt: Option<f64>,
    /// What the path to the far side may carry.
    pub estimate_bps: Option<u64>,
    /// Datagrams in.
    pub packets_in: u64,
    /// Datagrams out.
    pub packets_out: u64,
    /// Bytes waiting in data channels.
    pub data_buffered: u64,
}

/// Everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// Tracks.
    pub tracks: Vec<TrackStats>,
    /// Senders.
    pub senders: Vec<SenderStats>,
    /// Peer connections.
    pub peer_connections: Vec<PeerConnectionStats>,
    /// Drops by reason, and totals.
    pub counters: Vec<(&'static str, u64)>,
    /// Load tests: how many probe packets took `10^(i/10)` microseconds or more, below the next bin.
    pub probe_latency_us: Vec<u64>,
}

/// Why an incoming packet went no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// No handshake yet.
    NoKeys,
    /// No RTP header, or impossible padding.
    Malformed,
    /// Wrong tag, or too many sources.
    Unauthenticated,
    /// Here before, or too old to tell.
    Duplicate,
    /// Of no known track.
    Unrouted,
    /// Nothing in it.
    Padding,
}

/// What a shard counts besides its parts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    /// Datagrams in.
    pub(crate) packets_in: u64,
    /// Datagrams out.
    pub(crate) packets_out: u64,
    /// STUN that names nobody here.
    pub(crate) stun_unknown: u64,
    /// DTLS, RTP or RTCP from an address that never authenticated.
    pub(crate) address_unknown: u64,
    /// First byte of no protocol (RFC 7983).
    pub(crate) datagram_unknown: u64,
    /// RTP or RTCP before the handshake.
    pub(crate) no_keys: u64,
    /// RTP headers that make no sense.
    pub(crate) rtp_malformed: u64,
    /// RTP with a wrong tag.
    pub(crate) rtp_unauthenticated: u64,
    /// RTP that was here before.
    pub(crate) rtp_duplicate: u64,
    /// RTP of no known track.
    pub(crate) rtp_unrouted: u64,
    /// RTX probes without content.
    pub(crate) rtp_padding: u64,
    /// RTCP with a wrong tag, or repeated.
    pub(crate) srtcp_rejected: u64,
    /// RTCP that makes no sense.
    pub(crate) rtcp_malformed: u64,
    /// Keying material of a wrong length.
    pub(crate) keys_unusable: u64,
    /// Packets of muted tracks.
    pub(crate) muted: u64,
    /// Packets of silence and blank frames made here.
    pub(crate) injected: u64,
    /// Lost audio that a later packet's redundancy brought.
    pub(crate) recovered: u64,
    /// Packets for subscribers without keys.
    pub(crate) not_connected: u64,
    /// Packets of codecs the subscriber did not accept.
    pub(crate) codec_not_accepted: u64,
    /// Packets of layers not chosen.
    pub(crate) layer_unwanted: u64,
    /// Packets before a keyframe.
    pub(crate) keyframe_awaited: u64,
    /// Packets of padding only.
    pub(crate) padding_dropped: u64,
    /// Packets too late to be numbered.
    pub(crate) too_late: u64,
    /// NACKs for packets gone, or sent again just now.
    pub(crate) repair_not_possible: u64,
    /// Keyframe requests put off.
    pub(crate) keyframe_requests_throttled: u64,
    /// Commands that were refused.
    pub(crate) commands_rejected: u64,
}

impl Counters {
    pub(crate) fn count_dropped(&mut self, why: Dropped) {
        let counter = match why {
            Dropped::NoKeys => &mut self.no_keys,
            Dropped::Malformed => &mut self.rtp_malformed,
            Dropped::Unauthenticated => &mut self.rtp_unauthenticated,
            Dropped::Duplicate => &mut self.rtp_duplicate,
            Dropped::Unrouted => &mut self.rtp_unrouted,
            Dropped::Padding => &mut self.rtp_padding,
        };
        *counter += 1;
    }

    pub(crate) fn count_withheld(&mut self, why: Withheld) {
        let counter = match why {
            Withheld::Unwanted => &mut self.layer_unwanted,
            Withheld::Waiting => &mut self.keyframe_awaited,
            Withheld::Padding => &mut self.padding_dropped,
            Withheld::Late => &mut self.too_late,
        };
        *counter += 1;
    }

    /// Names and values.
    pub(crate) fn rows(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("packets_in", self.packets_in),
            ("packets_out", self.packets_out),
            ("stun_unknown", self.stun_unknown),
            ("address_unknown", self.address_unknown),
            ("datagram_unknown", self.datagram_unknown),
            ("no_keys", self.no_keys),
            ("rtp_malformed", self.rtp_malformed),
            ("rtp_unauthenticated", self.rtp_unauthenticated),
            ("rtp_duplicate", self.rtp_duplicate),
            ("rtp_unrouted", self.rtp_unrouted),
            ("rtp_padding", self.rtp_padding),
            ("srtcp_rejected", self.srtcp_rejected),
            ("rtcp_malformed", self.rtcp_malformed),
            ("keys_unusable", self.keys_unusable),
            ("muted", self.muted),
            ("injected", self.injected),
            ("recovered", self.recovered),
            ("not_connected", self.not_connected),
            ("codec_not_accepted", self.codec_not_accepted),
            ("layer_unwanted", self.layer_unwanted),
            ("keyframe_awaited", self.keyframe_awaited),
            ("padding_dropped", self.padding_dropped),
            ("too_late", self.too_late),
            ("repair_not_possible", self.repair_not_possible),
            (
                "keyframe_requests_throttled",
                self.keyframe_requests_throttled,
            ),
            ("commands_rejected", self.commands_rejected),
        ]
    }
}

/// Rows of [`transport_rows`].
pub(crate) const TRANSPORT_ROWS: usize = 16;

/// Names and values of a transport's counters.
pub(crate) fn transport_rows(
    counters: &TransportCounters,
) -> [(&'static str, u64); TRANSPORT_ROWS] {
    [
        ("stun_malformed", counters.stun_malformed),
        ("stun_unauthenticated", counters.stun_unauthenticated),
        ("stun_unexpected", counters.stun_unexpected),
        ("dtls_dropped", counters.dtls_dropped),
        ("dtls_unexpected", counters.dtls_unexpected),
        ("no_path", counters.no_path),
        ("sctp_dropped", counters.sctp_dropped),
        ("sctp_refused", counters.sctp_refused),
        ("dcep_malformed", counters.dcep_malformed),
        ("channels_refused", counters.channels_refused),
        ("data_unknown_stream", counters.data_unknown_stream),
        ("data_too_large", counters.data_too_large),
        ("data_refused", counters.data_refused),
        ("data_dropped", counters.data_dropped),
        ("outputs_dropped", counters.outputs_dropped),
        ("protocol_panics", counters.panics),
    ]
}
