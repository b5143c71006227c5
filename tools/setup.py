"""Make a fresh clone ready to run: what is missing is installed and built, what is up to date is left alone.

Called by every make target that needs the environment. Uses nothing but the standard library, and any Python from
3.7 on can at least say what is wrong. Steps are stamped with a digest of their inputs under `.roomwright/`.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STATE = ROOT / ".roomwright"
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
UV_VERSION = "0.13.9"
WORKSPACE = (
    "chassis",
    "proto",
    "services/placement",
    "services/signaling",
    "services/sfu",
    "services/webhook",
    "roomwright",
)
NATIVE = ROOT / "media" / "python" / "mediacore" / "_native.abi3.so"

_NODE = "Node.js 20 or newer (node and npm) is missing: install it from https://nodejs.org"
NEEDED = {
    "cargo": "Rust (cargo) is missing: install it with rustup from https://rustup.rs",
    "node": _NODE,
    "npm": _NODE,
    "cc": "a C compiler (cc) is missing: on Debian and Ubuntu, `apt-get install build-essential`",
}
APART = ("old-python-sdk", "agents")
"""Packages for tests in directories of their own, each with a lock in requirements."""
NEEDED_BY = {"cargo": "media", "cc": "media", "node": "web", "npm": "web"}
"""The step that each tool is for."""


def main() -> None:
    """Perform the steps asked for, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = [name for name, _ in STEPS]
    parser.add_argument("--only", choices=names, action="append", help="just these steps")
    chosen = parser.parse_args().only
    check_tools(chosen)
    STATE.mkdir(exist_ok=True)
    for name, step in STEPS:
        if chosen is None or name in chosen:
            step()


def check_tools(steps: list[str] | None = None) -> None:
    """End with one line for each missing build tool of the steps (None: all) that says what to install."""
    if sys.version_info < (3, 11):  # noqa: UP036  # any Python may be asked to run this
        version = sys.version.split()[0]
        fail(f"Python 3.11 or newer is needed, this is {version}: run `make PYTHON=python3.12 ...`")
    needed = {
        tool: advice for tool, advice in NEEDED.items() if steps is None or NEEDED_BY[tool] in steps
    }
    missing = [advice for tool, advice in needed.items() if shutil.which(tool) is None]
    if missing:
        # One line for each tool; node and npm come together.
        fail("\nsetup: ".join(dict.fromkeys(missing)))


def python_step() -> None:
    """Make the virtual environment with the locked packages and this workspace in it."""
    lock = ROOT / "requirements" / "dev.txt"
    manifests = [ROOT / member / "pyproject.toml" for member in WORKSPACE]
    stamp = Stamp("python", [lock, *manifests, Path(__file__)], extra=sys.version)
    if stamp.fresh() and PYTHON.exists():
        return
    with progress("Python packages"):
        if not PYTHON.exists():
            call(sys.executable, "-m", "venv", str(VENV))
        if not (VENV / "bin" / "uv").exists():
            call(str(PYTHON), "-m", "pip", "install", "-q", f"uv=={UV_VERSION}", quiet=True)
        # The machine's own certificates: many a company's network speaks through its own authority.
        uv = [str(VENV / "bin" / "uv"), "--system-certs", "pip", "install"]
        install = [*uv, "--python", str(PYTHON), "--quiet"]
        call(*install, "--require-hashes", "-r", str(lock))
        (ROOT / "proto" / "gen" / "contracts").mkdir(parents=True, exist_ok=True)
        (ROOT / "proto" / "gen" / "contracts" / "__init__.py").touch()
        members = [item for member in WORKSPACE for item in ("-e", str(ROOT / member))]
        call(*install, "--no-deps", *members)
        # The compiled module lies beside its Python package; a .pth makes that package importable.
        site = next((VENV / "lib").glob("python3.*")) / "site-packages"
        (site / "mediacore-source.pth").write_text(f"{ROOT / 'media' / 'python'}\n")
    stamp.write()


def contracts_step() -> None:
    """Make the Python types of proto/contracts, which are generated and never committed."""
    protos = sorted((ROOT / "proto" / "contracts").rglob("*.proto"))
    stamp = Stamp("contracts", [*protos, ROOT / "requirements" / "dev.txt"])
    out = ROOT / "proto" / "gen"
    if stamp.fresh() and (out / "contracts" / "py.typed").exists():
        return
    with progress("contract types"):
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        kinds = ("python", "grpc_python", "mypy", "mypy_grpc")
        outputs = [f"--{kind}_out={out}" for kind in kinds]
        path = f"{VENV / 'bin'}{os.pathsep}{os.environ['PATH']}"
        protoc = [str(PYTHON), "-m", "grpc_tools.protoc", "-I", str(ROOT / "proto")]
        call(*protoc, *outputs, *map(str, protos), env={**os.environ, "PATH": path}, quiet=True)
        package = out / "contracts"
        for folder in [package, *(path for path in package.rglob("*") if path.is_dir())]:
            (folder / "__init__.py").touch()
        (package / "py.typed").touch()
    stamp.write()


