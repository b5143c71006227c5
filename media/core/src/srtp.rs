//! SRTP and SRTCP: protection of RTP and RTCP with keys from a DTLS handshake.
//!
//! RFC 3711 with AES_CM_128_HMAC_SHA1_80, RFC 7714 with AEAD_AES_128_GCM and AEAD_AES_256_GCM, keys by RFC 5764
//! section 4.2. Key derivation rate 0, no MKI, SRTCP always encrypted (RFC 8827 section 6.5).
//!
//! Not here: the choice of a profile and the handshake (`transport`), the sender's rollover counters: whoever
//! numbers a stream owns its 48-bit index, and must not use one twice.

use aes::cipher::{Array, InnerIvInit, KeyInit, StreamCipher, StreamCipherCoreWrapper};
use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use ctr::{CtrCore, flavors::Ctr128BE};
use hmac::{Hmac, Mac};
use sha1::Sha1;

use crate::packet::{read_u16, read_u32};
use crate::sequence;

/// Why a protected packet was not opened. All but [`Self::Key`] are the sender's fault, or a forger's: drop and
/// count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SrtpError {
    /// Shorter than its header and tag.
    #[error("protected packet is truncated")]
    Truncated,
    /// The tag does not fit the packet: forged, damaged, or under another key.
    #[error("authentication failed")]
    Authentication,
    /// This index was opened before, or is too old to tell.
    #[error("packet is a replay or too old")]
    Replay,
    /// The peer already sends with as many SSRCs as one session may hold.
    #[error("too many synchronization sources")]
    TooManySources,
    /// SRTCP without encryption, which WebRTC forbids.
    #[error("control packet is not encrypted")]
    Unencrypted,
    /// Keying material of a length that is not the profile's.
    #[error("keying material has the wrong length")]
    Key,
}

/// A protection profile, named as in the IANA registry of DTLS-SRTP profiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum SrtpProfile {
    /// AEAD_AES_128_GCM, id 7 (RFC 7714).
    AeadAes128Gcm,
    /// AEAD_AES_256_GCM, id 8 (RFC 7714).
    AeadAes256Gcm,
    /// SRTP_AES128_CM_HMAC_SHA1_80, id 1 (RFC 5764).
    #[allow(non_camel_case_types, reason = "the registered name, readable")]
    AesCm128HmacSha1_80,
}

impl SrtpProfile {
    /// The profile of an id in DTLS use_srtp, if we have it.
    pub fn from_dtls_id(id: u16) -> Option<Self> {
        match id {
            1 => Some(Self::AesCm128HmacSha1_80),
            7 => Some(Self::AeadAes128Gcm),
            8 => Some(Self::AeadAes256Gcm),
            _ => None,
        }
    }

    /// The id in DTLS use_srtp.
    pub fn dtls_id(self) -> u16 {
        match self {
            Self::AesCm128HmacSha1_80 => 1,
            Self::AeadAes128Gcm => 7,
            Self::AeadAes256Gcm => 8,
        }
    }

    /// Bytes of the master key.
    pub fn key_len(self) -> usize {
        match self {
            Self::AeadAes128Gcm | Self::AesCm128HmacSha1_80 => 16,
            Self::AeadAes256Gcm => 32,
        }
    }

    /// Bytes of the master salt.
    pub fn salt_len(self) -> usize {
        match self {
            Self::AeadAes128Gcm | Self::AeadAes256Gcm => 12,
            Self::AesCm128HmacSha1_80 => 14,
        }
    }

    /// Bytes that protection adds to an RTP packet.
    pub fn rtp_overhead(self) -> usize {
        match self {
            Self::AeadAes128Gcm | Self::AeadAes256Gcm => GCM_TAG_LEN,
            Self::AesCm128HmacSha1_80 => SHA1_TAG_LEN,
        }
    }

    /// Bytes that protection adds to a compound RTCP packet.
    pub fn rtcp_overhead(self) -> usize {
        self.rtp_overhead() + 4
    }

