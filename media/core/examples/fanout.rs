//! What forwarding costs: one publisher, 300 packets/s of 1,100 bytes in frames of ten, to 40 subscribers, in memory.
//!
//! `cargo run --release -p mediacore-core --example fanout [seconds of media]` prints CPU nanoseconds per forwarded packet.
#![allow(clippy::unwrap_used, reason = "a measurement, not a service")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mediacore_core::packet::extensions::ExtensionIds;
use mediacore_core::{
    Codec, Command, DtlsIdentity, LocalAddress, PcId, PeerConnectionConfig, Protocol,
    ReceiverConfig, RemoteTransport, SenderConfig, SenderId, Shard, ShardConfig, SourceConfig,
    TrackId, TrackKind,
};

const SUBSCRIBERS: u64 = 40;

fn main() {
    let seconds: u64 = std::env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(20);
    let start = Instant::now();
    let mut now = start;
    let mut server = shard(0, start);
    // One client shard per peer connection: clients tell theirs apart by socket.
    let mut clients: Vec<(Shard, String)> = Vec::new();
    for pc in 0..=SUBSCRIBERS {
        let mut client = shard(pc + 1, start);
        connect(&mut server, &mut client, pc, now);
        clients.push(client);
    }
    for _ in 0..200 {
        now += Duration::from_millis(10);
        exchange(&mut server.0, &mut clients, now);
    }
    let source = SourceConfig {
        kind: TrackKind::Video,
        mime: "video/VP8".to_owned(),
        clock_rate: 90_000,
        frames_per_second: 30.0,
        packets_per_frame: 10,
        payload_bytes: 1100,
    };
    let publisher = &mut clients[0].0;
    publisher.handle_command(
        now,
        Command::AddSource {
            track: TrackId(1),
            config: source,
        },
    );
    publisher.handle_command(now, add_sender(0, 1));
    server.0.handle_command(now, add_receiver(0, 1));
    for pc in 1..=SUBSCRIBERS {
        server.0.handle_command(now, add_sender(pc, 100 + pc));
        clients[pc as usize]
            .0
            .handle_command(now, add_receiver(pc, pc));
    }
    for _ in 0..200 {
        now += Duration::from_millis(10);
        exchange(&mut server.0, &mut clients, now);
    }
    let before = forwarded(&mut server.0, now);
    let mut spent = Duration::ZERO;
    let mut runs = 0;
    for _ in 0..seconds * 100 {
        now += Duration::from_millis(10);
        let (cost, transmits) = exchange(&mut server.0, &mut clients, now);
        spent += cost;
        runs += transmits;
    }
    let packets = forwarded(&mut server.0, now) - before;
    let each = spent.as_nanos() as f64 / packets as f64;
    println!(
        "{packets} packets forwarded, {each:.0} ns each, {:.1} in a run",
        packets as f64 / runs as f64
    );
}

fn forwarded(server: &mut Shard, now: Instant) -> u64 {
    server
        .stats(now)
        .senders
        .iter()
        .map(|sender| sender.packets)
        .sum()
}

/// Moves everything that waits once around; returns what the server took for it.
fn exchange(
    server: &mut Shard,
    clients: &mut [(Shard, String)],
    now: Instant,
) -> (Duration, usize) {
    let mut to_server = Vec::new();
    for (index, (client, _)) in clients.iter_mut().enumerate() {
        client.handle_timeout(now);
        client.flush(now);
        while let Some(transmit) = client.poll_transmit() {
            for segment in transmit.data.chunks(usize::from(transmit.segment_size)) {
                to_server.push((address(index as u64 + 1), segment.to_vec()));
            }
            client.recycle(transmit.data);
        }
        while client.poll_event().is_some() {}
    }
    let mut to_clients = Vec::new();
    let begin = cpu_time();
    for (source, packet) in &mut to_server {
        server.handle_datagram(now, 0, *source, packet);
    }
    server.handle_timeout(now);
    server.flush(now);
    while let Some(transmit) = server.poll_transmit() {
        to_clients.push(transmit);
    }
    while server.poll_event().is_some() {}
    let cost = cpu_time() - begin;
    let runs = to_clients.len();
    for transmit in to_clients {
        let index = usize::from(transmit.destination.port()) - 10_001;
        for segment in transmit.data.chunks(usize::from(transmit.segment_size)) {
            clients[index]
                .0
                .handle_datagram(now, 0, address(0), &mut segment.to_vec());
        }
        server.recycle(transmit.data);
    }
    (cost, runs)
}

