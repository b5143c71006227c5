//! What was sent lately, so that it can be sent again (RFC 4588).
//!
//! The cache holds references, not bytes: `T` is a shared packet and how it was rewritten for this subscriber.
//! Not here: the RTX packet itself.

use std::time::{Duration, Instant};

/// A ring of sent packets by outgoing sequence number, which throttles repeats. Its memory is fixed at the start.
#[derive(Debug)]
pub struct RtxCache<T> {
    /// A power of two long; a packet lies at its sequence number modulo the length.
    slots: Vec<Option<Slot<T>>>,
    max_age: Duration,
}

#[derive(Debug)]
struct Slot<T> {
    sequence: u16,
    sent_at: Instant,
    resent_at: Option<Instant>,
    value: T,
}

impl<T> RtxCache<T> {
    /// A cache of at least `capacity` packets (at most 32,768), none answered after `max_age`.
    pub fn new(capacity: usize, max_age: Duration) -> Self {
        let capacity = capacity.clamp(1, 1 << 15).next_power_of_two();
        Self {
            slots: (0..capacity).map(|_| None).collect(),
            max_age,
        }
    }

    /// Keeps what was sent under `sequence`, in place of a packet one ring length older, which is returned.
    pub fn insert(&mut self, sequence: u16, value: T, now: Instant) -> Option<T> {
        let at = self.place(sequence);
        self.slots[at]
            .replace(Slot {
                sequence,
                sent_at: now,
                resent_at: None,
                value,
            })
            .map(|slot| slot.value)
    }

    /// The packet to send again, or none if it is gone, too old, or was sent again less than `rtt` ago.
    pub fn resend(&mut self, sequence: u16, now: Instant, rtt: Duration) -> Option<&T> {
        let at = self.place(sequence);
        let held = &mut self.slots[at];
        held.take_if(|slot| {
            slot.sequence == sequence && now.saturating_duration_since(slot.sent_at) > self.max_age
        });
        let slot = held.as_mut().filter(|slot| slot.sequence == sequence)?;
        if slot
            .resent_at
            .is_some_and(|resent| now.saturating_duration_since(resent) < rtt)
        {
            return None;
        }
        slot.resent_at = Some(now);
        Some(&slot.value)
    }

    /// The packet sent under `sequence` if it is still held, without counting as a repeat.
    pub fn get(&self, sequence: u16) -> Option<&T> {
        self.slots[self.place(sequence)]
            .as_ref()
            .filter(|slot| slot.sequence == sequence)
            .map(|slot| &slot.value)
    }

    /// Lets go of all packets.
    pub fn clear(&mut self) {
        self.slots.fill_with(|| None);
    }

    fn place(&self, sequence: u16) -> usize {
        usize::from(sequence) & (self.slots.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn sent_packet_is_found_once_per_round_trip() {
        let (mut cache, start) = (RtxCache::new(8, 1000 * MS), Instant::now());
        cache.insert(65_535, "a", start);
        assert_eq!(cache.resend(65_535, start, 30 * MS), Some(&"a"));
        assert_eq!(cache.resend(65_535, start + 29 * MS, 30 * MS), None);
        assert_eq!(cache.resend(65_535, start + 30 * MS, 30 * MS), Some(&"a"));
        assert_eq!(cache.resend(7, start, 30 * MS), None);
    }

    #[test]
    fn newer_packet_takes_the_place_of_one_a_ring_older() {
        let (mut cache, start) = (RtxCache::new(5, 1000 * MS), Instant::now());
        assert_eq!(cache.insert(1, "old", start), None);
        assert_eq!(cache.insert(9, "new", start), Some("old"));
        assert_eq!(cache.get(1), None);
        assert_eq!(cache.get(9), Some(&"new"));
    }

    #[test]
    fn old_packet_is_let_go() {
        let (mut cache, start) = (RtxCache::new(8, 1000 * MS), Instant::now());
        cache.insert(1, "a", start);
        assert_eq!(cache.resend(1, start + 1001 * MS, MS), None);
        assert_eq!(cache.get(1), None);
    }
}
