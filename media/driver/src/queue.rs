//! Commands down to the engine thread and events up from it, waking the other side only when it sleeps.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use mediacore_core::{Command, Event, PcId, Stats};

use crate::sys::EventFd;

/// What the engine thread is asked for.
pub(crate) enum Request {
    /// To be performed by the shard.
    Command(Command),
    /// A snapshot.
    Stats(Sender<Stats>),
    /// Candidate lines for a ufrag.
    Candidates(String, Sender<Vec<String>>),
    /// A session as a value.
    Export(PcId, Sender<Option<Vec<u8>>>),
    /// The end, without a word to anybody.
    Stop,
    /// A panic, for the tests of what follows one.
    #[cfg(test)]
    Panic,
}

// --------------------------------------------------------------------------------------------------- requests down

/// The engine thread's inbox. `armed` is true while the thread sleeps: only then does a request cost a system call.
pub(crate) struct Inbox {
    sender: Sender<Request>,
    wake: EventFd,
    armed: AtomicBool,
}

impl Inbox {
    pub(crate) fn new() -> io::Result<(Self, Receiver<Request>)> {
        let (sender, receiver) = crossbeam_channel::unbounded();
        Ok((
            Self {
                sender,
                wake: EventFd::new()?,
                armed: AtomicBool::new(false),
            },
            receiver,
        ))
    }

    /// Queues a request; false when the thread is gone.
    pub(crate) fn push(&self, request: Request) -> bool {
        let queued = self.sender.send(request).is_ok();
        // Sequentially consistent with `arm`: either the thread sees the request or this sees it armed.
        if queued && self.armed.swap(false, Ordering::SeqCst) {
            self.wake.signal();
        }
        queued
    }

    /// The thread is about to sleep; it must look into the channel once more afterwards.
    pub(crate) fn arm(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }

    /// The thread is awake.
    pub(crate) fn disarm(&self, signaled: bool) {
        self.armed.store(false, Ordering::SeqCst);
        if signaled {
            self.wake.clear();
        }
    }

    pub(crate) fn wake_fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }
}

// ------------------------------------------------------------------------------------------------------ events up

/// Data and level events kept for a caller that does not drain; more are dropped and counted.
const MAX_WAITING: usize = 65_536;
/// Payload bytes kept for a caller that does not drain.
const MAX_WAITING_BYTES: usize = 64 << 20;

/// Events waiting for the caller.
pub(crate) struct Outbox {
    waiting: Mutex<Waiting>,
    ready: EventFd,
}

#[derive(Default)]
struct Waiting {
    events: Vec<Event>,
    bytes: usize,
    /// The descriptor is readable: nothing more to wake.
    signaled: bool,
    /// When the oldest unsignaled event must be.
    due: Option<Instant>,
}

impl Outbox {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            waiting: Mutex::default(),
            ready: EventFd::new()?,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // The list is whole even if a thread died holding the lock.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one round's events; returns how many were dropped, and when `signal_due` must be called, if at all.
    pub(crate) fn push(
        &self,
        events: &mut Vec<Event>,
        now: Instant,
        interval: Duration,
    ) -> (u64, Option<Instant>) {
        let mut waiting = self.lock();
        let mut dropped = 0;
        for event in events.drain(..) {
            let size = droppable_size(&event);
            if let Some(size) = size {
                let full =
                    waiting.events.len() >= MAX_WAITING || waiting.bytes + size > MAX_WAITING_BYTES;
                if full {
                    dropped += 1;
                    continue;
                }
                waiting.bytes += size;
            }
            if !waiting.signaled {
                if is_urgent(&event) {
                    waiting.due = Some(now);
                } else {
                    waiting.due.get_or_insert(now + interval);
                }
            }
            waiting.events.push(event);
        }
        (dropped, self.signal_if_due(&mut waiting, now))
    }

