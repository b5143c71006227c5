//! Data channels (RFC 8831) and the messages that open them (RFC 8832), without I/O: what channels there are, on
//! which stream, and how reliable. Sending is the SCTP layer's.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

const MESSAGE_ACK: u8 = 2;
const MESSAGE_OPEN: u8 = 3;
const UNORDERED: u8 = 0x80;
/// Longer labels and protocols are refused: they would only cost memory.
const MAX_LABEL: usize = 512;
/// Streams are numbered below this (the count told in INIT).
pub(super) const MAX_STREAMS: u16 = 1024;
/// Channels of one peer connection; more are refused.
pub(super) const MAX_CHANNELS: usize = 64;

/// Messages written within this share a mark.
const MARK_INTERVAL: Duration = Duration::from_millis(10);

/// How hard a channel tries to deliver a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reliability {
    /// Until it arrives.
    Reliable,
    /// At most this many retransmissions.
    Retransmits(u32),
    /// At most this many milliseconds.
    Lifetime(u32),
}

/// A DATA_CHANNEL_OPEN message (RFC 8832 section 5.1); its subprotocol is read over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenMessage {
    /// In order.
    pub ordered: bool,
    /// How hard to try.
    pub reliability: Reliability,
    /// Name of the channel.
    pub label: String,
}

/// A DCEP message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DcepMessage {
    /// Asks to open a channel on the stream it came on.
    Open(OpenMessage),
    /// Accepts it.
    Ack,
}

impl DcepMessage {
    /// Parses a message; None when it is malformed.
    pub fn parse(data: &[u8]) -> Option<Self> {
        match *data.first()? {
            MESSAGE_ACK => Some(Self::Ack),
            MESSAGE_OPEN => {
                let header: &[u8; 12] = data.first_chunk()?;
                let parameter = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
                let label_length = usize::from(u16::from_be_bytes([header[8], header[9]]));
                let protocol_length = usize::from(u16::from_be_bytes([header[10], header[11]]));
                if data.len() != 12 + label_length + protocol_length
                    || label_length > MAX_LABEL
                    || protocol_length > MAX_LABEL
                {
                    return None;
                }
                let label = std::str::from_utf8(data.get(12..12 + label_length)?).ok()?;
                let reliability = match header[1] & !UNORDERED {
                    0 => Reliability::Reliable,
                    1 => Reliability::Retransmits(parameter),
                    2 => Reliability::Lifetime(parameter),
                    _ => return None,
                };
                Some(Self::Open(OpenMessage {
                    ordered: header[1] & UNORDERED == 0,
                    reliability,
                    label: label.to_owned(),
                }))
            }
            _ => None,
        }
    }

    /// Writes the message.
    pub fn write(&self) -> Vec<u8> {
        match self {
            Self::Ack => vec![MESSAGE_ACK],
            Self::Open(open) => {
                let (kind, parameter) = match open.reliability {
                    Reliability::Reliable => (0, 0),
                    Reliability::Retransmits(count) => (1, count),
                    Reliability::Lifetime(ms) => (2, ms),
                };
                let order = if open.ordered { 0 } else { UNORDERED };
                let label = open.label.as_bytes();
                let label = label.get(..MAX_LABEL).unwrap_or(label);
                let length = u16::try_from(label.len()).unwrap_or(u16::MAX);
                let mut out = vec![MESSAGE_OPEN, kind | order, 0, 0];
                out.extend_from_slice(&parameter.to_be_bytes());
                out.extend_from_slice(&length.to_be_bytes());
                out.extend_from_slice(&[0, 0]);
                out.extend_from_slice(label);
                out
            }
        }
    }
}

/// A channel as a value: enough to open it again somewhere else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelState {
    /// Name of the channel.
    pub label: String,
    /// In order.
    pub ordered: bool,
    /// How hard to try.
    pub reliability: Reliability,
    /// SCTP stream.
    pub stream: u16,
    /// Opened by this side.
    pub local: bool,
}

/// A channel that lives.
pub(super) struct Channel {
    pub(super) state: ChannelState,
    /// OPEN was sent or answered in this SCTP association.
    pub(super) open: bool,
    /// The peer knows it, so unordered messages may overtake (RFC 8832 section 6).
    pub(super) confirmed: bool,
    /// `ChannelOpened` was given out in this SCTP association.
    pub(super) announced: bool,
    /// It was open before in another association: the peer may remember it and answer no OPEN.
    pub(super) kept: bool,
    /// Messages from before the channel could send.
    pub(super) pending: VecDeque<(Vec<u8>, bool)>,
    pub(super) pending_bytes: usize,
    /// Of a lossy channel: bytes written in all, and how many they were when; what is acknowledged is forgotten.
    pub(super) written: u64,
    pub(super) marks: VecDeque<(Instant, u64)>,
}

impl Channel {
    /// Notes that `bytes` were written now. Marks are gathered, so that small messages cost no more than large ones.
    pub(super) fn mark(&mut self, now: Instant, bytes: usize) {
        self.written = self.written.saturating_add(bytes as u64);
        match self.marks.back_mut() {
            Some((at, written)) if now.saturating_duration_since(*at) < MARK_INTERVAL => {
                *written = self.written;
            }
            _ => self.marks.push_back((now, self.written)),
        }
    }

