//! RTCP: compound packets taken apart and built (RFC 3550 section 6, RFC 4585, RFC 5104, REMB and transport-wide
//! feedback drafts).
//!
//! Values borrow from the packet; nothing is allocated when reading, and builders append to the caller's buffer.
//! Not here: SRTCP, report intervals, what to do about a report.

use super::{ParseError, read_u16, read_u32};
use crate::congestion::twcc::TwccFeedback;

/// One packet of a compound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rtcp<'a> {
    /// SR.
    SenderReport {
        /// What the sender says of its own stream.
        info: SenderInfo,
        /// What it says of the streams it receives.
        reports: ReportBlocks<'a>,
    },
    /// RR.
    ReceiverReport {
        /// Who reports.
        sender_ssrc: u32,
        /// What it says of the streams it receives.
        reports: ReportBlocks<'a>,
    },
    /// SDES, of which only canonical names are read.
    Sdes(CanonicalNames<'a>),
    /// BYE: the sources that end.
    Goodbye(Ssrcs<'a>),
    /// Generic NACK (RFC 4585 section 6.2.1).
    Nack {
        /// Who asks.
        sender_ssrc: u32,
        /// The stream with the gaps.
        media_ssrc: u32,
        /// What is missing.
        lost: LostSequences<'a>,
    },
    /// Picture loss indication (RFC 4585 section 6.3.1).
    Pli {
        /// Who asks.
        sender_ssrc: u32,
        /// The stream that needs a keyframe.
        media_ssrc: u32,
    },
    /// Full intra request (RFC 5104 section 4.3.1).
    Fir {
        /// Who asks.
        sender_ssrc: u32,
        /// Which streams need a keyframe.
        requests: FirRequests<'a>,
    },
    /// Receiver estimated maximum bitrate (draft-alvestrand-rmcat-remb).
    Remb {
        /// Who reports.
        sender_ssrc: u32,
        /// Bits per second.
        bitrate_bps: u64,
        /// The streams it is for.
        ssrcs: Ssrcs<'a>,
    },
    /// Transport-wide congestion control feedback.
    Twcc(TwccFeedback<'a>),
    /// Anything else that is well formed: XR, APP, other feedback.
    Other {
        /// RTCP packet type.
        packet_type: u8,
        /// The count or format field.
        count: u8,
        /// What follows the 4-byte header, padding removed.
        body: &'a [u8],
    },
}

/// The sender's own part of a sender report (RFC 3550 section 6.4.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SenderInfo {
    /// The stream reported on.
    pub ssrc: u32,
    /// Wall clock, 32.32 fixed-point seconds since 1900.
    pub ntp_time: u64,
    /// The same moment on the stream's media clock.
    pub rtp_timestamp: u32,
    /// Packets sent so far.
    pub packet_count: u32,
    /// Payload bytes sent so far.
    pub octet_count: u32,
}

impl SenderInfo {
    /// The middle 32 bits of the wall clock, as a report block's `last_sr` quotes them.
    pub fn compact_ntp(&self) -> u32 {
        (self.ntp_time >> 16) as u32
    }
}

/// What a receiver says of one stream (RFC 3550 section 6.4.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReportBlock {
    /// The stream reported on.
    pub ssrc: u32,
    /// Share lost since the last report, in 1/256.
    pub fraction_lost: u8,
    /// Packets lost so far; 24 bits, negative with duplicates.
    pub cumulative_lost: i32,
    /// Highest sequence number received, with cycles in the upper 16 bits.
    pub highest_sequence: u32,
    /// Interarrival jitter in units of the media clock.
    pub jitter: u32,
    /// Compact time of the last sender report received, 0 for none.
    pub last_sr: u32,
    /// Time since then, in 1/65,536 s.
    pub delay_since_last_sr: u32,
}

/// One entry of a full intra request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirRequest {
    /// The stream that needs a keyframe.
    pub ssrc: u32,
    /// Command number; a repeat of a request keeps it.
    pub number: u8,
}

/// Takes a compound packet apart. After an error there is nothing more.
#[derive(Debug, Clone)]
pub struct RtcpPackets<'a> {
    rest: &'a [u8],
}

impl<'a> RtcpPackets<'a> {
    /// The packets of a decrypted compound.
    pub fn new(compound: &'a [u8]) -> Self {
        Self { rest: compound }
    }
}

