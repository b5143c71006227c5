"""What a server costs: CPU time and resident memory of a process and its children, read from /proc for any server."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """Totals since the processes began, at one moment. Memory that processes share counts in each."""

    cpu_ns: int
    rss_bytes: int
    own_rss_bytes: int
    """Without the children's."""
    taken_at: float


def usage(pid: int) -> Usage:
    """What a process and its living descendants used; `ProcessLookupError` when it is gone."""
    cpu_ns, own_rss_bytes = _usage_of_one(pid)
    rss_bytes = own_rss_bytes
    for child in descendants(pid):
        try:
            cpu, rss = _usage_of_one(child)
        except ProcessLookupError:
            continue
        cpu_ns += cpu
        rss_bytes += rss
    return Usage(cpu_ns, rss_bytes, own_rss_bytes, time.monotonic())


def machine_load() -> str:
    """How busy the machine is, to be quoted with any figure."""
    one, five, _ = Path("/proc/loadavg").read_text().split()[:3]
    return f"load average {one} (1 min), {five} (5 min)"


def _usage_of_one(pid: int) -> tuple[int, int]:
    """CPU in ns of all threads, ended ones too, and resident bytes.

    The scheduler's own clock is exact where the kernel keeps it; threads that ended are only in the coarser tick
    counts, so the greater of both is taken.
    """
    folder = Path(f"/proc/{pid}")
    exact = 0
    for task in _threads(pid):
        try:
            exact += int((task / "schedstat").read_text().split()[0])
        except (OSError, ValueError, IndexError):
            continue
    try:
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        resident = int((folder / "statm").read_text().split()[1]) * PAGE_BYTES
    except OSError:
        raise ProcessLookupError(f"no process {pid}") from None
    coarse = (int(fields[11]) + int(fields[12])) * TICK_NS
    return max(exact, coarse - 2 * TICK_NS), resident


def descendants(pid: int) -> Iterator[int]:
    """Ids of the living children of a process, and of theirs."""
    for task in _threads(pid):
        try:
            children = (task / "children").read_text().split()
        except OSError:
            continue
        for child in map(int, children):
            yield child
            yield from descendants(child)


def _threads(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []
