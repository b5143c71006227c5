//! Text to values.
//!
//! A description is cut at its `m=` lines first, so that an unchanged section is recognized before it is read. Work and
//! memory are linear in the text: every list of a section has a limit.

use std::sync::Arc;

use crate::error::SdpError;
use crate::section::{
    Codec, Description, Direction, Group, Kind, Msid, Rid, RidDirection, Section, SectionFields,
    Setup, Ssrc,
};

/// Longest text that is read, in octets.
pub const MAX_TEXT: usize = 1 << 20;
/// Most m-sections of a description.
pub const MAX_SECTIONS: usize = 1024;
/// Most payload types of a section.
pub const MAX_CODECS: usize = 256;
/// Most entries of every other list of a section.
const MAX_ENTRIES: usize = 256;
/// Longest mid, rid, user fragment and the like, in octets (RFC 8839 section 5.4).
const MAX_WORD: usize = 256;

pub(crate) struct Parsed<'a> {
    pub(crate) description: Description,
    /// Direction at session level, which sections without one inherit.
    pub(crate) inherited: Direction,
    /// The text of each section.
    pub(crate) raw: Vec<&'a str>,
}

/// `known(place, inherited direction, text)` gives a section that was read before.
pub(crate) fn description<'a>(
    text: &'a str,
    known: impl Fn(usize, Direction, &str) -> Option<Arc<Section>>,
) -> Result<Parsed<'a>, SdpError> {
    if text.len() > MAX_TEXT {
        return Err(SdpError::at(1, "the description is longer than 1 MiB"));
    }
    let (head, raw) = cut(text)?;
    let (mut description, inherited) = session(head)?;
    let mut offset = head.len();
    for (place, part) in raw.iter().enumerate() {
        let section = match known(place, inherited, part) {
            Some(section) => section,
            None => {
                let fields = section(part, inherited).map_err(|mut error| {
                    error.line += lines_before(text, offset);
                    error
                })?;
                Arc::new(Section::parsed(fields))
            }
        };
        description.sections.push(section);
        offset += part.len();
    }
    unique_mids(&description, text, &raw, head.len())?;
    Ok(Parsed {
        description,
        inherited,
        raw,
    })
}

/// Session part and sections; every byte of the text is in exactly one.
fn cut(text: &str) -> Result<(&str, Vec<&str>), SdpError> {
    let mut starts = Vec::new();
    if text.starts_with("m=") {
        starts.push(0);
    }
    for (offset, _) in text.match_indices("\nm=") {
        if starts.len() == MAX_SECTIONS {
            return Err(SdpError::at(
                lines_before(text, offset) + 2,
                "more than 1024 sections",
            ));
        }
        starts.push(offset + 1);
    }
    let head = &text[..starts.first().copied().unwrap_or(text.len())];
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    let raw = starts
        .iter()
        .copied()
        .zip(ends)
        .map(|(start, end)| &text[start..end])
        .collect();
    Ok((head, raw))
}

fn lines_before(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset]
        .iter()
        .filter(|&&byte| byte == b'\n')
        .count()
}

fn unique_mids(
    description: &Description,
    text: &str,
    raw: &[&str],
    head: usize,
) -> Result<(), SdpError> {
    let mut mids = std::collections::HashSet::with_capacity(raw.len());
    let mut offset = head;
    for (section, part) in description.sections.iter().zip(raw) {
        if !section.mid.is_empty() && !mids.insert(section.mid.as_str()) {
            let line = lines_before(text, offset) + 1;
            return Err(SdpError::at(
                line,
                format!("two sections have the mid {}", shown(&section.mid)),
            ));
        }
        offset += part.len();
    }
    Ok(())
}

/// Lines with their numbers, blank ones left out; the type letter and the value.
fn lines(text: &str) -> impl Iterator<Item = Result<(usize, u8, &str), SdpError>> {
    text.split('\n').enumerate().filter_map(|(index, line)| {
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.is_empty() {
            return None;
        }
        let number = index + 1;
        Some(match line.as_bytes() {
            [letter @ b'a'..=b'z', b'=', ..]
                if !line.bytes().any(|byte| matches!(byte, 0 | b'\r')) =>
            {
                Ok((number, *letter, &line[2..]))
            }
            _ => Err(SdpError::at(number, "not of the form <letter>=<value>")),
        })
    })
}

