//! DTLS 1.2 and 1.3 (RFC 6347, RFC 9147) with keys for SRTP (RFC 5764), by the `dimpl` crate.
//!
//! A session is given out as connected only after the peer's certificate matched the fingerprint of its description
//! (RFC 8122). Dropping a session sends nothing, not even close_notify.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use dimpl::{Config, Dtls, DtlsCertificate, Output};

use super::TransportError;
use crate::srtp::SrtpProfile;

/// Longer datagrams are no DTLS of a peer over UDP.
const MAX_DATAGRAM: usize = 2_048;
/// Room for whatever comes out while shaking hands. The crate asserts that the peer's certificate fits, and takes at
/// most 30 datagrams of a message, so none is longer than 61,440 bytes.
const HANDSHAKE_SCRATCH: usize = 65_536;
/// Room for one datagram's data after that.
const CONNECTED_SCRATCH: usize = 2_048;

/// The certificate and DTLS settings of a process; shared by all its peer connections, kept over no restart.
pub struct DtlsIdentity {
    certificate: DtlsCertificate,
    config: Arc<Config>,
    dtls13: bool,
    fingerprint: String,
}

impl std::fmt::Debug for DtlsIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DtlsIdentity")
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

impl DtlsIdentity {
    /// Makes a certificate and checks the cryptography once (about 50 ms).
    ///
    /// # Errors
    /// `TransportError::Identity` when no certificate could be made or the self-test fails.
    pub fn new() -> Result<Self, TransportError> {
        Self::with_versions(true)
    }

    /// As [`Self::new`], but speaks DTLS 1.2 only, as pion and aiortc do. For tests against such a peer.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_dtls12_only() -> Result<Self, TransportError> {
        Self::with_versions(false)
    }

    fn with_versions(dtls13: bool) -> Result<Self, TransportError> {
        let certificate = dimpl::certificate::generate_self_signed_certificate()
            .map_err(|error| TransportError::Identity(error.to_string()))?;
        let mut builder = Config::builder();
        if !dtls13 {
            builder = builder.dtls13_cipher_suites(&[]);
        }
        let config = builder
            .mtu(1200)
            .flight_start_rto(Duration::from_millis(250))
            .flight_retries(8)
            .handshake_timeout(Duration::from_secs(30))
            .use_server_cookie(false)
            .build()
            .map_err(|error| TransportError::Identity(error.to_string()))?;
        let fingerprint = format!("sha-256 {}", certificate.fingerprint_str());
        Ok(Self {
            certificate,
            config: Arc::new(config),
            dtls13,
            fingerprint,
        })
    }

    /// "sha-256 AA:BB:..", the value of `a=fingerprint` (RFC 8122 section 5).
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

/// A peer's announced certificate digest (RFC 8122).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint {
    algorithm: &'static digest::Algorithm,
    digest: Vec<u8>,
}

impl Fingerprint {
    /// Parses "sha-256 AA:BB:..". SHA-1 and MD5 are refused: they prove nothing.
    pub(super) fn parse(text: &str) -> Result<Self, TransportError> {
        let mut words = text.split_ascii_whitespace();
        let (Some(name), Some(hex), None) = (words.next(), words.next(), words.next()) else {
            return Err(TransportError::BadFingerprint);
        };
        let algorithm = match name.to_ascii_lowercase().as_str() {
            "sha-256" => &digest::SHA256,
            "sha-384" => &digest::SHA384,
            "sha-512" => &digest::SHA512,
            _ => return Err(TransportError::BadFingerprint),
        };
        let mut bytes = Vec::with_capacity(64);
        for pair in hex.split(':') {
            let valid = pair.len() == 2 && pair.bytes().all(|byte| byte.is_ascii_hexdigit());
            let byte = u8::from_str_radix(pair, 16);
            match byte {
                Ok(byte) if valid && bytes.len() < 64 => bytes.push(byte),
                _ => return Err(TransportError::BadFingerprint),
            }
        }
        if bytes.len() != algorithm.output_len() {
            return Err(TransportError::BadFingerprint);
        }
        Ok(Self {
            algorithm,
            digest: bytes,
        })
    }

