//! The engine thread: one loop around one shard.
//!
//! A round reads what came, performs what was asked, lets the shard do what is due, then flushes once and writes all
//! of it: everything that arrived together leaves together.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use mediacore_core::{Command, Event, PcId, Shard};

use crate::counters::Counters;
use crate::gather::{Gather, WAIT};
use crate::queue::{Inbox, Outbox, Request};
use crate::sys::{self, Epoll, Ready, ReceiveBatch, SendBatch};
use crate::tcp::TcpPort;
use crate::udp::UdpPort;

/// Token of the inbox in the epoll set; UDP socket `i` is `i + 1`.
const INBOX: u64 = 0;
/// TCP listener `i` owns the tokens from `(i + 1) << 32`.
const TCP_SHIFT: u32 = 32;
/// Batches read from one socket in one round, so that a flood on one does not starve the rest.
const MAX_BATCHES: usize = 4;
/// Requests performed in one round.
const MAX_REQUESTS: usize = 1024;
/// Longest sleep: a bound on the harm of a lost wake-up.
const MAX_SLEEP: Duration = Duration::from_secs(1);

/// First token of TCP listener `index`.
pub(crate) fn tcp_tokens(index: usize) -> u64 {
    (index as u64 + 1) << TCP_SHIFT
}

/// The thread's whole state.
pub(crate) struct Reactor {
    shard: Shard,
    udp: Vec<UdpPort>,
    /// Whether epoll also waits for room in the socket.
    waits_for_room: Vec<bool>,
    tcp: Vec<TcpPort>,
    epoll: Epoll,
    requests: Receiver<Request>,
    inbox: Arc<Inbox>,
    outbox: Arc<Outbox>,
    event_interval: Duration,
    counters: Counters,
    gather: Gather,
    receive_batch: ReceiveBatch,
    send_batch: SendBatch,
    events: Vec<Event>,
    events_due: Option<Instant>,
    live: BTreeSet<PcId>,
}

impl Reactor {
    /// Puts a shard and its sockets together. Sockets are numbered UDP first, then TCP, as the shard was told.
    pub(crate) fn new(
        shard: Shard,
        udp: Vec<UdpPort>,
        tcp: Vec<TcpPort>,
        (inbox, requests): (Arc<Inbox>, Receiver<Request>),
        outbox: Arc<Outbox>,
        event_interval: Duration,
    ) -> std::io::Result<Self> {
        let epoll = Epoll::new()?;
        epoll.add(inbox.wake_fd(), INBOX)?;
        for (index, port) in udp.iter().enumerate() {
            epoll.add(port.fd(), index as u64 + 1)?;
        }
        for (index, port) in tcp.iter().enumerate() {
            epoll.add(port.fd(), tcp_tokens(index))?;
        }
        Ok(Self {
            shard,
            waits_for_room: vec![false; udp.len()],
            udp,
            tcp,
            epoll,
            requests,
            inbox,
            outbox,
            event_interval,
            counters: Counters::default(),
            gather: Gather::default(),
            receive_batch: ReceiveBatch::new(),
            send_batch: SendBatch::new(),
            events: Vec::new(),
            events_due: None,
            live: BTreeSet::new(),
        })
    }

    /// Peer connections made and not closed.
    pub(crate) fn live(&self) -> impl Iterator<Item = PcId> {
        self.live.iter().copied()
    }

    /// Runs until told to stop.
    pub(crate) fn run(&mut self) -> std::io::Result<()> {
        let mut ready = Vec::new();
        let mut more = false;
        loop {
            self.inbox.arm();
            let sleep = if more || !self.requests.is_empty() {
                Duration::ZERO
            } else {
                self.next_deadline()
                    .saturating_duration_since(Instant::now())
                    .min(MAX_SLEEP)
            };
            let waited = self.epoll.wait(sleep, &mut ready);
            self.inbox
                .disarm(ready.iter().any(|one| one.token == INBOX));
            waited?;
            self.counters.wakeups += 1;

            let start = Instant::now();
            let (received, full) = self.receive(&ready, start);
            let caught = self.gather(&ready, received);
            let now = if caught.is_some() {
                Instant::now()
            } else {
                start
            };
            let Some(performed) = self.perform_requests(now) else {
                return Ok(());
            };
            if now >= self.shard.poll_timeout() {
                self.shard.handle_timeout(now);
            }
            self.shard.flush(now);
            let sent = self.transmit();
            self.gather.round(received + caught.unwrap_or(0), sent);
            self.deliver_events(now);
            for port in &mut self.tcp {
                port.sweep(now, &self.epoll, &mut self.counters);
            }
            more = full || performed == MAX_REQUESTS;
            let length = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.counters.longest_round_us = self.counters.longest_round_us.max(length);
        }
    }

    fn next_deadline(&self) -> Instant {
        let sweeps = self.tcp.iter().filter_map(TcpPort::next_sweep);
        let due = self.shard.poll_timeout();
        sweeps.chain(self.events_due).fold(due, Instant::min)
    }

