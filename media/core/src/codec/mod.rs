//! Payload formats, as far as forwarding reads or rewrites them: is this a keyframe, which layer, which numbers.
//!
//! Not here: decoding, packetizing, and whole bitstreams. Every function takes any bytes, allocates nothing and
//! answers none or false for what it does not understand.

pub mod av1;
pub mod blank;
pub mod dependency;
pub mod h264;
pub mod h265;
pub mod red;
pub mod trailer;
pub mod vp8;
pub mod vp9;

/// The video payload formats we can look into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[allow(missing_docs, reason = "each is the format of its name")]
pub enum VideoCodec {
    Vp8,
    Vp9,
    H264,
    H265,
    Av1,
}

impl VideoCodec {
    /// The format of a media type such as `video/VP8`, in any case.
    pub fn from_mime(mime: &str) -> Option<Self> {
        let (kind, name) = mime.split_once('/')?;
        if !kind.eq_ignore_ascii_case("video") {
            return None;
        }
        [
            ("VP8", Self::Vp8),
            ("VP9", Self::Vp9),
            ("H264", Self::H264),
            ("H265", Self::H265),
            ("AV1", Self::Av1),
        ]
        .into_iter()
        .find_map(|(known, codec)| name.eq_ignore_ascii_case(known).then_some(codec))
    }
}

/// Whether a decoder can start at the picture whose first packet has this payload.
pub fn is_keyframe(codec: VideoCodec, payload: &[u8]) -> bool {
    match codec {
        VideoCodec::Vp8 => vp8::parse_vp8(payload).is_some_and(|descriptor| descriptor.keyframe),
        VideoCodec::Vp9 => {
            vp9::parse_vp9(payload).is_some_and(|descriptor| descriptor.is_keyframe())
        }
        VideoCodec::H264 => h264::is_keyframe(payload),
        VideoCodec::H265 => h265::is_keyframe(payload),
        VideoCodec::Av1 => av1::is_keyframe(payload),
    }
}

/// A picture id of 7 or 15 bits, in the width the sender chose (RFC 7741 section 4.2, RFC 9628 section 4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PictureId {
    /// The number.
    pub value: u16,
    /// Whether it takes two bytes and 15 bits.
    pub long: bool,
}

impl PictureId {
    /// Reads the one or two bytes at `at`.
    fn parse(payload: &[u8], at: usize) -> Option<Self> {
        let first = *payload.get(at)?;
        if first & 0x80 == 0 {
            return Some(Self {
                value: u16::from(first),
                long: false,
            });
        }
        let second = *payload.get(at + 1)?;
        Some(Self {
            value: u16::from(first & 0x7f) << 8 | u16::from(second),
            long: true,
        })
    }

    /// Bytes it takes.
    #[allow(clippy::len_without_is_empty, reason = "a width, never zero")]
    pub fn len(self) -> usize {
        if self.long { 2 } else { 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_are_known_in_any_case() {
        assert_eq!(VideoCodec::from_mime("video/VP8"), Some(VideoCodec::Vp8));
        assert_eq!(VideoCodec::from_mime("Video/av1"), Some(VideoCodec::Av1));
        assert_eq!(VideoCodec::from_mime("audio/VP8"), None);
        assert_eq!(VideoCodec::from_mime("VP8"), None);
    }

    #[test]
    fn keyframe_is_found_by_each_format() {
        let cases: &[(VideoCodec, &[u8], &[u8])] = &[
            (VideoCodec::Vp8, &[0x10, 0x00], &[0x10, 0x01]),
            (VideoCodec::Vp9, &[0x08], &[0x48]),
            (VideoCodec::H264, &[0x65], &[0x61]),
            (VideoCodec::H265, &[19 << 1, 1], &[1 << 1, 1]),
            (VideoCodec::Av1, &[0x18], &[0x10, 0x30]),
        ];
        for (codec, keyframe, other) in cases {
            assert!(is_keyframe(*codec, keyframe), "{codec:?}");
            assert!(!is_keyframe(*codec, other), "{codec:?}");
            assert!(!is_keyframe(*codec, &[]), "{codec:?}");
        }
    }
}
