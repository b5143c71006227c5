//! The values: sections and descriptions.

use std::sync::{Arc, OnceLock};

use crate::error::SdpError;
use crate::render;

/// What a section carries (the `m=` line's media). Others do not occur in WebRTC and are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Sound over RTP.
    Audio,
    /// Pictures over RTP.
    Video,
    /// Data channels over SCTP (RFC 8841).
    Application,
}

impl Kind {
    /// The word of the `m=` line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Audio => "audio",
            Self::Video => "video",
            Self::Application => "application",
        }
    }
}

/// Who sends on a section, seen by the author of the description (RFC 8866 section 6.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Both.
    SendRecv,
    /// The author only.
    SendOnly,
    /// The other side only.
    RecvOnly,
    /// Nobody.
    Inactive,
}

impl Direction {
    /// The attribute's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SendRecv => "sendrecv",
            Self::SendOnly => "sendonly",
            Self::RecvOnly => "recvonly",
            Self::Inactive => "inactive",
        }
    }

    /// The direction an attribute's name says.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "sendrecv" => Self::SendRecv,
            "sendonly" => Self::SendOnly,
            "recvonly" => Self::RecvOnly,
            "inactive" => Self::Inactive,
            _ => return None,
        })
    }
}

/// Who starts DTLS (RFC 8842).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Setup {
    /// The author sends the ClientHello.
    Active,
    /// The other side does.
    Passive,
    /// The answerer chooses.
    ActPass,
}

impl Setup {
    /// The attribute's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Passive => "passive",
            Self::ActPass => "actpass",
        }
    }

    /// The setup an attribute's value says.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "active" => Self::Active,
            "passive" => Self::Passive,
            "actpass" => Self::ActPass,
            _ => return None,
        })
    }
}

/// One payload type: its rtpmap, fmtp and rtcp-fb lines together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Codec {
    /// 0..=127.
    pub payload_type: u8,
    /// Encoding name as written (`opus`, `VP8`, `rtx`).
    pub name: String,
    /// Hz.
    pub clock_rate: u32,
    /// Third part of the rtpmap, if there.
    pub channels: Option<u16>,
    /// Parameters as written; empty when there is no fmtp line.
    pub fmtp: String,
    /// Feedback types in order (`nack`, `nack pli`), without the payload type.
    pub feedback: Vec<String>,
}

/// Which way a restricted stream goes (RFC 8851).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RidDirection {
    /// From the author.
    Send,
    /// To the author.
    Recv,
}

impl RidDirection {
    /// The word in the attribute.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Recv => "recv",
        }
    }
}

/// One `a=rid` line. Restrictions behind the direction are not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rid {
    /// The name.
    pub id: String,
    /// Which way.
    pub direction: RidDirection,
    /// The simulcast line has a `~` before the name (RFC 8853).
    pub paused: bool,
}

/// Stream and track of a section (RFC 8830). Of several msid lines the first counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Msid {
    /// Stream id; `-` is none.
    pub stream: String,
    /// Track id.
    pub track: String,
}

/// One SSRC a section names (RFC 5576).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ssrc {
    /// The source.
    pub ssrc: u32,
    /// Its canonical name; empty when no line tells it.
    pub cname: String,
}

/// SSRCs that belong together: `FID` (media, retransmission), `SIM` (simulcast, low to high).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// First word.
    pub semantics: String,
    /// The sources in order.
    pub ssrcs: Vec<u32>,
}

/// Everything a section says that we know. A plain value; [`Section::new`] checks it and makes it immutable.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the names are the attributes' names; see the crate's list of RFCs"
)]
pub struct SectionFields {
    pub kind: Kind,
    /// Empty only in a rejected section of a foreign description.
    pub mid: String,
    /// Port 0 (and not `bundle-only`).
    pub rejected: bool,
    pub direction: Direction,
    pub codecs: Vec<Codec>,
    pub extensions: Vec<(u16, String)>,
    pub msid: Option<Msid>,
    pub ssrcs: Vec<Ssrc>,
    pub ssrc_groups: Vec<Group>,
    pub rids: Vec<Rid>,
    /// Rid names in order, `~` kept off; of alternatives the first.
    pub simulcast_send: Vec<String>,
    pub simulcast_recv: Vec<String>,
    /// `candidate:...`, without `a=`.
    pub candidates: Vec<String>,
    pub end_of_candidates: bool,
    pub ice_ufrag: Option<String>,
    pub ice_pwd: Option<String>,
    /// `sha-256 AA:BB:..`; of several lines the SHA-256 one.
    pub fingerprint: Option<String>,
    pub setup: Option<Setup>,
    pub sctp_port: Option<u16>,
    pub max_message_size: Option<u64>,
}