impl<'a> Iterator for RtcpPackets<'a> {
    type Item = Result<Rtcp<'a>, ParseError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let result = split_first(self.rest).and_then(|(first, count, packet_type, body, rest)| {
            self.rest = rest;
            debug_assert!(first >> 6 == 2);
            parse_one(count, packet_type, body)
        });
        if result.is_err() {
            self.rest = &[];
        }
        Some(result)
    }
}

type Split<'a> = (u8, u8, u8, &'a [u8], &'a [u8]);

fn split_first(bytes: &[u8]) -> Result<Split<'_>, ParseError> {
    let [first, packet_type, _, _] = *bytes.first_chunk().ok_or(ParseError::Truncated)?;
    if first >> 6 != 2 {
        return Err(ParseError::Version);
    }
    let words = read_u16(bytes, 2).ok_or(ParseError::Truncated)?;
    let end = 4 + 4 * usize::from(words);
    let mut body = bytes.get(4..end).ok_or(ParseError::Truncated)?;
    if first & 0x20 != 0 {
        let count = usize::from(*body.last().ok_or(ParseError::Padding)?);
        if count == 0 || count > body.len() {
            return Err(ParseError::Padding);
        }
        body = &body[..body.len() - count];
    }
    Ok((first, first & 0x1f, packet_type, body, &bytes[end..]))
}

fn parse_one(count: u8, packet_type: u8, body: &[u8]) -> Result<Rtcp<'_>, ParseError> {
    let word = |at: usize| read_u32(body, 4 * at).ok_or(ParseError::Truncated);
    match (packet_type, count) {
        (SENDER_REPORT, _) => Ok(Rtcp::SenderReport {
            info: SenderInfo {
                ssrc: word(0)?,
                ntp_time: u64::from(word(1)?) << 32 | u64::from(word(2)?),
                rtp_timestamp: word(3)?,
                packet_count: word(4)?,
                octet_count: word(5)?,
            },
            reports: ReportBlocks(entries(body, 24, REPORT_BLOCK_LEN, count)?),
        }),
        (RECEIVER_REPORT, _) => Ok(Rtcp::ReceiverReport {
            sender_ssrc: word(0)?,
            reports: ReportBlocks(entries(body, 4, REPORT_BLOCK_LEN, count)?),
        }),
        (SOURCE_DESCRIPTION, _) => Ok(Rtcp::Sdes(CanonicalNames {
            rest: body,
            chunks: count,
        })),
        (GOODBYE, _) => Ok(Rtcp::Goodbye(Ssrcs(entries(body, 0, 4, count)?))),
        (TRANSPORT_FEEDBACK, NACK) => Ok(Rtcp::Nack {
            sender_ssrc: word(0)?,
            media_ssrc: word(1)?,
            lost: LostSequences {
                entries: &body[8..],
                base: 0,
                mask: 0,
            },
        }),
        (TRANSPORT_FEEDBACK, TWCC) => TwccFeedback::parse(body).map(Rtcp::Twcc),
        (PAYLOAD_FEEDBACK, PLI) => Ok(Rtcp::Pli {
            sender_ssrc: word(0)?,
            media_ssrc: word(1)?,
        }),
        (PAYLOAD_FEEDBACK, FIR) => {
            word(1)?;
            Ok(Rtcp::Fir {
                sender_ssrc: word(0)?,
                requests: FirRequests(&body[8..]),
            })
        }
        (PAYLOAD_FEEDBACK, APPLICATION_LAYER) if body.get(8..12) == Some(REMB) => {
            let [ssrcs, high, middle, low] = word(3)?.to_be_bytes();
            let mantissa = u64::from(u32::from_be_bytes([0, high & 0x03, middle, low]));
            Ok(Rtcp::Remb {
                sender_ssrc: word(0)?,
                // 18 bits shifted by up to 63: what does not fit is as good as unlimited.
                bitrate_bps: mantissa.saturating_mul(1 << (high >> 2)),
                ssrcs: Ssrcs(entries(body, 16, 4, ssrcs)?),
            })
        }
        _ => Ok(Rtcp::Other {
            packet_type,
            count,
            body,
        }),
    }
}

fn entries(body: &[u8], start: usize, length: usize, count: u8) -> Result<&[u8], ParseError> {
    body.get(start..start + length * usize::from(count))
        .ok_or(ParseError::Length)
}

/// The report blocks of an SR or RR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportBlocks<'a>(&'a [u8]);

