//! One thread's worth of the engine: peer connections, tracks and senders, and what moves between them.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::command::{
    Codec, Command, PeerConnectionConfig, ReceiverConfig, RemoteTransport, SenderConfig,
    SourceConfig, TrackKind,
};
use crate::event::Event;
use crate::forward::{ClockPoint, Forwarder, ForwarderState, Wish};
use crate::ids::{PcId, SenderId, TrackId};
use crate::nack::NackGenerator;
use crate::packet::extensions::ExtensionIds;
use crate::packet::rtcp::{self, ReportBlock, Rtcp, RtcpPackets};
use crate::packet::rtp::{RtpHeader, is_rtcp};
use crate::packet::stun;
use crate::peer::{MAX_ADDRESSES, Peer};
use crate::published::{PacketPool, PublishedPacket};
use crate::receive::{self, Origin, RtpReceiver, STALLED_AFTER, STOPPED_AFTER};
use crate::router::{Route, Router};
use crate::rtx::RtxCache;
use crate::send::{RtpSender, Way};
use crate::source::{self, Source};
use crate::srtp::{SrtpError, keys_from_exporter};
use crate::stats::{Counters, Dropped, PeerConnectionStats, Stats, transport_rows};
use crate::transport::{
    DtlsIdentity, LocalAddress, PeerTransport, Protocol, TransportConfig, TransportOutput,
    candidate_lines,
};

/// How a shard is made.
pub struct ShardConfig {
    /// The process's certificate.
    pub identity: Arc<DtlsIdentity>,
    /// Sockets the driver opened.
    pub locals: Vec<LocalAddress>,
    /// Start of every random number: SSRCs of reports, first sequence numbers.
    pub seed: u64,
    /// Window of `AudioLevels`.
    pub level_interval: Duration,
    /// More are rejected.
    pub max_peer_connections: usize,
    /// The instant sources count their time stamps from; the same for every shard of a process.
    pub epoch: Instant,
    /// Wall clock at `epoch`, since 1970, for sender reports.
    pub epoch_unix: Duration,
}

/// Datagrams to one destination, ready for `UDP_SEGMENT`.
#[derive(Debug, PartialEq, Eq)]
pub struct Transmit {
    /// From which socket.
    pub socket: usize,
    /// To whom.
    pub destination: SocketAddr,
    /// At most 64 segments and 64,000 bytes.
    pub data: Vec<u8>,
    /// Every segment has this size, only the last may be shorter.
    pub segment_size: u16,
}

/// One thread's worth of the engine.
///
/// Mutate (`handle_*`), `flush` at the end of an input batch, then drain (`poll_*`).
pub struct Shard {
    pub(crate) config: ShardConfig,
    pub(crate) random: fastrand::Rng,
    pub(crate) peers: Vec<Option<Peer>>,
    pub(crate) tracks: Vec<Option<RtpReceiver>>,
    pub(crate) senders: Vec<Option<RtpSender>>,
    pub(crate) peer_slots: HashMap<PcId, usize>,
    pub(crate) track_slots: HashMap<TrackId, usize>,
    pub(crate) sender_slots: HashMap<SenderId, usize>,
    /// Authenticated sources.
    addresses: HashMap<(usize, SocketAddr), usize>,
    ufrags: HashMap<String, usize>,
    timers: BinaryHeap<Reverse<(Instant, Timer)>>,
    next_tick: Instant,
    next_levels: Instant,
    dirty: Vec<usize>,
    pool: PacketPool,
    buffers: Vec<Vec<u8>>,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
    pub(crate) counters: Counters,
    probe_latency_us: Vec<u64>,
    scratch_numbers: Vec<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// Slot of a peer connection.
    Peer(usize),
    /// Slot of a track that is made here.
    Source(usize),
}

/// How often slow things are looked at: stalled encodings, waiting keyframe requests, layer choice.
const TICK: Duration = Duration::from_millis(100);
/// Receiver reports this often.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Sender reports this often.
pub(crate) const SENDER_REPORT_INTERVAL: Duration = Duration::from_secs(3);
/// A lowest encoding is asked for a keyframe at most this often, ...
const KEYFRAME_INTERVAL_LOW: Duration = Duration::from_millis(500);
/// ... any other this often.
const KEYFRAME_INTERVAL: Duration = Duration::from_secs(1);
/// Control packets of one flush are cut into datagrams of about this size.
const RTCP_BYTES: usize = 1100;
/// Repair memory in packets.
const VIDEO_MEMORY: usize = 256;
const AUDIO_MEMORY: usize = 32;
const MEMORY_AGE: Duration = Duration::from_secs(2);
/// Repairs sent for one NACK.
const MAX_REPAIRS: usize = 512;
/// Buffers kept for later runs.
const MAX_BUFFERS: usize = 1024;
/// Bins of the probe's histogram.
const LATENCY_BINS: usize = 80;

impl Shard {
    /// Makes an empty shard.
    pub fn new(config: ShardConfig, now: Instant) -> Self {
        Self {
            random: fastrand::Rng::with_seed(config.seed),
            peers: Vec::new(),
            tracks: Vec::new(),
            senders: Vec::new(),
            peer_slots: HashMap::new(),
            track_slots: HashMap::new(),
            sender_slots: HashMap::new(),
            addresses: HashMap::new(),
            ufrags: HashMap::new(),
            timers: BinaryHeap::new(),
            next_tick: now + TICK,
            next_levels: now + config.level_interval,
            dirty: Vec::new(),
            pool: PacketPool::default(),
            buffers: Vec::new(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
            probe_latency_us: vec![0; LATENCY_BINS],
            scratch_numbers: Vec::new(),
            config,
        }
    }

    // ------------------------------------------------------------------------------------------- datagrams in

    /// Takes one datagram; the buffer is decrypted in place. Hostile bytes are dropped and counted.
    ///
    /// What it is, its first byte says (RFC 7983). Only STUN is taken from unknown addresses.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        socket: usize,
        source: SocketAddr,
        packet: &mut [u8],
    ) {
        self.counters.packets_in += 1;
        let first = packet.first().copied().unwrap_or(u8::MAX);
        if first <= 3 {
            return self.receive_stun(now, socket, source, packet);
        }
        let Some(&slot) = self.addresses.get(&(socket, source)) else {
            self.counters.address_unknown += 1;
            return;
        };
        let Some(peer) = self.peers.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        peer.packets_in += 1;
        match first {
            20..=63 => {
                peer.transport.handle_dtls(now, packet);
                self.drain_transport(slot, now);
            }
            128..=191 if is_rtcp(packet) => self.receive_rtcp(now, slot, packet),
            128..=191 => {
                if let Err(reason) = self.receive_rtp(now, slot, packet) {
                    self.counters.count_dropped(reason);
                }
                self.schedule(slot);
            }
            _ => self.counters.datagram_unknown += 1,
        }
    }

