//! The system calls std does not offer: batched datagrams, segmentation offload, eventfd and epoll.
//!
//! The only file of the media core with `unsafe` in it. Nothing here decides anything: each function is one call,
//! its arguments made sound, its error returned. Linux only.

#![allow(unsafe_code)]

use std::io;
use std::mem::{self, size_of};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// Datagrams read by one call.
pub(crate) const RECEIVE_BATCH: usize = 32;
/// Messages written by one call.
pub(crate) const SEND_BATCH: usize = 64;
/// One receive slot. A coalesced read (UDP_GRO) is up to 64 KiB; the odd remainder keeps the slots from falling into
/// the same cache sets.
const SLOT: usize = 65_536 + 2_112;
/// Room for one control message of a few integers, aligned as `cmsghdr` wants it.
const CONTROL: usize = 64;

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL]);

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Length of a socket structure as the kernel counts it; all of them are far below 4 GiB.
const fn socklen<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}

// ------------------------------------------------------------------------------------------------------ wake-ups

/// A counter in the kernel that makes a file descriptor readable (eventfd(2)).
pub(crate) struct EventFd(OwnedFd);

impl EventFd {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: `fd` was just made and belongs to nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Makes the descriptor readable.
    pub(crate) fn signal(&self) {
        let one = 1_u64.to_ne_bytes();
        // SAFETY: the buffer is 8 readable bytes. The only failure is a full counter, and then it is readable anyway.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Makes the descriptor unreadable until the next signal.
    pub(crate) fn clear(&self) {
        let mut count = [0_u8; 8];
        // SAFETY: the buffer is 8 writable bytes. The only failure is an empty counter: nothing to clear.
        unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// What a descriptor became ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ready {
    pub(crate) token: u64,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
}

/// A set of descriptors to wait on (epoll(7)), level-triggered.
pub(crate) struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
    has_pwait2: bool,
}

impl Epoll {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        Ok(Self {
            // SAFETY: `fd` was just made and belongs to nobody else.
            fd: unsafe { OwnedFd::from_raw_fd(fd) },
            events: vec![libc::epoll_event { events: 0, u64: 0 }; 64],
            has_pwait2: true,
        })
    }

    pub(crate) fn add(&self, fd: RawFd, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, libc::EPOLLIN as u32)
    }

    /// Whether to wait for room to write as well as for something to read.
    pub(crate) fn set_writable(&self, fd: RawFd, token: u64, wanted: bool) -> io::Result<()> {
        let write = if wanted { libc::EPOLLOUT as u32 } else { 0 };
        self.control(libc::EPOLL_CTL_MOD, fd, token, libc::EPOLLIN as u32 | write)
    }

    pub(crate) fn remove(&self, fd: RawFd) {
        // A descriptor about to be closed leaves the set by itself: the error, if any, has no consequence.
        let _ = self.control(libc::EPOLL_CTL_DEL, fd, 0, 0);
    }

    fn control(&self, op: libc::c_int, fd: RawFd, token: u64, events: u32) -> io::Result<()> {
        let mut event = libc::epoll_event { events, u64: token };
        // SAFETY: `event` lives across the call and the kernel copies it.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), op, fd, &raw mut event) })?;
        Ok(())
    }

    /// Waits until something is ready or `timeout` is over; fills `ready` anew. An interrupted wait is an empty one.
    pub(crate) fn wait(&mut self, timeout: Duration, ready: &mut Vec<Ready>) -> io::Result<()> {
        ready.clear();
        let count = match self.raw_wait(timeout) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error),
        };
        let failed = (libc::EPOLLERR | libc::EPOLLHUP) as u32;
        ready.extend(self.events[..count].iter().map(|event| Ready {
            token: event.u64,
            // An error is learned by reading.
            readable: event.events & (libc::EPOLLIN as u32 | failed) != 0,
            writable: event.events & (libc::EPOLLOUT as u32) != 0,
        }));
        Ok(())
    }

    fn raw_wait(&mut self, timeout: Duration) -> io::Result<usize> {
        let capacity = self.events.len() as libc::c_int;
        if self.has_pwait2 {
            let spec = libc::timespec {
                tv_sec: timeout.as_secs() as libc::time_t,
                tv_nsec: timeout.subsec_nanos().into(),
            };
            // SAFETY: the array has `capacity` writable entries, the time lives across the call, no signal mask.
            let count = unsafe {
                libc::syscall(
                    libc::SYS_epoll_pwait2,
                    self.fd.as_raw_fd(),
                    self.events.as_mut_ptr(),
                    capacity,
                    &raw const spec,
                    std::ptr::null::<libc::sigset_t>(),
                    0_usize,
                )
            };
            if count >= 0 {
                return Ok(count as usize);
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                // Kernels before 5.11, and sandboxes that do not know the call.
                Some(libc::ENOSYS | libc::EPERM) => self.has_pwait2 = false,
                _ => return Err(error),
            }
        }
        let millis = timeout.as_micros().div_ceil(1000).min(60_000) as libc::c_int;
        // SAFETY: the array has `capacity` writable entries.
        let count = check(unsafe {
            libc::epoll_wait(
                self.fd.as_raw_fd(),
                self.events.as_mut_ptr(),
                capacity,
                millis,
            )
        })?;
        Ok(count as usize)
    }
}

