//! The handle of one packet engine: opens its sockets, starts its thread, and speaks with it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Once, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::Sender;
use mediacore_core::{
    Command, DtlsIdentity, Event, LocalAddress, PcId, Protocol, Shard, ShardConfig, Stats,
};

use crate::queue::{Inbox, Outbox, Request};
use crate::reactor::{Reactor, tcp_tokens};
use crate::tcp::TcpPort;
use crate::udp::{BUFFER, UdpPort};

/// How long an answer of the engine thread is waited for. It comes in a millisecond or two; a thread that takes
/// longer is broken, and its callers must not hang with it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// One local address to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// What to bind; port 0 takes a free one.
    pub address: SocketAddr,
    /// What clients are told instead (1:1 NAT). A port of 0 means the bound one.
    pub advertise: Option<SocketAddr>,
}

/// How an engine is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// UDP addresses.
    pub udp: Vec<Binding>,
    /// ICE-TCP addresses, passive.
    pub tcp: Vec<Binding>,
    /// How long events that are not urgent are gathered.
    pub event_interval: Duration,
    /// Window of `AudioLevels`.
    pub level_interval: Duration,
    /// More are rejected.
    pub max_peer_connections: usize,
}

/// The engine was closed, or its thread died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadEngine;

impl std::fmt::Display for DeadEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the engine is closed, or its thread has died")
    }
}

impl std::error::Error for DeadEngine {}

/// Why an engine could not be opened; says which address it is about.
#[derive(Debug)]
pub struct OpenError {
    about: String,
    error: io::Error,
}

