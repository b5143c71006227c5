//! The Python face of the media core.
