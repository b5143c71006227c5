//! What a connected transport keeps in memory. Run by hand:
//! `cargo test --release -p mediacore-core --test transport_memory -- --ignored --nocapture`.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

mod transport_pair;
use transport_pair::*;

fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = status.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4
}

#[test]
#[ignore = "a measurement, not a check"]
fn memory_of_a_connected_server_side() {
    let mut kept = Vec::new();
    let mut before = 0;
    for number in 0..550 {
        if number == 50 {
            before = resident_kb();
        }
        let mut pair = Pair::usual();
        let now = pair.now;
        pair.server
            .transport
            .open_channel(now, "a", true, None)
            .unwrap();
        pair.connect();
        pair.run_until(Duration::from_secs(5), |pair| pair.server.opened("a") == 1);
        kept.push(pair.server);
    }
    println!(
        "a connected server side keeps {} kB",
        (resident_kb() - before) / 500
    );
}
