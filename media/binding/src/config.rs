//! What Python configures: values, checked when made, never changed. None of them prints a password.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mediacore_core as core;
use mediacore_driver as driver;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

fn bool_text(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}

fn track_kind(kind: &str) -> PyResult<core::TrackKind> {
    match kind {
        "audio" => Ok(core::TrackKind::Audio),
        "video" => Ok(core::TrackKind::Video),
        _ => Err(PyValueError::new_err(format!(
            "kind is 'audio' or 'video', not {kind:?}"
        ))),
    }
}

fn values<T: pyo3::PyClass<Frozen = pyo3::pyclass::boolean_struct::True> + Sync, V>(
    objects: &[Bound<'_, T>],
    value: impl Fn(&T) -> V,
) -> Vec<V> {
    objects.iter().map(|object| value(object.get())).collect()
}

// ---------------------------------------------------------------------------------------------------- the engine's

/// One local address the engine opens, and what is told to clients in its place (1:1 NAT).
#[pyclass(frozen, module = "mediacore._native")]
pub(crate) struct Binding(driver::Binding);

#[pymethods]
impl Binding {
    #[new]
    #[pyo3(signature = (address, advertise = None))]
    fn new(address: &str, advertise: Option<&str>) -> PyResult<Self> {
        let bad = |what: &str, text: &str| {
            PyValueError::new_err(format!("{what} is an IP address and a port, not {text:?}"))
        };
        let advertise = match advertise {
            None => None,
            Some(text) => {
                let parsed = text.parse::<SocketAddr>();
                // A bare address keeps the bound port, whatever it will be.
                let parsed = parsed.or_else(|_| text.parse::<IpAddr>().map(|ip| (ip, 0).into()));
                Some(parsed.map_err(|_| bad("advertise", text))?)
            }
        };
        let address: SocketAddr = address.parse().map_err(|_| bad("address", address))?;
        if advertise.is_some_and(|advertised| advertised.is_ipv4() != address.is_ipv4()) {
            return Err(PyValueError::new_err(
                "address and advertise are of different IP versions",
            ));
        }
        Ok(Self(driver::Binding { address, advertise }))
    }

    fn __repr__(&self) -> String {
        match self.0.advertise {
            None => format!("Binding(\"{}\")", self.0.address),
            Some(advertise) => format!("Binding(\"{}\", \"{advertise}\")", self.0.address),
        }
    }
}

/// How an engine is made.
#[pyclass(frozen, module = "mediacore._native")]
pub(crate) struct EngineConfig(pub(crate) driver::EngineConfig);

#[pymethods]
impl EngineConfig {
    #[new]
    #[pyo3(signature = (udp, tcp = Vec::new(), event_interval_ms = 2, level_interval_ms = 400,
        max_peer_connections = 4096), text_signature = "(udp, tcp=(), event_interval_ms=2, level_interval_ms=400, \
        max_peer_connections=4096)")]
    fn new(
        udp: Vec<Bound<'_, Binding>>,
        tcp: Vec<Bound<'_, Binding>>,
        event_interval_ms: u32,
        level_interval_ms: u32,
        max_peer_connections: usize,
    ) -> PyResult<Self> {
        if udp.is_empty() && tcp.is_empty() {
            return Err(PyValueError::new_err("an engine needs an address"));
        }
        if !(10..=60_000).contains(&level_interval_ms) {
            return Err(PyValueError::new_err("level_interval_ms is 10 to 60000"));
        }
        if event_interval_ms > 1000 {
            return Err(PyValueError::new_err("event_interval_ms is at most 1000"));
        }
        Ok(Self(driver::EngineConfig {
            udp: values(&udp, |binding| binding.0),
            tcp: values(&tcp, |binding| binding.0),
            event_interval: Duration::from_millis(event_interval_ms.into()),
            level_interval: Duration::from_millis(level_interval_ms.into()),
            max_peer_connections,
        }))
    }

    fn __repr__(&self) -> String {
        let addresses = |bindings: &[driver::Binding]| {
            let texts: Vec<_> = bindings
                .iter()
                .map(|binding| binding.address.to_string())
                .collect();
            texts.join(", ")
        };
        format!(
            "EngineConfig(udp=[{}], tcp=[{}])",
            addresses(&self.0.udp),
            addresses(&self.0.tcp)
        )
    }
}

// ----------------------------------------------------------------------------------------------- peer connections

