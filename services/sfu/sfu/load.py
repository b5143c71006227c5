"""How busy this process and its machine are.

The process's own share counts for what one node can still take: a machine's load average would
blame it for its neighbors, and would not see a container's quota.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
SMOOTHING_S = 3.0  # a burst of joins is not a load


def usable_cores(cgroup: Path = CGROUP) -> float:
    """CPUs this process may use: its affinity, or its container's quota where that is less."""
    cores = float(len(os.sched_getaffinity(0)))
    quota = _quota(cgroup)
    return cores if quota is None else min(cores, quota)


def _quota(cgroup: Path) -> float | None:
    try:  # version 2: "max 100000" or "150000 100000"
        limit, period = (cgroup / "cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        pass
    try:  # version 1: -1 is none
        limit_us = int((cgroup / "cpu/cpu.cfs_quota_us").read_text())
        period_us = int((cgroup / "cpu/cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return limit_us / period_us if limit_us > 0 and period_us > 0 else None


def system_load() -> float:
    """One-minute load average over the machine's cores; 1: as much to do as there are cores."""
    return os.getloadavg()[0] / (os.cpu_count() or 1)


class CpuLoad:
    """This process's CPU time over what it may use, 0..1, averaged over a few seconds."""

    def __init__(
        self,
        cores: float,
        cpu_time: Callable[[], float] = time.process_time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cores = cores
        self._cpu_time = cpu_time
        self._clock = clock
        self._seen = (clock(), cpu_time())
        self._load = 0.0

    def read(self) -> float:
        """The load now; to be read about every second."""
        now, used = self._clock(), self._cpu_time()
        elapsed, spent = now - self._seen[0], used - self._seen[1]
        if elapsed >= 0.1:  # CPU time comes in ticks: over less it says nothing
            self._seen = (now, used)
            latest = min(1.0, max(0.0, spent / elapsed / self._cores))
            weight = min(1.0, elapsed / SMOOTHING_S)
            self._load += (latest - self._load) * weight
        return self._load