    fn matches(&self, certificate: &[u8]) -> bool {
        digest::digest(self.algorithm, certificate).as_ref() == self.digest.as_slice()
    }
}

/// A plain handshake or alert record of DTLS (RFC 6347 section 4.1) that fits into its datagram.
fn starts_handshake(packet: &[u8]) -> bool {
    let [
        kind,
        0xfe,
        0xff | 0xfd,
        0,
        0,
        _,
        _,
        _,
        _,
        _,
        _,
        high,
        low,
        ref rest @ ..,
    ] = *packet
    else {
        return false;
    };
    matches!(kind, 21 | 22) && usize::from(u16::from_be_bytes([high, low])) <= rest.len()
}

/// What a session has to say.
pub(super) enum DtlsEvent {
    Packet(Vec<u8>),
    /// Certificate verified and handshake finished.
    Connected,
    Keys {
        profile: SrtpProfile,
        material: Vec<u8>,
    },
    Data(Vec<u8>),
    /// The peer said close_notify.
    Closed,
    /// Not the announced certificate.
    WrongCertificate,
}

/// One DTLS association.
pub(super) struct DtlsSession {
    dtls: Dtls,
    expected: Fingerprint,
    /// A handshake record arrived; before it nothing else is let near the session, whose queue is short.
    spoken: bool,
    verified: bool,
    finished: bool,
    connected: bool,
    refused: bool,
    keys: Option<(SrtpProfile, Vec<u8>)>,
    /// Data that came in one datagram with the end of the handshake; given out after `Connected`.
    early: Option<Vec<u8>>,
    timeout: Option<Instant>,
    /// What `poll_packet` came across.
    waiting: Option<DtlsEvent>,
}

impl DtlsSession {
    pub(super) fn new(
        identity: &DtlsIdentity,
        active: bool,
        expected: Fingerprint,
        now: Instant,
    ) -> Result<Self, String> {
        let (config, certificate) = (Arc::clone(&identity.config), identity.certificate.clone());
        let mut dtls = if identity.dtls13 {
            Dtls::new_auto(config, certificate, now)
        } else {
            Dtls::new_12(config, certificate, now)
        };
        if active {
            dtls.set_active(true);
        }
        dtls.handle_timeout(now)
            .map_err(|error| error.to_string())?;
        Ok(Self {
            dtls,
            expected,
            spoken: false,
            verified: false,
            finished: false,
            connected: false,
            refused: false,
            keys: None,
            early: None,
            timeout: None,
            waiting: None,
        })
    }

    pub(super) fn connected(&self) -> bool {
        self.connected
    }

    /// Its certificate is not the announced one; nothing will come of it.
    pub(super) fn refused(&self) -> bool {
        self.refused
    }

    /// Takes a datagram; an error means it was of no use, not that the session is dead.
    pub(super) fn handle(&mut self, now: Instant, packet: &[u8]) -> Result<(), dimpl::Error> {
        if self.refused {
            return Ok(());
        }
        let strange = !self.spoken && !starts_handshake(packet);
        if strange || packet.len() > MAX_DATAGRAM {
            return Err(dimpl::Error::IncompleteServerHello);
        }
        self.spoken = true;
        self.dtls.handle_timeout(now)?;
        self.dtls.handle_packet(packet)
    }