// ------------------------------------------------------------------------------------------------------- sockets

/// A UDP socket bound to `address`, not blocking, and for IPv6 only IPv6.
pub(crate) fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let family = if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointers; the result is checked.
    let fd = check(unsafe { libc::socket(family, kind, 0) })?;
    // SAFETY: `fd` was just made and belongs to nobody else.
    let socket = UdpSocket::from(unsafe { OwnedFd::from_raw_fd(fd) });
    if address.is_ipv6() {
        set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
    }
    let (name, length) = to_sockaddr(address);
    // SAFETY: `name` holds `length` initialised bytes and lives across the call.
    check(unsafe { libc::bind(fd, (&raw const name).cast(), length) })?;
    Ok(socket)
}

/// A TCP listener on `address`, not blocking, and for IPv6 only IPv6.
pub(crate) fn listen_tcp(address: SocketAddr, backlog: i32) -> io::Result<std::net::TcpListener> {
    let family = if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointers; the result is checked.
    let fd = check(unsafe { libc::socket(family, kind, 0) })?;
    // SAFETY: `fd` was just made and belongs to nobody else.
    let listener = std::net::TcpListener::from(unsafe { OwnedFd::from_raw_fd(fd) });
    if address.is_ipv6() {
        set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
    }
    // A restarted server must not wait for the old connections' TIME_WAIT.
    set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    let (name, length) = to_sockaddr(address);
    // SAFETY: `name` holds `length` initialised bytes and lives across the call.
    check(unsafe { libc::bind(fd, (&raw const name).cast(), length) })?;
    // SAFETY: no pointers; the result is checked.
    check(unsafe { libc::listen(fd, backlog) })?;
    Ok(listener)
}

fn set_option(
    fd: RawFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the value is one integer that lives across the call, and its size is given.
    check(unsafe {
        libc::setsockopt(
            fd,
            level,
            name,
            (&raw const value).cast(),
            socklen::<libc::c_int>(),
        )
    })?;
    Ok(())
}

fn option(fd: RawFd, level: libc::c_int, name: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut length = socklen::<libc::c_int>();
    // SAFETY: both pointers are to integers that live across the call, and the size is given.
    check(unsafe { libc::getsockopt(fd, level, name, (&raw mut value).cast(), &raw mut length) })?;
    Ok(value)
}

/// Asks for socket buffers of `wanted` bytes each way; returns the smaller of what was got.
pub(crate) fn grow_buffers(socket: BorrowedFd<'_>, wanted: i32) -> io::Result<i32> {
    let fd = socket.as_raw_fd();
    let mut least = i32::MAX;
    for (force, polite) in [
        (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF),
        (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF),
    ] {
        // The forced form goes over the system's limit but needs a privilege.
        if set_option(fd, libc::SOL_SOCKET, force, wanted).is_err() {
            set_option(fd, libc::SOL_SOCKET, polite, wanted)?;
        }
        // The kernel doubles what it was asked, for its own bookkeeping (socket(7)).
        least = least.min(option(fd, libc::SOL_SOCKET, polite)? / 2);
    }
    Ok(least)
}

