//! ICE, DTLS, SCTP and data channels of one peer connection, without I/O.
//!
//! Law: mutate (`handle_*`, `set_*`, `send_*`), then drain `poll_output`, then ask `poll_timeout`. It is given STUN and
//! DTLS datagrams only; SRTP is the engine's, which gets its keys from here. Dropping it sends nothing: a moved session
//! falls silent here. Hostile input is dropped and counted ([`TransportCounters`]), and costs bounded memory.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sctp_proto::PayloadProtocolIdentifier as Ppi;
use serde::{Deserialize, Serialize};

mod channel;
mod dtls;
mod ice;
mod sctp;

pub use channel::{ChannelState, DcepMessage, OpenMessage, Reliability};
pub use dtls::DtlsIdentity;
pub use ice::{Path, candidate_lines};

use crate::srtp::SrtpProfile;
use channel::{Channel, Channels, MAX_CHANNELS, MAX_STREAMS};
use dtls::{DtlsEvent, DtlsSession, Fingerprint};
use ice::{Credentials, Ice};
use sctp::{Sctp, SctpEvent};

/// `a=sctp-port` of every description (RFC 8841).
pub const SCTP_PORT: u16 = 5000;
/// `a=max-message-size` of every description, bytes (RFC 8841).
pub const MAX_MESSAGE_SIZE: usize = 65_535;
/// Bytes a reliable channel holds for a slow peer; beyond it sending is an error.
pub const RELIABLE_BUFFER: usize = 16 * 1024 * 1024;
/// Bytes a lossy channel holds; beyond it messages are dropped.
pub const LOSSY_BUFFER: usize = 256 * 1024;
/// How old what waits on a lossy channel may be before new messages are dropped ...
pub const LOSSY_LATENCY: Duration = Duration::from_millis(500);
/// ... unless it is so little that a far peer's acknowledgements explain it.
const LOSSY_ALWAYS: usize = 16 * 1024;
/// Without authenticated traffic for this long: `Disconnected`.
pub const DISCONNECTED_AFTER: Duration = Duration::from_secs(10);
/// Without authenticated traffic for this long: `Failed`.
pub const FAILED_AFTER: Duration = Duration::from_secs(15);
/// No check at all after the peer's description for this long: `Failed`.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Events kept for a caller that does not drain; data beyond is dropped.
const MAX_OUTPUTS: usize = 8_192;

/// What carries datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// UDP.
    Udp,
    /// TCP with RFC 4571 framing, done by the driver.
    Tcp,
}

/// A local address the driver opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalAddress {
    /// The driver's number for the socket.
    pub socket: usize,
    /// As bound.
    pub bound: SocketAddr,
    /// As told to clients.
    pub advertised: SocketAddr,
    /// What it carries.
    pub protocol: Protocol,
}

/// How a transport is made. A server's is ICE-lite, controlled and DTLS-active, a client's the opposite of each.
#[derive(Clone, PartialEq, Eq)]
pub struct TransportConfig {
    /// Local ICE user name fragment.
    pub ufrag: String,
    /// Local ICE password.
    pub pwd: String,
    /// Answers checks, never makes its own (RFC 8445 section 2.5).
    pub ice_lite: bool,
    /// Nominates (RFC 8445 section 4); of no meaning in lite mode.
    pub controlling: bool,
    /// This side sends the ClientHello, and only after an authenticated check with its own ufrag.
    pub dtls_active: bool,
}

/// Why a transport refuses what it is told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// Not 4 to 256 ICE characters; for a full agent both sides' together at most 127.
    #[error("ICE user name fragment must be 4 to 256 ICE characters, to a full agent fewer")]
    BadUfrag,
    /// Not 22 to 256 ICE characters.
    #[error("ICE password must be 22 to 256 ICE characters")]
    BadPassword,
    /// Not "sha-256 AA:BB:.." (or sha-384, sha-512).
    #[error("fingerprint must be sha-256, sha-384 or sha-512 and its hex bytes")]
    BadFingerprint,
    /// No candidate line.
    #[error("malformed ICE candidate")]
    BadCandidate,
    /// More than 64 in one ICE generation.
    #[error("too many remote ICE candidates")]
    TooManyCandidates,
    /// No certificate.
    #[error("cannot make a DTLS identity: {0}")]
    Identity(String),
    /// More than 64, or no stream left.
    #[error("too many data channels")]
    TooManyChannels,
    /// A label of more than 512 bytes.
    #[error("data channel label too long")]
    LabelTooLong,
}

