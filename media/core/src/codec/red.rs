//! Redundant audio (RFC 2198): the blocks of a payload.

/// One block of a redundant payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RedBlock<'a> {
    /// Payload type of the block.
    pub payload_type: u8,
    /// How much earlier than the packet's timestamp it belongs; 0 for the primary block.
    pub timestamp_offset: u16,
    /// The block's payload.
    pub data: &'a [u8],
}

/// The primary block: the newest audio, last in the payload. None if the payload is malformed.
pub fn primary(payload: &[u8]) -> Option<RedBlock<'_>> {
    let mut block = None;
    for_each_block(payload, |found| block = Some(found))?;
    block
}

/// Calls `each` for every block, oldest first as sent, the primary last. None if the payload is malformed; blocks
/// before the fault may have been told.
pub fn for_each_block<'a>(payload: &'a [u8], mut each: impl FnMut(RedBlock<'a>)) -> Option<()> {
    let mut headers = 0;
    while payload.get(headers)? & 0x80 != 0 {
        headers += 4;
    }
    let mut rest = payload.get(headers + 1..)?;
    for header in payload[..headers].chunks_exact(4) {
        let (data, after) =
            rest.split_at_checked(usize::from(header[2] & 0x03) << 8 | usize::from(header[3]))?;
        rest = after;
        each(RedBlock {
            payload_type: header[0] & 0x7f,
            timestamp_offset: u16::from(header[1]) << 6 | u16::from(header[2]) >> 2,
            data,
        });
    }
    each(RedBlock {
        payload_type: payload[headers] & 0x7f,
        timestamp_offset: 0,
        data: rest,
    });
    Some(())
}

/// Appends a redundant payload of one format: the block before, if there is one that fits, then the primary.
///
/// `before` is how much earlier it belongs, in timestamp units, and its data. Left out when the packet would grow
/// above `limit` bytes, or when it does not fit the header's fields (14 bits of offset, 10 of length).
pub fn write(
    payload_type: u8,
    primary: &[u8],
    before: Option<(u32, &[u8])>,
    limit: usize,
    out: &mut Vec<u8>,
) {
    let fits = |&(offset, data): &(u32, &[u8])| {
        (1..1 << 14).contains(&offset)
            && (1..1 << 10).contains(&data.len())
            && 5 + data.len() + primary.len() <= limit
    };
    let before = before.filter(fits);
    if let Some((offset, data)) = before {
        let fields = offset << 10 | data.len() as u32;
        let [_, high, middle, low] = fields.to_be_bytes();
        out.extend_from_slice(&[0x80 | payload_type, high, middle, low]);
    }
    out.push(payload_type & 0x7f);
    out.extend_from_slice(before.map_or(&[][..], |(_, data)| data));
    out.extend_from_slice(primary);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_blocks_are_read_back() {
        let mut payload = Vec::new();
        write(111, &[4, 5], Some((960, &[1, 2])), 1200, &mut payload);
        let mut blocks = Vec::new();
        for_each_block(&payload, |block| {
            blocks.push((block.payload_type, block.timestamp_offset, block.data));
        });
        assert_eq!(blocks, [(111, 960, &[1, 2][..]), (111, 0, &[4, 5])]);
    }

    #[test]
    fn block_that_does_not_fit_is_left_out() {
        let long = [7; 1024];
        let cases: [(u32, &[u8], usize); 5] = [
            (0, &[1], 1200),
            (16_384, &[1], 1200),
            (960, &[], 1200),
            (960, &long, 1200),
            (960, &[1; 1000], 1006),
        ];
        for (offset, data, limit) in cases {
            let mut payload = Vec::new();
            write(111, &[4, 5], Some((offset, data)), limit, &mut payload);
            assert_eq!(payload, [111, 4, 5], "{offset} {}", data.len());
        }
        let mut payload = Vec::new();
        write(
            111,
            &[4, 5],
            Some((16_383, &long[..1023])),
            1200,
            &mut payload,
        );
        let mut offsets = Vec::new();
        for_each_block(&payload, |block| {
            offsets.push((block.timestamp_offset, block.data.len()));
        });
        assert_eq!(offsets, [(16_383, 1023), (0, 2)]);
    }

    #[test]
    fn blocks_are_told_oldest_first_and_the_primary_last() {
        let payload = [
            0x80 | 111,
            0x0f,
            0x00,
            2,
            0x80 | 63,
            0x07,
            0x84,
            1,
            111,
            1,
            2,
            3,
            4,
            5,
        ];
        let mut blocks = Vec::new();
        for_each_block(&payload, |block| {
            blocks.push((block.payload_type, block.timestamp_offset, block.data))
        });
        assert_eq!(
            blocks,
            [(111, 960, &[1, 2][..]), (63, 481, &[3]), (111, 0, &[4, 5])]
        );
        assert_eq!(primary(&payload).unwrap().data, [4, 5]);
        assert_eq!(primary(&[111, 9]).unwrap().data, [9]);
        assert_eq!(primary(&[111]).unwrap().data, []);
    }

    #[test]
    fn malformed_payloads_have_no_primary() {
        let cases: &[&[u8]] = &[
            &[],
            &[0x80],
            &[0x80, 0, 0, 0],
            &[0x80, 0, 0, 1, 111],
            &[0x80, 0, 0x03, 0xff, 111, 1],
        ];
        for payload in cases {
            assert_eq!(primary(payload), None, "{payload:02x?}");
        }
    }
}
