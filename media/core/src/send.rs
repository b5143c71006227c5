//! The outbound list: forward → pacing point → repair memory → header extensions → srtp → outbox.
//!
//! A packet waits here as a reference to the published one and its numbers, about a hundred bytes; it becomes bytes
//! only when the pacing point lets it go: the header is written and the payload sealed straight into the outgoing run.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::codec::dependency::shift_frame_number;
use crate::codec::vp8::Vp8Descriptor;
use crate::command::SenderConfig;
use crate::congestion::twcc::TwccHistory;
use crate::forward::{Body, EncodingView, Forwarder, Rewrite, Wish};
use crate::ids::SenderId;
use crate::inject::Injection;
use crate::packet::extensions::{ExtensionIds, ExtensionValues, PlayoutDelay, ShortText};
use crate::packet::rtcp::{self, ReportBlock, SenderInfo};
use crate::packet::rtp::{FIXED_HEADER_LEN, RtpHeader};
use crate::published::{CodecKind, PublishedPacket};
use crate::receive::RtpReceiver;
use crate::rtx::RtxCache;
use crate::sequence;
use crate::shard::{SENDER_REPORT_INTERVAL, Transmit, ns_to_ntp};
use crate::srtp::SrtpSender;
use crate::stats::SenderStats;

/// A track going out on one peer connection (W3C: RTCRtpSender).
pub(crate) struct RtpSender {
    pub(crate) id: SenderId,
    /// Slot of its peer connection.
    pub(crate) pc: usize,
    pub(crate) config: SenderConfig,
    /// Slot of the track it forwards, while that is here.
    pub(crate) track: Option<usize>,
    /// By the track's codecs: under which payload types they go out.
    codecs: Vec<Option<OutgoingCodec>>,
    opus: Option<OutgoingCodec>,
    mid: Option<ShortText>,
    /// What the peer connection's bandwidth lets it have of its wish; None: all of it.
    pub(crate) ceiling: Option<Wish>,
    pub(crate) forwarder: Forwarder,
    pub(crate) cache: RtxCache<SentPacket>,
    pub(crate) rtx_sequence: u64,
    pub(crate) counts: SenderCounts,
    /// Middle of the NTP time of the latest reports, and when they were sent.
    reports: VecDeque<(u32, Instant)>,
    next_report: Option<Instant>,
    /// Frames made here that are on their way.
    pub(crate) injection: Option<Injection>,
    /// It has no id any more, and is gone with its last frame.
    pub(crate) is_ending: bool,
    /// Payload types of RED made here.
    red: Option<OutgoingCodec>,
    playout_delay: Option<PlayoutDelay>,
    playout: Playout,
}

/// Whether the far side knows its playout delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Playout {
    Untold,
    /// In every packet from this number on.
    Told(u16),
    Known,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OutgoingCodec {
    payload_type: u8,
    rtx_payload_type: Option<u8>,
    nack: bool,
}

/// Totals of a sender.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SenderCounts {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    pub(crate) payload_bytes: u64,
    pub(crate) retransmitted: u64,
    pub(crate) nacks_received: u64,
    pub(crate) keyframe_requests_received: u64,
    pub(crate) fraction_lost: f64,
    pub(crate) rtt: Option<Duration>,
}

/// What must be known to send a packet again.
#[derive(Clone, Debug)]
pub(crate) struct SentPacket {
    packet: Arc<PublishedPacket>,
    rewrite: Rewrite,
    /// A plain repeat must equal the first sending bit by bit: the same index under other bytes breaks the cipher.
    transport_cc: u16,
    abs_send_time: u32,
    tells_playout: bool,
}

/// A packet on its way to the pacing point.
#[derive(Debug)]
pub(crate) struct Outgoing {
    packet: Arc<PublishedPacket>,
    rewrite: Rewrite,
    sender: u32,
    form: Form,
}