    /// Bytes of DTLS exporter output needed for both directions (RFC 5764 section 4.2).
    pub fn keying_material_len(self) -> usize {
        2 * (self.key_len() + self.salt_len())
    }
}

/// Makes the two halves of a session from DTLS exporter output (RFC 5764 section 4.2). `dtls_client` says whether
/// we were the client of the handshake.
///
/// # Errors
/// [`SrtpError::Key`] if the material is not [`SrtpProfile::keying_material_len`] bytes.
pub fn keys_from_exporter(
    profile: SrtpProfile,
    keying_material: &[u8],
    dtls_client: bool,
) -> Result<(SrtpSender, SrtpReceiver), SrtpError> {
    if keying_material.len() != profile.keying_material_len() {
        return Err(SrtpError::Key);
    }
    let (keys, salts) = keying_material.split_at(2 * profile.key_len());
    let (client_key, server_key) = keys.split_at(profile.key_len());
    let (client_salt, server_salt) = salts.split_at(profile.salt_len());
    let client = (client_key, client_salt);
    let server = (server_key, server_salt);
    let (ours, theirs) = if dtls_client {
        (client, server)
    } else {
        (server, client)
    };
    Ok((
        SrtpSender::new(profile, ours.0, ours.1)?,
        SrtpReceiver::new(profile, theirs.0, theirs.1)?,
    ))
}

/// The half of a session that protects what we send. Key schedules are made once.
pub struct SrtpSender {
    profile: SrtpProfile,
    rtp: Cipher,
    rtcp: Cipher,
    next_rtcp_index: u32,
}

impl SrtpSender {
    /// A sender from a master key and salt.
    ///
    /// # Errors
    /// [`SrtpError::Key`] if their lengths are not the profile's.
    pub fn new(profile: SrtpProfile, key: &[u8], salt: &[u8]) -> Result<Self, SrtpError> {
        let (rtp, rtcp) = derive(profile, key, salt)?;
        Ok(Self {
            profile,
            rtp,
            rtcp,
            next_rtcp_index: 0,
        })
    }

    /// The profile in use.
    pub fn profile(&self) -> SrtpProfile {
        self.profile
    }

    /// Appends `header` and the protected `payload` to `out`. `index` is the packet's 48-bit extended sequence
    /// number, whose low 16 bits the header carries; using one twice for an SSRC breaks the cipher.
    pub fn seal_rtp(&mut self, index: u64, header: &[u8], payload: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(header);
        self.seal_rtp_parts(index, start, &[], payload, out);
    }

    /// Appends the protected payload to `out`, whose bytes from `header_start` on are the packet's RTP header. The
    /// payload is `prefix` followed by `rest`: a rewritten payload descriptor, or the original sequence number of a
    /// retransmission, before bytes shared with other subscribers, which are read in place and copied nowhere.
    ///
    /// A header shorter than 12 bytes is our own mistake; it is cut off again and nothing is sent.
    pub fn seal_rtp_parts(
        &mut self,
        index: u64,
        header_start: usize,
        prefix: &[u8],
        rest: &[u8],
        out: &mut Vec<u8>,
    ) {
        let header_end = out.len();
        let header = out.get(header_start..).unwrap_or_default();
        debug_assert_eq!(
            read_u16(header, 2),
            Some(index as u16),
            "index and header disagree"
        );
        let sealed = read_u32(header, 8)
            .filter(|_| header.len() >= 12)
            .is_some_and(|ssrc| {
                out.resize(
                    header_end + prefix.len() + rest.len() + self.profile.rtp_overhead(),
                    0,
                );
                let (header, body) = out[header_start..].split_at_mut(header_end - header_start);
                match &self.rtp {
                    Cipher::Gcm(cipher) => {
                        cipher.seal(cipher.rtp_nonce(ssrc, index), header, prefix, rest, body)
                    }
                    Cipher::CmSha1(cipher) => {
                        let (text, tag) = body.split_at_mut(prefix.len() + rest.len());
                        let mut stream = cipher.stream(ssrc, index);
                        let (head, tail) = text.split_at_mut(prefix.len());
                        stream.try_apply_keystream_b2b(prefix, head).is_ok()
                            && stream.try_apply_keystream_b2b(rest, tail).is_ok()
                            && {
                                tag.copy_from_slice(&cipher.tag(&[
                                    header,
                                    text,
                                    &((index >> 16) as u32).to_be_bytes(),
                                ]));
                                true
                            }
                    }
                }
            });
        if !sealed {
            out.truncate(header_start);
        }
    }

