//! What a shard tells its caller. Never per packet.

use crate::ids::{PcId, SenderId, TrackId};

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// ICE and DTLS are up: media and data may flow. Comes again after a restart.
    Connected {
        /// Which.
        pc: PcId,
    },
    /// No authenticated traffic for 10 s (RFC 7675); `Failed` follows 5 s later unless it comes back.
    Disconnected {
        /// Which.
        pc: PcId,
    },
    /// Beyond repair without a restart.
    Failed {
        /// Which.
        pc: PcId,
        /// For logs.
        reason: String,
    },
    /// A data channel is open, whoever opened it.
    DataChannelOpened {
        /// On which.
        pc: PcId,
        /// Its label.
        label: String,
        /// In order.
        ordered: bool,
        /// Retransmits without limit.
        reliable: bool,
    },
    /// A data channel was closed by the far side.
    DataChannelClosed {
        /// On which.
        pc: PcId,
        /// Its label.
        label: String,
    },
    /// A message came.
    DataReceived {
        /// On which.
        pc: PcId,
        /// The channel's label.
        label: String,
        /// The message.
        payload: Vec<u8>,
        /// Binary or text.
        binary: bool,
    },
    /// First packet of an encoding of a received track.
    EncodingStarted {
        /// Which track.
        track: TrackId,
        /// Which encoding.
        spatial_layer: u8,
        /// Its rid, when it has one.
        rid: Option<String>,
        /// Its SSRC.
        ssrc: u32,
        /// Its codec.
        mime: String,
    },
    /// No packet of this encoding for 2 s, or its SSRC said goodbye.
    EncodingStopped {
        /// Which track.
        track: TrackId,
        /// Which encoding.
        spatial_layer: u8,
    },
    /// Levels of the last window: (track, loudest active level in -dBov 0..=127, share of the window above
    /// -35 dBov). Tracks without a level extension in the window are left out.
    AudioLevels {
        /// One row a track.
        levels: Vec<(TrackId, u8, f32)>,
    },
    /// What a sender really forwards now; -1 is nothing.
    LayerChanged {
        /// Which.
        sender: SenderId,
        /// Spatial layer.
        spatial_layer: i8,
        /// Temporal layer.
        temporal_layer: i8,
    },
    /// A sender was paused, or goes on, because of what its peer connection may carry; not by its wish.
    SenderPaused {
        /// Which.
        sender: SenderId,
        /// Nothing is sent.
        paused: bool,
    },
    /// A command could not be performed; the state is as before it.
    Rejected {
        /// Name of the command as Python writes it, `add_sender`.
        command: &'static str,
        /// The id it named.
        id: u64,
        /// Why.
        message: String,
    },
}

impl Event {
    /// True for events a driver should hand over at once, not gathered.
    pub fn is_urgent(&self) -> bool {
        !matches!(self, Self::AudioLevels { .. } | Self::LayerChanged { .. })
    }
}
