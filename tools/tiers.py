"""The test tiers: check, test, soak. Runs each part, prints what it cost, and stops at nothing until the end.

The last lines are the test runner's own, so that whoever reads the output sees the counts.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".venv" / "bin"
MEDIA = ROOT / "media"
PYTHON_PACKAGES = (
    "chassis/chassis",
    "services/placement/placement",
    "services/signaling/signaling",
    "services/sfu/sfu",
    "services/webhook/webhook",
    "roomwright/roomwright",
    "loadtest",
    "tools",
)


@dataclass(frozen=True, slots=True)
class Part:
    """One command of a tier."""

    name: str
    command: Sequence[str]
    cwd: Path = ROOT


def pytest(name: str, *folders: str) -> Part:
    """A part that runs folders of tests."""
    return Part(
        name, (str(BIN / "python"), "-m", "pytest", "-q", "-p", "no:cacheprovider", *folders)
    )


CHECK = (
    Part("ruff", (str(BIN / "ruff"), "check", ".")),
    Part("ruff format", (str(BIN / "ruff"), "format", "--check", ".")),
    Part("mypy", (str(BIN / "mypy"), *PYTHON_PACKAGES)),
    Part("import contracts", (str(BIN / "lint-imports"),)),
    Part("buf", (str(BIN / "buf"), "lint"), ROOT / "proto"),
    Part("page types", ("npm", "run", "--silent", "check"), ROOT / "web"),
    Part("cargo fmt", ("cargo", "fmt", "--check"), MEDIA),
    Part(
        "clippy",
        (
            "cargo",
            "clippy",
            "-q",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "-D",
            "warnings",
        ),
        MEDIA,
    ),
    Part("cargo test", ("cargo", "test", "-q", "--workspace", "--locked"), MEDIA),
    Part("stubs", (str(BIN / "python"), "-m", "mypy.stubtest", "mediacore._native"), ROOT),
)
UNIT = (pytest("unit", "tests/unit"),)
REAL = (
    pytest(
        "unit, integration, conformance", "tests/unit", "tests/integration", "tests/conformance"
    ),
)
FUZZ_SECONDS = os.environ.get("SECONDS", "60")
SOAK = (
    Part("fuzzing", (str(BIN / "python"), "tools/fuzz.py", "--seconds", FUZZ_SECONDS)),
    Part("benchmark", (str(BIN / "python"), "-m", "loadtest.bench")),
)

TIERS = {"check": (*CHECK, *UNIT), "test": (*CHECK, *REAL), "soak": SOAK}


def main() -> None:
    """Run the tier named on the command line; exit 1 when any part failed."""
    tier = TIERS[sys.argv[1]]
    *first, last = tier
    costs = [run(part) for part in first]
    report(costs)
    costs.append(run(last))
    if not all(passed for _, _, passed in costs):
        failed = ", ".join(name for name, _, passed in costs if not passed)
        sys.exit(f"failed: {failed}")


def run(part: Part) -> tuple[str, float, bool]:
    """Run one part with its output shown; its name, seconds and success."""
    print(f"==> {part.name}", flush=True)
    begin = time.monotonic()
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(part.command, cwd=part.cwd, env=environment, check=False)
    seconds = time.monotonic() - begin
    return part.name, seconds, done.returncode == 0


def report(costs: Sequence[tuple[str, float, bool]]) -> None:
    """What each part cost."""
    for name, seconds, passed in costs:
        print(f"    {seconds:6.1f} s  {'ok    ' if passed else 'FAILED'}  {name}", flush=True)


if __name__ == "__main__":
    main()
