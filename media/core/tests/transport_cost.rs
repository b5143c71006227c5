//! What a connection costs in CPU. Run by hand: `cargo test --release -p mediacore-core --test transport_cost -- --ignored --nocapture`.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

mod transport_pair;
use transport_pair::*;

#[test]
#[ignore = "a measurement, not a check"]
fn cost_of_a_handshake() {
    for _ in 0..20 {
        let mut pair = Pair::usual();
        pair.connect();
    }
    for (name, channel) in [("ICE+DTLS", false), ("ICE+DTLS+SCTP+1 channel", true)] {
        let rounds: u32 = 500;
        let start = Instant::now();
        for _ in 0..rounds {
            let mut pair = Pair::usual();
            if channel {
                let now = pair.now;
                pair.server
                    .transport
                    .open_channel(now, "a", true, None)
                    .unwrap();
                pair.connect();
                pair.run_until(Duration::from_secs(5), |pair| pair.server.opened("a") == 1);
            } else {
                pair.connect();
            }
        }
        let both = start.elapsed() / rounds;
        println!("{name}: {both:?} for both sides together");
    }
    let rounds: u32 = 2000;
    let start = Instant::now();
    for _ in 0..rounds {
        std::hint::black_box(Pair::usual());
    }
    println!("making two transports: {:?}", start.elapsed() / rounds);
    let mut pair = Pair::usual();
    let now = pair.now;
    pair.server
        .transport
        .open_channel(now, "a", true, None)
        .unwrap();
    pair.connect();
    pair.run_until(Duration::from_secs(5), |pair| pair.server.opened("a") == 1);
    let body = vec![7; 1000];
    let start = Instant::now();
    for _ in 0..5000 {
        let now = pair.now;
        pair.server
            .transport
            .send_data(now, "a", &body, true)
            .unwrap();
        pair.run_for(Duration::from_millis(5));
    }
    println!(
        "a 1,000-byte message, sent and received: {:?}",
        start.elapsed() / 5000
    );
    assert!(pair.client.messages("a").len() >= 4900);
}