    /// Wakes the caller if its time has come; else when it will have.
    pub(crate) fn signal_due(&self, now: Instant) -> Option<Instant> {
        let mut waiting = self.lock();
        self.signal_if_due(&mut waiting, now)
    }

    fn signal_if_due(&self, waiting: &mut Waiting, now: Instant) -> Option<Instant> {
        let due = waiting.due?;
        if now < due {
            return Some(due);
        }
        waiting.due = None;
        waiting.signaled = true;
        self.ready.signal();
        None
    }

    /// Everything that waits, oldest first.
    pub(crate) fn drain(&self) -> Vec<Event> {
        let mut waiting = self.lock();
        if waiting.signaled {
            self.ready.clear();
        }
        waiting.signaled = false;
        waiting.due = None;
        waiting.bytes = 0;
        std::mem::take(&mut waiting.events)
    }

    pub(crate) fn ready_fd(&self) -> RawFd {
        self.ready.as_raw_fd()
    }
}

/// Events that wake the caller at once. Messages are many and are gathered.
fn is_urgent(event: &Event) -> bool {
    event.is_urgent() && !matches!(event, Event::DataReceived { .. })
}

/// Events that may be lost when the caller sleeps too long, with their weight.
fn droppable_size(event: &Event) -> Option<usize> {
    match event {
        Event::DataReceived { payload, .. } => Some(payload.len()),
        Event::AudioLevels { levels } => Some(size_of_val(&levels[..])),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Epoll;

    const INTERVAL: Duration = Duration::from_millis(2);

    fn message(size: usize) -> Event {
        Event::DataReceived {
            pc: PcId(1),
            label: "x".into(),
            payload: vec![0; size],
            binary: true,
        }
    }

    fn readable(fd: RawFd) -> bool {
        let mut epoll = Epoll::new().unwrap();
        epoll.add(fd, 0).unwrap();
        let mut ready = Vec::new();
        epoll.wait(Duration::ZERO, &mut ready).unwrap();
        !ready.is_empty()
    }

    #[test]
    fn a_request_wakes_only_a_sleeper() {
        let (inbox, receiver) = Inbox::new().unwrap();
        assert!(inbox.push(Request::Stop));
        assert!(!readable(inbox.wake_fd()));
        inbox.arm();
        inbox.push(Request::Stop);
        assert!(readable(inbox.wake_fd()));
        inbox.disarm(true);
        assert!(!readable(inbox.wake_fd()));
        assert_eq!(receiver.len(), 2);
        drop(receiver);
        assert!(!inbox.push(Request::Stop));
    }

    #[test]
    fn urgent_events_wake_at_once_and_others_when_gathered() {
        let outbox = Outbox::new().unwrap();
        let now = Instant::now();
        assert_eq!(
            outbox.push(&mut vec![message(1)], now, INTERVAL),
            (0, Some(now + INTERVAL))
        );
        assert!(!readable(outbox.ready_fd()));
        assert_eq!(outbox.signal_due(now + INTERVAL), None);
        assert!(readable(outbox.ready_fd()));
        assert_eq!(outbox.drain(), [message(1)]);
        assert!(!readable(outbox.ready_fd()));
        outbox.push(&mut vec![Event::Connected { pc: PcId(1) }], now, INTERVAL);
        assert!(readable(outbox.ready_fd()));
    }

    #[test]
    fn messages_nobody_drains_are_dropped_but_state_is_kept() {
        let outbox = Outbox::new().unwrap();
        let now = Instant::now();
        outbox.push(&mut vec![message(MAX_WAITING_BYTES)], now, INTERVAL);
        assert_eq!(outbox.push(&mut vec![message(1)], now, INTERVAL).0, 1);
        let state = Event::Connected { pc: PcId(1) };
        assert_eq!(outbox.push(&mut vec![state], now, INTERVAL).0, 0);
        assert_eq!(outbox.drain().len(), 2);
        assert_eq!(outbox.push(&mut vec![message(1)], now, INTERVAL).0, 0);
    }
}
