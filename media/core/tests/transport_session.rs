//! A transport against another one, in virtual time.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use mediacore_core::transport::{
    DISCONNECTED_AFTER, DtlsIdentity, FAILED_AFTER, LOSSY_BUFFER, LOSSY_LATENCY, MAX_MESSAGE_SIZE,
    PeerTransport, RELIABLE_BUFFER, SendError, Sent, TransportError, TransportOutput,
    TransportState, candidate_lines,
};

mod transport_pair;
use transport_pair::*;

const SECOND: Duration = Duration::from_secs(1);

fn assert_same_keys(pair: &Pair) {
    let server = pair.server.keys();
    let client = pair.client.keys();
    assert!(!server.is_empty());
    assert_eq!(server.len(), client.len());
    for (a, b) in server.iter().zip(&client) {
        assert_eq!(a.0, b.0, "both sides derive the same material");
        assert_ne!(a.1, b.1, "one side is the DTLS client");
    }
}

#[test]
fn a_transport_can_move_between_threads() {
    fn check<T: Send>() {}
    check::<PeerTransport>();
}

#[test]
fn lite_server_and_full_client_connect_through_a_mapped_address() {
    let mut pair = Pair::usual();
    let took = pair.connect();
    assert!(took < Duration::from_millis(200), "{took:?}");
    assert_same_keys(&pair);
    assert!(pair.server.keys()[0].1, "the server is the DTLS client");
    let path = pair.server.transport.path().unwrap();
    assert_eq!(
        (path.socket, path.destination),
        (3, address("192.0.2.77:5000"))
    );
    let path = pair.client.transport.path().unwrap();
    assert_eq!(path.destination, address("203.0.113.5:7882"));
    let keys = |event: &TransportOutput| matches!(event, TransportOutput::SrtpKeys { .. });
    let up = |event: &TransportOutput| matches!(event, TransportOutput::Connected);
    let events = &pair.server.events;
    assert!(events.iter().position(keys) < events.iter().position(up));
}

#[test]
fn two_full_agents_connect() {
    let now = Instant::now();
    let mut pair = Pair::new(
        now,
        Peer::new(now, "srv1", false, false, true, &SERVER, &server_locals()),
        Peer::new(now, "cli1", false, true, false, &CLIENT, &client_locals()),
    );
    pair.connect();
    assert_same_keys(&pair);
}

#[test]
fn the_client_can_be_the_dtls_client() {
    let now = Instant::now();
    let mut pair = Pair::new(
        now,
        Peer::new(now, "srv1", true, false, false, &SERVER, &server_locals()),
        Peer::new(now, "cli1", false, true, true, &CLIENT, &client_locals()),
    );
    pair.connect();
    assert_same_keys(&pair);
    assert!(!pair.server.keys()[0].1);
}

#[test]
fn a_peer_of_dtls_12_is_served_in_both_roles() {
    let old = Arc::new(DtlsIdentity::with_dtls12_only().unwrap());
    for server_active in [true, false] {
        for loss in [0.0, 0.2] {
            let now = Instant::now();
            let mut pair = Pair::new(
                now,
                Peer::new(
                    now,
                    "srv1",
                    true,
                    false,
                    server_active,
                    &SERVER,
                    &server_locals(),
                ),
                Peer::new(
                    now,
                    "cli1",
                    false,
                    true,
                    !server_active,
                    &old,
                    &client_locals(),
                ),
            );
            pair.loss = loss;
            pair.connect();
            assert_same_keys(&pair);
            let now = pair.now;
            pair.server
                .transport
                .open_channel(now, "a", true, None)
                .unwrap();
            pair.run_until(10 * SECOND, |pair| pair.client.opened("a") == 1);
        }
    }
}

