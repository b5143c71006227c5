//! Which frames of a scalable stream one subscriber gets: a decode target of the dependency descriptor, and when to go
//! from one to another (AV1 RTP specification, appendix A).
//!
//! Not here: reading descriptors (`codec::dependency`), choosing among encodings and numbering (`forward`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::codec::dependency::{DecodeTarget, FrameDescription, FrameLayers, Structure};
use crate::forward::Wish;

/// How long a frame that others need may be missing before what needs it is given up.
const REPAIR_PATIENCE: Duration = Duration::from_millis(500);

/// What became of a numbered frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It never came so far.
    Unknown,
    Forwarded,
    Dropped,
}

/// The fates of the newest frames.
#[derive(Debug, Default)]
pub(crate) struct Fates {
    newest: u16,
    /// Frames since the first one that count, at most `SIZE` beyond what is remembered.
    span: u32,
    known: [u64; Self::WORDS],
    forwarded: [u64; Self::WORDS],
}

impl Fates {
    const WORDS: usize = 8;
    const SIZE: u16 = 64 * Self::WORDS as u16;

    /// The first frame that counts: all before it count as dropped.
    pub(crate) fn begin(&mut self, number: u16) {
        *self = Self::default();
        self.newest = number;
        self.span = 1;
    }

    pub(crate) fn newest(&self) -> u16 {
        self.newest
    }

    pub(crate) fn is_newer(&self, number: u16) -> bool {
        number != self.newest && number.wrapping_sub(self.newest) < 0x8000
    }

    pub(crate) fn get(&self, number: u16) -> Fate {
        let back = self.newest.wrapping_sub(number);
        if back >= 0x8000 {
            return Fate::Unknown;
        }
        if u32::from(back) >= self.span {
            return Fate::Dropped;
        }
        let (word, bit) = Self::place(number);
        if back >= Self::SIZE || self.known[word] & bit == 0 {
            Fate::Unknown
        } else if self.forwarded[word] & bit != 0 {
            Fate::Forwarded
        } else {
            Fate::Dropped
        }
    }

    pub(crate) fn set(&mut self, number: u16, is_forwarded: bool) {
        if self.is_newer(number) {
            let step = number.wrapping_sub(self.newest);
            if step >= Self::SIZE {
                self.known = [0; Self::WORDS];
            } else {
                for skipped in 1..=step {
                    let (word, bit) = Self::place(self.newest.wrapping_add(skipped));
                    self.known[word] &= !bit;
                }
            }
            self.span = (self.span + u32::from(step)).min(0x8000);
            self.newest = number;
        } else if self.newest.wrapping_sub(number) >= Self::SIZE {
            return;
        }
        let (word, bit) = Self::place(number);
        self.known[word] |= bit;
        if is_forwarded {
            self.forwarded[word] |= bit;
        } else {
            self.forwarded[word] &= !bit;
        }
    }

    fn place(number: u16) -> (usize, u64) {
        let at = number % Self::SIZE;
        (usize::from(at / 64), 1 << (at % 64))
    }
}

/// The highest layers seen lately. Rises at once, falls when a layer stays away.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flowing {
    spatial: Seen,
    temporal: Seen,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    highest: u8,
    /// Highest since `highest` was seen.
    next: u8,
    age: u8,
}

impl Seen {
    /// Frames without a layer after which it counts as gone.
    const PATIENCE: u8 = 48;

    fn note(&mut self, layer: u8) {
        if layer >= self.highest {
            (self.highest, self.next, self.age) = (layer, 0, 0);
            return;
        }
        self.next = self.next.max(layer);
        self.age += 1;
        if self.age >= Self::PATIENCE {
            (self.highest, self.next, self.age) = (self.next, 0, 0);
        }
    }

    fn cap(&mut self, limit: u8) {
        if self.highest > limit {
            (self.highest, self.next, self.age) = (limit, 0, 0);
        }
    }
}

impl Flowing {
    pub(crate) fn note(&mut self, spatial: u8, temporal: u8) {
        self.spatial.note(spatial);
        self.temporal.note(temporal);
    }

    /// What is above flows no more.
    pub(crate) fn cap(&mut self, spatial: u8, temporal: u8) {
        self.spatial.cap(spatial);
        self.temporal.cap(temporal);
    }

    pub(crate) fn layers(&self) -> (u8, u8) {
        (self.spatial.highest, self.temporal.highest)
    }
}

