"""Refuses a compiled module that was built from other Rust sources than those lying next to it.

Not a build system: it only compares one digest, so that nobody debugs yesterday's engine. In an installed wheel there
are no sources and nothing is compared. `MEDIACORE_STALE=allow` turns the error off, for bisecting.
"""

import hashlib
import os
from pathlib import Path

CRATES = ("binding", "core", "driver", "sdp")
"""The crates the module is made of, as in binding/build.rs, which computes the same digest."""


class StaleBuildError(ImportError):
    """The compiled module is not what the sources say."""


def source_digest(media: Path) -> str | None:
    """SHA-256 over the names and contents of the module's Rust sources; None where there are none."""
    names = ["Cargo.toml", "Cargo.lock"]
    for crate in CRATES:
        names.append(f"{crate}/Cargo.toml")
        if (media / crate / "build.rs").exists():
            names.append(f"{crate}/build.rs")
        found = (media / crate / "src").rglob("*.rs")
        names.extend(path.relative_to(media).as_posix() for path in found)
    digest = hashlib.sha256()
    for name in sorted(names, key=str.encode):
        try:
            content = (media / name).read_bytes()
        except FileNotFoundError:
            return None
        digest.update(name.encode() + b"\0" + len(content).to_bytes(8, "big"))
        digest.update(content)
    return digest.hexdigest()


def check(built_from: str, media: Path | None = None) -> None:
    """Raises StaleBuildError when sources are there and differ from those the module was built from."""
    if os.environ.get("MEDIACORE_STALE") == "allow":
        return
    media = Path(__file__).resolve().parents[2] if media is None else media
    present = source_digest(media)
    if present is not None and present != built_from:
        raise StaleBuildError(
            f"mediacore was built from other Rust sources than those in {media}: run make setup"
        )
