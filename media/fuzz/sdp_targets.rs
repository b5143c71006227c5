//! What the SDP fuzz target does with its bytes, shared by the fuzzer (`fuzz_targets/sdp.rs`) and by a plain test that
//! replays the corpus (`sdp/tests/fuzz_corpus.rs`).

use mediacore_sdp::Cache;

/// Any text is read or refused; what was read is the same after it was written, and a second reading through the same
/// cache gives the same.
pub(crate) fn sdp(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut cache = Cache::new();
    let Ok(first) = cache.parse(&text) else {
        return;
    };
    let again = cache.parse(&text).expect("the same text is read again");
    assert_eq!(first.sections, again.sections);
    let written = first.render();
    let second = Cache::new()
        .parse(&written)
        .expect("what we write can be read");
    assert_eq!(first.sections, second.sections);
    assert_eq!(first.bundle, second.bundle);
    assert_eq!(second.render(), written);
}
