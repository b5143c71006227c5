//! Frames that show and say nothing: silence for Opus, a small black picture for VP8 and H.264.
//!
//! Their bytes are part of the protocol: a client that decrypts lets a frame of the server pass only when its SHA-256
//! is one that it knows. So they are the ones all clients know, made by an encoder once, and never others:
//! Opus is one fullband CELT frame of 20 ms, mono, without a signal (TOC 0xf8); VP8 a black key frame of 8x8; H.264 a
//! constrained baseline stream of one black IDR picture, cropped to 2x2.

/// 20 ms of silence.
pub const OPUS_SILENCE: [u8; 80] = {
    let mut frame = [0; 80];
    (frame[0], frame[1], frame[2]) = (0xf8, 0xff, 0xfe);
    frame
};

/// A key frame without payload descriptor.
pub const VP8_KEYFRAME: [u8; 31] = [
    0x10, 0x02, 0x00, 0x9d, 0x01, 0x2a, 0x08, 0x00, 0x08, 0x00, 0x00, 0x47, 0x08, 0x85, 0x85, 0x88,
    0x85, 0x84, 0x88, 0x02, 0x02, 0x00, 0x0c, 0x0d, 0x60, 0x00, 0xfe, 0xff, 0xab, 0x50, 0x80,
];

/// Sequence parameter set, picture parameter set, IDR slice: one packet each, which every packetization mode allows.
pub const H264_KEYFRAME: [&[u8]; 3] = [
    &[
        0x67, 0x42, 0xc0, 0x1f, 0x0f, 0xd9, 0x1f, 0x88, 0x88, 0x84, 0x00, 0x00, 0x03, 0x00, 0x04,
        0x00, 0x00, 0x03, 0x00, 0xc8, 0x3c, 0x60, 0xc9, 0x20,
    ],
    &[0x68, 0x87, 0xcb, 0x83, 0xcb, 0x20],
    &[0x65, 0x88, 0x84, 0x0a, 0xf2, 0x62, 0x80, 0x00, 0xa7, 0xbe],
];

#[cfg(test)]
mod tests {
    use aws_lc_rs::digest;

    use super::*;
    use crate::codec::h264;

    fn sha256(bytes: &[u8]) -> String {
        let digest = digest::digest(&digest::SHA256, bytes);
        digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The digests encrypting clients let pass.
    #[test]
    fn frames_are_those_that_clients_know() {
        let known: [(&[u8], &str); 5] = [
            (
                &VP8_KEYFRAME,
                "ef0161653d8b2b23aad46624b420af1d03ce48950e9fc85718028f91b50f9219",
            ),
            (
                H264_KEYFRAME[0],
                "f0a0e09647d891d6d50aa898bce7108090375d0d55e50a2bb21147afee558e44",
            ),
            (
                H264_KEYFRAME[1],
                "61d9665eed71b6d424ae9539330a3bdd5cb386d4d781c808219a6e36750493a7",
            ),
            (
                H264_KEYFRAME[2],
                "faffc26b68a2fc09096fa20f3351e706398b6f838a7500c8063472c2e476e90d",
            ),
            (
                &OPUS_SILENCE,
                "aad8d31fc56b2802ca500e58c2fb9d0b29ad71bb7cb52cd6530251eade188988",
            ),
        ];
        for (frame, digest) in known {
            assert_eq!(sha256(frame), digest);
        }
    }

    /// RFC 6386 section 9.1.
    #[test]
    fn vp8_frame_is_a_shown_keyframe_of_8x8() {
        let tag = u32::from_le_bytes([VP8_KEYFRAME[0], VP8_KEYFRAME[1], VP8_KEYFRAME[2], 0]);
        let (is_inter, version, is_shown, first_partition) =
            (tag & 1, tag >> 1 & 7, tag >> 4 & 1, (tag >> 5) as usize);
        assert_eq!((is_inter, version, is_shown), (0, 0, 1));
        assert_eq!(VP8_KEYFRAME[3..6], [0x9d, 0x01, 0x2a]);
        assert_eq!(VP8_KEYFRAME[6..10], [8, 0, 8, 0]);
        assert!(10 + first_partition < VP8_KEYFRAME.len());
    }

    /// RFC 6716 section 3.1: configuration 31, mono, one frame.
    #[test]
    fn opus_frame_is_20_ms_of_one_channel() {
        let toc = OPUS_SILENCE[0];
        assert_eq!((toc >> 3, toc >> 2 & 1, toc & 3), (31, 0, 0));
    }

    #[test]
    fn h264_units_are_parameter_sets_and_a_keyframe() {
        let types: Vec<u8> = H264_KEYFRAME.iter().map(|unit| unit[0] & 0x1f).collect();
        assert_eq!(types, [7, 8, 5]);
        assert_eq!(H264_KEYFRAME[0][1], 66, "baseline");
        assert!(h264::is_keyframe(H264_KEYFRAME[2]));
    }
}