    /// Appends the protected compound RTCP `packet` to `out`. The SRTCP index is counted here. A packet shorter
    /// than its fixed header is our own mistake and appends nothing.
    pub fn seal_rtcp(&mut self, packet: &[u8], out: &mut Vec<u8>) {
        let Some(ssrc) = read_u32(packet, 4) else {
            debug_assert!(false, "control packet without a header");
            return;
        };
        let index = self.next_rtcp_index;
        self.next_rtcp_index = (index + 1) & RTCP_INDEX_MASK;
        let index_word = (index | ENCRYPTED_FLAG).to_be_bytes();
        let start = out.len();
        out.resize(start + packet.len() + self.profile.rtcp_overhead(), 0);
        let (header, body) = out[start..].split_at_mut(RTCP_HEADER_LEN);
        header.copy_from_slice(&packet[..RTCP_HEADER_LEN]);
        let text = &packet[RTCP_HEADER_LEN..];
        let sealed = match &self.rtcp {
            Cipher::Gcm(cipher) => {
                let (sealed, word) = body.split_at_mut(text.len() + GCM_TAG_LEN);
                word.copy_from_slice(&index_word);
                let aad = rtcp_aad(header, index_word);
                cipher.seal(cipher.rtcp_nonce(ssrc, index), &aad, text, &[], sealed)
            }
            Cipher::CmSha1(cipher) => {
                let (sealed, trailer) = body.split_at_mut(text.len());
                let (word, tag) = trailer.split_at_mut(4);
                word.copy_from_slice(&index_word);
                let done = cipher
                    .stream(ssrc, u64::from(index))
                    .try_apply_keystream_b2b(text, sealed)
                    .is_ok();
                tag.copy_from_slice(&cipher.tag(&[header, sealed, word]));
                done
            }
        };
        if !sealed {
            out.truncate(start);
        }
    }

    /// The index the next control packet gets: part of a session's state as a value.
    pub fn next_rtcp_index(&self) -> u32 {
        self.next_rtcp_index
    }

    /// Continues counting where another sender with the same keys stopped.
    pub fn set_next_rtcp_index(&mut self, index: u32) {
        self.next_rtcp_index = index & RTCP_INDEX_MASK;
    }
}

/// The half of a session that opens what a peer sends, and refuses replays.
pub struct SrtpReceiver {
    profile: SrtpProfile,
    rtp: Cipher,
    rtcp: Cipher,
    /// Sorted by SSRC.
    sources: Vec<SourceState>,
    /// Sorted by SSRC.
    rtcp_sources: Vec<SourceState>,
}

/// What a receiver remembers of one SSRC: its newest index and the window of those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SourceState {
    /// The synchronization source.
    pub ssrc: u32,
    /// Newest index that authenticated: 48 bits for RTP, 31 for RTCP.
    pub newest: u64,
    /// Bit n is set if index `newest - n` was opened.
    pub seen: u128,
}

impl SrtpReceiver {
    /// Most SSRCs held per session and direction. One participant publishing ten tracks of three encodings with
    /// retransmission uses sixty.
    pub const MAX_SOURCES: usize = 1024;

    /// A receiver from a master key and salt.
    ///
    /// # Errors
    /// [`SrtpError::Key`] if their lengths are not the profile's.
    pub fn new(profile: SrtpProfile, key: &[u8], salt: &[u8]) -> Result<Self, SrtpError> {
        let (rtp, rtcp) = derive(profile, key, salt)?;
        Ok(Self {
            profile,
            rtp,
            rtcp,
            sources: Vec::new(),
            rtcp_sources: Vec::new(),
        })
    }