/// Lets the kernel hand over runs of equal datagrams of one flow as one read (UDP_GRO, udp(7)).
pub(crate) fn enable_gro(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_option(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_GRO, 1)
}

fn to_sockaddr(address: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: all-zero bytes are a valid sockaddr_storage.
    let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
    let length = write_sockaddr(address, &mut storage);
    (storage, length)
}

fn write_sockaddr(address: SocketAddr, storage: &mut libc::sockaddr_storage) -> libc::socklen_t {
    match address {
        SocketAddr::V4(v4) => {
            let name = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr {
                    s_addr: u32::from(*v4.ip()).to_be(),
                },
                sin_zero: [0; 8],
            };
            // SAFETY: sockaddr_storage is larger than, and aligned for, every socket address.
            unsafe { (&raw mut *storage).cast::<libc::sockaddr_in>().write(name) };
            socklen::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            let name = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr {
                    s6_addr: v6.ip().octets(),
                },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: sockaddr_storage is larger than, and aligned for, every socket address.
            unsafe { (&raw mut *storage).cast::<libc::sockaddr_in6>().write(name) };
            socklen::<libc::sockaddr_in6>()
        }
    }
}

fn read_sockaddr(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match libc::c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says it is a sockaddr_in, and the storage is aligned for it.
            let name = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(name.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(name.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: the family says it is a sockaddr_in6, and the storage is aligned for it.
            let name = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(name.sin6_addr.s6_addr);
            let port = u16::from_be(name.sin6_port);
            Some(SocketAddrV6::new(ip, port, name.sin6_flowinfo, name.sin6_scope_id).into())
        }
        _ => None,
    }
}

// ------------------------------------------------------------------------------------------------ batched reading

/// One read of the batch: whose, and its datagrams, all `segment` bytes long but the last.
pub(crate) struct Received<'a> {
    pub(crate) source: SocketAddr,
    pub(crate) data: &'a mut [u8],
    pub(crate) segment: usize,
}

/// Buffers for one recvmmsg(2), used again and again. The headers point into the boxes, which never move or grow.
pub(crate) struct ReceiveBatch {
    headers: Box<[libc::mmsghdr]>,
    _vectors: Box<[libc::iovec]>,
    names: Box<[libc::sockaddr_storage]>,
    controls: Box<[Control]>,
    slots: Box<[u8]>,
}

impl ReceiveBatch {
    pub(crate) fn new() -> Self {
        // SAFETY: all-zero bytes are valid for these plain C structures.
        let mut headers: Box<[libc::mmsghdr]> = (0..RECEIVE_BATCH)
            .map(|_| unsafe { mem::zeroed() })
            .collect();
        // SAFETY: as above.
        let mut names: Box<[libc::sockaddr_storage]> = (0..RECEIVE_BATCH)
            .map(|_| unsafe { mem::zeroed() })
            .collect();
        let mut controls = vec![Control([0; CONTROL]); RECEIVE_BATCH].into_boxed_slice();
        let mut slots = vec![0_u8; RECEIVE_BATCH * SLOT].into_boxed_slice();
        let mut vectors: Box<[libc::iovec]> = slots
            .chunks_exact_mut(SLOT)
            .map(|slot| libc::iovec {
                iov_base: slot.as_mut_ptr().cast(),
                iov_len: SLOT,
            })
            .collect();
        for (index, header) in headers.iter_mut().enumerate() {
            header.msg_hdr.msg_iov = &raw mut vectors[index];
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = (&raw mut names[index]).cast();
            header.msg_hdr.msg_control = (&raw mut controls[index]).cast();
        }
        Self {
            headers,
            _vectors: vectors,
            names,
            controls,
            slots,
        }
    }

