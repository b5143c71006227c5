//! Peer connections with a bound on what they send: their senders get what fits of their wishes.

use std::time::Instant;

use crate::allocate::{Candidate, Layer, allocate};
use crate::command::TrackKind;
use crate::event::Event;
use crate::forward::Wish;
use crate::ids::PcId;
use crate::send::RtpSender;
use crate::shard::Shard;

/// The least priority of a picture whose configuration says none.
const USUAL_PRIORITY: u8 = 1;

impl Shard {
    pub(crate) fn set_bandwidth_cap(
        &mut self,
        now: Instant,
        pc: PcId,
        bps: Option<u64>,
        allow_pause: bool,
    ) -> Result<(), String> {
        let slot = self.peer_slot(pc)?;
        if let Some(peer) = self.peers.get_mut(slot).and_then(Option::as_mut) {
            peer.cap = bps.map(|bps| (bps, allow_pause));
        }
        if bps.is_some() {
            self.allocate_capped(slot, now);
            return Ok(());
        }
        let senders = self.senders_of(slot);
        for at in senders {
            self.set_ceiling(at, None, false, now);
        }
        Ok(())
    }

    /// Chooses anew for every peer connection with a bound.
    pub(crate) fn allocate_all_capped(&mut self, now: Instant) {
        for slot in 0..self.peers.len() {
            if self.peers[slot]
                .as_ref()
                .is_some_and(|peer| peer.cap.is_some())
            {
                self.allocate_capped(slot, now);
            }
        }
    }

    fn allocate_capped(&mut self, slot: usize, now: Instant) {
        let Some((mut budget, allow_pause)) = self
            .peers
            .get(slot)
            .and_then(Option::as_ref)
            .and_then(|peer| peer.cap)
        else {
            return;
        };
        let mut candidates = Vec::new();
        let mut chosen_for = Vec::new();
        for at in self.senders_of(slot) {
            let Some(sender) = self.senders.get(at).and_then(Option::as_ref) else {
                continue;
            };
            let Some(track) = sender
                .track
                .and_then(|track| self.tracks.get(track))
                .and_then(Option::as_ref)
            else {
                continue;
            };
            let wish = sender.asked();
            if wish.paused || track.is_muted {
                continue;
            }
            let layers =
                track
                    .rates
                    .layers(wish.spatial, wish.temporal, track.encodings.len() == 1);
            if track.config.kind == TrackKind::Audio {
                budget = budget.saturating_sub(layers.last().map_or(0, |layer| layer.bps));
            } else if !layers.is_empty() {
                candidates.push(Candidate {
                    priority: sender.config.priority.max(USUAL_PRIORITY),
                    layers,
                    current: sender.ceiling.filter(|ceiling| !ceiling.paused).map(
                        |Wish {
                             spatial, temporal, ..
                         }| (spatial, temporal),
                    ),
                });
                chosen_for.push(at);
            }
        }
        let chosen = allocate(budget, &candidates, allow_pause);
        for (at, layer) in chosen_for.into_iter().zip(chosen) {
            self.set_ceiling(at, layer, layer.is_none(), now);
        }
    }

    fn senders_of(&self, slot: usize) -> Vec<usize> {
        self.peers
            .get(slot)
            .and_then(Option::as_ref)
            .map_or_else(Vec::new, |peer| peer.senders.clone())
    }

    /// Bounds one sender to a layer, pauses it, or (neither) lets it have what it wishes.
    fn set_ceiling(&mut self, at: usize, layer: Option<Layer>, paused: bool, now: Instant) {
        let Some(sender) = self.senders.get_mut(at).and_then(Option::as_mut) else {
            return;
        };
        let ceiling = match layer {
            Some(layer) => Some(Wish {
                spatial: layer.spatial,
                temporal: layer.temporal,
                paused: false,
            }),
            None if paused => Some(Wish {
                spatial: 0,
                temporal: 0,
                paused: true,
            }),
            None => None,
        };
        if sender.ceiling == ceiling {
            return;
        }
        let was_paused = sender.is_paused_by_cap();
        sender.ceiling = ceiling;
        sender.apply_wish();
        if sender.is_paused_by_cap() != was_paused {
            self.events.push_back(Event::SenderPaused {
                sender: sender.id,
                paused: !was_paused,
            });
        }
        if let Some(track) = sender.track {
            self.retarget_senders(track, now);
        }
    }
}

impl RtpSender {
    /// What the subscriber wishes for.
    pub(crate) fn asked(&self) -> Wish {
        Wish {
            spatial: self.config.max_spatial_layer,
            temporal: self.config.max_temporal_layer,
            paused: self.config.paused,
        }
    }

    pub(crate) fn is_paused_by_cap(&self) -> bool {
        self.ceiling.is_some_and(|ceiling| ceiling.paused)
    }

    /// Gives the forwarder the wish, as far as the ceiling lets it have it.
    pub(crate) fn apply_wish(&mut self) {
        let asked = self.asked();
        self.forwarder.set_wish(match self.ceiling {
            None => asked,
            Some(ceiling) => Wish {
                spatial: asked.spatial.min(ceiling.spatial),
                temporal: asked.temporal.min(ceiling.temporal),
                paused: asked.paused || ceiling.paused,
            },
        });
    }
}
