//! ICE-TCP, passive (RFC 6544): a listener, and connections whose frames (RFC 4571) are datagrams to the shard.
//!
//! Everything a stranger can make grow is bounded: connections, their buffers, and the time they may be useless.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use mediacore_core::Transmit;

use crate::counters::Counters;
use crate::sys::{self, Epoll};

/// Connections at a time; a client needs one.
const MAX_CONNECTIONS: usize = 4096;
/// Longest frame taken; ours and every browser's are below the usual MTU.
const MAX_FRAME: usize = 4096;
/// Bytes kept for a slow reader; whole datagrams are dropped above it.
const MAX_OUTPUT: usize = 512 << 10;
/// A connection with no whole frame by then is closed.
const FIRST_FRAME_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that says nothing this long is closed: consent checks come every 5 s (RFC 7675).
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How often idle connections are looked for.
const SWEEP: Duration = Duration::from_secs(5);
/// STUN's magic cookie (RFC 8489 section 5).
const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

/// One listening address and its connections.
pub(crate) struct TcpPort {
    listener: TcpListener,
    connections: Vec<Option<Connection>>,
    by_peer: HashMap<SocketAddr, usize>,
    open: usize,
    /// Token of the first connection slot; the listener's is the one before.
    tokens: u64,
    next_sweep: Option<Instant>,
    scratch: Box<[u8]>,
}

struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    input: Vec<u8>,
    output: Vec<u8>,
    written: usize,
    deadline: Instant,
    /// A STUN message came first, as it must.
    greeted: bool,
    waits_for_room: bool,
}

/// Why a connection ends. All are silent: the far side sees only the end.
enum End {
    Closed,
    Protocol,
}

impl TcpPort {
    /// Opens `address`; tokens from `tokens` to `tokens + 2^32` belong to it.
    pub(crate) fn listen(address: SocketAddr, tokens: u64) -> io::Result<Self> {
        Ok(Self {
            listener: sys::listen_tcp(address, 256)?,
            connections: Vec::new(),
            by_peer: HashMap::new(),
            open: 0,
            tokens: tokens + 1,
            next_sweep: None,
            scratch: vec![0; 16 << 10].into_boxed_slice(),
        })
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.listener.as_raw_fd()
    }

    /// When `sweep` wants to be called.
    pub(crate) fn next_sweep(&self) -> Option<Instant> {
        self.next_sweep
    }

    /// Serves one ready token; shows every whole frame to `take`. Returns the number of frames.
    pub(crate) fn handle_ready(
        &mut self,
        ready: sys::Ready,
        now: Instant,
        epoll: &Epoll,
        counters: &mut Counters,
        mut take: impl FnMut(SocketAddr, &mut [u8]),
    ) -> usize {
        let Some(slot) = ready.token.checked_sub(self.tokens) else {
            self.accept(now, epoll, counters);
            return 0;
        };
        let slot = slot as usize;
        let Some(connection) = self.connections.get_mut(slot).and_then(Option::as_mut) else {
            return 0;
        };
        let mut frames = 0;
        let mut result = Ok(());
        if ready.writable {
            result = connection.write(epoll, ready.token);
        }
        if result.is_ok() && ready.readable {
            result = connection.read(&mut self.scratch, now, |source, frame| {
                frames += 1;
                take(source, frame);
            });
        }
        if result.is_err() {
            self.close(slot, epoll, counters);
        }
        counters.datagrams_in += frames as u64;
        frames
    }

    fn accept(&mut self, now: Instant, epoll: &Epoll, counters: &mut Counters) {
        // Bounded, so that a flood of connections cannot hold the thread.
        for _ in 0..64 {
            let Ok((stream, peer)) = self.listener.accept() else {
                return;
            };
            let usable = self.open < MAX_CONNECTIONS
                && stream.set_nonblocking(true).is_ok()
                && stream.set_nodelay(true).is_ok();
            if !usable {
                counters.tcp_refused += 1;
                continue;
            }
            let slot = self
                .connections
                .iter()
                .position(Option::is_none)
                .unwrap_or(self.connections.len());
            if epoll
                .add(stream.as_raw_fd(), self.tokens + slot as u64)
                .is_err()
            {
                counters.tcp_refused += 1;
                continue;
            }
            let connection = Connection {
                stream,
                peer,
                input: Vec::new(),
                output: Vec::new(),
                written: 0,
                deadline: now + FIRST_FRAME_TIMEOUT,
                greeted: false,
                waits_for_room: false,
            };
            if slot == self.connections.len() {
                self.connections.push(Some(connection));
            } else {
                self.connections[slot] = Some(connection);
            }
            self.by_peer.insert(peer, slot);
            self.open += 1;
            self.next_sweep.get_or_insert(now + SWEEP);
            counters.tcp_accepted += 1;
        }
    }