    fn receive_stun(&mut self, now: Instant, socket: usize, source: SocketAddr, packet: &[u8]) {
        let by_name = stun::local_ufrag(packet).map(|ufrag| self.ufrags.get(ufrag).copied());
        let slot = match by_name {
            Some(None) => None,
            Some(Some(slot)) => Some(slot),
            None => self.addresses.get(&(socket, source)).copied(),
        };
        if let Some(slot) = slot {
            if let Some(peer) = self.peers.get_mut(slot).and_then(Option::as_mut) {
                peer.packets_in += 1;
                peer.transport.handle_stun(now, socket, source, packet);
                self.drain_transport(slot, now);
            }
            return;
        }
        if by_name.is_none() && stun::is_stun(packet) {
            // An answer to a check of ours from an address not known yet: only full agents send checks.
            for slot in 0..self.peers.len() {
                let Some(peer) = self.peers[slot].as_mut() else {
                    continue;
                };
                if peer.is_lite || peer.own_socket.is_some_and(|own| own != socket) {
                    continue;
                }
                let rejected = |peer: &Peer| {
                    let counters = peer.transport.counters();
                    counters.stun_malformed
                        + counters.stun_unauthenticated
                        + counters.stun_unexpected
                };
                let before = rejected(peer);
                peer.transport.handle_stun(now, socket, source, packet);
                let is_taken = rejected(peer) == before;
                self.drain_transport(slot, now);
                if is_taken {
                    return;
                }
            }
        }
        self.counters.stun_unknown += 1;
    }

    /// The inbound list: srtp → rtp → transport-cc arrival → router → (rtx unwrap) → duplicates, nack, level → codec
    /// → publish.
    fn receive_rtp(&mut self, now: Instant, slot: usize, packet: &mut [u8]) -> Result<(), Dropped> {
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
        if !track.senders.is_empty() {
            let descriptor = header
                .extensions
                .dependency_descriptor
                .map_or(&[][..], |place| place.slice(packet));
            let (kind, generation) = (
                track.kinds[codec],
                track.encodings[route.encoding].generation,
            );
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
                fresh.payload.clear();
                fresh.payload.extend_from_slice(payload);
                receive::describe(fresh);
            });

