//! Media between clients through a server.
#![allow(clippy::unwrap_used)]

mod harness;

use std::time::Duration;

use harness::*;
use mediacore_core::{Command, Event, PcId, TrackKind};
use netem::LinkConfig;

/// Client 1 publishes a source to the server, which forwards it to client 2. Returns (world, server, one, two).
fn one_to_one(kind: TrackKind, link: LinkConfig) -> (World, usize, usize, usize) {
    let mut world = World::new();
    world.link = link;
    let server = world.add_shard();
    let (one, two) = (world.add_shard(), world.add_shard());
    world.connect(one, server, 1);
    world.connect(two, server, 2);
    let (codec, source) = match kind {
        TrackKind::Video => (vp8(), video_source(5, 1000)),
        TrackKind::Audio => (opus(), audio_source()),
    };
    world.command(
        one,
        Command::AddSource {
            track: track(1),
            config: source,
        },
    );
    world.command(
        one,
        Command::AddSender {
            pc: PcId(1),
            sender: sid(1),
            config: sender(track(1), "0", 1000, codec.clone()),
        },
    );
    world.command(
        server,
        Command::AddReceiver {
            pc: PcId(1),
            track: track(1),
            config: receiver(kind, "0", codec.clone()),
        },
    );
    world.command(
        server,
        Command::AddSender {
            pc: PcId(2),
            sender: sid(2),
            config: sender(track(1), "0", 2000, codec.clone()),
        },
    );
    world.command(
        two,
        Command::AddReceiver {
            pc: PcId(2),
            track: track(2),
            config: receiver(kind, "0", codec),
        },
    );
    (world, server, one, two)
}

fn no_rejections(world: &mut World, parties: &[usize]) -> Vec<Event> {
    let mut all = Vec::new();
    for &party in parties {
        for event in world.events(party) {
            assert!(!matches!(event, Event::Rejected { .. }), "{event:?}");
            all.push(event);
        }
    }
    all
}

#[test]
fn video_and_audio_flow_both_ways() {
    for kind in [TrackKind::Video, TrackKind::Audio] {
        let (mut world, server, one, two) = one_to_one(kind, World::new().link);
        let codec = if kind == TrackKind::Video {
            vp8()
        } else {
            opus()
        };
        let source = if kind == TrackKind::Video {
            video_source(2, 500)
        } else {
            audio_source()
        };
        // and back
        world.command(
            two,
            Command::AddSource {
                track: track(3),
                config: source,
            },
        );
        world.command(
            two,
            Command::AddSender {
                pc: PcId(2),
                sender: sid(3),
                config: sender(track(3), "1", 3000, codec.clone()),
            },
        );
        world.command(
            server,
            Command::AddReceiver {
                pc: PcId(2),
                track: track(3),
                config: receiver(kind, "1", codec.clone()),
            },
        );
        world.command(
            server,
            Command::AddSender {
                pc: PcId(1),
                sender: sid(4),
                config: sender(track(3), "1", 4000, codec.clone()),
            },
        );
        world.command(
            one,
            Command::AddReceiver {
                pc: PcId(1),
                track: track(4),
                config: receiver(kind, "1", codec),
            },
        );
        world.run_ms(3000);
        no_rejections(&mut world, &[server, one, two]);
        for (client, id) in [(two, 2), (one, 4)] {
            let stats = world.stats(client);
            let received = stats.tracks.iter().find(|t| t.track == track(id)).unwrap();
            assert!(
                received.packets > 100,
                "{kind:?}: {} packets",
                received.packets
            );
            assert_eq!(received.lost, 0);
            assert!(stats.probe_latency_us.iter().sum::<u64>() > 100);
        }
    }
}

#[test]
fn five_percent_loss_is_repaired() {
    let delay = Duration::from_millis(10);
    let (mut world, server, one, two) = one_to_one(
        TrackKind::Video,
        LinkConfig {
            delay,
            ..LinkConfig::default()
        },
    );
    world.run_ms(1000);
    let lossy = LinkConfig {
        delay,
        loss: 0.05,
        ..LinkConfig::default()
    };
    for (from, to) in [(one, server), (server, one), (server, two), (two, server)] {
        world.set_link(from, to, lossy);
    }
    world.run_ms(10_000);
    for (from, to) in [(one, server), (server, one), (server, two), (two, server)] {
        world.set_link(
            from,
            to,
            LinkConfig {
                delay,
                ..LinkConfig::default()
            },
        );
    }
    world.run_ms(1000);
    no_rejections(&mut world, &[server, one, two]);
    let sent = world.stats(server).senders[0].packets;
    let retransmitted = world.stats(server).senders[0].retransmitted;
    let stats = world.stats(two);
    let received = &stats.tracks[0];
    assert!(sent > 1500);
    assert!(retransmitted > 50, "{retransmitted}");
    assert!(
        received.lost as f64 <= sent as f64 * 0.001,
        "lost {} of {sent}",
        received.lost
    );
}

#[test]
fn reordered_and_delayed_packets_all_arrive() {
    let link = LinkConfig {
        delay: Duration::from_millis(30),
        jitter: Duration::from_millis(10),
        reorder: 0.05,
        ..LinkConfig::default()
    };
    let (mut world, server, one, two) = one_to_one(TrackKind::Video, link);
    world.run_ms(5000);
    no_rejections(&mut world, &[server, one, two]);
    let stats = world.stats(two);
    assert!(stats.tracks[0].packets > 400);
    assert!(stats.tracks[0].lost <= 2, "{:?}", stats.tracks[0]);
}

#[test]
fn a_publisher_that_vanishes_is_given_up_and_costs_nothing_more() {
    let (mut world, server, one, two) = one_to_one(TrackKind::Video, LinkConfig::default());
    world.run(Duration::from_secs(3));
    no_rejections(&mut world, &[server, one, two]);

    let cut = LinkConfig {
        loss: 1.0,
        ..LinkConfig::default()
    };
    world.set_link(one, server, cut);
    world.set_link(server, one, cut);
    let mut seen = Vec::new();
    for _ in 0..600 {
        world.run(Duration::from_millis(100));
        let now = world.now;
        let due = world.shard(server).poll_timeout();
        assert!(due > now, "the server has something to do for ever");
        seen.extend(world.events(server));
    }
    let gone = PcId(1);
    let lost = seen
        .iter()
        .any(|event| matches!(event, Event::Disconnected { pc } if *pc == gone));
    let failed = seen
        .iter()
        .any(|event| matches!(event, Event::Failed { pc, .. } if *pc == gone));
    assert!(lost && failed, "{seen:?}");
    assert!(
        !seen
            .iter()
            .any(|event| matches!(event, Event::Failed { pc, .. } if *pc == PcId(2)))
    );
}
