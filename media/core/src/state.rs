//! One peer connection as a value, to go on in another shard: of this process, another, or another machine.
//!
//! Not in it: keys and ICE. The client moves by an ICE and DTLS restart towards the new shard's identity; what it sees
//! continued are SSRCs, sequence numbers, timestamps, picture ids, and data channels.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::command::{Codec, ExtensionIds, PeerConnectionConfig, ReceiverConfig, SenderConfig};
use crate::forward::ForwarderState;
use crate::ids::{PcId, SenderId, TrackId};
use crate::shard::Shard;
use crate::transport::TransportState;

/// Grows with every change of what follows. The one before is read too.
const VERSION: u16 = 2;

#[derive(Debug, Serialize, Deserialize)]
struct PeerConnectionState {
    transport: TransportState,
    receivers: Vec<ReceiverState>,
    senders: Vec<SenderState>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ReceiverState {
    track: TrackId,
    config: ReceiverConfig,
    is_muted: bool,
    /// SSRC and RTX SSRC of each encoding, announced or learnt.
    ssrcs: Vec<(Option<u32>, Option<u32>)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SenderState {
    sender: SenderId,
    config: SenderConfig,
    forwarder: ForwarderState,
    rtx_sequence: u16,
}

/// Version 1: a sender without trailers, playout delay, RED and priority.
#[derive(Debug, Serialize, Deserialize)]
struct PeerConnectionStateV1 {
    transport: TransportState,
    receivers: Vec<ReceiverState>,
    senders: Vec<SenderStateV1>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SenderStateV1 {
    sender: SenderId,
    config: SenderConfigV1,
    forwarder: ForwarderState,
    rtx_sequence: u16,
}

#[derive(Debug, Serialize, Deserialize)]
struct SenderConfigV1 {
    track: TrackId,
    mid: String,
    ssrc: u32,
    rtx_ssrc: Option<u32>,
    cname: String,
    codecs: Vec<Codec>,
    extensions: ExtensionIds,
    max_spatial_layer: u8,
    max_temporal_layer: u8,
    paused: bool,
}

impl From<PeerConnectionStateV1> for PeerConnectionState {
    fn from(old: PeerConnectionStateV1) -> Self {
        let senders = old.senders.into_iter().map(|old| SenderState {
            sender: old.sender,
            config: old.config.into(),
            forwarder: old.forwarder,
            rtx_sequence: old.rtx_sequence,
        });
        Self {
            transport: old.transport,
            receivers: old.receivers,
            senders: senders.collect(),
        }
    }
}

impl From<SenderConfigV1> for SenderConfig {
    fn from(old: SenderConfigV1) -> Self {
        Self {
            track: old.track,
            mid: old.mid,
            ssrc: old.ssrc,
            rtx_ssrc: old.rtx_ssrc,
            cname: old.cname,
            codecs: old.codecs,
            extensions: old.extensions,
            max_spatial_layer: old.max_spatial_layer,
            max_temporal_layer: old.max_temporal_layer,
            paused: old.paused,
            strip_trailer: false,
            sif_trailer: Vec::new(),
            playout_delay: None,
            encode_red: false,
            priority: 0,
        }
    }
}

/// Reads a value of this version or the one before.
fn read(state: &[u8]) -> Result<PeerConnectionState, String> {
    let (version, rest) =
        postcard::take_from_bytes::<u16>(state).map_err(|_| "not a session state".to_owned())?;
    match version {
        VERSION => postcard::from_bytes(rest),
        1 => postcard::from_bytes::<PeerConnectionStateV1>(rest).map(PeerConnectionState::from),
        _ => {
            return Err(format!(
                "session state of version {version}, known are 1 to {VERSION}"
            ));
        }
    }
    .map_err(|_| "session state is damaged".to_owned())
}

impl Shard {
    /// A peer connection as a versioned value; None when unknown. It goes on until closed.
    pub fn export_peer_connection(&self, pc: PcId) -> Option<Vec<u8>> {
        let slot = self.peer_slot(pc).ok()?;
        let peer = self.peers.get(slot)?.as_ref()?;
        let receivers = peer
            .tracks
            .iter()
            .filter_map(|&at| self.tracks.get(at)?.as_ref())
            .map(|track| ReceiverState {
                track: track.id,
                config: track.config.clone(),
                is_muted: track.is_muted,
                ssrcs: track
                    .encodings
                    .iter()
                    .map(|stream| (stream.ssrc, stream.rtx_ssrc))
                    .collect(),
            });
        let senders = peer
            .senders
            .iter()
            .filter_map(|&at| self.senders.get(at)?.as_ref())
            .filter(|sender| !sender.is_ending)
            .map(|sender| SenderState {
                sender: sender.id,
                config: sender.config.clone(),
                forwarder: sender.forwarder.state(),
                rtx_sequence: sender.rtx_sequence as u16,
            });
        let state = PeerConnectionState {
            transport: peer.transport.export(),
            receivers: receivers.collect(),
            senders: senders.collect(),
        };
        postcard::to_stdvec(&(VERSION, state)).ok()
    }

    /// Makes a peer connection from a value; all of it or nothing.
    pub(crate) fn import_peer(
        &mut self,
        now: Instant,
        pc: PcId,
        state: &[u8],
        config: &PeerConnectionConfig,
    ) -> Result<(), String> {
        let state = read(state)?;
        let slot = self.create_peer(now, pc, config)?;
        let result = self.fill_peer(now, pc, slot, state);
        if result.is_err() {
            self.close_peer(now, pc)?;
        }
        result
    }

    fn fill_peer(
        &mut self,
        now: Instant,
        pc: PcId,
        slot: usize,
        state: PeerConnectionState,
    ) -> Result<(), String> {
        if let Some(peer) = self.peers.get_mut(slot).and_then(Option::as_mut) {
            peer.transport.import(&state.transport);
        }
        for receiver in state.receivers {
            let track = self.add_receiver(now, pc, receiver.track, receiver.config)?;
            if let Some(track) = self.tracks.get_mut(track).and_then(Option::as_mut) {
                track.is_muted = receiver.is_muted;
                for (stream, (ssrc, rtx_ssrc)) in track.encodings.iter_mut().zip(receiver.ssrcs) {
                    stream.ssrc = stream.ssrc.or(ssrc);
                    stream.rtx_ssrc = stream.rtx_ssrc.or(rtx_ssrc);
                }
            }
            self.announce(track);
        }
        for sender in state.senders {
            let (id, state) = (sender.sender, sender.forwarder);
            self.place_sender(
                now,
                pc,
                id,
                sender.config,
                sender.rtx_sequence,
                Some(&state),
            )?;
        }
        self.drain_transport(slot, now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_of_the_version_before_is_read_with_defaults() {
        let old = PeerConnectionStateV1 {
            transport: TransportState::default(),
            receivers: Vec::new(),
            senders: vec![SenderStateV1 {
                sender: SenderId(5),
                config: SenderConfigV1 {
                    track: TrackId(4),
                    mid: "1".to_owned(),
                    ssrc: 1000,
                    rtx_ssrc: Some(1001),
                    cname: "c".to_owned(),
                    codecs: Vec::new(),
                    extensions: ExtensionIds::default(),
                    max_spatial_layer: 2,
                    max_temporal_layer: 3,
                    paused: true,
                },
                forwarder: ForwarderState {
                    next_sequence: 77,
                    newest: None,
                    vp8: None,
                    frame: None,
                },
                rtx_sequence: 9,
            }],
        };
        let bytes = postcard::to_stdvec(&(1_u16, old)).unwrap();
        let read = read(&bytes).unwrap();
        let sender = &read.senders[0];
        assert_eq!((sender.sender, sender.rtx_sequence), (SenderId(5), 9));
        assert_eq!(sender.forwarder.next_sequence, 77);
        assert!(sender.config.paused && !sender.config.strip_trailer && !sender.config.encode_red);
        assert_eq!(sender.config.playout_delay, None);
    }

    #[test]
    fn state_of_a_later_version_is_refused() {
        let error = read(&postcard::to_stdvec(&(VERSION + 1, ())).unwrap()).unwrap_err();
        assert!(error.contains("known are 1 to 2"), "{error}");
    }
}
