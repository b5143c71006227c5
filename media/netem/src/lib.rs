//! A lossy, reordering, delaying link for tests, in virtual time.
//!
//! One [`Link`] is one direction. Nothing happens by itself: the test says what time it is, sends, and asks what has
//! arrived. The same seed and the same calls give the same result. Not here: sockets, addresses, threads.
#![forbid(unsafe_code)]

use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

/// How a link treats packets. The default passes everything at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinkConfig {
    /// Time under way, beside queueing.
    pub delay: Duration,
    /// Each packet takes up to this much longer, evenly distributed; order is kept.
    pub jitter: Duration,
    /// Share of packets lost, 0.0 to 1.0.
    pub loss: f64,
    /// Share of packets that overtake: they skip delay and jitter.
    pub reorder: f64,
    /// Share of packets that arrive twice.
    pub duplicate: f64,
    /// Bits per second the link carries; 0 is unlimited.
    pub rate_bps: u64,
    /// Bytes that may wait for the link when its rate is limited; a packet that finds no room is lost.
    pub queue_bytes: usize,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0.0,
            reorder: 0.0,
            duplicate: 0.0,
            rate_bps: 0,
            queue_bytes: usize::MAX,
        }
    }
}

/// What a link has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkCounts {
    /// Packets given to the link.
    pub sent: u64,
    /// Packets handed out, duplicates included.
    pub delivered: u64,
    /// Packets lost by chance.
    pub lost: u64,
    /// Packets lost because the queue was full.
    pub overflowed: u64,
}

/// One direction of a network path.
#[derive(Debug)]
pub struct Link {
    config: LinkConfig,
    random: fastrand::Rng,
    under_way: BinaryHeap<UnderWay>,
    /// When the last bit now queued leaves the sender.
    busy_until: Option<Instant>,
    /// The latest arrival promised so far: jitter must not reorder.
    newest_arrival: Option<Instant>,
    next_order: u64,
    counts: LinkCounts,
}

#[derive(Debug)]
struct UnderWay {
    arrival: Instant,
    order: u64,
    data: Vec<u8>,
}

impl Link {
    /// A link whose chances follow from `seed`.
    pub fn new(seed: u64, config: LinkConfig) -> Self {
        Self {
            config,
            random: fastrand::Rng::with_seed(seed),
            under_way: BinaryHeap::new(),
            busy_until: None,
            newest_arrival: None,
            next_order: 0,
            counts: LinkCounts::default(),
        }
    }

    /// Changes the treatment of packets sent from now on.
    pub fn set_config(&mut self, config: LinkConfig) {
        self.config = config;
    }

    /// Puts a packet on the link.
    pub fn send(&mut self, now: Instant, data: Vec<u8>) {
        self.counts.sent += 1;
        // Every packet draws the same number of chances, so that one setting does not shift another's.
        let lost = self.random.f64() < self.config.loss;
        let overtakes = self.random.f64() < self.config.reorder;
        let doubled = self.random.f64() < self.config.duplicate;
        let jitter = self.config.jitter.mul_f64(self.random.f64());
        let Some(departure) = self.departure(now, data.len()) else {
            self.counts.overflowed += 1;
            return;
        };
        if lost {
            self.counts.lost += 1;
            return;
        }
        let arrival = if overtakes {
            departure
        } else {
            let arrival = departure + self.config.delay + jitter;
            let arrival = self
                .newest_arrival
                .map_or(arrival, |newest| arrival.max(newest));
            self.newest_arrival = Some(arrival);
            arrival
        };
        if doubled {
            self.push(arrival, data.clone());
        }
        self.push(arrival, data);
    }

    /// The next packet that has arrived by `now`, oldest first.
    pub fn poll(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.under_way.peek()?.arrival > now {
            return None;
        }
        self.counts.delivered += 1;
        self.under_way.pop().map(|packet| packet.data)
    }

