//! The Python face of the media core: `mediacore._native`, exactly as `_native.pyi` says.
//!
//! A table of contents. Commands go down as plain values, events come up in batches, nothing crosses per packet, and
//! the interpreter is let go of wherever the engine thread is waited for.

// The methods of a Python class are called by the interpreter; its stub documents them.
#![allow(missing_docs)]

mod config;
mod engine;
mod events;
mod repr;
mod sdp;
mod stats;

use pyo3::prelude::*;

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("SOURCE_DIGEST", env!("SOURCE_DIGEST"))?;
    config::register(module)?;
    events::register(module)?;
    stats::register(module)?;
    engine::register(module)?;
    sdp::register(module)?;
    // Made as a by-product of `add`; the package re-exports by name.
    module.delattr("__all__")
}
