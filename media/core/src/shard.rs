//! One thread's worth of the engine: peer connections, tracks and senders, and what moves between them.
//!
//! Inbound RTP is in `receive.rs`, inbound RTCP in `control.rs`, outbound in `send.rs`, commands in `perform.rs`.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::event::Event;
use crate::forward::ClockPoint;
use crate::ids::{PcId, SenderId, TrackId};
use crate::packet::rtcp::{self};
use crate::packet::rtp::is_rtcp;
use crate::packet::stun;
use crate::peer::{MAX_ADDRESSES, Peer};
use crate::published::PacketPool;
use crate::receive::{self, Origin, RtpReceiver, STALLED_AFTER, STOPPED_AFTER};
use crate::send::{RtpSender, Way};
use crate::srtp::keys_from_exporter;
use crate::stats::{Counters, PeerConnectionStats, Stats, TRANSPORT_ROWS, transport_rows};
use crate::transport::{
    DtlsIdentity, LocalAddress, TransportCounters, TransportOutput, candidate_lines,
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
    pub(crate) addresses: HashMap<(usize, SocketAddr), usize>,
    pub(crate) ufrags: HashMap<String, usize>,
    pub(crate) timers: BinaryHeap<Reverse<(Instant, Timer)>>,
    pub(crate) next_tick: Instant,
    pub(crate) next_levels: Instant,
    /// No peer connection is scheduled before this.
    pub(crate) rest_until: Instant,
    pub(crate) dirty: Vec<usize>,
    pub(crate) pool: PacketPool,
    pub(crate) buffers: Vec<Vec<u8>>,
    pub(crate) transmits: VecDeque<Transmit>,
    pub(crate) events: VecDeque<Event>,
    pub(crate) counters: Counters,
    /// What the transports of closed peer connections had counted: totals never go back.
    pub(crate) closed_transports: [u64; TRANSPORT_ROWS],
    pub(crate) probe_latency_us: Vec<u64>,
    pub(crate) scratch_numbers: Vec<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// Slot of a peer connection.
    Peer(usize),
    /// Slot of a track that is made here.
    Source(usize),
    /// Slot of a sender that gets frames made here.
    Injection(usize),
}

