//! RTCP as it comes in: reports, repairs asked for, keyframes asked for.

use std::time::Instant;

use crate::event::Event;
use crate::forward::ClockPoint;
use crate::packet::rtcp::{self, ReportBlock, Rtcp, RtcpPackets};
use crate::receive::Origin;
use crate::shard::{KEYFRAME_INTERVAL, KEYFRAME_INTERVAL_LOW, MAX_REPAIRS, Shard, ntp_to_ns};

impl Shard {
    pub(crate) fn receive_rtcp(&mut self, now: Instant, slot: usize, packet: &mut [u8]) {
        let wall_ns = self.wall_ns(now);
        let Some(peer) = self.peers.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        let Some(srtp) = peer.srtp_in.as_mut() else {
            self.counters.no_keys += 1;
            return;
        };
        let Ok(length) = srtp.open_rtcp(packet) else {
            self.counters.srtcp_rejected += 1;
            return;
        };
        peer.transport.note_authenticated(now);
        let packet = packet.get(..length).unwrap_or_default();
        for part in RtcpPackets::new(packet) {
            match part {
                Ok(part) => self.receive_control(now, wall_ns, slot, part),
                Err(_) => self.counters.rtcp_malformed += 1,
            }
        }
        self.schedule(slot);
    }

    pub(crate) fn receive_control(
        &mut self,
        now: Instant,
        wall_ns: u64,
        slot: usize,
        part: Rtcp<'_>,
    ) {
        match part {
            Rtcp::SenderReport { info, reports } => {
                self.note_sender_report(
                    now,
                    wall_ns,
                    slot,
                    info.ssrc,
                    info.ntp_time,
                    info.rtp_timestamp,
                );
                for block in reports {
                    self.note_report_block(now, slot, &block);
                }
            }
            Rtcp::ReceiverReport { reports, .. } => {
                for block in reports {
                    self.note_report_block(now, slot, &block);
                }
            }
            Rtcp::Nack {
                media_ssrc, lost, ..
            } => self.repair(now, slot, media_ssrc, lost),
            Rtcp::Pli { media_ssrc, .. } => self.subscriber_wants_keyframe(now, slot, media_ssrc),
            Rtcp::Fir { requests, .. } => {
                for request in requests {
                    self.subscriber_wants_keyframe(now, slot, request.ssrc);
                }
            }
            Rtcp::Remb { bitrate_bps, .. } => {
                if let Some(peer) = self.peers.get_mut(slot).and_then(Option::as_mut) {
                    peer.estimator.on_remb(bitrate_bps);
                    peer.is_estimated = true;
                }
            }
            Rtcp::Twcc(feedback) => {
                if let Some(peer) = self.peers.get_mut(slot).and_then(Option::as_mut) {
                    let summary = peer.history.on_feedback(&feedback, now, |_| {});
                    peer.estimator.on_twcc(&summary, now);
                    peer.is_estimated = true;
                }
            }
            Rtcp::Goodbye(ssrcs) => {
                for ssrc in ssrcs {
                    self.note_goodbye(now, slot, ssrc);
                }
            }
            Rtcp::Sdes(_) | Rtcp::Other { .. } => {}
        }
    }

    /// An encoding ended by its own word.
    pub(crate) fn note_goodbye(&mut self, now: Instant, slot: usize, ssrc: u32) {
        let Some(peer) = self.peers.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        let Some(route) = peer.router.known(ssrc).filter(|route| !route.is_repair) else {
            return;
        };
        let Some(track) = self.tracks.get_mut(route.track).and_then(Option::as_mut) else {
            return;
        };
        let Some(view) = track
            .views
            .get_mut(route.encoding)
            .filter(|view| view.active)
        else {
            return;
        };
        view.active = false;
        self.events.push_back(Event::EncodingStopped {
            track: track.id,
            spatial_layer: view.spatial,
        });
        self.retarget_senders(route.track, now);
    }

    pub(crate) fn sender_by_ssrc(&self, slot: usize, ssrc: u32) -> Option<usize> {
        let peer = self.peers.get(slot)?.as_ref()?;
        peer.senders.iter().copied().find(|&at| {
            self.senders
                .get(at)
                .and_then(Option::as_ref)
                .is_some_and(|sender| sender.config.ssrc == ssrc)
        })
    }

