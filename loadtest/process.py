"""What a process costs: CPU time in nanoseconds and resident memory, read from /proc for any server."""

import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Usage:
    """Totals since the process began, at one moment."""

    cpu_ns: int
    rss_bytes: int
    taken_at: float


def usage(pid: int) -> Usage:
    """CPU of all threads, ended ones too, and resident memory; `ProcessLookupError` when it is gone.

    The scheduler's own clock is exact where the kernel keeps it; threads that ended are only in the coarser tick
    counts, so the greater of both is taken.
    """
    folder = Path(f"/proc/{pid}")
    if not folder.exists():
        raise ProcessLookupError(f"no process {pid}")
    exact = 0
    for task in (folder / "task").iterdir():
        try:
            exact += int((task / "schedstat").read_text().split()[0])
        except (OSError, ValueError, IndexError):
            continue
    fields = (folder / "stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    coarse = ticks * 10_000_000
    resident = int((folder / "statm").read_text().split()[1]) * 4096
    return Usage(max(exact, coarse - 20_000_000), resident, time.monotonic())


def machine_load() -> str:
    """How busy the machine is, to be quoted with any figure."""
    one, five, _ = Path("/proc/loadavg").read_text().split()[:3]
    return f"load average {one} (1 min), {five} (5 min)"