#[test]
fn connects_over_ipv6_beside_ipv4() {
    let now = Instant::now();
    let locals = [
        local(0, "10.0.0.5:7882", "203.0.113.5:7882"),
        local(1, "[2001:db8::5]:7882", "[2001:db8::5]:7882"),
    ];
    let client = [local(9, "[2001:db8::77]:5000", "[2001:db8::77]:5000")];
    let mut pair = Pair::new(
        now,
        Peer::new(now, "srv1", true, false, true, &SERVER, &locals),
        Peer::new(now, "cli1", false, true, false, &CLIENT, &client),
    );
    pair.connect();
    assert_eq!(pair.server.transport.path().unwrap().socket, 1);
}

#[test]
fn handshake_survives_loss() {
    for seed in 0..6 {
        let mut pair = Pair::usual();
        pair.rng = fastrand::Rng::with_seed(seed);
        pair.loss = 0.25;
        pair.connect();
        assert_same_keys(&pair);
    }
}

#[test]
fn client_hello_waits_for_an_authenticated_check() {
    let mut pair = Pair::usual();
    pair.record = true;
    pair.filter = Box::new(|datagram| datagram.to == Side::Client);
    pair.signal();
    pair.run_for(3 * SECOND);
    assert!(pair.seen.iter().all(|datagram| datagram.to == Side::Server));
    assert_eq!(pair.server.transport.path(), None);
    pair.filter = Box::new(|_| true);
    pair.run_until(5 * SECOND, |pair| pair.server.connected() > 0);
    assert!(pair.seen.iter().any(Datagram::is_client_hello));
}

#[test]
fn a_check_with_a_wrong_password_starts_nothing() {
    let mut pair = Pair::usual();
    pair.record = true;
    pair.signal();
    let print = pair.server.identity.fingerprint().to_owned();
    let now = pair.now;
    pair.client
        .transport
        .set_remote(now, "srv1", "not-the-password-of-the-server", &print)
        .unwrap();
    pair.drain_both();
    pair.wire.clear();
    pair.seen.clear();
    pair.run_for(3 * SECOND);
    assert!(pair.seen.iter().all(|datagram| datagram.to == Side::Server));
    assert!(pair.server.transport.counters().stun_unauthenticated > 0);
}

#[test]
fn a_wrong_certificate_fails_and_gives_no_keys() {
    for victim in [Side::Server, Side::Client] {
        let mut pair = Pair::usual();
        pair.signal();
        let now = pair.now;
        let print = OTHER.fingerprint();
        match victim {
            Side::Server => pair.server.transport.set_remote(now, "cli1", PWD, print),
            Side::Client => pair.client.transport.set_remote(now, "srv1", PWD, print),
        }
        .unwrap();
        let deceived = |pair: &Pair| match victim {
            Side::Server => pair.server.failed(),
            Side::Client => pair.client.failed(),
        };
        pair.run_until(5 * SECOND, |pair| deceived(pair).is_some());
        pair.run_for(3 * SECOND);
        assert!(deceived(&pair).unwrap().contains("certificate"));
        let peer = match victim {
            Side::Server => &pair.server,
            Side::Client => &pair.client,
        };
        assert!(peer.keys().is_empty());
        assert_eq!(peer.connected(), 0);
    }
}

#[test]
fn ice_restart_keeps_dtls_and_moves_to_the_new_address() {
    let now = Instant::now();
    let client = [
        local(0, "192.0.2.77:5000", "192.0.2.77:5000"),
        local(1, "198.51.100.9:5001", "198.51.100.9:5001"),
    ];
    let mut pair = Pair::new(
        now,
        Peer::new(now, "srv1", true, false, true, &SERVER, &server_locals()),
        Peer::new(now, "cli1", false, true, false, &CLIENT, &client),
    );
    pair.connect();
    let before = pair.server.transport.path().unwrap().destination;
    pair.filter = Box::new(move |datagram| {
        datagram.to == Side::Client && datagram.source == address("203.0.113.5:7882")
            || datagram.source != before
    });
    let now = pair.now;
    pair.server.transport.restart_ice(now, "srv2", PWD).unwrap();
    pair.client.transport.restart_ice(now, "cli2", PWD).unwrap();
    pair.server.ufrag = "srv2".to_owned();
    pair.client.ufrag = "cli2".to_owned();
    pair.signal();
    pair.run_until(5 * SECOND, |pair| {
        pair.server.transport.path().unwrap().destination != before
    });
    pair.run_for(20 * SECOND);
    assert_eq!(pair.server.keys().len(), 1);
    assert_eq!(pair.server.connected(), 1);
    assert!(pair.server.failed().is_none());
}

