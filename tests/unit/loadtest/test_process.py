"""What a process and its children cost, from /proc."""

import os
import subprocess
import sys
import time

import pytest

from loadtest.process import usage

BURN = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"


def test_time_burnt_here_is_counted() -> None:
    before = usage(os.getpid())
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass
    after = usage(os.getpid())
    assert 0.08e9 <= after.cpu_ns - before.cpu_ns <= 0.5e9
    assert after.taken_at > before.taken_at


def test_a_child_counts_with_its_parent() -> None:
    before = usage(os.getpid())
    child = subprocess.Popen(
        [sys.executable, "-c", BURN + "print('x', flush=True)\ninput()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert child.stdout is not None
        child.stdout.readline()
        after = usage(os.getpid())
    finally:
        child.communicate(b"\n")
    assert after.cpu_ns - before.cpu_ns >= 0.28e9
    assert after.rss_bytes - before.rss_bytes >= 2**20


def test_a_process_that_is_gone_is_an_error() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    with pytest.raises(ProcessLookupError):
        usage(child.pid)
