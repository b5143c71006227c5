//! Replays the seed corpora of `media/fuzz` through the fuzz targets on stable Rust, with every truncation and every
//! single flipped bit of each seed, so that a plain test run needs no fuzzer.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../../fuzz/targets.rs"]
mod targets;

use std::path::Path;

#[test]
fn targets_survive_their_corpora() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for (name, target) in targets::TARGETS {
        assert!(
            fuzz.join(format!("fuzz_targets/{name}.rs")).is_file(),
            "{name} has no fuzz target"
        );
        assert!(
            manifest.contains(&format!("name = \"{name}\"")),
            "{name} is not in the manifest"
        );
        let mut seeds = 0;
        for entry in std::fs::read_dir(fuzz.join("corpus").join(name)).unwrap() {
            let seed = std::fs::read(entry.unwrap().path()).unwrap();
            seeds += 1;
            for length in 0..=seed.len() {
                target(&seed[..length]);
            }
            let mut damaged = seed.clone();
            for bit in 0..8 * seed.len().min(256) {
                damaged[bit / 8] ^= 1 << (bit % 8);
                target(&damaged);
                damaged[bit / 8] ^= 1 << (bit % 8);
            }
        }
        assert!(seeds > 0, "{name} has no seeds");
    }
}