impl Iterator for ReportBlocks<'_> {
    type Item = ReportBlock;

    fn next(&mut self) -> Option<ReportBlock> {
        let (block, rest) = self.0.split_at_checked(REPORT_BLOCK_LEN)?;
        self.0 = rest;
        let loss = read_u32(block, 4)?;
        Some(ReportBlock {
            ssrc: read_u32(block, 0)?,
            fraction_lost: (loss >> 24) as u8,
            // Shifted up and back to spread the sign of 24 bits.
            cumulative_lost: (loss << 8) as i32 >> 8,
            highest_sequence: read_u32(block, 8)?,
            jitter: read_u32(block, 12)?,
            last_sr: read_u32(block, 16)?,
            delay_since_last_sr: read_u32(block, 20)?,
        })
    }
}

/// A list of synchronization sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ssrcs<'a>(&'a [u8]);

impl Iterator for Ssrcs<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let (ssrc, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*ssrc))
    }
}

/// The entries of a full intra request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirRequests<'a>(&'a [u8]);

impl Iterator for FirRequests<'_> {
    type Item = FirRequest;

    fn next(&mut self) -> Option<FirRequest> {
        let (entry, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(FirRequest {
            ssrc: read_u32(entry, 0)?,
            number: entry[4],
        })
    }
}

/// The sequence numbers of a NACK, each at most once per entry, as the sender ordered them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LostSequences<'a> {
    entries: &'a [u8],
    base: u16,
    mask: u16,
}

impl Iterator for LostSequences<'_> {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        if self.mask == 0 {
            let (entry, rest) = self.entries.split_first_chunk::<4>()?;
            self.entries = rest;
            self.base = u16::from_be_bytes([entry[0], entry[1]]);
            self.mask = u16::from_be_bytes([entry[2], entry[3]]);
            return Some(self.base);
        }
        let bit = self.mask.trailing_zeros() as u16;
        self.mask &= self.mask.wrapping_sub(1);
        Some(self.base.wrapping_add(bit + 1))
    }
}

/// The canonical names of a source description, each with its source. Malformed rests are skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CanonicalNames<'a> {
    rest: &'a [u8],
    chunks: u8,
}

