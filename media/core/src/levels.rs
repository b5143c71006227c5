//! Loudness of a track over a window of time, from the levels of its packets (RFC 6464).
//!
//! Not here: who counts as a speaker, smoothing and order of speakers; those compare tracks.

use std::time::{Duration, Instant};

/// What one window held.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LevelReport {
    /// Level of the loudest active packet as -dBov, 0 the loudest; none if no packet was active.
    pub loudest: Option<u8>,
    /// Share of the window's packets that were active, 0.0 to 1.0.
    pub active_share: f32,
}

/// Collects levels and closes a window every 400 ms.
#[derive(Debug, Default)]
pub struct LevelWindow {
    ends_at: Option<Instant>,
    loudest: Option<u8>,
    active: u32,
    packets: u32,
}

impl LevelWindow {
    /// Length of a window.
    pub const LENGTH: Duration = Duration::from_millis(400);
    /// A packet is active at this level or louder (as -dBov, so at this number or below).
    pub const ACTIVE_LEVEL: u8 = 35;

    /// Adds a packet's level. Returns the report of the window that ended before this packet, if one did.
    pub fn observe(&mut self, level: u8, now: Instant) -> Option<LevelReport> {
        let report = self.poll(now);
        self.ends_at.get_or_insert(now + Self::LENGTH);
        self.packets = self.packets.saturating_add(1);
        if level <= Self::ACTIVE_LEVEL {
            self.active = self.active.saturating_add(1);
            self.loudest = Some(self.loudest.map_or(level, |loudest| loudest.min(level)));
        }
        report
    }

    /// The report of the window if it has ended. The next one starts with the next packet, so a track that falls
    /// silent reports once more and then nothing.
    pub fn poll(&mut self, now: Instant) -> Option<LevelReport> {
        if self.ends_at.is_none_or(|end| now < end) {
            return None;
        }
        let window = std::mem::take(self);
        Some(LevelReport {
            loudest: window.loudest,
            active_share: window.active as f32 / window.packets.max(1) as f32,
        })
    }

    /// When the open window ends; none while no packet has come.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.ends_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_reports_loudest_level_and_active_share() {
        let (mut window, start) = (LevelWindow::default(), Instant::now());
        for (packet, level) in [36, 35, 20, 127].into_iter().enumerate() {
            assert_eq!(
                window.observe(level, start + Duration::from_millis(20 * packet as u64)),
                None
            );
        }
        assert_eq!(window.poll(start + Duration::from_millis(399)), None);
        let report = window.observe(5, start + Duration::from_millis(400));
        assert_eq!(
            report,
            Some(LevelReport {
                loudest: Some(20),
                active_share: 0.5
            })
        );
        let report = window.poll(start + Duration::from_millis(800));
        assert_eq!(
            report,
            Some(LevelReport {
                loudest: Some(5),
                active_share: 1.0
            })
        );
    }

    #[test]
    fn silence_has_no_loudest_level_and_no_packets_no_report() {
        let (mut window, start) = (LevelWindow::default(), Instant::now());
        window.observe(100, start);
        assert_eq!(window.next_timeout(), Some(start + LevelWindow::LENGTH));
        let report = window.poll(start + LevelWindow::LENGTH);
        assert_eq!(
            report,
            Some(LevelReport {
                loudest: None,
                active_share: 0.0
            })
        );
        assert_eq!(window.poll(start + 9 * LevelWindow::LENGTH), None);
    }
}
