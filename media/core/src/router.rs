//! Which encoding of which track an incoming SSRC belongs to, for one peer connection.
//!
//! An SSRC is known by announcement, or learnt from the mid and rid of its packets (RFC 9143 section 9.2, RFC 8852).
//! Only authenticated packets may be routed; what is learnt is bounded.

use std::collections::HashMap;

use crate::command::ReceiverConfig;
use crate::packet::rtp::RtpHeader;

/// Where a packet belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// Slot of the track.
    pub(crate) track: usize,
    /// Index of the encoding.
    pub(crate) encoding: usize,
    /// It is a retransmission (RFC 4588).
    pub(crate) is_repair: bool,
}

/// SSRCs of one peer connection.
#[derive(Debug, Default)]
pub(crate) struct Router {
    routes: HashMap<u32, Route>,
}

impl Router {
    /// SSRCs remembered for one peer connection.
    const CAPACITY: usize = 1024;

    /// The route of an SSRC seen or announced before.
    pub(crate) fn known(&self, ssrc: u32) -> Option<Route> {
        self.routes.get(&ssrc).copied()
    }

    /// Remembers a route; one that leads to the same place replaces the SSRC before it.
    pub(crate) fn learn(&mut self, ssrc: u32, route: Route) {
        self.routes.retain(|_, known| *known != route);
        if self.routes.len() < Self::CAPACITY {
            self.routes.insert(ssrc, route);
        }
    }

    /// Forgets a track.
    pub(crate) fn forget(&mut self, track: usize) {
        self.routes.retain(|_, route| route.track != track);
    }

    /// Finds the route of an SSRC not known yet, from what its packet says of itself. `tracks` are the peer
    /// connection's own. None when nothing or more than one thing fits.
    pub(crate) fn resolve<'a>(
        header: &RtpHeader,
        tracks: impl Iterator<Item = (usize, &'a ReceiverConfig)>,
    ) -> Option<Route> {
        let mut found = None;
        for (track, config) in tracks {
            if let Some(mid) = &header.extensions.mid
                && mid.as_str() != config.mid
            {
                continue;
            }
            let is_media = config
                .codecs
                .iter()
                .any(|codec| codec.payload_type == header.payload_type);
            let is_repair = config
                .codecs
                .iter()
                .any(|codec| codec.rtx_payload_type == Some(header.payload_type));
            if !is_media && !is_repair {
                continue;
            }
            let rid = if is_repair {
                header.extensions.repaired_rid
            } else {
                header.extensions.rid
            };
            let by_rid = rid.and_then(|rid| {
                config
                    .encodings
                    .iter()
                    .position(|encoding| encoding.rid.as_deref() == Some(rid.as_str()))
            });
            let encoding = match by_rid {
                Some(index) => index,
                None if config.encodings.len() <= 1 => 0,
                None => continue,
            };
            if found.is_some() {
                return None;
            }
            found = Some(Route {
                track,
                encoding,
                is_repair,
            });
        }
        found
    }
}