/// Why a message was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// No channel with this label.
    #[error("no such data channel")]
    NoChannel,
    /// More than [`MAX_MESSAGE_SIZE`] bytes.
    #[error("message too large")]
    TooLarge,
    /// A reliable channel holds [`RELIABLE_BUFFER`] bytes.
    #[error("send buffer full")]
    BufferFull,
    /// The association does not take it.
    #[error("data channel closed")]
    Closed,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Queued or sent.
    Queued,
    /// A lossy channel had too much waiting, or is not open yet.
    Dropped,
}

/// What a transport wants done or has to say.
#[derive(Clone, PartialEq, Eq)]
pub enum TransportOutput {
    /// Send a datagram.
    Transmit {
        /// From which socket.
        socket: usize,
        /// To whom.
        destination: SocketAddr,
        /// Payload.
        data: Vec<u8>,
    },
    /// Keys for new SRTP contexts (RFC 5764 section 4.2); they replace earlier ones.
    SrtpKeys {
        /// Agreed profile.
        profile: SrtpProfile,
        /// client key, server key, client salt, server salt.
        material: Vec<u8>,
        /// This side is the DTLS client.
        client: bool,
    },
    /// ICE and DTLS are up; also after `Disconnected`, and once more after a new DTLS association.
    Connected,
    /// Nothing authenticated arrived for 10 s.
    Disconnected,
    /// Given up; a description with new ICE credentials or a new fingerprint may revive it.
    Failed(String),
    /// Where to send from now on.
    Path {
        /// From which socket.
        socket: usize,
        /// To whom.
        destination: SocketAddr,
    },
    /// A channel can carry messages both ways; also when opened again after a new DTLS association.
    ChannelOpened {
        /// Its label.
        label: String,
        /// In order.
        ordered: bool,
        /// Neither retransmissions nor lifetime limited.
        reliable: bool,
    },
    /// The peer closed it, or SCTP was lost.
    ChannelClosed {
        /// Its label.
        label: String,
    },
    /// A message arrived.
    Data {
        /// The channel's label.
        label: String,
        /// Content, at most [`MAX_MESSAGE_SIZE`] bytes.
        payload: Vec<u8>,
        /// False: it is text (not checked to be UTF-8).
        binary: bool,
    },
}

impl std::fmt::Debug for TransportOutput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Transmit {
                socket,
                destination,
                data,
            } => write!(
                f,
                "Transmit({socket} -> {destination}, {} bytes)",
                data.len()
            ),
            Self::SrtpKeys {
                profile, client, ..
            } => write!(f, "SrtpKeys({profile:?}, client: {client})"),
            Self::Connected => f.write_str("Connected"),
            Self::Disconnected => f.write_str("Disconnected"),
            Self::Failed(reason) => write!(f, "Failed({reason})"),
            Self::Path {
                socket,
                destination,
            } => write!(f, "Path({socket} -> {destination})"),
            Self::ChannelOpened { label, .. } => write!(f, "ChannelOpened({label})"),
            Self::ChannelClosed { label } => write!(f, "ChannelClosed({label})"),
            Self::Data { label, payload, .. } => {
                write!(f, "Data({label}, {} bytes)", payload.len())
            }
        }
    }
}

