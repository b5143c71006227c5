//! What the engine tells, as Python objects. One class for each [`mediacore_core::Event`].

use mediacore_core::Event;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::repr::{by_attributes, value_class};

value_class! {
    /// ICE and DTLS are up: media and data may flow. Comes again after a restart.
    Connected { pc: u64 }
}
value_class! {
    /// No authenticated traffic for 10 s (RFC 7675); `Failed` follows 5 s later unless it comes back.
    Disconnected { pc: u64 }
}
value_class! {
    /// The transport is beyond repair without a restart. `reason` is for logs.
    Failed { pc: u64, reason: String }
}
value_class! {
    /// A data channel is open, whoever opened it.
    DataChannelOpened { pc: u64, label: String, ordered: bool, reliable: bool }
}
value_class! {
    /// A data channel was closed by the far side.
    DataChannelClosed { pc: u64, label: String }
}
value_class! {
    /// First packet of an encoding of a received track.
    EncodingStarted { track: u64, spatial_layer: u8, rid: Option<String>, ssrc: u32, mime: String }
}
value_class! {
    /// No packet of this encoding for a while (2 s), or its SSRC said goodbye.
    EncodingStopped { track: u64, spatial_layer: u8 }
}
value_class! {
    /// Levels of the last window: (track, loudest active level in -dBov 0..127, share of the window above -35 dBov).
    AudioLevels { levels: Vec<(u64, u8, f32)> }
}
value_class! {
    /// What a sender really forwards now; -1 is nothing.
    LayerChanged { sender: u64, spatial_layer: i8, temporal_layer: i8 }
}
value_class! {
    /// A sender was paused, or goes on, because of what its peer connection may carry; not by its wish.
    SenderPaused { sender: u64, paused: bool }
}
value_class! {
    /// A command could not be performed (unknown id, bad address, ...). The state is as before it.
    Rejected { command: &'static str, id: u64, message: String }
}

/// A message came.
#[pyclass(frozen, get_all, module = "mediacore._native")]
pub(crate) struct DataReceived {
    pc: u64,
    label: String,
    payload: Py<PyBytes>,
    binary: bool,
}

#[pymethods]
impl DataReceived {
    /// The payload is people's own words: its length is enough for a log.
    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let mut text = by_attributes(slf.as_any(), &["pc", "label", "binary"])?;
        let length = slf.get().payload.bind(slf.py()).as_bytes().len();
        text.truncate(text.len() - 1);
        Ok(format!("{text}, payload=<{length} bytes>)"))
    }
}

/// The Python object for one event.
pub(crate) fn to_python(py: Python<'_>, event: Event) -> PyResult<Py<PyAny>> {
    Ok(match event {
        Event::Connected { pc } => Py::new(py, Connected { pc: pc.0 })?.into_any(),
        Event::Disconnected { pc } => Py::new(py, Disconnected { pc: pc.0 })?.into_any(),
        Event::Failed { pc, reason } => Py::new(py, Failed { pc: pc.0, reason })?.into_any(),
        Event::DataChannelOpened {
            pc,
            label,
            ordered,
            reliable,
        } => Py::new(
            py,
            DataChannelOpened {
                pc: pc.0,
                label,
                ordered,
                reliable,
            },
        )?
        .into_any(),
        Event::DataChannelClosed { pc, label } => {
            Py::new(py, DataChannelClosed { pc: pc.0, label })?.into_any()
        }
        Event::DataReceived {
            pc,
            label,
            payload,
            binary,
        } => {
            let payload = PyBytes::new(py, &payload).unbind();
            Py::new(
                py,
                DataReceived {
                    pc: pc.0,
                    label,
                    payload,
                    binary,
                },
            )?
            .into_any()
        }
        Event::EncodingStarted {
            track,
            spatial_layer,
            rid,
            ssrc,
            mime,
        } => Py::new(
            py,
            EncodingStarted {
                track: track.0,
                spatial_layer,
                rid,
                ssrc,
                mime,
            },
        )?
        .into_any(),
        Event::EncodingStopped {
            track,
            spatial_layer,
        } => Py::new(
            py,
            EncodingStopped {
                track: track.0,
                spatial_layer,
            },
        )?
        .into_any(),
        Event::AudioLevels { levels } => {
            let levels = levels
                .into_iter()
                .map(|(track, level, share)| (track.0, level, share));
            Py::new(
                py,
                AudioLevels {
                    levels: levels.collect(),
                },
            )?
            .into_any()
        }
        Event::LayerChanged {
            sender,
            spatial_layer,
            temporal_layer,
        } => Py::new(
            py,
            LayerChanged {
                sender: sender.0,
                spatial_layer,
                temporal_layer,
            },
        )?
        .into_any(),
        Event::SenderPaused { sender, paused } => Py::new(
            py,
            SenderPaused {
                sender: sender.0,
                paused,
            },
        )?
        .into_any(),
        Event::Rejected {
            command,
            id,
            message,
        } => Py::new(
            py,
            Rejected {
                command,
                id,
                message,
            },
        )?
        .into_any(),
    })
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let classes = [
        py.get_type::<Connected>(),
        py.get_type::<Disconnected>(),
        py.get_type::<Failed>(),
        py.get_type::<DataChannelOpened>(),
        py.get_type::<DataChannelClosed>(),
        py.get_type::<DataReceived>(),
        py.get_type::<EncodingStarted>(),
        py.get_type::<EncodingStopped>(),
        py.get_type::<AudioLevels>(),
        py.get_type::<LayerChanged>(),
        py.get_type::<SenderPaused>(),
        py.get_type::<Rejected>(),
    ];
    let mut union = classes[0].as_any().clone();
    for class in &classes[1..] {
        union = union.bitor(class)?;
    }
    for class in classes {
        module.add(class.name()?, &class)?;
    }
    module.add("Event", union)
}
