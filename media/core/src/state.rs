//! One peer connection as a value, to go on in another shard: of this process, another, or another machine.
//!
//! Not in it: keys and ICE. The client moves by an ICE and DTLS restart towards the new shard's identity; what it sees
//! continued are SSRCs, sequence numbers, timestamps, picture ids, and data channels.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::command::{PeerConnectionConfig, ReceiverConfig, SenderConfig};
use crate::forward::ForwarderState;
use crate::ids::{PcId, SenderId, TrackId};
use crate::shard::Shard;
use crate::transport::TransportState;

/// Grows with every change of what follows.
const VERSION: u16 = 1;

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
        let (version, rest) = postcard::take_from_bytes::<u16>(state)
            .map_err(|_| "not a session state".to_owned())?;
        if version != VERSION {
            return Err(format!(
                "session state of version {version}, known is {VERSION}"
            ));
        }
        let state: PeerConnectionState =
            postcard::from_bytes(rest).map_err(|_| "session state is damaged".to_owned())?;
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
