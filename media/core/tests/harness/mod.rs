//! Shards joined by emulated links in virtual time, and a bare client that shows every packet it gets.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test file uses its part of the harness"
)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mediacore_core::packet::rtcp::{Rtcp, RtcpPackets, SenderInfo};
use mediacore_core::packet::rtp::{RtpHeader, is_rtcp};
use mediacore_core::packet::{extensions::ExtensionIds, rtcp};
use mediacore_core::srtp::{SrtpReceiver, SrtpSender, keys_from_exporter};
use mediacore_core::transport::{TransportConfig, TransportOutput};
use mediacore_core::{
    Codec, Command, DtlsIdentity, Event, LocalAddress, PcId, PeerConnectionConfig, PeerTransport,
    Protocol, ReceiverConfig, RemoteTransport, SenderConfig, SenderId, Shard, ShardConfig,
    SourceConfig, Stats, TrackId, TrackKind,
};
use netem::{Link, LinkConfig};

pub const IDS: ExtensionIds = ExtensionIds {
    mid: 1,
    rid: 2,
    repaired_rid: 3,
    audio_level: 4,
    transport_cc: 5,
    abs_send_time: 6,
    abs_capture_time: 0,
    dependency_descriptor: 0,
    playout_delay: 0,
    video_orientation: 0,
};

/// Bare clients read the playout delay under this id, although `IDS` does not offer it.
pub const PLAYOUT_ID: u8 = 12;

pub fn vp8() -> Codec {
    Codec {
        mime: "video/VP8".to_owned(),
        payload_type: 96,
        clock_rate: 90_000,
        rtx_payload_type: Some(97),
        nack: true,
        pli: true,
        transport_cc: true,
    }
}

pub fn opus() -> Codec {
    Codec {
        mime: "audio/opus".to_owned(),
        payload_type: 111,
        clock_rate: 48_000,
        rtx_payload_type: None,
        nack: false,
        pli: false,
        transport_cc: false,
    }
}

pub fn video_source(packets_per_frame: u16, payload_bytes: u16) -> SourceConfig {
    SourceConfig {
        kind: TrackKind::Video,
        mime: "video/VP8".to_owned(),
        clock_rate: 90_000,
        frames_per_second: 30.0,
        packets_per_frame,
        payload_bytes,
    }
}

pub fn audio_source() -> SourceConfig {
    SourceConfig {
        kind: TrackKind::Audio,
        mime: "audio/opus".to_owned(),
        clock_rate: 48_000,
        frames_per_second: 50.0,
        packets_per_frame: 1,
        payload_bytes: 100,
    }
}

pub fn receiver(kind: TrackKind, mid: &str, codec: Codec) -> ReceiverConfig {
    ReceiverConfig {
        kind,
        mid: mid.to_owned(),
        codecs: vec![codec],
        encodings: Vec::new(),
        extensions: IDS,
        measure_level: false,
        probe: true,
    }
}

pub fn sender(track: TrackId, mid: &str, ssrc: u32, codec: Codec) -> SenderConfig {
    SenderConfig {
        track,
        mid: mid.to_owned(),
        ssrc,
        rtx_ssrc: codec.rtx_payload_type.map(|_| ssrc + 1),
        cname: "c".to_owned(),
        codecs: vec![codec],
        extensions: IDS,
        max_spatial_layer: 2,
        max_temporal_layer: 3,
        paused: false,
        strip_trailer: false,
        sif_trailer: Vec::new(),
        playout_delay: None,
        encode_red: false,
        priority: 0,
    }
}

/// Who a datagram is for.
enum Party {
    Shard(Box<Shard>, Vec<Event>),
    Bare(Box<Bare>),
}

/// A client without an engine: transport and SRTP only, every packet kept.
pub struct Bare {
    transport: PeerTransport,
    keys: Option<(SrtpSender, SrtpReceiver)>,
    path: Option<(usize, SocketAddr)>,
    pub connected: usize,
    /// Header, payload and arrival of every RTP packet.
    pub received: Vec<(RtpHeader, Vec<u8>, Instant)>,
    /// Times of keyframe requests, and SSRCs they name.
    pub keyframe_requests: Vec<(Instant, u32)>,
    pub sender_reports: Vec<SenderInfo>,
    pub data: Vec<(String, Vec<u8>)>,
    pub opened: Vec<String>,
    rollover: HashMap<u32, u64>,
    restarts: usize,
}

