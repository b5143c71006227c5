//! Parsing again only what changed.

use std::sync::Arc;

use crate::error::SdpError;
use crate::parse;
use crate::section::{Description, Direction, Section};

/// The sections of the last description with their texts. One per peer connection and direction.
///
/// A section is found again by its place: m-lines never move (RFC 9429 section 5.2.2). A text that cannot be read
/// leaves the cache as it was.
#[derive(Debug, Default)]
pub struct Cache {
    entries: Vec<(Box<str>, Arc<Section>)>,
    inherited: Option<Direction>,
}

impl Cache {
    /// An empty cache.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Parses a description; a section whose text is the same as the last time is the same `Arc`.
    ///
    /// # Errors
    /// The first line that cannot be read, or a limit that is passed.
    pub fn parse(&mut self, text: &str) -> Result<Description, SdpError> {
        let parsed = parse::description(text, |place, direction, raw| {
            let (known, section) = self.entries.get(place)?;
            (self.inherited == Some(direction) && **known == *raw).then(|| Arc::clone(section))
        })?;
        self.inherited = Some(parsed.inherited);
        self.entries.truncate(parsed.raw.len());
        for (place, (raw, section)) in parsed
            .raw
            .iter()
            .zip(&parsed.description.sections)
            .enumerate()
        {
            match self.entries.get_mut(place) {
                Some((_, known)) if Arc::ptr_eq(known, section) => {}
                Some(entry) => *entry = ((*raw).into(), Arc::clone(section)),
                None => self.entries.push(((*raw).into(), Arc::clone(section))),
            }
        }
        Ok(parsed.description)
    }
}