/// How one peer connection's transport is made.
#[pyclass(frozen, module = "mediacore._native")]
pub(crate) struct PeerConnectionConfig(pub(crate) core::PeerConnectionConfig);

#[pymethods]
impl PeerConnectionConfig {
    #[new]
    #[pyo3(signature = (ice_ufrag, ice_pwd, ice_lite = true, ice_controlling = false, dtls_active = true))]
    fn new(
        ice_ufrag: String,
        ice_pwd: String,
        ice_lite: bool,
        ice_controlling: bool,
        dtls_active: bool,
    ) -> Self {
        Self(core::PeerConnectionConfig {
            ice_ufrag,
            ice_pwd,
            ice_lite,
            ice_controlling,
            dtls_active,
        })
    }

    fn __repr__(&self) -> String {
        format!(
            "PeerConnectionConfig(ice_ufrag={:?}, ice_pwd=..., ice_lite={}, ice_controlling={}, dtls_active={})",
            self.0.ice_ufrag,
            bool_text(self.0.ice_lite),
            bool_text(self.0.ice_controlling),
            bool_text(self.0.dtls_active),
        )
    }
}

/// What the far side's description says of its transport.
#[pyclass(frozen, module = "mediacore._native")]
pub(crate) struct RemoteTransport(pub(crate) core::RemoteTransport);

#[pymethods]
impl RemoteTransport {
    #[new]
    fn new(ice_ufrag: String, ice_pwd: String, fingerprint: String) -> Self {
        Self(core::RemoteTransport {
            ice_ufrag,
            ice_pwd,
            fingerprint,
        })
    }

    fn __repr__(&self) -> String {
        let core::RemoteTransport {
            ice_ufrag,
            fingerprint,
            ..
        } = &self.0;
        format!(
            "RemoteTransport(ice_ufrag={ice_ufrag:?}, ice_pwd=..., fingerprint={fingerprint:?})"
        )
    }
}

/// RTP header extension ids of one peer connection (RFC 8285), 0 = not negotiated.
#[pyclass(frozen, module = "mediacore._native")]
pub(crate) struct ExtensionIds(core::ExtensionIds);

#[pymethods]
impl ExtensionIds {
    #[new]
    #[pyo3(signature = (mid = 0, rid = 0, repaired_rid = 0, audio_level = 0, transport_cc = 0, abs_send_time = 0,
        abs_capture_time = 0, dependency_descriptor = 0, playout_delay = 0, video_orientation = 0))]
    // As many as there are extensions; Python calls it by name.
    #[allow(clippy::too_many_arguments)]
    fn new(
        mid: u8,
        rid: u8,
        repaired_rid: u8,
        audio_level: u8,
        transport_cc: u8,
        abs_send_time: u8,
        abs_capture_time: u8,
        dependency_descriptor: u8,
        playout_delay: u8,
        video_orientation: u8,
    ) -> Self {
        Self(core::ExtensionIds {
            mid,
            rid,
            repaired_rid,
            audio_level,
            transport_cc,
            abs_send_time,
            abs_capture_time,
            dependency_descriptor,
            playout_delay,
            video_orientation,
        })
    }

    fn __repr__(&self) -> String {
        let core::ExtensionIds {
            mid,
            rid,
            repaired_rid,
            audio_level,
            transport_cc,
            abs_send_time,
            abs_capture_time,
            dependency_descriptor,
            playout_delay,
            video_orientation,
        } = self.0;
        let fields = [
            ("mid", mid),
            ("rid", rid),
            ("repaired_rid", repaired_rid),
            ("audio_level", audio_level),
            ("transport_cc", transport_cc),
            ("abs_send_time", abs_send_time),
            ("abs_capture_time", abs_capture_time),
            ("dependency_descriptor", dependency_descriptor),
            ("playout_delay", playout_delay),
            ("video_orientation", video_orientation),
        ];
        let set = fields
            .iter()
            .filter(|(_, id)| *id > 0)
            .map(|(name, id)| format!("{name}={id}"));
        format!("ExtensionIds({})", set.collect::<Vec<_>>().join(", "))
    }
}

fn extension_ids(object: Option<&Bound<'_, ExtensionIds>>) -> core::ExtensionIds {
    object.map(|ids| ids.get().0).unwrap_or_default()
}

// -------------------------------------------------------------------------------------------------------- tracks

