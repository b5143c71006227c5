//! One bound UDP socket: batches in, segmented batches out.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, RawFd};

use mediacore_core::Transmit;

use crate::counters::Counters;
use crate::sys::{self, Message, ReceiveBatch, SEND_BATCH, SendBatch};

/// Socket buffers asked for: a tenth of a second at 300 Mbit/s each way.
pub(crate) const BUFFER: i32 = 4 << 20;
/// Bytes kept while the socket has no room; the rest is dropped, as any full queue of a network would.
const MAX_QUEUED: usize = 4 << 20;
/// Refusals in a row before segmentation is no longer asked for. One may be a path with a small MTU.
const MAX_REFUSALS: u32 = 4;

/// One bound UDP socket and what waits to leave by it.
pub(crate) struct UdpPort {
    socket: UdpSocket,
    queue: VecDeque<Transmit>,
    queued: usize,
    /// Bytes of the queue's first transmit that have left already.
    offset: usize,
    /// Datagrams are cut by the kernel.
    segments: bool,
    refusals: u32,
    blocked: bool,
}

impl UdpPort {
    /// Opens `address`. The second value is the size of the buffers got, for a warning.
    pub(crate) fn bind(address: SocketAddr) -> io::Result<(Self, i32)> {
        let socket = sys::bind_udp(address)?;
        let buffer = sys::grow_buffers(socket.as_fd(), BUFFER)?;
        // Kernels without it (before 5.0) deliver singles.
        let _ = sys::enable_gro(socket.as_fd());
        let port = Self {
            socket,
            queue: VecDeque::new(),
            queued: 0,
            offset: 0,
            segments: true,
            refusals: 0,
            blocked: false,
        };
        Ok((port, buffer))
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Whether something waits for room in the socket.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Reads one batch and shows each datagram to `take`. Returns how many datagrams there were, and whether the batch
    /// was full, so that more may wait.
    pub(crate) fn receive(
        &mut self,
        batch: &mut ReceiveBatch,
        counters: &mut Counters,
        mut take: impl FnMut(SocketAddr, &mut [u8]),
    ) -> (usize, bool) {
        counters.receive_calls += 1;
        let reads = match batch.receive(self.socket.as_fd()) {
            Ok(reads) => reads,
            Err(error) => {
                if error.kind() != io::ErrorKind::WouldBlock {
                    counters.receive_errors += 1;
                }
                return (0, false);
            }
        };
        counters.receive_reads += reads as u64;
        let mut datagrams = 0;
        for index in 0..reads {
            let Some(read) = batch.get(index) else {
                counters.receive_truncated += 1;
                continue;
            };
            for datagram in read.data.chunks_mut(read.segment) {
                datagrams += 1;
                take(read.source, datagram);
            }
        }
        counters.datagrams_in += datagrams as u64;
        (datagrams, reads == sys::RECEIVE_BATCH)
    }

    /// Adds a transmit; gives its buffer back when there is no room.
    pub(crate) fn push(&mut self, transmit: Transmit, counters: &mut Counters) -> Option<Vec<u8>> {
        if self.blocked && self.queued + transmit.data.len() > MAX_QUEUED {
            counters.send_dropped += segments_of(&transmit) as u64;
            return Some(transmit.data);
        }
        self.queued += transmit.data.len();
        self.queue.push_back(transmit);
        None
    }

    /// Writes until the queue is empty or the socket is full; finished buffers go to `recycle`.
    pub(crate) fn send(
        &mut self,
        batch: &mut SendBatch,
        counters: &mut Counters,
        mut recycle: impl FnMut(Vec<u8>),
    ) {
        self.blocked = false;
        while !self.queue.is_empty() {
            counters.send_calls += 1;
            match batch.send(
                self.socket.as_fd(),
                messages(&self.queue, self.offset, self.segments),
            ) {
                Ok(sent) => {
                    for _ in 0..sent {
                        let segments = self.advance(&mut recycle);
                        if segments > 1 {
                            self.refusals = 0;
                        }
                        counters.sent(segments);
                    }
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN | libc::ENOBUFS) => {
                        counters.send_blocked += 1;
                        self.blocked = true;
                        return;
                    }
                    Some(libc::EINTR) => {}
                    Some(code @ (libc::EIO | libc::EINVAL | libc::EMSGSIZE))
                        if self.is_segmented() =>
                    {
                        counters.gso_refused += 1;
                        self.refusals += 1;
                        // A device that cannot checksum says EIO, and will say it again.
                        if code == libc::EIO || self.refusals >= MAX_REFUSALS {
                            self.segments = false;
                        } else {
                            self.send_unsegmented(batch, counters, &mut recycle);
                        }
                    }
                    _ => {
                        counters.send_errors += 1;
                        self.advance(&mut recycle);
                    }
                },
            }
        }
    }

    /// Whether the queue's first message is one for the kernel to cut.
    fn is_segmented(&self) -> bool {
        messages(&self.queue, self.offset, self.segments)
            .next()
            .is_some_and(|message| message.segment.is_some())
    }