    /// Frames and writes a transmit's datagrams; a connection that is gone or full drops them.
    pub(crate) fn send(&mut self, transmit: &Transmit, epoll: &Epoll, counters: &mut Counters) {
        let segment = usize::from(transmit.segment_size.max(1));
        let Some(&slot) = self.by_peer.get(&transmit.destination) else {
            counters.tcp_dropped += transmit.data.len().div_ceil(segment) as u64;
            return;
        };
        let Some(connection) = self.connections[slot].as_mut() else {
            return;
        };
        for datagram in transmit.data.chunks(segment) {
            if connection.output.len() + datagram.len() > MAX_OUTPUT {
                counters.tcp_dropped += 1;
                continue;
            }
            // A segment size is a u16, so a length fits.
            connection
                .output
                .extend((datagram.len() as u16).to_be_bytes());
            connection.output.extend(datagram);
            counters.sent(1);
        }
        if connection.write(epoll, self.tokens + slot as u64).is_err() {
            self.close(slot, epoll, counters);
        }
    }

    /// Closes what has been useless for too long.
    pub(crate) fn sweep(&mut self, now: Instant, epoll: &Epoll, counters: &mut Counters) {
        if self.next_sweep.is_none_or(|at| now < at) {
            return;
        }
        for slot in 0..self.connections.len() {
            if self.connections[slot]
                .as_ref()
                .is_some_and(|connection| connection.deadline <= now)
            {
                self.close(slot, epoll, counters);
            }
        }
        self.next_sweep = (self.open > 0).then(|| now + SWEEP);
    }

    fn close(&mut self, slot: usize, epoll: &Epoll, counters: &mut Counters) {
        if let Some(connection) = self.connections[slot].take() {
            epoll.remove(connection.stream.as_raw_fd());
            self.by_peer.remove(&connection.peer);
            self.open -= 1;
            counters.tcp_closed += 1;
        }
    }
}

impl Connection {
    fn read(
        &mut self,
        scratch: &mut [u8],
        now: Instant,
        mut take: impl FnMut(SocketAddr, &mut [u8]),
    ) -> Result<(), End> {
        // One read a wake-up: level-triggered epoll comes back for the rest, after the others.
        match self.stream.read(scratch) {
            Ok(0) => return Err(End::Closed),
            Ok(length) => self.input.extend(&scratch[..length]),
            Err(error) if is_temporary(&error) => return Ok(()),
            Err(_) => return Err(End::Closed),
        }
        let mut start = 0;
        while let Some((header, rest)) = self.input[start..].split_first_chunk::<2>() {
            let length = usize::from(u16::from_be_bytes(*header));
            if length > MAX_FRAME {
                return Err(End::Protocol);
            }
            if rest.len() < length {
                break;
            }
            let frame = &mut self.input[start + 2..start + 2 + length];
            start += 2 + length;
            if !self.greeted {
                if !is_stun(frame) {
                    return Err(End::Protocol);
                }
                self.greeted = true;
            }
            self.deadline = now + IDLE_TIMEOUT;
            take(self.peer, frame);
        }
        self.input.drain(..start);
        Ok(())
    }

