//! Which packets of an incoming stream to ask for again (RFC 4585 section 6.2.1), and when to stop asking.
//!
//! Not here: writing the NACK, RTX unwrapping, and the choice to ask for a keyframe; this only says that a gap will
//! not be filled.

use std::time::{Duration, Instant};

/// How a packet stands to those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// The first packet, or the newest so far.
    Newest,
    /// Older than the newest, and it was missing.
    Filled,
    /// Older than the newest and not missing: a repeat, or long given up.
    Late,
}

/// The gaps of one stream, by extended sequence number. Bounded; allocates only while it grows to its bound.
#[derive(Debug, Default)]
pub struct NackGenerator {
    newest: Option<u64>,
    /// Sorted by sequence number.
    missing: Vec<Missing>,
    gave_up: bool,
}

#[derive(Debug, Clone, Copy)]
struct Missing {
    sequence: u64,
    noticed_at: Instant,
    asked_at: Option<Instant>,
    asked: u8,
}

impl NackGenerator {
    /// Most gaps remembered; more at once is an outage that only a keyframe mends.
    pub const MAX_MISSING: usize = 512;
    /// A packet this late is reordered, not lost, so it is not asked for before.
    pub const REORDER_TOLERANCE: Duration = Duration::from_millis(5);
    /// Shortest time between two requests for one packet, whatever the round trip.
    pub const MIN_RETRY: Duration = Duration::from_millis(20);
    /// Requests after which a packet is given up.
    pub const MAX_REQUESTS: u8 = 10;
    /// Age at which a packet is given up.
    pub const MAX_AGE: Duration = Duration::from_secs(1);

    /// Notes a packet of the stream.
    pub fn on_packet(&mut self, sequence: u64, now: Instant) -> Arrival {
        let Some(newest) = self.newest else {
            self.newest = Some(sequence);
            return Arrival::Newest;
        };
        if sequence <= newest {
            return if self.remove(sequence) {
                Arrival::Filled
            } else {
                Arrival::Late
            };
        }
        self.newest = Some(sequence);
        let gap = sequence - newest - 1;
        if gap > (Self::MAX_MISSING - self.missing.len()) as u64 {
            self.missing.clear();
            self.gave_up = true;
        } else {
            self.missing
                .extend((newest + 1..sequence).map(|sequence| Missing {
                    sequence,
                    noticed_at: now,
                    asked_at: None,
                    asked: 0,
                }));
        }
        Arrival::Newest
    }

    /// Notes a packet that came by retransmission; whether it was missing.
    pub fn on_rtx(&mut self, sequence: u64) -> bool {
        self.remove(sequence)
    }

    /// Appends the sequence numbers to ask for now to `out` (low 16 bits, ascending), and gives up on the hopeless.
    pub fn poll(&mut self, now: Instant, rtt: Duration, out: &mut Vec<u16>) {
        let retry = rtt.max(Self::MIN_RETRY);
        let before = self.missing.len();
        self.missing.retain_mut(|missing| {
            if now >= missing.due(retry) {
                if missing.asked >= Self::MAX_REQUESTS
                    || now.saturating_duration_since(missing.noticed_at) >= Self::MAX_AGE
                {
                    return false;
                }
                missing.asked_at = Some(now);
                missing.asked += 1;
                out.push(missing.sequence as u16);
            }
            true
        });
        self.gave_up |= self.missing.len() < before;
    }

    /// When to poll next; none while nothing is missing.
    pub fn next_timeout(&self, rtt: Duration) -> Option<Instant> {
        let retry = rtt.max(Self::MIN_RETRY);
        self.missing.iter().map(|missing| missing.due(retry)).min()
    }

    /// Whether a gap was abandoned since the last call: a decoder needs a keyframe to go on.
    pub fn keyframe_needed(&mut self) -> bool {
        std::mem::take(&mut self.gave_up)
    }

    /// Forgets all gaps, as after a keyframe.
    pub fn forget_gaps(&mut self) {
        self.missing.clear();
        self.gave_up = false;
    }

    /// How many packets are missing now.
    pub fn missing(&self) -> usize {
        self.missing.len()
    }

    fn remove(&mut self, sequence: u64) -> bool {
        match self
            .missing
            .binary_search_by_key(&sequence, |missing| missing.sequence)
        {
            Ok(at) => {
                self.missing.remove(at);
                true
            }
            Err(_) => false,
        }
    }
}

impl Missing {
    fn due(&self, retry: Duration) -> Instant {
        match self.asked_at {
            None => self.noticed_at + NackGenerator::REORDER_TOLERANCE,
            Some(asked_at) => asked_at + retry,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const RTT: Duration = Duration::from_millis(50);

    fn asked(generator: &mut NackGenerator, now: Instant) -> Vec<u16> {
        let mut out = Vec::new();
        generator.poll(now, RTT, &mut out);
        out
    }

    #[test]
    fn gap_is_asked_for_after_the_tolerance_and_again_after_a_round_trip() {
        let (mut generator, start) = (NackGenerator::default(), Instant::now());
        assert_eq!(generator.on_packet(65_534, start), Arrival::Newest);
        assert_eq!(generator.next_timeout(RTT), None);
        generator.on_packet(65_537, start);
        assert_eq!(generator.next_timeout(RTT), Some(start + 5 * MS));
        assert_eq!(asked(&mut generator, start + 4 * MS), []);
        assert_eq!(asked(&mut generator, start + 5 * MS), [65_535, 0]);
        assert_eq!(asked(&mut generator, start + 54 * MS), []);
        assert_eq!(asked(&mut generator, start + 55 * MS), [65_535, 0]);
    }

    #[test]
    fn filled_gaps_are_not_asked_for() {
        let (mut generator, start) = (NackGenerator::default(), Instant::now());
        generator.on_packet(10, start);
        generator.on_packet(13, start);
        assert_eq!(generator.on_packet(11, start), Arrival::Filled);
        assert_eq!(generator.on_packet(11, start), Arrival::Late);
        assert!(generator.on_rtx(12));
        assert!(!generator.on_rtx(12));
        assert_eq!(asked(&mut generator, start + RTT), []);
        assert!(!generator.keyframe_needed());
    }

    #[test]
    fn packet_is_given_up_after_ten_requests_and_then_a_keyframe_is_needed() {
        let (mut generator, mut now) = (NackGenerator::default(), Instant::now());
        generator.on_packet(1, now);
        generator.on_packet(3, now);
        let mut requests = 0;
        while let Some(due) = generator.next_timeout(RTT) {
            now = due;
            requests += asked(&mut generator, now).len();
        }
        assert_eq!(requests, 10);
        assert!(generator.keyframe_needed());
        assert!(!generator.keyframe_needed());
    }

    #[test]
    fn packet_is_given_up_when_it_is_too_old_to_help() {
        let (mut generator, start) = (NackGenerator::default(), Instant::now());
        generator.on_packet(1, start);
        generator.on_packet(3, start);
        assert_eq!(asked(&mut generator, start + NackGenerator::MAX_AGE), []);
        assert!(generator.keyframe_needed());
    }

    #[test]
    fn outage_clears_the_list_and_needs_a_keyframe() {
        let (mut generator, start) = (NackGenerator::default(), Instant::now());
        generator.on_packet(1, start);
        generator.on_packet(3, start);
        generator.on_packet(3 + NackGenerator::MAX_MISSING as u64 + 1, start);
        assert_eq!(generator.missing(), 0);
        assert!(generator.keyframe_needed());
    }
}