/// One payload type of a section.
#[pyclass(frozen, module = "mediacore._native")]
pub(crate) struct Codec(core::Codec);

#[pymethods]
impl Codec {
    #[new]
    #[pyo3(signature = (mime, payload_type, clock_rate, rtx_payload_type = None, nack = false, pli = false,
        transport_cc = false))]
    fn new(
        mime: String,
        payload_type: u8,
        clock_rate: u32,
        rtx_payload_type: Option<u8>,
        nack: bool,
        pli: bool,
        transport_cc: bool,
    ) -> PyResult<Self> {
        if payload_type > 127 || rtx_payload_type.is_some_and(|value| value > 127) {
            return Err(PyValueError::new_err("a payload type is 0 to 127"));
        }
        if clock_rate == 0 {
            return Err(PyValueError::new_err("clock_rate is above 0"));
        }
        Ok(Self(core::Codec {
            mime,
            payload_type,
            clock_rate,
            rtx_payload_type,
            nack,
            pli,
            transport_cc,
        }))
    }

    fn __repr__(&self) -> String {
        let core::Codec {
            mime,
            payload_type,
            clock_rate,
            ..
        } = &self.0;
        format!("Codec({mime:?}, {payload_type}, {clock_rate})")
    }
}

/// One simulcast encoding a publisher announced, by rid or by SSRC.
#[pyclass(frozen, module = "mediacore._native")]
pub(crate) struct Encoding(core::Encoding);

#[pymethods]
impl Encoding {
    #[new]
    #[pyo3(signature = (spatial_layer, rid = None, ssrc = None, rtx_ssrc = None))]
    fn new(
        spatial_layer: u8,
        rid: Option<String>,
        ssrc: Option<u32>,
        rtx_ssrc: Option<u32>,
    ) -> Self {
        Self(core::Encoding {
            spatial_layer,
            rid,
            ssrc,
            rtx_ssrc,
        })
    }

    fn __repr__(&self) -> String {
        let mut text = format!("Encoding({}", self.0.spatial_layer);
        if let Some(rid) = &self.0.rid {
            text.push_str(&format!(", rid={rid:?}"));
        }
        if let Some(ssrc) = self.0.ssrc {
            text.push_str(&format!(", ssrc={ssrc}"));
        }
        text + ")"
    }
}

/// A published track as it arrives.
#[pyclass(frozen, module = "mediacore._native")]
pub(crate) struct ReceiverConfig(pub(crate) core::ReceiverConfig);

#[pymethods]
impl ReceiverConfig {
    #[new]
    #[pyo3(signature = (kind, mid, codecs, encodings = Vec::new(), extensions = None, measure_level = false,
        probe = false), text_signature = "(kind, mid, codecs, encodings=(), extensions=..., measure_level=False, \
        probe=False)")]
    fn new(
        kind: &str,
        mid: String,
        codecs: Vec<Bound<'_, Codec>>,
        encodings: Vec<Bound<'_, Encoding>>,
        extensions: Option<Bound<'_, ExtensionIds>>,
        measure_level: bool,
        probe: bool,
    ) -> PyResult<Self> {
        Ok(Self(core::ReceiverConfig {
            kind: track_kind(kind)?,
            mid,
            codecs: values(&codecs, |codec| codec.0.clone()),
            encodings: values(&encodings, |encoding| encoding.0.clone()),
            extensions: extension_ids(extensions.as_ref()),
            measure_level,
            probe,
        }))
    }

    fn __repr__(&self) -> String {
        let core::ReceiverConfig {
            mid,
            codecs,
            encodings,
            ..
        } = &self.0;
        let (codecs, encodings) = (codecs.len(), encodings.len());
        format!("ReceiverConfig(mid={mid:?}, codecs=<{codecs}>, encodings=<{encodings}>)")
    }
}

/// Twelve bits of 10 ms each.
const MAX_PLAYOUT_DELAY_MS: u16 = 40_950;
const MAX_SIF_TRAILER: usize = 64;

/// A track going out on one peer connection.
#[pyclass(frozen, module = "mediacore._native")]
pub(crate) struct SenderConfig(pub(crate) core::SenderConfig);

