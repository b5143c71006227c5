//! Packet trailers: what some publishers append to an encoded frame (a time, a frame's number, bytes of their own).
//!
//! Layout as the clients write it, at the very end of a frame, outside of any encryption: elements of tag, length and
//! value, every byte inverted; the length of the whole trailer, inverted; the magic `LKTS`. What the elements say is
//! nothing to us: a client that does not know trailers gets the frame without.

use super::VideoCodec;

const MAGIC: [u8; 4] = *b"LKTS";
/// Length byte and magic.
const ENVELOPE: usize = 5;
/// RFC 6184 section 5.7.1 and RFC 7798 section 4.4.2.
const STAP_A: u8 = 24;
const H265_AGGREGATION: u8 = 48;

/// Bytes of the trailer a payload ends with, 0 without one.
pub fn trailer_len(payload: &[u8]) -> usize {
    let Some(([.., length], &MAGIC)) = payload.split_last_chunk::<4>() else {
        return 0;
    };
    let length = usize::from(!*length);
    if (ENVELOPE..=payload.len()).contains(&length) {
        length
    } else {
        0
    }
}

/// Cuts the trailer from the last packet of a frame. False: there is none, or nothing but it.
///
/// A trailer lies whole in the last packet: packetizers part a frame about equally. Where the packet holds several
/// units with their lengths, the last one's is corrected. AV1 with a length before every element stays as it is: no
/// packetizer sends a trailer so.
pub fn strip(codec: Option<VideoCodec>, payload: &mut Vec<u8>) -> bool {
    let cut = trailer_len(payload);
    let Some(&first) = payload.first() else {
        return false;
    };
    if cut == 0 || cut >= payload.len() {
        return false;
    }
    let is_cuttable = match codec {
        Some(VideoCodec::H264) if first & 0x1f == STAP_A => shorten_last_unit(payload, 1, cut),
        Some(VideoCodec::H265) if first >> 1 & 0x3f == H265_AGGREGATION => {
            shorten_last_unit(payload, 2, cut)
        }
        // The AV1 aggregation header's W: 0 means that every element has a length.
        Some(VideoCodec::Av1) => first & 0x30 != 0,
        _ => true,
    };
    if is_cuttable {
        payload.truncate(payload.len() - cut);
    }
    is_cuttable
}

/// Lowers the length of the last unit of an aggregation packet whose units begin at `at`.
fn shorten_last_unit(payload: &mut [u8], mut at: usize, cut: usize) -> bool {
    while let Some(field) = payload.get(at..).and_then(<[u8]>::first_chunk::<2>) {
        let length = usize::from(u16::from_be_bytes(*field));
        let end = at + 2 + length;
        if end == payload.len() && length > cut {
            payload[at..at + 2].copy_from_slice(&((length - cut) as u16).to_be_bytes());
            return true;
        }
        if end >= payload.len() {
            return false;
        }
        at = end;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Time 1, frame number 2, as a client writes them.
    fn trailer() -> Vec<u8> {
        let mut bytes = vec![1, 8, 0, 0, 0, 0, 0, 0, 0, 1, 2, 4, 0, 0, 0, 2, 21];
        for byte in &mut bytes {
            *byte = !*byte;
        }
        bytes.extend_from_slice(b"LKTS");
        bytes
    }

    fn with_trailer(body: &[u8]) -> Vec<u8> {
        [body, &trailer()].concat()
    }

    #[test]
    fn trailer_of_a_frame_is_cut_whole() {
        for codec in [
            None,
            Some(VideoCodec::Vp8),
            Some(VideoCodec::Vp9),
            Some(VideoCodec::H264),
        ] {
            let mut payload = with_trailer(&[0x10, 1, 2, 3]);
            assert_eq!(trailer_len(&payload), 21);
            assert!(strip(codec, &mut payload), "{codec:?}");
            assert_eq!(payload, [0x10, 1, 2, 3]);
            assert!(!strip(codec, &mut payload), "only once");
        }
    }

    #[test]
    fn lengths_of_aggregated_units_are_corrected() {
        let unit = with_trailer(&[0x65, 9]);
        let length = unit.len() as u8;
        let head = [0x78, 0, 2, 0x67, 1, 0, length];
        let mut payload = [&head[..], &unit].concat();
        assert!(strip(Some(VideoCodec::H264), &mut payload));
        assert_eq!(payload, [0x78, 0, 2, 0x67, 1, 0, 2, 0x65, 9]);

        let head = [48 << 1, 1, 0, length];
        let mut payload = [&head[..], &unit].concat();
        assert!(strip(Some(VideoCodec::H265), &mut payload));
        assert_eq!(payload, [48 << 1, 1, 0, 2, 0x65, 9]);
    }

    #[test]
    fn what_only_looks_like_a_trailer_stays() {
        let bare = trailer();
        let mut long = b"xLKTS".to_vec();
        long[0] = !200;
        let mut short = b"abcdxLKTS".to_vec();
        short[4] = !4;
        for wrong in [
            bare,
            long,
            short,
            b"LKTS".to_vec(),
            b"abc".to_vec(),
            Vec::new(),
        ] {
            let mut payload = wrong.clone();
            assert!(!strip(Some(VideoCodec::Vp8), &mut payload), "{wrong:02x?}");
            assert_eq!(payload, wrong);
        }
        let mut overrun = [&[0x78, 0, 99, 0x67][..], &trailer()].concat();
        assert!(!strip(Some(VideoCodec::H264), &mut overrun));
        let mut av1 = with_trailer(&[0x00, 30, 1]);
        assert!(!strip(Some(VideoCodec::Av1), &mut av1));
        let mut av1 = with_trailer(&[0x10, 30, 1]);
        assert!(strip(Some(VideoCodec::Av1), &mut av1));
    }
}
