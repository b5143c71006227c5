//! The one error of this crate.

use std::borrow::Cow;

/// Why a description cannot be read, or a value cannot be written as SDP.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{reason}", Prefix(*.line))]
pub struct SdpError {
    /// Line of the text, from 1; 0 when a value made by a caller is at fault, not a text.
    pub line: usize,
    /// What is wrong with it, in words; never longer than a few hundred characters.
    pub reason: Cow<'static, str>,
}

struct Prefix(usize);

impl std::fmt::Display for Prefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0 == 0 {
            Ok(())
        } else {
            write!(f, "line {}: ", self.0)
        }
    }
}

impl SdpError {
    pub(crate) fn at(line: usize, reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            line,
            reason: reason.into(),
        }
    }

    pub(crate) fn value(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::at(0, reason)
    }
}