#[derive(Clone, Copy, Debug)]
enum Form {
    Media,
    /// RFC 4588: own SSRC and numbers.
    Rtx {
        sequence: u64,
    },
    Repeat {
        transport_cc: u16,
        abs_send_time: u32,
        tells_playout: bool,
    },
}

/// Decides how many of the waiting packets may go now. The first one lets all pass.
#[derive(Debug, Default)]
pub(crate) struct Pacer;

impl Pacer {
    fn release(&mut self, waiting: usize, now: Instant) -> usize {
        let _ = now;
        waiting
    }
}

/// What waits to be sent on one peer connection, and its plan for the wire.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: VecDeque<Outgoing>,
    pacer: Pacer,
    plan: Vec<Planned>,
    runs: Vec<Run>,
}

#[derive(Clone, Copy, Debug)]
struct Planned {
    run: u16,
    index: u16,
    length: u16,
}

/// Datagrams that leave as one: all of the same size but the last.
#[derive(Clone, Copy, Debug)]
struct Run {
    segment: u16,
    count: u16,
    bytes: u32,
    is_closed: bool,
    /// One bit per SSRC hash: who is in it.
    members: u64,
}

impl Run {
    /// What the kernel takes at once (UDP_MAX_SEGMENTS) and what fits one datagram's length field.
    const MAX_SEGMENTS: u16 = 64;
    const MAX_BYTES: u32 = 64_000;

    fn takes(&self, length: u16) -> bool {
        !self.is_closed
            && self.count < Self::MAX_SEGMENTS
            && self.bytes + u32::from(length) <= Self::MAX_BYTES
    }

    fn add(&mut self, length: u16, member: u64) {
        self.count += 1;
        self.bytes += u32::from(length);
        self.members |= member;
        self.is_closed |= length < self.segment;
    }
}

/// Where and under which keys a peer connection sends, and what remembers it.
pub(crate) struct Way<'a> {
    pub(crate) socket: usize,
    pub(crate) destination: SocketAddr,
    pub(crate) srtp: &'a mut SrtpSender,
    pub(crate) history: &'a mut TwccHistory,
    /// Extensions are in 6.18 fixed-point seconds.
    pub(crate) abs_send_time: u32,
    pub(crate) buffers: &'a mut Vec<Vec<u8>>,
    pub(crate) transmits: &'a mut VecDeque<Transmit>,
    pub(crate) packets_out: &'a mut u64,
}

impl RtpSender {
    pub(crate) fn new(
        id: SenderId,
        pc: usize,
        config: SenderConfig,
        forwarder: Forwarder,
        rtx_sequence: u16,
        cache: RtxCache<SentPacket>,
    ) -> Self {
        Self {
            id,
            pc,
            track: None,
            codecs: Vec::new(),
            opus: None,
            mid: ShortText::new(config.mid.as_bytes()),
            injection: None,
            is_ending: false,
            red: None,
            playout_delay: config.playout_delay.map(|(min, max)| PlayoutDelay {
                min: min / PLAYOUT_UNIT_MS,
                max: max / PLAYOUT_UNIT_MS,
            }),
            playout: Playout::Untold,
            config,
            ceiling: None,
            forwarder,
            cache,
            rtx_sequence: u64::from(rtx_sequence),
            counts: SenderCounts::default(),
            reports: VecDeque::new(),
            next_report: None,
        }
    }

    /// Matches the track's codecs with what the far side accepts.
    pub(crate) fn bind(&mut self, slot: usize, track: &RtpReceiver) {
        let find = |mime: &str| {
            self.config
                .codecs
                .iter()
                .find(|codec| codec.mime.eq_ignore_ascii_case(mime))
                .map(|codec| OutgoingCodec {
                    payload_type: codec.payload_type,
                    rtx_payload_type: codec.rtx_payload_type,
                    nack: codec.nack,
                })
        };
        let codecs: Vec<_> = track
            .config
            .codecs
            .iter()
            .map(|codec| find(&codec.mime))
            .collect();
        self.opus = find("audio/opus");
        // Nobody may make RED of what is encrypted.
        let makes_red =
            self.config.encode_red && self.config.sif_trailer.is_empty() && self.opus.is_some();
        self.red = makes_red.then(|| find("audio/red")).flatten();
        if self.codecs != codecs {
            // What was sent is known by the old indices.
            self.cache.clear();
            self.codecs = codecs;
        }
        self.injection = None;
        let takes_red = find("audio/red").is_some();
        self.track = Some(slot);
        self.forwarder
            .bind(track.config.kind, track.clock_rate(), takes_red);
    }