    /// When the next packet arrives; none if none is under way.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.under_way.peek().map(|packet| packet.arrival)
    }

    /// What the link has done so far.
    pub fn counts(&self) -> LinkCounts {
        self.counts
    }

    /// When the packet's last bit leaves, or none if the queue has no room for it.
    fn departure(&mut self, now: Instant, bytes: usize) -> Option<Instant> {
        if self.config.rate_bps == 0 {
            return Some(now);
        }
        let start = self.busy_until.map_or(now, |busy| busy.max(now));
        let waiting = (start - now).as_secs_f64() * self.config.rate_bps as f64 / 8.0;
        if waiting + bytes as f64 > self.config.queue_bytes as f64 {
            return None;
        }
        let nanos = bytes as u128 * 8 * 1_000_000_000 / u128::from(self.config.rate_bps);
        let departure = start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.busy_until = Some(departure);
        Some(departure)
    }

    fn push(&mut self, arrival: Instant, data: Vec<u8>) {
        self.under_way.push(UnderWay {
            arrival,
            order: self.next_order,
            data,
        });
        self.next_order += 1;
    }
}

impl Ord for UnderWay {
    /// Reversed, so that the heap's top is the earliest arrival and, of equals, the first sent.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.arrival, other.order).cmp(&(self.arrival, self.order))
    }
}

impl PartialOrd for UnderWay {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for UnderWay {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for UnderWay {}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Sends `count` packets, one each millisecond, and returns (number, arrival in ms) of what comes out.
    fn run(seed: u64, count: u16, config: LinkConfig) -> (Vec<(u16, u128)>, LinkCounts) {
        let start = Instant::now();
        let mut link = Link::new(seed, config);
        for number in 0..count {
            link.send(
                start + MS * u32::from(number),
                number.to_be_bytes().repeat(50),
            );
        }
        let mut arrived = Vec::new();
        while let Some(at) = link.next_timeout() {
            assert_eq!(link.poll(at - Duration::from_nanos(1)), None);
            let data = link.poll(at).expect("promised packet is there");
            arrived.push((
                u16::from_be_bytes([data[0], data[1]]),
                (at - start).as_millis(),
            ));
        }
        (arrived, link.counts())
    }

    #[test]
    fn plain_link_delivers_in_order_after_the_delay() {
        let (arrived, counts) = run(
            1,
            3,
            LinkConfig {
                delay: 20 * MS,
                ..LinkConfig::default()
            },
        );
        assert_eq!(arrived, [(0, 20), (1, 21), (2, 22)]);
        assert_eq!((counts.sent, counts.delivered, counts.lost), (3, 3, 0));
    }

    #[test]
    fn same_seed_gives_the_same_run_and_another_seed_another() {
        let config = LinkConfig {
            delay: 20 * MS,
            jitter: 10 * MS,
            loss: 0.1,
            reorder: 0.1,
            duplicate: 0.1,
            ..LinkConfig::default()
        };
        assert_eq!(run(1, 200, config), run(1, 200, config));
        assert_ne!(run(1, 200, config), run(2, 200, config));
    }

    #[test]
    fn loss_and_duplication_are_near_their_shares() {
        let (_, counts) = run(
            3,
            10_000,
            LinkConfig {
                loss: 0.1,
                ..LinkConfig::default()
            },
        );
        assert!((800..1200).contains(&counts.lost), "{counts:?}");
        let (arrived, _) = run(
            3,
            10_000,
            LinkConfig {
                duplicate: 0.1,
                ..LinkConfig::default()
            },
        );
        assert!((10_800..11_200).contains(&arrived.len()));
    }

    #[test]
    fn jitter_keeps_order_and_reordering_breaks_it() {
        let jitter = LinkConfig {
            delay: 5 * MS,
            jitter: 30 * MS,
            ..LinkConfig::default()
        };
        let (arrived, _) = run(4, 500, jitter);
        assert!(arrived.is_sorted_by_key(|(number, _)| *number));
        assert!(
            arrived
                .iter()
                .any(|(number, at)| *at > u128::from(*number) + 6)
        );
        let (arrived, _) = run(
            4,
            500,
            LinkConfig {
                reorder: 0.1,
                ..jitter
            },
        );
        assert!(!arrived.is_sorted_by_key(|(number, _)| *number));
        assert_eq!(arrived.len(), 500);
    }

    #[test]
    fn limited_rate_spaces_packets_and_drops_what_the_queue_cannot_hold() {
        // 100 bytes at 80 kbit/s take 10 ms; three fit the queue.
        let config = LinkConfig {
            rate_bps: 80_000,
            queue_bytes: 300,
            ..LinkConfig::default()
        };
        let (arrived, counts) = run(5, 5, config);
        assert_eq!(arrived, [(0, 10), (1, 20), (2, 30)]);
        assert_eq!(counts.overflowed, 2);
    }
}
