#![no_main]

#[path = "../sdp_targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::sdp(bytes));