    /// An error means the handshake timed out.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Result<(), dimpl::Error> {
        if self.refused {
            return Ok(());
        }
        self.dtls.handle_timeout(now)
    }

    pub(super) fn send(&mut self, data: &[u8]) -> bool {
        self.connected && self.dtls.send_application_data(data).is_ok()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.timeout
    }

    /// Next event; None when there is nothing before the timeout.
    pub(super) fn poll(&mut self, scratch: &mut Vec<u8>) -> Option<DtlsEvent> {
        if let Some(event) = self.waiting.take() {
            return Some(event);
        }
        loop {
            if self.refused {
                return None;
            }
            if self.connected
                && let Some(data) = self.early.take()
            {
                return Some(DtlsEvent::Data(data));
            }
            if self.verified
                && self.finished
                && let Some((profile, material)) = self.keys.take()
            {
                return Some(DtlsEvent::Keys { profile, material });
            }
            let room = if self.connected {
                CONNECTED_SCRATCH
            } else {
                HANDSHAKE_SCRATCH
            };
            if scratch.len() < room {
                scratch.resize(room, 0);
            }
            match self.dtls.poll_output(scratch) {
                Output::Packet(data) => return Some(DtlsEvent::Packet(data.to_vec())),
                Output::BufferTooSmall { needed } => {
                    if needed <= scratch.len() || needed > 65_536 {
                        return None;
                    }
                    scratch.resize(needed, 0);
                }
                Output::Timeout(at) => {
                    self.timeout = Some(at);
                    if self.verified && self.finished && !self.connected {
                        self.connected = true;
                        scratch.truncate(CONNECTED_SCRATCH);
                        scratch.shrink_to_fit();
                        return Some(DtlsEvent::Connected);
                    }
                    return None;
                }
                Output::Connected => self.finished = true,
                Output::PeerCert(certificate) => {
                    if self.expected.matches(certificate) {
                        self.verified = true;
                    } else {
                        self.refused = true;
                        self.keys = None;
                        self.timeout = None;
                        return Some(DtlsEvent::WrongCertificate);
                    }
                }
                Output::KeyingMaterial(material, profile) => {
                    let profile = match profile {
                        dimpl::SrtpProfile::AES128_CM_SHA1_80 => SrtpProfile::AesCm128HmacSha1_80,
                        dimpl::SrtpProfile::AEAD_AES_128_GCM => SrtpProfile::AeadAes128Gcm,
                        dimpl::SrtpProfile::AEAD_AES_256_GCM => SrtpProfile::AeadAes256Gcm,
                        _ => continue,
                    };
                    self.keys = Some((profile, material.to_vec()));
                }
                Output::ApplicationData(data) if self.connected => {
                    return Some(DtlsEvent::Data(data.to_vec()));
                }
                Output::ApplicationData(data) if self.verified && self.finished => {
                    self.early = Some(data.to_vec());
                    self.connected = true;
                    return Some(DtlsEvent::Connected);
                }
                Output::CloseNotify => return Some(DtlsEvent::Closed),
                _ => {}
            }
        }
    }

    /// Next packet only; whatever else there is to say waits for [`Self::poll`].
    pub(super) fn poll_packet(&mut self, scratch: &mut Vec<u8>) -> Option<Vec<u8>> {
        if self.refused || !self.connected || self.waiting.is_some() {
            return None;
        }
        match self.poll(scratch) {
            Some(DtlsEvent::Packet(data)) => Some(data),
            other => {
                self.waiting = other;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_of_the_whole_certificate() {
        let identity = DtlsIdentity::new().unwrap();
        let print = Fingerprint::parse(identity.fingerprint()).unwrap();
        assert!(print.matches(&identity.certificate.certificate));
        assert!(!print.matches(&identity.certificate.certificate[1..]));
        let other = DtlsIdentity::new().unwrap();
        assert!(!print.matches(&other.certificate.certificate));
    }

    #[test]
    fn only_a_plain_record_starts_a_handshake() {
        let hello = [22, 0xfe, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 7];
        assert!(starts_handshake(&hello));
        assert!(!starts_handshake(&hello[..13]));
        for (at, byte) in [(0, 23), (0, 47), (1, 3), (2, 0), (4, 1), (12, 2)] {
            let mut bad = hello;
            bad[at] = byte;
            assert!(!starts_handshake(&bad), "byte {at} = {byte}");
        }
    }
}