impl<'a> Iterator for CanonicalNames<'a> {
    type Item = (u32, &'a str);

    fn next(&mut self) -> Option<(u32, &'a str)> {
        while self.chunks > 0 {
            self.chunks -= 1;
            let ssrc = read_u32(self.rest, 0)?;
            let mut at = 4;
            let mut name = None;
            loop {
                match *self.rest.get(at)? {
                    0 => break,
                    item => {
                        let length = usize::from(*self.rest.get(at + 1)?);
                        let text = self.rest.get(at + 2..at + 2 + length)?;
                        if item == CNAME && name.is_none() {
                            name = std::str::from_utf8(text).ok();
                        }
                        at += 2 + length;
                    }
                }
            }
            // The list ends with at least one zero and fills a word (RFC 3550 section 6.5).
            self.rest = self
                .rest
                .get((at + 1).next_multiple_of(4)..)
                .unwrap_or_default();
            if let Some(name) = name {
                return Some((ssrc, name));
            }
        }
        None
    }
}

/// Appends an SR with up to 31 report blocks; more are left out.
pub fn write_sender_report(out: &mut Vec<u8>, info: &SenderInfo, reports: &[ReportBlock]) {
    let reports = &reports[..reports.len().min(31)];
    let start = begin(out, reports.len() as u8, SENDER_REPORT);
    out.extend_from_slice(&info.ssrc.to_be_bytes());
    out.extend_from_slice(&info.ntp_time.to_be_bytes());
    out.extend_from_slice(&info.rtp_timestamp.to_be_bytes());
    out.extend_from_slice(&info.packet_count.to_be_bytes());
    out.extend_from_slice(&info.octet_count.to_be_bytes());
    write_blocks(out, reports);
    finish(out, start);
}

/// Appends an RR with up to 31 report blocks; more are left out.
pub fn write_receiver_report(out: &mut Vec<u8>, sender_ssrc: u32, reports: &[ReportBlock]) {
    let reports = &reports[..reports.len().min(31)];
    let start = begin(out, reports.len() as u8, RECEIVER_REPORT);
    out.extend_from_slice(&sender_ssrc.to_be_bytes());
    write_blocks(out, reports);
    finish(out, start);
}

/// Appends an SDES with one canonical name, cut to 255 bytes.
pub fn write_sdes_cname(out: &mut Vec<u8>, ssrc: u32, cname: &str) {
    let text = &cname.as_bytes()[..cname.floor_char_boundary(255)];
    let start = begin(out, 1, SOURCE_DESCRIPTION);
    out.extend_from_slice(&ssrc.to_be_bytes());
    out.extend_from_slice(&[CNAME, text.len() as u8]);
    out.extend_from_slice(text);
    out.push(0);
    finish(out, start);
}

/// Appends a BYE for up to 31 sources; more are left out.
pub fn write_goodbye(out: &mut Vec<u8>, ssrcs: &[u32]) {
    let ssrcs = &ssrcs[..ssrcs.len().min(31)];
    let start = begin(out, ssrcs.len() as u8, GOODBYE);
    for ssrc in ssrcs {
        out.extend_from_slice(&ssrc.to_be_bytes());
    }
    finish(out, start);
}

/// Appends a generic NACK for `lost`, which should ascend so that numbers share entries. Nothing for an empty list.
pub fn write_nack(out: &mut Vec<u8>, sender_ssrc: u32, media_ssrc: u32, lost: &[u16]) {
    let Some((&first, rest)) = lost.split_first() else {
        return;
    };
    let start = begin_feedback(out, NACK, TRANSPORT_FEEDBACK, sender_ssrc, media_ssrc);
    let (mut base, mut mask) = (first, 0_u16);
    for &sequence in rest {
        match sequence.wrapping_sub(base) {
            0 => {}
            ahead @ 1..=16 => mask |= 1 << (ahead - 1),
            _ => {
                out.extend_from_slice(&base.to_be_bytes());
                out.extend_from_slice(&mask.to_be_bytes());
                (base, mask) = (sequence, 0);
            }
        }
    }
    out.extend_from_slice(&base.to_be_bytes());
    out.extend_from_slice(&mask.to_be_bytes());
    finish(out, start);
}

/// Appends a PLI.
pub fn write_pli(out: &mut Vec<u8>, sender_ssrc: u32, media_ssrc: u32) {
    let start = begin_feedback(out, PLI, PAYLOAD_FEEDBACK, sender_ssrc, media_ssrc);
    finish(out, start);
}

/// Appends a FIR with one entry.
pub fn write_fir(out: &mut Vec<u8>, sender_ssrc: u32, request: FirRequest) {
    // The media source of the common part is unused and zero (RFC 5104 section 4.3.1.2).
    let start = begin_feedback(out, FIR, PAYLOAD_FEEDBACK, sender_ssrc, 0);
    out.extend_from_slice(&request.ssrc.to_be_bytes());
    out.extend_from_slice(&[request.number, 0, 0, 0]);
    finish(out, start);
}

/// Appends a REMB for up to 255 streams; more are left out. The bitrate is rounded down to 18 significant bits.
pub fn write_remb(out: &mut Vec<u8>, sender_ssrc: u32, bitrate_bps: u64, ssrcs: &[u32]) {
    let ssrcs = &ssrcs[..ssrcs.len().min(255)];
    let start = begin_feedback(out, APPLICATION_LAYER, PAYLOAD_FEEDBACK, sender_ssrc, 0);
    let exponent = (64 - bitrate_bps.leading_zeros()).saturating_sub(18);
    let [_, high, middle, low] = ((bitrate_bps >> exponent) as u32).to_be_bytes();
    out.extend_from_slice(REMB);
    out.extend_from_slice(&[ssrcs.len() as u8, (exponent as u8) << 2 | high, middle, low]);
    for ssrc in ssrcs {
        out.extend_from_slice(&ssrc.to_be_bytes());
    }
    finish(out, start);
}

/// Starts a feedback packet with its common part and returns its place for [`finish`].
pub(crate) fn begin_feedback(
    out: &mut Vec<u8>,
    format: u8,
    packet_type: u8,
    sender_ssrc: u32,
    media_ssrc: u32,
) -> usize {
    let start = begin(out, format, packet_type);
    out.extend_from_slice(&sender_ssrc.to_be_bytes());
    out.extend_from_slice(&media_ssrc.to_be_bytes());
    start
}

/// Fills up the last word with zeros and writes the length.
pub(crate) fn finish(out: &mut Vec<u8>, start: usize) {
    while !(out.len() - start).is_multiple_of(4) {
        out.push(0);
    }
    let words = ((out.len() - start) / 4 - 1) as u16;
    out[start + 2..start + 4].copy_from_slice(&words.to_be_bytes());
}

fn begin(out: &mut Vec<u8>, count: u8, packet_type: u8) -> usize {
    out.extend_from_slice(&[0x80 | count, packet_type, 0, 0]);
    out.len() - 4
}

fn write_blocks(out: &mut Vec<u8>, reports: &[ReportBlock]) {
    for report in reports {
        out.extend_from_slice(&report.ssrc.to_be_bytes());
        let lost = report.cumulative_lost.clamp(-0x80_0000, 0x7f_ffff) as u32 & 0xff_ffff;
        out.extend_from_slice(&(u32::from(report.fraction_lost) << 24 | lost).to_be_bytes());
        out.extend_from_slice(&report.highest_sequence.to_be_bytes());
        out.extend_from_slice(&report.jitter.to_be_bytes());
        out.extend_from_slice(&report.last_sr.to_be_bytes());
        out.extend_from_slice(&report.delay_since_last_sr.to_be_bytes());
    }
}

const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const SOURCE_DESCRIPTION: u8 = 202;
const GOODBYE: u8 = 203;
pub(crate) const TRANSPORT_FEEDBACK: u8 = 205;
const PAYLOAD_FEEDBACK: u8 = 206;
const NACK: u8 = 1;
pub(crate) const TWCC: u8 = 15;
const PLI: u8 = 1;
const FIR: u8 = 4;
const APPLICATION_LAYER: u8 = 15;
const CNAME: u8 = 1;
const REMB: &[u8] = b"REMB";
const REPORT_BLOCK_LEN: usize = 24;

#[cfg(test)]
mod tests {
    use super::*;

