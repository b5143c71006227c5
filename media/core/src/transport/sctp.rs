//! One SCTP association over DTLS (RFC 9260, RFC 8261), by the `sctp-proto` crate: messages in and out of streams.
//!
//! It knows nothing of data channels. Dropping it sends nothing, not even an ABORT.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sctp_proto::{
    Association, AssociationHandle, ClientConfig, DatagramEvent, Endpoint, EndpointConfig, Event,
    Payload, PayloadProtocolIdentifier, ReliabilityType, ServerConfig, StreamEvent,
    TransportConfig,
};

use super::TransportCounters;
use super::channel::{MAX_STREAMS, Reliability};

/// SCTP has ports but no addresses here: everything goes through DTLS.
const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 5000);
/// Longer messages than our description allows are taken up to here, so that they can be dropped one by one; beyond
/// it the association dies.
const RECEIVE_LIMIT: u32 = 262_144;
const RECEIVE_BUFFER: u32 = 1_048_576;
/// User data of one DATA chunk: packet 1,148 bytes, with DTLS at most 1,200.
const CHUNK_PAYLOAD: u32 = 1_120;
/// A peer that opens more streams than this at a time loses its association.
const MAX_LIVE_STREAMS: usize = 256;
/// After giving way to the peer's INIT: how long it may take to finish.
const YIELD_PATIENCE: Duration = Duration::from_secs(3);
/// Common header (12), chunk type and flags, length, initiate tag.
const INIT_TAG: std::ops::Range<usize> = 16..20;

/// What an association has to say.
pub(super) enum SctpEvent {
    Established,
    Lost,
    Message {
        stream: u16,
        ppi: PayloadProtocolIdentifier,
        data: Vec<u8>,
    },
    StreamClosed(u16),
    /// A reset is over; its stream can be used again.
    StreamFree,
}

pub(super) struct Sctp {
    endpoint: Endpoint,
    association: Option<(AssociationHandle, Association)>,
    /// Initiate tag of the INIT the association answers; None when it is our own.
    answering: Option<[u8; 4]>,
    /// A packet for our own association arrived: the peer answered our INIT.
    answered: bool,
    active: bool,
    started: bool,
    established: bool,
    live_streams: usize,
    retry_at: Option<Instant>,
    closed: bool,
    ready: Vec<u16>,
}

fn transport_config() -> Arc<TransportConfig> {
    Arc::new(
        TransportConfig::default()
            .with_max_receive_buffer_size(RECEIVE_BUFFER)
            .with_max_receive_message_size(RECEIVE_LIMIT)
            .with_max_send_message_size(u32::from(u16::MAX))
            .with_max_num_inbound_streams(MAX_STREAMS)
            .with_max_num_outbound_streams(MAX_STREAMS)
            .with_max_init_retransmits(None)
            .with_max_data_retransmits(None)
            .with_rto_initial_ms(500)
            .with_rto_min_ms(250)
            .with_rto_max_ms(5_000),
    )
}

fn endpoint() -> Endpoint {
    let mut config = EndpointConfig::new();
    config.max_payload_size(CHUNK_PAYLOAD);
    let mut server = ServerConfig::new();
    server.transport = transport_config();
    Endpoint::new(Arc::new(config), Some(Arc::new(server)))
}

impl Sctp {
    pub(super) fn new(active: bool) -> Self {
        Self {
            endpoint: endpoint(),
            association: None,
            answering: None,
            answered: false,
            active,
            started: false,
            established: false,
            live_streams: 0,
            retry_at: None,
            closed: false,
            ready: Vec::new(),
        }
    }

    pub(super) fn established(&self) -> bool {
        self.established
    }

    fn reset(&mut self) {
        self.endpoint = endpoint();
        self.association = None;
        self.answering = None;
        self.answered = false;
        self.established = false;
        self.live_streams = 0;
        self.ready.clear();
    }

    /// DTLS is up: the active side sends INIT.
    pub(super) fn start(&mut self) {
        self.started = true;
        if self.active && self.association.is_none() && !self.closed {
            self.connect();
        }
    }