#[pymethods]
impl SenderConfig {
    #[new]
    #[pyo3(signature = (track, mid, ssrc, rtx_ssrc, cname, codecs, extensions = None, max_spatial_layer = 2,
        max_temporal_layer = 3, paused = false, strip_trailer = false, sif_trailer = Vec::new(), playout_delay = None,
        encode_red = false, priority = 0), text_signature = "(track, mid, ssrc, rtx_ssrc, cname, codecs, \
        extensions=..., max_spatial_layer=2, max_temporal_layer=3, paused=False, strip_trailer=False, \
        sif_trailer=b\"\", playout_delay=None, encode_red=False, priority=0)")]
    // As many as a sender has properties; Python calls it by name.
    #[allow(clippy::too_many_arguments)]
    fn new(
        track: u64,
        mid: String,
        ssrc: u32,
        rtx_ssrc: Option<u32>,
        cname: String,
        codecs: Vec<Bound<'_, Codec>>,
        extensions: Option<Bound<'_, ExtensionIds>>,
        max_spatial_layer: u8,
        max_temporal_layer: u8,
        paused: bool,
        strip_trailer: bool,
        sif_trailer: Vec<u8>,
        playout_delay: Option<(u16, u16)>,
        encode_red: bool,
        priority: u8,
    ) -> PyResult<Self> {
        if playout_delay.is_some_and(|(min, max)| min > max || max > MAX_PLAYOUT_DELAY_MS) {
            return Err(PyValueError::new_err(format!(
                "playout_delay is (min, max) in milliseconds, min at most max, max at most {MAX_PLAYOUT_DELAY_MS}"
            )));
        }
        if sif_trailer.len() > MAX_SIF_TRAILER {
            return Err(PyValueError::new_err(format!(
                "sif_trailer is at most {MAX_SIF_TRAILER} bytes"
            )));
        }
        Ok(Self(core::SenderConfig {
            track: core::TrackId(track),
            mid,
            ssrc,
            rtx_ssrc,
            cname,
            codecs: values(&codecs, |codec| codec.0.clone()),
            extensions: extension_ids(extensions.as_ref()),
            max_spatial_layer,
            max_temporal_layer,
            paused,
            strip_trailer,
            sif_trailer,
            playout_delay,
            encode_red,
            priority,
        }))
    }

    fn __repr__(&self) -> String {
        let core::SenderConfig {
            track,
            mid,
            ssrc,
            codecs,
            ..
        } = &self.0;
        format!(
            "SenderConfig(track={}, mid={mid:?}, ssrc={ssrc}, codecs=<{}>)",
            track.0,
            codecs.len()
        )
    }
}

/// A track made here, not received: the swarm's publisher.
#[pyclass(frozen, module = "mediacore._native")]
pub(crate) struct SourceConfig(pub(crate) core::SourceConfig);

#[pymethods]
impl SourceConfig {
    #[new]
    fn new(
        kind: &str,
        mime: String,
        clock_rate: u32,
        frames_per_second: f64,
        packets_per_frame: u16,
        payload_bytes: u16,
    ) -> PyResult<Self> {
        if !(frames_per_second > 0.0 && frames_per_second <= 1000.0) {
            return Err(PyValueError::new_err(
                "frames_per_second is above 0 and at most 1000",
            ));
        }
        if packets_per_frame == 0 || !(32..=1200).contains(&payload_bytes) || clock_rate == 0 {
            return Err(PyValueError::new_err(
                "packets_per_frame and clock_rate are at least 1, payload_bytes is 32 to 1200",
            ));
        }
        Ok(Self(core::SourceConfig {
            kind: track_kind(kind)?,
            mime,
            clock_rate,
            frames_per_second,
            packets_per_frame,
            payload_bytes,
        }))
    }

    fn __repr__(&self) -> String {
        let core::SourceConfig {
            mime,
            frames_per_second,
            packets_per_frame,
            payload_bytes,
            ..
        } = &self.0;
        format!(
            "SourceConfig({mime:?}, {frames_per_second}/s x {packets_per_frame} x {payload_bytes} B)"
        )
    }
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Binding>()?;
    module.add_class::<EngineConfig>()?;
    module.add_class::<PeerConnectionConfig>()?;
    module.add_class::<RemoteTransport>()?;
    module.add_class::<ExtensionIds>()?;
    module.add_class::<Codec>()?;
    module.add_class::<Encoding>()?;
    module.add_class::<ReceiverConfig>()?;
    module.add_class::<SenderConfig>()?;
    module.add_class::<SourceConfig>()
}