/// CPU time of this process in nanoseconds, from the scheduler's own account.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
}

fn address(index: u64) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 10_000 + index as u16))
}

fn shard(index: u64, start: Instant) -> (Shard, String) {
    let identity = Arc::new(DtlsIdentity::new().unwrap());
    let fingerprint = identity.fingerprint().to_owned();
    let bound = address(index);
    let config = ShardConfig {
        identity,
        locals: vec![LocalAddress {
            socket: 0,
            bound,
            advertised: bound,
            protocol: Protocol::Udp,
        }],
        seed: index + 1,
        level_interval: Duration::from_millis(400),
        max_peer_connections: 1000,
        epoch: start,
        epoch_unix: Duration::from_secs(1_700_000_000),
    };
    (Shard::new(config, start), fingerprint)
}

fn connect(server: &mut (Shard, String), client: &mut (Shard, String), pc: u64, now: Instant) {
    let config = |name: &str, is_server: bool| PeerConnectionConfig {
        ice_ufrag: format!("{name}{pc}"),
        ice_pwd: format!("{name}{pc}0123456789abcdef012345"),
        ice_lite: is_server,
        ice_controlling: !is_server,
        dtls_active: is_server,
    };
    let (own, other) = (config("client", false), config("server", true));
    client.0.handle_command(
        now,
        Command::CreatePeerConnection {
            pc: PcId(pc),
            config: own.clone(),
        },
    );
    server.0.handle_command(
        now,
        Command::CreatePeerConnection {
            pc: PcId(pc),
            config: other.clone(),
        },
    );
    let remote = |config: PeerConnectionConfig, fingerprint: &str| RemoteTransport {
        ice_ufrag: config.ice_ufrag,
        ice_pwd: config.ice_pwd,
        fingerprint: fingerprint.to_owned(),
    };
    client.0.handle_command(
        now,
        Command::SetRemote {
            pc: PcId(pc),
            remote: remote(other.clone(), &server.1),
        },
    );
    server.0.handle_command(
        now,
        Command::SetRemote {
            pc: PcId(pc),
            remote: remote(own, &client.1),
        },
    );
    for candidate in server.0.candidates(&other.ice_ufrag) {
        client.0.handle_command(
            now,
            Command::AddRemoteCandidate {
                pc: PcId(pc),
                candidate,
            },
        );
    }
}

const IDS: ExtensionIds = ExtensionIds {
    mid: 0,
    rid: 0,
    repaired_rid: 0,
    audio_level: 0,
    transport_cc: 5,
    abs_send_time: 0,
    abs_capture_time: 0,
    dependency_descriptor: 0,
    playout_delay: 0,
    video_orientation: 0,
};

fn codec() -> Codec {
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

fn add_receiver(pc: u64, track: u64) -> Command {
    let config = ReceiverConfig {
        kind: TrackKind::Video,
        mid: "0".to_owned(),
        codecs: vec![codec()],
        encodings: Vec::new(),
        extensions: IDS,
        measure_level: false,
        probe: false,
    };
    Command::AddReceiver {
        pc: PcId(pc),
        track: TrackId(track),
        config,
    }
}

fn add_sender(pc: u64, sender: u64) -> Command {
    let config = SenderConfig {
        track: TrackId(1),
        mid: "0".to_owned(),
        ssrc: 1000 + sender as u32 * 2,
        rtx_ssrc: Some(1001 + sender as u32 * 2),
        cname: "c".to_owned(),
        codecs: vec![codec()],
        extensions: IDS,
        max_spatial_layer: 2,
        max_temporal_layer: 3,
        paused: false,
        strip_trailer: false,
        sif_trailer: Vec::new(),
        playout_delay: None,
        encode_red: false,
        priority: 0,
    };
    Command::AddSender {
        pc: PcId(pc),
        sender: SenderId(sender),
        config,
    }
}