/// Does the attribute mean anything in a section of this kind? RTP's attributes say nothing of data channels, nor
/// those of SCTP of media.
fn belongs(name: &str, kind: Kind) -> bool {
    match name {
        "rtpmap" | "fmtp" | "rtcp-fb" | "extmap" | "msid" | "ssrc" | "ssrc-group" | "rid"
        | "simulcast" | "sendrecv" | "sendonly" | "recvonly" | "inactive" => {
            kind != Kind::Application
        }
        "sctp-port" | "sctpmap" | "max-message-size" => kind == Kind::Application,
        _ => true,
    }
}

/// Name and value of an attribute; a flag has an empty value.
fn attribute(line: &str) -> (&str, &str) {
    line.split_once(':').unwrap_or((line, ""))
}

fn session(head: &str) -> Result<(Description, Direction), SdpError> {
    let mut description = Description {
        extmap_allow_mixed: false,
        ..Description::new(0, 0, Vec::new())
    };
    let mut inherited = Direction::SendRecv;
    let mut version = false;
    let mut origin = false;
    let mut bundled = false;
    let mut last = 1;
    for entry in lines(head) {
        let (number, letter, value) = entry?;
        last = number;
        if !version && letter != b'v' {
            return Err(SdpError::at(number, "the first line is not v=0"));
        }
        match letter {
            b'v' if value == "0" => version = true,
            b'v' => return Err(SdpError::at(number, "the version is not 0")),
            b'o' => {
                (description.session_id, description.session_version) = ids(number, value)?;
                origin = true;
            }
            b'a' => match attribute(value) {
                ("ice-lite", _) => description.ice_lite = true,
                ("extmap-allow-mixed", _) => description.extmap_allow_mixed = true,
                ("group", group) => {
                    let mut words = group.split_ascii_whitespace();
                    if words.next() == Some("BUNDLE") && !bundled {
                        bundled = true;
                        description.bundle = words.take(MAX_SECTIONS).map(str::to_owned).collect();
                    }
                }
                ("ice-ufrag", value) => {
                    description.ice_ufrag = Some(credential(number, "ice-ufrag", value, 4)?)
                }
                ("ice-pwd", value) => {
                    description.ice_pwd = Some(credential(number, "ice-pwd", value, 22)?)
                }
                ("fingerprint", value) => fingerprint(number, value, &mut description.fingerprint)?,
                ("setup", value) => description.setup = Some(setup(number, value)?),
                (name, "") => {
                    if let Some(direction) = Direction::from_name(name) {
                        inherited = direction;
                    }
                }
                _ => {}
            },
            _ => {}
        }
    }
    if !version {
        return Err(SdpError::at(1, "the first line is not v=0"));
    }
    if !origin {
        return Err(SdpError::at(
            last,
            "there is no o= line before the first section",
        ));
    }
    Ok((description, inherited))
}

fn ids(line: usize, value: &str) -> Result<(u64, u64), SdpError> {
    let mut words = value.split_ascii_whitespace().skip(1);
    let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
    match (number(), number()) {
        (Some(id), Some(version)) => Ok((id, version)),
        _ => Err(SdpError::at(
            line,
            "session id and version of o= are not two numbers",
        )),
    }
}

/// What is gathered while a section's lines are read.
struct Reader {
    fields: SectionFields,
    /// Payload types in the order of the m-line; `None`: no rtpmap seen and none known by its number.
    formats: Vec<Format>,
    /// Payload type to its place in `formats`, plus one.
    places: [u16; 128],
    /// `rtcp-fb:*` values.
    wildcard: Vec<String>,
    /// msid told by SSRC lines only, of old endpoints.
    source_msid: Option<Msid>,
    bundle_only: bool,
    mid_seen: bool,
    direction_seen: bool,
    simulcast_seen: bool,
}

struct Format {
    payload_type: u8,
    map: Option<(String, u32, Option<u16>)>,
    /// The map was told by a line, not only known by the number.
    is_told: bool,
    fmtp: String,
    feedback: Vec<String>,
}

fn section(part: &str, inherited: Direction) -> Result<SectionFields, SdpError> {
    let mut lines = lines(part);
    let first = match lines.next() {
        Some(entry) => entry?.2,
        None => return Err(SdpError::at(1, "an empty section")),
    };
    let mut reader = Reader::start(first, inherited)?;
    for entry in lines {
        let (number, letter, value) = entry?;
        if letter == b'a' {
            let (name, value) = attribute(value);
            reader.attribute(number, name, value)?;
        }
    }
    reader.finish()
}