    /// Reads what is there, up to the batch; the number of reads, or `WouldBlock`.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        for header in &mut self.headers {
            header.msg_hdr.msg_namelen = socklen::<libc::sockaddr_storage>();
            header.msg_hdr.msg_controllen = CONTROL as _;
            header.msg_hdr.msg_flags = 0;
        }
        // SAFETY: every header points at a name, a control buffer and one vector over its own slot, all owned by self
        // and with the lengths given; no timeout is passed.
        let count = check(unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                RECEIVE_BATCH as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        })?;
        Ok(count as usize)
    }

    /// The `index`-th read of the last `receive`; none if its source is no internet address or it was cut short.
    pub(crate) fn get(&mut self, index: usize) -> Option<Received<'_>> {
        let header = &self.headers[index];
        if header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
            return None;
        }
        let length = (header.msg_len as usize).min(SLOT);
        let segment = match segment_size(&self.controls[index], header.msg_hdr.msg_controllen) {
            Some(size) if size > 0 => size,
            _ => length.max(1),
        };
        let source = read_sockaddr(&self.names[index])?;
        let start = index * SLOT;
        Some(Received {
            source,
            data: &mut self.slots[start..start + length],
            segment,
        })
    }
}

/// The UDP_GRO control message: the size of every coalesced datagram but the last.
fn segment_size(control: &Control, length: usize) -> Option<usize> {
    let mut rest = control.0.get(..length.min(CONTROL))?;
    let header = size_of::<libc::cmsghdr>();
    while rest.len() >= header {
        // cmsg_len: usize, cmsg_level: int, cmsg_type: int (cmsg(3)), read without casting the buffer.
        let size = usize::from_ne_bytes(rest[..8].try_into().ok()?);
        let level = i32::from_ne_bytes(rest[8..12].try_into().ok()?);
        let kind = i32::from_ne_bytes(rest[12..16].try_into().ok()?);
        if level == libc::SOL_UDP && kind == libc::UDP_GRO {
            let value = rest.get(header..header + 4)?;
            return usize::try_from(i32::from_ne_bytes(value.try_into().ok()?)).ok();
        }
        rest = rest.get(size.max(header).next_multiple_of(8)..)?;
    }
    None
}

// ------------------------------------------------------------------------------------------------ batched writing

/// One message to write: `segment` says where the kernel is to cut it (UDP_SEGMENT, udp(7)), if at all.
#[derive(Clone, Copy)]
pub(crate) struct Message<'a> {
    pub(crate) destination: SocketAddr,
    pub(crate) data: &'a [u8],
    pub(crate) segment: Option<u16>,
}

/// Headers for one sendmmsg(2), used again and again. The headers point into the boxes, which never move or grow.
pub(crate) struct SendBatch {
    headers: Box<[libc::mmsghdr]>,
    vectors: Box<[libc::iovec]>,
    names: Box<[libc::sockaddr_storage]>,
    controls: Box<[Control]>,
}

impl SendBatch {
    pub(crate) fn new() -> Self {
        // SAFETY: all-zero bytes are valid for these plain C structures.
        let mut headers: Box<[libc::mmsghdr]> =
            (0..SEND_BATCH).map(|_| unsafe { mem::zeroed() }).collect();
        // SAFETY: as above.
        let mut vectors: Box<[libc::iovec]> =
            (0..SEND_BATCH).map(|_| unsafe { mem::zeroed() }).collect();
        // SAFETY: as above.
        let mut names: Box<[libc::sockaddr_storage]> =
            (0..SEND_BATCH).map(|_| unsafe { mem::zeroed() }).collect();
        let controls = vec![segment_control(); SEND_BATCH].into_boxed_slice();
        for (index, header) in headers.iter_mut().enumerate() {
            header.msg_hdr.msg_iov = &raw mut vectors[index];
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = (&raw mut names[index]).cast();
        }
        Self {
            headers,
            vectors,
            names,
            controls,
        }
    }