impl SectionFields {
    /// A section that says nothing yet.
    #[must_use]
    pub fn new(kind: Kind, mid: impl Into<String>) -> Self {
        Self {
            kind,
            mid: mid.into(),
            rejected: false,
            direction: Direction::Inactive,
            codecs: Vec::new(),
            extensions: Vec::new(),
            msid: None,
            ssrcs: Vec::new(),
            ssrc_groups: Vec::new(),
            rids: Vec::new(),
            simulcast_send: Vec::new(),
            simulcast_recv: Vec::new(),
            candidates: Vec::new(),
            end_of_candidates: false,
            ice_ufrag: None,
            ice_pwd: None,
            fingerprint: None,
            setup: None,
            sctp_port: None,
            max_message_size: None,
        }
    }
}

/// One m-section: immutable, its text rendered once and kept. Read its fields through `Deref`.
#[derive(Debug)]
pub struct Section {
    fields: SectionFields,
    text: OnceLock<Box<str>>,
}

impl std::ops::Deref for Section {
    type Target = SectionFields;

    fn deref(&self) -> &SectionFields {
        &self.fields
    }
}

impl PartialEq for Section {
    fn eq(&self, other: &Self) -> bool {
        self.fields == other.fields
    }
}

impl Eq for Section {}

impl Section {
    /// Checks that every value can stand in a line without breaking it, and freezes them.
    ///
    /// # Errors
    /// A value with a line break, a blank in a word, a payload type above 127, a repeated payload type, too many codecs.
    pub fn new(fields: SectionFields) -> Result<Self, SdpError> {
        check(&fields)?;
        Ok(Self::parsed(fields))
    }

    /// For the parser, whose values cannot break lines.
    pub(crate) fn parsed(fields: SectionFields) -> Self {
        Self {
            fields,
            text: OnceLock::new(),
        }
    }

    /// The section's lines, from `m=` to the last attribute, with CRLF ends.
    #[must_use]
    pub fn text(&self) -> &str {
        self.text
            .get_or_init(|| render::section(&self.fields).into_boxed_str())
    }
}

/// An offer or answer (RFC 9429).
#[derive(Debug, Clone)]
pub struct Description {
    /// First number of the `o=` line.
    pub session_id: u64,
    /// Second number of the `o=` line.
    pub session_version: u64,
    /// In the order of the m-lines.
    pub sections: Vec<Arc<Section>>,
    /// The author is an ICE-lite agent (RFC 8445).
    pub ice_lite: bool,
    /// One- and two-byte header extensions may be mixed (RFC 8285).
    pub extmap_allow_mixed: bool,
    /// Mids of the first BUNDLE group.
    pub bundle: Vec<String>,
    /// ICE user fragment at session level.
    pub ice_ufrag: Option<String>,
    /// ICE password at session level.
    pub ice_pwd: Option<String>,
    /// Certificate fingerprint at session level.
    pub fingerprint: Option<String>,
    /// DTLS role at session level.
    pub setup: Option<Setup>,
}

impl Description {
    /// A description with nothing at session level; every section not rejected is bundled.
    #[must_use]
    pub fn new(session_id: u64, session_version: u64, sections: Vec<Arc<Section>>) -> Self {
        let bundle = sections
            .iter()
            .filter(|section| !section.rejected)
            .map(|section| section.mid.clone())
            .collect();
        Self {
            session_id,
            session_version,
            sections,
            ice_lite: false,
            extmap_allow_mixed: true,
            bundle,
            ice_ufrag: None,
            ice_pwd: None,
            fingerprint: None,
            setup: None,
        }
    }

    /// Checks what stands at session level, as [`Section::new`] does for sections.
    ///
    /// # Errors
    /// A value with a line break or a blank in a word, or too many sections.
    pub fn check(&self) -> Result<(), SdpError> {
        if self.sections.len() > crate::MAX_SECTIONS {
            return Err(SdpError::value("more than 1024 sections"));
        }
        for mid in &self.bundle {
            word("bundle", mid)?;
        }
        for (name, value) in [("ice_ufrag", &self.ice_ufrag), ("ice_pwd", &self.ice_pwd)] {
            value.as_deref().map_or(Ok(()), |value| word(name, value))?;
        }
        self.fingerprint
            .as_deref()
            .map_or(Ok(()), |value| line("fingerprint", value))
    }

