//! The inbound list: what happens to a packet between the socket and its subscribers.
//!
//! `Shard::receive_rtp` walks it: srtp → rtp → transport-cc arrival → router → (rtx unwrap) →
//! duplicate check, nack, jitter, level → codec → publish. The stages that belong to one track are here too.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::allocate::LayerRates;
use crate::codec::dependency::DescriptorMemory;
use crate::codec::{av1, h264, h265, red, trailer, vp8, vp9};
use crate::command::{ReceiverConfig, TrackKind};
use crate::event::Event;
use crate::forward::{ClockPoint, EncodingView};
use crate::ids::TrackId;
use crate::levels::{LevelReport, LevelWindow};
use crate::nack::NackGenerator;
use crate::packet::rtcp::ReportBlock;
use crate::packet::rtp::RtpHeader;
use crate::published::{CodecKind, PacketPool, PublishedPacket};
use crate::router::Router;
use crate::send::RtpSender;
use crate::sequence::SequenceUnwrapper;
use crate::shard::{LATENCY_BINS, REPORT_INTERVAL, Shard};
use crate::source::{self, Source};
use crate::srtp::SrtpError;
use crate::stats::{Dropped, TrackStats};

/// Silence after which an encoding counts as stopped.
pub(crate) const STOPPED_AFTER: Duration = Duration::from_secs(2);
/// Silence after which something else is sought, if something else arrives.
pub(crate) const STALLED_AFTER: Duration = Duration::from_millis(500);

/// Where a track comes from.
pub(crate) enum Origin {
    /// Slot of the peer connection it is received on.
    Received(usize),
    /// Made here.
    Made(Box<Source>),
}

/// A track as it comes in (W3C: RTCRtpReceiver).
pub(crate) struct RtpReceiver {
    pub(crate) id: TrackId,
    pub(crate) origin: Origin,
    pub(crate) config: ReceiverConfig,
    /// One per codec of the configuration.
    pub(crate) kinds: Vec<CodecKind>,
    pub(crate) encodings: Vec<RtpStream>,
    /// One per encoding, in step with `encodings`.
    pub(crate) views: Vec<EncodingView>,
    /// Slots of the senders that forward it.
    pub(crate) senders: Vec<usize>,
    pub(crate) is_muted: bool,
    /// Index of the codec of the newest packet.
    pub(crate) newest_codec: usize,
    /// Some sender wants its packets without trailers, or as RED made here.
    pub(crate) has_variants: bool,
    /// The newest Opus packet, for RED made here.
    pub(crate) before: Option<Arc<PublishedPacket>>,
    pub(crate) level: LevelWindow,
    pub(crate) level_report: Option<LevelReport>,
    pub(crate) counts: TrackCounts,
    pub(crate) rates: LayerRates,
}

/// Totals of a track.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TrackCounts {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    pub(crate) nacks_sent: u64,
    pub(crate) keyframe_requests_sent: u64,
    /// Bytes and time of the last bitrate, and the bitrate.
    pub(crate) rate: Option<(u64, Instant)>,
    pub(crate) bitrate_bps: u64,
}

/// Packets with one SSRC: one encoding of a track (RFC 7656).
pub(crate) struct RtpStream {
    pub(crate) spatial_layer: u8,
    pub(crate) rid: Option<String>,
    pub(crate) ssrc: Option<u32>,
    pub(crate) rtx_ssrc: Option<u32>,
    pub(crate) generation: u32,
    pub(crate) last_arrival: Option<Instant>,
    sequences: SequenceUnwrapper,
    seen: SeenWindow,
    descriptors: DescriptorMemory,
    pub(crate) nack: NackGenerator,
    /// NTP time of the newest sender report, and when it came.
    pub(crate) last_report: Option<(u64, Instant)>,
    transit: Option<i64>,
    /// In timestamp units, times 16 (RFC 3550 appendix A.8).
    jitter: u64,
    first: Option<u64>,
    received: u64,
    /// Expected and received at the last report.
    reported: (u64, u64),
    pub(crate) keyframe_asked: Option<Instant>,
    pub(crate) is_keyframe_wanted: bool,
}