#[test]
fn the_old_ufrag_is_answered_until_the_new_pair_is_up() {
    let mut pair = Pair::usual();
    pair.connect();
    let now = pair.now;
    pair.server.transport.restart_ice(now, "srv2", PWD).unwrap();
    assert_eq!(pair.server.transport.previous_ufrag(), Some("srv1"));
    pair.run_for(25 * SECOND);
    let silent = |event: &TransportOutput| matches!(event, TransportOutput::Disconnected);
    assert_eq!(
        pair.client.count(silent),
        0,
        "the client's checks are answered"
    );
    assert_eq!(pair.server.count(silent), 0);
    pair.server.ufrag = "srv2".to_owned();
    pair.client.ufrag = "cli2".to_owned();
    let now = pair.now;
    pair.client.transport.restart_ice(now, "cli2", PWD).unwrap();
    pair.signal();
    pair.run_for(SECOND);
    assert_eq!(pair.server.transport.previous_ufrag(), None);
    assert_eq!(pair.server.keys().len(), 1);
}

#[test]
fn a_new_fingerprint_makes_new_keys_and_keeps_the_channels() {
    let mut pair = Pair::usual();
    let now = pair.now;
    for label in ["_reliable", "_lossy"] {
        let limit = (label == "_lossy").then_some(0);
        pair.server
            .transport
            .open_channel(now, label, label == "_reliable", limit)
            .unwrap();
    }
    pair.client
        .transport
        .open_channel(now, "up", true, None)
        .unwrap();
    pair.connect();
    pair.run_until(5 * SECOND, |pair| {
        pair.client.opened("_lossy") == 1 && pair.server.opened("up") == 1
    });
    let exported = pair.server.transport.export();
    let bytes = postcard::to_stdvec(&exported).unwrap();
    let state: TransportState = postcard::from_bytes(&bytes).unwrap();
    assert_eq!(state, exported);
    assert_eq!(state.channels.len(), 3);

    // The session moves to another node: another certificate, the old one falls silent.
    let now = pair.now;
    pair.server = Peer::new(now, "srv2", true, false, true, &OTHER, &server_locals());
    pair.server.transport.import(&state);
    pair.wire.clear();
    pair.client.events.clear();
    pair.client.ufrag = "cli2".to_owned();
    pair.client.transport.restart_ice(now, "cli2", PWD).unwrap();
    pair.signal();
    pair.run_until(5 * SECOND, |pair| {
        pair.server.connected() == 1 && pair.client.connected() == 1
    });
    assert_same_keys(&pair);
    pair.run_until(5 * SECOND, |pair| {
        ["_reliable", "_lossy", "up"]
            .iter()
            .all(|label| pair.server.opened(label) == 1 && pair.client.opened(label) == 1)
    });
    let now = pair.now;
    for label in ["_reliable", "_lossy", "up"] {
        assert_eq!(
            pair.server.transport.send_data(now, label, b"down", true),
            Ok(Sent::Queued)
        );
        assert_eq!(
            pair.client.transport.send_data(now, label, b"up", true),
            Ok(Sent::Queued)
        );
    }
    pair.run_for(SECOND);
    for label in ["_reliable", "_lossy", "up"] {
        assert_eq!(pair.client.messages(label), [b"down"], "{label}");
        assert_eq!(pair.server.messages(label), [b"up"], "{label}");
    }
    let streams = |state: &TransportState| {
        let mut streams: Vec<_> = state
            .channels
            .iter()
            .map(|channel| (channel.label.clone(), channel.stream))
            .collect();
        streams.sort();
        streams
    };
    assert_eq!(streams(&pair.server.transport.export()), streams(&state));
}