    /// Writes the first messages, up to the batch; the number the kernel took, or why it took not even the first.
    pub(crate) fn send<'a>(
        &mut self,
        socket: BorrowedFd<'_>,
        messages: impl Iterator<Item = Message<'a>>,
    ) -> io::Result<usize> {
        let mut count = 0;
        for (index, message) in messages.take(SEND_BATCH).enumerate() {
            // sendmmsg only reads through this pointer.
            self.vectors[index].iov_base = message.data.as_ptr().cast_mut().cast();
            self.vectors[index].iov_len = message.data.len();
            let header = &mut self.headers[index].msg_hdr;
            header.msg_namelen = write_sockaddr(message.destination, &mut self.names[index]);
            if let Some(segment) = message.segment {
                let start = size_of::<libc::cmsghdr>();
                self.controls[index].0[start..start + 2].copy_from_slice(&segment.to_ne_bytes());
                header.msg_control = (&raw mut self.controls[index]).cast();
                header.msg_controllen = SEGMENT_CONTROL as _;
            } else {
                header.msg_control = std::ptr::null_mut();
                header.msg_controllen = 0;
            }
            count = index + 1;
        }
        if count == 0 {
            return Ok(0);
        }
        // SAFETY: the first `count` headers point at names, vectors and controls owned by self; the vectors point at
        // data borrowed for 'a, which outlives this call.
        let sent = check(unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        })?;
        Ok(sent as usize)
    }
}

/// Bytes of a control message that carries one u16, padding included: CMSG_SPACE(2).
const SEGMENT_CONTROL: usize = size_of::<libc::cmsghdr>() + 8;

fn segment_control() -> Control {
    let mut control = Control([0; CONTROL]);
    let length = size_of::<libc::cmsghdr>() + size_of::<u16>();
    control.0[..8].copy_from_slice(&length.to_ne_bytes());
    control.0[8..12].copy_from_slice(&libc::SOL_UDP.to_ne_bytes());
    control.0[12..16].copy_from_slice(&libc::UDP_SEGMENT.to_ne_bytes());
    control
}

// --------------------------------------------------------------------------------------------------------- clocks

/// CPU time the calling thread has used.
pub(crate) fn thread_cpu_time() -> Duration {
    let mut spec = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the structure lives across the call; the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut spec) };
    Duration::new(
        u64::try_from(spec.tv_sec).unwrap_or(0),
        u32::try_from(spec.tv_nsec).unwrap_or(0),
    )
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn an_event_fd_is_readable_from_signal_to_clear() {
        let event = EventFd::new().unwrap();
        let mut epoll = Epoll::new().unwrap();
        epoll.add(event.as_raw_fd(), 7).unwrap();
        let mut ready = Vec::new();
        epoll.wait(Duration::ZERO, &mut ready).unwrap();
        assert!(ready.is_empty());
        event.signal();
        event.signal();
        epoll.wait(Duration::from_secs(1), &mut ready).unwrap();
        assert_eq!(
            ready,
            [Ready {
                token: 7,
                readable: true,
                writable: false
            }]
        );
        event.clear();
        epoll.wait(Duration::ZERO, &mut ready).unwrap();
        assert!(ready.is_empty());
    }

    #[test]
    fn segmented_messages_arrive_as_their_segments() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let a = bind_udp(address.parse().unwrap()).unwrap();
            let b = bind_udp(address.parse().unwrap()).unwrap();
            enable_gro(b.as_fd()).unwrap();
            let data: Vec<u8> = (0..25_u8).flat_map(|n| [n; 100]).collect();
            let message = Message {
                destination: b.local_addr().unwrap(),
                data: &data[..2450],
                segment: Some(100),
            };
            let plain = Message {
                segment: None,
                data: b"tail",
                ..message
            };
            assert_eq!(
                SendBatch::new()
                    .send(a.as_fd(), [message, plain].into_iter())
                    .unwrap(),
                2
            );
            let mut batch = ReceiveBatch::new();
            let mut got = Vec::new();
            while got.len() < 26 {
                let count = batch.receive(b.as_fd()).unwrap();
                for index in 0..count {
                    let received = batch.get(index).unwrap();
                    assert_eq!(received.source, a.local_addr().unwrap());
                    got.extend(received.data.chunks(received.segment).map(<[u8]>::to_vec));
                }
            }
            assert_eq!(got[3], [3; 100]);
            assert_eq!(got[24], [24; 50]);
            assert_eq!(got[25], b"tail");
            assert_eq!(
                batch.receive(b.as_fd()).unwrap_err().kind(),
                io::ErrorKind::WouldBlock
            );
        }
    }

    #[test]
    fn ipv4_and_ipv6_take_the_same_port() {
        let four = bind_udp("0.0.0.0:0".parse().unwrap()).unwrap();
        let port = four.local_addr().unwrap().port();
        bind_udp(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)).unwrap();
    }
}