    fn write(&mut self, epoll: &Epoll, token: u64) -> Result<(), End> {
        while self.written < self.output.len() {
            match self.stream.write(&self.output[self.written..]) {
                Ok(0) => return Err(End::Closed),
                Ok(length) => self.written += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_temporary(&error) => break,
                Err(_) => return Err(End::Closed),
            }
        }
        self.output.drain(..self.written);
        self.written = 0;
        let waits = !self.output.is_empty();
        if waits != self.waits_for_room {
            self.waits_for_room = waits;
            epoll
                .set_writable(self.stream.as_raw_fd(), token, waits)
                .map_err(|_| End::Closed)?;
        }
        Ok(())
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

fn is_stun(frame: &[u8]) -> bool {
    frame.len() >= 20 && frame[0] < 4 && frame[4..8] == MAGIC_COOKIE
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench {
        port: TcpPort,
        epoll: Epoll,
        counters: Counters,
        frames: Vec<(SocketAddr, Vec<u8>)>,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            let port = TcpPort::listen("127.0.0.1:0".parse().unwrap(), 100).unwrap();
            let epoll = Epoll::new().unwrap();
            epoll.add(port.fd(), 100).unwrap();
            Self {
                port,
                epoll,
                counters: Counters::default(),
                frames: Vec::new(),
                now: Instant::now(),
            }
        }

        fn connect(&mut self) -> TcpStream {
            let stream = TcpStream::connect(self.port.local_addr().unwrap()).unwrap();
            self.turn();
            stream
        }

        fn turn(&mut self) {
            let mut ready = Vec::new();
            self.epoll.wait(Duration::from_secs(1), &mut ready).unwrap();
            for one in ready {
                self.port.handle_ready(
                    one,
                    self.now,
                    &self.epoll,
                    &mut self.counters,
                    |source, frame| {
                        self.frames.push((source, frame.to_vec()));
                    },
                );
            }
        }
    }

    fn stun() -> Vec<u8> {
        let mut message = vec![0, 1, 0, 0];
        message.extend(MAGIC_COOKIE);
        message.extend([7; 12]);
        message
    }

    fn framed(datagram: &[u8]) -> Vec<u8> {
        [&(datagram.len() as u16).to_be_bytes(), datagram].concat()
    }

    #[test]
    fn frames_split_anywhere_come_out_whole_and_answers_are_framed() {
        let mut bench = Bench::new();
        let mut client = bench.connect();
        let bytes = [framed(&stun()), framed(b"second")].concat();
        for piece in bytes.chunks(13) {
            client.write_all(piece).unwrap();
            bench.turn();
        }
        let us = client.local_addr().unwrap();
        assert_eq!(bench.frames, [(us, stun()), (us, b"second".to_vec())]);
        let answer = Transmit {
            socket: 0,
            destination: us,
            data: b"aaaabb".to_vec(),
            segment_size: 4,
        };
        bench.port.send(&answer, &bench.epoll, &mut bench.counters);
        let mut got = [0; 10];
        client.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"\0\x04aaaa\0\x02bb");
    }

    #[test]
    fn a_connection_that_does_not_begin_with_stun_is_closed() {
        let mut bench = Bench::new();
        let mut client = bench.connect();
        client
            .write_all(&framed(b"GET / HTTP/1.1\r\n\r\n and so on"))
            .unwrap();
        bench.turn();
        assert_eq!((bench.counters.tcp_closed, bench.port.open), (1, 0));
        assert!(bench.frames.is_empty());
    }

    #[test]
    fn a_frame_too_long_closes_before_it_is_buffered() {
        let mut bench = Bench::new();
        let mut client = bench.connect();
        client.write_all(&[0xff, 0xff, 0, 1]).unwrap();
        bench.turn();
        assert_eq!(bench.counters.tcp_closed, 1);
    }

    #[test]
    fn a_slow_reader_loses_datagrams_but_not_memory() {
        let mut bench = Bench::new();
        let client = bench.connect();
        let destination = client.local_addr().unwrap();
        let data = vec![1; 60_000];
        let big = Transmit {
            socket: 0,
            destination,
            data,
            segment_size: 1000,
        };
        for _ in 0..400 {
            bench.port.send(&big, &bench.epoll, &mut bench.counters);
        }
        assert!(bench.counters.tcp_dropped > 0);
        let connection = bench.port.connections[0].as_ref().unwrap();
        assert!(connection.output.len() <= MAX_OUTPUT + 2 && connection.waits_for_room);
    }

    #[test]
    fn a_silent_connection_is_swept_and_its_slot_used_again() {
        let mut bench = Bench::new();
        let _silent = bench.connect();
        assert_eq!(bench.port.open, 1);
        let later = bench.now + FIRST_FRAME_TIMEOUT;
        bench.port.sweep(later, &bench.epoll, &mut bench.counters);
        assert_eq!((bench.port.open, bench.port.next_sweep()), (0, None));
        let _next = bench.connect();
        assert_eq!(bench.port.connections.len(), 1);
    }
}
