//! One snapshot of everything countable, as Python objects.

use std::collections::HashMap;

use pyo3::prelude::*;

use crate::repr::value_class;

value_class! {
    /// A received track, all its encodings together.
    TrackStats {
        track: u64,
        packets: u64,
        bytes: u64,
        lost: u64,
        jitter: f64,
        nacks_sent: u64,
        keyframe_requests_sent: u64,
        bitrate_bps: u64,
    }
}
value_class! {
    /// A track going out.
    SenderStats {
        sender: u64,
        packets: u64,
        bytes: u64,
        retransmitted: u64,
        nacks_received: u64,
        keyframe_requests_received: u64,
        fraction_lost: f64,
        rtt: Option<f64>,
    }
}
value_class! {
    /// A peer connection.
    PeerConnectionStats {
        pc: u64,
        rtt: Option<f64>,
        estimate_bps: Option<u64>,
        packets_in: u64,
        packets_out: u64,
        data_buffered: u64,
    }
}
value_class! {
    /// Everything.
    Stats {
        tracks: Vec<Py<TrackStats>>,
        senders: Vec<Py<SenderStats>>,
        peer_connections: Vec<Py<PeerConnectionStats>>,
        counters: HashMap<&'static str, u64>,
        probe_latency_us: Vec<u64>,
    }
}

/// The Python object for one snapshot.
pub(crate) fn to_python(py: Python<'_>, stats: mediacore_core::Stats) -> PyResult<Stats> {
    let tracks = stats.tracks.into_iter().map(|track| {
        Py::new(
            py,
            TrackStats {
                track: track.track.0,
                packets: track.packets,
                bytes: track.bytes,
                lost: track.lost,
                jitter: track.jitter,
                nacks_sent: track.nacks_sent,
                keyframe_requests_sent: track.keyframe_requests_sent,
                bitrate_bps: track.bitrate_bps,
            },
        )
    });
    let senders = stats.senders.into_iter().map(|sender| {
        Py::new(
            py,
            SenderStats {
                sender: sender.sender.0,
                packets: sender.packets,
                bytes: sender.bytes,
                retransmitted: sender.retransmitted,
                nacks_received: sender.nacks_received,
                keyframe_requests_received: sender.keyframe_requests_received,
                fraction_lost: sender.fraction_lost,
                rtt: sender.rtt,
            },
        )
    });
    let peer_connections = stats.peer_connections.into_iter().map(|pc| {
        Py::new(
            py,
            PeerConnectionStats {
                pc: pc.pc.0,
                rtt: pc.rtt,
                estimate_bps: pc.estimate_bps,
                packets_in: pc.packets_in,
                packets_out: pc.packets_out,
                data_buffered: pc.data_buffered,
            },
        )
    });
    let mut counters = HashMap::new();
    for (name, count) in stats.counters {
        *counters.entry(name).or_insert(0) += count;
    }
    Ok(Stats {
        tracks: tracks.collect::<PyResult<_>>()?,
        senders: senders.collect::<PyResult<_>>()?,
        peer_connections: peer_connections.collect::<PyResult<_>>()?,
        counters,
        probe_latency_us: stats.probe_latency_us,
    })
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<TrackStats>()?;
    module.add_class::<SenderStats>()?;
    module.add_class::<PeerConnectionStats>()?;
    module.add_class::<Stats>()
}
