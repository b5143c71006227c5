//! Transport-wide congestion control (draft-holmer-rmcat-transport-wide-cc-extensions-01): feedback written for what
//! we receive, feedback read for what we sent.
//!
//! Not here: an estimate; see [`super::estimate`].

use std::time::{Duration, Instant};

use crate::packet::{ParseError, read_u16, read_u32, rtcp};
use crate::sequence::{self, SequenceUnwrapper};

/// One feedback packet, checked when parsed: its chunks cover its count and its deltas are all there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TwccFeedback<'a> {
    /// Who reports.
    pub sender_ssrc: u32,
    /// Any stream of the transport.
    pub media_ssrc: u32,
    /// Transport-wide sequence number of the first packet reported on.
    pub base_sequence: u16,
    /// How many packets are reported on.
    pub status_count: u16,
    /// Reference time in units of 64 ms, 24 bits signed, on the reporter's clock.
    pub reference_time: i32,
    /// Number of this feedback, wrapping.
    pub feedback_count: u8,
    chunks: &'a [u8],
    deltas: &'a [u8],
}

/// What a feedback says of one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TwccStatus {
    /// Transport-wide sequence number.
    pub sequence: u16,
    /// Arrival in microseconds on the reporter's clock; none if not received.
    pub arrival_us: Option<i64>,
}

impl<'a> TwccFeedback<'a> {
    /// Reads the body (after the 4-byte RTCP header).
    ///
    /// # Errors
    /// If it is truncated, has a reserved status, or its chunks and deltas contradict its count.
    pub fn parse(body: &'a [u8]) -> Result<Self, ParseError> {
        let word = |at| read_u32(body, at).ok_or(ParseError::Truncated);
        let times = word(12)?;
        let mut feedback = Self {
            sender_ssrc: word(0)?,
            media_ssrc: word(4)?,
            base_sequence: read_u16(body, 8).ok_or(ParseError::Truncated)?,
            status_count: read_u16(body, 10).ok_or(ParseError::Truncated)?,
            reference_time: times as i32 >> 8,
            feedback_count: times as u8,
            chunks: &[],
            deltas: &[],
        };
        let rest = &body[16..];
        let (mut at, mut left, mut delta_bytes) = (0, usize::from(feedback.status_count), 0);
        while left > 0 {
            let chunk = Chunk(read_u16(rest, at).ok_or(ParseError::Length)?);
            at += 2;
            let covered = chunk.length().min(left);
            if covered == 0 {
                return Err(ParseError::Length);
            }
            delta_bytes += match chunk.run() {
                Some(RESERVED) => return Err(ParseError::Length),
                Some(symbol) => covered * usize::from(symbol),
                None => {
                    let mut bytes = 0;
                    for place in 0..covered {
                        match chunk.symbol(place) {
                            RESERVED => return Err(ParseError::Length),
                            symbol => bytes += usize::from(symbol),
                        }
                    }
                    bytes
                }
            };
            left -= covered;
        }
        feedback.chunks = &rest[..at];
        feedback.deltas = rest.get(at..at + delta_bytes).ok_or(ParseError::Length)?;
        Ok(feedback)
    }

    /// What it says of each packet, ascending from the base.
    pub fn statuses(&self) -> Statuses<'a> {
        Statuses {
            chunks: self.chunks,
            deltas: self.deltas,
            chunk: Chunk(0),
            place: 0,
            chunk_length: 0,
            left: self.status_count,
            sequence: self.base_sequence,
            arrival_us: i64::from(self.reference_time) * REFERENCE_US,
        }
    }
}

/// The statuses of one feedback.
#[derive(Debug, Clone)]
pub struct Statuses<'a> {
    chunks: &'a [u8],
    deltas: &'a [u8],
    chunk: Chunk,
    place: usize,
    chunk_length: usize,
    left: u16,
    sequence: u16,
    arrival_us: i64,
}

