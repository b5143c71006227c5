"""When the latest value of each key is written: at most once per key in a window.

What changes often is written once with all its changes. Values are no concern of this module: they
are asked for when they are written.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

WINDOW = 0.5
"""Seconds from a change to its write, and at least between two writes of one key."""

K = TypeVar("K", bound=Hashable)


class Pace(Generic[K]):
    """The keys that changed and those being written. Times are monotonic seconds."""

    def __init__(self) -> None:
        # All wait for the same time, so that the order of changes is the order of writes.
        self._due: dict[K, float] = {}
        self._writing: dict[K, bool] = {}  # whether it changed again meanwhile

    @property
    def waiting(self) -> int:
        """Keys whose latest value is not written."""
        return len(self._due) + len(self._writing)

    def next_timeout(self) -> float | None:
        """When a key is due, on the clock of `now`."""
        return next(iter(self._due.values()), None)

    def change(self, key: K, now: float) -> None:
        """The key has a new value."""
        if key in self._writing:
            self._writing[key] = True
        else:
            self._due.setdefault(key, now + WINDOW)

    def take(self, now: float, limit: int) -> list[K]:
        """Up to `limit` keys that are to be written now; each is to be `done` or `failed`."""
        taken: list[K] = []
        for key, at in self._due.items():
            if at > now or len(taken) >= limit:
                break
            taken.append(key)
        for key in taken:
            del self._due[key]
            self._writing[key] = False
        return taken

    def hurry(self) -> None:
        """What waits is due at once."""
        self._due = dict.fromkeys(self._due, 0.0)

    def done(self, key: K, now: float) -> None:
        """The value it had when it was taken is written."""
        if self._writing.pop(key):
            self.change(key, now)

    def failed(self, key: K, now: float) -> None:
        """It is not written, or nobody knows: its latest value is tried again."""
        del self._writing[key]
        self.change(key, now)