    /// Writes the first transmit alone, datagram by datagram; losses here are the path's.
    fn send_unsegmented(
        &mut self,
        batch: &mut SendBatch,
        counters: &mut Counters,
        recycle: &mut impl FnMut(Vec<u8>),
    ) {
        let Some(transmit) = self.queue.pop_front() else {
            return;
        };
        self.queued -= transmit.data.len();
        let rest = &transmit.data[std::mem::take(&mut self.offset)..];
        for data in rest.chunks(usize::from(transmit.segment_size.max(1))) {
            let message = Message {
                destination: transmit.destination,
                data,
                segment: None,
            };
            counters.send_calls += 1;
            match batch.send(self.socket.as_fd(), std::iter::once(message)) {
                Ok(_) => counters.sent(1),
                Err(_) => counters.send_errors += 1,
            }
        }
        recycle(transmit.data);
    }

    /// Takes the first message off the queue; the datagrams it had.
    fn advance(&mut self, recycle: &mut impl FnMut(Vec<u8>)) -> usize {
        let Some(first) = self.queue.front() else {
            return 0;
        };
        let rest = first.data.len() - self.offset;
        let segment = usize::from(first.segment_size.max(1));
        let taken = if self.segments {
            rest
        } else {
            rest.min(segment)
        };
        self.offset += taken;
        if taken == rest {
            self.offset = 0;
            if let Some(transmit) = self.queue.pop_front() {
                self.queued -= transmit.data.len();
                recycle(transmit.data);
            }
        }
        taken.div_ceil(segment)
    }
}

fn segments_of(transmit: &Transmit) -> usize {
    transmit
        .data
        .len()
        .div_ceil(usize::from(transmit.segment_size.max(1)))
}

/// The queue as messages, starting `offset` bytes into its first transmit.
fn messages(
    queue: &VecDeque<Transmit>,
    offset: usize,
    segments: bool,
) -> impl Iterator<Item = Message<'_>> {
    queue
        .iter()
        .take(SEND_BATCH)
        .enumerate()
        .flat_map(move |(index, transmit)| {
            let rest = &transmit.data[if index == 0 { offset } else { 0 }..];
            let size = usize::from(transmit.segment_size.max(1));
            let piece = if segments { rest.len().max(1) } else { size };
            rest.chunks(piece).map(move |data| Message {
                destination: transmit.destination,
                data,
                segment: (data.len() > size).then_some(transmit.segment_size),
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transmit(destination: SocketAddr, datagrams: usize) -> Transmit {
        Transmit {
            socket: 0,
            destination,
            data: vec![9; datagrams * 500 - 100],
            segment_size: 500,
        }
    }

    fn received(port: &mut UdpPort) -> Vec<usize> {
        let mut lengths = Vec::new();
        let mut batch = ReceiveBatch::new();
        while port
            .receive(&mut batch, &mut Counters::default(), |_, data| {
                lengths.push(data.len())
            })
            .0
            > 0
        {}
        lengths
    }

    fn send_and_receive(segments: bool) -> (Vec<usize>, Counters) {
        let (mut a, _) = UdpPort::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let (mut b, _) = UdpPort::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        a.segments = segments;
        let mut counters = Counters::default();
        let mut recycled = 0;
        for datagrams in [3, 1, 70] {
            assert!(
                a.push(transmit(b.local_addr().unwrap(), datagrams), &mut counters)
                    .is_none()
            );
        }
        a.send(&mut SendBatch::new(), &mut counters, |_| recycled += 1);
        assert_eq!((recycled, a.queued), (3, 0));
        (received(&mut b), counters)
    }

    #[test]
    fn a_run_is_cut_by_the_kernel_and_more_than_the_kernel_takes_is_sent_plain() {
        // 70 datagrams are over the 64 that older kernels cut; newer ones take them. Either way they arrive.
        let (lengths, counters) = send_and_receive(true);
        assert_eq!(lengths.len(), 74);
        assert_eq!((lengths[0], lengths[2], lengths[3]), (500, 400, 400));
        assert_eq!(counters.datagrams_out, 74);
        assert_eq!(counters.gso_depth[1], 1);
    }

    #[test]
    fn without_segmentation_the_same_datagrams_leave() {
        let (lengths, counters) = send_and_receive(false);
        assert_eq!(lengths.len(), 74);
        assert_eq!(lengths.iter().filter(|length| **length == 400).count(), 3);
        assert_eq!((counters.send_messages, counters.gso_depth[0]), (74, 74));
    }

    #[test]
    fn an_unsendable_datagram_is_counted_and_the_next_one_leaves() {
        let (mut a, _) = UdpPort::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let (mut b, _) = UdpPort::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut counters = Counters::default();
        a.push(transmit("[::1]:9".parse().unwrap(), 1), &mut counters);
        a.push(transmit(b.local_addr().unwrap(), 1), &mut counters);
        a.send(&mut SendBatch::new(), &mut counters, drop);
        assert_eq!(counters.send_errors, 1);
        assert_eq!(received(&mut b), [400]);
    }

    #[test]
    fn a_full_socket_holds_a_bounded_queue() {
        let (mut a, _) = UdpPort::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let destination = a.local_addr().unwrap();
        let mut counters = Counters::default();
        a.blocked = true;
        let mut refused = 0;
        for _ in 0..200 {
            refused += usize::from(a.push(transmit(destination, 60), &mut counters).is_some());
        }
        assert!(a.queued <= MAX_QUEUED);
        assert_eq!(counters.send_dropped, refused as u64 * 60);
        assert!(refused > 40);
    }
}
