//! One peer connection as a shard holds it: its transport, its keys, and everything counted per path.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::congestion::estimate::BandwidthEstimator;
use crate::congestion::twcc::{TwccHistory, TwccReceiver};
use crate::forward::ForwarderState;
use crate::ids::PcId;
use crate::packet::extensions::ExtensionIds;
use crate::router::Router;
use crate::send::Outbox;
use crate::srtp::{SrtpReceiver, SrtpSender};
use crate::transport::PeerTransport;

/// Source addresses remembered for one peer connection.
pub(crate) const MAX_ADDRESSES: usize = 16;

/// Packets remembered until feedback tells their fate.
const HISTORY: usize = 2048;
/// First estimate, and its bounds.
const START_BPS: u64 = 2_000_000;
const MIN_BPS: u64 = 50_000;
const MAX_BPS: u64 = 100_000_000;

/// A peer connection.
pub(crate) struct Peer {
    pub(crate) id: PcId,
    pub(crate) transport: PeerTransport,
    pub(crate) is_lite: bool,
    pub(crate) is_controlling: bool,
    /// The one socket of a controlling peer connection.
    pub(crate) own_socket: Option<usize>,
    pub(crate) srtp_in: Option<SrtpReceiver>,
    pub(crate) srtp_out: Option<SrtpSender>,
    pub(crate) path: Option<(usize, SocketAddr)>,
    pub(crate) addresses: Vec<(usize, SocketAddr)>,
    /// Local ufrags that lead here: the present one and the one before a restart.
    pub(crate) ufrags: Vec<String>,
    pub(crate) router: Router,
    /// Slots of the tracks received here.
    pub(crate) tracks: Vec<usize>,
    /// Slots of the senders that send here.
    pub(crate) senders: Vec<usize>,
    /// Header extensions of what is received.
    pub(crate) extensions: ExtensionIds,
    pub(crate) outbox: Outbox,
    /// RTCP that waits for the flush.
    pub(crate) rtcp: Vec<u8>,
    /// SSRCs of senders that are gone, and their next extended sequence numbers: a number used twice under one key
    /// would break the cipher.
    pub(crate) spent: HashMap<u32, u64>,
    /// Where the senders among them stood: another under the same SSRC goes on from there.
    pub(crate) stood: HashMap<u32, ForwarderState>,
    /// Sender of our feedback.
    pub(crate) ssrc: u32,
    pub(crate) arrivals: TwccReceiver,
    pub(crate) history: TwccHistory,
    pub(crate) estimator: BandwidthEstimator,
    /// The far side said anything about the path.
    pub(crate) is_estimated: bool,
    /// A stream of the far side, named in transport-wide feedback.
    pub(crate) media_ssrc: u32,
    /// Shard's wall clock minus the publisher's NTP clock, nanoseconds; the least seen.
    pub(crate) clock_offset: Option<i64>,
    pub(crate) next_report: Option<Instant>,
    /// When the transport is due.
    pub(crate) transport_due: Option<Instant>,
    /// Earliest due thing above the transport.
    pub(crate) rtp_due: Option<Instant>,
    /// The timer that stands for this peer connection.
    pub(crate) scheduled: Option<Instant>,
    pub(crate) is_dirty: bool,
    /// What all senders may send together, in bits per second, and whether some may be paused for it.
    pub(crate) cap: Option<(u64, bool)>,
    pub(crate) rtt: Option<Duration>,
    pub(crate) packets_in: u64,
    pub(crate) packets_out: u64,
    pub(crate) heard: Option<Instant>,
}

impl Peer {
    pub(crate) fn new(id: PcId, transport: PeerTransport, ssrc: u32, now: Instant) -> Self {
        Self {
            id,
            transport,
            is_lite: true,
            is_controlling: false,
            own_socket: None,
            srtp_in: None,
            srtp_out: None,
            path: None,
            addresses: Vec::new(),
            ufrags: Vec::new(),
            router: Router::default(),
            tracks: Vec::new(),
            senders: Vec::new(),
            extensions: ExtensionIds::default(),
            outbox: Outbox::default(),
            rtcp: Vec::new(),
            spent: HashMap::new(),
            stood: HashMap::new(),
            ssrc,
            arrivals: TwccReceiver::new(now),
            history: TwccHistory::new(HISTORY),
            estimator: BandwidthEstimator::new(START_BPS, MIN_BPS, MAX_BPS),
            is_estimated: false,
            media_ssrc: 0,
            clock_offset: None,
            next_report: None,
            transport_due: None,
            rtp_due: None,
            scheduled: None,
            is_dirty: false,
            cap: None,
            rtt: None,
            packets_in: 0,
            packets_out: 0,
            heard: None,
        }
    }

    /// Something above the transport is due at `at`.
    pub(crate) fn wake_at(&mut self, at: Instant) {
        if self.rtp_due.is_none_or(|due| at < due) {
            self.rtp_due = Some(at);
        }
    }

    /// Round trip for repairs; a guess before the first report.
    pub(crate) fn repair_rtt(&self) -> Duration {
        self.rtt.unwrap_or(Duration::from_millis(60))
    }

    /// Takes in the extension ids of one more section; they are the same in a bundle (RFC 9143 section 9.1).
    pub(crate) fn merge_extensions(&mut self, ids: &ExtensionIds) {
        let own = &mut self.extensions;
        let pairs = [
            (&mut own.mid, ids.mid),
            (&mut own.rid, ids.rid),
            (&mut own.repaired_rid, ids.repaired_rid),
            (&mut own.audio_level, ids.audio_level),
            (&mut own.transport_cc, ids.transport_cc),
            (&mut own.abs_send_time, ids.abs_send_time),
            (&mut own.abs_capture_time, ids.abs_capture_time),
            (&mut own.dependency_descriptor, ids.dependency_descriptor),
            (&mut own.playout_delay, ids.playout_delay),
            (&mut own.video_orientation, ids.video_orientation),
        ];
        for (mine, theirs) in pairs {
            if theirs != 0 {
                *mine = theirs;
            }
        }
    }
}