impl RtpStream {
    pub(crate) fn new(
        spatial_layer: u8,
        rid: Option<String>,
        ssrc: Option<u32>,
        rtx_ssrc: Option<u32>,
    ) -> Self {
        Self {
            spatial_layer,
            rid,
            ssrc,
            rtx_ssrc,
            generation: 0,
            last_arrival: None,
            sequences: SequenceUnwrapper::default(),
            seen: SeenWindow::default(),
            descriptors: DescriptorMemory::default(),
            nack: NackGenerator::default(),
            last_report: None,
            transit: None,
            jitter: 0,
            first: None,
            received: 0,
            reported: (0, 0),
            keyframe_asked: None,
            is_keyframe_wanted: false,
        }
    }

    /// Begins anew: another SSRC, or the same one after new keys.
    pub(crate) fn restart(&mut self, ssrc: u32) {
        let fresh = Self::new(
            self.spatial_layer,
            self.rid.take(),
            Some(ssrc),
            self.rtx_ssrc,
        );
        let generation = self.generation + 1;
        let (asked, wanted) = (self.keyframe_asked, self.is_keyframe_wanted);
        *self = fresh;
        self.generation = generation;
        self.keyframe_asked = asked;
        self.is_keyframe_wanted = wanted;
    }

    /// Takes note of a packet of its own SSRC. None: it was here before.
    pub(crate) fn accept(
        &mut self,
        header: &RtpHeader,
        clock_rate: u32,
        now: Instant,
        wall_ns: u64,
    ) -> Option<u64> {
        let sequence = self.sequences.unwrap(header.sequence);
        if !self.seen.insert(sequence) {
            return None;
        }
        self.first.get_or_insert(sequence);
        self.received += 1;
        self.last_arrival = Some(now);
        self.nack.on_packet(sequence, now);
        // RFC 3550 appendix A.8.
        let arrival = (i128::from(wall_ns) * i128::from(clock_rate) / 1_000_000_000) as i64;
        let transit = arrival.wrapping_sub(i64::from(header.timestamp));
        if let Some(last) = self.transit {
            let step = (transit.wrapping_sub(last) as i32).unsigned_abs();
            // A wrap or a restart of the clock is no jitter.
            if step < clock_rate {
                self.jitter =
                    (self.jitter + u64::from(step)).saturating_sub((self.jitter + 8) >> 4);
            }
        }
        self.transit = Some(transit);
        Some(sequence)
    }

    /// Takes note of a repaired packet by its original number. None: it was here before, or nothing was.
    pub(crate) fn accept_repair(&mut self, sequence: u16) -> Option<u64> {
        let newest = self.sequences.newest()?;
        let sequence = self.sequences.peek(sequence);
        if sequence > newest || !self.seen.insert(sequence) {
            return None;
        }
        self.received += 1;
        self.nack.on_rtx(sequence);
        Some(sequence)
    }

    /// Takes note of a lost packet whose content another one brought. False: it was here before.
    pub(crate) fn accept_recovered(&mut self, sequence: u64) -> bool {
        let is_new = self.seen.insert(sequence);
        if is_new {
            self.nack.on_rtx(sequence);
        }
        is_new
    }

    pub(crate) fn newest(&self) -> Option<u64> {
        self.sequences.newest()
    }

    /// Interarrival jitter in timestamp units.
    pub(crate) fn jitter(&self) -> u32 {
        (self.jitter >> 4) as u32
    }