impl Iterator for Statuses<'_> {
    type Item = TwccStatus;

    fn next(&mut self) -> Option<TwccStatus> {
        self.left = self.left.checked_sub(1)?;
        if self.place == self.chunk_length {
            let (chunk, rest) = self.chunks.split_first_chunk()?;
            self.chunks = rest;
            self.chunk = Chunk(u16::from_be_bytes(*chunk));
            self.chunk_length = self.chunk.length();
            self.place = 0;
        }
        let symbol = self.chunk.symbol(self.place);
        self.place += 1;
        let (delta, rest) = self.deltas.split_at_checked(usize::from(symbol))?;
        self.deltas = rest;
        let ticks = match *delta {
            [] => None,
            [small] => Some(i64::from(small)),
            [high, low, ..] => Some(i64::from(i16::from_be_bytes([high, low]))),
        };
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        let arrival_us = ticks.map(|ticks| {
            self.arrival_us += ticks * TICK_US;
            self.arrival_us
        });
        Some(TwccStatus {
            sequence,
            arrival_us,
        })
    }
}

/// A packet status chunk. A symbol is also the number of bytes of its delta.
#[derive(Debug, Clone, Copy)]
struct Chunk(u16);

impl Chunk {
    fn run(self) -> Option<u8> {
        (self.0 & 0x8000 == 0).then_some((self.0 >> 13) as u8 & 3)
    }

    fn length(self) -> usize {
        match self.0 >> 14 {
            0 | 1 => usize::from(self.0 & 0x1fff),
            2 => 14,
            _ => 7,
        }
    }

    fn symbol(self, place: usize) -> u8 {
        match self.0 >> 14 {
            0 | 1 => (self.0 >> 13) as u8 & 3,
            2 => (self.0 >> (13 - place.min(13))) as u8 & 1,
            _ => (self.0 >> (12 - 2 * place.min(6))) as u8 & 3,
        }
    }
}

/// Collects arrivals of one transport and writes feedback about them.
///
/// A packet that arrives after later ones were reported gets a feedback of its own, so that nothing already reported
/// as received is reported again as missing.
#[derive(Debug)]
pub struct TwccReceiver {
    epoch: Instant,
    unwrapper: SequenceUnwrapper,
    /// Extended sequence number and ticks of 250 us since the epoch, in order of arrival.
    arrivals: Vec<(u64, i64)>,
    /// First sequence number not yet reported on.
    next: Option<u64>,
    due: Option<Instant>,
    feedback_count: u8,
}

impl TwccReceiver {
    /// Time between feedbacks while packets arrive.
    pub const INTERVAL: Duration = Duration::from_millis(50);
    /// Most arrivals held for the next feedback; it is written early when they are reached.
    pub const MAX_ARRIVALS: usize = 1024;

    /// A receiver whose reference times count from `now`.
    pub fn new(now: Instant) -> Self {
        Self {
            epoch: now,
            unwrapper: SequenceUnwrapper::default(),
            arrivals: Vec::new(),
            next: None,
            due: None,
            feedback_count: 0,
        }
    }

    /// Notes the arrival of a packet.
    pub fn on_packet(&mut self, sequence: u16, now: Instant) {
        let extended = self.unwrapper.unwrap(sequence);
        let ticks = now.saturating_duration_since(self.epoch).as_micros() as i64 / TICK_US;
        if self.arrivals.len() < Self::MAX_ARRIVALS {
            self.arrivals.push((extended, ticks));
        }
        let due = self.due.get_or_insert(now + Self::INTERVAL);
        if self.arrivals.len() >= Self::MAX_ARRIVALS {
            *due = now;
        }
    }

    /// Appends the feedback that is due to `out`, one RTCP packet or several, each at most about 1,200 bytes.
    /// Whether anything was written.
    pub fn poll(
        &mut self,
        now: Instant,
        sender_ssrc: u32,
        media_ssrc: u32,
        out: &mut Vec<u8>,
    ) -> bool {
        if self.due.is_none_or(|due| now < due) {
            return false;
        }
        self.due = None;
        let mut arrivals = std::mem::take(&mut self.arrivals);
        arrivals.sort_unstable();
        arrivals.dedup_by_key(|(sequence, _)| *sequence);
        let mut rest = &arrivals[..];
        while let Some(&(first, _)) = rest.first() {
            let next = self.next.unwrap_or(first);
            let late = first < next;
            // What was missing before the first arrival is reported too, unless it is an outage or a new start.
            let base = if late || first - next > MAX_LEADING_GAP {
                first
            } else {
                next
            };
            let taken = self.write_one(
                base,
                rest,
                late.then_some(next),
                (sender_ssrc, media_ssrc),
                out,
            );
            let last = rest[taken - 1].0;
            rest = &rest[taken..];
            self.next = Some(next.max(last + 1));
        }
        arrivals.clear();
        self.arrivals = arrivals;
        true
    }

