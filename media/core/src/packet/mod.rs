//! Packets on the wire as values: RTP, its header extensions, RTCP, and as much of STUN as steering needs.
//!
//! Nothing here decrypts, keeps state between packets or knows a clock. Every parser takes any bytes and answers
//! with a value or a [`ParseError`]; none panics and none allocates.

pub mod extensions;
pub mod rtcp;
pub mod rtp;
pub mod stun;

/// Why bytes are not the packet they were taken for. Always the sender's fault: drop the packet and count it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Fewer bytes than the fixed part, or than a length field announces.
    #[error("packet is truncated")]
    Truncated,
    /// The version field is not 2 (RFC 3550 section 5.1).
    #[error("version is not 2")]
    Version,
    /// A header extension runs past its block, or past the packet (RFC 8285).
    #[error("header extension is malformed")]
    Extension,
    /// The padding count is zero or longer than what it pads (RFC 3550 section 5.1).
    #[error("padding count is impossible")]
    Padding,
    /// A count or length inside the packet contradicts its size.
    #[error("inner length contradicts the packet")]
    Length,
}

/// The big-endian 16-bit number at `at`, if the bytes reach that far.
pub(crate) fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    let field = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes([field[0], field[1]]))
}

/// The big-endian 32-bit number at `at`, if the bytes reach that far.
pub(crate) fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes([field[0], field[1], field[2], field[3]]))
}
