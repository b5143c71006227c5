//! The VP9 payload descriptor (RFC 9628 section 4.2), read as far as layer choice needs.

use super::PictureId;

/// A VP9 payload descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vp9Descriptor {
    /// Bytes of the descriptor; the VP9 payload follows.
    pub header_len: usize,
    /// Picture id, if sent.
    pub picture_id: Option<PictureId>,
    /// Place of the picture id, in bytes from the start of the payload.
    pub picture_id_at: Option<usize>,
    /// P: predicted from earlier pictures.
    pub inter_picture: bool,
    /// F: references are listed in each packet.
    pub flexible: bool,
    /// B: the first packet of a layer frame.
    pub start_of_frame: bool,
    /// E: the last packet of a layer frame.
    pub end_of_frame: bool,
    /// Z: not a reference for higher spatial layers.
    pub not_for_upper: bool,
    /// Temporal and spatial layer, if sent.
    pub layer: Option<Vp9Layer>,
    /// Index of the last picture of temporal layer 0, in non-flexible mode.
    pub tl0_pic_idx: Option<u8>,
    /// P_DIFF: how many pictures back the references are, in flexible mode; 0 for none.
    pub references: [u8; 3],
}

/// The layer part of the descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vp9Layer {
    /// Temporal layer, 0 to 7.
    pub temporal: u8,
    /// U: one may switch up to this temporal layer here.
    pub switching_up: bool,
    /// Spatial layer, 0 to 7.
    pub spatial: u8,
    /// D: predicted from the spatial layer below.
    pub inter_layer: bool,
}

/// Reads the descriptor of a VP9 payload; none if it is truncated or breaks the rules.
pub fn parse_vp9(payload: &[u8]) -> Option<Vp9Descriptor> {
    let first = *payload.first()?;
    let flag = |bit: u8| first & bit != 0;
    let mut descriptor = Vp9Descriptor {
        header_len: 0,
        picture_id: None,
        picture_id_at: None,
        inter_picture: flag(0x40),
        flexible: flag(0x10),
        start_of_frame: flag(0x08),
        end_of_frame: flag(0x04),
        not_for_upper: flag(0x01),
        layer: None,
        tl0_pic_idx: None,
        references: [0; 3],
    };
    let mut at = 1;
    if flag(0x80) {
        let picture_id = PictureId::parse(payload, at)?;
        descriptor.picture_id = Some(picture_id);
        descriptor.picture_id_at = Some(at);
        at += picture_id.len();
    }
    if flag(0x20) {
        let byte = *payload.get(at)?;
        at += 1;
        descriptor.layer = Some(Vp9Layer {
            temporal: byte >> 5,
            switching_up: byte & 0x10 != 0,
            spatial: byte >> 1 & 0x07,
            inter_layer: byte & 0x01 != 0,
        });
        if !descriptor.flexible {
            descriptor.tl0_pic_idx = Some(*payload.get(at)?);
            at += 1;
        }
    }
    if descriptor.flexible && descriptor.inter_picture {
        let mut more = true;
        // At most three references (RFC 9628 section 4.2).
        for reference in &mut descriptor.references {
            let byte = *payload.get(at)?;
            *reference = byte >> 1;
            more = byte & 0x01 != 0;
            at += 1;
            if !more {
                break;
            }
        }
        if more {
            return None;
        }
    }
    if flag(0x02) {
        at = skip_scalability_structure(payload, at)?;
    }
    if at > payload.len() {
        return None;
    }
    descriptor.header_len = at;
    Some(descriptor)
}

fn skip_scalability_structure(payload: &[u8], mut at: usize) -> Option<usize> {
    let byte = *payload.get(at)?;
    at += 1;
    if byte & 0x10 != 0 {
        at += 4 * (usize::from(byte >> 5) + 1);
    }
    if byte & 0x08 != 0 {
        let pictures = *payload.get(at)?;
        at += 1;
        for _ in 0..pictures {
            let references = *payload.get(at)? >> 2 & 0x03;
            at += 1 + usize::from(references);
        }
    }
    Some(at)
}

impl Vp9Descriptor {
    /// The first packet of a picture that needs no earlier picture, at the lowest spatial layer.
    pub fn is_keyframe(&self) -> bool {
        self.start_of_frame
            && !self.inter_picture
            && self
                .layer
                .is_none_or(|layer| layer.spatial == 0 && !layer.inter_layer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_and_picture_id_are_read() {
        let descriptor = parse_vp9(&[0xe4, 0x81, 0x02, 0x53, 0x07, 0xaa]).unwrap();
        assert_eq!(
            descriptor.picture_id,
            Some(PictureId {
                value: 0x102,
                long: true
            })
        );
        assert_eq!(
            descriptor.layer,
            Some(Vp9Layer {
                temporal: 2,
                switching_up: true,
                spatial: 1,
                inter_layer: true
            })
        );
        assert_eq!(
            (descriptor.tl0_pic_idx, descriptor.header_len),
            (Some(7), 5)
        );
        assert!(descriptor.inter_picture && descriptor.end_of_frame && !descriptor.start_of_frame);
    }

    #[test]
    fn keyframe_is_an_unpredicted_start_at_the_lowest_layer() {
        assert!(parse_vp9(&[0x28, 0x00, 0x00]).unwrap().is_keyframe());
        assert!(!parse_vp9(&[0x28, 0x03, 0x00]).unwrap().is_keyframe());
        assert!(!parse_vp9(&[0x68, 0x00, 0x00]).unwrap().is_keyframe());
        assert!(!parse_vp9(&[0x20, 0x00, 0x00]).unwrap().is_keyframe());
    }

    #[test]
    fn references_and_scalability_structure_are_skipped() {
        let flexible = parse_vp9(&[0x50, 0x03, 0x02, 0xaa]).unwrap();
        assert_eq!((flexible.header_len, flexible.references), (3, [1, 1, 0]));
        let mut structure = vec![0x0a, 0x38];
        structure.extend_from_slice(&[0; 8]);
        structure.extend_from_slice(&[2, 0x00, 0x08, 1, 2, 0xaa]);
        assert_eq!(
            parse_vp9(&structure).unwrap().header_len,
            structure.len() - 1
        );
    }

    #[test]
    fn truncated_and_unlawful_descriptors_are_refused() {
        let cases: &[&[u8]] = &[
            &[],
            &[0x80],
            &[0x80, 0x80],
            &[0x20],
            &[0x20, 0x00],
            &[0x50],
            &[0x50, 1, 1, 1],
            &[0x02],
            &[0x02, 0x10, 0, 0, 0],
            &[0x02, 0x08],
            &[0x02, 0x08, 1],
            &[0x02, 0x08, 1, 0x0c, 0],
        ];
        for payload in cases {
            assert_eq!(parse_vp9(payload), None, "{payload:02x?}");
        }
    }
}