    /// When the next feedback is due; none while nothing arrived.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// Writes a feedback that starts at `base` and covers as many of `arrivals` as fit, at least one. Before `late`
    /// it covers no gaps. Returns how many arrivals it covers.
    fn write_one(
        &mut self,
        base: u64,
        arrivals: &[(u64, i64)],
        late: Option<u64>,
        (sender_ssrc, media_ssrc): (u32, u32),
        out: &mut Vec<u8>,
    ) -> usize {
        let reference = arrivals[0].1 / TICKS_PER_REFERENCE;
        let mut previous = reference * TICKS_PER_REFERENCE;
        let mut deltas = [0; MAX_RECEIVED];
        let mut taken = 0;
        for (at, &(sequence, ticks)) in arrivals.iter().enumerate().take(MAX_RECEIVED) {
            let contiguous = at == 0 || arrivals[at - 1].0 + 1 == sequence;
            let Ok(delta) = i16::try_from(ticks - previous) else {
                break;
            };
            if (late.is_some() && !contiguous)
                || late.is_some_and(|next| sequence >= next)
                || sequence - base >= u64::from(u16::MAX)
                || (at > 0 && sequence - arrivals[at - 1].0 > MAX_LEADING_GAP)
            {
                break;
            }
            deltas[at] = delta;
            previous = ticks;
            taken = at + 1;
        }
        // The first delta is below 64 ms and the first gap is bounded, so one arrival always fits.
        let arrivals = &arrivals[..taken];
        let deltas = &deltas[..taken];
        let start = rtcp::begin_feedback(
            out,
            rtcp::TWCC,
            rtcp::TRANSPORT_FEEDBACK,
            sender_ssrc,
            media_ssrc,
        );
        out.extend_from_slice(&(base as u16).to_be_bytes());
        let count = arrivals.last().map_or(0, |(last, _)| last + 1 - base);
        out.extend_from_slice(&(count as u16).to_be_bytes());
        out.extend_from_slice(
            &((reference as u32) << 8 | u32::from(self.feedback_count)).to_be_bytes(),
        );
        self.feedback_count = self.feedback_count.wrapping_add(1);
        let mut chunks = ChunkWriter {
            symbols: [0; 14],
            length: 0,
            run: 0,
            out,
        };
        let mut expected = base;
        for (&(sequence, _), &delta) in arrivals.iter().zip(deltas) {
            while expected < sequence {
                chunks.push(0);
                expected += 1;
            }
            chunks.push(if (0..=255).contains(&delta) { 1 } else { 2 });
            expected += 1;
        }
        chunks.finish();
        for &delta in deltas {
            match u8::try_from(delta) {
                Ok(small) => out.push(small),
                Err(_) => out.extend_from_slice(&delta.to_be_bytes()),
            }
        }
        rtcp::finish(out, start);
        taken
    }
}

/// Packs symbols into status chunks: a run while they are equal, else a vector.
struct ChunkWriter<'a> {
    symbols: [u8; 14],
    length: usize,
    /// Length of the pending run once it has outgrown a vector.
    run: u16,
    out: &'a mut Vec<u8>,
}

