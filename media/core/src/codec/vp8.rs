//! The VP8 payload descriptor (RFC 7741 section 4.2), read and rewritten in place.

use super::PictureId;

/// A VP8 payload descriptor and the places of the numbers that forwarding rewrites. Places are bytes from the start
/// of the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vp8Descriptor {
    /// Bytes of the descriptor; the VP8 payload follows.
    pub header_len: usize,
    /// N: no other frame depends on this one.
    pub non_reference: bool,
    /// S and partition 0: the first packet of a frame.
    pub start_of_frame: bool,
    /// The first packet of a keyframe.
    pub keyframe: bool,
    /// Picture id, if sent.
    pub picture_id: Option<PictureId>,
    /// Index of the last frame of temporal layer 0, if sent.
    pub tl0_pic_idx: Option<u8>,
    /// Temporal layer, if sent.
    pub tid: Option<u8>,
    /// Y: depends only on temporal layer 0, so one may switch up here.
    pub layer_sync: bool,
    /// Temporal key frame index, 5 bits, if sent.
    pub key_idx: Option<u8>,
    /// Place of the picture id.
    pub picture_id_at: Option<usize>,
    /// Place of the TL0PICIDX byte.
    pub tl0_pic_idx_at: Option<usize>,
    /// Place of the byte with TID, Y and KEYIDX.
    pub tid_key_idx_at: Option<usize>,
}

/// Reads the descriptor of a VP8 payload; none if it is truncated or nothing follows it.
pub fn parse_vp8(payload: &[u8]) -> Option<Vp8Descriptor> {
    let first = *payload.first()?;
    let mut descriptor = Vp8Descriptor {
        header_len: 1,
        non_reference: first & 0x20 != 0,
        start_of_frame: first & 0x10 != 0 && first & 0x07 == 0,
        keyframe: false,
        picture_id: None,
        tl0_pic_idx: None,
        tid: None,
        layer_sync: false,
        key_idx: None,
        picture_id_at: None,
        tl0_pic_idx_at: None,
        tid_key_idx_at: None,
    };
    let mut at = 1;
    if first & 0x80 != 0 {
        let extension = *payload.get(at)?;
        at += 1;
        if extension & 0x80 != 0 {
            let picture_id = PictureId::parse(payload, at)?;
            descriptor.picture_id = Some(picture_id);
            descriptor.picture_id_at = Some(at);
            at += picture_id.len();
        }
        if extension & 0x40 != 0 {
            descriptor.tl0_pic_idx = Some(*payload.get(at)?);
            descriptor.tl0_pic_idx_at = Some(at);
            at += 1;
        }
        if extension & 0x30 != 0 {
            let byte = *payload.get(at)?;
            if extension & 0x20 != 0 {
                descriptor.tid = Some(byte >> 6);
                descriptor.layer_sync = byte & 0x20 != 0;
            }
            descriptor.key_idx = (extension & 0x10 != 0).then_some(byte & 0x1f);
            descriptor.tid_key_idx_at = Some(at);
            at += 1;
        }
    }
    descriptor.header_len = at;
    // The frame header's P bit is 0 in a keyframe (RFC 7741 section 4.3).
    descriptor.keyframe = descriptor.start_of_frame && *payload.get(at)? & 0x01 == 0;
    payload.get(at)?;
    Some(descriptor)
}

impl Vp8Descriptor {
    /// Longest descriptor.
    pub const MAX_LEN: usize = 6;

    /// Writes new numbers over those in `header`, a copy of the descriptor's bytes. Widths stay: a picture id of
    /// 7 bits keeps the low 7. What the descriptor lacks is not added; a header of another length stays as it is
    /// where it is too short.
    pub fn rewrite(&self, header: &mut [u8], picture_id: u16, tl0_pic_idx: u8, key_idx: u8) {
        if let (Some(at), Some(old)) = (self.picture_id_at, self.picture_id)
            && let Some(field) = header.get_mut(at..at + old.len())
        {
            let [high, low] = picture_id.to_be_bytes();
            if let [first, second] = field {
                (*first, *second) = (0x80 | high, low);
            } else if let [only] = field {
                *only = low & 0x7f;
            }
        }
        if let Some(byte) = self.tl0_pic_idx_at.and_then(|at| header.get_mut(at)) {
            *byte = tl0_pic_idx;
        }
        if self.key_idx.is_some()
            && let Some(byte) = self.tid_key_idx_at.and_then(|at| header.get_mut(at))
        {
            *byte = *byte & 0xe0 | key_idx & 0x1f;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: [u8; 7] = [0x90, 0xf0, 0x92, 0x34, 0x56, 0xb1, 0x00];

    #[test]
    fn full_descriptor_is_read_with_its_places() {
        let descriptor = parse_vp8(&FULL).unwrap();
        assert_eq!(
            descriptor,
            Vp8Descriptor {
                header_len: 6,
                non_reference: false,
                start_of_frame: true,
                keyframe: true,
                picture_id: Some(PictureId {
                    value: 0x1234,
                    long: true
                }),
                tl0_pic_idx: Some(0x56),
                tid: Some(2),
                layer_sync: true,
                key_idx: Some(17),
                picture_id_at: Some(2),
                tl0_pic_idx_at: Some(4),
                tid_key_idx_at: Some(5),
            }
        );
    }

    #[test]
    fn short_descriptors_lack_what_they_do_not_say() {
        let bare = parse_vp8(&[0x10, 0x01]).unwrap();
        assert_eq!(
            (bare.header_len, bare.keyframe, bare.picture_id, bare.tid),
            (1, false, None, None)
        );
        let short = parse_vp8(&[0xa0, 0x80, 0x7f, 0x00]).unwrap();
        assert_eq!(
            short.picture_id,
            Some(PictureId {
                value: 0x7f,
                long: false
            })
        );
        assert!(short.non_reference && !short.start_of_frame && !short.keyframe);
        let key_only = parse_vp8(&[0x90, 0x10, 0xff, 0x01]).unwrap();
        assert_eq!(
            (key_only.tid, key_only.layer_sync, key_only.key_idx),
            (None, false, Some(31))
        );
    }

    #[test]
    fn later_partition_is_not_the_start_of_a_frame() {
        assert!(!parse_vp8(&[0x11, 0x00]).unwrap().start_of_frame);
        assert!(!parse_vp8(&[0x00, 0x00]).unwrap().keyframe);
    }

    #[test]
    fn truncated_descriptors_are_refused() {
        for length in 0..FULL.len() {
            assert_eq!(parse_vp8(&FULL[..length]), None, "{length}");
        }
    }

    #[test]
    fn rewriting_keeps_widths_and_other_bits() {
        let mut header = FULL;
        parse_vp8(&FULL).unwrap().rewrite(&mut header, 0x7fff, 9, 3);
        let read = parse_vp8(&header).unwrap();
        assert_eq!(
            read.picture_id,
            Some(PictureId {
                value: 0x7fff,
                long: true
            })
        );
        assert_eq!(
            (read.tl0_pic_idx, read.tid, read.layer_sync, read.key_idx),
            (Some(9), Some(2), true, Some(3))
        );
        let short = [0x90, 0x80, 0x05, 0x00];
        let mut header = short;
        parse_vp8(&short)
            .unwrap()
            .rewrite(&mut header, 0x0181, 9, 3);
        assert_eq!(header, [0x90, 0x80, 0x01, 0x00]);
        parse_vp8(&FULL).unwrap().rewrite(&mut [], 1, 1, 1);
    }
}