    /// The next block about this stream (RFC 3550 section 6.4.1, appendix A.3).
    pub(crate) fn report_block(&mut self, ssrc: u32, now: Instant) -> ReportBlock {
        let newest = self.newest().unwrap_or(0);
        let expected = self
            .first
            .map_or(0, |first| newest.saturating_sub(first) + 1);
        let expected_step = expected.saturating_sub(self.reported.0);
        let received_step = self.received.saturating_sub(self.reported.1);
        self.reported = (expected, self.received);
        let lost_step = expected_step.saturating_sub(received_step);
        let fraction_lost = (lost_step * 256)
            .checked_div(expected_step)
            .unwrap_or(0)
            .min(255) as u8;
        let lost = (expected as i64 - self.received as i64).clamp(-0x80_0000, 0x7f_ffff) as i32;
        // Extended numbers start in the second cycle.
        let highest_sequence = newest.wrapping_sub(1 << 16) as u32;
        let (last_sr, delay_since_last_sr) = match self.last_report {
            Some((ntp, at)) => {
                let delay = now.saturating_duration_since(at).as_nanos() * 65_536 / 1_000_000_000;
                ((ntp >> 16) as u32, u32::try_from(delay).unwrap_or(u32::MAX))
            }
            None => (0, 0),
        };
        ReportBlock {
            ssrc,
            fraction_lost,
            cumulative_lost: lost,
            highest_sequence,
            jitter: self.jitter(),
            last_sr,
            delay_since_last_sr,
        }
    }

    /// Packets that never came so far.
    pub(crate) fn lost(&self) -> u64 {
        match (self.first, self.newest()) {
            (Some(first), Some(newest)) => {
                (newest.saturating_sub(first) + 1).saturating_sub(self.received)
            }
            _ => 0,
        }
    }
}

impl RtpReceiver {
    pub(crate) fn new(id: TrackId, origin: Origin, config: ReceiverConfig) -> Self {
        let mut receiver = Self {
            id,
            origin,
            kinds: Vec::new(),
            encodings: Vec::new(),
            views: Vec::new(),
            senders: Vec::new(),
            is_muted: false,
            newest_codec: 0,
            has_variants: false,
            before: None,
            level: LevelWindow::default(),
            level_report: None,
            counts: TrackCounts::default(),
            rates: LayerRates::new(),
            config,
        };
        receiver.configure();
        receiver
    }

    /// Replaces the configuration; encodings that are announced again go on.
    pub(crate) fn update(&mut self, config: ReceiverConfig) {
        self.config = config;
        self.configure();
    }

    fn configure(&mut self) {
        self.kinds = self
            .config
            .codecs
            .iter()
            .map(|codec| CodecKind::from_mime(&codec.mime))
            .collect();
        let mut old = std::mem::take(&mut self.encodings);
        let old_views = std::mem::take(&mut self.views);
        let mut announced = self.config.encodings.clone();
        if announced.is_empty() {
            announced.push(crate::command::Encoding {
                spatial_layer: 0,
                rid: None,
                ssrc: None,
                rtx_ssrc: None,
            });
        }
        let mut old_views: Vec<Option<EncodingView>> = old_views.into_iter().map(Some).collect();
        for encoding in announced {
            let kept = old.iter().zip(&old_views).position(|(stream, view)| {
                view.is_some()
                    && stream.spatial_layer == encoding.spatial_layer
                    && stream.rid == encoding.rid
                    && (encoding.ssrc.is_none() || encoding.ssrc == stream.ssrc)
            });
            let fresh = || {
                RtpStream::new(
                    encoding.spatial_layer,
                    encoding.rid.clone(),
                    encoding.ssrc,
                    encoding.rtx_ssrc,
                )
            };
            let (stream, view) = match kept {
                Some(index) => {
                    let mut stream = std::mem::replace(&mut old[index], fresh());
                    stream.rtx_ssrc = encoding.rtx_ssrc.or(stream.rtx_ssrc);
                    (stream, old_views[index].take())
                }
                None => (fresh(), None),
            };
            self.views.push(view.unwrap_or(EncodingView {
                spatial: encoding.spatial_layer,
                active: false,
                clock: None,
            }));
            self.encodings.push(stream);
        }
    }