    /// The profile in use.
    pub fn profile(&self) -> SrtpProfile {
        self.profile
    }

    /// Opens an RTP packet in place. `header_len`, `ssrc` and `seq` are those of its parsed header. Returns the
    /// length of header and plaintext, and the extended sequence number (rollover counter and sequence number,
    /// RFC 3711 section 3.3.1), which starts in cycle 0.
    ///
    /// # Errors
    /// Any [`SrtpError`] but `Unencrypted` and `Key`; the packet's bytes are then undefined.
    pub fn open_rtp(
        &mut self,
        packet: &mut [u8],
        header_len: usize,
        ssrc: u32,
        seq: u16,
    ) -> Result<(usize, u64), SrtpError> {
        let end = packet
            .len()
            .checked_sub(self.profile.rtp_overhead())
            .ok_or(SrtpError::Truncated)?;
        if end < header_len {
            return Err(SrtpError::Truncated);
        }
        let place = find(&self.sources, ssrc)?;
        let index = match place {
            Ok(at) => sequence::extend(self.sources[at].newest, seq),
            Err(_) => u64::from(seq),
        };
        if place.is_ok_and(|at| self.sources[at].has_seen(index)) {
            return Err(SrtpError::Replay);
        }
        let (header, body) = packet.split_at_mut(header_len);
        let (text, tag) = body.split_at_mut(end - header_len);
        match &self.rtp {
            Cipher::Gcm(cipher) => cipher.open(cipher.rtp_nonce(ssrc, index), header, text, tag)?,
            Cipher::CmSha1(cipher) => {
                cipher.verify(&[header, text, &((index >> 16) as u32).to_be_bytes()], tag)?;
                cipher.stream(ssrc, index).apply_keystream(text);
            }
        }
        remember(&mut self.sources, place, ssrc, index);
        Ok((end, index))
    }

    /// Opens a compound RTCP packet in place and returns its plaintext length.
    ///
    /// # Errors
    /// Any [`SrtpError`] but `Key`; the packet's bytes are then undefined.
    pub fn open_rtcp(&mut self, packet: &mut [u8]) -> Result<usize, SrtpError> {
        let end = packet
            .len()
            .checked_sub(self.profile.rtcp_overhead())
            .ok_or(SrtpError::Truncated)?;
        let ssrc = read_u32(packet, 4)
            .filter(|_| end >= RTCP_HEADER_LEN)
            .ok_or(SrtpError::Truncated)?;
        let word_at = match self.profile {
            SrtpProfile::AesCm128HmacSha1_80 => end,
            SrtpProfile::AeadAes128Gcm | SrtpProfile::AeadAes256Gcm => end + GCM_TAG_LEN,
        };
        let word = read_u32(packet, word_at).ok_or(SrtpError::Truncated)?;
        if word & ENCRYPTED_FLAG == 0 {
            return Err(SrtpError::Unencrypted);
        }
        let index = word & RTCP_INDEX_MASK;
        let place = find(&self.rtcp_sources, ssrc)?;
        if place.is_ok_and(|at| self.rtcp_sources[at].has_seen(u64::from(index))) {
            return Err(SrtpError::Replay);
        }
        let (header, body) = packet.split_at_mut(RTCP_HEADER_LEN);
        let (text, trailer) = body.split_at_mut(end - RTCP_HEADER_LEN);
        match &self.rtcp {
            Cipher::Gcm(cipher) => {
                let aad = rtcp_aad(header, word.to_be_bytes());
                cipher.open(
                    cipher.rtcp_nonce(ssrc, index),
                    &aad,
                    text,
                    &trailer[..GCM_TAG_LEN],
                )?;
            }
            Cipher::CmSha1(cipher) => {
                let (word, tag) = trailer.split_at(4);
                cipher.verify(&[header, text, word], tag)?;
                cipher.stream(ssrc, u64::from(index)).apply_keystream(text);
            }
        }
        remember(&mut self.rtcp_sources, place, ssrc, u64::from(index));
        Ok(end)
    }

