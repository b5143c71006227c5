//! ICE (RFC 8445): which path the peer can be reached on.
//!
//! Lite mode answers checks itself and keeps a bounded state; full mode drives the `is` crate's agent. Both answer
//! requests for the credentials before a restart until the new pair is up. Not a candidate gatherer: it is told its
//! addresses, and checks arrive at bound ones while advertised ones are what peers know (1:1 NAT).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use is::stun::{StunMessage, StunPacket};
use is::{
    Candidate, DefaultSha1HmacProvider, IceAgent, IceAgentEvent, IceCreds, Protocol as IsProtocol,
    Sha1HmacProvider,
};

use super::{LocalAddress, Protocol, TransportCounters, TransportError};

/// Distinct remote addresses a full agent will deal with in one ICE generation.
const MAX_SOURCES: usize = 64;
/// Remote candidates a full agent takes in one ICE generation.
const MAX_REMOTE_CANDIDATES: usize = 64;
/// Replies waiting to be drained; more are dropped.
const MAX_QUEUED: usize = 64;
/// STUN messages longer than this are no connectivity checks.
const MAX_STUN_LENGTH: usize = 1200;
/// Longest USERNAME a full agent can put into its checks; it panics at longer ones.
const MAX_USERNAME: usize = 128;
/// Distinct mapped addresses a full agent believes its peer in one ICE generation.
const MAX_MAPPED: usize = 16;

/// A local socket and the peer address it talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// The driver's number for the socket.
    pub socket: usize,
    /// The peer.
    pub destination: SocketAddr,
}

/// One side's user name fragment and password.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) ufrag: String,
    pub(super) pwd: String,
}

impl Credentials {
    /// Checks the lengths RFC 8445 section 5.3 and RFC 8839 section 5.4 allow, and that a user name stays one.
    pub(super) fn new(ufrag: &str, pwd: &str) -> Result<Self, TransportError> {
        let ice_chars = |text: &str| {
            text.bytes()
                .all(|byte| byte.is_ascii_graphic() && byte != b':')
        };
        if !(4..=256).contains(&ufrag.len()) || !ice_chars(ufrag) {
            return Err(TransportError::BadUfrag);
        }
        if !(22..=256).contains(&pwd.len()) || !ice_chars(pwd) {
            return Err(TransportError::BadPassword);
        }
        Ok(Self {
            ufrag: ufrag.to_owned(),
            pwd: pwd.to_owned(),
        })
    }
}

fn sha1_hmac(key: &[u8], payloads: &[&[u8]]) -> [u8; 20] {
    DefaultSha1HmacProvider.sha1_hmac(key, payloads)
}

/// ICE of one peer connection.
pub(super) struct Ice {
    local: Credentials,
    remote: Option<Credentials>,
    /// Local credentials before the restart; answered until the new generation has a pair.
    previous: Option<Credentials>,
    locals: Vec<LocalAddress>,
    /// None in lite mode.
    agent: Option<Box<IceAgent>>,
    nominated: Option<Path>,
    authenticated: Option<Path>,
    /// The path of the generation before.
    before: Option<Path>,
    checked: bool,
    heard: Option<Instant>,
    queue: VecDeque<(Path, Vec<u8>)>,
    sources: Vec<(usize, SocketAddr)>,
    mapped: Vec<SocketAddr>,
    remote_candidates: usize,
}

impl Ice {
    pub(super) fn new(
        local: Credentials,
        lite: bool,
        controlling: bool,
        locals: &[LocalAddress],
        now: Instant,
    ) -> Self {
        let agent = (!lite).then(|| {
            let mut agent = Box::new(IceAgent::new(creds(&local)));
            agent.set_controlling(controlling);
            for address in locals {
                let candidate = match address.protocol {
                    Protocol::Udp => Candidate::host(address.advertised, IsProtocol::Udp),
                    Protocol::Tcp => Candidate::host(address.advertised, IsProtocol::Tcp),
                };
                if let Ok(candidate) = candidate {
                    agent.add_local_candidate(candidate);
                }
            }
            agent.handle_timeout(now);
            agent
        });
        Self {
            local,
            remote: None,
            previous: None,
            locals: locals.to_vec(),
            agent,
            nominated: None,
            authenticated: None,
            before: None,
            checked: false,
            heard: None,
            queue: VecDeque::new(),
            sources: Vec::new(),
            mapped: Vec::new(),
            remote_candidates: 0,
        }
    }