impl Reader {
    fn start(media: &str, inherited: Direction) -> Result<Self, SdpError> {
        let bad = |reason: String| SdpError::at(1, reason);
        let mut words = media.split_ascii_whitespace();
        let name = words.next().unwrap_or("");
        let kind = match name {
            "audio" => Kind::Audio,
            "video" => Kind::Video,
            "application" => Kind::Application,
            _ => {
                return Err(bad(format!(
                    "media {} is not audio, video or application",
                    shown(name)
                )));
            }
        };
        let port = words.next().unwrap_or("");
        let port: u16 = match port.split_once('/').map_or(port, |(port, _)| port).parse() {
            Ok(port) => port,
            Err(_) => {
                return Err(bad(format!(
                    "port {} is not a number up to 65535",
                    shown(port)
                )));
            }
        };
        let protocol = words.next().unwrap_or("");
        let fits = match kind {
            Kind::Application => protocol.ends_with("DTLS/SCTP"),
            Kind::Audio | Kind::Video => protocol.contains("RTP/"),
        };
        if !fits && port != 0 {
            return Err(bad(format!(
                "protocol {} does not carry {}",
                shown(protocol),
                kind.as_str()
            )));
        }
        let mut reader = Self {
            fields: SectionFields {
                rejected: port == 0,
                direction: match kind {
                    Kind::Application => Direction::SendRecv,
                    Kind::Audio | Kind::Video => inherited,
                },
                ..SectionFields::new(kind, "")
            },
            formats: Vec::new(),
            places: [0; 128],
            wildcard: Vec::new(),
            source_msid: None,
            bundle_only: false,
            mid_seen: false,
            direction_seen: false,
            simulcast_seen: false,
        };
        for word in words {
            if kind == Kind::Application {
                // The older form has the port here: m=application 9 DTLS/SCTP 5000.
                reader.fields.sctp_port = word.parse().ok().or(reader.fields.sctp_port);
            } else {
                reader.format(word)?;
            }
        }
        Ok(reader)
    }

    fn format(&mut self, word: &str) -> Result<(), SdpError> {
        if self.formats.len() == MAX_CODECS {
            return Err(SdpError::at(1, "more than 256 payload types in a section"));
        }
        let Ok(payload_type @ 0..=127) = word.parse::<u8>() else {
            return Err(SdpError::at(
                1,
                format!("payload type {} is not in 0..127", shown(word)),
            ));
        };
        let place = &mut self.places[usize::from(payload_type)];
        if *place != 0 {
            return Err(SdpError::at(
                1,
                format!("payload type {payload_type} is there twice"),
            ));
        }
        // At most MAX_CODECS, so it fits.
        *place = u16::try_from(self.formats.len() + 1).unwrap_or(u16::MAX);
        let map = if self.fields.kind == Kind::Audio {
            static_map(payload_type)
        } else {
            None
        };
        self.formats.push(Format {
            payload_type,
            map,
            is_told: false,
            fmtp: String::new(),
            feedback: Vec::new(),
        });
        Ok(())
    }

    /// The format a line speaks of; none when the m-line does not list it.
    fn listed(&mut self, payload_type: &str) -> Option<&mut Format> {
        let payload_type: u8 = payload_type.parse().ok()?;
        let place = usize::from(*self.places.get(usize::from(payload_type))?);
        self.formats.get_mut(place.checked_sub(1)?)
    }