#[test]
fn channels_of_both_kinds_carry_messages_both_ways_under_loss() {
    let mut pair = Pair::usual();
    let now = pair.now;
    pair.server
        .transport
        .open_channel(now, "a", true, None)
        .unwrap();
    pair.client
        .transport
        .open_channel(now, "b", false, Some(0))
        .unwrap();
    // Sent before there is a connection: kept for the reliable one.
    assert_eq!(
        pair.server.transport.send_data(now, "a", b"first", false),
        Ok(Sent::Queued)
    );
    assert_eq!(
        pair.client.transport.send_data(now, "b", b"lost", false),
        Ok(Sent::Dropped)
    );
    pair.loss = 0.1;
    pair.connect();
    pair.run_until(20 * SECOND, |pair| {
        pair.client.opened("a") == 1
            && pair.server.opened("a") == 1
            && pair.client.opened("b") == 1
            && pair.server.opened("b") == 1
    });
    let state = pair.server.transport.export();
    for channel in &state.channels {
        let even = channel.stream % 2 == 0;
        assert_eq!(even, channel.local, "the DTLS client's streams are even");
    }
    for number in 0..200_u32 {
        let now = pair.now;
        let body = number.to_be_bytes();
        for peer in [&mut pair.server, &mut pair.client] {
            for label in ["a", "b"] {
                peer.transport.send_data(now, label, &body, true).unwrap();
            }
        }
        pair.run_for(Duration::from_millis(20));
    }
    pair.run_until(60 * SECOND, |pair| {
        pair.server.messages("a").len() >= 200 && pair.client.messages("a").len() >= 201
    });
    let expected: Vec<_> = (0..200_u32)
        .map(|number| number.to_be_bytes().to_vec())
        .collect();
    assert_eq!(pair.server.messages("a"), expected);
    assert_eq!(pair.client.messages("a")[0], b"first");
    assert_eq!(pair.client.messages("a")[1..], expected);
    for lossy in [pair.server.messages("b"), pair.client.messages("b")] {
        assert!((120..=200).contains(&lossy.len()), "{}", lossy.len());
    }
}

#[test]
fn empty_large_and_too_large_messages() {
    let mut pair = Pair::usual();
    let now = pair.now;
    pair.server
        .transport
        .open_channel(now, "a", true, None)
        .unwrap();
    pair.connect();
    pair.run_until(5 * SECOND, |pair| pair.client.opened("a") == 1);
    let now = pair.now;
    let large: Vec<u8> = (0..MAX_MESSAGE_SIZE)
        .map(|index| (index % 251) as u8)
        .collect();
    let transport = &mut pair.server.transport;
    transport.send_data(now, "a", b"", false).unwrap();
    transport.send_data(now, "a", b"", true).unwrap();
    transport.send_data(now, "a", &large, true).unwrap();
    assert_eq!(
        transport.send_data(now, "a", &vec![0; MAX_MESSAGE_SIZE + 1], true),
        Err(SendError::TooLarge)
    );
    assert_eq!(
        transport.send_data(now, "nobody", b"x", true),
        Err(SendError::NoChannel)
    );
    assert_eq!(transport.counters().data_too_large, 1);
    pair.run_until(10 * SECOND, |pair| pair.client.messages("a").len() == 3);
    let kinds: Vec<_> = pair
        .client
        .events
        .iter()
        .filter_map(|event| match event {
            TransportOutput::Data {
                payload, binary, ..
            } => Some((payload.len(), *binary)),
            _ => None,
        })
        .collect();
    assert_eq!(kinds, [(0, false), (0, true), (MAX_MESSAGE_SIZE, true)]);
    assert_eq!(pair.client.messages("a")[2], large);
}