    /// The replay windows of RTP, sorted by SSRC: part of a session's state as a value.
    pub fn sources(&self) -> &[SourceState] {
        &self.sources
    }

    /// The replay windows of RTCP, sorted by SSRC.
    pub fn rtcp_sources(&self) -> &[SourceState] {
        &self.rtcp_sources
    }

    /// Continues with the windows of another receiver with the same keys.
    pub fn resume(&mut self, rtp: &[SourceState], rtcp: &[SourceState]) {
        for (mine, theirs) in [(&mut self.sources, rtp), (&mut self.rtcp_sources, rtcp)] {
            mine.clear();
            mine.extend(theirs.iter().take(Self::MAX_SOURCES));
            mine.sort_unstable_by_key(|source| source.ssrc);
            mine.dedup_by_key(|source| source.ssrc);
        }
    }
}

impl SourceState {
    /// Whether `index` was opened before, or lies before the window.
    fn has_seen(&self, index: u64) -> bool {
        match self.newest.checked_sub(index) {
            None => false,
            Some(age) => age >= REPLAY_WINDOW || self.seen >> age & 1 == 1,
        }
    }

    fn remember(&mut self, index: u64) {
        if let Some(age) = self.newest.checked_sub(index) {
            self.seen |= 1_u128.checked_shl(age as u32).unwrap_or(0);
        } else {
            let step = index - self.newest;
            self.seen = if step < REPLAY_WINDOW {
                self.seen << step
            } else {
                0
            } | 1;
            self.newest = index;
        }
    }
}

const REPLAY_WINDOW: u64 = 128;
const GCM_TAG_LEN: usize = 16;
const BLOCK_LEN: usize = 16;
/// Longest prefix, rounded up to blocks, that is filled up: a payload descriptor fits.
const MAX_LEAD: usize = 64;
const SHA1_TAG_LEN: usize = 10;
const RTCP_HEADER_LEN: usize = 8;
const RTCP_INDEX_MASK: u32 = 0x7fff_ffff;
const ENCRYPTED_FLAG: u32 = 0x8000_0000;

/// The place of `ssrc`: `Ok` where it is, `Err` where it would go, if there is room for one more.
fn find(sources: &[SourceState], ssrc: u32) -> Result<Result<usize, usize>, SrtpError> {
    let place = sources.binary_search_by_key(&ssrc, |source| source.ssrc);
    if place.is_err() && sources.len() >= SrtpReceiver::MAX_SOURCES {
        return Err(SrtpError::TooManySources);
    }
    Ok(place)
}

/// Notes an index that authenticated; only now does a new SSRC get a state.
fn remember(sources: &mut Vec<SourceState>, place: Result<usize, usize>, ssrc: u32, index: u64) {
    match place {
        Ok(at) => sources[at].remember(index),
        Err(at) => sources.insert(
            at,
            SourceState {
                ssrc,
                newest: index,
                seen: 1,
            },
        ),
    }
}

fn rtcp_aad(header: &[u8], index_word: [u8; 4]) -> [u8; RTCP_HEADER_LEN + 4] {
    let mut aad = [0; RTCP_HEADER_LEN + 4];
    aad[..RTCP_HEADER_LEN].copy_from_slice(header);
    aad[RTCP_HEADER_LEN..].copy_from_slice(&index_word);
    aad
}

enum Cipher {
    Gcm(GcmCipher),
    CmSha1(Box<CmSha1Cipher>),
}

/// AES-GCM with a session salt (RFC 7714).
struct GcmCipher {
    key: LessSafeKey,
    salt: [u8; 12],
}