impl ChunkWriter<'_> {
    fn push(&mut self, symbol: u8) {
        if self.run > 0 {
            if symbol == self.symbols[0] && self.run < MAX_RUN {
                self.run += 1;
                return;
            }
            self.write_run();
        }
        self.symbols[self.length] = symbol;
        self.length += 1;
        let pending = &self.symbols[..self.length];
        let equal = pending.iter().all(|other| *other == symbol);
        let wide = pending.contains(&2);
        if self.length == 14 {
            if equal {
                self.run = 14;
                self.length = 0;
            } else if wide {
                self.write_vector();
                self.repack();
            } else {
                self.write_vector();
            }
        } else if wide && !equal && self.length >= 7 {
            self.write_vector();
            self.repack();
        }
    }

    fn finish(mut self) {
        if self.run > 0 {
            self.write_run();
        }
        while self.length > 0 {
            self.write_vector();
        }
    }

    fn write_run(&mut self) {
        let chunk = u16::from(self.symbols[0]) << 13 | self.run;
        self.out.extend_from_slice(&chunk.to_be_bytes());
        self.run = 0;
    }

    /// Writes one chunk from the front of the pending symbols: 14 of one bit, or up to 7 of two.
    fn write_vector(&mut self) {
        let pending = &self.symbols[..self.length];
        let (chunk, written) = if pending.contains(&2) {
            let written = self.length.min(7);
            let bits = (0..7).fold(0, |bits, at| {
                bits << 2 | u16::from(*pending[..written].get(at).unwrap_or(&0))
            });
            (0xc000 | bits, written)
        } else {
            let bits = (0..14).fold(0, |bits, at| {
                bits << 1 | u16::from(*pending.get(at).unwrap_or(&0))
            });
            (0x8000 | bits, self.length)
        };
        self.out.extend_from_slice(&chunk.to_be_bytes());
        self.symbols.copy_within(written..self.length, 0);
        self.length -= written;
    }

    /// After a part was written, what is left may be a vector again.
    fn repack(&mut self) {
        while self.length >= 7 && self.symbols[..self.length].contains(&2) {
            self.write_vector();
        }
    }
}

/// What we sent on one transport and when, until feedback tells its fate. All its memory is taken with the first packet.
#[derive(Debug)]
pub struct TwccHistory {
    /// A packet lies at its sequence number modulo the capacity. Empty before the first packet: most peer connections
    /// of a large room never send media.
    slots: Vec<Option<Sent>>,
    /// A power of two.
    capacity: usize,
    next: u64,
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    sequence: u64,
    at: Instant,
    bytes: u16,
    fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Unknown,
    Lost,
    Received,
}

/// The fate of one packet we sent, told once, or twice if a packet reported missing arrived after all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketResult {
    /// Extended transport-wide sequence number.
    pub sequence: u64,
    /// When it was sent.
    pub sent_at: Instant,
    /// Size on the wire, in bytes.
    pub bytes: u16,
    /// Arrival in microseconds on the receiver's clock; none if missing.
    pub arrival_us: Option<i64>,
}

/// What one feedback says in sum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FeedbackSummary {
    /// Packets newly known to have arrived.
    pub received: u32,
    /// Packets newly known to be missing.
    pub lost: u32,
    /// Bytes of the packets that arrived.
    pub received_bytes: u64,
    /// Time from sending the newest packet that arrived until now: the round trip and what the feedback waited.
    pub response_time: Option<Duration>,
}

impl TwccHistory {
    /// A history of at least `capacity` packets (at most 32,768).
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.clamp(1, 1 << 15).next_power_of_two();
        Self {
            slots: Vec::new(),
            capacity,
            next: 1 << 16,
        }
    }

    /// The transport-wide sequence number for the next packet, which must then be sent and given to [`Self::sent`].
    pub fn next_sequence(&self) -> u16 {
        self.next as u16
    }

    /// Notes that a packet of `bytes` went out under [`Self::next_sequence`], and returns that number.
    pub fn sent(&mut self, bytes: usize, now: Instant) -> u16 {
        if self.slots.is_empty() {
            self.slots = vec![None; self.capacity];
        }
        let sequence = self.next;
        self.next += 1;
        let at = self.place(sequence);
        let bytes = u16::try_from(bytes).unwrap_or(u16::MAX);
        self.slots[at] = Some(Sent {
            sequence,
            at: now,
            bytes,
            fate: Fate::Unknown,
        });
        sequence as u16
    }

    /// Matches a feedback with what was sent; calls `each` for every packet whose fate is news.
    pub fn on_feedback(
        &mut self,
        feedback: &TwccFeedback<'_>,
        now: Instant,
        mut each: impl FnMut(PacketResult),
    ) -> FeedbackSummary {
        let mut summary = FeedbackSummary::default();
        let base = sequence::extend(self.next, feedback.base_sequence);
        for (offset, status) in feedback.statuses().enumerate() {
            let sequence = base + offset as u64;
            let at = self.place(sequence);
            let Some(sent) = self
                .slots
                .get_mut(at)
                .and_then(Option::as_mut)
                .filter(|sent| sent.sequence == sequence)
            else {
                continue;
            };
            match (status.arrival_us, sent.fate) {
                (Some(_), Fate::Unknown | Fate::Lost) => {
                    sent.fate = Fate::Received;
                    summary.received += 1;
                    summary.received_bytes += u64::from(sent.bytes);
                    summary.response_time = Some(now.saturating_duration_since(sent.at));
                }
                (None, Fate::Unknown) => {
                    sent.fate = Fate::Lost;
                    summary.lost += 1;
                }
                (Some(_), Fate::Received) | (None, Fate::Lost | Fate::Received) => continue,
            }
            let Sent {
                sequence,
                at: sent_at,
                bytes,
                ..
            } = *sent;
            each(PacketResult {
                sequence,
                sent_at,
                bytes,
                arrival_us: status.arrival_us,
            });
        }
        summary
    }

    fn place(&self, sequence: u64) -> usize {
        sequence as usize & (self.capacity - 1)
    }
}

