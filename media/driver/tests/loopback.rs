//! Two and three engines on loopback: the sockets, the thread and the shard together, without Python.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use mediacore_core::{
    Codec, Command, Event, ExtensionIds, PcId, PeerConnectionConfig, ReceiverConfig,
    RemoteTransport, SenderConfig, SenderId, SourceConfig, TrackId, TrackKind,
};
use mediacore_driver::{Binding, Engine, EngineConfig};

const PC: PcId = PcId(1);

fn bindings(address: &str) -> Vec<Binding> {
    vec![Binding {
        address: address.parse().unwrap(),
        advertise: None,
    }]
}

fn open(udp: Vec<Binding>, tcp: Vec<Binding>) -> Engine {
    Engine::open(&EngineConfig {
        udp,
        tcp,
        event_interval: Duration::from_millis(2),
        level_interval: Duration::from_millis(400),
        max_peer_connections: 10,
    })
    .unwrap()
}

/// Polls until `probe` gives something.
fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn until_event(what: &str, engine: &Engine, wanted: impl Fn(&Event) -> bool) -> Event {
    until(what, || {
        engine.drain().into_iter().find(|event| wanted(event))
    })
}

fn transport(ufrag: &str, server: bool) -> PeerConnectionConfig {
    PeerConnectionConfig {
        ice_ufrag: ufrag.into(),
        ice_pwd: format!("{ufrag}-0123456789012345678901"),
        ice_lite: server,
        ice_controlling: !server,
        dtls_active: server,
    }
}

fn remote(ufrag: &str, engine: &Engine) -> RemoteTransport {
    RemoteTransport {
        ice_ufrag: ufrag.into(),
        ice_pwd: transport(ufrag, false).ice_pwd,
        fingerprint: engine.fingerprint().into(),
    }
}

/// Connects `pc` of the server with 1 of the client.
fn connect(server: &Engine, client: &Engine, pc: PcId) {
    let (theirs, ours) = (format!("srv{}x", pc.0), format!("cli{}x", pc.0));
    let create = |pc, config| Command::CreatePeerConnection { pc, config };
    server
        .command(create(pc, transport(&theirs, true)))
        .unwrap();
    client.command(create(PC, transport(&ours, false))).unwrap();
    let set = |pc, remote| Command::SetRemote { pc, remote };
    server.command(set(pc, remote(&ours, client))).unwrap();
    client.command(set(PC, remote(&theirs, server))).unwrap();
    for candidate in server.candidates(&theirs).unwrap() {
        client
            .command(Command::AddRemoteCandidate { pc: PC, candidate })
            .unwrap();
    }
    let connected = |event: &Event| matches!(event, Event::Connected { .. });
    until_event("the server's connection", server, connected);
    until_event("the client's connection", client, connected);
}

fn codecs() -> Vec<Codec> {
    vec![Codec {
        mime: "video/VP8".into(),
        payload_type: 96,
        clock_rate: 90_000,
        rtx_payload_type: Some(97),
        nack: true,
        pli: true,
        transport_cc: true,
    }]
}

fn extensions() -> ExtensionIds {
    ExtensionIds {
        mid: 4,
        transport_cc: 3,
        ..ExtensionIds::default()
    }
}

fn receiver(mid: &str) -> ReceiverConfig {
    ReceiverConfig {
        kind: TrackKind::Video,
        mid: mid.into(),
        codecs: codecs(),
        encodings: Vec::new(),
        extensions: extensions(),
        measure_level: false,
        probe: true,
    }
}

