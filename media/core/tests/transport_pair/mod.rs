//! Two transports and a link with delay and loss between them, in virtual time.
#![allow(dead_code, unreachable_pub)]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use mediacore_core::transport::{
    DtlsIdentity, LocalAddress, PeerTransport, Protocol, TransportConfig, TransportOutput,
    candidate_lines,
};

pub static SERVER: LazyLock<Arc<DtlsIdentity>> =
    LazyLock::new(|| Arc::new(DtlsIdentity::new().unwrap()));
pub static CLIENT: LazyLock<Arc<DtlsIdentity>> =
    LazyLock::new(|| Arc::new(DtlsIdentity::new().unwrap()));
pub static OTHER: LazyLock<Arc<DtlsIdentity>> =
    LazyLock::new(|| Arc::new(DtlsIdentity::new().unwrap()));

pub const PWD: &str = "a-password-of-22-chars-or-more";

pub fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub fn local(socket: usize, bound: &str, advertised: &str) -> LocalAddress {
    LocalAddress {
        socket,
        bound: address(bound),
        advertised: address(advertised),
        protocol: Protocol::Udp,
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Server,
    Client,
}

#[derive(Clone)]
pub struct Datagram {
    pub to: Side,
    pub at: Instant,
    pub socket: usize,
    pub source: SocketAddr,
    pub data: Vec<u8>,
}

impl Datagram {
    pub fn is_dtls(&self) -> bool {
        self.data
            .first()
            .is_some_and(|byte| (20..64).contains(byte))
    }

    pub fn is_client_hello(&self) -> bool {
        self.data.first() == Some(&22) && self.data.get(13) == Some(&1)
    }
}

pub struct Peer {
    pub transport: PeerTransport,
    pub locals: Vec<LocalAddress>,
    pub identity: Arc<DtlsIdentity>,
    pub ufrag: String,
    pub events: Vec<TransportOutput>,
}

impl Peer {
    pub fn new(
        now: Instant,
        ufrag: &str,
        lite: bool,
        controlling: bool,
        dtls_active: bool,
        identity: &Arc<DtlsIdentity>,
        locals: &[LocalAddress],
    ) -> Self {
        let config = TransportConfig {
            ufrag: ufrag.to_owned(),
            pwd: PWD.to_owned(),
            ice_lite: lite,
            controlling,
            dtls_active,
        };
        Self {
            transport: PeerTransport::new(config, Arc::clone(identity), locals, now).unwrap(),
            locals: locals.to_vec(),
            identity: Arc::clone(identity),
            ufrag: ufrag.to_owned(),
            events: Vec::new(),
        }
    }

    pub fn count(&self, wanted: impl Fn(&TransportOutput) -> bool) -> usize {
        self.events.iter().filter(|event| wanted(event)).count()
    }

    pub fn connected(&self) -> usize {
        self.count(|event| matches!(event, TransportOutput::Connected))
    }

    pub fn failed(&self) -> Option<String> {
        self.events.iter().find_map(|event| match event {
            TransportOutput::Failed(reason) => Some(reason.clone()),
            _ => None,
        })
    }

    pub fn keys(&self) -> Vec<(Vec<u8>, bool)> {
        self.events
            .iter()
            .filter_map(|event| match event {
                TransportOutput::SrtpKeys {
                    material, client, ..
                } => Some((material.clone(), *client)),
                _ => None,
            })
            .collect()
    }

    pub fn opened(&self, label: &str) -> usize {
        self.count(
            |event| matches!(event, TransportOutput::ChannelOpened { label: l, .. } if l == label),
        )
    }

    pub fn messages(&self, label: &str) -> Vec<Vec<u8>> {
        self.events
            .iter()
            .filter_map(|event| match event {
                TransportOutput::Data {
                    label: l, payload, ..
                } if l == label => Some(payload.clone()),
                _ => None,
            })
            .collect()
    }
}

pub struct Pair {
    pub now: Instant,
    pub server: Peer,
    pub client: Peer,
    pub wire: VecDeque<Datagram>,
    pub delay: Duration,
    /// Part of datagrams lost, 0..1.
    pub loss: f64,
    pub rng: fastrand::Rng,
    pub filter: Box<dyn FnMut(&Datagram) -> bool>,
    pub seen: Vec<Datagram>,
    pub record: bool,
}

pub fn server_locals() -> Vec<LocalAddress> {
    vec![local(3, "10.0.0.5:7882", "203.0.113.5:7882")]
}

pub fn client_locals() -> Vec<LocalAddress> {
    vec![local(0, "192.0.2.77:5000", "192.0.2.77:5000")]
}

impl Pair {
    /// A lite, DTLS-active server and a full, controlling client.
    pub fn usual() -> Self {
        let now = Instant::now();
        Self::new(
            now,
            Peer::new(now, "srv1", true, false, true, &SERVER, &server_locals()),
            Peer::new(now, "cli1", false, true, false, &CLIENT, &client_locals()),
        )
    }

    pub fn new(now: Instant, server: Peer, client: Peer) -> Self {
        Self {
            now,
            server,
            client,
            wire: VecDeque::new(),
            delay: Duration::from_millis(10),
            loss: 0.0,
            rng: fastrand::Rng::with_seed(7),
            filter: Box::new(|_| true),
            seen: Vec::new(),
            record: false,
        }
    }

    /// Exchanges descriptions and candidates.
    pub fn signal(&mut self) {
        let now = self.now;
        let server_print = self.server.identity.fingerprint().to_owned();
        let client_print = self.client.identity.fingerprint().to_owned();
        self.client
            .transport
            .set_remote(now, &self.server.ufrag, PWD, &server_print)
            .unwrap();
        self.server
            .transport
            .set_remote(now, &self.client.ufrag, PWD, &client_print)
            .unwrap();
        for line in candidate_lines(&self.server.locals) {
            self.client
                .transport
                .add_remote_candidate(now, &line)
                .unwrap();
        }
        for line in candidate_lines(&self.client.locals) {
            self.server
                .transport
                .add_remote_candidate(now, &line)
                .unwrap();
        }
    }

    fn drain(&mut self, side: Side) {
        let (from, to) = match side {
            Side::Server => (&mut self.server, &self.client.locals),
            Side::Client => (&mut self.client, &self.server.locals),
        };
        while let Some(output) = from.transport.poll_output() {
            let TransportOutput::Transmit {
                socket,
                destination,
                data,
            } = output
            else {
                from.events.push(output);
                continue;
            };
            // What the far side sees as source is the advertised address: the 1:1 NAT translates.
            let source = from
                .locals
                .iter()
                .find(|local| local.socket == socket)
                .map(|local| local.advertised)
                .unwrap();
            let Some(target) = to.iter().find(|local| local.advertised == destination) else {
                continue;
            };
            let datagram = Datagram {
                to: match side {
                    Side::Server => Side::Client,
                    Side::Client => Side::Server,
                },
                at: self.now + self.delay,
                socket: target.socket,
                source,
                data,
            };
            if self.record {
                self.seen.push(datagram.clone());
            }
            if (self.filter)(&datagram) && self.rng.f64() >= self.loss {
                self.wire.push_back(datagram);
            }
        }
    }

    pub fn drain_both(&mut self) {
        for peer in [&self.server, &self.client] {
            assert_eq!(peer.transport.counters().panics, 0);
        }
        self.drain(Side::Server);
        self.drain(Side::Client);
    }

    /// Runs one event; false when nothing happens before `until`.
    fn step(&mut self, until: Instant) -> bool {
        self.drain_both();
        let timers = [
            self.server.transport.poll_timeout(),
            self.client.transport.poll_timeout(),
        ];
        let next = timers
            .into_iter()
            .flatten()
            .chain(self.wire.front().map(|datagram| datagram.at))
            .min();
        let Some(next) = next.filter(|at| *at <= until) else {
            self.now = until;
            return false;
        };
        self.now = self.now.max(next);
        while let Some(datagram) = self.wire.pop_front_if(|datagram| datagram.at <= self.now) {
            let peer = match datagram.to {
                Side::Server => &mut self.server,
                Side::Client => &mut self.client,
            };
            let Datagram {
                socket,
                source,
                data,
                ..
            } = datagram;
            match data.first() {
                Some(0..=3) => peer.transport.handle_stun(self.now, socket, source, &data),
                Some(20..=63) => peer.transport.handle_dtls(self.now, &data),
                _ => {}
            }
        }
        for peer in [&mut self.server, &mut self.client] {
            if peer
                .transport
                .poll_timeout()
                .is_some_and(|at| at <= self.now)
            {
                peer.transport.handle_timeout(self.now);
            }
        }
        true
    }

    pub fn run_for(&mut self, time: Duration) {
        let until = self.now + time;
        while self.step(until) {}
    }

    /// Runs until the condition holds; panics after `limit`.
    pub fn run_until(&mut self, limit: Duration, condition: impl Fn(&Self) -> bool) -> Duration {
        let start = self.now;
        let until = start + limit;
        loop {
            self.drain_both();
            if condition(self) {
                return self.now - start;
            }
            if !self.step(until) {
                self.drain_both();
                assert!(
                    condition(self),
                    "not within {limit:?}; server {:?} {:?}, client {:?} {:?}",
                    self.server.events,
                    self.server.transport.counters(),
                    self.client.events,
                    self.client.transport.counters()
                );
                return self.now - start;
            }
        }
    }

    pub fn connect(&mut self) -> Duration {
        self.signal();
        self.run_until(Duration::from_secs(20), |pair| {
            pair.server.connected() > 0 && pair.client.connected() > 0
        })
    }
}