impl GcmCipher {
    fn new(key: &[u8], salt: [u8; 12]) -> Result<Self, SrtpError> {
        let algorithm = if key.len() == 16 {
            &aead::AES_128_GCM
        } else {
            &aead::AES_256_GCM
        };
        let key = UnboundKey::new(algorithm, key).map_err(|_| SrtpError::Key)?;
        Ok(Self {
            key: LessSafeKey::new(key),
            salt,
        })
    }

    /// RFC 7714 section 8.1: two zero bytes, SSRC, rollover counter, sequence number, masked by the salt.
    fn rtp_nonce(&self, ssrc: u32, index: u64) -> Nonce {
        let word = u128::from(ssrc) << 48 | u128::from(index & 0xffff_ffff_ffff);
        self.nonce(word)
    }

    /// RFC 7714 section 9.1: two zero bytes, SSRC, two zero bytes, index, masked by the salt.
    fn rtcp_nonce(&self, ssrc: u32, index: u32) -> Nonce {
        self.nonce(u128::from(ssrc) << 48 | u128::from(index))
    }

    fn nonce(&self, word: u128) -> Nonce {
        let mut nonce = [0; 12];
        nonce.copy_from_slice(&word.to_be_bytes()[4..]);
        for (byte, salt) in nonce.iter_mut().zip(self.salt) {
            *byte ^= salt;
        }
        Nonce::assume_unique_for_key(nonce)
    }

    /// Seals `prefix` and `rest` into `body`, which is longer than both by the tag. Whether it worked.
    fn seal(&self, nonce: Nonce, aad: &[u8], prefix: &[u8], rest: &[u8], body: &mut [u8]) -> bool {
        if prefix.is_empty() {
            let (head, tag) = body.split_at_mut(rest.len());
            let aad = Aad::from(aad);
            return self
                .key
                .seal_out_of_place_scatter(nonce, aad, rest, head, &[], tag)
                .is_ok();
        }
        // A first part that ends inside a cipher block makes the second slow, so the start of the rest fills it up.
        let mut lead = [0; MAX_LEAD];
        let whole = prefix.len().next_multiple_of(BLOCK_LEN);
        let (first, second) = match rest.split_at_checked(whole - prefix.len()) {
            Some((fill, second)) if whole <= MAX_LEAD => {
                lead[..prefix.len()].copy_from_slice(prefix);
                lead[prefix.len()..whole].copy_from_slice(fill);
                (&lead[..whole], second)
            }
            _ => (prefix, rest),
        };
        let (head, tail) = body.split_at_mut(first.len());
        let aad = Aad::from(aad);
        self.key
            .seal_out_of_place_scatter(nonce, aad, first, head, second, tail)
            .is_ok()
    }

    fn open(&self, nonce: Nonce, aad: &[u8], text: &mut [u8], tag: &[u8]) -> Result<(), SrtpError> {
        self.key
            .open_in_place_separate_tag(nonce, Aad::from(aad), tag, text)
            .map(|_| ())
            .map_err(|_| SrtpError::Authentication)
    }
}

/// AES in counter mode with HMAC-SHA1 cut to 80 bits (RFC 3711 sections 4.1.1 and 4.2.1). The expanded AES key and
/// the HMAC with its key absorbed are kept.
struct CmSha1Cipher {
    aes: aes::Aes128Enc,
    hmac: Hmac<Sha1>,
    salt: [u8; 14],
}

type CounterStream<'a> = StreamCipherCoreWrapper<CtrCore<&'a aes::Aes128Enc, Ctr128BE>>;

