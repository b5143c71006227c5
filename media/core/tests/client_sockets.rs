//! A client shard's peer connections each keep to a socket of their own, as far as there are enough.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mediacore_core::{
    Command, DtlsIdentity, LocalAddress, PcId, PeerConnectionConfig, Protocol, Shard, ShardConfig,
};

const SOCKETS: usize = 3;

fn shard(now: Instant) -> Shard {
    let locals = (0..SOCKETS)
        .map(|socket| {
            let address = SocketAddr::from(([127, 0, 0, 1], 5000 + socket as u16));
            LocalAddress {
                socket,
                bound: address,
                advertised: address,
                protocol: Protocol::Udp,
            }
        })
        .collect();
    let config = ShardConfig {
        identity: Arc::new(DtlsIdentity::new().unwrap()),
        locals,
        seed: 1,
        level_interval: Duration::from_millis(400),
        max_peer_connections: 100,
        epoch: now,
        epoch_unix: Duration::from_secs(1_700_000_000),
    };
    Shard::new(config, now)
}

fn create(shard: &mut Shard, now: Instant, pc: u64, ice_lite: bool, ice_controlling: bool) {
    shard.handle_command(
        now,
        Command::CreatePeerConnection {
            pc: PcId(pc),
            config: PeerConnectionConfig {
                ice_ufrag: format!("ufrag{pc}"),
                ice_pwd: "0123456789012345678901".into(),
                ice_lite,
                ice_controlling,
                dtls_active: ice_lite,
            },
        },
    );
}

#[test]
fn clients_get_the_least_used_socket_and_tell_only_that_one() {
    let now = Instant::now();
    let mut shard = shard(now);
    let mut told = BTreeSet::new();
    for pc in 0..SOCKETS as u64 {
        create(&mut shard, now, pc, false, pc % 2 == 0);
        let candidates = shard.candidates(&format!("ufrag{pc}"));
        assert_eq!(candidates.len(), 1, "{candidates:?}");
        told.insert(candidates[0].split(' ').nth(5).unwrap().to_owned());
    }
    assert_eq!(told.len(), SOCKETS, "{told:?}");

    shard.handle_command(now, Command::ClosePeerConnection { pc: PcId(1) });
    let freed = shard.candidates("ufrag1").len();
    assert_eq!(freed, SOCKETS, "an unknown fragment is told every address");
    create(&mut shard, now, 9, false, false);
    assert!(shard.candidates("ufrag9")[0].contains(" 5001 "));
}

#[test]
fn a_server_tells_every_socket() {
    let now = Instant::now();
    let mut shard = shard(now);
    create(&mut shard, now, 1, true, false);
    assert_eq!(shard.candidates("ufrag1").len(), SOCKETS);
}