const RESERVED: u8 = 3;
const TICK_US: i64 = 250;
const REFERENCE_US: i64 = 64_000;
const TICKS_PER_REFERENCE: i64 = REFERENCE_US / TICK_US;
const MAX_RUN: u16 = 0x1fff;
/// Arrivals of one feedback packet: 2 bytes of delta and 2/7 of chunk each keep it near 1,200 bytes.
const MAX_RECEIVED: usize = 480;
/// A longer gap before the first arrival is not reported as loss.
const MAX_LEADING_GAP: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::rtcp::{Rtcp, RtcpPackets};

    const MS: Duration = Duration::from_millis(1);

    /// The feedback packets for arrivals given as (sequence, ms after the start).
    fn feedback(
        receiver: &mut TwccReceiver,
        start: Instant,
        arrivals: &[(u16, u32)],
    ) -> Vec<Vec<(u16, Option<i64>)>> {
        let mut now = start;
        for &(sequence, ms) in arrivals {
            now = start + MS * ms;
            receiver.on_packet(sequence, now);
        }
        let mut out = Vec::new();
        assert!(receiver.poll(now + TwccReceiver::INTERVAL, 1, 2, &mut out));
        RtcpPackets::new(&out)
            .map(|packet| match packet.expect("own feedback parses") {
                Rtcp::Twcc(feedback) => feedback
                    .statuses()
                    .map(|status| (status.sequence, status.arrival_us))
                    .collect(),
                other => panic!("not a feedback: {other:?}"),
            })
            .collect()
    }

    fn at(ms: i64) -> Option<i64> {
        Some(ms * 1000)
    }

    #[test]
    fn arrivals_and_gaps_round_trip_across_the_wrap() {
        let start = Instant::now();
        let mut receiver = TwccReceiver::new(start);
        let read = feedback(&mut receiver, start, &[(65_534, 100), (1, 130), (0, 120)]);
        assert_eq!(
            read,
            [vec![
                (65_534, at(100)),
                (65_535, None),
                (0, at(120)),
                (1, at(130))
            ]]
        );
    }

    #[test]
    fn gap_between_feedbacks_is_reported_and_late_packets_get_their_own() {
        let start = Instant::now();
        let mut receiver = TwccReceiver::new(start);
        assert_eq!(
            feedback(&mut receiver, start, &[(10, 0), (14, 1)])[0].len(),
            5
        );
        let read = feedback(&mut receiver, start, &[(11, 60), (13, 61), (16, 62)]);
        assert_eq!(
            read,
            [
                vec![(11, at(60))],
                vec![(13, at(61))],
                vec![(15, None), (16, at(62))]
            ]
        );
    }

    #[test]
    fn every_mixture_of_gaps_and_deltas_round_trips() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..300 {
            let start = Instant::now();
            let mut receiver = TwccReceiver::new(start);
            let (mut sequence, mut ms) = (random.u16(..), 0);
            let mut sent = Vec::new();
            let loss = random.u8(..20);
            for _ in 0..random.usize(1..1000) {
                sequence = sequence.wrapping_add(if random.u8(..100) < loss {
                    random.u16(1..40)
                } else {
                    1
                });
                ms += if random.u8(..100) < loss {
                    random.u32(..300)
                } else {
                    random.u32(..3)
                };
                sent.push((sequence, ms));
            }
            let read: Vec<_> = feedback(&mut receiver, start, &sent)
                .into_iter()
                .flatten()
                .filter_map(|(sequence, arrival)| Some((sequence, (arrival? / 1000) as u32)))
                .collect();
            assert_eq!(read, sent);
        }
    }

    #[test]
    fn jump_too_large_for_a_delta_starts_another_feedback() {
        let start = Instant::now();
        let mut receiver = TwccReceiver::new(start);
        let read = feedback(&mut receiver, start, &[(1, 0), (2, 20_000)]);
        assert_eq!(read, [vec![(1, at(0))], vec![(2, at(20_000))]]);
    }

    #[test]
    fn feedback_is_due_an_interval_after_the_first_arrival() {
        let start = Instant::now();
        let mut receiver = TwccReceiver::new(start);
        assert_eq!(receiver.next_timeout(), None);
        receiver.on_packet(1, start);
        assert_eq!(
            receiver.next_timeout(),
            Some(start + TwccReceiver::INTERVAL)
        );
        assert!(!receiver.poll(start + 49 * MS, 1, 2, &mut Vec::new()));
        for sequence in 2..=TwccReceiver::MAX_ARRIVALS as u16 {
            receiver.on_packet(sequence, start);
        }
        assert_eq!(receiver.next_timeout(), Some(start));
        let mut out = Vec::new();
        assert!(receiver.poll(start, 1, 2, &mut out));
        assert_eq!(receiver.next_timeout(), None);
        assert_eq!(RtcpPackets::new(&out).count(), 3);
    }

    #[test]
    fn malformed_feedback_is_refused() {
        let header = [0, 0, 0, 1, 0, 0, 0, 2, 0, 9];
        let cases: &[(&[u8], ParseError)] = &[
            (&[], ParseError::Truncated),
            (&[0, 1, 0, 0, 0], ParseError::Truncated),
            (&[0, 1, 0, 0, 0, 0], ParseError::Length),
            (&[0, 1, 0, 0, 0, 0, 0x20, 1], ParseError::Length),
            (&[0, 1, 0, 0, 0, 0, 0x60, 1, 0, 0, 0, 0], ParseError::Length),
            (&[0, 1, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0], ParseError::Length),
            (
                &[0, 2, 0, 0, 0, 0, 0xfc, 0, 1, 1, 1, 1, 1],
                ParseError::Length,
            ),
            (&[0, 15, 0, 0, 0, 0, 0xbf, 0xff], ParseError::Length),
        ];
        for (rest, error) in cases {
            assert_eq!(
                TwccFeedback::parse(&[&header, *rest].concat()).err(),
                Some(*error),
                "{rest:02x?}"
            );
        }
    }

    #[test]
    fn history_tells_each_fate_once() {
        let start = Instant::now();
        let mut history = TwccHistory::new(64);
        let mut receiver = TwccReceiver::new(start);
        for packet in 0..4 {
            let sequence = history.sent(100 + packet, start);
            if packet != 1 {
                receiver.on_packet(sequence, start + 20 * MS);
            }
        }
        let mut out = Vec::new();
        receiver.poll(start + 100 * MS, 1, 2, &mut out);
        let Some(Ok(Rtcp::Twcc(feedback))) = RtcpPackets::new(&out).next() else {
            panic!("no feedback")
        };
        let mut results = Vec::new();
        let summary =
            history.on_feedback(&feedback, start + 120 * MS, |result| results.push(result));
        assert_eq!(
            summary,
            FeedbackSummary {
                received: 3,
                lost: 1,
                received_bytes: 305,
                response_time: Some(120 * MS)
            }
        );
        assert_eq!(
            results
                .iter()
                .map(|result| result.bytes)
                .collect::<Vec<_>>(),
            [100, 101, 102, 103]
        );
        assert_eq!(results[1].arrival_us, None);
        assert_eq!(
            history.on_feedback(&feedback, start, |_| panic!("no news")),
            FeedbackSummary::default()
        );
    }
}