    pub(crate) fn unbind(&mut self) {
        self.track = None;
        self.forwarder.unbind();
    }

    /// Whether it wants packets other than as they came.
    pub(crate) fn wants_variants(&self) -> bool {
        self.config.strip_trailer || self.red.is_some()
    }

    /// Payload type of the blocks of RED made here; None when it gets none.
    pub(crate) fn red_blocks(&self) -> Option<u8> {
        self.red.and(self.opus).map(|opus| opus.payload_type)
    }

    /// Whether the far side accepts Opus.
    pub(crate) fn sends_opus(&self) -> bool {
        self.opus.is_some()
    }

    /// The far side has packets up to this number.
    pub(crate) fn note_arrived(&mut self, highest: u16) {
        if let Playout::Told(since) = self.playout
            && sequence::difference(highest, since) >= 0
        {
            self.playout = Playout::Known;
        }
    }

    /// New SRTP keys: indices begin anew, and what went out under the old keys cannot be repeated.
    pub(crate) fn restart(&mut self) {
        self.forwarder.reset_rollover();
        self.rtx_sequence &= 0xffff;
        self.cache.clear();
        self.reports.clear();
        self.playout = Playout::Untold;
    }

    /// Whether this packet can go out at all: its codec is accepted, or RED's primary block is.
    pub(crate) fn accepts(&self, packet: &PublishedPacket) -> bool {
        self.codec(packet, packet.kind == CodecKind::Red).is_some()
    }

    fn codec(&self, packet: &PublishedPacket, may_unwrap: bool) -> Option<OutgoingCodec> {
        let own = self.codec_at(packet.codec);
        own.or(if may_unwrap { self.opus } else { None })
    }

    fn codec_at(&self, index: u8) -> Option<OutgoingCodec> {
        codec_at(&self.codecs, self.red, index)
    }

    /// Queues a numbered packet.
    pub(crate) fn enqueue(
        slot: usize,
        packet: &Arc<PublishedPacket>,
        rewrite: Rewrite,
        outbox: &mut Outbox,
    ) {
        outbox.queue.push_back(Outgoing {
            packet: Arc::clone(packet),
            rewrite,
            sender: slot as u32,
            form: Form::Media,
        });
    }

    /// Queues a repair of a number the far side misses; false when it is not remembered, or was sent just now.
    pub(crate) fn repair(
        &mut self,
        slot: usize,
        sequence: u16,
        now: Instant,
        outbox: &mut Outbox,
    ) -> bool {
        let rtt = self.counts.rtt.unwrap_or(DEFAULT_RTT);
        let Some(sent) = self.cache.resend(sequence, now, rtt) else {
            return false;
        };
        let codec = if sent.rewrite.unwrapped {
            self.opus
        } else {
            codec_at(&self.codecs, self.red, sent.packet.codec)
        };
        let Some(codec) = codec else { return false };
        let form = match (self.config.rtx_ssrc, codec.rtx_payload_type) {
            (Some(_), Some(_)) => {
                self.rtx_sequence += 1;
                Form::Rtx {
                    sequence: self.rtx_sequence,
                }
            }
            _ => Form::Repeat {
                transport_cc: sent.transport_cc,
                abs_send_time: sent.abs_send_time,
                tells_playout: sent.tells_playout,
            },
        };
        outbox.queue.push_back(Outgoing {
            packet: Arc::clone(&sent.packet),
            rewrite: sent.rewrite,
            sender: slot as u32,
            form,
        });
        true
    }