    /// Totals, and the bitrate since the last call at least a second ago.
    pub(crate) fn stats(&mut self, now: Instant) -> TrackStats {
        let counts = &mut self.counts;
        match counts.rate {
            Some((bytes, at)) => {
                let elapsed = now.saturating_duration_since(at).as_secs_f64();
                if elapsed >= 0.9 {
                    counts.bitrate_bps = ((counts.bytes - bytes) as f64 * 8.0 / elapsed) as u64;
                    counts.rate = Some((counts.bytes, now));
                }
            }
            None => counts.rate = Some((counts.bytes, now)),
        }
        let clock_rate = f64::from(self.clock_rate().max(1));
        let jitter = self
            .encodings
            .iter()
            .map(RtpStream::jitter)
            .max()
            .unwrap_or(0);
        TrackStats {
            track: self.id,
            packets: self.counts.packets,
            bytes: self.counts.bytes,
            lost: self.encodings.iter().map(RtpStream::lost).sum(),
            jitter: f64::from(jitter) / clock_rate,
            nacks_sent: self.counts.nacks_sent,
            keyframe_requests_sent: self.counts.keyframe_requests_sent,
            bitrate_bps: self.counts.bitrate_bps,
        }
    }

    /// Clock rate of a codec, or of the first.
    pub(crate) fn clock_rate(&self) -> u32 {
        self.config
            .codecs
            .first()
            .map_or(90_000, |codec| codec.clock_rate)
    }

    pub(crate) fn is_video(&self) -> bool {
        self.config.kind == TrackKind::Video
    }

    /// Puts a point on an encoding's clock by arrival, unless a report gave a better one.
    pub(crate) fn note_arrival(&mut self, encoding: usize, timestamp: u32, wall_ns: u64) {
        if let Some(view) = self.views.get_mut(encoding)
            && !view.clock.is_some_and(|clock| clock.reported)
        {
            view.clock = Some(ClockPoint {
                wall_ns,
                rtp: timestamp,
                reported: false,
            });
        }
    }
}

/// Reads from a payload what forwarding needs.
pub(crate) fn describe(packet: &mut PublishedPacket) {
    packet.vp8 = None;
    packet.vp9 = None;
    packet.temporal = 0;
    packet.keyframe = true;
    packet.frame_start = true;
    if packet.payload.is_empty() {
        packet.keyframe = false;
        packet.frame_start = false;
        return;
    }
    match packet.kind {
        CodecKind::Opus | CodecKind::Red | CodecKind::Other => {}
        CodecKind::Vp8 => {
            packet.keyframe = false;
            packet.frame_start = false;
            if let Some(vp8) = vp8::parse_vp8(&packet.payload) {
                packet.keyframe = vp8.keyframe;
                packet.frame_start = vp8.start_of_frame;
                packet.temporal = vp8.tid.unwrap_or(0);
                packet.vp8 = Some(vp8);
            }
        }
        CodecKind::Vp9 => {
            packet.keyframe = false;
            packet.frame_start = false;
            if let Some(vp9) = vp9::parse_vp9(&packet.payload) {
                packet.keyframe = vp9.is_keyframe();
                packet.frame_start = vp9.start_of_frame;
                packet.temporal = vp9.layer.map_or(0, |layer| layer.temporal);
                packet.vp9 = Some(vp9);
            }
        }
        CodecKind::H265 => packet.keyframe = h265::is_keyframe(&packet.payload),
        CodecKind::H264 => packet.keyframe = h264::is_keyframe(&packet.payload),
        CodecKind::Av1 => packet.keyframe = av1::is_keyframe(&packet.payload),
    }
    // The descriptor is in the clear even where the payload is not.
    if let Some(frame) = &packet.frame {
        packet.frame_start = frame.starts;
        packet.keyframe = frame.has_structure;
        packet.temporal = frame.layers.as_ref().map_or(0, |layers| layers.temporal);
    }
}

