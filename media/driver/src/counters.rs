//! What the driver counts, all totals since the engine was made.

use mediacore_core::Stats;

/// Totals of one engine thread. Names are those of `Stats.counters`.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) wakeups: u64,
    pub(crate) commands: u64,
    pub(crate) events_dropped: u64,
    pub(crate) receive_calls: u64,
    pub(crate) receive_reads: u64,
    pub(crate) datagrams_in: u64,
    pub(crate) receive_truncated: u64,
    pub(crate) receive_errors: u64,
    pub(crate) gather_waits: u64,
    pub(crate) gather_gains: u64,
    pub(crate) send_calls: u64,
    pub(crate) send_messages: u64,
    pub(crate) datagrams_out: u64,
    pub(crate) send_blocked: u64,
    pub(crate) send_dropped: u64,
    pub(crate) send_errors: u64,
    pub(crate) gso_refused: u64,
    /// Messages written by number of segments: 1, 2..3, 4..7, 8..15, 16 and more.
    pub(crate) gso_depth: [u64; 5],
    pub(crate) tcp_accepted: u64,
    pub(crate) tcp_refused: u64,
    pub(crate) tcp_closed: u64,
    pub(crate) tcp_dropped: u64,
    /// Time from the kernel handing over a batch to the last of its output written, the longest so far.
    pub(crate) longest_round_us: u64,
}

impl Counters {
    /// Counts a message written in one piece with `segments` datagrams in it.
    pub(crate) fn sent(&mut self, segments: usize) {
        self.send_messages += 1;
        self.datagrams_out += segments as u64;
        let bin = segments.max(1).ilog2().min(4) as usize;
        self.gso_depth[bin] += 1;
    }

    /// Appends every total to a snapshot.
    pub(crate) fn write(&self, stats: &mut Stats) {
        stats.counters.extend([
            ("wakeups", self.wakeups),
            ("commands", self.commands),
            ("events_dropped", self.events_dropped),
            ("receive_calls", self.receive_calls),
            ("receive_reads", self.receive_reads),
            ("datagrams_in", self.datagrams_in),
            ("receive_truncated", self.receive_truncated),
            ("receive_errors", self.receive_errors),
            ("gather_waits", self.gather_waits),
            ("gather_gains", self.gather_gains),
            ("send_calls", self.send_calls),
            ("send_messages", self.send_messages),
            ("datagrams_out", self.datagrams_out),
            ("send_blocked", self.send_blocked),
            ("send_dropped", self.send_dropped),
            ("send_errors", self.send_errors),
            ("gso_refused", self.gso_refused),
            ("gso_depth_1", self.gso_depth[0]),
            ("gso_depth_2_3", self.gso_depth[1]),
            ("gso_depth_4_7", self.gso_depth[2]),
            ("gso_depth_8_15", self.gso_depth[3]),
            ("gso_depth_16_up", self.gso_depth[4]),
            ("tcp_accepted", self.tcp_accepted),
            ("tcp_refused", self.tcp_refused),
            ("tcp_closed", self.tcp_closed),
            ("tcp_dropped", self.tcp_dropped),
            ("longest_round_us", self.longest_round_us),
        ]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depths_fall_into_their_bins() {
        let mut counters = Counters::default();
        for segments in [1, 2, 3, 4, 7, 8, 15, 16, 64] {
            counters.sent(segments);
        }
        assert_eq!(counters.gso_depth, [1, 2, 2, 2, 2]);
        assert_eq!(counters.datagrams_out, 120);
    }
}
