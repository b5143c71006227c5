//! Numbers the caller chooses for the things a shard holds. They mean nothing on the wire.

use serde::{Deserialize, Serialize};

/// A peer connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PcId(pub u64);

/// A track as it comes in: received on a peer connection, or made by a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TrackId(pub u64);

/// A track going out on one peer connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SenderId(pub u64);