impl Shard {
    /// The inbound list: srtp → rtp → transport-cc arrival → router → (rtx unwrap) → duplicates, nack, level → codec
    /// → publish.
    pub(crate) fn receive_rtp(
        &mut self,
        now: Instant,
        slot: usize,
        packet: &mut [u8],
    ) -> Result<(), Dropped> {
        let wall_ns = self.wall_ns(now);
        let peer = self
            .peers
            .get_mut(slot)
            .and_then(Option::as_mut)
            .ok_or(Dropped::Unrouted)?;

        // rtp header, which is in the clear
        let mut header =
            RtpHeader::parse(packet, &peer.extensions).map_err(|_| Dropped::Malformed)?;

        // srtp
        let srtp = peer.srtp_in.as_mut().ok_or(Dropped::NoKeys)?;
        let (length, _) = srtp
            .open_rtp(packet, header.header_len, header.ssrc, header.sequence)
            .map_err(|error| match error {
                SrtpError::Replay => Dropped::Duplicate,
                _ => Dropped::Unauthenticated,
            })?;
        let packet = packet.get(..length).ok_or(Dropped::Malformed)?;
        let payload_len = header
            .read_padding(packet)
            .map_err(|_| Dropped::Malformed)?;
        let mut payload = packet
            .get(header.header_len..header.header_len + payload_len)
            .ok_or(Dropped::Malformed)?;
        if peer
            .heard
            .is_none_or(|heard| now.saturating_duration_since(heard) >= REPORT_INTERVAL)
        {
            peer.heard = Some(now);
            peer.transport.note_authenticated(now);
        }

        // transport-cc arrival
        if let Some(number) = header.extensions.transport_cc {
            peer.arrivals.on_packet(number, now);
            peer.media_ssrc = header.ssrc;
            if let Some(due) = peer.arrivals.next_timeout() {
                peer.wake_at(due);
            }
        }

        // router
        let route = match peer.router.known(header.ssrc) {
            Some(route) => route,
            None => {
                let tracks = peer.tracks.iter().filter_map(|&track| {
                    self.tracks
                        .get(track)
                        .and_then(Option::as_ref)
                        .map(|receiver| (track, &receiver.config))
                });
                let route = Router::resolve(&header, tracks).ok_or(Dropped::Unrouted)?;
                peer.router.learn(header.ssrc, route);
                route
            }
        };
        let track = self
            .tracks
            .get_mut(route.track)
            .and_then(Option::as_mut)
            .ok_or(Dropped::Unrouted)?;
        let stream = track
            .encodings
            .get_mut(route.encoding)
            .ok_or(Dropped::Unrouted)?;
        track.counts.packets += 1;
        track.counts.bytes += length as u64;

        // rtx unwrap (RFC 4588 section 4), duplicates, nack
        let (codec, sequence);
        let newest_before = stream.newest();
        if route.is_repair {
            stream.rtx_ssrc = Some(header.ssrc);
            let (original, rest) = payload.split_first_chunk::<2>().ok_or(Dropped::Padding)?;
            payload = rest;
            codec = track
                .config
                .codecs
                .iter()
                .position(|codec| codec.rtx_payload_type == Some(header.payload_type))
                .ok_or(Dropped::Unrouted)?;
            sequence = stream
                .accept_repair(u16::from_be_bytes(*original))
                .ok_or(Dropped::Duplicate)?;
        } else {
            codec = track
                .config
                .codecs
                .iter()
                .position(|codec| codec.payload_type == header.payload_type)
                .ok_or(Dropped::Unrouted)?;
            if stream.ssrc != Some(header.ssrc) && stream.last_arrival.is_some() {
                stream.restart(header.ssrc);
                if let Some(view) = track.views.get_mut(route.encoding) {
                    view.clock = None;
                }
            }
            stream.ssrc = Some(header.ssrc);
            let clock_rate = track
                .config
                .codecs
                .get(codec)
                .map_or(90_000, |codec| codec.clock_rate);
            sequence = stream
                .accept(&header, clock_rate, now, wall_ns)
                .ok_or(Dropped::Duplicate)?;
            if track
                .config
                .codecs
                .get(codec)
                .is_some_and(|codec| codec.nack)
                && stream.nack.missing() > 0
            {
                peer.wake_at(now + NackGenerator::REORDER_TOLERANCE);
            }
            track.note_arrival(route.encoding, header.timestamp, wall_ns);
        }
        if peer.next_report.is_none() {
            peer.next_report = Some(now + REPORT_INTERVAL);
            peer.wake_at(now + REPORT_INTERVAL);
        }

        track.newest_codec = codec;

        // encoding begins
        let is_new = track
            .views
            .get_mut(route.encoding)
            .is_some_and(|view| !std::mem::replace(&mut view.active, true));
        if is_new {
            let stream = &track.encodings[route.encoding];
            self.events.push_back(Event::EncodingStarted {
                track: track.id,
                spatial_layer: stream.spatial_layer,
                rid: stream.rid.clone(),
                ssrc: stream.ssrc.unwrap_or(header.ssrc),
                mime: track
                    .config
                    .codecs
                    .get(codec)
                    .map_or_else(String::new, |codec| codec.mime.clone()),
            });
        }

        // level
        if track.config.measure_level
            && let Some(level) = header.extensions.audio_level
            && let Some(report) = track.level.observe(level.level, now)
        {
            track.level_report = Some(report);
        }

        // probe
        if track.config.probe
            && let Some(made) = source::read_stamp(payload)
        {
            let latency = now
                .saturating_duration_since(self.config.epoch)
                .saturating_sub(made);
            let decades = (latency.as_micros().max(1) as f64).log10();
            let bin = ((decades * 10.0) as usize).min(LATENCY_BINS - 1);
            self.probe_latency_us[bin] += 1;
        }

        // codec
        let kind = track.kinds[codec];
        let stream = &mut track.encodings[route.encoding];
        let (mut descriptor, mut frame) = (&[][..], None);
        if let Some(place) = header.extensions.dependency_descriptor {
            descriptor = place.slice(packet);
            // Read without anybody to send it to, too: the structure comes with keyframes only.
            if kind != CodecKind::Vp8 {
                frame = stream.descriptors.read(descriptor, sequence);
            }
        }
        if !track.senders.is_empty() {
            let generation = stream.generation;
            let stream_layer = stream.spatial_layer;
            // red: what was lost before, this packet brings again
            let mut recovered = Vec::new();
            if kind == CodecKind::Red
                && newest_before.is_some_and(|newest| sequence > newest + 1)
                && let Some(stream) = track.encodings.get_mut(route.encoding)
            {
                recovered = recover(payload, sequence, header.timestamp);
                recovered.retain(|lost| {
                    newest_before.is_some_and(|newest| lost.0 > newest)
                        && stream.accept_recovered(lost.0)
                });
            }
            for (sequence, timestamp, payload) in recovered {
                let published = self.pool.make(now, |fresh| {
                    fresh.encoding = route.encoding as u8;
                    fresh.generation = generation;
                    fresh.codec = codec as u8;
                    fresh.kind = kind;
                    fresh.sequence = sequence;
                    fresh.timestamp = timestamp;
                    fresh.marker = false;
                    fresh.arrival = now;
                    fresh.extensions = header.extensions;
                    fresh.descriptor.clear();
                    fresh.frame = None;
                    fresh.payload = payload;
                    describe(fresh);
                });
                self.counters.recovered += 1;
                self.publish(route.track, &published, wall_ns);
            }
            let published = self.pool.make(now, |fresh| {
                fresh.encoding = route.encoding as u8;
                fresh.generation = generation;
                fresh.codec = codec as u8;
                fresh.kind = kind;
                fresh.sequence = sequence;
                fresh.timestamp = header.timestamp;
                fresh.marker = header.marker;
                fresh.arrival = now;
                fresh.extensions = header.extensions;
                fresh.descriptor.clear();
                fresh.descriptor.extend_from_slice(descriptor);
                fresh.frame = frame;
                fresh.payload.clear();
                fresh.payload.extend_from_slice(payload);
                describe(fresh);
            });
            let (spatial, temporal) = published.layers(stream_layer);
            if let Some(track) = self.tracks.get_mut(route.track).and_then(Option::as_mut) {
                track.rates.add(spatial, temporal, payload.len());
            }

            // publish
            if is_new {
                self.retarget_senders(route.track, now);
            }
            self.publish(route.track, &published, wall_ns);
        }
        Ok(())
    }

