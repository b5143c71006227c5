"""Fuzz every target of media/fuzz for a while, one after another, and say which crashed.

What a run discovers stays under media/fuzz/target/found and makes the next run start further on; the seeds in
media/fuzz/corpus are chosen by hand. No sanitizer: the fuzzed crates deny unsafe code, and without one a run is many
times faster.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

FUZZ = Path(__file__).resolve().parent.parent / "media" / "fuzz"
CARGO = ("cargo", "+nightly", "fuzz")
NEEDED = (
    (("cargo", "+nightly", "--version"), "rustup toolchain install nightly --profile minimal"),
    ((*CARGO, "--version"), "cargo install cargo-fuzz --locked"),
)


def main() -> None:
    """Build and run; exit 1 with the names of targets that crashed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default 60)")
    targets = sorted(path.stem for path in (FUZZ / "fuzz_targets").glob("*.rs"))
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(targets)}")
    options = parser.parse_args()
    for name in options.targets:
        if name not in targets:
            parser.error(f"no target {name!r}; there are {', '.join(targets)}")
    check_tools()
    build = subprocess.run((*CARGO, "build", "-s", "none"), cwd=FUZZ, check=False)
    if build.returncode != 0:
        sys.exit("fuzz: the targets do not build")
    crashed = [name for name in options.targets or targets if not survives(name, options.seconds)]
    if crashed:
        sys.exit(f"fuzz: crashed: {', '.join(crashed)}; inputs are in {FUZZ / 'artifacts'}")


def check_tools() -> None:
    """End with one line for each tool that is missing."""
    missing = []
    for command, remedy in NEEDED:
        try:
            works = subprocess.run(command, capture_output=True, check=False).returncode == 0
        except OSError:
            works = False
        if not works:
            missing.append(f"fuzz: `{' '.join(command[:-1])}` does not work: {remedy}")
    if missing:
        sys.exit("\n".join(missing))


def survives(target: str, seconds: int) -> bool:
    """Run one target; its last lines are shown when it crashes."""
    found = FUZZ / "target" / "found" / target
    found.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        (
            *(*CARGO, "run", "-s", "none", target, os.fspath(found), f"corpus/{target}", "--"),
            *(f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=2048"),
        ),
        cwd=FUZZ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    lines = done.stderr.splitlines()
    runs = next((line for line in reversed(lines) if line.startswith("Done ")), "crashed")
    print(f"    {target:16} {runs}", flush=True)
    if done.returncode != 0:
        print("\n".join(lines[-40:]), flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    main()
