"""Resolve the Python lock files: one per service, for image builds, for development. No index address is written."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UV = ROOT / ".venv" / "bin" / "uv"
OURS = (
    "chassis",
    "contracts",
    "mediacore",
    "placement",
    "signaling",
    "sfu",
    "webhook",
    "roomwright",
    "loadtest",
)
MANIFESTS = {
    "placement": ("services/placement", "chassis", "proto"),
    "signaling": ("services/signaling", "chassis", "proto"),
    "sfu": ("services/sfu", "chassis", "proto"),
    "webhook": ("services/webhook", "chassis", "proto"),
}
ALONE = ("build", "stand-ins", "old-python-sdk", "agents")
EVERYTHING = (
    "chassis",
    "proto",
    "services/placement",
    "services/signaling",
    "services/sfu",
    "services/webhook",
    "roomwright",
    "loadtest",
)


def main() -> None:
    """Write requirements/*.txt from the pyproject.toml files."""
    uv = sys.argv[1] if len(sys.argv) > 1 else str(UV)
    for name, members in MANIFESTS.items():
        compile_lock(uv, name, [f"{member}/pyproject.toml" for member in members])
    for name in ALONE:
        compile_lock(uv, name, [f"requirements/{name}.in"])
    manifests = [f"{member}/pyproject.toml" for member in EVERYTHING]
    compile_lock(uv, "dev", [*manifests, "requirements/dev.in"])


def compile_lock(uv: str, name: str, sources: list[str]) -> None:
    """Resolve the given manifests, without our own packages, into one hash-locked file."""
    command = [uv, "pip", "compile", "--quiet", "--generate-hashes", "--universal", "--no-annotate"]
    command += ["--python-version", "3.11", "--custom-compile-command", "make lock"]
    for package in OURS:
        command += ["--no-emit-package", package]
    command += ["--output-file", f"requirements/{name}.txt", *sources]
    subprocess.run(command, cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
