//! One thread's worth of the engine: peer connections, tracks and senders, and what moves between them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::command::Command;
use crate::event::Event;
use crate::ids::PcId;
use crate::stats::Stats;
use crate::transport::{DtlsIdentity, LocalAddress};

/// How a shard is made.
pub struct ShardConfig {
    /// The process's certificate.
    pub identity: Arc<DtlsIdentity>,
    /// Sockets the driver opened.
    pub locals: Vec<LocalAddress>,
    /// Start of every random number: SSRCs of reports, first sequence numbers.
    pub seed: u64,
    /// Window of `AudioLevels`.
    pub level_interval: Duration,
    /// More are rejected.
    pub max_peer_connections: usize,
    /// The instant sources count their time stamps from; the same for every shard of a process.
    pub epoch: Instant,
    /// Wall clock at `epoch`, since 1970, for sender reports.
    pub epoch_unix: Duration,
}

/// Datagrams to one destination, ready for `UDP_SEGMENT`.
#[derive(Debug, PartialEq, Eq)]
pub struct Transmit {
    /// From which socket.
    pub socket: usize,
    /// To whom.
    pub destination: SocketAddr,
    /// At most 64 segments and 64,000 bytes.
    pub data: Vec<u8>,
    /// Every segment has this size, only the last may be shorter.
    pub segment_size: u16,
}

/// One thread's worth of the engine.
///
/// Mutate (`handle_*`), `flush` at the end of an input batch, then drain (`poll_*`).
pub struct Shard {
    config: ShardConfig,
}

impl Shard {
    /// Makes an empty shard.
    pub fn new(config: ShardConfig, now: Instant) -> Self {
        let _ = now;
        Self { config }
    }

    /// Takes one datagram; the buffer is decrypted in place. Hostile bytes are dropped and counted.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        socket: usize,
        source: SocketAddr,
        packet: &mut [u8],
    ) {
        let _ = (now, socket, source, packet);
    }

    /// Performs a command, or answers with `Event::Rejected`.
    pub fn handle_command(&mut self, now: Instant, command: Command) {
        let _ = (now, command);
    }

    /// Does what is due. Calling too early does nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }

    /// Ends an input batch: packs what was gathered into transmits.
    pub fn flush(&mut self, now: Instant) {
        let _ = now;
    }

    /// Next run of datagrams to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        None
    }

    /// Gives a sent transmit's buffer back.
    pub fn recycle(&mut self, buffer: Vec<u8>) {
        let _ = buffer;
    }

    /// Next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        None
    }

    /// When `handle_timeout` is due at the latest.
    pub fn poll_timeout(&self) -> Instant {
        self.config.epoch
    }

    /// A snapshot; meant for once a second.
    pub fn stats(&mut self, now: Instant) -> Stats {
        let _ = now;
        Stats::default()
    }

    /// Candidate lines for one local ufrag, UDP first.
    pub fn candidates(&self, ufrag: &str) -> Vec<String> {
        let _ = ufrag;
        Vec::new()
    }

    /// A peer connection as a versioned value; None when unknown. It goes on until closed.
    pub fn export_peer_connection(&self, pc: PcId) -> Option<Vec<u8>> {
        let _ = pc;
        None
    }
}