/// A missing frame and the chains it belongs to.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    number: u16,
    chains: u32,
    since: Instant,
}

/// Chooses the frames of one encoding for one subscriber.
#[derive(Debug)]
pub(crate) struct LayerSelector {
    structure: Arc<Structure>,
    active: u32,
    /// Index of the decode target that flows.
    target: Option<usize>,
    /// Chains of which a frame was not forwarded, one bit for each.
    broken: u32,
    fates: Fates,
    doubts: [Option<Doubt>; 4],
    /// Of the newest frame's temporal unit.
    timestamp: u32,
    /// A frame came that only a keyframe we do not have could explain.
    is_lost: bool,
}

impl LayerSelector {
    pub(crate) fn new(structure: &Arc<Structure>) -> Self {
        Self {
            structure: Arc::clone(structure),
            active: 0,
            target: None,
            broken: 0,
            fates: Fates::default(),
            doubts: [None; 4],
            timestamp: 0,
            is_lost: false,
        }
    }

    /// Begins with a frame that brings the structure.
    pub(crate) fn begin(&mut self, number: u16) {
        // The frame itself is not decided yet.
        self.fates.begin(number.wrapping_sub(1));
        self.fates.span = 0;
        self.target = None;
    }

    /// The decode target that flows.
    pub(crate) fn target(&self) -> Option<DecodeTarget> {
        self.target
            .and_then(|target| self.structure.targets().get(target))
            .copied()
    }

    /// Whether only a keyframe brings what is wished for.
    pub(crate) fn needs_keyframe(&self, wish: &Wish) -> bool {
        if self.is_lost {
            return true;
        }
        let Some(target) = self.target else {
            return true;
        };
        let Some(best) = self.best(wish, |_| true) else {
            return false;
        };
        let spatial = |index: usize| {
            self.structure
                .targets()
                .get(index)
                .map_or(0, |target| target.spatial)
        };
        spatial(best) > spatial(target)
            || (spatial(best) < spatial(target) && !self.is_intact(best))
    }

    /// Whether a packet of this frame goes out. `is_newest`: no packet sent later came before it.
    pub(crate) fn admit(
        &mut self,
        frame: &FrameDescription,
        timestamp: u32,
        wish: &Wish,
        is_newest: bool,
        now: Instant,
    ) -> bool {
        if frame.has_structure
            && is_newest
            && frame.number != self.fates.newest
            && !self.fates.is_newer(frame.number)
        {
            // The frames are counted anew.
            self.begin(frame.number);
        }
        match self.fates.get(frame.number) {
            Fate::Forwarded => return true,
            Fate::Dropped => return false,
            Fate::Unknown => {}
        }
        let Some(layers) = &frame.layers else {
            self.is_lost = true;
            self.fates.set(frame.number, false);
            return false;
        };
        if self.fates.is_newer(frame.number) {
            self.step(frame, layers, timestamp, wish, now);
        }
        let is_awaited = self
            .doubts
            .iter()
            .flatten()
            .any(|doubt| doubt.number == frame.number);
        let is_wanted = (is_awaited
            || self
                .target
                .is_some_and(|target| layers.indications.present >> target & 1 != 0))
            && Arc::ptr_eq(&layers.structure, &self.structure)
            && layers.references.as_slice().iter().all(|&difference| {
                self.fates.get(frame.number.wrapping_sub(difference)) != Fate::Dropped
            });
        self.fates.set(frame.number, is_wanted);
        is_wanted
    }