/// A peer connection's timers are not served twice within this.
const LEAST_REST: Duration = Duration::from_millis(1);
/// How often slow things are looked at: stalled encodings, waiting keyframe requests, layer choice.
pub(crate) const TICK: Duration = Duration::from_millis(100);
/// Receiver reports this often.
pub(crate) const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Sender reports this often.
pub(crate) const SENDER_REPORT_INTERVAL: Duration = Duration::from_secs(3);
/// A lowest encoding is asked for a keyframe at most this often, ...
pub(crate) const KEYFRAME_INTERVAL_LOW: Duration = Duration::from_millis(500);
/// ... any other this often.
pub(crate) const KEYFRAME_INTERVAL: Duration = Duration::from_secs(1);
/// Control packets of one flush are cut into datagrams of about this size.
pub(crate) const RTCP_BYTES: usize = 1100;
/// Repair memory in packets.
pub(crate) const VIDEO_MEMORY: usize = 256;
pub(crate) const AUDIO_MEMORY: usize = 32;
pub(crate) const MEMORY_AGE: Duration = Duration::from_secs(2);
/// Repairs sent for one NACK.
pub(crate) const MAX_REPAIRS: usize = 512;
/// Buffers kept for later runs.
pub(crate) const MAX_BUFFERS: usize = 1024;
/// Bins of the probe's histogram.
pub(crate) const LATENCY_BINS: usize = 80;

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
            rest_until: now,
            dirty: Vec::new(),
            pool: PacketPool::default(),
            buffers: Vec::new(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
            closed_transports: [0; TRANSPORT_ROWS],
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

    pub(crate) fn receive_stun(
        &mut self,
        now: Instant,
        socket: usize,
        source: SocketAddr,
        packet: &[u8],
    ) {
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

    // ------------------------------------------------------------------------------------------------- timers

    /// Does what is due. Calling too early does nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        // A deadline that does not move when it is served must not keep the shard from everything else.
        self.rest_until = now + LEAST_REST;
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
                Timer::Injection(slot) => self.inject(slot, at, now),
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

    pub(crate) fn peer_timeout(&mut self, slot: usize, now: Instant) {
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
        // Media that arrives moves the transport's deadlines without a word from it: what was noted may be long past.
        peer.transport_due = peer.transport.poll_timeout();
        if peer.rtp_due.is_some_and(|due| due <= now) {
            peer.rtp_due = None;
            self.rtp_timeout(slot, now);
        }
        self.schedule(slot);
    }

    /// Feedback that is due on one peer connection: transport-cc, NACK, reports.
    pub(crate) fn rtp_timeout(&mut self, slot: usize, now: Instant) {
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
        let rest_until = self.rest_until;
        let Some(peer) = self.peers.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        let due = match (peer.transport_due, peer.rtp_due) {
            (Some(a), Some(b)) => a.min(b),
            (Some(due), None) | (None, Some(due)) => due,
            (None, None) => return,
        };
        let due = due.max(rest_until);
        if peer.scheduled.is_none_or(|at| due < at) {
            peer.scheduled = Some(due);
            self.timers.push(Reverse((due, Timer::Peer(slot))));
        }
    }

    pub(crate) fn make_frame(&mut self, slot: usize, at: Instant, now: Instant) {
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
    pub(crate) fn tick(&mut self, now: Instant) {
        for slot in 0..self.tracks.len() {
            let Some(track) = self.tracks[slot].as_mut() else {
                continue;
            };
            track.rates.poll(now);
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
        self.allocate_all_capped(now);
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

    pub(crate) fn report_levels(&mut self, now: Instant) {
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
    pub(crate) fn learn_address(&mut self, slot: usize, address: (usize, SocketAddr)) {
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

    // ------------------------------------------------------------------------------------------------ going out

    pub(crate) fn mark_dirty(peer: &mut Peer, slot: usize, dirty: &mut Vec<usize>) {
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

    pub(crate) fn flush_one(&mut self, slot: Option<usize>, now: Instant) {
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

    /// Candidate lines for one local ufrag, UDP first; of a client's peer connection only its own socket.
    pub fn candidates(&self, ufrag: &str) -> Vec<String> {
        let own_socket = self
            .ufrags
            .get(ufrag)
            .and_then(|&slot| self.peers.get(slot)?.as_ref()?.own_socket);
        let lines = match own_socket.and_then(|own| self.config.locals.get(own)) {
            Some(own) => candidate_lines(std::slice::from_ref(own)),
            None => candidate_lines(&self.config.locals),
        };
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
        let mut transports = transport_rows(&TransportCounters::default());
        for (total, closed) in transports.iter_mut().zip(self.closed_transports) {
            total.1 = closed;
        }
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
            let rows = transport_rows(&peer.transport.counters());
            for (total, row) in transports.iter_mut().zip(rows) {
                total.1 += row.1;
            }
        }
        for track in self.tracks.iter_mut().flatten() {
            stats.tracks.push(track.stats(now));
        }
        for sender in self.senders.iter().flatten().filter(|s| !s.is_ending) {
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

/// Seconds from 1900 (NTP) to 1970.
const NTP_EPOCH_S: u64 = 2_208_988_800;

/// NTP time, 32.32 fixed point (RFC 3550 section 4), of nanoseconds since 1970.
pub(crate) fn ns_to_ntp(ns: u64) -> u64 {
    let seconds = ns / 1_000_000_000 + NTP_EPOCH_S;
    let fraction = ((ns % 1_000_000_000) << 32) / 1_000_000_000;
    (seconds << 32) | fraction
}

pub(crate) fn ntp_to_ns(ntp: u64) -> u64 {
    let seconds = (ntp >> 32).wrapping_sub(NTP_EPOCH_S);
    let nanos = ((ntp & 0xffff_ffff) * 1_000_000_000) >> 32;
    seconds.wrapping_mul(1_000_000_000).wrapping_add(nanos)
}
