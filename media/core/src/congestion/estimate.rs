//! A first bandwidth estimate, from loss and from the rate that arrives.
//!
//! It grows while what is sent arrives and loss is small, and shrinks with loss; a receiver's own estimate (REMB)
//! caps it. It does not look at delay, so a path with a deep queue is filled before it is noticed. The estimate by
//! delay gradient takes its place later, behind the same functions.

use std::time::{Duration, Instant};

use super::twcc::FeedbackSummary;

/// How much one path to one receiver carries, in bits per second.
#[derive(Debug, Clone)]
pub struct BandwidthEstimator {
    estimate_bps: f64,
    min_bps: f64,
    max_bps: f64,
    remb_bps: Option<f64>,
    updated_at: Option<Instant>,
    decreased_at: Option<Instant>,
    round_trip: Duration,
    window: Option<Window>,
    received_bps: Option<f64>,
}

/// Packets told of since the window began.
#[derive(Debug, Clone, Copy)]
struct Window {
    started_at: Instant,
    received: u32,
    lost: u32,
    received_bytes: u64,
}

impl BandwidthEstimator {
    /// Loss above this share shrinks the estimate.
    pub const HIGH_LOSS: f64 = 0.10;
    /// Loss below this share lets it grow.
    pub const LOW_LOSS: f64 = 0.02;
    /// Growth per second.
    pub const GROWTH: f64 = 0.08;
    /// Loss and received rate are taken over this time.
    pub const WINDOW: Duration = Duration::from_millis(500);

    /// An estimator that starts at `start_bps` and stays within `min_bps` and `max_bps`.
    pub fn new(start_bps: u64, min_bps: u64, max_bps: u64) -> Self {
        let (min_bps, max_bps) = (min_bps as f64, max_bps.max(min_bps) as f64);
        Self {
            estimate_bps: (start_bps as f64).clamp(min_bps, max_bps),
            min_bps,
            max_bps,
            remb_bps: None,
            updated_at: None,
            decreased_at: None,
            round_trip: Duration::from_millis(100),
            window: None,
            received_bps: None,
        }
    }

    /// The estimate now.
    pub fn estimate_bps(&self) -> u64 {
        let capped = self
            .remb_bps
            .map_or(self.estimate_bps, |remb| self.estimate_bps.min(remb));
        capped.max(self.min_bps) as u64
    }

    /// The rate that lately arrived, once known.
    pub fn received_bps(&self) -> Option<u64> {
        self.received_bps.map(|rate| rate as u64)
    }

    /// Takes in what a transport-wide feedback says.
    pub fn on_twcc(&mut self, summary: &FeedbackSummary, now: Instant) {
        if let Some(response) = summary.response_time {
            self.round_trip = response;
        }
        let window = self.window.get_or_insert(Window {
            started_at: now,
            received: 0,
            lost: 0,
            received_bytes: 0,
        });
        window.received += summary.received;
        window.lost += summary.lost;
        // What the first feedback tells of was sent before the window began.
        if now > window.started_at {
            window.received_bytes += summary.received_bytes;
        }
        let elapsed = now.saturating_duration_since(window.started_at);
        if elapsed < Self::WINDOW {
            return;
        }
        let closed = *window;
        *window = Window {
            started_at: now,
            received: 0,
            lost: 0,
            received_bytes: 0,
        };
        let told = closed.received + closed.lost;
        self.received_bps = Some(closed.received_bytes as f64 * 8.0 / elapsed.as_secs_f64());
        if told > 0 {
            self.on_loss(f64::from(closed.lost) / f64::from(told), now);
        }
    }

    /// Takes in a receiver report, for receivers without transport-wide feedback. `fraction_lost` is in 1/256.
    pub fn on_receiver_report(
        &mut self,
        fraction_lost: u8,
        round_trip: Option<Duration>,
        now: Instant,
    ) {
        if let Some(round_trip) = round_trip {
            self.round_trip = round_trip;
        }
        self.on_loss(f64::from(fraction_lost) / 256.0, now);
    }