    pub(super) fn local_ufrag(&self) -> &str {
        &self.local.ufrag
    }

    pub(super) fn previous_ufrag(&self) -> Option<&str> {
        self.previous.as_ref().map(|creds| creds.ufrag.as_str())
    }

    /// An authenticated check with the present local credentials arrived (or, full, one of ours was answered).
    pub(super) fn checked(&self) -> bool {
        self.checked
    }

    /// When an authenticated packet last arrived.
    pub(super) fn heard(&self) -> Option<Instant> {
        self.heard
    }

    pub(super) fn note_heard(&mut self, now: Instant) {
        self.heard = Some(now);
    }

    /// The path the peer nominated; before that the last authenticated one, else the one before the restart.
    pub(super) fn path(&self) -> Option<Path> {
        self.nominated.or(self.authenticated).or(self.before)
    }

    pub(super) fn set_remote(
        &mut self,
        now: Instant,
        remote: Credentials,
    ) -> Result<(), TransportError> {
        if self.remote.as_ref() == Some(&remote) {
            return Ok(());
        }
        if let Some(agent) = &mut self.agent {
            if remote.ufrag.len() + 1 + self.local.ufrag.len() > MAX_USERNAME {
                return Err(TransportError::BadUfrag);
            }
            agent.set_remote_credentials(creds(&remote));
        }
        self.remote = Some(remote);
        self.run_agent(now);
        Ok(())
    }

    pub(super) fn restart(&mut self, now: Instant, local: Credentials) {
        if local == self.local {
            return;
        }
        self.before = self.path();
        self.nominated = None;
        self.authenticated = None;
        self.checked = false;
        self.remote = None;
        self.sources.clear();
        self.mapped.clear();
        self.remote_candidates = 0;
        if let Some(agent) = &mut self.agent {
            agent.ice_restart(creds(&local), true);
        }
        self.previous = Some(std::mem::replace(&mut self.local, local));
        self.run_agent(now);
    }

    /// Takes a trickled candidate, with or without `a=` and `candidate:`; empty means no more will come.
    pub(super) fn add_remote_candidate(
        &mut self,
        now: Instant,
        text: &str,
    ) -> Result<(), TransportError> {
        let text = text.trim();
        let text = text.strip_prefix("a=").unwrap_or(text);
        let body = text.strip_prefix("candidate:").unwrap_or(text).trim();
        if body.is_empty() || text == "end-of-candidates" {
            return Ok(());
        }
        let address = body.split_ascii_whitespace().nth(4).unwrap_or_default();
        if address.to_ascii_lowercase().ends_with(".local") {
            return Ok(());
        }
        let candidate = Candidate::from_sdp_string(&format!("candidate:{body}"))
            .map_err(|_| TransportError::BadCandidate)?;
        let Some(agent) = &mut self.agent else {
            return Ok(());
        };
        if candidate.proto() != IsProtocol::Udp {
            return Ok(());
        }
        if self.remote_candidates >= MAX_REMOTE_CANDIDATES {
            return Err(TransportError::TooManyCandidates);
        }
        self.remote_candidates += 1;
        agent.add_remote_candidate(candidate);
        self.run_agent(now);
        Ok(())
    }

    /// Takes a STUN message. Anything that is no authenticated check for this transport is dropped and counted.
    pub(super) fn handle(
        &mut self,
        now: Instant,
        socket: usize,
        source: SocketAddr,
        packet: &[u8],
        counters: &mut TransportCounters,
    ) {
        if packet.len() > MAX_STUN_LENGTH {
            counters.stun_malformed += 1;
            return;
        }
        let Ok(message) = StunMessage::parse(packet) else {
            counters.stun_malformed += 1;
            return;
        };
        let Some(address) = self.arrival(socket, source) else {
            counters.stun_malformed += 1;
            return;
        };
        let path = Path {
            socket,
            destination: source,
        };
        if message.is_binding_request() {
            let Some((to, _)) = message.split_username() else {
                counters.stun_malformed += 1;
                return;
            };
            if let Some(previous) = self.previous.clone().filter(|creds| creds.ufrag == to) {
                self.answer_previous(now, path, &message, &previous, counters);
                return;
            }
        }
        if self.agent.is_some() {
            self.handle_full(now, path, address, message, counters);
        } else {
            self.handle_lite(now, path, &message, counters);
        }
    }