/// What was dropped and why; counts since the transport was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransportCounters {
    /// No STUN message, or from an unknown socket.
    pub stun_malformed: u64,
    /// Wrong password, or a response to no check of ours.
    pub stun_unauthenticated: u64,
    /// For somebody else, or of a kind not expected here.
    pub stun_unexpected: u64,
    /// No use for DTLS: garbage, repeats, a wrong state.
    pub dtls_dropped: u64,
    /// DTLS that came before the peer's description, or after a failure.
    pub dtls_unexpected: u64,
    /// Outgoing DTLS with no path yet.
    pub no_path: u64,
    /// Packets no association took.
    pub sctp_dropped: u64,
    /// Associations ended for opening too many streams.
    pub sctp_refused: u64,
    /// DCEP messages that made no sense.
    pub dcep_malformed: u64,
    /// Channels refused: too many, or the stream is taken.
    pub channels_refused: u64,
    /// Messages on streams no channel was opened on.
    pub data_unknown_stream: u64,
    /// Messages beyond [`MAX_MESSAGE_SIZE`], both ways.
    pub data_too_large: u64,
    /// Messages a full reliable channel refused.
    pub data_refused: u64,
    /// Messages a lossy channel dropped.
    pub data_dropped: u64,
    /// Outputs dropped because nobody drained.
    pub outputs_dropped: u64,
    /// Panics of a protocol crate that were caught; each is a defect to report.
    pub panics: u64,
}

/// The data-channel part of a transport as a value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransportState {
    /// Channels that are open or wanted.
    pub channels: Vec<ChannelState>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Liveness {
    New,
    Connected,
    Disconnected,
    Failed,
}

/// ICE, DTLS, SCTP and data channels of one peer connection.
pub struct PeerTransport {
    dtls_active: bool,
    identity: Arc<DtlsIdentity>,
    ice: Ice,
    fingerprint: Option<Fingerprint>,
    dtls: Option<DtlsSession>,
    /// DTLS is over until the peer's description changes.
    dtls_failed: bool,
    sctp: Sctp,
    channels: Channels,
    liveness: Liveness,
    connect_deadline: Option<Instant>,
    path: Option<Path>,
    outputs: VecDeque<TransportOutput>,
    counters: TransportCounters,
    scratch: Vec<u8>,
}

impl PeerTransport {
    /// Makes a transport that waits for [`Self::set_remote`]; it answers checks at once.
    ///
    /// # Errors
    /// Malformed ICE credentials.
    pub fn new(
        config: TransportConfig,
        identity: Arc<DtlsIdentity>,
        locals: &[LocalAddress],
        now: Instant,
    ) -> Result<Self, TransportError> {
        let local = Credentials::new(&config.ufrag, &config.pwd)?;
        Ok(Self {
            dtls_active: config.dtls_active,
            identity,
            ice: Ice::new(local, config.ice_lite, config.controlling, locals, now),
            fingerprint: None,
            dtls: None,
            dtls_failed: false,
            sctp: Sctp::new(config.dtls_active),
            channels: Channels::default(),
            liveness: Liveness::New,
            connect_deadline: None,
            path: None,
            outputs: VecDeque::new(),
            counters: TransportCounters::default(),
            scratch: Vec::new(),
        })
    }

    /// Takes the peer's credentials and fingerprint. A changed fingerprint makes DTLS and SCTP anew; channels are kept
    /// and opened again.
    ///
    /// # Errors
    /// Malformed credentials or fingerprint; nothing changes then.
    pub fn set_remote(
        &mut self,
        now: Instant,
        ufrag: &str,
        pwd: &str,
        fingerprint: &str,
    ) -> Result<(), TransportError> {
        let remote = Credentials::new(ufrag, pwd)?;
        let fingerprint = Fingerprint::parse(fingerprint)?;
        self.ice.set_remote(now, remote)?;
        let changed = self.fingerprint.as_ref() != Some(&fingerprint);
        if changed || (self.dtls_failed && !self.dtls_connected()) {
            self.fingerprint = Some(fingerprint);
            self.dtls = None;
            self.dtls_failed = false;
            self.sctp = Sctp::new(self.dtls_active);
            self.channels.keep();
        }
        if self.liveness != Liveness::Connected {
            self.connect_deadline = now.checked_add(CONNECT_TIMEOUT);
        }
        self.drive(now);
        Ok(())
    }

    /// New local credentials (RFC 8445 section 9); [`Self::set_remote`] follows. The old path goes on until a new one
    /// is up.
    ///
    /// # Errors
    /// Malformed credentials; nothing changes then.
    pub fn restart_ice(
        &mut self,
        now: Instant,
        ufrag: &str,
        pwd: &str,
    ) -> Result<(), TransportError> {
        let local = Credentials::new(ufrag, pwd)?;
        self.ice.restart(now, local);
        self.drive(now);
        Ok(())
    }

