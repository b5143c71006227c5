//! SDP as values, sans-IO: what WebRTC endpoints say of a session (RFC 8866, RFC 9429), parsed and rendered.
//!
//! Not an offer/answer machine: nothing here decides what to answer. A [`Description`] is a list of [`Section`]s,
//! each immutable behind an [`std::sync::Arc`], with its text rendered at most once. A [`Cache`] remembers the
//! sections of the last description, so that a re-offer of fifty sections parses only the one that changed.
//!
//! Known: BUNDLE (RFC 8843), groups and mids (RFC 5888), header extensions (RFC 8285), feedback (RFC 4585), SSRC
//! attributes and groups (RFC 5576), rids and simulcast (RFC 8851, RFC 8853), msid (RFC 8830), ICE (RFC 8839, RFC 8840),
//! DTLS (RFC 8842), SCTP (RFC 8841). Unknown lines and attributes are ignored. No input makes the parser panic.
//!
//! Reading order: `section` (the values), `parse`, `render`, `cache`.

#![forbid(unsafe_code)]

mod cache;
mod error;
mod parse;
mod render;
mod section;

pub use cache::Cache;
pub use error::SdpError;
pub use parse::{MAX_CODECS, MAX_SECTIONS, MAX_TEXT};
pub use section::{
    Codec, Description, Direction, Group, Kind, Msid, Rid, RidDirection, Section, SectionFields,
    Setup, Ssrc,
};