    fn only(bytes: &[u8]) -> Rtcp<'_> {
        let mut packets = RtcpPackets::new(bytes);
        let first = packets.next().expect("one packet").expect("parses");
        assert_eq!(packets.next(), None);
        first
    }

    const BLOCK: ReportBlock = ReportBlock {
        ssrc: 9,
        fraction_lost: 64,
        cumulative_lost: -3,
        highest_sequence: 0x0001_ffff,
        jitter: 7,
        last_sr: 0xabcd_ef01,
        delay_since_last_sr: 65_536,
    };

    #[test]
    fn reports_round_trip() {
        let info = SenderInfo {
            ssrc: 1,
            ntp_time: 0x1122_3344_5566_7788,
            rtp_timestamp: 2,
            packet_count: 3,
            octet_count: 4,
        };
        assert_eq!(info.compact_ntp(), 0x3344_5566);
        let other = ReportBlock {
            cumulative_lost: 0x7f_ffff,
            ..BLOCK
        };
        let mut out = Vec::new();
        write_sender_report(&mut out, &info, &[BLOCK, other]);
        let Rtcp::SenderReport {
            info: read,
            reports,
        } = only(&out)
        else {
            panic!("not a sender report")
        };
        assert_eq!(
            (read, reports.collect::<Vec<_>>()),
            (info, vec![BLOCK, other])
        );
        out.clear();
        write_receiver_report(&mut out, 5, &[BLOCK]);
        let Rtcp::ReceiverReport {
            sender_ssrc: 5,
            reports,
        } = only(&out)
        else {
            panic!("not a receiver report")
        };
        assert_eq!(reports.collect::<Vec<_>>(), [BLOCK]);
    }

    #[test]
    fn canonical_names_round_trip_at_every_length() {
        for length in 0..8 {
            let name = "abcdefgh"[..length].to_owned();
            let mut out = Vec::new();
            write_sdes_cname(&mut out, 7, &name);
            let Rtcp::Sdes(names) = only(&out) else {
                panic!("not a description")
            };
            assert_eq!(names.collect::<Vec<_>>(), [(7, &*name)]);
        }
        let two = [
            0x82, 202, 0, 4, 0, 0, 0, 1, 2, 1, b'x', 0, 0, 0, 0, 2, 1, 1, b'y', 0,
        ];
        let Rtcp::Sdes(names) = only(&two) else {
            panic!("not a description")
        };
        assert_eq!(names.collect::<Vec<_>>(), [(2, "y")]);
    }

