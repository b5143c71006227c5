//! Commands performed: each whole or, with a reason, not at all.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Instant;

use crate::command::{
    Codec, Command, PeerConnectionConfig, ReceiverConfig, RemoteTransport, SenderConfig,
    SourceConfig, TrackKind,
};
use crate::event::Event;
use crate::forward::{Forwarder, ForwarderState, Wish};
use crate::ids::{PcId, SenderId, TrackId};
use crate::inject::{CLOSE, MUTE};
use crate::packet::extensions::ExtensionIds;
use crate::peer::Peer;
use crate::receive::{Origin, RtpReceiver};
use crate::router::Route;
use crate::rtx::RtxCache;
use crate::send::RtpSender;
use crate::shard::{AUDIO_MEMORY, MEMORY_AGE, Shard, Timer, VIDEO_MEMORY};
use crate::source::Source;
use crate::stats::transport_rows;
use crate::transport::{LocalAddress, PeerTransport, Protocol, TransportConfig};

impl Shard {
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
                priority,
            } => {
                let wish = Wish {
                    spatial: max_spatial_layer,
                    temporal: max_temporal_layer,
                    paused,
                };
                (
                    "set_sender_layers",
                    sender.0,
                    self.set_layers(now, sender, wish, priority),
                )
            }
            Command::SetBandwidthCap {
                pc,
                bps,
                allow_pause,
            } => (
                "set_bandwidth_cap",
                pc.0,
                self.set_bandwidth_cap(now, pc, bps, allow_pause),
            ),
            Command::RemoveSender { sender } => {
                ("remove_sender", sender.0, self.remove_sender(now, sender))
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

    pub(crate) fn reject(&mut self, command: &'static str, id: u64, result: Result<(), String>) {
        if let Err(message) = result {
            self.counters.commands_rejected += 1;
            self.events.push_back(Event::Rejected {
                command,
                id,
                message,
            });
        }
    }

    pub(crate) fn with_transport(
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

    pub(crate) fn track_slot(&self, track: TrackId) -> Result<usize, String> {
        self.track_slots
            .get(&track)
            .copied()
            .ok_or_else(|| UNKNOWN_TRACK.to_owned())
    }

    pub(crate) fn sender_slot(&self, sender: SenderId) -> Result<usize, String> {
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
        let is_client = !config.ice_lite && !config.dtls_active;
        let own_socket = if is_client {
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
    pub(crate) fn socket_for_client(&self) -> Option<usize> {
        let mut users = vec![0_usize; self.config.locals.len()];
        for own in self
            .peers
            .iter()
            .flatten()
            .filter_map(|peer| peer.own_socket)
        {
            if let Some(count) = users.get_mut(own) {
                *count += 1;
            }
        }
        self.config
            .locals
            .iter()
            .filter(|local| local.protocol == Protocol::Udp)
            .map(|local| local.socket)
            .min_by_key(|&socket| users.get(socket).copied())
    }

    pub(crate) fn set_remote(
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

    pub(crate) fn restart_ice(
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
            self.drop_sender(sender);
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
        if let Some(peer) = self.peers[slot].take() {
            let rows = transport_rows(&peer.transport.counters());
            for (total, row) in self.closed_transports.iter_mut().zip(rows) {
                *total += row.1;
            }
        }
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

    pub(crate) fn update_receiver(
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
    pub(crate) fn bind_waiting(&mut self, slot: usize, now: Instant) {
        let Some(track) = self.tracks.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        for (at, sender) in self.senders.iter_mut().enumerate() {
            if let Some(sender) = sender
                .as_mut()
                .filter(|s| s.track.is_none() && !s.is_ending && s.config.track == track.id)
            {
                sender.bind(slot, track);
                track.has_variants |= sender.wants_variants();
                track.senders.push(at);
            }
        }
        self.retarget_senders(slot, now);
    }

    pub(crate) fn add_source(
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
    pub(crate) fn sender_pcs(&self, slot: usize) -> Vec<usize> {
        let Some(track) = self.tracks.get(slot).and_then(Option::as_ref) else {
            return Vec::new();
        };
        track
            .senders
            .iter()
            .filter_map(|&at| self.senders.get(at)?.as_ref().map(|sender| sender.pc))
            .collect()
    }

    pub(crate) fn set_muted(
        &mut self,
        now: Instant,
        track: TrackId,
        muted: bool,
    ) -> Result<(), String> {
        let slot = self.track_slot(track)?;
        let receiver = self
            .tracks
            .get_mut(slot)
            .and_then(Option::as_mut)
            .ok_or(UNKNOWN_TRACK)?;
        let is_change = receiver.is_muted != muted;
        receiver.is_muted = muted;
        let senders = if is_change {
            receiver.senders.clone()
        } else {
            Vec::new()
        };
        for at in senders {
            if muted {
                self.begin_injection(now, at, MUTE);
            } else if let Some(sender) = self.senders.get_mut(at).and_then(Option::as_mut) {
                sender.injection = None;
            }
        }
        self.retarget_senders(slot, now);
        Ok(())
    }

    pub(crate) fn request_keyframe(&mut self, now: Instant, track: TrackId) -> Result<(), String> {
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

    pub(crate) fn remove_track(&mut self, now: Instant, track: TrackId) -> Result<(), String> {
        let slot = self.track_slot(track)?;
        // What waits was numbered already: it must go out, or the numbers break.
        for pc in self.sender_pcs(slot) {
            self.flush_one(Some(pc), now);
        }
        let senders = self
            .tracks
            .get(slot)
            .and_then(Option::as_ref)
            .map(|receiver| receiver.senders.clone());
        for at in senders.unwrap_or_default() {
            self.begin_injection(now, at, CLOSE);
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

    pub(crate) fn add_sender(
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
        // One that is on its way out makes room at once.
        if let Some(at) = self.sender_by_ssrc(peer, config.ssrc)
            && self
                .senders
                .get(at)
                .and_then(Option::as_ref)
                .is_some_and(|sender| sender.is_ending)
        {
            self.flush_one(Some(peer), now);
            self.drop_sender(at);
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
        if let Some(peer) = self.peers.get(peer).and_then(Option::as_ref) {
            if let Some(stood) = peer.stood.get(&ssrc).filter(|_| state.is_none()) {
                fresh.forwarder.go_on_from(stood);
            }
            if let Some(next) = peer.spent.get(&ssrc) {
                fresh.forwarder.start_at(*next);
            }
            if let Some(newest) = rtx_ssrc.and_then(|ssrc| peer.spent.get(&ssrc)) {
                fresh.rtx_sequence = *newest;
            }
        }
        if let Some(receiver) = track.and_then(|slot| self.tracks.get(slot)?.as_ref()) {
            fresh.bind(track.unwrap_or_default(), receiver);
        }
        let wants_variants = fresh.wants_variants();
        let slot = insert(&mut self.senders, fresh);
        self.sender_slots.insert(sender, slot);
        if let Some(peer) = self.peers.get_mut(peer).and_then(Option::as_mut) {
            peer.senders.push(slot);
        }
        if let Some(track) = track {
            if let Some(receiver) = self.tracks.get_mut(track).and_then(Option::as_mut) {
                receiver.senders.push(slot);
                receiver.has_variants |= wants_variants;
            }
            self.retarget_senders(track, now);
        }
        Ok(())
    }

    pub(crate) fn set_layers(
        &mut self,
        now: Instant,
        sender: SenderId,
        wish: Wish,
        priority: Option<u8>,
    ) -> Result<(), String> {
        let slot = self.sender_slot(sender)?;
        let found = self
            .senders
            .get_mut(slot)
            .and_then(Option::as_mut)
            .ok_or("unknown sender")?;
        found.config.max_spatial_layer = wish.spatial;
        found.config.max_temporal_layer = wish.temporal;
        found.config.paused = wish.paused;
        found.config.priority = priority.unwrap_or(found.config.priority);
        found.apply_wish();
        if let Some(track) = found.track {
            self.retarget_senders(track, now);
        }
        Ok(())
    }

    /// Frees the id at once; the sender goes on without it while it sends its last frames.
    pub(crate) fn remove_sender(&mut self, now: Instant, sender: SenderId) -> Result<(), String> {
        let slot = self.sender_slot(sender)?;
        self.sender_slots.remove(&sender);
        if !self.begin_injection(now, slot, CLOSE) {
            self.drop_sender(slot);
            return Ok(());
        }
        if let Some(ending) = self.senders.get_mut(slot).and_then(Option::as_mut) {
            ending.is_ending = true;
            if let Some(track) = ending
                .track
                .and_then(|track| self.tracks.get_mut(track))
                .and_then(Option::as_mut)
            {
                track.senders.retain(|at| *at != slot);
            }
            ending.unbind();
        }
        Ok(())
    }

    /// Forgets a sender, and remembers its numbers.
    pub(crate) fn drop_sender(&mut self, slot: usize) {
        let Some(gone) = self.senders.get_mut(slot).and_then(Option::take) else {
            return;
        };
        if let Some(peer) = self.peers.get_mut(gone.pc).and_then(Option::as_mut) {
            peer.senders.retain(|at| *at != slot);
            peer.outbox.forget(Some(slot));
            peer.spent
                .insert(gone.config.ssrc, gone.forwarder.next_sequence());
            peer.stood.insert(gone.config.ssrc, gone.forwarder.state());
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
        if !gone.is_ending {
            self.sender_slots.remove(&gone.id);
        }
    }
}

const UNKNOWN_PC: &str = "unknown peer connection";
const UNKNOWN_TRACK: &str = "unknown track";

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
