//! The sans-IO media core: no socket, no clock, no thread.
//!
//! [`Shard`] composes everything: bytes, commands and the time go in; datagrams, events and a deadline come out.
//! Law of the crate: mutate, then drain. Not a WebRTC API: it knows peer connections, tracks and senders by
//! numbers the caller chooses, and no room and no participant.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod allocate;
mod capped;
pub mod codec;
pub mod command;
pub mod congestion;
mod control;
pub mod event;
pub mod forward;
pub mod ids;
mod inject;
mod layers;
pub mod levels;
pub mod nack;
pub mod packet;
mod peer;
mod perform;
pub mod published;
mod receive;
mod router;
pub mod rtx;
mod send;
pub mod sequence;
pub mod shard;
mod source;
pub mod srtp;
mod state;
pub mod stats;
pub mod transport;

pub use command::{
    Codec, Command, Encoding, ExtensionIds, PeerConnectionConfig, ReceiverConfig, RemoteTransport,
    SenderConfig, SourceConfig, TrackKind,
};
pub use event::Event;
pub use ids::{PcId, SenderId, TrackId};
pub use shard::{Shard, ShardConfig, Transmit};
pub use stats::{PeerConnectionStats, SenderStats, Stats, TrackStats};
pub use transport::{DtlsIdentity, LocalAddress, PeerTransport, Protocol, TransportOutput};