    /// The address a packet arrived at, as told to peers, and its protocol.
    fn arrival(&self, socket: usize, source: SocketAddr) -> Option<(SocketAddr, IsProtocol)> {
        let on_socket = || self.locals.iter().filter(|local| local.socket == socket);
        on_socket()
            .find(|local| local.advertised.is_ipv4() == source.is_ipv4())
            .or_else(|| on_socket().next())
            .map(|local| {
                let protocol = match local.protocol {
                    Protocol::Udp => IsProtocol::Udp,
                    Protocol::Tcp => IsProtocol::Tcp,
                };
                (local.advertised, protocol)
            })
    }

    fn answer_previous(
        &mut self,
        now: Instant,
        path: Path,
        message: &StunMessage<'_>,
        previous: &Credentials,
        counters: &mut TransportCounters,
    ) {
        if !message.verify(previous.pwd.as_bytes(), sha1_hmac) {
            counters.stun_unauthenticated += 1;
            return;
        }
        self.heard = Some(now);
        if message.use_candidate() {
            self.before = Some(path);
        }
        self.reply(
            path,
            StunMessage::binding_reply(message.trans_id(), path.destination),
            &previous.pwd,
        );
    }

    fn handle_lite(
        &mut self,
        now: Instant,
        path: Path,
        message: &StunMessage<'_>,
        counters: &mut TransportCounters,
    ) {
        if !message.is_binding_request() {
            counters.stun_unexpected += 1;
            return;
        }
        let Some((to, from)) = message.split_username() else {
            counters.stun_malformed += 1;
            return;
        };
        let from_stranger = self
            .remote
            .as_ref()
            .is_some_and(|creds| creds.ufrag != from);
        if to != self.local.ufrag || from_stranger {
            counters.stun_unexpected += 1;
            return;
        }
        if !message.verify(self.local.pwd.as_bytes(), sha1_hmac) {
            counters.stun_unauthenticated += 1;
            return;
        }
        let pwd = self.local.pwd.clone();
        if message.ice_controlled().is_some() {
            // A lite agent never controls (RFC 8445 section 6.1.1), so the peer must switch whatever the tie-breakers.
            self.reply(
                path,
                StunMessage::binding_role_conflict_reply(message.trans_id()),
                &pwd,
            );
            return;
        }
        self.reply(
            path,
            StunMessage::binding_reply(message.trans_id(), path.destination),
            &pwd,
        );
        self.heard = Some(now);
        self.checked = true;
        self.authenticated = Some(path);
        if message.use_candidate() {
            self.nominate(path);
        }
    }

    fn handle_full(
        &mut self,
        now: Instant,
        path: Path,
        (destination, proto): (SocketAddr, IsProtocol),
        message: StunMessage<'_>,
        counters: &mut TransportCounters,
    ) {
        let Some(agent) = &mut self.agent else { return };
        let source = (path.socket, path.destination);
        let known = self.sources.contains(&source);
        if !known && self.sources.len() >= MAX_SOURCES {
            counters.stun_unexpected += 1;
            return;
        }
        let request = message.is_binding_request();
        let success = message.is_successful_binding_response();
        // The agent wants remote credentials before it looks at any answer.
        if !request && self.remote.is_none() {
            counters.stun_unexpected += 1;
            return;
        }
        let mapped = message.mapped_address().filter(|_| success);
        let new_mapped = mapped.filter(|address| !self.mapped.contains(address));
        if new_mapped.is_some() && self.mapped.len() >= MAX_MAPPED {
            counters.stun_unexpected += 1;
            return;
        }
        let accepted = agent.handle_packet(
            now,
            StunPacket {
                proto,
                source: path.destination,
                destination,
                message,
            },
        );
        if !accepted {
            counters.stun_unauthenticated += 1;
            return;
        }
        if !known {
            self.sources.push(source);
        }
        self.mapped.extend(new_mapped);
        if request || success {
            self.heard = Some(now);
            self.checked = true;
            self.authenticated = Some(path);
        }
        self.run_agent(now);
    }