#[test]
fn a_stalled_peer_costs_bounded_memory() {
    let mut pair = Pair::usual();
    let now = pair.now;
    pair.server
        .transport
        .open_channel(now, "a", true, None)
        .unwrap();
    pair.server
        .transport
        .open_channel(now, "b", false, Some(0))
        .unwrap();
    pair.connect();
    pair.run_until(5 * SECOND, |pair| {
        pair.client.opened("b") == 1 && pair.server.opened("b") == 1
    });
    pair.filter = Box::new(|_| false);
    let now = pair.now;
    let message = vec![1; 60_000];
    let transport = &mut pair.server.transport;
    let mut queued = 0;
    while transport.send_data(now, "a", &message, true) == Ok(Sent::Queued) {
        queued += message.len();
        assert!(queued <= RELIABLE_BUFFER);
    }
    assert!(queued > RELIABLE_BUFFER - 2 * message.len());
    assert_eq!(
        transport.send_data(now, "a", &message, true),
        Err(SendError::BufferFull)
    );
    for _ in 0..20 {
        transport.send_data(now, "b", &message, true).unwrap();
    }
    assert!(transport.buffered("b") <= LOSSY_BUFFER);
    assert!(transport.counters().data_dropped >= 15);
}

#[test]
fn a_lossy_channel_drops_what_would_come_late() {
    let mut pair = Pair::usual();
    let now = pair.now;
    pair.server
        .transport
        .open_channel(now, "b", false, Some(0))
        .unwrap();
    pair.connect();
    pair.run_until(5 * SECOND, |pair| {
        pair.client.opened("b") == 1 && pair.server.opened("b") == 1
    });
    pair.filter = Box::new(|_| false);
    let now = pair.now;
    let transport = &mut pair.server.transport;
    let mut send = |after: Duration, bytes: usize| {
        transport
            .send_data(now + after, "b", &vec![1; bytes], true)
            .unwrap()
    };
    assert_eq!(send(Duration::ZERO, 10_000), Sent::Queued);
    // Little waits: a far peer may not have acknowledged it yet.
    assert_eq!(send(LOSSY_LATENCY * 2, 100), Sent::Queued);
    assert_eq!(send(LOSSY_LATENCY * 2, 10_000), Sent::Dropped);
}

#[test]
fn closing_a_channel_is_told_to_the_peer() {
    let mut pair = Pair::usual();
    let now = pair.now;
    pair.client
        .transport
        .open_channel(now, "a", true, None)
        .unwrap();
    pair.connect();
    pair.run_until(5 * SECOND, |pair| pair.server.opened("a") == 1);
    let now = pair.now;
    pair.client.transport.close_channel(now, "a");
    pair.run_until(5 * SECOND, |pair| {
        pair.server.count(
            |event| matches!(event, TransportOutput::ChannelClosed { label } if label == "a"),
        ) == 1
    });
    assert!(pair.server.transport.export().channels.is_empty());
    let now = pair.now;
    pair.client
        .transport
        .open_channel(now, "again", true, None)
        .unwrap();
    pair.run_until(5 * SECOND, |pair| {
        pair.server.opened("again") == 1 && pair.client.opened("again") == 1
    });
}

#[test]
fn silence_disconnects_then_fails_and_traffic_revives() {
    let mut pair = Pair::usual();
    pair.connect();
    pair.run_for(30 * SECOND);
    assert_eq!(pair.server.events.len(), 3, "{:?}", pair.server.events);
    pair.filter = Box::new(|_| false);
    let gone = |event: &TransportOutput| matches!(event, TransportOutput::Disconnected);
    let took = pair.run_until(20 * SECOND, |pair| pair.server.count(gone) == 1);
    assert!(took <= DISCONNECTED_AFTER + SECOND && took > DISCONNECTED_AFTER - 4 * SECOND);
    pair.filter = Box::new(|_| true);
    pair.run_until(5 * SECOND, |pair| pair.server.connected() == 2);
    pair.filter = Box::new(|_| false);
    pair.run_until(FAILED_AFTER + SECOND, |pair| pair.server.failed().is_some());
}

