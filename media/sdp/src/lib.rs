//! SDP as values, sans-IO.