pub struct World {
    pub now: Instant,
    pub start: Instant,
    parties: Vec<(SocketAddr, Party)>,
    links: HashMap<(SocketAddr, SocketAddr), Link>,
    /// For links not made yet.
    pub link: LinkConfig,
    identities: Vec<Arc<DtlsIdentity>>,
    seed: u64,
}

pub fn pc_config(name: &str, is_server: bool) -> PeerConnectionConfig {
    PeerConnectionConfig {
        ice_ufrag: format!("ufrag{name}"),
        ice_pwd: format!("password{name}0123456789abcdef"),
        ice_lite: is_server,
        ice_controlling: !is_server,
        dtls_active: is_server,
    }
}

impl World {
    pub fn new() -> Self {
        let now = Instant::now();
        Self {
            now,
            start: now,
            parties: Vec::new(),
            links: HashMap::new(),
            link: LinkConfig {
                delay: Duration::from_millis(10),
                ..LinkConfig::default()
            },
            identities: Vec::new(),
            seed: 1,
        }
    }

    pub fn add_shard(&mut self) -> usize {
        let index = self.parties.len();
        let address: SocketAddr = format!("10.0.0.{}:5000", index + 1).parse().unwrap();
        let identity = Arc::new(DtlsIdentity::new().unwrap());
        let local = LocalAddress {
            socket: 0,
            bound: address,
            advertised: address,
            protocol: Protocol::Udp,
        };
        let config = ShardConfig {
            identity: Arc::clone(&identity),
            locals: vec![local],
            seed: 7 + index as u64,
            level_interval: Duration::from_millis(400),
            max_peer_connections: 64,
            epoch: self.start,
            epoch_unix: Duration::from_secs(1_700_000_000),
        };
        self.parties.push((
            address,
            Party::Shard(Box::new(Shard::new(config, self.now)), Vec::new()),
        ));
        self.identities.push(identity);
        index
    }

    /// A bare client, connected to `server` as `pc` there.
    pub fn add_bare(&mut self, server: usize, pc: u64) -> usize {
        let index = self.parties.len();
        let address: SocketAddr = format!("10.0.0.{}:5000", index + 1).parse().unwrap();
        let identity = Arc::new(DtlsIdentity::new().unwrap());
        let local = LocalAddress {
            socket: 0,
            bound: address,
            advertised: address,
            protocol: Protocol::Udp,
        };
        let own = pc_config(&format!("bare{index}r0"), false);
        let config = TransportConfig {
            ufrag: own.ice_ufrag.clone(),
            pwd: own.ice_pwd.clone(),
            ice_lite: false,
            controlling: true,
            dtls_active: false,
        };
        let transport =
            PeerTransport::new(config, Arc::clone(&identity), &[local], self.now).unwrap();
        let bare = Bare {
            transport,
            keys: None,
            path: None,
            connected: 0,
            received: Vec::new(),
            keyframe_requests: Vec::new(),
            sender_reports: Vec::new(),
            data: Vec::new(),
            opened: Vec::new(),
            rollover: HashMap::new(),
            restarts: 0,
        };
        self.parties.push((address, Party::Bare(Box::new(bare))));
        self.identities.push(identity);
        let config = pc_config(&format!("server{pc}"), true);
        self.command(
            server,
            Command::CreatePeerConnection {
                pc: PcId(pc),
                config: config.clone(),
            },
        );
        self.introduce_bare(index, server, pc, &config);
        index
    }

    /// Exchanges descriptions between a bare client and a server's peer connection.
    pub fn introduce_bare(
        &mut self,
        bare: usize,
        server: usize,
        pc: u64,
        config: &PeerConnectionConfig,
    ) {
        let own = self.bare_config(bare);
        let remote = RemoteTransport {
            ice_ufrag: own.ice_ufrag,
            ice_pwd: own.ice_pwd,
            fingerprint: self.identities[bare].fingerprint().to_owned(),
        };
        self.command(
            server,
            Command::SetRemote {
                pc: PcId(pc),
                remote,
            },
        );
        let candidates = self.shard(server).candidates(&config.ice_ufrag);
        let fingerprint = self.identities[server].fingerprint().to_owned();
        let now = self.now;
        let client = self.bare(bare);
        client
            .transport
            .set_remote(now, &config.ice_ufrag, &config.ice_pwd, &fingerprint)
            .unwrap();
        for candidate in candidates {
            client
                .transport
                .add_remote_candidate(now, &candidate)
                .unwrap();
        }
        self.settle(bare);
    }