    /// Takes a trickled candidate (RFC 8839), with or without `a=` and `candidate:`; an empty one ends them. `.local`
    /// names are read over, and a lite agent needs none.
    ///
    /// # Errors
    /// Malformed, or too many.
    pub fn add_remote_candidate(
        &mut self,
        now: Instant,
        candidate: &str,
    ) -> Result<(), TransportError> {
        self.ice.add_remote_candidate(now, candidate)?;
        self.drive(now);
        Ok(())
    }

    /// The present local user name fragment.
    pub fn local_ufrag(&self) -> &str {
        self.ice.local_ufrag()
    }

    /// The one before the restart, while it is still answered.
    pub fn previous_ufrag(&self) -> Option<&str> {
        self.ice.previous_ufrag()
    }

    /// What was dropped.
    pub fn counters(&self) -> TransportCounters {
        self.counters
    }

    /// Where to send; None before the first authenticated check.
    pub fn path(&self) -> Option<Path> {
        self.path
    }

    fn dtls_connected(&self) -> bool {
        self.dtls.as_ref().is_some_and(DtlsSession::connected)
    }

    /// Takes a datagram whose first byte is 0..=3 (RFC 7983).
    pub fn handle_stun(&mut self, now: Instant, socket: usize, source: SocketAddr, packet: &[u8]) {
        self.guarded(|this| {
            this.ice
                .handle(now, socket, source, packet, &mut this.counters);
            this.drive(now);
        });
    }

    /// Runs what hostile input may reach. The protocol crates below assert much; should one panic, this peer is given
    /// up, not the thread with all the others.
    fn guarded(&mut self, act: impl FnOnce(&mut Self)) {
        let act = std::panic::AssertUnwindSafe(|| act(self));
        if std::panic::catch_unwind(act).is_err() {
            self.counters.panics += 1;
            self.fail_dtls("internal error".to_owned());
        }
    }

    /// Takes a datagram whose first byte is 20..=63 (RFC 7983), from an address that is known to be this peer's.
    pub fn handle_dtls(&mut self, now: Instant, packet: &[u8]) {
        self.guarded(|this| this.receive_dtls(now, packet));
    }

    fn receive_dtls(&mut self, now: Instant, packet: &[u8]) {
        match &mut self.dtls {
            Some(dtls) if !self.dtls_failed => {
                if let Err(error) = dtls.handle(now, packet) {
                    self.counters.dtls_dropped += 1;
                    let stuck = matches!(
                        error,
                        dimpl::Error::ReceiveQueueFull | dimpl::Error::TooManyClientHelloFragments
                    );
                    if stuck && !self.dtls_active && !dtls.connected() && !dtls.refused() {
                        // Forged handshake records filled its queue; the true ClientHello will be repeated.
                        self.dtls = None;
                    }
                }
                self.drive(now);
            }
            _ => self.counters.dtls_unexpected += 1,
        }
    }

    /// An SRTP or SRTCP packet of this peer was authentic: it lives.
    pub fn note_authenticated(&mut self, now: Instant) {
        self.ice.note_heard(now);
        if matches!(
            self.liveness,
            Liveness::Disconnected | Liveness::Failed | Liveness::New
        ) {
            self.update_liveness(now);
        }
    }