#[test]
fn authentic_media_alone_keeps_a_transport_alive() {
    let mut pair = Pair::usual();
    pair.connect();
    pair.filter = Box::new(|_| false);
    for _ in 0..30 {
        pair.run_for(SECOND);
        let now = pair.now;
        pair.server.transport.note_authenticated(now);
    }
    assert!(pair.server.failed().is_none());
    assert!(pair.client.failed().is_some());
}

#[test]
fn no_check_at_all_fails_in_the_end() {
    let mut pair = Pair::usual();
    pair.filter = Box::new(|_| false);
    pair.signal();
    pair.run_until(31 * SECOND, |pair| pair.server.failed().is_some());
}

#[test]
fn dropping_a_transport_is_silent() {
    let mut pair = Pair::usual();
    let now = pair.now;
    pair.server
        .transport
        .open_channel(now, "a", true, None)
        .unwrap();
    pair.connect();
    pair.run_until(5 * SECOND, |pair| pair.client.opened("a") == 1);
    pair.run_for(SECOND);
    pair.drain_both();
    pair.record = true;
    let fresh = Peer::new(
        pair.now,
        "srv9",
        true,
        false,
        true,
        &SERVER,
        &server_locals(),
    );
    drop(std::mem::replace(&mut pair.server, fresh));
    pair.client.events.clear();
    pair.run_for(3 * SECOND);
    assert!(pair.seen.iter().all(|datagram| datagram.to == Side::Server));
    assert!(pair.client.events.is_empty(), "{:?}", pair.client.events);
}

#[test]
fn garbage_is_counted_and_changes_nothing() {
    let mut pair = Pair::usual();
    pair.record = true;
    let mut rng = fastrand::Rng::with_seed(1);
    pair.signal();
    for round in 0..400 {
        let now = pair.now;
        let datagrams: Vec<_> = pair.seen.iter().rev().take(4).cloned().collect();
        for datagram in datagrams {
            let mut data = datagram.data.clone();
            match rng.u8(..4) {
                0 => data.truncate(rng.usize(..=data.len())),
                1 => data.extend((0..rng.usize(..40)).map(|_| rng.u8(..))),
                _ => {
                    for _ in 0..rng.usize(1..4) {
                        let at = rng.usize(1..data.len().max(2));
                        if let Some(byte) = data.get_mut(at) {
                            *byte = rng.u8(..);
                        }
                    }
                }
            }
            for peer in [&mut pair.server, &mut pair.client] {
                if datagram.is_dtls() {
                    // Only before and after the handshake: an unauthenticated handshake can be disturbed.
                    if round < 2 || peer.connected() > 0 {
                        peer.transport.handle_dtls(now, &data);
                    }
                } else {
                    peer.transport
                        .handle_stun(now, datagram.socket, datagram.source, &data);
                    peer.transport.handle_stun(now, 99, datagram.source, &data);
                }
            }
        }
        pair.run_for(Duration::from_millis(10));
    }
    pair.run_until(10 * SECOND, |pair| {
        pair.server.connected() == 1 && pair.client.connected() == 1
    });
    let counters = pair.server.transport.counters();
    assert!(counters.stun_malformed > 0 && counters.stun_unauthenticated > 0);
    assert!(pair.server.failed().is_none() && pair.client.failed().is_none());
}

#[test]
fn pure_noise_does_not_panic() {
    let mut rng = fastrand::Rng::with_seed(3);
    let mut pair = Pair::usual();
    pair.signal();
    for _ in 0..20_000 {
        let mut data: Vec<u8> = (0..rng.usize(..200)).map(|_| rng.u8(..)).collect();
        if let Some(first) = data.first_mut() {
            *first = if rng.bool() {
                rng.u8(..4)
            } else {
                rng.u8(20..64)
            };
        }
        let now = pair.now;
        let source = address("198.51.100.200:999");
        pair.server.transport.handle_stun(now, 3, source, &data);
        pair.server.transport.handle_dtls(now, &data);
        pair.client.transport.handle_stun(now, 0, source, &data);
        pair.client.transport.handle_dtls(now, &data);
    }
    pair.run_until(10 * SECOND, |pair| pair.server.connected() == 1);
}