    fn bare_config(&mut self, bare: usize) -> PeerConnectionConfig {
        let restarts = self.bare(bare).restarts;
        pc_config(&format!("bare{bare}r{restarts}"), false)
    }

    /// A client's ICE restart, towards another server.
    pub fn restart_bare(&mut self, bare: usize) {
        let now = self.now;
        self.bare(bare).restarts += 1;
        let own = self.bare_config(bare);
        let client = self.bare(bare);
        client
            .transport
            .restart_ice(now, &own.ice_ufrag, &own.ice_pwd)
            .unwrap();
        client.rollover.clear();
    }

    /// Connects a client shard's peer connection to a server shard's, both named `pc`.
    pub fn connect(&mut self, client: usize, server: usize, pc: u64) {
        let (client_config, server_config) = (
            pc_config(&format!("client{pc}"), false),
            pc_config(&format!("server{pc}"), true),
        );
        self.command(
            client,
            Command::CreatePeerConnection {
                pc: PcId(pc),
                config: client_config.clone(),
            },
        );
        self.command(
            server,
            Command::CreatePeerConnection {
                pc: PcId(pc),
                config: server_config.clone(),
            },
        );
        for (at, other, config) in [
            (client, server, server_config),
            (server, client, client_config),
        ] {
            let remote = RemoteTransport {
                ice_ufrag: config.ice_ufrag,
                ice_pwd: config.ice_pwd,
                fingerprint: self.identities[other].fingerprint().to_owned(),
            };
            self.command(
                at,
                Command::SetRemote {
                    pc: PcId(pc),
                    remote,
                },
            );
        }
        for candidate in self.shard(server).candidates(&format!("ufragserver{pc}")) {
            self.command(
                client,
                Command::AddRemoteCandidate {
                    pc: PcId(pc),
                    candidate,
                },
            );
        }
    }

    pub fn shard(&mut self, index: usize) -> &mut Shard {
        match &mut self.parties[index].1 {
            Party::Shard(shard, _) => shard,
            Party::Bare(_) => panic!("not a shard"),
        }
    }

    pub fn bare(&mut self, index: usize) -> &mut Bare {
        match &mut self.parties[index].1 {
            Party::Bare(bare) => bare,
            Party::Shard(..) => panic!("not a bare client"),
        }
    }

    pub fn events(&mut self, index: usize) -> Vec<Event> {
        match &mut self.parties[index].1 {
            Party::Shard(_, events) => std::mem::take(events),
            Party::Bare(_) => panic!("not a shard"),
        }
    }

    pub fn stats(&mut self, index: usize) -> Stats {
        let now = self.now;
        self.shard(index).stats(now)
    }

    pub fn counter(&mut self, index: usize, name: &str) -> u64 {
        self.stats(index)
            .counters
            .iter()
            .find(|(known, _)| *known == name)
            .unwrap()
            .1
    }

    pub fn command(&mut self, index: usize, command: Command) {
        let now = self.now;
        self.shard(index).handle_command(now, command);
        self.settle(index);
    }

    pub fn set_link(&mut self, from: usize, to: usize, config: LinkConfig) {
        self.seed += 1;
        let key = (self.parties[from].0, self.parties[to].0);
        let link = Link::new(self.seed, config);
        self.links.insert(key, link);
    }

    pub fn inject(&mut self, index: usize, source: SocketAddr, mut packet: Vec<u8>) {
        let now = self.now;
        self.shard(index)
            .handle_datagram(now, 0, source, &mut packet);
        self.settle(index);
    }

    pub fn address(&self, index: usize) -> SocketAddr {
        self.parties[index].0
    }

    /// Sends an RTP packet from a bare client.
    pub fn send_rtp(&mut self, bare: usize, header: &RtpHeader, payload: &[u8]) {
        let client = self.bare(bare);
        let Some((sender, _)) = &mut client.keys else {
            panic!("not connected")
        };
        let newest = client
            .rollover
            .entry(header.ssrc)
            .or_insert(u64::from(header.sequence));
        let index = mediacore_core::sequence::extend(*newest, header.sequence);
        *newest = (*newest).max(index);
        let mut head = Vec::new();
        header.write(&mut head, &IDS);
        let mut data = Vec::new();
        sender.seal_rtp(index, &head, payload, &mut data);
        let (_, destination) = client.path.unwrap();
        self.carry(bare, destination, data);
    }