    /// Appends a sender report if one is due and anything was sent (RFC 3550 section 6.4.1).
    pub(crate) fn report(
        &mut self,
        now: Instant,
        wall_ns: u64,
        views: &[EncodingView],
        out: &mut Vec<u8>,
    ) {
        if self.next_report.is_some_and(|due| now < due) || self.counts.packets == 0 {
            return;
        }
        let Some(rtp_timestamp) = self.forwarder.timestamp_at(views, wall_ns) else {
            return;
        };
        self.next_report = Some(now + SENDER_REPORT_INTERVAL);
        let info = SenderInfo {
            ssrc: self.config.ssrc,
            ntp_time: ns_to_ntp(wall_ns),
            rtp_timestamp,
            packet_count: self.counts.packets as u32,
            octet_count: self.counts.payload_bytes as u32,
        };
        if self.reports.len() >= REPORTS_REMEMBERED {
            self.reports.pop_front();
        }
        self.reports.push_back((info.compact_ntp(), now));
        rtcp::write_sender_report(out, &info, &[]);
        rtcp::write_sdes_cname(out, self.config.ssrc, &self.config.cname);
    }

    /// Round trip by a block that quotes one of our reports.
    pub(crate) fn round_trip(&self, block: &ReportBlock, now: Instant) -> Option<Duration> {
        let (_, sent) = self
            .reports
            .iter()
            .find(|(compact, _)| block.last_sr != 0 && *compact == block.last_sr)?;
        let held =
            Duration::from_nanos(u64::from(block.delay_since_last_sr) * 1_000_000_000 / 65_536);
        now.saturating_duration_since(*sent).checked_sub(held)
    }

    pub(crate) fn stats(&self) -> SenderStats {
        SenderStats {
            sender: self.id,
            packets: self.counts.packets,
            bytes: self.counts.bytes,
            retransmitted: self.counts.retransmitted,
            nacks_received: self.counts.nacks_received,
            keyframe_requests_received: self.counts.keyframe_requests_received,
            fraction_lost: self.counts.fraction_lost,
            rtt: self.counts.rtt.map(|rtt| rtt.as_secs_f64()),
        }
    }

    fn extensions(
        &self,
        packet: &PublishedPacket,
        transport_cc: u16,
        abs_send_time: u32,
        playout_delay: Option<PlayoutDelay>,
    ) -> ExtensionValues {
        ExtensionValues {
            playout_delay,
            mid: self.mid,
            rid: None,
            repaired_rid: None,
            transport_cc: Some(transport_cc),
            abs_send_time: Some(abs_send_time),
            dependency_descriptor: None,
            ..packet.extensions
        }
    }

    fn is_video_descriptor_wanted(&self, packet: &PublishedPacket) -> bool {
        self.config.extensions.dependency_descriptor != 0 && !packet.descriptor.is_empty()
    }

    /// The configured playout delay until the far side knows it; without one, the publisher's.
    fn playout_delay(&self, outgoing: &Outgoing) -> Option<PlayoutDelay> {
        let Some(configured) = self.playout_delay else {
            return outgoing.packet.extensions.playout_delay;
        };
        let is_told = match outgoing.form {
            Form::Repeat { tells_playout, .. } => tells_playout,
            Form::Media | Form::Rtx { .. } => self.playout != Playout::Known,
        };
        is_told.then_some(configured)
    }

