//! Sockets, threads and timers around the core: everything the sans-IO [`mediacore_core::Shard`] must not have.
//!
//! [`Engine`] opens the sockets and runs one thread; the thread reads batches of datagrams, gives them to the shard,
//! and writes what the shard made as batches again, cut by the kernel (UDP generic segmentation offload). Commands go
//! down a queue, events come up another; both wake the sleeper only when there is one. Linux only.
//!
//! | file | holds |
//! |---|---|
//! | `engine` | the handle: open, command, drain, close |
//! | `reactor` | the thread's loop |
//! | `queue` | commands down, events up, and their wake-ups |
//! | `udp` | one bound socket: batches in, segmented batches out |
//! | `tcp` | ICE-TCP: listener, RFC 4571 framing, limits |
//! | `gather` | when waiting a moment for more datagrams pays |
//! | `counters` | what the driver counts |
//! | `sys` | the system calls, the only `unsafe` |
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod counters;
mod engine;
mod gather;
mod queue;
mod reactor;
mod sys;
mod tcp;
mod udp;

pub use engine::{Binding, DeadEngine, Engine, EngineConfig, OpenError};
