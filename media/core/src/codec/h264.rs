//! H.264 payloads (RFC 6184): which NAL units begin in a packet.

const IDR: u8 = 5;
const SPS: u8 = 7;
const STAP_A: u8 = 24;
const FU_A: u8 = 28;

/// Whether an IDR slice or a sequence parameter set begins in the packet: alone, in a STAP-A, or as the first
/// fragment of a FU-A.
pub fn is_keyframe(payload: &[u8]) -> bool {
    let starts = |kind: u8| matches!(kind & 0x1f, IDR | SPS);
    match payload {
        [first, rest @ ..] if first & 0x1f == STAP_A => Aggregated(rest).any(starts),
        [first, header, ..] if first & 0x1f == FU_A => header & 0x80 != 0 && starts(*header),
        [first, ..] => starts(*first),
        [] => false,
    }
}

/// The first bytes of the units of a STAP-A, up to where it is malformed.
struct Aggregated<'a>(&'a [u8]);

impl Iterator for Aggregated<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let (length, rest) = self.0.split_first_chunk()?;
        let (unit, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        self.0 = rest;
        unit.first().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyframes_are_found_in_every_packet_form() {
        let keyframes: &[&[u8]] = &[
            &[0x65, 1],
            &[0x67],
            &[0x78, 0, 1, 0x09, 0, 2, 0x67, 1],
            &[0x78, 0, 2, 0x68, 1, 0, 1, 0x65],
            &[0x7c, 0x85, 1],
            &[0x7c, 0x87],
        ];
        for payload in keyframes {
            assert!(is_keyframe(payload), "{payload:02x?}");
        }
    }

    #[test]
    fn other_and_malformed_payloads_are_no_keyframes() {
        let others: &[&[u8]] = &[
            &[],
            &[0x61],
            &[0x68],
            &[0x78],
            &[0x78, 0, 2, 0x65],
            &[0x78, 0, 0, 0, 1, 0x65],
            &[0x7c],
            &[0x7c, 0x05],
            &[0x7c, 0x81],
        ];
        for payload in others {
            assert!(!is_keyframe(payload), "{payload:02x?}");
        }
    }
}