    /// Hands one packet to every sender of its track.
    pub(crate) fn publish(&mut self, slot: usize, packet: &Arc<PublishedPacket>, wall_ns: u64) {
        let Self {
            tracks,
            senders,
            peers,
            dirty,
            counters,
            events,
            pool,
            ..
        } = self;
        let Some(track) = tracks.get(slot).and_then(Option::as_ref) else {
            return;
        };
        if track.is_muted {
            counters.muted += 1;
            return;
        }
        let mut variants = track
            .has_variants
            .then(|| Variants::new(packet, track.before.as_ref(), pool));
        for &at in &track.senders {
            let Some(sender) = senders.get_mut(at).and_then(Option::as_mut) else {
                continue;
            };
            let Some(peer) = peers.get_mut(sender.pc).and_then(Option::as_mut) else {
                continue;
            };
            if peer.srtp_out.is_none() {
                counters.not_connected += 1;
                continue;
            }
            let packet = match &mut variants {
                Some(variants) => variants.pick(sender, pool),
                None => packet,
            };
            if !sender.accepts(packet) {
                counters.codec_not_accepted += 1;
                continue;
            }
            match sender.forwarder.forward(packet, &track.views, wall_ns) {
                Ok(rewrite) => {
                    RtpSender::enqueue(at, packet, rewrite, &mut peer.outbox);
                    if !peer.is_dirty {
                        peer.is_dirty = true;
                        dirty.push(sender.pc);
                    }
                }
                Err(withheld) => counters.count_withheld(withheld),
            }
            if packet.frame_start
                && let Some((spatial_layer, temporal_layer)) =
                    sender.forwarder.take_layer_change(&track.views)
            {
                events.push_back(Event::LayerChanged {
                    sender: sender.id,
                    spatial_layer,
                    temporal_layer,
                });
            }
        }
        if variants.is_some()
            && packet.kind == CodecKind::Opus
            && let Some(track) = tracks.get_mut(slot).and_then(Option::as_mut)
            && track.before.as_ref().is_none_or(|before| {
                before.generation != packet.generation || before.sequence < packet.sequence
            })
        {
            track.before = Some(Arc::clone(packet));
        }
    }
}