    /// Takes note of a new frame's chains, and goes to another decode target where it allows that.
    fn step(
        &mut self,
        frame: &FrameDescription,
        layers: &FrameLayers,
        timestamp: u32,
        wish: &Wish,
        now: Instant,
    ) {
        self.active = layers.active;
        let starts_unit = std::mem::replace(&mut self.timestamp, timestamp) != timestamp;
        let is_keyframe =
            frame.has_structure || (layers.references.as_slice().is_empty() && layers.spatial == 0);
        if is_keyframe {
            self.structure = Arc::clone(&layers.structure);
            self.broken = 0;
            self.doubts = [None; 4];
            self.is_lost = false;
            self.target = self.best(wish, |target| layers.indications.switch >> target & 1 != 0);
            return;
        }
        if !Arc::ptr_eq(&layers.structure, &self.structure) {
            self.is_lost = true;
            self.target = None;
            return;
        }
        for (chain, &link) in layers.chain_links().iter().enumerate() {
            if link == 0 {
                continue;
            }
            let before = frame.number.wrapping_sub(u16::from(link));
            match self.fates.get(before) {
                Fate::Forwarded => {}
                Fate::Dropped => self.broken |= 1 << chain,
                Fate::Unknown => self.doubt(before, 1 << chain, now),
            }
        }
        self.settle(now);
        let targets = Arc::clone(&self.structure);
        let rank = |index: usize| {
            targets
                .targets()
                .get(index)
                .map(|target| (target.spatial, target.temporal))
        };
        let is_alive = self.target.is_some_and(|target| {
            self.active >> target & 1 != 0 && (self.is_intact(target) || self.has_no_chain(target))
        });
        if !is_alive {
            // What was forwarded so far must be enough for the one that takes over.
            let fallback = self.best(wish, |target| self.is_intact(target));
            let is_within = fallback.and_then(rank) <= self.target.and_then(rank);
            self.target = fallback.filter(|_| is_within);
            return;
        }
        let current = self.target.and_then(rank);
        let is_complete = layers.references.as_slice().iter().all(|&difference| {
            self.fates.get(frame.number.wrapping_sub(difference)) == Fate::Forwarded
        });
        let wished = self.best(wish, |_| true).and_then(rank);
        let reachable = self.best(wish, |target| {
            // A layer that is added amid a unit would come after the marker.
            let is_timely = starts_unit || rank(target).map(|it| it.0) <= current.map(|it| it.0);
            let may_switch =
                is_complete && is_timely && layers.indications.switch >> target & 1 != 0;
            let is_part = rank(target) < current
                && starts_unit
                && (self.is_intact(target)
                    || (self.has_no_chain(target)
                        && rank(target).map(|(spatial, _)| spatial)
                            == current.map(|(spatial, _)| spatial)));
            self.target == Some(target) || may_switch || is_part
        });
        // A target below the wish is no better than the one above it that flows.
        if let Some(reachable) = reachable
            && (rank(reachable) > current || wished < current)
        {
            self.target = Some(reachable);
        }
    }

    /// The highest decode target within the wish that is sent and that `may` be taken; if all that are sent are above
    /// the wish, the lowest.
    fn best(&self, wish: &Wish, may: impl Fn(usize) -> bool) -> Option<usize> {
        let sent = || {
            self.structure
                .targets()
                .iter()
                .enumerate()
                .filter(|(index, _)| self.active >> index & 1 != 0)
        };
        let is_wished = |target: &DecodeTarget| {
            target.spatial <= wish.spatial && target.temporal <= wish.temporal
        };
        if sent().any(|(_, target)| is_wished(target)) {
            sent()
                .filter(|(index, target)| is_wished(target) && may(*index))
                .max_by_key(|(_, target)| (target.spatial, target.temporal))
                .map(|(index, _)| index)
        } else {
            sent()
                .min_by_key(|(_, target)| (target.spatial, target.temporal))
                .map(|(index, _)| index)
                .filter(|index| may(*index))
        }
    }

    fn has_no_chain(&self, target: usize) -> bool {
        self.structure.chain_of(target).is_none()
    }

    /// Every frame that the target cannot do without was forwarded.
    fn is_intact(&self, target: usize) -> bool {
        self.structure
            .chain_of(target)
            .is_some_and(|chain| self.broken >> chain & 1 == 0)
    }

    fn doubt(&mut self, number: u16, chains: u32, now: Instant) {
        if let Some(doubt) = self
            .doubts
            .iter_mut()
            .flatten()
            .find(|doubt| doubt.number == number)
        {
            doubt.chains |= chains;
        } else if let Some(free) = self.doubts.iter_mut().find(|doubt| doubt.is_none()) {
            *free = Some(Doubt {
                number,
                chains,
                since: now,
            });
        } else {
            self.broken |= chains;
        }
    }

    fn settle(&mut self, now: Instant) {
        for place in &mut self.doubts {
            let Some(doubt) = place else { continue };
            let fate = self.fates.get(doubt.number);
            let is_over = now.saturating_duration_since(doubt.since) >= REPAIR_PATIENCE;
            if fate == Fate::Dropped || (fate == Fate::Unknown && is_over) {
                self.broken |= doubt.chains;
            }
            if fate != Fate::Unknown || is_over {
                *place = None;
            }
        }
    }
}
