//! Replays the fuzz corpus and the samples through the fuzz target.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "../../fuzz/sdp_targets.rs"]
mod targets;

use std::path::Path;

#[test]
fn every_seed_keeps_the_parsers_word() {
    let crate_ = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    for folder in ["../fuzz/corpus/sdp", "tests/data"] {
        for entry in std::fs::read_dir(crate_.join(folder)).unwrap() {
            let seed = std::fs::read(entry.unwrap().path()).unwrap();
            targets::sdp(&seed);
            // Also cut and mutilated, without a fuzzer at hand.
            for place in (0..seed.len()).step_by(61) {
                targets::sdp(&seed[..place]);
                let mut changed = seed.clone();
                changed[place] = changed[place].wrapping_add(1);
                targets::sdp(&changed);
            }
            count += 1;
        }
    }
    assert!(count >= 20);
}
