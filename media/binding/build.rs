//! Computes `SOURCE_DIGEST`: SHA-256 over the Rust sources of the module, as `mediacore/stale.py` does again.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// The crates the module is made of.
const CRATES: [&str; 4] = ["binding", "core", "driver", "sdp"];

fn main() {
    // Read when it runs, not when it was compiled: two checkouts may share one target directory.
    let manifest = std::env::var("CARGO_MANIFEST_DIR").expect("cargo says where the manifest is");
    let media = Path::new(&manifest).join("..");
    let mut names = vec!["Cargo.toml".to_owned(), "Cargo.lock".to_owned()];
    for name in CRATES {
        names.push(format!("{name}/Cargo.toml"));
        if media.join(name).join("build.rs").exists() {
            names.push(format!("{name}/build.rs"));
        }
        rust_files(&media, Path::new(name).join("src"), &mut names);
        // A directory here means every file in it, new ones too.
        println!(
            "cargo::rerun-if-changed={}",
            media.join(name).join("src").display()
        );
    }
    names.sort();
    let mut digest = Sha256::new();
    for name in &names {
        let path = media.join(name);
        println!("cargo::rerun-if-changed={}", path.display());
        let content = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        digest.update(name);
        digest.update([0]);
        digest.update((content.len() as u64).to_be_bytes());
        digest.update(content);
    }
    let hex: String = digest
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    println!("cargo::rustc-env=SOURCE_DIGEST={hex}");
}

/// Adds every Rust file under `folder`, named from `media` with slashes.
fn rust_files(media: &Path, folder: PathBuf, names: &mut Vec<String>) {
    let path = media.join(&folder);
    let entries = fs::read_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    for entry in entries {
        let entry = entry.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let name = folder.join(entry.file_name());
        if entry.path().is_dir() {
            rust_files(media, name, names);
        } else if name.extension().is_some_and(|extension| extension == "rs") {
            names.push(name.to_string_lossy().into_owned());
        }
    }
}