    #[test]
    fn nack_packs_neighbors_and_round_trips_across_the_wrap() {
        let lost = [65_534, 65_535, 14, 15, 400];
        let mut out = Vec::new();
        write_nack(&mut out, 1, 2, &lost);
        assert_eq!(out.len(), 12 + 3 * 4);
        let Rtcp::Nack {
            sender_ssrc: 1,
            media_ssrc: 2,
            lost: read,
        } = only(&out)
        else {
            panic!("not a NACK")
        };
        assert_eq!(read.collect::<Vec<_>>(), lost);
        out.clear();
        write_nack(&mut out, 1, 2, &[]);
        assert_eq!(out, []);
    }

    #[test]
    fn keyframe_requests_round_trip() {
        let mut out = Vec::new();
        write_pli(&mut out, 1, 2);
        assert_eq!(
            only(&out),
            Rtcp::Pli {
                sender_ssrc: 1,
                media_ssrc: 2
            }
        );
        out.clear();
        let request = FirRequest {
            ssrc: 3,
            number: 255,
        };
        write_fir(&mut out, 1, request);
        let Rtcp::Fir {
            sender_ssrc: 1,
            requests,
        } = only(&out)
        else {
            panic!("not a FIR")
        };
        assert_eq!(requests.collect::<Vec<_>>(), [request]);
    }

    #[test]
    fn bitrate_keeps_eighteen_significant_bits() {
        for (given, read) in [
            (0, 0),
            (262_143, 262_143),
            (262_145, 262_144),
            (2_500_000, 2_500_000),
        ] {
            let mut out = Vec::new();
            write_remb(&mut out, 1, given, &[4, 5]);
            let Rtcp::Remb {
                bitrate_bps, ssrcs, ..
            } = only(&out)
            else {
                panic!("not a REMB")
            };
            assert_eq!((bitrate_bps, ssrcs.collect::<Vec<_>>()), (read, vec![4, 5]));
        }
        let huge = [
            0x8f, 206, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0, b'R', b'E', b'M', b'B', 0, 0xff, 0xff, 0xff,
        ];
        let Rtcp::Remb { bitrate_bps, .. } = only(&huge) else {
            panic!("not a REMB")
        };
        assert_eq!(bitrate_bps, u64::MAX);
    }

    #[test]
    fn compound_is_taken_apart_in_order() {
        let mut out = Vec::new();
        write_receiver_report(&mut out, 5, &[]);
        write_goodbye(&mut out, &[6, 7]);
        out.extend_from_slice(&[0xa0, 204, 0, 2, 1, 2, 3, 4, 0, 0, 0, 4]);
        let packets: Vec<_> = RtcpPackets::new(&out)
            .map(|packet| packet.expect("parses"))
            .collect();
        assert!(matches!(
            packets[0],
            Rtcp::ReceiverReport { sender_ssrc: 5, .. }
        ));
        let Rtcp::Goodbye(ssrcs) = packets[1] else {
            panic!("not a goodbye")
        };
        assert_eq!(ssrcs.collect::<Vec<_>>(), [6, 7]);
        assert_eq!(
            packets[2],
            Rtcp::Other {
                packet_type: 204,
                count: 0,
                body: &[1, 2, 3, 4]
            }
        );
        assert_eq!(packets.len(), 3);
    }

    #[test]
    fn malformed_packets_end_the_compound() {
        let cases: &[(&[u8], ParseError)] = &[
            (&[0x80], ParseError::Truncated),
            (&[0x40, 200, 0, 0], ParseError::Version),
            (&[0x80, 201, 0, 1], ParseError::Truncated),
            (&[0x80, 200, 0, 1, 0, 0, 0, 1], ParseError::Truncated),
            (&[0x81, 201, 0, 1, 0, 0, 0, 1], ParseError::Length),
            (&[0x82, 203, 0, 1, 0, 0, 0, 1], ParseError::Length),
            (&[0x81, 205, 0, 1, 0, 0, 0, 1], ParseError::Truncated),
            (&[0x84, 206, 0, 1, 0, 0, 0, 1], ParseError::Truncated),
            (&[0xa0, 204, 0, 0], ParseError::Padding),
            (&[0xa0, 204, 0, 1, 0, 0, 0, 5], ParseError::Padding),
            (&[0xa0, 204, 0, 1, 0, 0, 0, 0], ParseError::Padding),
            (
                &[
                    0x8f, 206, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0, b'R', b'E', b'M', b'B', 1, 0, 0, 0,
                ],
                ParseError::Length,
            ),
        ];
        for (bytes, error) in cases {
            let packets: Vec<_> = RtcpPackets::new(bytes).collect();
            assert_eq!(packets, [Err(*error)], "{bytes:02x?}");
        }
    }
}