    /// Bytes of the extension block of a packet; the same that writing it gives.
    fn extension_len(&self, outgoing: &Outgoing) -> usize {
        let packet = &*outgoing.packet;
        let playout_delay = self.playout_delay(outgoing);
        let ids = &self.config.extensions;
        let values = &packet.extensions;
        let descriptor = if self.is_video_descriptor_wanted(packet) {
            packet.descriptor.len()
        } else {
            0
        };
        let elements = [
            (ids.transport_cc, 2),
            (ids.abs_send_time, 3),
            (ids.mid, self.mid.map_or(0, |mid| mid.as_bytes().len())),
            (ids.audio_level, usize::from(values.audio_level.is_some())),
            (
                ids.video_orientation,
                usize::from(values.video_orientation.is_some()),
            ),
            (
                ids.playout_delay,
                if playout_delay.is_some() { 3 } else { 0 },
            ),
            (
                ids.abs_capture_time,
                values
                    .abs_capture_time
                    .map_or(0, |time| time.as_bytes().len()),
            ),
            (ids.dependency_descriptor, descriptor),
        ];
        let present = || {
            elements
                .iter()
                .filter(|(id, length)| *id != 0 && *length != 0)
        };
        let element_header = if present().any(|(id, length)| *id > 14 || *length > 16) {
            2
        } else {
            1
        };
        let bytes: usize = present().map(|(_, length)| element_header + length).sum();
        if bytes == 0 {
            0
        } else {
            4 + bytes.next_multiple_of(4)
        }
    }
}

/// Payload types of a packet's codec.
fn codec_at(
    codecs: &[Option<OutgoingCodec>],
    red: Option<OutgoingCodec>,
    index: u8,
) -> Option<OutgoingCodec> {
    match codecs.get(usize::from(index)) {
        Some(codec) => *codec,
        None if index == PublishedPacket::MADE_RED => red,
        None => None,
    }
}

/// Unit of the playout-delay extension.
const PLAYOUT_UNIT_MS: u16 = 10;
/// Sender reports whose echo gives a round trip.
const REPORTS_REMEMBERED: usize = 8;
/// Round-trip time assumed before the first report.
const DEFAULT_RTT: Duration = Duration::from_millis(100);

impl Outbox {
    /// Whether anything waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Forgets what waits for a sender that is gone, or for keys that are gone.
    pub(crate) fn forget(&mut self, sender: Option<usize>) {
        self.queue
            .retain(|waiting| sender.is_some_and(|slot| waiting.sender as usize != slot));
    }

    /// Turns what may go now into datagrams.
    pub(crate) fn flush(
        &mut self,
        senders: &mut [Option<RtpSender>],
        way: &mut Way<'_>,
        now: Instant,
    ) {
        let released = self
            .pacer
            .release(self.queue.len(), now)
            .min(usize::from(u16::MAX));
        if released == 0 {
            return;
        }
        self.arrange(senders, released, way.srtp.profile().rtp_overhead());
        let mut at = 0;
        while let Some(first) = self.plan.get(at).copied() {
            let mut data = way.buffers.pop().unwrap_or_default();
            data.clear();
            let mut segment = 0;
            while let Some(planned) = self
                .plan
                .get(at)
                .copied()
                .filter(|planned| planned.run == first.run)
            {
                at += 1;
                let start = data.len();
                let Some(outgoing) = self.queue.get(usize::from(planned.index)) else {
                    continue;
                };
                let Some(sender) = senders
                    .get_mut(outgoing.sender as usize)
                    .and_then(Option::as_mut)
                else {
                    continue;
                };
                Self::write(outgoing, sender, way, now, &mut data);
                let length = data.len() - start;
                debug_assert_eq!(
                    length,
                    usize::from(planned.length),
                    "planned size and real size differ"
                );
                if segment == 0 {
                    segment = length;
                }
                if length != 0 {
                    *way.packets_out += 1;
                }
            }
            if data.is_empty() {
                way.buffers.push(data);
                continue;
            }
            way.transmits.push_back(Transmit {
                socket: way.socket,
                destination: way.destination,
                data,
                segment_size: segment as u16,
            });
        }
        self.queue.drain(..released);
    }