fn sender(track: TrackId, mid: &str, ssrc: u32) -> SenderConfig {
    SenderConfig {
        track,
        mid: mid.into(),
        ssrc,
        rtx_ssrc: Some(ssrc + 1),
        cname: "c".into(),
        codecs: codecs(),
        extensions: extensions(),
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

#[test]
fn messages_cross_both_ways() {
    let server = open(bindings("[::1]:0"), Vec::new());
    let client = open(bindings("[::1]:0"), Vec::new());
    connect(&server, &client, PC);
    let label = "_reliable".to_owned();
    let (ordered, max_retransmits) = (true, None);
    server
        .command(Command::OpenDataChannel {
            pc: PC,
            label,
            ordered,
            max_retransmits,
        })
        .unwrap();
    let opened = |event: &Event| matches!(event, Event::DataChannelOpened { .. });
    until_event("the client's channel", &client, opened);
    until_event("the server's channel", &server, opened);
    for (from, to) in [(&server, &client), (&client, &server)] {
        let (label, payload) = ("_reliable".to_owned(), vec![1, 2, 3]);
        from.command(Command::SendData {
            pcs: vec![PC],
            label,
            payload,
            binary: true,
        })
        .unwrap();
        let received = |event: &Event| matches!(event, Event::DataReceived { .. });
        let Event::DataReceived { payload, .. } = until_event("a message", to, received) else {
            unreachable!("only messages are wanted");
        };
        assert_eq!(payload, [1, 2, 3]);
    }
}

#[test]
fn a_made_track_is_forwarded_in_deep_runs() {
    let server = open(bindings("127.0.0.1:0"), Vec::new());
    let publisher = open(bindings("127.0.0.1:0"), Vec::new());
    let subscriber = open(bindings("127.0.0.1:0"), Vec::new());
    connect(&server, &publisher, PcId(1));
    connect(&server, &subscriber, PcId(2));
    let (made, published, seen) = (TrackId(5), TrackId(10), TrackId(20));
    let config = SourceConfig {
        kind: TrackKind::Video,
        mime: "video/VP8".into(),
        clock_rate: 90_000,
        frames_per_second: 30.0,
        packets_per_frame: 10,
        payload_bytes: 1000,
    };
    let (pc, config_in) = (PcId(1), receiver("0"));
    server
        .command(Command::AddReceiver {
            pc,
            track: published,
            config: config_in,
        })
        .unwrap();
    subscriber
        .command(Command::AddReceiver {
            pc: PC,
            track: seen,
            config: receiver("1"),
        })
        .unwrap();
    let (pc, id) = (PcId(2), SenderId(7));
    server
        .command(Command::AddSender {
            pc,
            sender: id,
            config: sender(published, "1", 70),
        })
        .unwrap();
    publisher
        .command(Command::AddSource {
            track: made,
            config,
        })
        .unwrap();
    publisher
        .command(Command::AddSender {
            pc: PC,
            sender: id,
            config: sender(made, "0", 50),
        })
        .unwrap();
    let track = until("a hundred packets", || {
        let tracks = subscriber.stats().tracks;
        tracks
            .into_iter()
            .find(|track| track.track == seen && track.packets >= 100)
    });
    assert_eq!(track.lost, 0);
    let counters = server.stats().counters;
    let of = |name| {
        counters
            .iter()
            .find(|(key, _)| *key == name)
            .map_or(0, |(_, count)| *count)
    };
    assert!(of("datagrams_out") >= 100);
    // A frame's packets leave in far fewer messages than packets, unless the kernel cannot cut them.
    assert!(
        of("gso_refused") > 0 || of("send_messages") * 2 < of("datagrams_out"),
        "{counters:?}"
    );
}

#[test]
fn a_frame_over_tcp_reaches_the_shard() {
    let server = open(Vec::new(), bindings("127.0.0.1:0"));
    let candidates = server.candidates("abcd").unwrap();
    assert!(candidates[0].contains("tcptype passive"), "{candidates:?}");
    let create = Command::CreatePeerConnection {
        pc: PC,
        config: transport("abcd", true),
    };
    server.command(create).unwrap();
    // A check for a ufrag nobody has: silently dropped, and the connection stays.
    let mut stream = TcpStream::connect(server.tcp_addresses()[0]).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let mut check = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    check.extend([5; 12]);
    stream
        .write_all(&(check.len() as u16).to_be_bytes())
        .unwrap();
    stream.write_all(&check).unwrap();
    let kind = stream.read(&mut [0; 64]).map_err(|error| error.kind());
    assert_ne!(kind, Ok(0), "the connection was closed");
    let counters = until("the datagram", || {
        let counters = server.stats().counters;
        counters.contains(&("datagrams_in", 1)).then_some(counters)
    });
    assert!(counters.contains(&("tcp_accepted", 1)));
}
