//! When waiting a moment for more datagrams pays.
//!
//! A frame arrives as a burst; whoever wakes at its first packet sends shallow runs. A wait of [`WAIT`] before the
//! flush makes them deep, at the price of that latency. It pays only where a packet in makes many out, and only where
//! the wait really catches more, so both are learned, and a stream of single packets soon stops being waited for.

use std::time::Duration;

/// How long one wait is: several times the spacing of a burst's packets, far below what an ear or eye notices.
pub(crate) const WAIT: Duration = Duration::from_micros(300);
/// Fewest datagrams out per datagram in for which depth matters.
const FAN_OUT: f32 = 6.0;
/// Datagrams in that are a burst already.
const ENOUGH: usize = 8;
/// Fewest further datagrams a wait must catch on average.
const GAIN: f32 = 1.0;
/// Rounds without a wait after waiting has not paid, before it is tried again.
const PAUSE: u32 = 64;

/// The learned worth of a wait.
#[derive(Debug)]
pub(crate) struct Gather {
    fan_out: f32,
    gain: f32,
    pause: u32,
}

impl Default for Gather {
    fn default() -> Self {
        Self {
            fan_out: 0.0,
            gain: 2.0 * GAIN,
            pause: 0,
        }
    }
}

impl Gather {
    /// Whether to wait, `received` datagrams into a round.
    pub(crate) fn pays(&mut self, received: usize) -> bool {
        if received == 0 || received >= ENOUGH || self.fan_out < FAN_OUT {
            return false;
        }
        if self.gain >= GAIN {
            return true;
        }
        self.pause += 1;
        if self.pause > PAUSE {
            self.pause = 0;
            return true;
        }
        false
    }

    /// What a wait caught.
    pub(crate) fn waited(&mut self, caught: usize) {
        self.gain += (caught as f32 - self.gain) / 8.0;
        if caught >= ENOUGH / 2 {
            // One good catch is worth some more tries.
            self.gain = self.gain.max(GAIN);
        }
    }

    /// What a round took in and gave out.
    pub(crate) fn round(&mut self, received: usize, sent: usize) {
        if received > 0 {
            self.fan_out += (sent as f32 / received as f32 - self.fan_out) / 8.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_fan_out() -> Gather {
        let mut gather = Gather::default();
        for _ in 0..50 {
            gather.round(1, 40);
        }
        gather
    }

    #[test]
    fn nobody_waits_without_fan_out() {
        let mut gather = Gather::default();
        for _ in 0..50 {
            gather.round(4, 4);
        }
        assert!(!gather.pays(1));
    }

    #[test]
    fn a_full_burst_is_not_waited_on() {
        assert!(!with_fan_out().pays(ENOUGH));
        assert!(!with_fan_out().pays(0));
    }

    #[test]
    fn bursts_go_on_being_waited_for() {
        let mut gather = with_fan_out();
        for _ in 0..100 {
            assert!(gather.pays(1));
            gather.waited(9);
        }
    }

    #[test]
    fn single_packets_are_soon_waited_for_only_now_and_then() {
        let mut gather = with_fan_out();
        let waits = (0..1000)
            .filter(|_| {
                let pays = gather.pays(1);
                if pays {
                    gather.waited(0);
                }
                pays
            })
            .count();
        assert!(waits < 30, "{waits}");
        // ... and a stream that turns bursty is found again.
        while !gather.pays(1) {}
        gather.waited(9);
        assert!(gather.pays(1));
    }
}
