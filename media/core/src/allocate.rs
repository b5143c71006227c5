//! Which layers fit a budget, and who is paused: a pure function of wishes and measured rates.
//!
//! Not an estimate of the budget: that is given. Sound is not chosen here either, it always goes.

use std::time::{Duration, Instant};

/// Spatial and temporal layers of one track that rates are kept of.
const SPATIAL: usize = 4;
const TEMPORAL: usize = 8;
/// Rates are taken over this long.
const WINDOW: Duration = Duration::from_millis(500);
/// More of a track than it has now must fit with this much to spare, in percent: rates are never quite steady.
const MARGIN_PERCENT: u64 = 10;

/// One way to forward a track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Highest spatial layer.
    pub spatial: u8,
    /// Highest temporal layer.
    pub temporal: u8,
    /// What it takes on the wire.
    pub bps: u64,
}

/// A track somebody wants, with the ways to forward it: within the wish, each dearer than the one before.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Who comes first; the higher, the earlier.
    pub priority: u8,
    /// At least one.
    pub layers: Vec<Layer>,
    /// What it has now; None: nothing, or not chosen here yet.
    pub current: Option<(u8, u8)>,
}

/// For each candidate the layer it gets; None: paused.
///
/// The smallest layer for all, in order of priority, before more for one; then one step for each at a time. Without
/// `allow_pause` nobody gets less than its smallest layer, budget or not.
pub fn allocate(
    budget_bps: u64,
    candidates: &[Candidate],
    allow_pause: bool,
) -> Vec<Option<Layer>> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(candidates[index].priority));
    let mut left = budget_bps;
    let mut chosen: Vec<Option<usize>> = vec![None; candidates.len()];
    for &index in &order {
        let Some(smallest) = candidates[index].layers.first() else {
            continue;
        };
        if smallest.bps <= left || !allow_pause {
            left = left.saturating_sub(smallest.bps);
            chosen[index] = Some(0);
        }
    }
    loop {
        let mut is_raised = false;
        for &index in &order {
            let Some(at) = chosen[index] else { continue };
            let candidate = &candidates[index];
            let Some(next) = candidate.layers.get(at + 1) else {
                continue;
            };
            let more = next.bps.saturating_sub(candidate.layers[at].bps);
            let is_news = candidate
                .current
                .is_none_or(|current| (next.spatial, next.temporal) > current);
            let needed = if is_news {
                more + next.bps * MARGIN_PERCENT / 100
            } else {
                more
            };
            if needed <= left {
                left -= more;
                chosen[index] = Some(at + 1);
                is_raised = true;
            }
        }
        if !is_raised {
            break;
        }
    }
    candidates
        .iter()
        .zip(chosen)
        .map(|(candidate, at)| at.and_then(|at| candidate.layers.get(at).copied()))
        .collect()
}

/// Bits per second of each layer of a track, by itself, over the last half second.
#[derive(Debug)]
pub(crate) struct LayerRates {
    bytes: [[u32; TEMPORAL]; SPATIAL],
    bps: [[u64; TEMPORAL]; SPATIAL],
    since: Option<Instant>,
}

impl LayerRates {
    pub(crate) const fn new() -> Self {
        Self {
            bytes: [[0; TEMPORAL]; SPATIAL],
            bps: [[0; TEMPORAL]; SPATIAL],
            since: None,
        }
    }

    /// A packet of this layer came.
    pub(crate) fn add(&mut self, spatial: u8, temporal: u8, bytes: usize) {
        let spatial = usize::from(spatial).min(SPATIAL - 1);
        let temporal = usize::from(temporal).min(TEMPORAL - 1);
        let cell = &mut self.bytes[spatial][temporal];
        *cell = cell.saturating_add(bytes as u32);
    }