/// What a RED payload brings of the packets before it, oldest first: number, timestamp, and payload with one block.
fn recover(payload: &[u8], sequence: u64, timestamp: u32) -> Vec<(u64, u32, Vec<u8>)> {
    let mut blocks = Vec::new();
    if red::for_each_block(payload, |block| blocks.push(block)).is_none() {
        return Vec::new();
    }
    let primary = blocks.len() - 1;
    let lost = blocks.iter().take(primary).enumerate();
    lost.filter(|(_, block)| !block.data.is_empty())
        .map(|(index, block)| {
            let mut payload = Vec::new();
            red::write(block.payload_type, block.data, None, 0, &mut payload);
            (
                sequence - (primary - index) as u64,
                timestamp.wrapping_sub(u32::from(block.timestamp_offset)),
                payload,
            )
        })
        .collect()
}

/// One packet as different senders want it; what nobody wants is not made.
struct Variants<'a> {
    packet: &'a Arc<PublishedPacket>,
    /// Without its trailer, if it has one.
    stripped: Option<Arc<PublishedPacket>>,
    /// The Opus packet before it.
    before: Option<&'a Arc<PublishedPacket>>,
    /// As RED, by the payload type of its blocks.
    red: Vec<(u8, Arc<PublishedPacket>)>,
}

impl<'a> Variants<'a> {
    /// Payload bytes of RED made here.
    const RED_BYTES: usize = 1_100;

