//! One snapshot of everything countable. Totals since creation, except where said.

use crate::ids::{PcId, SenderId, TrackId};

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
