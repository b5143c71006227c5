//! Whatever bytes arrive: no panic, no state for strangers, and media goes on.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::*;
use mediacore_core::packet::rtp::RtpHeader;
use mediacore_core::{Command, Event, PcId, TrackKind};

/// Random bytes, fewer than `words` times `size`, at least two words when words are asked for.
fn noise(random: &mut fastrand::Rng, size: usize, words: usize) -> Vec<u8> {
    let length = size * random.usize(if size > 1 { 2 } else { 0 }..words);
    (0..length).map(|_| random.u8(..)).collect()
}

#[test]
fn garbage_from_strangers_and_from_the_peers_address_is_dropped() {
    let mut world = World::new();
    let server = world.add_shard();
    let client = world.add_bare(server, 1);
    world.command(
        server,
        Command::AddReceiver {
            pc: PcId(1),
            track: track(1),
            config: receiver(TrackKind::Video, "0", vp8()),
        },
    );
    world.run_ms(1000);
    let mut random = fastrand::Rng::with_seed(3);
    let strangers = "192.0.2.1:4000".parse().unwrap();
    let known = world.address(client);
    for round in 0..20_000 {
        let mut packet: Vec<u8> = noise(&mut random, 1, 200);
        // Every kind of first byte, and now and then a plausible second one.
        if let Some(first) = packet.first_mut() {
            *first = [0, 1, 20, 22, 63, 128, 0x90, 0xb0, 191, 255][round % 10];
        }
        if round % 3 == 0 && packet.len() > 12 {
            packet[1] = [96, 200, 201, 205, 206][round % 5];
        }
        world.inject(
            server,
            if round % 2 == 0 { known } else { strangers },
            packet,
        );
    }
    assert!(world.counter(server, "address_unknown") > 1000);
    assert!(
        world.counter(server, "rtp_malformed") + world.counter(server, "rtp_unauthenticated")
            > 1000
    );
    let events = world.events(server);
    assert!(
        !events
            .iter()
            .any(|event| matches!(event, Event::Failed { .. })),
        "{events:?}"
    );
    let mut camera = Camera::new(100, 10);
    for _ in 0..30 {
        for (mut header, payload) in camera.frame(true, 2) {
            header.extensions.mid = mediacore_core::packet::extensions::ShortText::new(b"0");
            world.send_rtp(client, &header, &payload);
        }
        world.run_ms(33);
    }
    world.run_ms(100);
    assert_eq!(world.stats(server).tracks[0].packets, 60);
}

#[test]
fn totals_do_not_go_back_when_a_peer_connection_closes() {
    let mut world = World::new();
    let server = world.add_shard();
    let client = world.add_bare(server, 1);
    world.run_ms(1000);
    let known = world.address(client);
    for _ in 0..50 {
        // A binding request that knows neither name nor password.
        let mut request = vec![0; 20];
        request[1] = 1;
        request[4..8].copy_from_slice(&[0x21, 0x12, 0xa4, 0x42]);
        world.inject(server, known, request);
    }
    let names = ["stun_malformed", "stun_unauthenticated", "stun_unexpected"];
    let before = names.map(|name| world.counter(server, name));
    assert!(before.iter().sum::<u64>() >= 50, "{before:?}");
    world.command(server, Command::ClosePeerConnection { pc: PcId(1) });
    world.run_ms(100);
    assert_eq!(names.map(|name| world.counter(server, name)), before);
}

#[test]
fn authentic_nonsense_is_dropped() {
    let mut world = World::new();
    let server = world.add_shard();
    let (client, subscriber) = (world.add_bare(server, 1), world.add_bare(server, 2));
    world.command(
        server,
        Command::AddReceiver {
            pc: PcId(1),
            track: track(1),
            config: receiver(TrackKind::Video, "0", vp8()),
        },
    );
    world.command(
        server,
        Command::AddSender {
            pc: PcId(2),
            sender: sid(1),
            config: sender(track(1), "0", 5000, vp8()),
        },
    );
    world.run_ms(1000);
    let mut random = fastrand::Rng::with_seed(4);
    for _ in 0..5_000 {
        let header = RtpHeader {
            marker: random.bool(),
            payload_type: *random.choice(&[96, 97, 98, 0]).unwrap(),
            sequence: random.u16(..),
            timestamp: random.u32(..),
            ssrc: random.u32(100..104),
            ..RtpHeader::default()
        };
        let payload: Vec<u8> = noise(&mut random, 1, 40);
        world.send_rtp(client, &header, &payload);
        let mut control: Vec<u8> = noise(&mut random, 4, 20);
        control[0] = 0x80 | random.u8(..32);
        control[1] = random.u8(200..208);
        control[2] = 0;
        control[3] = (control.len() / 4 - 1) as u8;
        world.send_rtcp(if random.bool() { client } else { subscriber }, &control);
        if random.u8(..) == 0 {
            world.run_ms(5);
        }
    }
    world.run_ms(5000);
    assert!(world.counter(server, "rtp_unrouted") > 100);
    assert!(
        !world
            .events(server)
            .iter()
            .any(|event| matches!(event, Event::Failed { .. }))
    );
}

#[test]
fn damaged_session_states_are_rejected() {
    let mut world = World::new();
    let server = world.add_shard();
    world.add_bare(server, 1);
    world.command(
        server,
        Command::AddReceiver {
            pc: PcId(1),
            track: track(1),
            config: receiver(TrackKind::Video, "0", vp8()),
        },
    );
    world.command(
        server,
        Command::AddSender {
            pc: PcId(1),
            sender: sid(1),
            config: sender(track(1), "0", 5000, vp8()),
        },
    );
    let state = world.shard(server).export_peer_connection(PcId(1)).unwrap();
    let other = world.add_shard();
    for length in 0..state.len() {
        world.command(
            other,
            Command::ImportPeerConnection {
                pc: PcId(1),
                state: state[..length].to_vec(),
                config: pc_config("x", true),
            },
        );
        assert!(matches!(world.events(other)[..], [Event::Rejected { .. }]));
    }
    let mut random = fastrand::Rng::with_seed(5);
    for pc in 0..500 {
        let mut damaged = state.clone();
        let at = random.usize(..damaged.len());
        damaged[at] ^= 1 << random.u8(..8);
        let config = pc_config(&format!("y{pc}"), true);
        world.command(
            other,
            Command::ImportPeerConnection {
                pc: PcId(pc),
                state: damaged,
                config,
            },
        );
        world.command(other, Command::ClosePeerConnection { pc: PcId(pc) });
    }
    world.events(other);
    world.command(
        other,
        Command::ImportPeerConnection {
            pc: PcId(1),
            state,
            config: pc_config("z", true),
        },
    );
    assert!(world.events(other).is_empty());
}