    /// Reads the ready sockets; how many datagrams, and whether more may wait.
    fn receive(&mut self, ready: &[Ready], now: Instant) -> (usize, bool) {
        let mut received = 0;
        let mut more = false;
        for &one in ready {
            let listener = (one.token >> TCP_SHIFT) as usize;
            if listener > 0 {
                let socket = self.udp.len() + listener - 1;
                let (shard, counters) = (&mut self.shard, &mut self.counters);
                received += self.tcp[listener - 1].handle_ready(
                    one,
                    now,
                    &self.epoll,
                    counters,
                    |source, frame| {
                        shard.handle_datagram(now, socket, source, frame);
                    },
                );
            } else if one.token != INBOX && one.readable {
                let socket = one.token as usize - 1;
                let mut full = true;
                for _ in 0..MAX_BATCHES {
                    let count;
                    (count, full) = self.receive_batch(socket, now);
                    received += count;
                    if !full {
                        break;
                    }
                }
                more |= full;
            }
        }
        (received, more)
    }

    fn receive_batch(&mut self, socket: usize, now: Instant) -> (usize, bool) {
        let shard = &mut self.shard;
        self.udp[socket].receive(
            &mut self.receive_batch,
            &mut self.counters,
            |source, packet| {
                shard.handle_datagram(now, socket, source, packet);
            },
        )
    }

    /// Waits a moment for the rest of a burst, where that pays; what came, if it waited.
    fn gather(&mut self, ready: &[Ready], received: usize) -> Option<usize> {
        if !self.gather.pays(received) {
            return None;
        }
        std::thread::sleep(WAIT);
        let now = Instant::now();
        let mut caught = 0;
        for one in ready {
            if one.token != INBOX && one.token >> TCP_SHIFT == 0 {
                caught += self.receive_batch(one.token as usize - 1, now).0;
            }
        }
        self.gather.waited(caught);
        self.counters.gather_waits += 1;
        self.counters.gather_gains += caught as u64;
        Some(caught)
    }

    /// Performs what was asked; how many, or None at the end.
    fn perform_requests(&mut self, now: Instant) -> Option<usize> {
        for performed in 0..MAX_REQUESTS {
            let Ok(request) = self.requests.try_recv() else {
                return Some(performed);
            };
            // Whoever asked may have given up waiting: a failed answer is nobody's loss.
            match request {
                Request::Command(command) => {
                    self.counters.commands += 1;
                    self.note(&command);
                    self.shard.handle_command(now, command);
                }
                Request::Stats(answer) => {
                    let mut stats = self.shard.stats(now);
                    self.counters.write(&mut stats);
                    let cpu = u64::try_from(sys::thread_cpu_time().as_micros()).unwrap_or(u64::MAX);
                    stats.counters.push(("engine_cpu_us", cpu));
                    stats.counters.push(("engine_panics", 0));
                    let _ = answer.send(stats);
                }
                Request::Candidates(ufrag, answer) => {
                    let _ = answer.send(self.shard.candidates(&ufrag));
                }
                Request::Export(pc, answer) => {
                    let _ = answer.send(self.shard.export_peer_connection(pc));
                }
                Request::Stop => return None,
                #[cfg(test)]
                Request::Panic => panic!("asked to"),
            }
        }
        Some(MAX_REQUESTS)
    }

    fn note(&mut self, command: &Command) {
        match command {
            Command::CreatePeerConnection { pc, .. } | Command::ImportPeerConnection { pc, .. } => {
                self.live.insert(*pc);
            }
            Command::ClosePeerConnection { pc } => {
                self.live.remove(pc);
            }
            _ => {}
        }
    }

    /// Writes everything the shard made; how many datagrams.
    fn transmit(&mut self) -> usize {
        let before = self.counters.datagrams_out;
        while let Some(transmit) = self.shard.poll_transmit() {
            if let Some(port) = self.udp.get_mut(transmit.socket) {
                if let Some(buffer) = port.push(transmit, &mut self.counters) {
                    self.shard.recycle(buffer);
                }
            } else if let Some(port) = self.tcp.get_mut(transmit.socket - self.udp.len()) {
                port.send(&transmit, &self.epoll, &mut self.counters);
                self.shard.recycle(transmit.data);
            }
        }
        for (index, port) in self.udp.iter_mut().enumerate() {
            let shard = &mut self.shard;
            port.send(&mut self.send_batch, &mut self.counters, |buffer| {
                shard.recycle(buffer)
            });
            if port.is_blocked() != self.waits_for_room[index] {
                self.waits_for_room[index] = port.is_blocked();
                // Should it fail, the next round's send tries again anyway.
                let _ = self
                    .epoll
                    .set_writable(port.fd(), index as u64 + 1, port.is_blocked());
            }
        }
        (self.counters.datagrams_out - before) as usize
    }

    fn deliver_events(&mut self, now: Instant) {
        while let Some(event) = self.shard.poll_event() {
            self.events.push(event);
        }
        if !self.events.is_empty() {
            let (dropped, due) = self.outbox.push(&mut self.events, now, self.event_interval);
            self.counters.events_dropped += dropped;
            self.events_due = due;
        } else if self.events_due.is_some_and(|due| due <= now) {
            self.events_due = self.outbox.signal_due(now);
        }
    }
}
