//! Frames made here when a track falls silent: the far side hears silence and sees black, not the last picture.
//!
//! A sender whose track is muted gets them for a second, one whose track or self ends for a fifth of a second. They
//! continue its numbers and its clock. Of codecs without a blank frame nothing is sent. A sender that is removed goes
//! on without its id until its frames are out.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::codec::blank::{H264_KEYFRAME, OPUS_SILENCE, VP8_KEYFRAME};
use crate::codec::vp8::{Vp8Descriptor, parse_vp8};
use crate::packet::extensions::{AudioLevel, ExtensionValues};
use crate::published::{CodecKind, PublishedPacket};
use crate::send::RtpSender;
use crate::shard::{Shard, Timer};

/// How long after a mute.
pub(crate) const MUTE: Duration = Duration::from_secs(1);
/// How long at the end of a sender or its track.
pub(crate) const CLOSE: Duration = Duration::from_millis(200);
/// An Opus frame.
const AUDIO_INTERVAL: Duration = Duration::from_millis(20);
const VIDEO_INTERVAL: Duration = Duration::from_nanos(1_000_000_000 / 30);

/// Frames on their way out, one every interval.
#[derive(Debug)]
pub(crate) struct Injection {
    /// The packets of a frame, the same ones every time.
    frame: Vec<Arc<PublishedPacket>>,
    next: Instant,
    interval: Duration,
    /// Timestamp units of an interval.
    step: u32,
    left: u32,
}

impl Shard {
    /// Begins to send blank frames to one sender; false when it needs none: nothing flows, no transport, or a codec
    /// that has none.
    pub(crate) fn begin_injection(
        &mut self,
        now: Instant,
        slot: usize,
        duration: Duration,
    ) -> bool {
        let Some(sender) = self.senders.get_mut(slot).and_then(Option::as_mut) else {
            return false;
        };
        let is_up = self
            .peers
            .get(sender.pc)
            .and_then(Option::as_ref)
            .is_some_and(|peer| peer.srtp_out.is_some() && peer.path.is_some());
        if let Some(running) = &mut sender.injection {
            running.left = running.left.min(count(duration, running.interval));
            return is_up;
        }
        let track = sender
            .track
            .and_then(|track| self.tracks.get(track)?.as_ref());
        let Some(track) = track.filter(|_| is_up && sender.forwarder.is_flowing()) else {
            return false;
        };
        let Some(kind) = track.kinds.get(track.newest_codec).copied() else {
            return false;
        };
        let Some(frame) = sender.blank_frame(kind, track.newest_codec as u8, now) else {
            return false;
        };
        let interval = if track.is_video() {
            VIDEO_INTERVAL
        } else {
            AUDIO_INTERVAL
        };
        let ticks = interval.as_nanos() * u128::from(track.clock_rate()) + 500_000_000;
        sender.injection = Some(Injection {
            frame,
            next: now,
            interval,
            step: (ticks / 1_000_000_000).max(1) as u32,
            left: count(duration, interval),
        });
        self.timers.push(Reverse((now, Timer::Injection(slot))));
        true
    }

    /// Sends the frame that is due.
    pub(crate) fn inject(&mut self, slot: usize, at: Instant, now: Instant) {
        let wall_ns = self.wall_ns(now);
        let Some(sender) = self.senders.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        let Some(mut injection) = sender.injection.take_if(|waiting| waiting.next == at) else {
            return;
        };
        let pc = sender.pc;
        if let Some(peer) = self.peers.get_mut(pc).and_then(Option::as_mut)
            && peer.srtp_out.is_some()
        {
            let last = injection.frame.len() - 1;
            for (index, packet) in injection.frame.iter().enumerate() {
                let step = (index == 0).then_some(injection.step);
                let rewrite =
                    sender
                        .forwarder
                        .inject(packet, step, wall_ns, packet.marker && index == last);
                if let Some(rewrite) = rewrite {
                    RtpSender::enqueue(slot, packet, rewrite, &mut peer.outbox);
                    self.counters.injected += 1;
                }
            }
            Self::mark_dirty(peer, pc, &mut self.dirty);
            injection.left -= 1;
        } else {
            injection.left = 0;
        }
        if injection.left == 0 {
            if sender.is_ending {
                self.flush_one(Some(pc), now);
                self.drop_sender(slot);
            }
            return;
        }
        injection.next = (at + injection.interval).max(now);
        self.timers
            .push(Reverse((injection.next, Timer::Injection(slot))));
        sender.injection = Some(injection);
    }
}

/// Nearest number of frames, at least one.
fn count(duration: Duration, interval: Duration) -> u32 {
    let half = interval / 2;
    ((duration + half).as_nanos() / interval.as_nanos()).max(1) as u32
}

impl RtpSender {
    /// The packets of a frame that shows or says nothing, ready for this sender; None when its codec has none.
    fn blank_frame(
        &self,
        kind: CodecKind,
        codec: u8,
        now: Instant,
    ) -> Option<Vec<Arc<PublishedPacket>>> {
        let payloads: Vec<Vec<u8>> = match kind {
            CodecKind::Opus => vec![OPUS_SILENCE.to_vec()],
            // Sent as what it would hold.
            CodecKind::Red if self.sends_opus() => vec![OPUS_SILENCE.to_vec()],
            CodecKind::Vp8 => {
                let mut payload = vp8_descriptor(self.forwarder.vp8_shape());
                payload.extend_from_slice(&VP8_KEYFRAME);
                vec![payload]
            }
            CodecKind::H264 => H264_KEYFRAME.iter().map(|unit| unit.to_vec()).collect(),
            CodecKind::Red
            | CodecKind::Vp9
            | CodecKind::H265
            | CodecKind::Av1
            | CodecKind::Other => return None,
        };
        let last = payloads.len() - 1;
        let is_audio = matches!(kind, CodecKind::Opus | CodecKind::Red);
        let packets = payloads.into_iter().enumerate().map(|(index, payload)| {
            let mut packet = PublishedPacket::empty(now);
            packet.codec = codec;
            packet.kind = kind;
            packet.keyframe = true;
            packet.frame_start = index == 0;
            packet.marker = !is_audio && index == last;
            packet.payload = payload;
            packet.vp8 = (kind == CodecKind::Vp8)
                .then(|| parse_vp8(&packet.payload))
                .flatten();
            if index == last {
                packet.payload.extend_from_slice(&self.config.sif_trailer);
            }
            packet.extensions = ExtensionValues {
                audio_level: is_audio.then_some(AudioLevel {
                    voice: false,
                    level: 127,
                }),
                ..ExtensionValues::default()
            };
            Arc::new(packet)
        });
        Some(packets.collect())
    }
}

/// A first packet's descriptor with the same fields as the stream's own (RFC 7741 section 4.2), their values to be
/// rewritten.
fn vp8_descriptor(shape: Option<Vp8Descriptor>) -> Vec<u8> {
    let Some((shape, id)) = shape.and_then(|shape| Some((shape, shape.picture_id?))) else {
        return vec![0x10];
    };
    let has_tid_byte = shape.tid.is_some() || shape.key_idx.is_some();
    let fields = 0x80
        | u8::from(shape.tl0_pic_idx.is_some()) << 6
        | u8::from(shape.tid.is_some()) << 5
        | u8::from(shape.key_idx.is_some()) << 4;
    let mut bytes = vec![0x90, fields];
    if id.long {
        bytes.push(0x80);
    }
    bytes.push(0);
    bytes.extend(shape.tl0_pic_idx.map(|_| 0));
    bytes.extend(has_tid_byte.then_some(0));
    bytes
}
