//! A lossy, reordering, delaying link for tests, in virtual time.
