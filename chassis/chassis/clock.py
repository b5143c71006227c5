"""Time as a value to pass in: a monotonic clock for durations and a wall clock for timestamps."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where a service reads the time, and nowhere else."""

    def now(self) -> float:
        """Monotonic seconds; only differences mean anything."""
        ...

    def wall_ms(self) -> int:
        """Unix time in milliseconds; for timestamps people and clients see, never for timeouts."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def wall_ms(self) -> int:
        """Unix milliseconds."""
        return time.time_ns() // 1_000_000


class ManualClock:
    """A clock for tests: it stands still until told to advance."""

    def __init__(self, now: float = 1000.0, wall_ms: int = 1_700_000_000_000) -> None:
        self._now = now
        self._wall_ms = wall_ms

    def now(self) -> float:
        """Monotonic seconds."""
        return self._now

    def wall_ms(self) -> int:
        """Unix milliseconds."""
        return self._wall_ms

    def advance(self, seconds: float) -> None:
        """Move both clocks forward."""
        self._now += seconds
        self._wall_ms += round(seconds * 1000)