    /// Does what is due; calling too early does nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.guarded(|this| this.run_timers(now));
    }

    fn run_timers(&mut self, now: Instant) {
        self.ice.handle_timeout(now);
        if let Some(dtls) = &mut self.dtls
            && !self.dtls_failed
            && dtls.poll_timeout().is_some_and(|at| at <= now)
            && let Err(error) = dtls.handle_timeout(now)
        {
            self.fail_dtls(format!("DTLS failed: {error}"));
        }
        self.sctp.handle_timeout(now);
        self.drive(now);
    }

    /// When `handle_timeout` is due; None: not before something else happens.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        let dtls = match &self.dtls {
            Some(dtls) if !self.dtls_failed => dtls.poll_timeout(),
            _ => None,
        };
        let liveness = match (self.liveness, self.ice.heard()) {
            (Liveness::Failed, _) => None,
            (Liveness::New, None) => self.connect_deadline,
            (Liveness::Disconnected, Some(heard)) => heard.checked_add(FAILED_AFTER),
            (_, Some(heard)) => heard.checked_add(DISCONNECTED_AFTER),
            (_, None) => None,
        };
        [
            self.ice.poll_timeout(),
            dtls,
            self.sctp.poll_timeout(),
            liveness,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Next thing to do or know.
    pub fn poll_output(&mut self) -> Option<TransportOutput> {
        self.outputs.pop_front()
    }

    /// Wants a channel; it is opened as soon as SCTP is up. A label that exists is left as it is.
    ///
    /// # Errors
    /// Too many channels, or a label of more than 512 bytes.
    pub fn open_channel(
        &mut self,
        now: Instant,
        label: &str,
        ordered: bool,
        max_retransmits: Option<u16>,
    ) -> Result<(), TransportError> {
        let exists = self
            .channels
            .list
            .iter()
            .any(|channel| channel.state.local && channel.state.label == label);
        if exists {
            return Ok(());
        }
        if label.len() > 512 {
            return Err(TransportError::LabelTooLong);
        }
        if self.channels.list.len() >= MAX_CHANNELS {
            return Err(TransportError::TooManyChannels);
        }
        let stream = self
            .channels
            .free_stream(self.dtls_active)
            .ok_or(TransportError::TooManyChannels)?;
        self.channels.list.push(Channel::new(ChannelState {
            label: label.to_owned(),
            ordered,
            reliability: match max_retransmits {
                None => Reliability::Reliable,
                Some(count) => Reliability::Retransmits(u32::from(count)),
            },
            stream,
            local: true,
        }));
        if self.sctp.established() {
            self.open_channels();
            self.drive(now);
        }
        Ok(())
    }

    /// Closes a channel (RFC 8831 section 6.7) and forgets it.
    pub fn close_channel(&mut self, now: Instant, label: &str) {
        if let Some(index) = self.channels.index_of(label) {
            let channel = self.channels.list.remove(index);
            if channel.open {
                self.channels.closing.push(channel.state.stream);
                self.sctp.close(channel.state.stream);
            }
            self.drive(now);
        }
    }

    /// Sends a message.
    ///
    /// # Errors
    /// See [`SendError`]; nothing was sent then.
    pub fn send_data(
        &mut self,
        now: Instant,
        label: &str,
        payload: &[u8],
        binary: bool,
    ) -> Result<Sent, SendError> {
        let index = self.channels.index_of(label).ok_or(SendError::NoChannel)?;
        if payload.len() > MAX_MESSAGE_SIZE {
            self.counters.data_too_large += 1;
            return Err(SendError::TooLarge);
        }
        let Some(channel) = self.channels.list.get_mut(index) else {
            return Err(SendError::NoChannel);
        };
        let buffered = channel.pending_bytes + self.sctp.buffered(channel.state.stream);
        if channel.reliable() {
            if buffered + payload.len() > RELIABLE_BUFFER {
                self.counters.data_refused += 1;
                return Err(SendError::BufferFull);
            }
        } else if buffered + payload.len() > LOSSY_BUFFER
            || !channel.open
            || (channel.waits(now, buffered) > LOSSY_LATENCY
                && buffered + payload.len() > LOSSY_ALWAYS)
        {
            self.counters.data_dropped += 1;
            return Ok(Sent::Dropped);
        }
        if !channel.open {
            // At least 64 bytes each, so that empty messages cost something too.
            channel.pending_bytes += payload.len().max(64);
            channel.pending.push_back((payload.to_vec(), binary));
            return Ok(Sent::Queued);
        }
        if !write_message(&mut self.sctp, channel, payload, binary) {
            return Err(SendError::Closed);
        }
        if !channel.reliable() {
            channel.mark(now, payload.len().max(1));
        }
        self.drive(now);
        Ok(Sent::Queued)
    }

    /// Bytes a channel holds that the peer has not acknowledged.
    pub fn buffered(&mut self, label: &str) -> usize {
        let Some(channel) = self
            .channels
            .index_of(label)
            .and_then(|index| self.channels.list.get(index))
        else {
            return 0;
        };
        channel.pending_bytes + self.sctp.buffered(channel.state.stream)
    }

    /// The data channels as a value.
    pub fn export(&self) -> TransportState {
        TransportState {
            channels: self
                .channels
                .list
                .iter()
                .map(|channel| channel.state.clone())
                .collect(),
        }
    }

    /// Takes over the channels of another transport; for a fresh one, before [`Self::set_remote`]. They are opened on
    /// the same streams when SCTP is up. Channels that do not fit are left out.
    pub fn import(&mut self, state: &TransportState) {
        for channel in &state.channels {
            let taken = self.channels.by_stream(channel.stream).is_some();
            if taken
                || channel.stream >= MAX_STREAMS
                || channel.label.len() > 512
                || self.channels.list.len() >= MAX_CHANNELS
            {
                self.counters.channels_refused += 1;
                continue;
            }
            let mut imported = Channel::new(channel.clone());
            imported.kept = true;
            self.channels.list.push(imported);
        }
    }

    fn push(&mut self, output: TransportOutput) {
        if self.outputs.len() >= MAX_OUTPUTS {
            self.counters.outputs_dropped += 1;
            return;
        }
        self.outputs.push_back(output);
    }

    fn transmit(&mut self, data: Vec<u8>) {
        match self.path {
            Some(path) => self.push(TransportOutput::Transmit {
                socket: path.socket,
                destination: path.destination,
                data,
            }),
            None => self.counters.no_path += 1,
        }
    }

    /// Moves everything on until nothing is left to do at `now`.
    fn drive(&mut self, now: Instant) {
        while let Some((path, data)) = self.ice.poll_transmit() {
            self.push(TransportOutput::Transmit {
                socket: path.socket,
                destination: path.destination,
                data,
            });
        }
        let path = self.ice.path();
        if path != self.path
            && let Some(path) = path
        {
            self.path = Some(path);
            self.push(TransportOutput::Path {
                socket: path.socket,
                destination: path.destination,
            });
        }
        self.start_dtls(now);
        loop {
            self.drive_dtls(now);
            if !self.drive_sctp(now) {
                break;
            }
        }
        self.update_liveness(now);
    }

    fn start_dtls(&mut self, now: Instant) {
        let Some(fingerprint) = &self.fingerprint else {
            return;
        };
        if self.dtls.is_some() || self.dtls_failed || (self.dtls_active && !self.ice.checked()) {
            return;
        }
        match DtlsSession::new(&self.identity, self.dtls_active, fingerprint.clone(), now) {
            Ok(dtls) => self.dtls = Some(dtls),
            Err(error) => self.fail_dtls(format!("DTLS failed: {error}")),
        }
    }

    fn fail_dtls(&mut self, reason: String) {
        self.dtls = None;
        self.dtls_failed = true;
        self.liveness = Liveness::Failed;
        self.push(TransportOutput::Failed(reason));
        self.sctp = Sctp::new(self.dtls_active);
        self.channels.keep();
    }

    fn drive_dtls(&mut self, now: Instant) {
        while let Some(event) = self
            .dtls
            .as_mut()
            .and_then(|dtls| dtls.poll(&mut self.scratch))
        {
            match event {
                DtlsEvent::Packet(data) => self.transmit(data),
                DtlsEvent::Keys { profile, material } => self.push(TransportOutput::SrtpKeys {
                    profile,
                    material,
                    client: self.dtls_active,
                }),
                DtlsEvent::Connected => {
                    self.ice.note_heard(now);
                    self.liveness = Liveness::Connected;
                    self.push(TransportOutput::Connected);
                    self.sctp.start();
                }
                DtlsEvent::Data(data) => {
                    self.ice.note_heard(now);
                    self.sctp.handle(now, data, &mut self.counters);
                }
                DtlsEvent::Closed => self.fail_dtls("the peer closed the connection".to_owned()),
                DtlsEvent::WrongCertificate => {
                    self.fail_dtls("the peer's certificate is not the announced one".to_owned());
                }
            }
        }
    }

    /// True when something went out, so DTLS must be drained again.
    fn drive_sctp(&mut self, now: Instant) -> bool {
        while let Some(event) = self.sctp.poll(&mut self.counters) {
            match event {
                SctpEvent::Established | SctpEvent::StreamFree => self.open_channels(),
                SctpEvent::Lost => self.lose_channels(),
                SctpEvent::Message { stream, ppi, data } => self.receive(stream, ppi, data),
                SctpEvent::StreamClosed(stream) => {
                    if let Some(channel) = self.channels.remove_stream(stream) {
                        self.push(TransportOutput::ChannelClosed {
                            label: channel.state.label,
                        });
                    }
                }
            }
        }
        if !self.dtls_connected() {
            return false;
        }
        let packets = self.sctp.poll_transmit(now);
        let any = !packets.is_empty();
        for packet in packets {
            if let Some(dtls) = &mut self.dtls {
                // Refused only when the session is over; SCTP repeats what was lost.
                let _ = dtls.send(&packet);
            }
            self.drive_dtls_packets();
        }
        any
    }

    /// Drains packets only: the DTLS queue is short, and SCTP may have many to send.
    fn drive_dtls_packets(&mut self) {
        while let Some(dtls) = &mut self.dtls {
            match dtls.poll_packet(&mut self.scratch) {
                Some(data) => self.transmit(data),
                None => break,
            }
        }
    }

    fn open_channels(&mut self) {
        for index in 0..self.channels.list.len() {
            let Some(channel) = self.channels.list.get_mut(index) else {
                break;
            };
            if channel.open || !self.sctp.open(channel.state.stream) {
                continue;
            }
            if channel.state.local {
                let message = channel.open_message().write();
                self.sctp.send(
                    channel.state.stream,
                    true,
                    Reliability::Reliable,
                    Ppi::Dcep,
                    &message,
                );
            }
            channel.open = true;
            channel.confirmed = channel.kept;
            if channel.kept {
                self.announce(index);
            }
            self.flush_pending(index);
        }
    }

    fn flush_pending(&mut self, index: usize) {
        let Some(channel) = self.channels.list.get_mut(index) else {
            return;
        };
        while let Some((payload, binary)) = channel.pending.pop_front() {
            write_message(&mut self.sctp, channel, &payload, binary);
        }
        channel.pending_bytes = 0;
    }

    fn announce(&mut self, index: usize) {
        let Some(channel) = self.channels.list.get_mut(index) else {
            return;
        };
        if std::mem::replace(&mut channel.announced, true) {
            return;
        }
        let opened = TransportOutput::ChannelOpened {
            label: channel.state.label.clone(),
            ordered: channel.state.ordered,
            reliable: channel.reliable(),
        };
        self.push(opened);
    }

    /// SCTP alone was lost: the peer's channels end, ours are opened again should it come back.
    fn lose_channels(&mut self) {
        for channel in &self.channels.list {
            if channel.open && self.outputs.len() < MAX_OUTPUTS {
                self.outputs.push_back(TransportOutput::ChannelClosed {
                    label: channel.state.label.clone(),
                });
            }
        }
        self.channels.list.retain(|channel| channel.state.local);
        self.channels.keep();
        for channel in &mut self.channels.list {
            channel.kept = false;
        }
    }

    fn receive(&mut self, stream: u16, ppi: Ppi, data: Vec<u8>) {
        let binary = match ppi {
            Ppi::Dcep => return self.receive_dcep(stream, &data),
            Ppi::String | Ppi::StringEmpty => false,
            Ppi::Binary | Ppi::BinaryEmpty => true,
            Ppi::Unknown => {
                self.counters.data_unknown_stream += 1;
                return;
            }
        };
        let Some(index) = self
            .channels
            .list
            .iter()
            .position(|channel| channel.state.stream == stream)
        else {
            self.counters.data_unknown_stream += 1;
            return;
        };
        self.confirm(index);
        let Some(channel) = self.channels.list.get(index) else {
            return;
        };
        let label = channel.state.label.clone();
        let payload = match ppi {
            // A message of no bytes is carried as one that means nothing (RFC 8831 section 6.6).
            Ppi::StringEmpty | Ppi::BinaryEmpty => Vec::new(),
            _ => data,
        };
        self.push(TransportOutput::Data {
            label,
            payload,
            binary,
        });
    }

    fn confirm(&mut self, index: usize) {
        if let Some(channel) = self.channels.list.get_mut(index) {
            channel.confirmed = true;
            self.announce(index);
        }
    }

    fn receive_dcep(&mut self, stream: u16, data: &[u8]) {
        match DcepMessage::parse(data) {
            None => self.counters.dcep_malformed += 1,
            Some(DcepMessage::Ack) => {
                let index = self
                    .channels
                    .list
                    .iter()
                    .position(|channel| channel.state.stream == stream && channel.state.local);
                match index {
                    Some(index) => self.confirm(index),
                    None => self.counters.dcep_malformed += 1,
                }
            }
            Some(DcepMessage::Open(open)) => self.accept_channel(stream, open),
        }
    }

    fn accept_channel(&mut self, stream: u16, open: OpenMessage) {
        let full = self.channels.list.len() >= MAX_CHANNELS;
        match self.channels.by_stream(stream) {
            Some(channel) if channel.state.label != open.label => {
                self.counters.channels_refused += 1;
                return;
            }
            Some(_) => {}
            None if full || stream >= MAX_STREAMS => {
                self.counters.channels_refused += 1;
                self.sctp.close(stream);
                return;
            }
            None => self.channels.list.push(Channel::new(ChannelState {
                label: open.label,
                ordered: open.ordered,
                reliability: open.reliability,
                stream,
                local: false,
            })),
        }
        self.sctp.send(
            stream,
            true,
            Reliability::Reliable,
            Ppi::Dcep,
            &DcepMessage::Ack.write(),
        );
        let index = self
            .channels
            .list
            .iter()
            .position(|channel| channel.state.stream == stream);
        if let Some(index) = index {
            if let Some(channel) = self.channels.list.get_mut(index) {
                channel.open = true;
            }
            self.confirm(index);
            self.flush_pending(index);
        }
    }

    fn update_liveness(&mut self, now: Instant) {
        let Some(heard) = self.ice.heard() else {
            if self.liveness == Liveness::New && self.connect_deadline.is_some_and(|at| at <= now) {
                self.liveness = Liveness::Failed;
                self.push(TransportOutput::Failed(
                    "no connectivity check arrived".to_owned(),
                ));
            }
            return;
        };
        let silent = now.saturating_duration_since(heard);
        match self.liveness {
            _ if self.dtls_failed => {}
            Liveness::New | Liveness::Connected if silent >= DISCONNECTED_AFTER => {
                self.liveness = Liveness::Disconnected;
                self.push(TransportOutput::Disconnected);
                self.update_liveness(now);
            }
            Liveness::Disconnected if silent >= FAILED_AFTER => {
                self.liveness = Liveness::Failed;
                self.push(TransportOutput::Failed(
                    "no authenticated traffic".to_owned(),
                ));
            }
            Liveness::Disconnected | Liveness::Failed if silent < DISCONNECTED_AFTER => {
                if self.dtls_connected() {
                    self.liveness = Liveness::Connected;
                    self.push(TransportOutput::Connected);
                } else {
                    self.liveness = Liveness::New;
                }
            }
            _ => {}
        }
    }
}

/// Writes a message on an open channel.
fn write_message(sctp: &mut Sctp, channel: &Channel, payload: &[u8], binary: bool) -> bool {
    let (ppi, payload) = match (binary, payload.is_empty()) {
        (true, false) => (Ppi::Binary, payload),
        (false, false) => (Ppi::String, payload),
        (true, true) => (Ppi::BinaryEmpty, &[0][..]),
        (false, true) => (Ppi::StringEmpty, &[0][..]),
    };
    // Until the peer knows the channel, nothing may overtake its OPEN (RFC 8832 section 6).
    let ordered = channel.state.ordered || !channel.confirmed;
    sctp.send(
        channel.state.stream,
        ordered,
        channel.state.reliability,
        ppi,
        payload,
    )
}