impl OpenError {
    /// The operating system's error, when it is one.
    pub fn as_io(&self) -> &io::Error {
        &self.error
    }
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot {}: {}", self.about, self.error)
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Names what an operating system's error was about.
fn about(what: impl Into<String>) -> impl FnOnce(io::Error) -> OpenError {
    let about = what.into();
    move |error| OpenError { about, error }
}

/// One packet engine: its sockets, its thread, its certificate (made at start, never kept).
///
/// May be shared between threads. Dropping closes it.
pub struct Engine {
    inbox: Arc<Inbox>,
    outbox: Arc<Outbox>,
    thread: Mutex<Option<JoinHandle<()>>>,
    panicked: Arc<AtomicBool>,
    fingerprint: String,
    udp_addresses: Vec<SocketAddr>,
    tcp_addresses: Vec<SocketAddr>,
}

impl Engine {
    /// Opens every address and starts the thread. An error names the address it is about.
    pub fn open(config: &EngineConfig) -> Result<Self, OpenError> {
        let mut udp = Vec::new();
        let mut tcp = Vec::new();
        let mut locals = Vec::new();
        for binding in &config.udp {
            let (port, buffer) = UdpPort::bind(binding.address)
                .map_err(about(format!("open udp {}", binding.address)))?;
            warn_of_small_buffers(buffer);
            let bound = port.local_addr().map_err(about("read a bound address"))?;
            udp.push(port);
            locals.push(local_address(locals.len(), bound, binding, Protocol::Udp)?);
        }
        for binding in &config.tcp {
            let port = TcpPort::listen(binding.address, tcp_tokens(tcp.len()))
                .map_err(about(format!("open tcp {}", binding.address)))?;
            let bound = port.local_addr().map_err(about("read a bound address"))?;
            tcp.push(port);
            locals.push(local_address(locals.len(), bound, binding, Protocol::Tcp)?);
        }
        let addresses = |protocol| {
            let of = locals
                .iter()
                .filter(move |local| local.protocol == protocol);
            of.map(|local| local.bound).collect::<Vec<_>>()
        };
        let (udp_addresses, tcp_addresses) = (addresses(Protocol::Udp), addresses(Protocol::Tcp));

        let identity = Arc::new(
            DtlsIdentity::new()
                .map_err(io::Error::other)
                .map_err(about("make a certificate"))?,
        );
        let fingerprint = identity.fingerprint().to_owned();
        let (epoch, epoch_unix) = epoch();
        let now = Instant::now();
        let shard_config = ShardConfig {
            identity,
            locals,
            seed: fastrand::u64(..),
            level_interval: config.level_interval,
            max_peer_connections: config.max_peer_connections,
            epoch,
            epoch_unix,
        };
        let (inbox, requests) = Inbox::new().map_err(about("make the command queue"))?;
        let inbox = Arc::new(inbox);
        let outbox = Arc::new(Outbox::new().map_err(about("make the event queue"))?);
        let panicked = Arc::new(AtomicBool::new(false));
        let interval = config.event_interval;
        let start = {
            let (inbox, outbox, panicked) = (inbox.clone(), outbox.clone(), panicked.clone());
            // The buffers of the batches hold raw pointers, so the reactor is made on its own thread.
            move || {
                let shard = Shard::new(shard_config, now);
                match Reactor::new(shard, udp, tcp, (inbox, requests), outbox.clone(), interval) {
                    Ok(reactor) => run(reactor, &outbox, &panicked),
                    Err(error) => {
                        eprintln!("mediacore: the engine thread cannot start: {error}");
                        panicked.store(true, Ordering::Release);
                    }
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("mediacore".to_owned())
            .spawn(start)
            .map_err(about("start the engine thread"))?;
        Ok(Self {
            inbox,
            outbox,
            thread: Mutex::new(Some(thread)),
            panicked,
            fingerprint,
            udp_addresses,
            tcp_addresses,
        })
    }

    /// "sha-256 AA:BB:..", the same for every peer connection of this engine.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// UDP addresses as bound.
    pub fn udp_addresses(&self) -> &[SocketAddr] {
        &self.udp_addresses
    }

    /// TCP addresses as bound.
    pub fn tcp_addresses(&self) -> &[SocketAddr] {
        &self.tcp_addresses
    }

    /// Queues a command; what goes wrong with it comes back as an event.
    pub fn command(&self, command: Command) -> Result<(), DeadEngine> {
        if self.inbox.push(Request::Command(command)) {
            Ok(())
        } else {
            Err(DeadEngine)
        }
    }

    /// Candidate lines for a local ufrag. Waits for the engine thread.
    pub fn candidates(&self, ice_ufrag: &str) -> Result<Vec<String>, DeadEngine> {
        let ufrag = ice_ufrag.to_owned();
        self.ask(|answer| Request::Candidates(ufrag, answer))
    }

    /// A fresh snapshot. Waits for the engine thread; of a dead engine only the number of its panics is known.
    pub fn stats(&self) -> Stats {
        self.ask(Request::Stats).unwrap_or_else(|DeadEngine| Stats {
            counters: vec![(
                "engine_panics",
                u64::from(self.panicked.load(Ordering::Acquire)),
            )],
            ..Stats::default()
        })
    }

    /// A session as a value; None when the peer connection is unknown. Waits for the engine thread.
    pub fn export_peer_connection(&self, pc: PcId) -> Result<Option<Vec<u8>>, DeadEngine> {
        self.ask(|answer| Request::Export(pc, answer))
    }

    fn ask<T>(&self, request: impl FnOnce(Sender<T>) -> Request) -> Result<T, DeadEngine> {
        let (sender, receiver) = crossbeam_channel::bounded(1);
        if !self.inbox.push(request(sender)) {
            return Err(DeadEngine);
        }
        receiver
            .recv_timeout(ANSWER_TIMEOUT)
            .map_err(|_| DeadEngine)
    }

    /// Readable while events wait; never to be read, only [`Engine::drain`] makes it unreadable. Valid until drop.
    pub fn event_fd(&self) -> RawFd {
        self.outbox.ready_fd()
    }

    /// Every event that waits, oldest first.
    pub fn drain(&self) -> Vec<Event> {
        self.outbox.drain()
    }

    /// Stops the thread and closes the sockets, silently: no close_notify, no SCTP abort. Again: nothing.
    pub fn close(&self) {
        self.inbox.push(Request::Stop);
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // A panic has been caught and told already.
            let _ = thread.join();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
}

/// Runs the thread; tells everybody if it breaks.
fn run(mut reactor: Reactor, outbox: &Outbox, panicked: &AtomicBool) {
    let reason = match catch_unwind(AssertUnwindSafe(|| reactor.run())) {
        Ok(Ok(())) => return,
        Ok(Err(error)) => format!("the engine thread failed: {error}"),
        Err(_) => "the engine thread panicked".to_owned(),
    };
    eprintln!("mediacore: {reason}");
    panicked.store(true, Ordering::Release);
    let failed = reactor.live().map(|pc| Event::Failed {
        pc,
        reason: reason.clone(),
    });
    outbox.push(&mut failed.collect(), Instant::now(), Duration::ZERO);
}

/// The instant this process counts media time from, and the wall clock then: the same for all its engines.
fn epoch() -> (Instant, Duration) {
    static EPOCH: OnceLock<(Instant, Duration)> = OnceLock::new();
    *EPOCH.get_or_init(|| {
        let unix = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        (Instant::now(), unix)
    })
}

fn warn_of_small_buffers(got: i32) {
    static WARNED: Once = Once::new();
    if got < BUFFER {
        WARNED.call_once(|| {
            eprintln!(
                "mediacore: socket buffers are {got} bytes instead of {BUFFER}: bursts may be lost; raise \
                 net.core.rmem_max and net.core.wmem_max"
            );
        });
    }
}

fn local_address(
    socket: usize,
    bound: SocketAddr,
    binding: &Binding,
    protocol: Protocol,
) -> Result<LocalAddress, OpenError> {
    let advertised = match binding.advertise {
        Some(address) if address.port() == 0 => SocketAddr::new(address.ip(), bound.port()),
        Some(address) => address,
        None if bound.ip().is_unspecified() => SocketAddr::new(
            outward_ip(bound.is_ipv4()).map_err(about(format!(
                "tell what clients shall be told instead of {bound}"
            )))?,
            bound.port(),
        ),
        None => bound,
    };
    Ok(LocalAddress {
        socket,
        bound,
        advertised,
        protocol,
    })
}

/// The address this machine uses towards the world. Connecting a UDP socket asks the routes and sends nothing.
fn outward_ip(v4: bool) -> io::Result<IpAddr> {
    // Addresses set aside for documentation (RFC 5737, RFC 3849).
    let (any, far): (IpAddr, IpAddr) = if v4 {
        (
            Ipv4Addr::UNSPECIFIED.into(),
            Ipv4Addr::new(192, 0, 2, 1).into(),
        )
    } else {
        (
            Ipv6Addr::UNSPECIFIED.into(),
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        )
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect((far, 9))?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use mediacore_core::PeerConnectionConfig;

    use super::*;

    fn config(address: &str) -> EngineConfig {
        EngineConfig {
            udp: vec![Binding {
                address: address.parse().unwrap(),
                advertise: None,
            }],
            tcp: Vec::new(),
            event_interval: Duration::from_millis(2),
            level_interval: Duration::from_millis(400),
            max_peer_connections: 10,
        }
    }

    #[test]
    fn a_busy_port_is_named() {
        let engine = Engine::open(&config("127.0.0.1:0")).unwrap();
        let busy = engine.udp_addresses()[0];
        let error = Engine::open(&config(&busy.to_string())).err().unwrap();
        assert_eq!(error.as_io().kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&busy.to_string()), "{error}");
    }

    #[test]
    fn a_panic_fails_every_peer_connection_and_hangs_nobody() {
        let engine = Engine::open(&config("127.0.0.1:0")).unwrap();
        let transport = PeerConnectionConfig {
            ice_ufrag: "abcd".into(),
            ice_pwd: "0123456789012345678901".into(),
            ice_lite: true,
            ice_controlling: false,
            dtls_active: true,
        };
        for pc in [4, 5, 6] {
            let config = transport.clone();
            engine
                .command(Command::CreatePeerConnection {
                    pc: PcId(pc),
                    config,
                })
                .unwrap();
        }
        engine
            .command(Command::ClosePeerConnection { pc: PcId(5) })
            .unwrap();
        engine.inbox.push(Request::Panic);
        assert_eq!(engine.candidates("abcd"), Err(DeadEngine));
        engine.close();
        assert_eq!(engine.stats().counters, [("engine_panics", 1)]);
        let events = engine.drain();
        let failed: Vec<_> = events
            .iter()
            .filter_map(|event| match event {
                Event::Failed { pc, .. } => Some(pc.0),
                _ => None,
            })
            .collect();
        assert_eq!(failed, [4, 6]);
        assert_eq!(
            engine.command(Command::ClosePeerConnection { pc: PcId(4) }),
            Err(DeadEngine)
        );
    }

    #[test]
    fn closing_frees_the_port() {
        let engine = Engine::open(&config("[::1]:0")).unwrap();
        let address = engine.udp_addresses()[0].to_string();
        engine.close();
        Engine::open(&config(&address)).unwrap();
    }

    #[test]
    fn an_advertised_address_takes_the_bound_port_unless_it_has_its_own() {
        let bound = "10.0.0.2:7882".parse().unwrap();
        let advertised = |text: &str| {
            let advertise = Some(text.parse().unwrap());
            let binding = Binding {
                address: bound,
                advertise,
            };
            local_address(0, bound, &binding, Protocol::Udp)
                .unwrap()
                .advertised
                .to_string()
        };
        assert_eq!(advertised("203.0.113.5:0"), "203.0.113.5:7882");
        assert_eq!(advertised("203.0.113.5:30000"), "203.0.113.5:30000");
    }
}