    /// Notes a sender report of what we receive: a point on the encoding's clock.
    pub(crate) fn note_sender_report(
        &mut self,
        now: Instant,
        wall_ns: u64,
        slot: usize,
        ssrc: u32,
        ntp: u64,
        rtp: u32,
    ) {
        let Some(peer) = self.peers.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        let Some(route) = peer.router.known(ssrc).filter(|route| !route.is_repair) else {
            return;
        };
        let Some(track) = self.tracks.get_mut(route.track).and_then(Option::as_mut) else {
            return;
        };
        let Some(stream) = track.encodings.get_mut(route.encoding) else {
            return;
        };
        stream.last_report = Some((ntp, now));
        if ntp == 0 {
            return;
        }
        // One offset for all tracks of a publisher keeps them in step; the fastest report is nearest to the truth.
        let offset = wall_ns.wrapping_sub(ntp_to_ns(ntp)) as i64;
        let known = peer
            .clock_offset
            .filter(|known| offset.abs_diff(*known) < 1_000_000_000);
        let offset = known.map_or(offset, |known| known.min(offset));
        peer.clock_offset = Some(offset);
        if let Some(view) = track.views.get_mut(route.encoding) {
            let wall_ns = ntp_to_ns(ntp).wrapping_add(offset as u64);
            view.clock = Some(ClockPoint {
                wall_ns,
                rtp,
                reported: true,
            });
        }
    }

    /// Takes one block about a stream of ours (RFC 3550 section 6.4.1).
    pub(crate) fn note_report_block(&mut self, now: Instant, slot: usize, block: &ReportBlock) {
        let Some(at) = self.sender_by_ssrc(slot, block.ssrc) else {
            return;
        };
        let Some(sender) = self.senders.get_mut(at).and_then(Option::as_mut) else {
            return;
        };
        sender.note_arrived(block.highest_sequence as u16);
        sender.counts.fraction_lost = f64::from(block.fraction_lost) / 256.0;
        let rtt = sender.round_trip(block, now);
        if rtt.is_some() {
            sender.counts.rtt = rtt;
        }
        if let Some(peer) = self.peers.get_mut(slot).and_then(Option::as_mut) {
            if rtt.is_some() {
                peer.rtt = rtt;
            }
            peer.estimator
                .on_receiver_report(block.fraction_lost, rtt, now);
            peer.is_estimated = true;
        }
    }

    pub(crate) fn repair(
        &mut self,
        now: Instant,
        slot: usize,
        ssrc: u32,
        lost: impl Iterator<Item = u16>,
    ) {
        let Some(at) = self.sender_by_ssrc(slot, ssrc) else {
            return;
        };
        let Some(sender) = self.senders.get_mut(at).and_then(Option::as_mut) else {
            return;
        };
        let Some(peer) = self.peers.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        for sequence in lost.take(MAX_REPAIRS) {
            sender.counts.nacks_received += 1;
            if sender.repair(at, sequence, now, &mut peer.outbox) {
                Self::mark_dirty(peer, slot, &mut self.dirty);
            } else {
                self.counters.repair_not_possible += 1;
            }
        }
    }

    /// A subscriber cannot go on: asks the publisher, throttled.
    pub(crate) fn subscriber_wants_keyframe(&mut self, now: Instant, slot: usize, ssrc: u32) {
        let Some(at) = self.sender_by_ssrc(slot, ssrc) else {
            return;
        };
        let Some(sender) = self.senders.get_mut(at).and_then(Option::as_mut) else {
            return;
        };
        sender.counts.keyframe_requests_received += 1;
        if let (Some(track), Some(encoding)) = (sender.track, sender.forwarder.flowing_or_target())
        {
            self.ask_keyframe(now, track, encoding);
        }
    }

    /// Asks for a keyframe of one encoding, now or as soon as the throttle allows.
    pub(crate) fn ask_keyframe(&mut self, now: Instant, slot: usize, encoding: usize) {
        let Some(track) = self.tracks.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        if !track.is_video() {
            return;
        }
        let lowest = track
            .encodings
            .iter()
            .map(|stream| stream.spatial_layer)
            .min();
        let Some(stream) = track.encodings.get_mut(encoding) else {
            return;
        };
        let interval = if Some(stream.spatial_layer) == lowest {
            KEYFRAME_INTERVAL_LOW
        } else {
            KEYFRAME_INTERVAL
        };
        let is_throttled = stream
            .keyframe_asked
            .is_some_and(|at| now.saturating_duration_since(at) < interval);
        if is_throttled {
            stream.is_keyframe_wanted = true;
            self.counters.keyframe_requests_throttled += 1;
            return;
        }
        let ssrc = stream.ssrc.filter(|_| stream.last_arrival.is_some());
        match &mut track.origin {
            Origin::Made(source) => source.is_keyframe_wanted = true,
            Origin::Received(pc) => {
                let (Some(ssrc), Some(peer)) =
                    (ssrc, self.peers.get_mut(*pc).and_then(Option::as_mut))
                else {
                    stream.is_keyframe_wanted = true;
                    return;
                };
                rtcp::write_pli(&mut peer.rtcp, peer.ssrc, ssrc);
                Self::mark_dirty(peer, *pc, &mut self.dirty);
                track.counts.keyframe_requests_sent += 1;
            }
        }
        stream.keyframe_asked = Some(now);
        stream.is_keyframe_wanted = false;
    }
}
