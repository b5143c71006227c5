//! The engine's handle for Python. Every command returns at once; whatever waits for the thread lets go of the GIL.

use std::net::SocketAddr;

use mediacore_core::{Command, PcId, SenderId, TrackId};
use mediacore_driver as driver;
use pyo3::exceptions::{PyKeyError, PyOSError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::config::{
    EngineConfig, PeerConnectionConfig, ReceiverConfig, RemoteTransport, SenderConfig, SourceConfig,
};
use crate::{events, stats};

/// One packet engine: its sockets, its thread, its certificate (made at start, never kept).
#[pyclass(frozen, module = "mediacore._native")]
pub(crate) struct Engine(driver::Engine);

fn dead(error: driver::DeadEngine) -> PyErr {
    PyRuntimeError::new_err(error.to_string())
}

fn texts(addresses: &[SocketAddr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}

impl Engine {
    fn command(&self, command: Command) -> PyResult<()> {
        self.0.command(command).map_err(dead)
    }
}

#[pymethods]
impl Engine {
    #[new]
    fn new(py: Python<'_>, config: &EngineConfig) -> PyResult<Self> {
        let engine = py.detach(|| driver::Engine::open(&config.0));
        // As OSError(errno, text), so that `errno` is set as it is for Python's own sockets.
        engine
            .map(Self)
            .map_err(|error| match error.as_io().raw_os_error() {
                Some(code) => PyOSError::new_err((code, error.to_string())),
                None => PyOSError::new_err(error.to_string()),
            })
    }

    fn __repr__(&self) -> String {
        format!(
            "Engine(udp=[{}], tcp=[{}])",
            texts(self.0.udp_addresses()).join(", "),
            texts(self.0.tcp_addresses()).join(", "),
        )
    }

    #[getter]
    fn fingerprint(&self) -> &str {
        self.0.fingerprint()
    }

    #[getter]
    fn udp_addresses(&self) -> Vec<String> {
        texts(self.0.udp_addresses())
    }

    #[getter]
    fn tcp_addresses(&self) -> Vec<String> {
        texts(self.0.tcp_addresses())
    }

    fn candidates(&self, py: Python<'_>, ice_ufrag: &str) -> PyResult<Vec<String>> {
        py.detach(|| self.0.candidates(ice_ufrag)).map_err(dead)
    }

    fn event_fd(&self) -> i32 {
        self.0.event_fd()
    }

    fn drain(&self, py: Python<'_>) -> PyResult<Vec<Py<PyAny>>> {
        self.0
            .drain()
            .into_iter()
            .map(|event| events::to_python(py, event))
            .collect()
    }

    fn stats(&self, py: Python<'_>) -> PyResult<stats::Stats> {
        let snapshot = py.detach(|| self.0.stats());
        stats::to_python(py, snapshot)
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.0.close());
    }

    // peer connections

    fn create_peer_connection(&self, pc: u64, config: &PeerConnectionConfig) -> PyResult<()> {
        self.command(Command::CreatePeerConnection {
            pc: PcId(pc),
            config: config.0.clone(),
        })
    }

    fn set_remote(&self, pc: u64, remote: &RemoteTransport) -> PyResult<()> {
        self.command(Command::SetRemote {
            pc: PcId(pc),
            remote: remote.0.clone(),
        })
    }

    fn restart_ice(&self, pc: u64, ice_ufrag: String, ice_pwd: String) -> PyResult<()> {
        self.command(Command::RestartIce {
            pc: PcId(pc),
            ice_ufrag,
            ice_pwd,
        })
    }

    fn add_remote_candidate(&self, pc: u64, candidate: String) -> PyResult<()> {
        self.command(Command::AddRemoteCandidate {
            pc: PcId(pc),
            candidate,
        })
    }

    fn close_peer_connection(&self, pc: u64) -> PyResult<()> {
        self.command(Command::ClosePeerConnection { pc: PcId(pc) })
    }

    // received tracks, made tracks

    fn add_receiver(&self, pc: u64, track: u64, config: &ReceiverConfig) -> PyResult<()> {
        let (pc, track, config) = (PcId(pc), TrackId(track), config.0.clone());
        self.command(Command::AddReceiver { pc, track, config })
    }

    fn update_receiver(&self, track: u64, config: &ReceiverConfig) -> PyResult<()> {
        self.command(Command::UpdateReceiver {
            track: TrackId(track),
            config: config.0.clone(),
        })
    }

    fn add_source(&self, track: u64, config: &SourceConfig) -> PyResult<()> {
        self.command(Command::AddSource {
            track: TrackId(track),
            config: config.0.clone(),
        })
    }

    fn set_track_muted(&self, track: u64, muted: bool) -> PyResult<()> {
        self.command(Command::SetTrackMuted {
            track: TrackId(track),
            muted,
        })
    }

    fn request_keyframe(&self, track: u64) -> PyResult<()> {
        self.command(Command::RequestKeyframe {
            track: TrackId(track),
        })
    }

    fn remove_track(&self, track: u64) -> PyResult<()> {
        self.command(Command::RemoveTrack {
            track: TrackId(track),
        })
    }

    // senders

    fn add_sender(&self, pc: u64, sender: u64, config: &SenderConfig) -> PyResult<()> {
        let (pc, sender, config) = (PcId(pc), SenderId(sender), config.0.clone());
        self.command(Command::AddSender { pc, sender, config })
    }

    #[pyo3(signature = (sender, max_spatial_layer, max_temporal_layer, paused, priority = None))]
    fn set_sender_layers(
        &self,
        sender: u64,
        max_spatial_layer: u8,
        max_temporal_layer: u8,
        paused: bool,
        priority: Option<u8>,
    ) -> PyResult<()> {
        let sender = SenderId(sender);
        self.command(Command::SetSenderLayers {
            sender,
            max_spatial_layer,
            max_temporal_layer,
            paused,
            priority,
        })
    }

    fn set_bandwidth_cap(&self, pc: u64, bps: Option<u64>, allow_pause: bool) -> PyResult<()> {
        let pc = PcId(pc);
        self.command(Command::SetBandwidthCap {
            pc,
            bps,
            allow_pause,
        })
    }

    fn remove_sender(&self, sender: u64) -> PyResult<()> {
        self.command(Command::RemoveSender {
            sender: SenderId(sender),
        })
    }

    // data channels

    #[pyo3(signature = (pc, label, ordered = true, max_retransmits = None))]
    fn open_data_channel(
        &self,
        pc: u64,
        label: String,
        ordered: bool,
        max_retransmits: Option<u16>,
    ) -> PyResult<()> {
        self.command(Command::OpenDataChannel {
            pc: PcId(pc),
            label,
            ordered,
            max_retransmits,
        })
    }

    #[pyo3(signature = (pcs, label, payload, binary = true))]
    fn send_data(
        &self,
        pcs: Vec<u64>,
        label: String,
        payload: &[u8],
        binary: bool,
    ) -> PyResult<()> {
        let pcs = pcs.into_iter().map(PcId).collect();
        self.command(Command::SendData {
            pcs,
            label,
            payload: payload.to_vec(),
            binary,
        })
    }

    // moving a session

    fn export_peer_connection<'py>(
        &self,
        py: Python<'py>,
        pc: u64,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let state = py
            .detach(|| self.0.export_peer_connection(PcId(pc)))
            .map_err(dead)?;
        let state = state.ok_or_else(|| PyKeyError::new_err(format!("no peer connection {pc}")))?;
        Ok(PyBytes::new(py, &state))
    }

    fn import_peer_connection(
        &self,
        pc: u64,
        state: &[u8],
        config: &PeerConnectionConfig,
    ) -> PyResult<()> {
        let (pc, state, config) = (PcId(pc), state.to_vec(), config.0.clone());
        self.command(Command::ImportPeerConnection { pc, state, config })
    }
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Engine>()
}
