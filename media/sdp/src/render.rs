//! Values to text. Every value was checked before: no line can be broken here.

use std::fmt::Write as _;

use crate::section::{Description, Kind, RidDirection, SectionFields};

/// Writes formatted text with a CRLF; writing to a `String` cannot fail.
macro_rules! put {
    ($out:expr, $($arg:tt)*) => {{
        let _ = write!($out, $($arg)*);
        $out.push_str("\r\n");
    }};
}

pub(crate) fn description(description: &Description) -> String {
    let size = description
        .sections
        .iter()
        .map(|section| section.text().len())
        .sum::<usize>();
    let mut out = String::with_capacity(size + 512);
    put!(out, "v=0");
    put!(
        out,
        "o=- {} {} IN IP4 0.0.0.0",
        description.session_id,
        description.session_version
    );
    put!(out, "s=-");
    put!(out, "t=0 0");
    if description.ice_lite {
        put!(out, "a=ice-lite");
    }
    if !description.bundle.is_empty() {
        out.push_str("a=group:BUNDLE");
        for mid in &description.bundle {
            out.push(' ');
            out.push_str(mid);
        }
        out.push_str("\r\n");
    }
    if description.extmap_allow_mixed {
        put!(out, "a=extmap-allow-mixed");
    }
    put!(out, "a=msid-semantic: WMS *");
    if let Some(fingerprint) = &description.fingerprint {
        put!(out, "a=fingerprint:{fingerprint}");
    }
    if let Some(ufrag) = &description.ice_ufrag {
        put!(out, "a=ice-ufrag:{ufrag}");
    }
    if let Some(pwd) = &description.ice_pwd {
        put!(out, "a=ice-pwd:{pwd}");
    }
    if let Some(setup) = description.setup {
        put!(out, "a=setup:{}", setup.as_str());
    }
    for section in &description.sections {
        out.push_str(section.text());
    }
    out
}

pub(crate) fn section(fields: &SectionFields) -> String {
    let mut out = String::with_capacity(512 + 160 * fields.codecs.len());
    media_line(&mut out, fields);
    out.push_str("c=IN IP4 0.0.0.0\r\n");
    transport(&mut out, fields);
    if !fields.mid.is_empty() {
        put!(out, "a=mid:{}", fields.mid);
    }
    match fields.kind {
        Kind::Application => {
            if let Some(port) = fields.sctp_port {
                put!(out, "a=sctp-port:{port}");
            }
            if let Some(size) = fields.max_message_size {
                put!(out, "a=max-message-size:{size}");
            }
        }
        Kind::Audio | Kind::Video => media(&mut out, fields),
    }
    out
}

fn media_line(out: &mut String, fields: &SectionFields) {
    let port = if fields.rejected { 0 } else { 9 };
    if fields.kind == Kind::Application {
        put!(out, "m=application {port} UDP/DTLS/SCTP webrtc-datachannel");
        return;
    }
    let _ = write!(out, "m={} {port} UDP/TLS/RTP/SAVPF", fields.kind.as_str());
    for codec in &fields.codecs {
        let _ = write!(out, " {}", codec.payload_type);
    }
    out.push_str(if fields.codecs.is_empty() {
        " 0\r\n"
    } else {
        "\r\n"
    });
}

fn transport(out: &mut String, fields: &SectionFields) {
    for candidate in &fields.candidates {
        let prefix = if candidate.starts_with("candidate:") {
            ""
        } else {
            "candidate:"
        };
        put!(out, "a={prefix}{candidate}");
    }
    if fields.end_of_candidates {
        put!(out, "a=end-of-candidates");
    }
    if let Some(ufrag) = &fields.ice_ufrag {
        put!(out, "a=ice-ufrag:{ufrag}");
    }
    if let Some(pwd) = &fields.ice_pwd {
        put!(out, "a=ice-pwd:{pwd}");
    }
    if let Some(fingerprint) = &fields.fingerprint {
        put!(out, "a=fingerprint:{fingerprint}");
    }
    if let Some(setup) = fields.setup {
        put!(out, "a=setup:{}", setup.as_str());
    }
}

fn media(out: &mut String, fields: &SectionFields) {
    for (id, uri) in &fields.extensions {
        put!(out, "a=extmap:{id} {uri}");
    }
    put!(out, "a={}", fields.direction.as_str());
    if let Some(msid) = &fields.msid {
        put!(out, "a=msid:{} {}", msid.stream, msid.track);
    }
    put!(out, "a=rtcp-mux");
    put!(out, "a=rtcp-rsize");
    for codec in &fields.codecs {
        let _ = write!(
            out,
            "a=rtpmap:{} {}/{}",
            codec.payload_type, codec.name, codec.clock_rate
        );
        match codec.channels {
            Some(channels) => put!(out, "/{channels}"),
            None => out.push_str("\r\n"),
        }
        for feedback in &codec.feedback {
            put!(out, "a=rtcp-fb:{} {feedback}", codec.payload_type);
        }
        if !codec.fmtp.is_empty() {
            put!(out, "a=fmtp:{} {}", codec.payload_type, codec.fmtp);
        }
    }
    for rid in &fields.rids {
        put!(out, "a=rid:{} {}", rid.id, rid.direction.as_str());
    }
    simulcast(out, fields);
    for group in &fields.ssrc_groups {
        let _ = write!(out, "a=ssrc-group:{}", group.semantics);
        for ssrc in &group.ssrcs {
            let _ = write!(out, " {ssrc}");
        }
        out.push_str("\r\n");
    }
    for source in &fields.ssrcs {
        let ssrc = source.ssrc;
        put!(out, "a=ssrc:{ssrc} cname:{}", source.cname);
        if let Some(msid) = &fields.msid {
            put!(out, "a=ssrc:{ssrc} msid:{} {}", msid.stream, msid.track);
            if msid.stream != "-" {
                // Plan-B era names, which old clients of the signal protocol still read.
                put!(out, "a=ssrc:{ssrc} mslabel:{}", msid.stream);
                put!(out, "a=ssrc:{ssrc} label:{}", msid.track);
            }
        }
    }
}

fn simulcast(out: &mut String, fields: &SectionFields) {
    let directions = [
        (RidDirection::Send, &fields.simulcast_send),
        (RidDirection::Recv, &fields.simulcast_recv),
    ];
    if directions.iter().all(|(_, names)| names.is_empty()) {
        return;
    }
    out.push_str("a=simulcast:");
    let mut first = true;
    for (direction, names) in directions
        .into_iter()
        .filter(|(_, names)| !names.is_empty())
    {
        if !first {
            out.push(' ');
        }
        first = false;
        out.push_str(direction.as_str());
        for (index, name) in names.iter().enumerate() {
            out.push(if index == 0 { ' ' } else { ';' });
            if fields
                .rids
                .iter()
                .any(|rid| rid.paused && rid.direction == direction && rid.id == *name)
            {
                out.push('~');
            }
            out.push_str(name);
        }
    }
    out.push_str("\r\n");
}