    /// Takes in the receiver's own estimate, which caps ours until the next.
    pub fn on_remb(&mut self, bitrate_bps: u64) {
        self.remb_bps = Some(bitrate_bps as f64);
    }

    fn on_loss(&mut self, loss: f64, now: Instant) {
        let since = self
            .updated_at
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.updated_at = Some(now);
        if loss > Self::HIGH_LOSS {
            // One shrinking per round trip: the loss after it was sent before it.
            let settled = self.decreased_at.is_none_or(|at| {
                now.saturating_duration_since(at) >= self.round_trip + Duration::from_millis(300)
            });
            if settled {
                self.estimate_bps *= 1.0 - 0.5 * loss;
                self.decreased_at = Some(now);
            }
        } else if loss < Self::LOW_LOSS {
            let grown = self.estimate_bps * (1.0 + Self::GROWTH).powf(since.as_secs_f64().min(1.0))
                + 1_000.0;
            // What was not tried is not known: at most half more than what arrives.
            let bound = self
                .received_bps
                .map_or(f64::INFINITY, |rate| 1.5 * rate + 10_000.0);
            self.estimate_bps = grown.min(bound).max(self.estimate_bps);
        }
        self.estimate_bps = self.estimate_bps.clamp(self.min_bps, self.max_bps);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Feedback every 50 ms for `seconds`: `rate_bps` arrives, of 20 packets `lost` are missing.
    fn run(
        estimator: &mut BandwidthEstimator,
        start: Instant,
        seconds: u32,
        rate_bps: u64,
        lost: u32,
    ) -> Instant {
        let mut now = start;
        for _ in 0..seconds * 20 {
            now += 50 * MS;
            let summary = FeedbackSummary {
                received: 20 - lost,
                lost,
                received_bytes: rate_bps / 8 / 20,
                response_time: Some(80 * MS),
            };
            estimator.on_twcc(&summary, now);
        }
        now
    }

    #[test]
    fn estimate_grows_while_all_arrives_but_not_far_beyond_it() {
        let mut estimator = BandwidthEstimator::new(1_000_000, 50_000, 50_000_000);
        let start = Instant::now();
        let now = run(&mut estimator, start, 5, 5_000_000, 0);
        let grown = estimator.estimate_bps();
        assert!((1_300_000..1_600_000).contains(&grown), "{grown}");
        assert!(
            estimator
                .received_bps()
                .is_some_and(|rate| (4_900_000..5_100_000).contains(&rate))
        );
        run(&mut estimator, now, 60, 1_500_000, 0);
        assert!(
            (2_200_000..2_300_000).contains(&estimator.estimate_bps()),
            "{}",
            estimator.estimate_bps()
        );
    }

    #[test]
    fn heavy_loss_shrinks_and_light_loss_holds() {
        let mut estimator = BandwidthEstimator::new(1_000_000, 50_000, 50_000_000);
        let now = run(&mut estimator, Instant::now(), 5, 1_000_000, 1);
        assert_eq!(estimator.estimate_bps(), 1_000_000);
        run(&mut estimator, now, 5, 1_000_000, 4);
        assert!(
            estimator.estimate_bps() < 500_000,
            "{}",
            estimator.estimate_bps()
        );
        run(&mut estimator, now, 60, 1_000_000, 10);
        assert_eq!(estimator.estimate_bps(), 50_000);
    }

    #[test]
    fn one_round_trip_shrinks_once() {
        let mut estimator = BandwidthEstimator::new(1_000_000, 50_000, 50_000_000);
        let start = Instant::now();
        for ms in 0..300 {
            estimator.on_receiver_report(128, Some(50 * MS), start + MS * ms);
        }
        assert_eq!(estimator.estimate_bps(), 750_000);
    }

    #[test]
    fn remb_caps_the_estimate() {
        let mut estimator = BandwidthEstimator::new(1_000_000, 50_000, 50_000_000);
        estimator.on_remb(300_000);
        assert_eq!(estimator.estimate_bps(), 300_000);
        estimator.on_remb(1);
        assert_eq!(estimator.estimate_bps(), 50_000);
        estimator.on_remb(9_000_000);
        assert_eq!(estimator.estimate_bps(), 1_000_000);
    }
}