impl CmSha1Cipher {
    /// The key stream of one packet: counter block (salt << 16) ^ (SSRC << 64) ^ (index << 16).
    fn stream(&self, ssrc: u32, index: u64) -> CounterStream<'_> {
        let mut block = u128::from(ssrc) << 64 ^ u128::from(index) << 16;
        block ^= salt_block(&self.salt);
        StreamCipherCoreWrapper::from_core(CtrCore::inner_iv_init(
            &self.aes,
            &Array(block.to_be_bytes()),
        ))
    }

    fn tag(&self, parts: &[&[u8]]) -> [u8; SHA1_TAG_LEN] {
        let mut tag = [0; SHA1_TAG_LEN];
        tag.copy_from_slice(&self.mac(parts).finalize().into_bytes()[..SHA1_TAG_LEN]);
        tag
    }

    fn verify(&self, parts: &[&[u8]], tag: &[u8]) -> Result<(), SrtpError> {
        self.mac(parts)
            .verify_truncated_left(tag)
            .map_err(|_| SrtpError::Authentication)
    }

    fn mac(&self, parts: &[&[u8]]) -> Hmac<Sha1> {
        let mut mac = self.hmac.clone();
        for part in parts {
            mac.update(part);
        }
        mac
    }
}

/// A 112-bit salt in the upper bits of a counter block.
fn salt_block(salt: &[u8; 14]) -> u128 {
    let mut block = [0; 16];
    block[..14].copy_from_slice(salt);
    u128::from_be_bytes(block)
}

/// Makes the ciphers for RTP and RTCP from a master key and salt (RFC 3711 section 4.3).
fn derive(profile: SrtpProfile, key: &[u8], salt: &[u8]) -> Result<(Cipher, Cipher), SrtpError> {
    if key.len() != profile.key_len() || salt.len() != profile.salt_len() {
        return Err(SrtpError::Key);
    }
    // The 96-bit salts of GCM are padded with zeros on the right (RFC 7714 section 11).
    let mut master_salt = [0; 14];
    master_salt[..salt.len()].copy_from_slice(salt);
    let cipher = |first_label: u8| -> Result<Cipher, SrtpError> {
        let mut session_key = [0; 32];
        let session_key = &mut session_key[..key.len()];
        derive_key(key, &master_salt, first_label, session_key)?;
        let mut session_salt = [0; 14];
        derive_key(
            key,
            &master_salt,
            first_label + 2,
            &mut session_salt[..salt.len()],
        )?;
        Ok(match profile {
            SrtpProfile::AeadAes128Gcm | SrtpProfile::AeadAes256Gcm => {
                let mut salt = [0; 12];
                salt.copy_from_slice(&session_salt[..12]);
                Cipher::Gcm(GcmCipher::new(session_key, salt)?)
            }
            SrtpProfile::AesCm128HmacSha1_80 => {
                let mut auth_key = [0; 20];
                derive_key(key, &master_salt, first_label + 1, &mut auth_key)?;
                Cipher::CmSha1(Box::new(CmSha1Cipher {
                    aes: aes::Aes128Enc::new_from_slice(session_key).map_err(|_| SrtpError::Key)?,
                    hmac: <Hmac<Sha1> as KeyInit>::new_from_slice(&auth_key)
                        .map_err(|_| SrtpError::Key)?,
                    salt: session_salt,
                }))
            }
        })
    };
    Ok((cipher(0)?, cipher(3)?))
}

/// Fills `out` with the key of `label`: AES counter mode over zeros, started at the label and master salt
/// (RFC 3711 section 4.3.3, with AES-256 by RFC 7714 section 11).
fn derive_key(
    key: &[u8],
    master_salt: &[u8; 14],
    label: u8,
    out: &mut [u8],
) -> Result<(), SrtpError> {
    let block = Array((salt_block(master_salt) ^ u128::from(label) << 64).to_be_bytes());
    out.fill(0);
    if key.len() == 16 {
        let aes = aes::Aes128Enc::new_from_slice(key).map_err(|_| SrtpError::Key)?;
        let core: CtrCore<_, Ctr128BE> = CtrCore::inner_iv_init(&aes, &block);
        StreamCipherCoreWrapper::from_core(core).apply_keystream(out);
    } else {
        let aes = aes::Aes256Enc::new_from_slice(key).map_err(|_| SrtpError::Key)?;
        let core: CtrCore<_, Ctr128BE> = CtrCore::inner_iv_init(&aes, &block);
        StreamCipherCoreWrapper::from_core(core).apply_keystream(out);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