    /// The text, with CRLF ends. Sections rendered before are not rendered again.
    #[must_use]
    pub fn render(&self) -> String {
        render::description(self)
    }

    /// User fragment at session level, else of the first section that has one.
    #[must_use]
    pub fn first_ice_ufrag(&self) -> Option<&str> {
        self.ice_ufrag
            .as_deref()
            .or_else(|| self.first(|section| section.ice_ufrag.as_deref()))
    }

    /// Password at session level, else of the first section that has one.
    #[must_use]
    pub fn first_ice_pwd(&self) -> Option<&str> {
        self.ice_pwd
            .as_deref()
            .or_else(|| self.first(|section| section.ice_pwd.as_deref()))
    }

    /// Fingerprint at session level, else of the first section that has one.
    #[must_use]
    pub fn first_fingerprint(&self) -> Option<&str> {
        self.fingerprint
            .as_deref()
            .or_else(|| self.first(|section| section.fingerprint.as_deref()))
    }

    /// DTLS role at session level, else of the first section that has one.
    #[must_use]
    pub fn first_setup(&self) -> Option<Setup> {
        self.setup
            .or_else(|| self.sections.iter().find_map(|section| section.setup))
    }

    fn first<'a>(&'a self, read: impl Fn(&'a Section) -> Option<&'a str>) -> Option<&'a str> {
        self.sections.iter().find_map(|section| read(section))
    }
}

fn check(fields: &SectionFields) -> Result<(), SdpError> {
    if !(fields.rejected && fields.mid.is_empty()) {
        word("mid", &fields.mid)?;
    }
    if fields.codecs.len() > crate::MAX_CODECS {
        return Err(SdpError::value("more than 256 codecs in a section"));
    }
    let mut seen = [false; 128];
    for codec in &fields.codecs {
        match seen.get_mut(usize::from(codec.payload_type)) {
            None => {
                return Err(SdpError::value(format!(
                    "payload type {} is above 127",
                    codec.payload_type
                )));
            }
            Some(true) => {
                return Err(SdpError::value(format!(
                    "payload type {} is there twice",
                    codec.payload_type
                )));
            }
            Some(unseen) => *unseen = true,
        }
        word("codec name", &codec.name)?;
        line("fmtp", &codec.fmtp)?;
        for feedback in &codec.feedback {
            line("feedback", feedback)?;
        }
    }
    for (id, uri) in &fields.extensions {
        if !(1..=255).contains(id) {
            return Err(SdpError::value(format!(
                "extension id {id} is not in 1..255"
            )));
        }
        word("extension", uri)?;
    }
    if let Some(msid) = &fields.msid {
        word("msid stream", &msid.stream)?;
        word("msid track", &msid.track)?;
    }
    for ssrc in &fields.ssrcs {
        line("cname", &ssrc.cname)?;
    }
    for group in &fields.ssrc_groups {
        word("ssrc-group", &group.semantics)?;
    }
    for rid in &fields.rids {
        word("rid", &rid.id)?;
    }
    for name in fields.simulcast_send.iter().chain(&fields.simulcast_recv) {
        word("simulcast", name)?;
    }
    for candidate in &fields.candidates {
        line("candidate", candidate)?;
    }
    for (name, value) in [
        ("ice_ufrag", &fields.ice_ufrag),
        ("ice_pwd", &fields.ice_pwd),
    ] {
        value.as_deref().map_or(Ok(()), |value| word(name, value))?;
    }
    fields
        .fingerprint
        .as_deref()
        .map_or(Ok(()), |value| line("fingerprint", value))
}

/// No line break and no NUL: the value cannot end its line.
fn line(name: &str, value: &str) -> Result<(), SdpError> {
    if value.bytes().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
        return Err(SdpError::value(format!("{name} has a line break")));
    }
    Ok(())
}

/// A `line` that is not empty and has no blank.
fn word(name: &str, value: &str) -> Result<(), SdpError> {
    line(name, value)?;
    if value.is_empty() || value.bytes().any(|byte| matches!(byte, b' ' | b'\t')) {
        return Err(SdpError::value(format!("{name} is empty or has a blank")));
    }
    Ok(())
}