    /// Ends a window that is long enough.
    pub(crate) fn poll(&mut self, now: Instant) {
        let Some(since) = self.since else {
            self.since = Some(now);
            return;
        };
        let elapsed = now.saturating_duration_since(since);
        if elapsed < WINDOW {
            return;
        }
        self.since = Some(now);
        for (row, out) in self.bytes.iter_mut().zip(&mut self.bps) {
            for (bytes, bps) in row.iter_mut().zip(out) {
                *bps = (f64::from(*bytes) * 8.0 / elapsed.as_secs_f64()) as u64;
                *bytes = 0;
            }
        }
    }

    /// The ways to forward the track within a wish, each dearer than the one before; empty while nothing flows.
    ///
    /// `is_scalable`: a spatial layer takes those below it (SVC); else each is a stream of its own (simulcast).
    pub(crate) fn layers(&self, spatial: u8, temporal: u8, is_scalable: bool) -> Vec<Layer> {
        let mut layers: Vec<Layer> = Vec::new();
        let mut below = 0;
        for (at, row) in self.bps.iter().enumerate().take(usize::from(spatial) + 1) {
            let mut bps = if is_scalable { below } else { 0 };
            for (tid, rate) in row.iter().enumerate().take(usize::from(temporal) + 1) {
                bps += rate;
                if *rate > 0 && layers.last().is_none_or(|last| bps > last.bps) {
                    layers.push(Layer {
                        spatial: at as u8,
                        temporal: tid as u8,
                        bps,
                    });
                }
            }
            below = bps;
        }
        layers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(spatial: u8, temporal: u8, bps: u64) -> Layer {
        Layer {
            spatial,
            temporal,
            bps,
        }
    }

    fn candidate(priority: u8, rates: &[u64]) -> Candidate {
        Candidate {
            priority,
            layers: rates
                .iter()
                .enumerate()
                .map(|(at, &bps)| layer(at as u8, 0, bps))
                .collect(),
            current: None,
        }
    }

    fn bps(chosen: &[Option<Layer>]) -> Vec<u64> {
        chosen
            .iter()
            .map(|layer| layer.map_or(0, |layer| layer.bps))
            .collect()
    }

    #[test]
    fn smallest_layers_for_all_come_before_more_for_one() {
        let both = [candidate(2, &[100, 500]), candidate(1, &[100, 500])];
        assert_eq!(bps(&allocate(590, &both, true)), [100, 100]);
        assert_eq!(bps(&allocate(650, &both, true)), [500, 100]);
        assert_eq!(bps(&allocate(2000, &both, true)), [500, 500]);
    }

    #[test]
    fn the_least_important_is_paused_first_and_only_where_that_is_allowed() {
        let three = [
            candidate(1, &[100]),
            candidate(9, &[100]),
            candidate(5, &[100]),
        ];
        assert_eq!(bps(&allocate(250, &three, true)), [0, 100, 100]);
        assert_eq!(bps(&allocate(250, &three, false)), [100, 100, 100]);
        assert_eq!(bps(&allocate(0, &three, true)), [0, 0, 0]);
    }

    #[test]
    fn what_flows_stays_at_the_edge_where_news_would_not_begin() {
        let mut one = candidate(1, &[100, 500]);
        assert_eq!(bps(&allocate(510, std::slice::from_ref(&one), true)), [100]);
        one.current = Some((1, 0));
        assert_eq!(bps(&allocate(510, &[one], true)), [500]);
    }

    #[test]
    fn rates_of_simulcast_and_of_svc_become_layers() {
        let start = Instant::now();
        let mut rates = LayerRates::new();
        rates.poll(start);
        for (spatial, temporal, bytes) in [(0, 0, 1000), (0, 1, 1000), (1, 0, 4000)] {
            rates.add(spatial, temporal, bytes);
        }
        rates.poll(start + Duration::from_secs(1));
        let simulcast = [layer(0, 0, 8_000), layer(0, 1, 16_000), layer(1, 0, 32_000)];
        assert_eq!(rates.layers(2, 3, false), simulcast);
        assert_eq!(rates.layers(0, 0, false), simulcast[..1]);
        assert_eq!(rates.layers(2, 3, true)[2], layer(1, 0, 48_000));
    }
}
