"""`tools/setup.py` on machines that lack something."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

SETUP = Path(__file__).parents[3] / "tools" / "setup.py"
TOOLS = ("cargo", "node", "npm", "cc")


def run(path: Path, *before: str) -> subprocess.CompletedProcess[str]:
    """The checks of setup.py alone, with nothing on PATH but `path`."""
    program = f"import sys, runpy; {'; '.join(before) or 'pass'}; " + (
        f"runpy.run_path({os.fspath(SETUP)!r})['check_tools']()"
    )
    return subprocess.run(
        (sys.executable, "-I", "-c", program),
        env={"PATH": os.fspath(path)},
        capture_output=True,
        text=True,
        check=False,
    )


def with_tools(path: Path, *names: str) -> Path:
    for name in names:
        (path / name).write_text("#!/bin/sh\n")
        (path / name).chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("tool", "advice"),
    [
        ("cargo", "install it with rustup"),
        ("node", "install it from https://nodejs.org"),
        ("npm", "install it from https://nodejs.org"),
        ("cc", "apt-get install build-essential"),
    ],
)
def test_missing_tool_is_one_line_that_says_what_to_install(
    tmp_path: Path, tool: str, advice: str
) -> None:
    done = run(with_tools(tmp_path, *(name for name in TOOLS if name != tool)))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("setup: ")
    assert advice in line


def test_everything_missing_is_a_line_each(tmp_path: Path) -> None:
    lines = run(tmp_path).stderr.splitlines()
    assert [line.partition(" (")[0] for line in lines] == [
        "setup: Rust",
        "setup: Node.js 20 or newer",
        "setup: a C compiler",
    ]


def test_nothing_is_said_when_all_is_there(tmp_path: Path) -> None:
    done = run(with_tools(tmp_path, *TOOLS))
    assert (done.returncode, done.stderr) == (0, "")


def test_old_python_is_told_before_anything_else(tmp_path: Path) -> None:
    done = run(tmp_path, "sys.version_info = (3, 9, 18)", "sys.version = '3.9.18 (main)'")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("setup: Python 3.11 or newer is needed, this is 3.9.18:")


def test_pythons_that_it_refuses_can_read_it() -> None:
    source = SETUP.read_text()
    ast.parse(source, feature_version=(3, 7))
    # Without this, they would stumble over the annotations first.
    assert "\nfrom __future__ import annotations\n" in source
