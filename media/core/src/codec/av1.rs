//! AV1 payloads (RTP Payload Format for AV1, AOM): the aggregation header and the first element's type.
//!
//! Not here: the dependency descriptor, which tells layers and decode targets.

/// The first byte of an AV1 payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AggregationHeader {
    /// Z: the first element continues one of the packet before.
    pub continues: bool,
    /// Y: the last element goes on in the next packet.
    pub continued: bool,
    /// W: number of elements, 0 when each has a length.
    pub elements: u8,
    /// N: first packet of a coded video sequence.
    pub new_sequence: bool,
}

/// Reads the aggregation header; none for an empty payload or when Z and N contradict each other.
pub fn parse_av1(payload: &[u8]) -> Option<AggregationHeader> {
    let first = *payload.first()?;
    let header = AggregationHeader {
        continues: first & 0x80 != 0,
        continued: first & 0x40 != 0,
        elements: first >> 4 & 0x03,
        new_sequence: first & 0x08 != 0,
    };
    (!(header.continues && header.new_sequence)).then_some(header)
}

/// Whether a coded video sequence begins in the packet: by the N bit, or by a sequence header as first element.
pub fn is_keyframe(payload: &[u8]) -> bool {
    parse_av1(payload).is_some_and(|header| {
        header.new_sequence
            || (!header.continues
                && first_obu_type(&header, &payload[1..]) == Some(SEQUENCE_HEADER))
    })
}

const SEQUENCE_HEADER: u8 = 1;

fn first_obu_type(header: &AggregationHeader, elements: &[u8]) -> Option<u8> {
    // One element alone has no length; otherwise a LEB128 number of at most 8 bytes comes first.
    let mut at = 0;
    if header.elements != 1 {
        at = elements.iter().take(8).position(|byte| byte & 0x80 == 0)? + 1;
    }
    elements.get(at).map(|first| first >> 3 & 0x0f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_start_is_found_by_bit_or_by_header() {
        for payload in [
            &[0x18][..],
            &[0x10, 0x0a],
            &[0x20, 0x02, 0x08, 0],
            &[0x00, 0x82, 0x00, 0x0a],
        ] {
            assert!(is_keyframe(payload), "{payload:02x?}");
        }
        for payload in [
            &[][..],
            &[0x10],
            &[0x90, 0x0a],
            &[0x98, 0x0a],
            &[0x10, 0x30],
            &[0x20, 0xff],
            &[0x20, 0x02],
        ] {
            assert!(!is_keyframe(payload), "{payload:02x?}");
        }
        assert_eq!(
            parse_av1(&[0x68]),
            Some(AggregationHeader {
                continues: false,
                continued: true,
                elements: 2,
                new_sequence: true
            })
        );
    }
}