    /// How long the oldest byte waits that the peer has not acknowledged, with `buffered` bytes of them.
    pub(super) fn waits(&mut self, now: Instant, buffered: usize) -> Duration {
        let acknowledged = self.written.saturating_sub(buffered as u64);
        while self
            .marks
            .front()
            .is_some_and(|(_, written)| *written <= acknowledged)
        {
            self.marks.pop_front();
        }
        self.marks
            .front()
            .map_or(Duration::ZERO, |(at, _)| now.saturating_duration_since(*at))
    }

    pub(super) fn new(state: ChannelState) -> Self {
        Self {
            state,
            open: false,
            confirmed: false,
            announced: false,
            kept: false,
            pending: VecDeque::new(),
            pending_bytes: 0,
            written: 0,
            marks: VecDeque::new(),
        }
    }

    pub(super) fn reliable(&self) -> bool {
        self.state.reliability == Reliability::Reliable
    }

    pub(super) fn open_message(&self) -> DcepMessage {
        DcepMessage::Open(OpenMessage {
            ordered: self.state.ordered,
            reliability: self.state.reliability,
            label: self.state.label.clone(),
        })
    }
}

/// The channels of one peer connection.
#[derive(Default)]
pub(super) struct Channels {
    pub(super) list: Vec<Channel>,
    /// Streams of channels this side closed, until the reset is answered.
    pub(super) closing: Vec<u16>,
}

impl Channels {
    pub(super) fn by_stream(&mut self, stream: u16) -> Option<&mut Channel> {
        self.list
            .iter_mut()
            .find(|channel| channel.state.stream == stream)
    }

    /// The channel messages to `label` go out on: our own before the peer's.
    pub(super) fn index_of(&self, label: &str) -> Option<usize> {
        let named = |local: bool| {
            self.list
                .iter()
                .position(|channel| channel.state.local == local && channel.state.label == label)
        };
        named(true).or_else(|| named(false))
    }

    /// Lowest free stream of our parity: even for the DTLS client (RFC 8832 section 6).
    pub(super) fn free_stream(&self, dtls_client: bool) -> Option<u16> {
        let first = u16::from(!dtls_client);
        (first..MAX_STREAMS).step_by(2).find(|stream| {
            !self.closing.contains(stream)
                && self
                    .list
                    .iter()
                    .all(|channel| channel.state.stream != *stream)
        })
    }

    /// The SCTP association is gone, the channels stay and are opened again.
    pub(super) fn keep(&mut self) {
        self.closing.clear();
        for channel in &mut self.list {
            channel.kept |= channel.open;
            channel.open = false;
            channel.confirmed = false;
            channel.announced = false;
        }
    }

    /// The stream was reset; the channel that lived on it, unless this side had closed it.
    pub(super) fn remove_stream(&mut self, stream: u16) -> Option<Channel> {
        let before = self.closing.len();
        self.closing.retain(|closing| *closing != stream);
        if self.closing.len() < before {
            return None;
        }
        let index = self
            .list
            .iter()
            .position(|channel| channel.state.stream == stream)?;
        Some(self.list.remove(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_messages_survive_writing_and_parsing() {
        for reliability in [
            Reliability::Reliable,
            Reliability::Retransmits(0),
            Reliability::Lifetime(1500),
        ] {
            for ordered in [true, false] {
                let message = DcepMessage::Open(OpenMessage {
                    ordered,
                    reliability,
                    label: "_lossy ü".to_owned(),
                });
                assert_eq!(DcepMessage::parse(&message.write()), Some(message));
            }
        }
        assert_eq!(
            DcepMessage::parse(&DcepMessage::Ack.write()),
            Some(DcepMessage::Ack)
        );
    }

    #[test]
    fn an_open_message_of_a_browser_is_read() {
        // Unordered, 0 retransmissions, label "ab", subprotocol "c".
        let bytes = [3, 0x81, 1, 0, 0, 0, 0, 0, 0, 2, 0, 1, b'a', b'b', b'c'];
        assert_eq!(
            DcepMessage::parse(&bytes),
            Some(DcepMessage::Open(OpenMessage {
                ordered: false,
                reliability: Reliability::Retransmits(0),
                label: "ab".to_owned(),
            }))
        );
    }

    #[test]
    fn malformed_messages_are_refused() {
        let good = [3, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, b'a', b'b'];
        assert!(DcepMessage::parse(&good).is_some());
        for length in 0..good.len() {
            assert_eq!(DcepMessage::parse(&good[..length]), None, "{length} bytes");
        }
        for (at, byte) in [
            (0, 1),
            (1, 3),
            (1, 0x7f),
            (9, 3),
            (8, 0xff),
            (10, 1),
            (12, 0xff),
        ] {
            let mut bad = good;
            bad[at] = byte;
            assert_eq!(DcepMessage::parse(&bad), None, "byte {at} = {byte}");
        }
    }

    #[test]
    fn streams_are_even_for_the_dtls_client() {
        let mut channels = Channels::default();
        for (client, expected) in [(true, 0), (false, 1), (true, 2), (false, 3)] {
            let stream = channels.free_stream(client).unwrap();
            assert_eq!(stream, expected);
            channels.list.push(Channel::new(ChannelState {
                label: String::new(),
                ordered: true,
                reliability: Reliability::Reliable,
                stream,
                local: true,
            }));
        }
    }
}