    fn new(
        packet: &'a Arc<PublishedPacket>,
        before: Option<&'a Arc<PublishedPacket>>,
        pool: &mut PacketPool,
    ) -> Self {
        let is_trailed = trailer::trailer_len(&packet.payload) != 0;
        let stripped = is_trailed.then(|| {
            pool.make(packet.arrival, |fresh| {
                fresh.clone_from(packet);
                trailer::strip(packet.kind.video(), &mut fresh.payload);
            })
        });
        Self {
            packet,
            stripped,
            before,
            red: Vec::new(),
        }
    }

    fn pick(&mut self, sender: &RtpSender, pool: &mut PacketPool) -> &Arc<PublishedPacket> {
        if sender.config.strip_trailer
            && let Some(stripped) = &self.stripped
        {
            return stripped;
        }
        let packet = self.packet;
        let Some(payload_type) = sender
            .red_blocks()
            .filter(|_| packet.kind == CodecKind::Opus && !packet.payload.is_empty())
        else {
            return packet;
        };
        let made = self
            .red
            .iter()
            .position(|(known, _)| *known == payload_type);
        let at = made.unwrap_or_else(|| {
            let before = self.before.filter(|before| {
                before.sequence < packet.sequence
                    && (before.encoding, before.generation) == (packet.encoding, packet.generation)
            });
            let before = before.map(|before| {
                let offset = packet.timestamp.wrapping_sub(before.timestamp);
                (offset, before.payload.as_slice())
            });
            let red = pool.make(packet.arrival, |fresh| {
                fresh.clone_from(packet);
                fresh.kind = CodecKind::Red;
                fresh.codec = PublishedPacket::MADE_RED;
                fresh.payload.clear();
                let limit = Self::RED_BYTES;
                red::write(
                    payload_type,
                    &packet.payload,
                    before,
                    limit,
                    &mut fresh.payload,
                );
            });
            self.red.push((payload_type, red));
            self.red.len() - 1
        });
        &self.red[at].1
    }
}

/// Which of the newest 1,024 numbers were here already.
#[derive(Debug)]
struct SeenWindow {
    newest: Option<u64>,
    bits: [u64; Self::WORDS],
}

impl Default for SeenWindow {
    fn default() -> Self {
        Self {
            newest: None,
            bits: [0; Self::WORDS],
        }
    }
}

impl SeenWindow {
    const WORDS: usize = 16;
    const SIZE: u64 = 64 * Self::WORDS as u64;

    /// False: it was here, or is too old to tell.
    fn insert(&mut self, sequence: u64) -> bool {
        let place = |sequence: u64| {
            (
                (sequence % Self::SIZE / 64) as usize,
                1_u64 << (sequence % 64),
            )
        };
        match self.newest {
            None => self.newest = Some(sequence),
            Some(newest) if sequence > newest => {
                if sequence - newest >= Self::SIZE {
                    self.bits = [0; Self::WORDS];
                } else {
                    for skipped in newest + 1..sequence {
                        let (word, bit) = place(skipped);
                        self.bits[word] &= !bit;
                    }
                }
                let (word, bit) = place(sequence);
                self.bits[word] &= !bit;
                self.newest = Some(sequence);
            }
            Some(newest) if newest - sequence >= Self::SIZE => return false,
            Some(_) => {}
        }
        let (word, bit) = place(sequence);
        let is_new = self.bits[word] & bit == 0;
        self.bits[word] |= bit;
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::SeenWindow;

    #[test]
    fn a_number_is_new_once_and_only_within_the_window() {
        let mut seen = SeenWindow::default();
        assert!(seen.insert(70_000));
        assert!(!seen.insert(70_000));
        assert!(seen.insert(69_990));
        assert!(seen.insert(70_500));
        assert!(seen.insert(70_200));
        assert!(!seen.insert(70_200));
        assert!(seen.insert(71_600));
        assert!(!seen.insert(70_500), "fell out of the window");
        assert!(seen.insert(71_599));
    }
}