    /// Sends RTCP from a bare client.
    pub fn send_rtcp(&mut self, bare: usize, packet: &[u8]) {
        let client = self.bare(bare);
        let Some((sender, _)) = &mut client.keys else {
            panic!("not connected")
        };
        let mut data = Vec::new();
        sender.seal_rtcp(packet, &mut data);
        let (_, destination) = client.path.unwrap();
        self.carry(bare, destination, data);
    }

    pub fn send_pli(&mut self, bare: usize, media_ssrc: u32) {
        let mut packet = Vec::new();
        rtcp::write_pli(&mut packet, 99, media_ssrc);
        self.send_rtcp(bare, &packet);
    }

    pub fn send_data(&mut self, bare: usize, label: &str, payload: &[u8]) {
        let now = self.now;
        self.bare(bare)
            .transport
            .send_data(now, label, payload, true)
            .unwrap();
        self.settle(bare);
    }

    fn carry(&mut self, from: usize, destination: SocketAddr, data: Vec<u8>) {
        let source = self.parties[from].0;
        let (config, now) = (self.link, self.now);
        let seed = &mut self.seed;
        let link = self.links.entry((source, destination)).or_insert_with(|| {
            *seed += 1;
            Link::new(*seed, config)
        });
        link.send(now, data);
    }

    /// Drains a party after something happened to it.
    fn settle(&mut self, index: usize) {
        let now = self.now;
        let mut out = Vec::new();
        match &mut self.parties[index].1 {
            Party::Shard(shard, events) => {
                shard.flush(now);
                while let Some(mut transmit) = shard.poll_transmit() {
                    for segment in transmit.data.chunks(usize::from(transmit.segment_size)) {
                        out.push((transmit.destination, segment.to_vec()));
                    }
                    transmit.data.clear();
                    shard.recycle(transmit.data);
                }
                while let Some(event) = shard.poll_event() {
                    events.push(event);
                }
            }
            Party::Bare(bare) => {
                while let Some(output) = bare.transport.poll_output() {
                    match output {
                        TransportOutput::Transmit {
                            destination, data, ..
                        } => out.push((destination, data)),
                        TransportOutput::SrtpKeys {
                            profile,
                            material,
                            client,
                        } => {
                            bare.keys =
                                Some(keys_from_exporter(profile, &material, client).unwrap());
                        }
                        TransportOutput::Path {
                            socket,
                            destination,
                        } => bare.path = Some((socket, destination)),
                        TransportOutput::Connected => bare.connected += 1,
                        TransportOutput::ChannelOpened { label, .. } => bare.opened.push(label),
                        TransportOutput::Data { label, payload, .. } => {
                            bare.data.push((label, payload))
                        }
                        _ => {}
                    }
                }
            }
        }
        for (destination, data) in out {
            self.carry(index, destination, data);
        }
    }

    /// Runs until `duration` has passed.
    pub fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let mut next = end;
            for (_, party) in &mut self.parties {
                let due = match party {
                    Party::Shard(shard, _) => Some(shard.poll_timeout()),
                    Party::Bare(bare) => bare.transport.poll_timeout(),
                };
                next = due.map_or(next, |due| next.min(due));
            }
            for link in self.links.values() {
                next = link.next_timeout().map_or(next, |due| next.min(due));
            }
            self.now = self.now.max(next);
            let now = self.now;
            let mut due = Vec::new();
            for ((source, destination), link) in &mut self.links {
                while let Some(data) = link.poll(now) {
                    due.push((*source, *destination, data));
                }
            }
            // Links live in a map: an order of their own keeps runs equal.
            due.sort_by_key(|(source, destination, _)| (*source, *destination));
            for (source, destination, mut data) in due {
                let Some(index) = self
                    .parties
                    .iter()
                    .position(|(address, _)| *address == destination)
                else {
                    continue;
                };
                match &mut self.parties[index].1 {
                    Party::Shard(shard, _) => shard.handle_datagram(now, 0, source, &mut data),
                    Party::Bare(bare) => bare.handle(now, source, &mut data),
                }
                self.settle(index);
            }
            for index in 0..self.parties.len() {
                match &mut self.parties[index].1 {
                    Party::Shard(shard, _) => {
                        if shard.poll_timeout() <= now {
                            shard.handle_timeout(now);
                        }
                    }
                    Party::Bare(bare) => {
                        if bare.transport.poll_timeout().is_some_and(|due| due <= now) {
                            bare.transport.handle_timeout(now);
                        }
                    }
                }
                self.settle(index);
            }
            if self.now >= end {
                return;
            }
        }
    }

    pub fn run_ms(&mut self, milliseconds: u64) {
        self.run(Duration::from_millis(milliseconds));
    }
}