    fn nominate(&mut self, path: Path) {
        self.nominated = Some(path);
        self.previous = None;
        self.before = None;
    }

    fn reply(&mut self, path: Path, message: StunMessage<'_>, pwd: &str) {
        if self.queue.len() >= MAX_QUEUED {
            return;
        }
        let mut data = vec![0; 128];
        if let Ok(length) = message.to_bytes(Some(pwd.as_bytes()), &mut data, sha1_hmac) {
            data.truncate(length);
            self.queue.push_back((path, data));
        }
    }

    fn run_agent(&mut self, now: Instant) {
        let Some(agent) = &mut self.agent else { return };
        agent.handle_timeout(now);
        self.drain_agent();
    }

    fn drain_agent(&mut self) {
        let Some(agent) = &mut self.agent else { return };
        let mut nominated = None;
        while let Some(transmit) = agent.poll_transmit() {
            let socket = self
                .locals
                .iter()
                .find(|local| local.advertised == transmit.source)
                .map(|local| local.socket);
            if let Some(socket) = socket
                && self.queue.len() < MAX_QUEUED
            {
                let path = Path {
                    socket,
                    destination: transmit.destination,
                };
                self.queue.push_back((path, transmit.contents.into()));
            }
        }
        while let Some(event) = agent.poll_event() {
            if let IceAgentEvent::NominatedSend {
                source,
                destination,
                ..
            } = event
            {
                nominated = self
                    .locals
                    .iter()
                    .find(|local| local.advertised == source)
                    .map(|local| Path {
                        socket: local.socket,
                        destination,
                    })
                    .or(nominated);
            }
        }
        if let Some(path) = nominated {
            self.nominate(path);
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if let Some(agent) = &mut self.agent
            && agent.poll_timeout().is_none_or(|at| at <= now)
        {
            self.run_agent(now);
        }
    }

    pub(super) fn poll_timeout(&mut self) -> Option<Instant> {
        self.agent.as_mut().and_then(|agent| agent.poll_timeout())
    }

    pub(super) fn poll_transmit(&mut self) -> Option<(Path, Vec<u8>)> {
        self.queue.pop_front()
    }
}

fn creds(credentials: &Credentials) -> IceCreds {
    IceCreds {
        ufrag: credentials.ufrag.clone(),
        pass: credentials.pwd.clone(),
    }
}

/// Candidate lines for a server's addresses (RFC 8839 section 5.1), without `a=`; UDP first.
///
/// TCP candidates are passive (RFC 6544). Priorities fall with the position in `locals`.
pub fn candidate_lines(locals: &[LocalAddress]) -> Vec<String> {
    let mut lines = Vec::with_capacity(locals.len());
    for wanted in [Protocol::Udp, Protocol::Tcp] {
        for (index, local) in locals.iter().enumerate() {
            if local.protocol != wanted {
                continue;
            }
            // RFC 8445 section 5.1.2.1: host type preference 126; TCP lower (RFC 6544 section 4.2), direction 4 = passive.
            let position = u32::try_from(index).unwrap_or(u32::MAX).min(4095);
            let (type_preference, local_preference, transport, suffix) = match wanted {
                Protocol::Udp => (126_u32, 65_535 - position, "udp", ""),
                Protocol::Tcp => (90, (4 << 13) + 8191 - position, "tcp", " tcptype passive"),
            };
            let priority = (type_preference << 24) | (local_preference << 8) | 255;
            let address = local.advertised;
            lines.push(format!(
                "candidate:{} 1 {transport} {priority} {} {} typ host{suffix}",
                index + 1,
                address.ip(),
                address.port(),
            ));
        }
    }
    lines
}