def media_step() -> None:
    """Build the Rust module for release and put it beside its Python package."""
    media = ROOT / "media"
    crates = ("core", "sdp", "driver", "binding", "netem")
    sources = [path for crate in crates for path in (media / crate).rglob("*.rs")]
    manifests = [media / crate / "Cargo.toml" for crate in crates]
    pins = [media / "Cargo.toml", media / "Cargo.lock", ROOT / "rust-toolchain.toml"]
    stamp = Stamp("media", [*sorted(sources), *manifests, *pins])
    if stamp.fresh() and NATIVE.exists():
        return
    with progress("media core (Rust; two to three minutes the first time)"):
        build = ["cargo", "build", "--release", "--locked", "-p", "mediacore-binding"]
        environment = {**os.environ, "PYO3_PYTHON": str(PYTHON)}
        call(*build, "--features", "pyo3/extension-module", cwd=media, env=environment)
        target = Path(os.environ.get("CARGO_TARGET_DIR", media / "target"))
        # Replaced, not overwritten: a running process keeps the old file mapped.
        fresh = NATIVE.with_suffix(".new")
        shutil.copy2(target / "release" / "lib_native.so", fresh)
        fresh.replace(NATIVE)
    stamp.write()


def web_step() -> None:
    """Bundle the page: livekit-client with the demo and the browser tests' harness."""
    web = ROOT / "web"
    sources = sorted(path for path in (web / "src").rglob("*") if path.is_file())
    stamp = Stamp("web", [web / "package.json", web / "package-lock.json", *sources])
    if stamp.fresh() and (web / "dist").exists():
        return
    with progress("web page"):
        call("npm", "ci", "--no-audit", "--no-fund", "--loglevel=error", cwd=web, quiet=True)
        call("npm", "run", "--silent", "build", cwd=web, quiet=True)
    stamp.write()


def clients_step() -> None:
    """Install what tests run beside the newest Python and web SDKs: Node's, old releases, the agents framework."""
    clients = ROOT / "tests" / "clients"
    # Never in the environment itself: there the newest release of the Python SDK lives.
    alone = {STATE / name: ROOT / "requirements" / f"{name}.txt" for name in APART}
    manifests = [clients / "package.json", clients / "package-lock.json"]
    stamp = Stamp("clients", [*alone.values(), *manifests], extra=sys.version)
    installed = (clients / "node_modules", clients / "dist", *alone)
    if stamp.fresh() and all(place.exists() for place in installed):
        return
    with progress("SDKs for tests"):
        call("npm", "ci", "--no-audit", "--no-fund", "--loglevel=error", cwd=clients, quiet=True)
        call("npm", "run", "--silent", "build", cwd=clients, quiet=True)
        uv = [str(VENV / "bin" / "uv"), "--system-certs", "pip", "install"]
        install = [*uv, "--python", str(PYTHON), "--quiet", "--require-hashes"]
        for directory, lock in alone.items():
            shutil.rmtree(directory, ignore_errors=True)
            call(*install, "--target", str(directory), "-r", str(lock))
    stamp.write()


STEPS = (
    ("python", python_step),
    ("contracts", contracts_step),
    ("media", media_step),
    ("web", web_step),
    ("clients", clients_step),
)


class Stamp:
    """Remembers the inputs a step was last done for."""

    def __init__(self, name: str, inputs: list[Path], extra: str = "") -> None:
        digest = hashlib.sha256(extra.encode())
        for path in inputs:
            digest.update(str(path.relative_to(ROOT)).encode())
            digest.update(path.read_bytes() if path.exists() else b"missing")
        self._digest = digest.hexdigest()
        self._file = STATE / f"{name}.stamp"

    def fresh(self) -> bool:
        """Nothing changed since the step was done."""
        return self._file.exists() and self._file.read_text() == self._digest

    def write(self) -> None:
        """The step is done."""
        self._file.write_text(self._digest)


class progress:  # reads as a statement where it is used
    """Says what is being done, and how long it took."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._begin = time.monotonic()

    def __enter__(self) -> None:
        print(f"==> {self._what} ...", flush=True)

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            print(f"    {time.monotonic() - self._begin:.0f} s", flush=True)


def call(
    *command: str, cwd: Path = ROOT, env: dict[str, str] | None = None, quiet: bool = False
) -> None:
    """Run a command; end with its output and one line when it fails."""
    output = subprocess.PIPE if quiet else None
    done = subprocess.run(
        command, cwd=cwd, env=env, stdout=output, stderr=subprocess.STDOUT if quiet else None
    )
    if done.returncode != 0:
        if done.stdout:
            sys.stderr.buffer.write(done.stdout)
        fail(f"failed: {' '.join(command[:6])} (in {cwd})")


def fail(message: str) -> None:
    """One line for the person at the terminal, and a failing exit."""
    sys.exit(f"setup: {message}")


if __name__ == "__main__":
    main()