    /// Plans the runs: equal sizes together, a shorter one last, one SSRC's packets in their order.
    fn arrange(&mut self, senders: &[Option<RtpSender>], released: usize, overhead: usize) {
        self.plan.clear();
        self.runs.clear();
        for (index, outgoing) in self.queue.iter().take(released).enumerate() {
            let Some(sender) = senders
                .get(outgoing.sender as usize)
                .and_then(Option::as_ref)
            else {
                continue;
            };
            if sender.payload_type(outgoing).is_none() {
                continue;
            }
            let packet = &*outgoing.packet;
            let body = match outgoing.rewrite.body {
                Body::Whole | Body::Vp8 { .. } => packet.payload.len(),
                Body::Primary { start, end } => usize::from(end - start),
                Body::Padding => 1,
            };
            let original_number = if matches!(outgoing.form, Form::Rtx { .. }) {
                2
            } else {
                0
            };
            let length = FIXED_HEADER_LEN
                + sender.extension_len(outgoing)
                + original_number
                + body
                + overhead;
            let length = length.min(usize::from(u16::MAX)) as u16;
            let member = 1_u64 << (outgoing.sender & 63);
            let run = place(&mut self.runs, length, member);
            self.plan.push(Planned {
                run,
                index: index as u16,
                length,
            });
        }
        // A lone short packet may end the run before it.
        for at in (1..self.runs.len()).rev() {
            let (run, before) = (self.runs[at], self.runs[at - 1]);
            if run.count == 1 && run.segment < before.segment && before.takes(run.segment) {
                self.runs[at - 1].add(run.segment, run.members);
                self.runs[at].count = 0;
                for planned in &mut self.plan {
                    if usize::from(planned.run) == at {
                        planned.run = (at - 1) as u16;
                    }
                }
            }
        }
        // The moved one comes last of its run: within a run, shorter is later, and only one is shorter.
        let is_in_order = |pair: &[Planned]| {
            pair[0].run < pair[1].run
                || (pair[0].run == pair[1].run && pair[0].length >= pair[1].length)
        };
        if !self.plan.windows(2).all(is_in_order) {
            self.plan.sort_unstable_by_key(|planned| {
                (
                    planned.run,
                    std::cmp::Reverse(planned.length),
                    planned.index,
                )
            });
        }
    }