    fn connect(&mut self) {
        self.retry_at = None;
        let mut config = ClientConfig::new();
        config.transport = transport_config();
        if let Ok(association) = self.endpoint.connect(config, PEER) {
            self.association = Some(association);
            self.endpoint.reject_new_associations();
        }
    }

    /// Takes an SCTP packet; what does not fit is dropped and counted.
    pub(super) fn handle(
        &mut self,
        now: Instant,
        packet: Vec<u8>,
        counters: &mut TransportCounters,
    ) {
        if self.closed || packet.len() < 16 {
            counters.sctp_dropped += 1;
            return;
        }
        let init = packet.get(4..8) == Some(&[0; 4]);
        if init {
            let tag: Option<[u8; 4]> = packet.get(INIT_TAG).and_then(|tag| tag.try_into().ok());
            let Some(tag) = tag else {
                counters.sctp_dropped += 1;
                return;
            };
            if self.established || (self.answering.is_none() && self.answered) {
                // A late repeat; the association would take it as an error and close.
                counters.sctp_dropped += 1;
                return;
            }
            if self.answering != Some(tag) {
                // Both sides sent INIT, or the peer began anew. Some peers answer none while they wait for an
                // INIT ACK, so this side gives way.
                self.reset();
                self.answering = Some(tag);
                self.retry_at = now.checked_add(YIELD_PATIENCE);
            }
        }
        let Some((handle, event)) =
            self.endpoint
                .handle(now, PEER, None, None, Bytes::from(packet))
        else {
            counters.sctp_dropped += 1;
            return;
        };
        match event {
            DatagramEvent::NewAssociation(association) => {
                self.association = Some((handle, association));
                self.endpoint.reject_new_associations();
            }
            DatagramEvent::AssociationEvent(event) => {
                if let Some((_, association)) = &mut self.association {
                    self.answered |= !init;
                    association.handle_event(event);
                }
            }
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if let Some((_, association)) = &mut self.association {
            association.handle_timeout(now);
        }
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            if !self.established && self.active && self.started && !self.closed {
                self.reset();
                self.connect();
            }
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let own = self
            .association
            .as_ref()
            .and_then(|(_, association)| association.poll_timeout());
        own.into_iter().chain(self.retry_at).min()
    }

    /// Packets to send, each at most 1,148 bytes.
    pub(super) fn poll_transmit(&mut self, now: Instant) -> Vec<Bytes> {
        while self.endpoint.poll_transmit().is_some() {}
        let Some((_, association)) = &mut self.association else {
            return Vec::new();
        };
        match association
            .poll_transmit(now)
            .map(|transmit| transmit.payload)
        {
            Some(Payload::RawEncode(packets)) => packets,
            _ => Vec::new(),
        }
    }

    pub(super) fn poll(&mut self, counters: &mut TransportCounters) -> Option<SctpEvent> {
        loop {
            if let Some(event) = self.read(counters) {
                return Some(event);
            }
            let (handle, association) = self.association.as_mut()?;
            while let Some(event) = association.poll_endpoint_event() {
                if let Some(event) = self.endpoint.handle_event(*handle, event) {
                    association.handle_event(event);
                }
            }
            while association.accept_stream().is_some() {}
            match association.poll()? {
                Event::Connected => {
                    self.established = true;
                    self.retry_at = None;
                    return Some(SctpEvent::Established);
                }
                Event::HandshakeFailed { .. } | Event::AssociationLost { .. } => {
                    self.reset();
                    return Some(SctpEvent::Lost);
                }
                Event::Stream(StreamEvent::Opened { id }) => {
                    self.live_streams += 1;
                    if self.live_streams > MAX_LIVE_STREAMS || id >= MAX_STREAMS {
                        counters.sctp_refused += 1;
                        self.reset();
                        self.closed = true;
                        return Some(SctpEvent::Lost);
                    }
                    self.ready.push(id);
                }
                Event::Stream(StreamEvent::Readable { id }) => self.ready.push(id),
                Event::Stream(StreamEvent::Finished { id }) => {
                    self.live_streams = self.live_streams.saturating_sub(1);
                    return Some(SctpEvent::StreamClosed(id));
                }
                Event::Stream(StreamEvent::ResetComplete { .. }) => {
                    return Some(SctpEvent::StreamFree);
                }
                _ => {}
            }
        }
    }

    fn read(&mut self, counters: &mut TransportCounters) -> Option<SctpEvent> {
        let (_, association) = self.association.as_mut()?;
        while let Some(&stream) = self.ready.last() {
            let message = association
                .stream(stream)
                .ok()
                .and_then(|mut found| found.read_sctp().ok().flatten());
            let Some(message) = message else {
                self.ready.pop();
                continue;
            };
            let length = message.len();
            if length > usize::from(u16::MAX) {
                counters.data_too_large += 1;
                continue;
            }
            let mut data = vec![0; length];
            if message.read(&mut data).is_ok() {
                return Some(SctpEvent::Message {
                    stream,
                    ppi: message.ppi,
                    data,
                });
            }
        }
        None
    }

    /// Makes the stream usable for sending.
    pub(super) fn open(&mut self, stream: u16) -> bool {
        let Some((_, association)) = self.association.as_mut() else {
            return false;
        };
        if association.stream(stream).is_ok() {
            return true;
        }
        let opened = association
            .open_stream(stream, PayloadProtocolIdentifier::Binary)
            .is_ok();
        self.live_streams += usize::from(opened);
        opened
    }

    pub(super) fn close(&mut self, stream: u16) {
        if let Some((_, association)) = self.association.as_mut()
            && let Ok(mut stream) = association.stream(stream)
        {
            let _ = stream.close();
        }
    }

    pub(super) fn buffered(&mut self, stream: u16) -> usize {
        self.association
            .as_mut()
            .and_then(|(_, association)| association.stream(stream).ok())
            .and_then(|stream| stream.buffered_amount().ok())
            .unwrap_or(0)
    }

    /// Queues a message; false when the stream or association is gone.
    pub(super) fn send(
        &mut self,
        stream: u16,
        ordered: bool,
        reliability: Reliability,
        ppi: PayloadProtocolIdentifier,
        data: &[u8],
    ) -> bool {
        if !self.established {
            return false;
        }
        let (kind, value) = match reliability {
            Reliability::Reliable => (ReliabilityType::Reliable, 0),
            Reliability::Retransmits(count) => (ReliabilityType::Rexmit, count),
            Reliability::Lifetime(ms) => (ReliabilityType::Timed, ms),
        };
        let Some((_, association)) = self.association.as_mut() else {
            return false;
        };
        let Ok(mut stream) = association.stream(stream) else {
            return false;
        };
        stream.set_reliability_params(!ordered, kind, value).is_ok()
            && stream.write_with_ppi(data, ppi).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crc32c(packet: &[u8]) -> u32 {
        !packet.iter().fold(!0, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
            })
        })
    }

    fn seal(packet: &mut [u8]) {
        if let Some(sum) = packet.get_mut(8..12) {
            sum.fill(0);
            let sum = crc32c(packet).to_le_bytes();
            packet[8..12].copy_from_slice(&sum);
        }
    }

    struct Ends {
        a: Sctp,
        b: Sctp,
        now: Instant,
        counters: TransportCounters,
        messages: usize,
    }

    impl Ends {
        fn new(active: [bool; 2]) -> Self {
            let mut ends = Self {
                a: Sctp::new(active[0]),
                b: Sctp::new(active[1]),
                now: Instant::now(),
                counters: TransportCounters::default(),
                messages: 0,
            };
            ends.a.start();
            ends.b.start();
            ends
        }

        fn round(&mut self, mut change: impl FnMut(&mut Vec<u8>)) {
            self.now += Duration::from_millis(20);
            let from_a = self.a.poll_transmit(self.now);
            let from_b = self.b.poll_transmit(self.now);
            for (packets, to) in [(from_a, &mut self.b), (from_b, &mut self.a)] {
                for packet in packets {
                    let mut packet = packet.to_vec();
                    change(&mut packet);
                    to.handle(self.now, packet, &mut self.counters);
                }
            }
            for end in [&mut self.a, &mut self.b] {
                end.handle_timeout(self.now);
                while let Some(event) = end.poll(&mut self.counters) {
                    self.messages += usize::from(matches!(event, SctpEvent::Message { .. }));
                }
            }
        }
    }

    #[test]
    fn inits_that_cross_end_in_one_association() {
        let mut ends = Ends::new([true, true]);
        // Both gave way; the DTLS client alone tries again.
        ends.b.active = false;
        let rounds = (0..500).position(|_| {
            ends.round(|_| {});
            ends.a.established() && ends.b.established()
        });
        assert!(rounds.is_some());
    }

    #[test]
    fn a_peer_that_answers_no_init_but_sends_its_own_is_served() {
        // aiortc as SCTP client behaves so: the passive end here connects, the active one's INIT is lost.
        let mut ends = Ends::new([true, false]);
        ends.b.active = true;
        ends.b.start();
        let now = ends.now;
        let _ = ends.a.poll_transmit(now);
        for _ in 0..20 {
            ends.round(|_| {});
        }
        assert!(ends.a.established() && ends.b.established());
    }

    #[test]
    fn a_late_repeat_of_init_does_not_close_the_association() {
        let mut ends = Ends::new([true, false]);
        let mut init = None;
        for _ in 0..20 {
            ends.round(|packet| {
                init.get_or_insert_with(|| packet.clone());
            });
        }
        assert!(ends.b.established());
        let (now, mut counters) = (ends.now, TransportCounters::default());
        ends.b.handle(now, init.unwrap(), &mut counters);
        assert!(ends.b.established());
        assert_eq!(counters.sctp_dropped, 1);
        assert!(ends.b.open(0));
        assert!(ends.b.send(
            0,
            true,
            Reliability::Reliable,
            PayloadProtocolIdentifier::Binary,
            b"x"
        ));
        for _ in 0..5 {
            ends.round(|_| {});
        }
        assert_eq!(ends.messages, 1);
    }

    #[test]
    fn changed_packets_with_right_checksums_do_not_panic() {
        for seed in 0..60 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut ends = Ends::new([true, false]);
            for round in 0..120 {
                if ends.a.established() {
                    for stream in 0..4 {
                        ends.a.open(stream);
                        ends.a.send(
                            stream,
                            rng.bool(),
                            Reliability::Retransmits(0),
                            PayloadProtocolIdentifier::Binary,
                            &vec![1; rng.usize(1..3000)],
                        );
                    }
                    if round % 9 == 0 {
                        ends.a.close(rng.u16(0..4));
                    }
                }
                ends.round(|packet| {
                    if rng.u8(..) < 60 {
                        for _ in 0..rng.usize(1..4) {
                            let at = rng.usize(12..packet.len());
                            packet[at] = rng.u8(..);
                        }
                        if rng.u8(..) < 40 {
                            packet.truncate(rng.usize(13..=packet.len()));
                        }
                        seal(packet);
                    }
                });
            }
        }
    }

    #[test]
    fn a_peer_that_opens_too_many_streams_loses_its_association() {
        let mut ends = Ends::new([true, false]);
        for _ in 0..10 {
            ends.round(|_| {});
        }
        for stream in 0..300 {
            ends.a.open(stream);
            ends.a.send(
                stream,
                true,
                Reliability::Reliable,
                PayloadProtocolIdentifier::Binary,
                b"x",
            );
        }
        for _ in 0..100 {
            ends.round(|_| {});
        }
        assert_eq!(ends.counters.sctp_refused, 1);
        assert!(!ends.b.established() && ends.b.association.is_none());
    }
}