impl Bare {
    fn handle(&mut self, now: Instant, source: SocketAddr, data: &mut [u8]) {
        match data.first() {
            Some(0..=3) => self.transport.handle_stun(now, 0, source, data),
            Some(20..=63) => self.transport.handle_dtls(now, data),
            Some(128..=191) => self.handle_srtp(now, data),
            _ => panic!("unexpected datagram"),
        }
    }

    fn handle_srtp(&mut self, now: Instant, data: &mut [u8]) {
        let Some((_, keys)) = &mut self.keys else {
            return;
        };
        if is_rtcp(data) {
            // Packets under the keys before a restart may still be on their way.
            let Ok(length) = keys.open_rtcp(data) else {
                return;
            };
            for part in RtcpPackets::new(&data[..length]) {
                match part.unwrap() {
                    Rtcp::Pli { media_ssrc, .. } => self.keyframe_requests.push((now, media_ssrc)),
                    Rtcp::SenderReport { info, .. } => self.sender_reports.push(info),
                    _ => {}
                }
            }
            return;
        }
        let ids = ExtensionIds {
            playout_delay: PLAYOUT_ID,
            ..IDS
        };
        let mut header = RtpHeader::parse(data, &ids).unwrap();
        let Ok((length, _)) = keys.open_rtp(data, header.header_len, header.ssrc, header.sequence)
        else {
            return;
        };
        let payload = header.read_padding(&data[..length]).unwrap();
        let payload = data[header.header_len..header.header_len + payload].to_vec();
        self.received.push((header, payload, now));
    }
}

/// Ids in short.
pub fn track(id: u64) -> TrackId {
    TrackId(id)
}

pub fn sid(id: u64) -> SenderId {
    SenderId(id)
}

/// A simulcast encoding as a bare publisher sends it: VP8, two temporal layers.
pub struct Camera {
    pub ssrc: u32,
    pub sequence: u16,
    pub timestamp: u32,
    pub picture_id: u16,
    pub tl0: u8,
    pub frames: u32,
    pub temporal_layers: bool,
}

impl Camera {
    pub fn new(ssrc: u32, seed: u16) -> Self {
        Self {
            ssrc,
            sequence: seed,
            timestamp: u32::from(seed) * 1000,
            picture_id: seed & 0x7fff,
            tl0: seed as u8,
            frames: 0,
            temporal_layers: true,
        }
    }

    /// The packets of the next frame, a thirtieth of a second after the one before.
    pub fn frame(&mut self, keyframe: bool, packets: u16) -> Vec<(RtpHeader, Vec<u8>)> {
        let temporal = if self.temporal_layers && !keyframe && self.frames % 2 == 1 {
            1
        } else {
            0
        };
        self.frames = if keyframe { 1 } else { self.frames + 1 };
        self.timestamp = self.timestamp.wrapping_add(3000);
        self.picture_id = (self.picture_id + 1) & 0x7fff;
        if temporal == 0 {
            self.tl0 = self.tl0.wrapping_add(1);
        }
        let mut out = Vec::new();
        for index in 0..packets {
            let [high, low] = self.picture_id.to_be_bytes();
            let mut payload = vec![
                0x80 | u8::from(index == 0) << 4,
                0xe0,
                0x80 | high,
                low,
                self.tl0,
                temporal << 6 | u8::from(temporal > 0) << 5,
                u8::from(!keyframe),
            ];
            payload.resize(300 + self.ssrc as usize % 7, 0x33);
            self.sequence = self.sequence.wrapping_add(1);
            let header = RtpHeader {
                marker: index + 1 == packets,
                payload_type: 96,
                sequence: self.sequence,
                timestamp: self.timestamp,
                ssrc: self.ssrc,
                ..RtpHeader::default()
            };
            out.push((header, payload));
        }
        out
    }
}