    fn attribute(&mut self, line: usize, name: &str, value: &str) -> Result<(), SdpError> {
        if !belongs(name, self.fields.kind) {
            return Ok(());
        }
        match name {
            "mid" => self.mid(line, value)?,
            "rtpmap" => self.rtpmap(line, value)?,
            "fmtp" => {
                if let Some((payload_type, parameters)) = value.split_once(' ')
                    && let Some(format) = self.listed(payload_type)
                {
                    parameters.trim().clone_into(&mut format.fmtp);
                }
            }
            "rtcp-fb" => self.feedback(line, value)?,
            "extmap" => self.extmap(line, value)?,
            "msid" => self.msid(line, value)?,
            "ssrc" => self.ssrc(line, value)?,
            "ssrc-group" => self.ssrc_group(line, value)?,
            "rid" => self.rid(line, value)?,
            "simulcast" => self.simulcast(line, value)?,
            "candidate" => {
                limit(line, "candidates", self.fields.candidates.len())?;
                self.fields.candidates.push(format!("candidate:{value}"));
            }
            "end-of-candidates" => self.fields.end_of_candidates = true,
            "ice-ufrag" => self.fields.ice_ufrag = Some(credential(line, "ice-ufrag", value, 4)?),
            "ice-pwd" => self.fields.ice_pwd = Some(credential(line, "ice-pwd", value, 22)?),
            "fingerprint" => fingerprint(line, value, &mut self.fields.fingerprint)?,
            "setup" => self.fields.setup = Some(setup(line, value)?),
            "sctp-port" => self.fields.sctp_port = Some(number(line, "sctp-port", value)?),
            "sctpmap" => {
                let port = value.split_ascii_whitespace().next().unwrap_or("");
                self.fields.sctp_port = Some(number(line, "sctpmap", port)?);
            }
            "max-message-size" => {
                self.fields.max_message_size = Some(number(line, "max-message-size", value)?)
            }
            "bundle-only" => self.bundle_only = true,
            _ if value.is_empty() => {
                if let Some(direction) = Direction::from_name(name) {
                    if self.direction_seen && direction != self.fields.direction {
                        return Err(SdpError::at(line, "a second, different direction"));
                    }
                    self.direction_seen = true;
                    self.fields.direction = direction;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn mid(&mut self, line: usize, value: &str) -> Result<(), SdpError> {
        let value = value.trim();
        if self.mid_seen {
            return Err(SdpError::at(line, "a second mid"));
        }
        self.mid_seen = true;
        self.fields.mid = word(line, "mid", value)?;
        Ok(())
    }

    fn rtpmap(&mut self, line: usize, value: &str) -> Result<(), SdpError> {
        let bad = || {
            SdpError::at(
                line,
                "rtpmap is not <payload type> <name>/<clock rate>[/<channels>]",
            )
        };
        let (payload_type, map) = value.split_once(' ').ok_or_else(bad)?;
        let mut parts = map.trim().split('/');
        let name = word(line, "codec name", parts.next().unwrap_or(""))?;
        let clock_rate: u32 = parts
            .next()
            .and_then(|rate| rate.parse().ok())
            .ok_or_else(bad)?;
        let channels = match parts.next() {
            None => None,
            Some(channels) => Some(channels.parse().map_err(|_| bad())?),
        };
        if let Some(format) = self.listed(payload_type) {
            format.map = Some((name, clock_rate, channels));
            format.is_told = true;
        }
        Ok(())
    }

    fn feedback(&mut self, line: usize, value: &str) -> Result<(), SdpError> {
        let Some((payload_type, feedback)) = value.split_once(' ') else {
            return Err(SdpError::at(line, "rtcp-fb without a feedback type"));
        };
        let feedback = feedback.trim();
        let list = if payload_type == "*" {
            &mut self.wildcard
        } else {
            match self.listed(payload_type) {
                Some(format) => &mut format.feedback,
                None => return Ok(()),
            }
        };
        if !list.iter().any(|known| known == feedback) {
            // Small: the list is searched for every line.
            if list.len() == 32 {
                return Err(SdpError::at(
                    line,
                    "more than 32 feedback types of a payload type",
                ));
            }
            list.push(feedback.to_owned());
        }
        Ok(())
    }

    fn extmap(&mut self, line: usize, value: &str) -> Result<(), SdpError> {
        let bad = || SdpError::at(line, "extmap is not <id>[/<direction>] <uri>");
        let mut words = value.split_ascii_whitespace();
        let id = words.next().ok_or_else(bad)?;
        let uri = words.next().ok_or_else(bad)?;
        let id: u16 = id
            .split_once('/')
            .map_or(id, |(id, _)| id)
            .parse()
            .map_err(|_| bad())?;
        match id {
            1..=255 => {
                limit(line, "header extensions", self.fields.extensions.len())?;
                if self.fields.extensions.iter().any(|(known, _)| *known == id) {
                    return Err(SdpError::at(
                        line,
                        format!("header extension {id} is there twice"),
                    ));
                }
                self.fields.extensions.push((id, uri.to_owned()));
            }
            // An offer with more extensions than ids (RFC 8285 section 7): as if it were not there.
            4096..=4351 => {}
            _ => {
                return Err(SdpError::at(
                    line,
                    format!("header extension id {id} is not in 1..255"),
                ));
            }
        }
        Ok(())
    }

    fn msid(&mut self, line: usize, value: &str) -> Result<(), SdpError> {
        if self.fields.msid.is_none() {
            self.fields.msid = Some(msid(line, value)?);
        }
        Ok(())
    }

    fn ssrc(&mut self, line: usize, value: &str) -> Result<(), SdpError> {
        let (ssrc, rest) = value.split_once(' ').unwrap_or((value, ""));
        let ssrc: u32 = number(line, "ssrc", ssrc)?;
        let place = match self
            .fields
            .ssrcs
            .iter()
            .position(|known| known.ssrc == ssrc)
        {
            Some(place) => place,
            None => {
                limit(line, "SSRCs", self.fields.ssrcs.len())?;
                self.fields.ssrcs.push(Ssrc {
                    ssrc,
                    cname: String::new(),
                });
                self.fields.ssrcs.len() - 1
            }
        };
        match attribute(rest.trim()) {
            ("cname", cname) => cname.clone_into(&mut self.fields.ssrcs[place].cname),
            ("msid", value) if self.source_msid.is_none() && !value.is_empty() => {
                self.source_msid = Some(msid(line, value)?);
            }
            _ => {}
        }
        Ok(())
    }

    fn ssrc_group(&mut self, line: usize, value: &str) -> Result<(), SdpError> {
        limit(line, "ssrc-group lines", self.fields.ssrc_groups.len())?;
        let mut words = value.split_ascii_whitespace();
        let semantics = word(line, "ssrc-group", words.next().unwrap_or(""))?;
        let mut ssrcs = Vec::new();
        for ssrc in words {
            limit(line, "SSRCs of a group", ssrcs.len())?;
            ssrcs.push(number(line, "ssrc-group", ssrc)?);
        }
        self.fields.ssrc_groups.push(Group { semantics, ssrcs });
        Ok(())
    }

    fn rid(&mut self, line: usize, value: &str) -> Result<(), SdpError> {
        limit(line, "rids", self.fields.rids.len())?;
        let mut words = value.split_ascii_whitespace();
        let id = word(line, "rid", words.next().unwrap_or(""))?;
        let direction = match words.next() {
            Some("send") => RidDirection::Send,
            Some("recv") => RidDirection::Recv,
            _ => return Err(SdpError::at(line, "rid is not <id> send|recv")),
        };
        if self.fields.rids.iter().any(|rid| rid.id == id) {
            return Err(SdpError::at(
                line,
                format!("rid {} is there twice", shown(&id)),
            ));
        }
        self.fields.rids.push(Rid {
            id,
            direction,
            paused: false,
        });
        Ok(())
    }

    fn simulcast(&mut self, line: usize, value: &str) -> Result<(), SdpError> {
        if self.simulcast_seen {
            return Err(SdpError::at(line, "a second simulcast line"));
        }
        self.simulcast_seen = true;
        let mut words = value.split_ascii_whitespace();
        while let Some(direction) = words.next() {
            let direction = match direction {
                "send" => RidDirection::Send,
                "recv" => RidDirection::Recv,
                _ => return Err(SdpError::at(line, "simulcast is not send|recv <streams>")),
            };
            let Some(streams) = words.next() else {
                return Err(SdpError::at(line, "simulcast names no streams"));
            };
            for stream in streams.split(';') {
                self.simulcast_stream(line, direction, stream)?;
            }
        }
        Ok(())
    }

    fn simulcast_stream(
        &mut self,
        line: usize,
        direction: RidDirection,
        stream: &str,
    ) -> Result<(), SdpError> {
        let list = match direction {
            RidDirection::Send => &mut self.fields.simulcast_send,
            RidDirection::Recv => &mut self.fields.simulcast_recv,
        };
        limit(line, "simulcast streams", list.len())?;
        // Alternatives are separated by commas; an early draft wrote rid= before the names.
        let stream = stream.split(',').next().unwrap_or("");
        list.push(stream.strip_prefix("rid=").unwrap_or(stream).to_owned());
        Ok(())
    }

    fn finish(self) -> Result<SectionFields, SdpError> {
        let Self {
            mut fields,
            formats,
            wildcard,
            source_msid,
            bundle_only,
            ..
        } = self;
        if bundle_only {
            fields.rejected = false;
        }
        if fields.mid.is_empty() && !fields.rejected {
            return Err(SdpError::at(1, "the section has no mid"));
        }
        fields.msid = fields.msid.or(source_msid);
        for (direction, names) in [
            (RidDirection::Send, &mut fields.simulcast_send),
            (RidDirection::Recv, &mut fields.simulcast_recv),
        ] {
            for name in names.iter_mut() {
                let paused = name.starts_with('~');
                if paused {
                    name.remove(0);
                }
                match fields
                    .rids
                    .iter_mut()
                    .find(|rid| rid.id == *name && rid.direction == direction)
                {
                    Some(rid) => rid.paused = paused,
                    None => name.clear(),
                }
            }
            // RFC 8853 section 5.2: a stream without its rid line is left out.
            names.retain(|name| !name.is_empty());
        }
        // What is written where there is nothing to write: an m-line needs a format (RFC 8866 section 5.14).
        let is_placeholder =
            matches!(&formats[..], [only] if only.payload_type == 0 && !only.is_told);
        for format in formats {
            if is_placeholder {
                break;
            }
            let Some((name, clock_rate, channels)) = format.map else {
                continue;
            };
            let mut feedback = format.feedback;
            for value in &wildcard {
                if !feedback.contains(value) {
                    feedback.push(value.clone());
                }
            }
            fields.codecs.push(Codec {
                payload_type: format.payload_type,
                name,
                clock_rate,
                channels,
                fmtp: format.fmtp,
                feedback,
            });
        }
        Ok(fields)
    }
}

/// Payload types with a fixed meaning (RFC 3551 section 6) that WebRTC endpoints still offer.
fn static_map(payload_type: u8) -> Option<(String, u32, Option<u16>)> {
    let name = match payload_type {
        0 => "PCMU",
        8 => "PCMA",
        9 => "G722",
        13 => "CN",
        _ => return None,
    };
    Some((name.to_owned(), 8000, None))
}

fn msid(line: usize, value: &str) -> Result<Msid, SdpError> {
    let mut words = value.split_ascii_whitespace();
    let first = word(line, "msid", words.next().unwrap_or(""))?;
    Ok(match words.next() {
        Some(track) => Msid {
            stream: first,
            track: word(line, "msid", track)?,
        },
        None => Msid {
            stream: "-".to_owned(),
            track: first,
        },
    })
}

fn credential(
    line: usize,
    name: &'static str,
    value: &str,
    shortest: usize,
) -> Result<String, SdpError> {
    let value = word(line, name, value.trim())?;
    if value.len() < shortest {
        return Err(SdpError::at(
            line,
            format!("{name} is shorter than {shortest} characters"),
        ));
    }
    Ok(value)
}

fn fingerprint(line: usize, value: &str, known: &mut Option<String>) -> Result<(), SdpError> {
    let bad = || SdpError::at(line, "fingerprint is not <hash> <XX:XX:..>");
    let (hash, digest) = value.trim().split_once(' ').ok_or_else(bad)?;
    let digest = digest.trim();
    let pairs = || digest.split(':');
    let fits =
        pairs().all(|pair| pair.len() == 2 && pair.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if !fits || !(16..=64).contains(&pairs().take(65).count()) || hash.len() > 16 {
        return Err(bad());
    }
    let hash = hash.to_ascii_lowercase();
    let better = known
        .as_deref()
        .is_none_or(|known| hash == "sha-256" && !known.starts_with("sha-256 "));
    if better {
        *known = Some(format!("{hash} {}", digest.to_ascii_uppercase()));
    }
    Ok(())
}

fn setup(line: usize, value: &str) -> Result<Setup, SdpError> {
    Setup::from_name(value.trim()).ok_or_else(|| {
        SdpError::at(
            line,
            format!("setup {} is not active, passive or actpass", shown(value)),
        )
    })
}

fn number<T: std::str::FromStr>(
    line: usize,
    name: &'static str,
    value: &str,
) -> Result<T, SdpError> {
    value.trim().parse().map_err(|_| {
        SdpError::at(
            line,
            format!("{name} {} is not a number in range", shown(value)),
        )
    })
}

fn word(line: usize, name: &'static str, value: &str) -> Result<String, SdpError> {
    let fits = !value.is_empty() && value.len() <= MAX_WORD;
    if !fits
        || value
            .bytes()
            .any(|byte| byte.is_ascii_whitespace() || byte == 0)
    {
        return Err(SdpError::at(
            line,
            format!("{name} {} is empty, too long or has a blank", shown(value)),
        ));
    }
    Ok(value.to_owned())
}

fn limit(line: usize, name: &'static str, present: usize) -> Result<(), SdpError> {
    if present >= MAX_ENTRIES {
        return Err(SdpError::at(
            line,
            format!("more than {MAX_ENTRIES} {name} in a section"),
        ));
    }
    Ok(())
}

/// A foreign value for an error text: short, printable.
fn shown(value: &str) -> String {
    format!("{:?}", value.chars().take(40).collect::<String>())
}