    fn write(
        outgoing: &Outgoing,
        sender: &mut RtpSender,
        way: &mut Way<'_>,
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        let packet = &*outgoing.packet;
        let rewrite = outgoing.rewrite;
        let Some(payload_type) = sender.payload_type(outgoing) else {
            return;
        };
        let has_transport_cc = sender.config.extensions.transport_cc != 0;
        let (ssrc, index, transport_cc, abs_send_time) = match outgoing.form {
            Form::Repeat {
                transport_cc,
                abs_send_time,
                ..
            } => (
                sender.config.ssrc,
                rewrite.sequence,
                transport_cc,
                abs_send_time,
            ),
            Form::Media | Form::Rtx { .. } => {
                let number = way.history.next_sequence();
                match outgoing.form {
                    Form::Rtx { sequence } => (
                        sender.config.rtx_ssrc.unwrap_or_default(),
                        sequence,
                        number,
                        way.abs_send_time,
                    ),
                    _ => (
                        sender.config.ssrc,
                        rewrite.sequence,
                        number,
                        way.abs_send_time,
                    ),
                }
            }
        };
        let playout_delay = sender.playout_delay(outgoing);
        let header = RtpHeader {
            marker: rewrite.marker,
            payload_type,
            sequence: index as u16,
            timestamp: rewrite.timestamp,
            ssrc,
            // Sets the padding bit.
            padding_len: usize::from(rewrite.body == Body::Padding),
            extensions: sender.extensions(packet, transport_cc, abs_send_time, playout_delay),
            ..RtpHeader::default()
        };
        let start = out.len();
        let ids: &ExtensionIds = &sender.config.extensions;
        let mut shifted = [0; u8::MAX as usize];
        let descriptor: &[u8] = if !sender.is_video_descriptor_wanted(packet) {
            &[]
        } else if let Some(copy) = shifted
            .get_mut(..packet.descriptor.len())
            .filter(|_| rewrite.frame_offset != 0)
        {
            copy.copy_from_slice(&packet.descriptor);
            shift_frame_number(copy, rewrite.frame_offset);
            copy
        } else {
            &packet.descriptor
        };
        header.write_with_descriptor(out, ids, descriptor);

        let mut prefix = [0_u8; 16];
        let mut prefix_len = 0;
        if matches!(outgoing.form, Form::Rtx { .. }) {
            prefix[..2].copy_from_slice(&(rewrite.sequence as u16).to_be_bytes());
            prefix_len = 2;
        }
        let rest: &[u8] = match rewrite.body {
            Body::Whole => &packet.payload,
            Body::Primary { start, end } => packet
                .payload
                .get(usize::from(start)..usize::from(end))
                .unwrap_or_default(),
            Body::Padding => &[1],
            Body::Vp8 {
                picture_id,
                tl0,
                key_index,
            } => match &packet.vp8 {
                Some(vp8)
                    if vp8.header_len <= Vp8Descriptor::MAX_LEN
                        && vp8.header_len <= packet.payload.len() =>
                {
                    let (head, rest) = packet.payload.split_at(vp8.header_len);
                    let descriptor = &mut prefix[prefix_len..prefix_len + head.len()];
                    descriptor.copy_from_slice(head);
                    vp8.rewrite(descriptor, picture_id, tl0, key_index);
                    prefix_len += head.len();
                    rest
                }
                _ => &packet.payload,
            },
        };
        way.srtp
            .seal_rtp_parts(index, start, &prefix[..prefix_len], rest, out);
        let size = out.len() - start;
        if has_transport_cc && !matches!(outgoing.form, Form::Repeat { .. }) {
            way.history.sent(size, now);
        }
        match outgoing.form {
            Form::Media => {
                if sender.playout == Playout::Untold {
                    sender.playout = if sender.playout_delay.is_some() {
                        Playout::Told(index as u16)
                    } else {
                        Playout::Known
                    };
                }
                sender.counts.packets += 1;
                sender.counts.bytes += size as u64;
                sender.counts.payload_bytes += (prefix_len + rest.len()) as u64;
                if sender.keeps_for_repair(outgoing) {
                    let sent = SentPacket {
                        packet: Arc::clone(&outgoing.packet),
                        rewrite,
                        transport_cc,
                        abs_send_time,
                        tells_playout: sender.playout_delay.is_some() && playout_delay.is_some(),
                    };
                    sender.cache.insert(rewrite.sequence as u16, sent, now);
                }
            }
            Form::Rtx { .. } | Form::Repeat { .. } => sender.counts.retransmitted += 1,
        }
    }
}

/// Finds or opens the run a packet of this length joins.
fn place(runs: &mut Vec<Run>, length: u16, member: u64) -> u16 {
    let last = runs.len().wrapping_sub(1);
    if let Some(run) = runs.last_mut()
        && run.takes(length)
        && (length == run.segment || (length < run.segment && run.members == member))
    {
        run.add(length, member);
        return last as u16;
    }
    for (index, run) in runs.iter_mut().enumerate().rev() {
        if run.segment == length && run.takes(length) {
            run.add(length, member);
            return index as u16;
        }
        if run.members & member != 0 {
            break;
        }
    }
    runs.push(Run {
        segment: length,
        count: 1,
        bytes: u32::from(length),
        is_closed: false,
        members: member,
    });
    (runs.len() - 1) as u16
}

impl RtpSender {
    fn outgoing_codec(&self, outgoing: &Outgoing) -> Option<OutgoingCodec> {
        if outgoing.rewrite.unwrapped {
            return self.opus;
        }
        self.codec_at(outgoing.packet.codec)
    }

    fn payload_type(&self, outgoing: &Outgoing) -> Option<u8> {
        let codec = self.outgoing_codec(outgoing)?;
        match outgoing.form {
            Form::Rtx { .. } => codec.rtx_payload_type,
            Form::Media | Form::Repeat { .. } => Some(codec.payload_type),
        }
    }

    fn keeps_for_repair(&self, outgoing: &Outgoing) -> bool {
        self.outgoing_codec(outgoing)
            .is_some_and(|codec| codec.nack)
    }
}