#[test]
fn candidates_are_read_in_every_spelling() {
    let mut pair = Pair::usual();
    let now = pair.now;
    let transport = &mut pair.client.transport;
    let body = "1 1 udp 2130706431 203.0.113.5 7882 typ host generation 0";
    for prefix in ["candidate:", "a=candidate:", ""] {
        transport
            .add_remote_candidate(now, &format!("{prefix}{body}"))
            .unwrap();
    }
    transport
        .add_remote_candidate(
            now,
            "candidate:2 1 udp 2113937151 0f1e2d3c-0000-4000-8000-a1b2c3d4e5f6.local 50000 typ host",
        )
        .unwrap();
    for end in ["", "candidate:", "a=end-of-candidates"] {
        transport.add_remote_candidate(now, end).unwrap();
    }
    assert_eq!(
        transport.add_remote_candidate(now, "candidate:nonsense"),
        Err(TransportError::BadCandidate)
    );
    let error = (0..200).find_map(|port| {
        let line = format!("candidate:1 1 udp 1 203.0.113.9 {} typ host", 1000 + port);
        transport.add_remote_candidate(now, &line).err()
    });
    assert_eq!(error, Some(TransportError::TooManyCandidates));
}

#[test]
fn candidate_lines_name_advertised_addresses() {
    let mut locals = server_locals();
    let mut tcp = locals[0].clone();
    tcp.protocol = mediacore_core::transport::Protocol::Tcp;
    locals.insert(0, tcp);
    let lines = candidate_lines(&locals);
    assert!(
        lines[0].starts_with("candidate:2 1 udp 21")
            && lines[0].ends_with("203.0.113.5 7882 typ host")
    );
    assert!(lines[1].contains(" tcp ") && lines[1].ends_with("typ host tcptype passive"));
}

#[test]
fn a_long_ufrag_is_served_by_a_lite_agent_and_refused_by_a_full_one() {
    let now = Instant::now();
    let long = "u".repeat(124);
    let print = CLIENT.fingerprint();
    for (lite, expected) in [(true, Ok(())), (false, Err(TransportError::BadUfrag))] {
        let mut peer = Peer::new(now, "srv1", lite, false, true, &SERVER, &server_locals());
        assert_eq!(peer.transport.set_remote(now, &long, PWD, print), expected);
        let line = &candidate_lines(&client_locals())[0];
        peer.transport.add_remote_candidate(now, line).unwrap();
        peer.transport.handle_timeout(now + SECOND);
    }
    let mut peer = Peer::new(now, "srv1", false, false, true, &SERVER, &server_locals());
    peer.transport
        .set_remote(now, &long[..123], PWD, print)
        .unwrap();
    let line = &candidate_lines(&client_locals())[0];
    peer.transport.add_remote_candidate(now, line).unwrap();
    peer.transport.handle_timeout(now + SECOND);
    assert!(peer.transport.poll_output().is_some(), "a check went out");
}

#[test]
fn malformed_parameters_are_refused() {
    let mut pair = Pair::usual();
    let now = pair.now;
    let transport = &mut pair.server.transport;
    let print = CLIENT.fingerprint();
    let long = "x".repeat(257);
    for ufrag in ["abc", "with:colon", "with space", long.as_str()] {
        assert_eq!(
            transport.set_remote(now, ufrag, PWD, print),
            Err(TransportError::BadUfrag)
        );
    }
    assert_eq!(
        transport.set_remote(now, "good", "short", print),
        Err(TransportError::BadPassword)
    );
    for print in ["", "sha-256", "sha-1 00:11", "sha-256 AA:BB", "sha-256 zz"] {
        assert_eq!(
            transport.set_remote(now, "good", PWD, print),
            Err(TransportError::BadFingerprint)
        );
    }
    let lower = print.to_ascii_lowercase();
    assert_eq!(transport.set_remote(now, "good", PWD, &lower), Ok(()));
}