            // publish
            if is_new {
                self.retarget_senders(route.track, now);
            }
            self.publish(route.track, &published, wall_ns);
        }
        Ok(())
    }

    /// Hands one packet to every sender of its track.
    fn publish(&mut self, slot: usize, packet: &Arc<PublishedPacket>, wall_ns: u64) {
        let Self {
            tracks,
            senders,
            peers,
            dirty,
            counters,
            events,
            ..
        } = self;
        let Some(track) = tracks.get(slot).and_then(Option::as_ref) else {
            return;
        };
        if track.is_muted {
            counters.muted += 1;
            return;
        }
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
    }

    // ----------------------------------------------------------------------------------------------- RTCP in

    fn receive_rtcp(&mut self, now: Instant, slot: usize, packet: &mut [u8]) {
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

    fn receive_control(&mut self, now: Instant, wall_ns: u64, slot: usize, part: Rtcp<'_>) {
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
    fn note_goodbye(&mut self, now: Instant, slot: usize, ssrc: u32) {
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

    fn sender_by_ssrc(&self, slot: usize, ssrc: u32) -> Option<usize> {
        let peer = self.peers.get(slot)?.as_ref()?;
        peer.senders.iter().copied().find(|&at| {
            self.senders
                .get(at)
                .and_then(Option::as_ref)
                .is_some_and(|sender| sender.config.ssrc == ssrc)
        })
    }

    /// Notes a sender report of what we receive: a point on the encoding's clock.
    fn note_sender_report(
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
    fn note_report_block(&mut self, now: Instant, slot: usize, block: &ReportBlock) {
        let Some(at) = self.sender_by_ssrc(slot, block.ssrc) else {
            return;
        };
        let Some(sender) = self.senders.get_mut(at).and_then(Option::as_mut) else {
            return;
        };
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

    fn repair(&mut self, now: Instant, slot: usize, ssrc: u32, lost: impl Iterator<Item = u16>) {
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
    fn subscriber_wants_keyframe(&mut self, now: Instant, slot: usize, ssrc: u32) {
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
    fn ask_keyframe(&mut self, now: Instant, slot: usize, encoding: usize) {
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

    // ------------------------------------------------------------------------------------------------- timers

    /// Does what is due. Calling too early does nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&Reverse((at, timer))) = self.timers.peek() {
            if at > now {
                break;
            }
            self.timers.pop();
            match timer {
                Timer::Peer(slot) => {
                    let Some(peer) = self.peers.get_mut(slot).and_then(Option::as_mut) else {
                        continue;
                    };
                    if peer.scheduled != Some(at) {
                        continue;
                    }
                    peer.scheduled = None;
                    self.peer_timeout(slot, now);
                }
                Timer::Source(slot) => self.make_frame(slot, at, now),
            }
        }
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            self.tick(now);
        }
        if now >= self.next_levels {
            self.next_levels = now + self.config.level_interval;
            self.report_levels(now);
        }
    }

    /// When `handle_timeout` is due at the latest.
    pub fn poll_timeout(&self) -> Instant {
        let timer = self.timers.peek().map(|Reverse((at, _))| *at);
        let regular = self.next_tick.min(self.next_levels);
        timer.map_or(regular, |timer| timer.min(regular))
    }

    fn peer_timeout(&mut self, slot: usize, now: Instant) {
        let Some(peer) = self.peers.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        if peer.transport.poll_timeout().is_some_and(|due| due <= now) {
            peer.transport.handle_timeout(now);
            self.drain_transport(slot, now);
        }
        let Some(peer) = self.peers.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        if peer.rtp_due.is_some_and(|due| due <= now) {
            peer.rtp_due = None;
            self.rtp_timeout(slot, now);
        }
        self.schedule(slot);
    }

    /// Feedback that is due on one peer connection: transport-cc, NACK, reports.
    fn rtp_timeout(&mut self, slot: usize, now: Instant) {
        let wall_ns = self.wall_ns(now);
        let Some(peer) = self.peers.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        let is_reporting = peer.next_report.is_some_and(|due| due <= now);
        if is_reporting {
            peer.next_report = Some(now + REPORT_INTERVAL);
        }
        if peer.srtp_out.is_none() {
            if let Some(due) = peer.next_report {
                peer.wake_at(due);
            }
            return;
        }
        let ssrc = peer.ssrc;
        let before = peer.rtcp.len();
        peer.arrivals
            .poll(now, ssrc, peer.media_ssrc, &mut peer.rtcp);
        let rtt = peer.repair_rtt();
        let mut due = peer.arrivals.next_timeout();
        let mut blocks = Vec::new();
        let mut lost_for_good = Vec::new();
        for &at in &peer.tracks {
            let Some(track) = self.tracks.get_mut(at).and_then(Option::as_mut) else {
                continue;
            };
            let is_nack = track.config.codecs.iter().any(|codec| codec.nack);
            for (index, stream) in track.encodings.iter_mut().enumerate() {
                let Some(media) = stream.ssrc else { continue };
                if is_nack {
                    self.scratch_numbers.clear();
                    stream.nack.poll(now, rtt, &mut self.scratch_numbers);
                    if !self.scratch_numbers.is_empty() {
                        rtcp::write_nack(&mut peer.rtcp, ssrc, media, &self.scratch_numbers);
                        track.counts.nacks_sent += self.scratch_numbers.len() as u64;
                    }
                    due = [due, stream.nack.next_timeout(rtt)]
                        .into_iter()
                        .flatten()
                        .min();
                }
                if stream.nack.keyframe_needed() {
                    lost_for_good.push((at, index));
                }
                if is_reporting && stream.last_arrival.is_some() {
                    blocks.push(stream.report_block(media, now));
                }
            }
        }
        if is_reporting {
            for chunk in blocks.chunks(31) {
                rtcp::write_receiver_report(&mut peer.rtcp, ssrc, chunk);
            }
            for &at in &peer.senders {
                let Some(sender) = self.senders.get_mut(at).and_then(Option::as_mut) else {
                    continue;
                };
                let views = sender
                    .track
                    .and_then(|track| self.tracks.get(track))
                    .and_then(Option::as_ref);
                sender.report(
                    now,
                    wall_ns,
                    views.map_or(&[], |track| &track.views),
                    &mut peer.rtcp,
                );
            }
        }
        let next = [due, peer.next_report].into_iter().flatten().min();
        if let Some(next) = next {
            peer.wake_at(next);
        }
        if peer.rtcp.len() != before {
            Self::mark_dirty(peer, slot, &mut self.dirty);
        }
        for (track, encoding) in lost_for_good {
            self.ask_keyframe(now, track, encoding);
        }
    }

    /// Sets the timer of a peer connection if it must run earlier than it is set for.
    pub(crate) fn schedule(&mut self, slot: usize) {
        let Some(peer) = self.peers.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        let due = match (peer.transport_due, peer.rtp_due) {
            (Some(a), Some(b)) => a.min(b),
            (Some(due), None) | (None, Some(due)) => due,
            (None, None) => return,
        };
        if peer.scheduled.is_none_or(|at| due < at) {
            peer.scheduled = Some(due);
            self.timers.push(Reverse((due, Timer::Peer(slot))));
        }
    }

    fn make_frame(&mut self, slot: usize, at: Instant, now: Instant) {
        let wall_ns = self.wall_ns(now);
        let Some(track) = self.tracks.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        let Origin::Made(source) = &mut track.origin else {
            return;
        };
        if source.next_frame != at {
            return;
        }
        let is_keyframe = source.begin_frame(now);
        let packets = source.packets_per_frame();
        let rtp = source.timestamp();
        self.timers
            .push(Reverse((source.next_frame, Timer::Source(slot))));
        if let Some(view) = track.views.first_mut() {
            view.clock = Some(ClockPoint {
                wall_ns,
                rtp,
                reported: true,
            });
        }
        if let Some(stream) = track.encodings.first_mut() {
            stream.last_arrival = Some(now);
        }
        for index in 0..packets {
            let Some(track) = self.tracks.get_mut(slot).and_then(Option::as_mut) else {
                return;
            };
            let Origin::Made(source) = &mut track.origin else {
                return;
            };
            let epoch = self.config.epoch;
            let packet = self.pool.make(now, |fresh| {
                source.fill(fresh, index, is_keyframe, now, epoch)
            });
            track.counts.packets += 1;
            track.counts.bytes += packet.payload.len() as u64;
            self.publish(slot, &packet, wall_ns);
        }
    }

    /// Looks at what changes slowly.
    fn tick(&mut self, now: Instant) {
        for slot in 0..self.tracks.len() {
            let Some(track) = self.tracks[slot].as_mut() else {
                continue;
            };
            let is_received = matches!(track.origin, Origin::Received(_));
            let mut wanted = Vec::new();
            for (index, (stream, view)) in
                track.encodings.iter_mut().zip(&mut track.views).enumerate()
            {
                if stream.is_keyframe_wanted {
                    wanted.push(index);
                }
                let silence = stream
                    .last_arrival
                    .map(|at| now.saturating_duration_since(at));
                if is_received
                    && view.active
                    && silence.is_none_or(|silence| silence >= STOPPED_AFTER)
                {
                    view.active = false;
                    self.events.push_back(Event::EncodingStopped {
                        track: track.id,
                        spatial_layer: stream.spatial_layer,
                    });
                }
            }
            for index in wanted {
                self.ask_keyframe(now, slot, index);
            }
            self.retarget_senders(slot, now);
        }
    }

    /// Lets every sender of a track choose again, and asks for the keyframes they wait for.
    pub(crate) fn retarget_senders(&mut self, slot: usize, now: Instant) {
        let Some(track) = self.tracks.get(slot).and_then(Option::as_ref) else {
            return;
        };
        let mut views = track.views.clone();
        let is_fresh = |stream: &receive::RtpStream| {
            stream
                .last_arrival
                .is_some_and(|at| now.saturating_duration_since(at) < STALLED_AFTER)
        };
        // A stalled encoding is left for another only when another arrives.
        if track.encodings.iter().any(is_fresh) {
            for (view, stream) in views.iter_mut().zip(&track.encodings) {
                view.active &= is_fresh(stream);
            }
        }
        let mut wanted = 0_u64;
        for &at in &track.senders {
            let Some(sender) = self.senders.get_mut(at).and_then(Option::as_mut) else {
                continue;
            };
            let is_up = self
                .peers
                .get(sender.pc)
                .and_then(Option::as_ref)
                .is_some_and(|peer| peer.srtp_out.is_some());
            sender.forwarder.retarget(&views, track.is_muted, now);
            if is_up && let Some(encoding) = sender.forwarder.awaits_keyframe() {
                wanted |= 1 << (encoding & 63);
            }
            if let Some((spatial_layer, temporal_layer)) =
                sender.forwarder.take_layer_change(&views)
            {
                self.events.push_back(Event::LayerChanged {
                    sender: sender.id,
                    spatial_layer,
                    temporal_layer,
                });
            }
        }
        for encoding in 0..track.encodings.len().min(64) {
            if wanted & (1 << encoding) != 0 {
                self.ask_keyframe(now, slot, encoding);
            }
        }
    }

    fn report_levels(&mut self, now: Instant) {
        let mut levels = Vec::new();
        for track in self
            .tracks
            .iter_mut()
            .flatten()
            .filter(|track| track.config.measure_level)
        {
            let report = track.level.poll(now).or(track.level_report.take());
            track.level_report = None;
            if let Some(report) = report.filter(|_| !track.is_muted) {
                levels.push((track.id, report.loudest.unwrap_or(127), report.active_share));
            }
        }
        if !levels.is_empty() {
            self.events.push_back(Event::AudioLevels { levels });
        }
    }

    // ---------------------------------------------------------------------------------------------- transport

    /// Acts on what a transport has to say.
    pub(crate) fn drain_transport(&mut self, slot: usize, now: Instant) {
        while let Some(peer) = self.peers.get_mut(slot).and_then(Option::as_mut) {
            let pc = peer.id;
            let Some(output) = peer.transport.poll_output() else {
                peer.transport_due = peer.transport.poll_timeout();
                break;
            };
            match output {
                TransportOutput::Transmit {
                    socket,
                    destination,
                    data,
                } => {
                    peer.packets_out += 1;
                    self.counters.packets_out += 1;
                    if let Ok(segment_size) = u16::try_from(data.len()) {
                        self.transmits.push_back(Transmit {
                            socket,
                            destination,
                            data,
                            segment_size,
                        });
                    }
                }
                TransportOutput::Path {
                    socket,
                    destination,
                } => {
                    peer.path = Some((socket, destination));
                    self.learn_address(slot, (socket, destination));
                }
                TransportOutput::SrtpKeys {
                    profile,
                    material,
                    client,
                } => {
                    match keys_from_exporter(profile, &material, client) {
                        Ok((sender, receiver)) => {
                            peer.srtp_out = Some(sender);
                            peer.srtp_in = Some(receiver);
                        }
                        Err(_) => self.counters.keys_unusable += 1,
                    }
                    peer.outbox.forget(None);
                    peer.rtcp.clear();
                    peer.spent.clear();
                    for &at in &peer.senders {
                        if let Some(sender) = self.senders.get_mut(at).and_then(Option::as_mut) {
                            sender.restart();
                        }
                    }
                    let tracks: Vec<usize> = peer
                        .senders
                        .iter()
                        .filter_map(|&at| self.senders.get(at)?.as_ref()?.track)
                        .collect();
                    for track in tracks {
                        self.retarget_senders(track, now);
                    }
                }
                TransportOutput::Connected => {
                    let due = now + REPORT_INTERVAL;
                    peer.next_report.get_or_insert(due);
                    peer.wake_at(due);
                    self.events.push_back(Event::Connected { pc });
                }
                TransportOutput::Disconnected => self.events.push_back(Event::Disconnected { pc }),
                TransportOutput::Failed(reason) => {
                    self.events.push_back(Event::Failed { pc, reason })
                }
                TransportOutput::ChannelOpened {
                    label,
                    ordered,
                    reliable,
                } => {
                    self.events.push_back(Event::DataChannelOpened {
                        pc,
                        label,
                        ordered,
                        reliable,
                    });
                }
                TransportOutput::ChannelClosed { label } => {
                    self.events
                        .push_back(Event::DataChannelClosed { pc, label });
                }
                TransportOutput::Data {
                    label,
                    payload,
                    binary,
                } => {
                    self.events.push_back(Event::DataReceived {
                        pc,
                        label,
                        payload,
                        binary,
                    });
                }
            }
        }
        self.schedule(slot);
    }

    /// Enters an authenticated source; the oldest of too many is forgotten.
    fn learn_address(&mut self, slot: usize, address: (usize, SocketAddr)) {
        let before = self.addresses.insert(address, slot);
        if before == Some(slot) {
            return;
        }
        if let Some(other) = before
            .and_then(|before| self.peers.get_mut(before))
            .and_then(Option::as_mut)
        {
            other.addresses.retain(|known| *known != address);
        }
        if let Some(peer) = self.peers.get_mut(slot).and_then(Option::as_mut) {
            if peer.addresses.len() >= MAX_ADDRESSES {
                self.addresses.remove(&peer.addresses.remove(0));
            }
            peer.addresses.push(address);
        }
    }

    /// Lets a name lead to a peer connection, and drops names beyond the newest two.
    pub(crate) fn learn_ufrag(&mut self, slot: usize, ufrag: &str) {
        self.ufrags.insert(ufrag.to_owned(), slot);
        if let Some(peer) = self.peers.get_mut(slot).and_then(Option::as_mut) {
            peer.ufrags.push(ufrag.to_owned());
            if peer.ufrags.len() > 2 {
                self.ufrags.remove(&peer.ufrags.remove(0));
            }
        }
    }

    // ----------------------------------------------------------------------------------------------- commands

    /// Performs a command, or answers with `Event::Rejected`.
    pub fn handle_command(&mut self, now: Instant, command: Command) {
        let (name, id, result) = match command {
            Command::CreatePeerConnection { pc, config } => (
                "create_peer_connection",
                pc.0,
                self.create_peer(now, pc, &config).map(drop),
            ),
            Command::SetRemote { pc, remote } => {
                ("set_remote", pc.0, self.set_remote(now, pc, &remote))
            }
            Command::RestartIce {
                pc,
                ice_ufrag,
                ice_pwd,
            } => (
                "restart_ice",
                pc.0,
                self.restart_ice(now, pc, &ice_ufrag, &ice_pwd),
            ),
            Command::AddRemoteCandidate { pc, candidate } => (
                "add_remote_candidate",
                pc.0,
                self.with_transport(now, pc, |transport| {
                    transport
                        .add_remote_candidate(now, &candidate)
                        .map_err(|error| error.to_string())
                }),
            ),
            Command::ClosePeerConnection { pc } => {
                ("close_peer_connection", pc.0, self.close_peer(now, pc))
            }
            Command::AddReceiver { pc, track, config } => (
                "add_receiver",
                track.0,
                self.add_receiver(now, pc, track, config).map(drop),
            ),
            Command::UpdateReceiver { track, config } => (
                "update_receiver",
                track.0,
                self.update_receiver(now, track, config),
            ),
            Command::AddSource { track, config } => {
                ("add_source", track.0, self.add_source(now, track, config))
            }
            Command::SetTrackMuted { track, muted } => (
                "set_track_muted",
                track.0,
                self.set_muted(now, track, muted),
            ),
            Command::RequestKeyframe { track } => (
                "request_keyframe",
                track.0,
                self.request_keyframe(now, track),
            ),
            Command::RemoveTrack { track } => {
                ("remove_track", track.0, self.remove_track(now, track))
            }
            Command::AddSender { pc, sender, config } => (
                "add_sender",
                sender.0,
                self.add_sender(now, pc, sender, config),
            ),
            Command::SetSenderLayers {
                sender,
                max_spatial_layer,
                max_temporal_layer,
                paused,
            } => {
                let wish = Wish {
                    spatial: max_spatial_layer,
                    temporal: max_temporal_layer,
                    paused,
                };
                (
                    "set_sender_layers",
                    sender.0,
                    self.set_layers(now, sender, wish),
                )
            }
            Command::RemoveSender { sender } => {
                ("remove_sender", sender.0, self.remove_sender(sender))
            }
            Command::OpenDataChannel {
                pc,
                label,
                ordered,
                max_retransmits,
            } => (
                "open_data_channel",
                pc.0,
                self.with_transport(now, pc, |transport| {
                    transport
                        .open_channel(now, &label, ordered, max_retransmits)
                        .map_err(|error| error.to_string())
                }),
            ),
            Command::SendData {
                pcs,
                label,
                payload,
                binary,
            } => {
                for pc in pcs {
                    let result = self.with_transport(now, pc, |transport| {
                        transport
                            .send_data(now, &label, &payload, binary)
                            .map(drop)
                            .map_err(|error| error.to_string())
                    });
                    self.reject("send_data", pc.0, result);
                }
                return;
            }
            Command::ImportPeerConnection { pc, state, config } => (
                "import_peer_connection",
                pc.0,
                self.import_peer(now, pc, &state, &config),
            ),
        };
        self.reject(name, id, result);
    }

    fn reject(&mut self, command: &'static str, id: u64, result: Result<(), String>) {
        if let Err(message) = result {
            self.counters.commands_rejected += 1;
            self.events.push_back(Event::Rejected {
                command,
                id,
                message,
            });
        }
    }

    fn with_transport(
        &mut self,
        now: Instant,
        pc: PcId,
        act: impl FnOnce(&mut PeerTransport) -> Result<(), String>,
    ) -> Result<(), String> {
        let slot = self.peer_slot(pc)?;
        let peer = self
            .peers
            .get_mut(slot)
            .and_then(Option::as_mut)
            .ok_or(UNKNOWN_PC)?;
        let result = act(&mut peer.transport);
        self.drain_transport(slot, now);
        result
    }

    pub(crate) fn peer_slot(&self, pc: PcId) -> Result<usize, String> {
        self.peer_slots
            .get(&pc)
            .copied()
            .ok_or_else(|| UNKNOWN_PC.to_owned())
    }

    fn track_slot(&self, track: TrackId) -> Result<usize, String> {
        self.track_slots
            .get(&track)
            .copied()
            .ok_or_else(|| UNKNOWN_TRACK.to_owned())
    }

    fn sender_slot(&self, sender: SenderId) -> Result<usize, String> {
        self.sender_slots
            .get(&sender)
            .copied()
            .ok_or_else(|| "unknown sender".to_owned())
    }

    pub(crate) fn create_peer(
        &mut self,
        now: Instant,
        pc: PcId,
        config: &PeerConnectionConfig,
    ) -> Result<usize, String> {
        if self.peer_slots.contains_key(&pc) {
            return Err("this peer connection exists".to_owned());
        }
        if self.peer_slots.len() >= self.config.max_peer_connections {
            return Err("too many peer connections".to_owned());
        }
        if self.ufrags.contains_key(&config.ice_ufrag) {
            return Err("this ICE user name fragment is in use".to_owned());
        }
        let own_socket = if config.ice_controlling {
            self.socket_for_client()
        } else {
            None
        };
        let locals: Vec<LocalAddress> = self
            .config
            .locals
            .iter()
            .filter(|l| own_socket.is_none_or(|own| l.socket == own))
            .cloned()
            .collect();
        let transport_config = TransportConfig {
            ufrag: config.ice_ufrag.clone(),
            pwd: config.ice_pwd.clone(),
            ice_lite: config.ice_lite,
            controlling: config.ice_controlling,
            dtls_active: config.dtls_active,
        };
        let identity = Arc::clone(&self.config.identity);
        let transport = PeerTransport::new(transport_config, identity, &locals, now)
            .map_err(|error| error.to_string())?;
        let mut peer = Peer::new(pc, transport, self.random.u32(1..), now);
        peer.is_lite = config.ice_lite;
        peer.is_controlling = config.ice_controlling;
        peer.own_socket = own_socket;
        let slot = insert(&mut self.peers, peer);
        self.peer_slots.insert(pc, slot);
        self.learn_ufrag(slot, &config.ice_ufrag);
        self.drain_transport(slot, now);
        Ok(slot)
    }

    /// A client sees many peer connections behind one server address, so each needs a socket of its own: the least
    /// used one.
    fn socket_for_client(&self) -> Option<usize> {
        let sockets = self
            .config
            .locals
            .iter()
            .filter(|local| local.protocol == Protocol::Udp)
            .map(|local| local.socket);
        sockets.min_by_key(|socket| {
            self.peers
                .iter()
                .flatten()
                .filter(|peer| peer.own_socket == Some(*socket))
                .count()
        })
    }

    fn set_remote(
        &mut self,
        now: Instant,
        pc: PcId,
        remote: &RemoteTransport,
    ) -> Result<(), String> {
        self.with_transport(now, pc, |transport| {
            transport
                .set_remote(now, &remote.ice_ufrag, &remote.ice_pwd, &remote.fingerprint)
                .map_err(|error| error.to_string())
        })
    }

    fn restart_ice(
        &mut self,
        now: Instant,
        pc: PcId,
        ufrag: &str,
        pwd: &str,
    ) -> Result<(), String> {
        let slot = self.peer_slot(pc)?;
        if self.ufrags.contains_key(ufrag) {
            return Err("this ICE user name fragment is in use".to_owned());
        }
        self.with_transport(now, pc, |transport| {
            transport
                .restart_ice(now, ufrag, pwd)
                .map_err(|error| error.to_string())
        })?;
        self.learn_ufrag(slot, ufrag);
        Ok(())
    }

    pub(crate) fn close_peer(&mut self, now: Instant, pc: PcId) -> Result<(), String> {
        let slot = self.peer_slot(pc)?;
        let (tracks, senders) = match self.peers.get(slot).and_then(Option::as_ref) {
            Some(peer) => (peer.tracks.clone(), peer.senders.clone()),
            None => return Err(UNKNOWN_PC.to_owned()),
        };
        for sender in senders {
            if let Some(id) = self
                .senders
                .get(sender)
                .and_then(Option::as_ref)
                .map(|sender| sender.id)
            {
                self.remove_sender(id)?;
            }
        }
        for track in tracks {
            if let Some(id) = self
                .tracks
                .get(track)
                .and_then(Option::as_ref)
                .map(|track| track.id)
            {
                self.remove_track(now, id)?;
            }
        }
        self.peer_slots.remove(&pc);
        self.addresses.retain(|_, owner| *owner != slot);
        self.ufrags.retain(|_, owner| *owner != slot);
        self.dirty.retain(|dirty| *dirty != slot);
        self.peers[slot] = None;
        Ok(())
    }

    pub(crate) fn add_receiver(
        &mut self,
        now: Instant,
        pc: PcId,
        track: TrackId,
        config: ReceiverConfig,
    ) -> Result<usize, String> {
        let peer = self.peer_slot(pc)?;
        if self.track_slots.contains_key(&track) {
            return Err("this track exists".to_owned());
        }
        check_receiver(&config)?;
        let slot = insert(
            &mut self.tracks,
            RtpReceiver::new(track, Origin::Received(peer), config),
        );
        self.track_slots.insert(track, slot);
        if let Some(peer) = self.peers.get_mut(peer).and_then(Option::as_mut) {
            peer.tracks.push(slot);
        }
        self.announce(slot);
        self.bind_waiting(slot, now);
        Ok(slot)
    }

    fn update_receiver(
        &mut self,
        now: Instant,
        track: TrackId,
        config: ReceiverConfig,
    ) -> Result<(), String> {
        let slot = self.track_slot(track)?;
        check_receiver(&config)?;
        let receiver = self
            .tracks
            .get_mut(slot)
            .and_then(Option::as_mut)
            .ok_or(UNKNOWN_TRACK)?;
        let Origin::Received(peer) = receiver.origin else {
            return Err("this track is made here".to_owned());
        };
        let is_same = receiver.config.codecs == config.codecs
            && receiver.config.encodings == config.encodings;
        if !is_same {
            // What waits carries indices of the old configuration.
            for pc in self.sender_pcs(slot) {
                self.flush_one(Some(pc), now);
            }
        }
        let receiver = self
            .tracks
            .get_mut(slot)
            .and_then(Option::as_mut)
            .ok_or(UNKNOWN_TRACK)?;
        receiver.update(config);
        if let Some(peer) = self.peers.get_mut(peer).and_then(Option::as_mut) {
            peer.router.forget(slot);
        }
        self.announce(slot);
        let Self {
            tracks, senders, ..
        } = self;
        if let Some(receiver) = tracks.get(slot).and_then(Option::as_ref) {
            for &at in &receiver.senders {
                if let Some(sender) = senders.get_mut(at).and_then(Option::as_mut) {
                    if !is_same {
                        sender.unbind();
                        sender.cache.clear();
                    }
                    sender.bind(slot, receiver);
                }
            }
        }
        self.retarget_senders(slot, now);
        Ok(())
    }

    /// Tells the router what is known of a track's SSRCs, and the peer connection of its extensions.
    pub(crate) fn announce(&mut self, slot: usize) {
        let Some(track) = self.tracks.get(slot).and_then(Option::as_ref) else {
            return;
        };
        let Origin::Received(peer) = track.origin else {
            return;
        };
        let Some(peer) = self.peers.get_mut(peer).and_then(Option::as_mut) else {
            return;
        };
        peer.merge_extensions(&track.config.extensions);
        for (encoding, stream) in track.encodings.iter().enumerate() {
            if let Some(ssrc) = stream.ssrc {
                peer.router.learn(
                    ssrc,
                    Route {
                        track: slot,
                        encoding,
                        is_repair: false,
                    },
                );
            }
            if let Some(ssrc) = stream.rtx_ssrc {
                peer.router.learn(
                    ssrc,
                    Route {
                        track: slot,
                        encoding,
                        is_repair: true,
                    },
                );
            }
        }
    }

    /// Connects senders that came before their track.
    fn bind_waiting(&mut self, slot: usize, now: Instant) {
        let Some(track) = self.tracks.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        for (at, sender) in self.senders.iter_mut().enumerate() {
            if let Some(sender) = sender
                .as_mut()
                .filter(|s| s.track.is_none() && s.config.track == track.id)
            {
                sender.bind(slot, track);
                track.senders.push(at);
            }
        }
        self.retarget_senders(slot, now);
    }

    fn add_source(
        &mut self,
        now: Instant,
        track: TrackId,
        config: SourceConfig,
    ) -> Result<(), String> {
        if self.track_slots.contains_key(&track) {
            return Err("this track exists".to_owned());
        }
        let receiver = ReceiverConfig {
            kind: config.kind,
            mid: String::new(),
            codecs: vec![Codec {
                mime: config.mime.clone(),
                payload_type: 0,
                clock_rate: config.clock_rate,
                rtx_payload_type: None,
                nack: false,
                pli: false,
                transport_cc: false,
            }],
            encodings: Vec::new(),
            extensions: ExtensionIds::default(),
            measure_level: false,
            probe: false,
        };
        let source = Source::new(config, now)?;
        let due = source.next_frame;
        let mut made = RtpReceiver::new(track, Origin::Made(Box::new(source)), receiver);
        for view in &mut made.views {
            view.active = true;
        }
        let slot = insert(&mut self.tracks, made);
        self.track_slots.insert(track, slot);
        self.timers.push(Reverse((due, Timer::Source(slot))));
        self.bind_waiting(slot, now);
        Ok(())
    }

    /// Slots of the peer connections a track goes out on.
    fn sender_pcs(&self, slot: usize) -> Vec<usize> {
        let Some(track) = self.tracks.get(slot).and_then(Option::as_ref) else {
            return Vec::new();
        };
        track
            .senders
            .iter()
            .filter_map(|&at| self.senders.get(at)?.as_ref().map(|sender| sender.pc))
            .collect()
    }

    fn set_muted(&mut self, now: Instant, track: TrackId, muted: bool) -> Result<(), String> {
        let slot = self.track_slot(track)?;
        let receiver = self
            .tracks
            .get_mut(slot)
            .and_then(Option::as_mut)
            .ok_or(UNKNOWN_TRACK)?;
        receiver.is_muted = muted;
        self.retarget_senders(slot, now);
        Ok(())
    }

    fn request_keyframe(&mut self, now: Instant, track: TrackId) -> Result<(), String> {
        let slot = self.track_slot(track)?;
        let receiver = self
            .tracks
            .get(slot)
            .and_then(Option::as_ref)
            .ok_or(UNKNOWN_TRACK)?;
        let active: Vec<usize> = receiver
            .views
            .iter()
            .enumerate()
            .filter(|(_, view)| view.active)
            .map(|(index, _)| index)
            .collect();
        for encoding in active {
            self.ask_keyframe(now, slot, encoding);
        }
        Ok(())
    }

    fn remove_track(&mut self, now: Instant, track: TrackId) -> Result<(), String> {
        let slot = self.track_slot(track)?;
        // What waits was numbered already: it must go out, or the numbers break.
        for pc in self.sender_pcs(slot) {
            self.flush_one(Some(pc), now);
        }
        if let Some(receiver) = self.tracks.get_mut(slot).and_then(Option::take) {
            if let Origin::Received(peer) = receiver.origin
                && let Some(peer) = self.peers.get_mut(peer).and_then(Option::as_mut)
            {
                peer.tracks.retain(|at| *at != slot);
                peer.router.forget(slot);
            }
            for at in receiver.senders {
                let Some(sender) = self.senders.get_mut(at).and_then(Option::as_mut) else {
                    continue;
                };
                sender.unbind();
                if let Some((spatial_layer, temporal_layer)) =
                    sender.forwarder.take_layer_change(&[])
                {
                    self.events.push_back(Event::LayerChanged {
                        sender: sender.id,
                        spatial_layer,
                        temporal_layer,
                    });
                }
            }
        }
        self.track_slots.remove(&track);
        Ok(())
    }

    fn add_sender(
        &mut self,
        now: Instant,
        pc: PcId,
        sender: SenderId,
        config: SenderConfig,
    ) -> Result<(), String> {
        if !self.track_slots.contains_key(&config.track) {
            return Err(UNKNOWN_TRACK.to_owned());
        }
        // Below half of the range: the first wrap is far, and receivers agree on the rollover counter.
        let first = self.random.u16(..0x8000);
        self.place_sender(now, pc, sender, config, first, None)
    }

    /// Adds a sender, whose track may still be missing.
    pub(crate) fn place_sender(
        &mut self,
        now: Instant,
        pc: PcId,
        sender: SenderId,
        config: SenderConfig,
        rtx_sequence: u16,
        state: Option<&ForwarderState>,
    ) -> Result<(), String> {
        let peer = self.peer_slot(pc)?;
        if self.sender_slots.contains_key(&sender) {
            return Err("this sender exists".to_owned());
        }
        if self.sender_by_ssrc(peer, config.ssrc).is_some() {
            return Err("this SSRC is in use on the peer connection".to_owned());
        }
        if config.rtx_ssrc == Some(config.ssrc) {
            return Err("RTX needs an SSRC of its own".to_owned());
        }
        if config.codecs.iter().any(|codec| {
            codec.payload_type > 127 || codec.rtx_payload_type.is_some_and(|p| p > 127)
        }) {
            return Err("payload types are 0 to 127".to_owned());
        }
        let wish = Wish {
            spatial: config.max_spatial_layer,
            temporal: config.max_temporal_layer,
            paused: config.paused,
        };
        let forwarder = match state {
            Some(state) => Forwarder::resume(TrackKind::Video, 90_000, wish, false, state),
            None => Forwarder::new(
                TrackKind::Video,
                90_000,
                wish,
                false,
                self.random.u16(..0x8000),
            ),
        };
        let track = self.track_slots.get(&config.track).copied();
        let is_video = track
            .and_then(|slot| self.tracks.get(slot)?.as_ref())
            .map_or_else(
                || {
                    config.codecs.iter().any(|c| {
                        c.mime
                            .get(..6)
                            .is_some_and(|kind| kind.eq_ignore_ascii_case("video/"))
                    })
                },
                RtpReceiver::is_video,
            );
        let memory = if is_video { VIDEO_MEMORY } else { AUDIO_MEMORY };
        let cache = RtxCache::new(memory, MEMORY_AGE);
        let (ssrc, rtx_ssrc) = (config.ssrc, config.rtx_ssrc);
        let mut fresh = RtpSender::new(sender, peer, config, forwarder, rtx_sequence, cache);
        if let Some(spent) = self
            .peers
            .get(peer)
            .and_then(Option::as_ref)
            .map(|peer| &peer.spent)
        {
            if let Some(next) = spent.get(&ssrc) {
                fresh.forwarder.start_at(*next);
            }
            if let Some(newest) = rtx_ssrc.and_then(|ssrc| spent.get(&ssrc)) {
                fresh.rtx_sequence = *newest;
            }
        }
        if let Some(receiver) = track.and_then(|slot| self.tracks.get(slot)?.as_ref()) {
            fresh.bind(track.unwrap_or_default(), receiver);
        }
        let slot = insert(&mut self.senders, fresh);
        self.sender_slots.insert(sender, slot);
        if let Some(peer) = self.peers.get_mut(peer).and_then(Option::as_mut) {
            peer.senders.push(slot);
        }
        if let Some(track) = track {
            if let Some(receiver) = self.tracks.get_mut(track).and_then(Option::as_mut) {
                receiver.senders.push(slot);
            }
            self.retarget_senders(track, now);
        }
        Ok(())
    }

    fn set_layers(&mut self, now: Instant, sender: SenderId, wish: Wish) -> Result<(), String> {
        let slot = self.sender_slot(sender)?;
        let found = self
            .senders
            .get_mut(slot)
            .and_then(Option::as_mut)
            .ok_or("unknown sender")?;
        found.config.max_spatial_layer = wish.spatial;
        found.config.max_temporal_layer = wish.temporal;
        found.config.paused = wish.paused;
        found.forwarder.set_wish(wish);
        if let Some(track) = found.track {
            self.retarget_senders(track, now);
        }
        Ok(())
    }

    fn remove_sender(&mut self, sender: SenderId) -> Result<(), String> {
        let slot = self.sender_slot(sender)?;
        if let Some(gone) = self.senders.get_mut(slot).and_then(Option::take) {
            if let Some(peer) = self.peers.get_mut(gone.pc).and_then(Option::as_mut) {
                peer.senders.retain(|at| *at != slot);
                peer.outbox.forget(Some(slot));
                peer.spent
                    .insert(gone.config.ssrc, gone.forwarder.next_sequence());
                if let Some(rtx_ssrc) = gone.config.rtx_ssrc {
                    peer.spent.insert(rtx_ssrc, gone.rtx_sequence);
                }
            }
            if let Some(track) = gone
                .track
                .and_then(|track| self.tracks.get_mut(track))
                .and_then(Option::as_mut)
            {
                track.senders.retain(|at| *at != slot);
            }
        }
        self.sender_slots.remove(&sender);
        Ok(())
    }

    // ------------------------------------------------------------------------------------------------ going out

    fn mark_dirty(peer: &mut Peer, slot: usize, dirty: &mut Vec<usize>) {
        if !peer.is_dirty {
            peer.is_dirty = true;
            dirty.push(slot);
        }
    }

    /// Ends an input batch: packs what was gathered into transmits.
    pub fn flush(&mut self, now: Instant) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for slot in dirty.drain(..) {
            self.flush_one(Some(slot), now);
        }
        self.dirty = dirty;
    }

    fn flush_one(&mut self, slot: Option<usize>, now: Instant) {
        let ntp = ns_to_ntp(self.wall_ns(now));
        let Self {
            peers,
            senders,
            buffers,
            transmits,
            counters,
            ..
        } = self;
        let Some(peer) = slot
            .and_then(|slot| peers.get_mut(slot))
            .and_then(Option::as_mut)
        else {
            return;
        };
        peer.is_dirty = false;
        let (Some((socket, destination)), Some(srtp)) = (peer.path, peer.srtp_out.as_mut()) else {
            peer.outbox.forget(None);
            peer.rtcp.clear();
            return;
        };
        let before = peer.packets_out;
        if !peer.rtcp.is_empty() {
            let mut rest: &[u8] = &peer.rtcp;
            while !rest.is_empty() {
                let (compound, later) = rest.split_at(compound_len(rest));
                rest = later;
                let mut data = buffers.pop().unwrap_or_default();
                data.clear();
                srtp.seal_rtcp(compound, &mut data);
                if let Ok(segment_size) = u16::try_from(data.len()) {
                    peer.packets_out += 1;
                    transmits.push_back(Transmit {
                        socket,
                        destination,
                        data,
                        segment_size,
                    });
                }
            }
            peer.rtcp.clear();
        }
        if !peer.outbox.is_empty() {
            let mut way = Way {
                socket,
                destination,
                srtp,
                history: &mut peer.history,
                abs_send_time: (ntp >> 14) as u32 & 0x00ff_ffff,
                buffers,
                transmits,
                packets_out: &mut peer.packets_out,
            };
            peer.outbox.flush(senders, &mut way, now);
        }
        counters.packets_out += peer.packets_out - before;
    }

    /// Next run of datagrams to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// Gives a sent transmit's buffer back.
    pub fn recycle(&mut self, buffer: Vec<u8>) {
        if self.buffers.len() < MAX_BUFFERS {
            self.buffers.push(buffer);
        }
    }

    /// Next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Candidate lines for one local ufrag, UDP first.
    pub fn candidates(&self, ufrag: &str) -> Vec<String> {
        let lines = candidate_lines(&self.config.locals);
        lines
            .into_iter()
            .map(|line| format!("{line} ufrag {ufrag}"))
            .collect()
    }

    // ---------------------------------------------------------------------------------------------------- stats

    /// A snapshot; meant for once a second.
    pub fn stats(&mut self, now: Instant) -> Stats {
        let mut stats = Stats {
            probe_latency_us: self.probe_latency_us.clone(),
            ..Stats::default()
        };
        let mut transports: Vec<(&'static str, u64)> = Vec::new();
        for peer in self.peers.iter_mut().flatten() {
            let channels = peer.transport.export().channels;
            let buffered: usize = channels
                .iter()
                .map(|channel| peer.transport.buffered(&channel.label))
                .sum();
            stats.peer_connections.push(PeerConnectionStats {
                pc: peer.id,
                rtt: peer.rtt.map(|rtt| rtt.as_secs_f64()),
                estimate_bps: peer.is_estimated.then(|| peer.estimator.estimate_bps()),
                packets_in: peer.packets_in,
                packets_out: peer.packets_out,
                data_buffered: buffered as u64,
            });
            for (index, row) in transport_rows(&peer.transport.counters())
                .into_iter()
                .enumerate()
            {
                match transports.get_mut(index) {
                    Some(total) => total.1 += row.1,
                    None => transports.push(row),
                }
            }
        }
        for track in self.tracks.iter_mut().flatten() {
            stats.tracks.push(track.stats(now));
        }
        for sender in self.senders.iter().flatten() {
            stats.senders.push(sender.stats());
        }
        stats.counters = self.counters.rows();
        stats.counters.extend(transports);
        stats
    }

    /// Wall clock in nanoseconds since 1970.
    pub(crate) fn wall_ns(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.config.epoch);
        (self.config.epoch_unix + elapsed).as_nanos() as u64
    }
}

const UNKNOWN_PC: &str = "unknown peer connection";
const UNKNOWN_TRACK: &str = "unknown track";

/// Length of the leading whole RTCP packets that fit a datagram; at least one, at most all.
fn compound_len(packets: &[u8]) -> usize {
    let mut length = 0;
    while let Some(header) = packets
        .get(length..)
        .and_then(|rest| rest.first_chunk::<4>())
    {
        let next = 4 + 4 * usize::from(u16::from_be_bytes([header[2], header[3]]));
        if length != 0 && length + next > RTCP_BYTES {
            return length.min(packets.len());
        }
        length += next;
    }
    packets.len()
}

/// Puts a value into the first free slot.
fn insert<T>(slots: &mut Vec<Option<T>>, value: T) -> usize {
    match slots.iter().position(Option::is_none) {
        Some(slot) => {
            slots[slot] = Some(value);
            slot
        }
        None => {
            slots.push(Some(value));
            slots.len() - 1
        }
    }
}

fn check_receiver(config: &ReceiverConfig) -> Result<(), String> {
    if config.codecs.is_empty() {
        return Err("a receiver needs a codec".to_owned());
    }
    if config.codecs.len() > 64 || config.encodings.len() > 16 {
        return Err("too many codecs or encodings".to_owned());
    }
    if config.codecs.iter().any(|codec| codec.clock_rate == 0) {
        return Err("clock_rate must be above 0".to_owned());
    }
    Ok(())
}

/// Seconds from 1900 (NTP) to 1970.
const NTP_EPOCH_S: u64 = 2_208_988_800;

/// NTP time, 32.32 fixed point (RFC 3550 section 4), of nanoseconds since 1970.
pub(crate) fn ns_to_ntp(ns: u64) -> u64 {
    let seconds = ns / 1_000_000_000 + NTP_EPOCH_S;
    let fraction = ((ns % 1_000_000_000) << 32) / 1_000_000_000;
    (seconds << 32) | fraction
}

fn ntp_to_ns(ntp: u64) -> u64 {
    let seconds = (ntp >> 32).wrapping_sub(NTP_EPOCH_S);
    let nanos = ((ntp & 0xffff_ffff) * 1_000_000_000) >> 32;
    seconds.wrapping_mul(1_000_000_000).wrapping_add(nanos)
}
